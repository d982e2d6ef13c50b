//! Comparison of two decisions on one request: by the rules in force, and by the candidate rules.

use super::judge::{Code, Decision, Status};

/// Difference of the candidate's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonOutcome {
    /// Both let the request pass, or both deny it.
    Same,
    /// The candidate denies a request that passes.
    Stricter,
    /// The candidate lets a denied request pass.
    Looser,
}

impl ComparisonOutcome {
    /// Name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Stricter => "stricter",
            Self::Looser => "looser",
        }
    }
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'d> {
    /// Difference.
    pub outcome: ComparisonOutcome,
    /// Binding status of the decision that denies; `None` if both are the same.
    pub denial: Option<&'d Status<'d>>,
    /// Binding status of the decision that passes; `None` if both are the same, or no limit applied.
    pub passing: Option<&'d Status<'d>>,
}

/// Compares two decisions by their evaluated codes, so that the global shadow mode, in which every request passes,
/// hides no difference.
pub fn compare<'d>(live: &'d Decision<'_>, other: &'d Decision<'_>) -> Comparison<'d> {
    let (of_live, of_other): (Option<&'d Status<'d>>, Option<&'d Status<'d>>) =
        (live.reported_status(), other.reported_status());
    let (outcome, denial, passing) = match (live.evaluated_code(), other.evaluated_code()) {
        (Code::Ok, Code::OverLimit) => (ComparisonOutcome::Stricter, of_other, of_live),
        (Code::OverLimit, Code::Ok) => (ComparisonOutcome::Looser, of_live, of_other),
        (Code::Ok, Code::Ok) | (Code::OverLimit, Code::OverLimit) => (ComparisonOutcome::Same, None, None),
    };
    Comparison { outcome, denial, passing }
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;

    fn decision(code: Code, shadowed: bool, remaining: u32) -> Decision<'static> {
        let status = Status {
            code,
            rule: None,
            limit: None,
            name: None,
            locked_out: false,
            shadowed: false,
            larger_than_limit: false,
            budget: None,
            overridden: None,
            remaining,
            reset: None,
            counted: None,
        };
        let statuses = SmallVec::from_iter([status]);
        Decision { code, shadowed, domain_known: true, unmatched: 0, statuses, binding: Some(0), hold: None }
    }

    #[test]
    fn differing_decisions_are_reported_with_the_side_that_denies() {
        let passes = || decision(Code::Ok, false, 3);
        let denies = || decision(Code::OverLimit, false, 0);
        let shadowed = || decision(Code::Ok, true, 0);
        for (live, other, expected) in [
            (passes(), passes(), (ComparisonOutcome::Same, None, None)),
            (denies(), denies(), (ComparisonOutcome::Same, None, None)),
            (shadowed(), denies(), (ComparisonOutcome::Same, None, None)),
            (shadowed(), shadowed(), (ComparisonOutcome::Same, None, None)),
            (passes(), denies(), (ComparisonOutcome::Stricter, Some(0), Some(3))),
            (passes(), shadowed(), (ComparisonOutcome::Stricter, Some(0), Some(3))),
            (denies(), passes(), (ComparisonOutcome::Looser, Some(0), Some(3))),
            (shadowed(), passes(), (ComparisonOutcome::Looser, Some(0), Some(3))),
        ] {
            let Comparison { outcome, denial, passing } = compare(&live, &other);
            let remaining = |status: Option<&Status<'_>>| status.map(|status| status.remaining);
            assert_eq!((outcome, remaining(denial), remaining(passing)), expected, "{live:?} {other:?}");
        }
    }

    #[test]
    fn the_passing_side_has_no_status_if_no_limit_applied() {
        let unlimited = Decision { binding: None, ..decision(Code::Ok, false, 0) };
        let denies = decision(Code::OverLimit, false, 0);
        let comparison = compare(&denies, &unlimited);
        assert!(comparison.denial.is_some() && comparison.passing.is_none());
    }
}
