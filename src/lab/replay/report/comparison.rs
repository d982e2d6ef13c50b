//! Comparison of both sets of rules: denials by rule and by key.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rules::{OffenderReport, RuleReport, RulesReport};

/// Denied hits of both sets of rules.
#[derive(Clone, Debug, Serialize)]
pub(in crate::lab::replay) struct Comparison {
    /// Rules that denied in one of the sets, or have other limits; those with the most denied hits first.
    pub(super) rules: Vec<ComparedRule>,
    /// Keys with the most denied hits in one of the sets.
    pub(super) offenders: Vec<ComparedOffender>,
}

/// A rule in both sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ComparedRule {
    pub(super) rule: String,
    /// Limits of the rule as text; `None` if no request reached the rule, or the set does not have it.
    pub(super) limits: Option<String>,
    pub(super) limits_against: Option<String>,
    pub(super) denied: u64,
    pub(super) denied_against: u64,
}

/// A key in both sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ComparedOffender {
    pub(super) rule: String,
    pub(super) key: String,
    pub(super) denied: u64,
    pub(super) denied_against: u64,
}

impl Comparison {
    /// Comparison of `rules` with `against`, each with all of its denied keys. The result has at most `top` keys.
    pub(in crate::lab::replay) fn of(
        rules: (&RulesReport, Vec<OffenderReport>),
        against: (&RulesReport, Vec<OffenderReport>),
        top: usize,
    ) -> Self {
        Self {
            rules: compared_rules(rules.0, against.0),
            offenders: compared_offenders(rules.1, against.1, top),
        }
    }
}

fn compared_rules(rules: &RulesReport, against: &RulesReport) -> Vec<ComparedRule> {
    let mut compared = BTreeMap::<&str, ComparedRule>::new();
    let limits = |rule: &RuleReport, before: &Option<String>| {
        let own = rule.limits.iter().map(|limit| &*limit.limit);
        let mut all: Vec<_> = before.iter().flat_map(|before| before.split(", ")).chain(own).collect();
        // Limits in requests share one rule name, and come in the order of their denials. Another order is no
        // difference.
        if before.is_some() {
            all.sort_unstable();
        }
        Some(all.join(", "))
    };
    for rule in &rules.rules {
        let row = compared.entry(&rule.rule).or_default();
        row.limits = limits(rule, &row.limits);
        row.denied += rule.denied;
    }
    for rule in &against.rules {
        let row = compared.entry(&rule.rule).or_default();
        row.limits_against = limits(rule, &row.limits_against);
        row.denied_against += rule.denied;
    }
    let named = |(rule, row): (&str, ComparedRule)| ComparedRule { rule: rule.to_owned(), ..row };
    let mut rows: Vec<_> = compared.into_iter().map(named).collect();
    rows.retain(|row| row.denied > 0 || row.denied_against > 0 || row.limits != row.limits_against);
    rows.sort_by_key(|row| std::cmp::Reverse(row.denied.max(row.denied_against)));
    rows
}

fn compared_offenders(
    rules: Vec<OffenderReport>,
    against: Vec<OffenderReport>,
    top: usize,
) -> Vec<ComparedOffender> {
    let mut compared = BTreeMap::<(String, String), [u64; 2]>::new();
    for (side, offenders) in [rules, against].into_iter().enumerate() {
        for OffenderReport { rule, key, denied, .. } in offenders {
            compared.entry((rule, key)).or_default()[side] += denied;
        }
    }
    let row = |((rule, key), [denied, denied_against]): ((String, String), [u64; 2])| ComparedOffender {
        rule,
        key,
        denied,
        denied_against,
    };
    let mut rows: Vec<_> = compared.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.denied.max(row.denied_against)));
    rows.truncate(top);
    rows
}

/// Change of a number, with its sign.
pub(super) fn change(before: u64, after: u64) -> String {
    let number = super::grouped(before.abs_diff(after));
    match after.cmp(&before) {
        std::cmp::Ordering::Less => format!("-{number}"),
        std::cmp::Ordering::Equal => number,
        std::cmp::Ordering::Greater => format!("+{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::LimitReport;
    use super::*;

    fn offender(key: &str, denied: u64) -> OffenderReport {
        OffenderReport { rule: "shop.user".to_owned(), key: key.to_owned(), hits: 100, denied }
    }

    fn rule(limit: &str, denied: u64) -> RuleReport {
        let limit = LimitReport { limit: limit.to_owned(), ..LimitReport::default() };
        RuleReport { rule: "shop.user".to_owned(), denied, limits: vec![limit], ..RuleReport::default() }
    }

    #[test]
    fn rules_of_one_name_share_a_row_which_is_left_out_without_a_difference() {
        let rules = |rules: &[RuleReport]| RulesReport { rules: rules.to_vec(), ..RulesReport::default() };
        let compared = |denied| {
            let new = rules(&[rule("9 per minute", denied), rule("1 per minute", 0)]);
            compared_rules(&new, &rules(&[rule("1 per minute", 0), rule("9 per minute", 0)]))
        };
        assert!(compared(0).is_empty(), "the same limits in another order");
        let both = Some("1 per minute, 9 per minute".to_owned());
        let row = ComparedRule {
            rule: "shop.user".to_owned(),
            limits: both.clone(),
            limits_against: both,
            denied: 4,
            denied_against: 0,
        };
        assert_eq!(compared(4), [row]);
    }

    #[test]
    fn a_key_is_shown_with_its_denials_in_both_sets() {
        let none = || (RulesReport::default(), Vec::new());
        let (rules, mut denied) = none();
        denied.extend([offender("ann", 5), offender("bob", 1), offender("eve", 2)]);
        let (against, mut denied_against) = none();
        denied_against.extend([offender("bob", 9), offender("zoe", 4)]);
        let Comparison { offenders, .. } = Comparison::of((&rules, denied), (&against, denied_against), 3);
        let rows: Vec<_> = offenders.iter().map(|row| (&*row.key, row.denied, row.denied_against)).collect();
        assert_eq!(rows, [("bob", 1, 9), ("ann", 5, 0), ("zoe", 0, 4)]);
        assert_eq!([change(9, 1), change(0, 1_000), change(4, 4)], ["-8", "+1,000", "0"]);
    }
}
