//! Explanations as text.

use std::fmt;
use std::time::Duration;

use super::explanation::{
    ExplainedCandidate, ExplainedDescriptor, ExplainedLimit, ExplainedStatus, Explanation, MAX_TEXT_BYTES,
    Verdict,
};
use crate::engine::Algorithm;
use crate::engine::duration::ShortForm;
use crate::engine::text::one_line_of_bytes;

/// `5 per minute`, `100 per 15m`.
pub(super) fn limit_text(requests: u32, window_secs: u32) -> String {
    let unit = match window_secs {
        1 => "second".to_owned(),
        60 => "minute".to_owned(),
        3_600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        secs => ShortForm(secs.into()).to_string(),
    };
    format!("{requests} per {unit}")
}

/// Seconds as people read them: `0.25s`, `42s`, `5m 30s`.
fn seconds_text(secs: f64) -> String {
    if secs < 60.0 {
        let text = format!("{secs:.3}");
        return format!("{}s", text.trim_end_matches('0').trim_end_matches('.'));
    }
    ShortForm(Duration::try_from_secs_f64(secs.ceil()).unwrap_or_default().as_secs()).to_string()
}

/// `one more hit`, `5 more hits`.
fn hits_text(hits: u32) -> String {
    if hits > 1 { format!("{hits} more hits") } else { "one more hit".to_owned() }
}

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
                let hits =
                    self.descriptors.iter().filter_map(|of| of.next.as_ref()).map(|next| next.hits).max();
                let request = if hits > Some(1) { "the request".to_owned() } else { hits_text(1) };
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
            if !self.limits.is_empty() {
                write!(f, ", charge {}", rule.charge)?;
                write!(f, "{}", if rule.enforced { "" } else { ", not enforced" })?;
            }
        }
        self.limits.iter().try_for_each(|limit| write!(f, "\n    {limit}"))?;
        self.next.iter().try_for_each(|next| write!(f, "\n    {next}"))
    }
}

impl fmt::Display for ExplainedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, requests_per_unit, window_secs, algorithm, capacity, leased, .. } = self;
        let Self { counter, used, reset_secs, .. } = self;
        name.iter().try_for_each(|name| write!(f, "{name}: "))?;
        match algorithm == Algorithm::Concurrency.name() {
            true => write!(f, "{requests_per_unit} in flight, ttl {}", ShortForm(u64::from(*window_secs)))?,
            false => write!(f, "{}, {algorithm}", limit_text(*requests_per_unit, *window_secs))?,
        }
        if algorithm == (Algorithm::TokenBucket { burst: 0 }).name() {
            write!(f, ", burst {capacity}")?;
        }
        if *leased {
            f.write_str(", leased")?;
        }
        if let Some((used, reset)) = used.zip(*reset_secs) {
            write!(f, "; {used} of {capacity} used, reset in {}", seconds_text(reset))?;
        }
        write!(f, "; counter {}", one_line_of_bytes(counter.as_bytes(), MAX_TEXT_BYTES))
    }
}

impl fmt::Display for ExplainedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reset = seconds_text(self.reset_secs);
        write!(f, "{}: ", hits_text(self.hits))?;
        match self.verdict {
            Verdict::Denied if self.locked_out => write!(f, "denied, locked out for {reset}"),
            // A smaller request may pass sooner than at the reset.
            Verdict::Denied if self.hits > 1 => write!(f, "denied"),
            Verdict::Denied => write!(f, "denied for {reset}"),
            Verdict::Allowed if self.shadowed => write!(f, "over the limit, and not enforced"),
            Verdict::Allowed if self.hits > 1 => write!(f, "allowed, {} left before them", self.remaining),
            Verdict::Allowed => write!(f, "allowed, {} left before it", self.remaining),
        }
    }
}
