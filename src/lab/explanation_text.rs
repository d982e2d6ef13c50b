//! Explanations as text.

use std::fmt;

use super::explained_limit::{MAX_TEXT_BYTES, seconds_text};
use super::explanation::{
    BudgetEffect, ExplainedCandidate, ExplainedDescriptor, ExplainedStatus, Explanation, Verdict,
};
use crate::engine::text::one_line_of_bytes;

/// Place of a rule in its source.
fn place(file: &str, line: u32, position: &Option<String>) -> String {
    match position {
        Some(position) => format!("{file}: {position}"),
        None => format!("{file}:{line}"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {}", one_line_of_bytes(self.domain.as_bytes(), MAX_TEXT_BYTES))?;
        self.descriptors.iter().try_for_each(|descriptor| write!(f, "\n{descriptor}"))?;
        match self.next {
            None => Ok(()),
            Some(verdict) => {
                let mut next = self.descriptors.iter().filter_map(|of| of.next.as_ref());
                let is_more = next.any(|next| next.hits > 1 || next.effect.is_some());
                let request = if is_more { "the request" } else { "one more hit" };
                let denied = if verdict == Verdict::Denied { "denied" } else { "allowed" };
                write!(f, "\n{request}: {denied}")
            }
        }
    }
}

impl fmt::Display for ExplainedDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |text: &str| one_line_of_bytes(text.as_bytes(), MAX_TEXT_BYTES);
        let pairs: Vec<_> =
            self.entries.iter().map(|(key, value)| format!("{}={}", line(key), line(value))).collect();
        write!(f, "descriptor {}", pairs.join(","))?;
        for level in &self.levels {
            write!(f, "\n  {}={}", line(&level.key), line(&level.value))?;
            if level.normalized != level.value {
                write!(f, "  normalized to {}", line(&level.normalized))?;
            }
            if level.counted != level.normalized {
                write!(f, "  counted as {}", line(&level.counted))?;
            }
            for ExplainedCandidate { name, file, line: number, position, reason, .. } in &level.candidates {
                let (place, reason) =
                    (place(file, *number, position), reason.as_deref().unwrap_or("applies"));
                write!(f, "\n    {}  {}  {reason}", line(&place), line(name))?;
            }
            if level.omitted > 0 {
                write!(f, "\n    and {} more", level.omitted)?;
            }
        }
        write!(f, "\n  {}", line(&self.outcome))?;
        if let Some(rule) = &self.rule {
            write!(f, " ({})", line(&place(&rule.file, rule.line, &rule.position)))?;
            rule.layer.iter().try_for_each(|layer| write!(f, ", layer {layer}"))?;
            // The charge mode has no effect on budgets and concurrency limits.
            if self.limits.iter().any(|limit| limit.budget.is_none() && !limit.is_concurrency()) {
                write!(f, ", charge {}", rule.charge)?;
            }
            if !self.limits.is_empty() && !rule.enforced {
                write!(f, ", not enforced")?;
            }
        }
        self.limits.iter().try_for_each(|limit| write!(f, "\n    {limit}"))?;
        self.next.iter().try_for_each(|next| write!(f, "\n    {next}"))
    }
}

impl ExplainedStatus {
    /// Subject of its verdict: `one more hit`, `5 more hits`, `a reservation of 2000`, `a settlement with 5`.
    pub fn subject(&self) -> String {
        match self.effect {
            Some(BudgetEffect::Reserve) => format!("a reservation of {}", self.hits),
            Some(BudgetEffect::Settle) => format!("a settlement with {}", self.hits),
            None if self.hits > 1 => format!("{} more hits", self.hits),
            None => "one more hit".to_owned(),
        }
    }
}

impl fmt::Display for ExplainedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reset, remaining) = (seconds_text(self.reset_secs), self.remaining);
        write!(f, "{}: ", self.subject())?;
        match (self.verdict, self.effect) {
            (_, Some(BudgetEffect::Settle)) => write!(f, "counted, and never denied"),
            (Verdict::Denied, _) if self.locked_out => write!(f, "denied, locked out for {reset}"),
            (Verdict::Denied, _) if self.held => write!(f, "denied because of what others hold"),
            // A smaller request may pass sooner than at the reset.
            (Verdict::Denied, effect) if self.hits > 1 || effect.is_some() => write!(f, "denied"),
            (Verdict::Denied, _) => write!(f, "denied for {reset}"),
            (Verdict::Allowed, _) if self.shadowed => write!(f, "over the limit, and not enforced"),
            (Verdict::Allowed, Some(_)) => write!(f, "allowed, {remaining} left before it"),
            (Verdict::Allowed, None) if self.hits > 1 => {
                write!(f, "allowed, {remaining} left before them")
            }
            (Verdict::Allowed, None) => write!(f, "allowed, {remaining} left before it"),
        }
    }
}
