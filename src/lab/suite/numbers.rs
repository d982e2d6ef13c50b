//! Numbers of the limits of a decision, and what became of its holds.

use std::ops::RangeInclusive;

use super::expect::{Fact, Number, NumbersOf};
use crate::engine::reserve::{BudgetStatus, HoldEvent};
use crate::engine::{Decision, Status};

/// `None` in a report.
pub(super) const NONE: &str = "none";

impl Number {
    /// The number of the binding limit. Those of budgets are of the first budget, if the binding limit is none.
    pub(super) fn of_decision(self, decision: &Decision<'_>) -> Option<u64> {
        let binding = decision.reported_status();
        let status = match self {
            Self::Limit | Self::Remaining => binding,
            Self::Used | Self::Held | Self::Holds | Self::Amount | Self::Charged | Self::Returned => {
                let is_budget = |status: &&Status<'_>| status.budget.is_some();
                binding.filter(is_budget).or(decision.statuses.iter().find(is_budget)).or(binding)
            }
        };
        self.of_status(status?, decision)
    }

    fn of_status(self, status: &Status<'_>, decision: &Decision<'_>) -> Option<u64> {
        let limit = status.limit?;
        let budget = status.budget;
        let settled = budget.map(|budget| budget.report).filter(|report| is_settlement(report.event));
        match self {
            Self::Used => {
                let left = u64::from(limit.capacity().saturating_sub(status.remaining));
                Some(budget.map_or(left, |budget| budget.used))
            }
            Self::Held => budget.map(|budget| budget.report.held.into()),
            Self::Holds => budget.map(|budget| budget.report.holds.into()),
            Self::Limit => Some(limit.requests_per_unit.into()),
            Self::Remaining => Some(status.remaining.into()),
            Self::Amount => {
                let is_held = |event| decision.hold.is_some() || event == HoldEvent::Extended;
                budget.filter(|budget| is_held(budget.report.event)).map(|budget| budget.report.amount.into())
            }
            Self::Charged => settled.map(|report| report.amount.into()),
            Self::Returned => settled.map(|report| report.returned.into()),
        }
    }
}

/// True if an amount was counted, now or before.
const fn is_settlement(event: HoldEvent) -> bool {
    match event {
        HoldEvent::Settled | HoldEvent::Continued | HoldEvent::Late | HoldEvent::Repeated => true,
        HoldEvent::None
        | HoldEvent::Opened
        | HoldEvent::Known
        | HoldEvent::TooMany
        | HoldEvent::Extended
        | HoldEvent::Unknown => false,
    }
}

/// Difference between the numbers of limits and those in `decision`.
pub(super) fn limits(expected: &[NumbersOf], decision: &Decision<'_>) -> Option<(String, String)> {
    expected.iter().find_map(|NumbersOf { name, numbers }| {
        let status = decision.statuses.iter().find(|status| is_named(status, &name.value));
        numbers.iter().find_map(|(number, range)| {
            let actual = status.and_then(|status| number.of_status(status, decision));
            let shown = |value: String| format!("{} {} {value}", name.value, number.name());
            difference(range, actual).map(|(expected, actual)| (shown(expected), shown(actual)))
        })
    })
}

/// Difference between a fact about holds and `decision`.
pub(super) fn flag(fact: &Fact, decision: &Decision<'_>) -> Option<(String, String)> {
    let (expected, actual) = match fact {
        Fact::First(first) => (*first, !any(decision, HoldEvent::Repeated)),
        Fact::Late(late) => (*late, any(decision, HoldEvent::Late)),
        Fact::Continue(may) => (*may, may_continue(decision)),
        _ => return None,
    };
    (expected != actual).then(|| (expected.to_string(), actual.to_string()))
}

/// True if no budget of a settlement is exceeded.
pub(super) fn may_continue(decision: &Decision<'_>) -> bool {
    let is_over = |(status, BudgetStatus { used, report, .. }): (&Status<'_>, BudgetStatus)| {
        let capacity = status.limit.map_or(0, |limit| limit.capacity());
        used.saturating_add(report.held.into()) > capacity.into()
    };
    !budgets(decision).any(is_over)
}

/// Facts about the budget of a decision, in YAML.
pub(super) fn record(decision: &Decision<'_>) -> Vec<String> {
    if budgets(decision).next().is_none() {
        return Vec::new();
    }
    let numbers = [Number::Used, Number::Held, Number::Amount, Number::Charged, Number::Returned];
    let known = numbers.into_iter().filter_map(|number| Some((number, number.of_decision(decision)?)));
    let mut facts: Vec<_> = known.map(|(number, value)| format!("{}: {value}", number.name())).collect();
    if any(decision, HoldEvent::Late) {
        facts.push("late: true".to_owned());
    }
    facts
}

fn budgets<'d, 'r>(decision: &'d Decision<'r>) -> impl Iterator<Item = (&'d Status<'r>, BudgetStatus)> {
    decision.statuses.iter().filter_map(|status| Some((status, status.budget?)))
}

fn any(decision: &Decision<'_>, event: HoldEvent) -> bool {
    budgets(decision).any(|(_, budget)| budget.report.event == event)
}

/// Difference between a number and the range that it should be in.
pub(super) fn difference(range: &RangeInclusive<u64>, actual: Option<u64>) -> Option<(String, String)> {
    let holds = actual.is_some_and(|actual| range.contains(&actual));
    (!holds).then(|| (range_text(range), actual.map_or(NONE.to_owned(), |actual| actual.to_string())))
}

/// True if `status` is that of the limit or the rule called `name`.
pub(super) fn is_named(status: &Status<'_>, name: &str) -> bool {
    let is_path = status.rule.is_some_and(|rule| {
        *rule.path == *name || rule.path.split_once('.').is_some_and(|(_, path)| path == name)
    });
    status.name == Some(name) || is_path
}

/// `5` or `100..110`.
pub(super) fn range_text(range: &RangeInclusive<u64>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}..{}", range.start(), range.end())
    }
}
