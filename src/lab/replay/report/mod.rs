//! Reports of replays: the figures, and their forms.

mod comparison;
mod csv;
mod html;
mod rules;
mod text;
mod ticks;

use std::fmt;

use serde::Serialize;

pub(super) use self::comparison::Comparison;
pub use self::csv::csv_files;
pub use self::html::html;
pub(super) use self::rules::{RulesReport, offenders};

use super::timeline::Timeline;
use crate::engine::Timestamp;

/// Share of verdicts, in percent, from which on the mapping is taken to be wrong.
const MAX_DIFFERENT_PERCENT: f64 = 1.0;

/// Report of a replay. As JSON it has the fields of the replayed rules at its top.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Lines of all files.
    pub lines: u64,
    /// Lines that could not be read.
    pub bad: u64,
    /// Requests that were logged later than `--reorder` allows.
    pub late: u64,
    /// Requests replayed.
    pub requests: u64,
    /// Times of the first and last request.
    pub(super) from: Option<String>,
    pub(super) until: Option<String>,
    #[serde(flatten)]
    pub(super) rules: RulesReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<RulesReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) differences: Option<Differences>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comparison: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Identity>,
    /// The first bad lines.
    pub bad_lines: Vec<BadLine>,
    /// Requests of the proxy that the log does not show.
    pub notes: Vec<String>,
    /// Counters that gave way to others because the memory was full.
    pub evicted: u64,
    /// Share of hits that suggested limits may deny, in percent.
    pub(super) denied_percent: f64,
    pub(super) timeline: Timeline,
}

/// A line that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct BadLine {
    /// File.
    pub file: String,
    /// Number, from 1.
    pub line: u64,
    /// Mistake in it.
    pub reason: String,
    /// Its beginning, on one line.
    pub text: String,
}

/// Differences between the rules and those that they are compared with.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Differences {
    /// Requests that both deny.
    pub(super) both: u64,
    /// Requests that only the rules deny.
    pub(super) only_rules: u64,
    /// Requests that only the other rules deny.
    pub(super) only_against: u64,
}

/// Verdicts in the log beside those of the rules in force.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Identity {
    /// Requests whose verdict is in the log.
    pub(super) compared: u64,
    /// Requests that the log denied.
    denied_in_log: u64,
    /// Requests that only the log denied.
    only_log: u64,
    /// Requests that only the rules deny.
    only_rules: u64,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl Differences {
    pub(super) fn count(&mut self, denied: bool, against: bool) {
        self.both += u64::from(denied && against);
        self.only_rules += u64::from(denied && !against);
        self.only_against += u64::from(!denied && against);
    }
}

impl Identity {
    pub(super) fn count(&mut self, in_log: bool, by_rules: bool) {
        self.compared += 1;
        self.denied_in_log += u64::from(in_log);
        self.only_log += u64::from(in_log && !by_rules);
        self.only_rules += u64::from(!in_log && by_rules);
    }

    fn different_percent(self) -> f64 {
        (self.only_log + self.only_rules) as f64 * 100.0 / self.compared.max(1) as f64
    }
}

impl Report {
    /// Warning if the rules in force do not decide as the log says: then the mapping, or the rules, are not those that
    /// made the log. `None` if they do.
    pub fn identity_warning(&self) -> Option<String> {
        let Some(identity) = self.identity else {
            return Some(
                "the log does not show which requests were denied, so the mapping cannot be checked".into(),
            );
        };
        let percent = identity.different_percent();
        let Identity { compared, only_log, only_rules, .. } = identity;
        (percent > MAX_DIFFERENT_PERCENT).then(|| {
            format!(
                "{percent:.1} % of {compared} verdicts differ from those in the log ({only_log} denied only there, \
                 {only_rules} only here): the mapping or the rules in force are not those that made it"
            )
        })
    }
}

/// `at` in RFC 3339, to the second.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.').map_or(text.clone(), |(secs, _)| format!("{secs}Z"))
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in percent.
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1_000, 412_883_120].map(grouped), ["0", "999", "1,000", "412,883,120"]);
    }

    #[test]
    fn more_than_one_percent_of_other_verdicts_is_a_warning() {
        let identity = |only_log, only_rules| {
            let mut identity = Identity::default();
            (0..1_000).for_each(|at| identity.count(at < only_log, at >= 1_000 - only_rules));
            identity
        };
        assert!(identity(5, 5).different_percent() <= MAX_DIFFERENT_PERCENT);
        assert!(identity(6, 5).different_percent() > MAX_DIFFERENT_PERCENT);
    }
}
