//! Facts that a test expects, held against a decision.

use std::time::Duration;

use serde_json::Value;

use super::check::is_at;
use super::expect::{Fact, Mark, Why};
use super::numbers::{self, NONE, is_named};
use super::reader::quoted;
use crate::engine::duration::GoForm;
use crate::engine::plan::plan;
use crate::engine::reserve::HoldEvent;
use crate::engine::rules::{Fit, WalkEnd, explain};
use crate::engine::{Code, Decision, FailurePolicy, KeyWriter, Request, Rules, Status};

/// Answer to a request: the parts that Envoy passes on.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Response headers, by lower-case name.
    pub headers: Vec<(String, String)>,
    /// Body that the rule sets for a denial.
    pub body: String,
    /// Dynamic metadata.
    pub metadata: Value,
}

/// Encodes a decision as the service would; the text is the style of headers.
pub type Encode<'e> = &'e dyn Fn(&Request<'_>, &Decision<'_>, &str) -> Answer;

/// Call that was made with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// Its decision.
    Decided,
    /// A look at its limits.
    Looked,
    /// Its settlement.
    Settled { is_final: bool },
    /// Its ticket, which lives so many seconds from now, was extended or released. The decision is a look afterwards.
    Ticket { was_held: bool, ttl_secs: u32 },
    /// Its ticket was to hold more. The decision is the one on that.
    Raised { was_held: bool, ttl_secs: u32 },
}

/// A request and its decision.
pub(super) struct Observed<'o, 'q, 'r> {
    pub(super) rules: &'o Rules,
    pub(super) request: &'o Request<'q>,
    /// `None` if the store failed.
    pub(super) decision: Option<&'o Decision<'r>>,
    pub(super) keys: &'o KeyWriter,
    /// Beginning of counter keys that is not the test's.
    pub(super) foreign_prefix: &'o str,
    pub(super) is_store_down: bool,
    pub(super) encode: Encode<'o>,
    pub(super) headers: &'static str,
    pub(super) called: Called,
}

/// An expectation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Field of the expectation.
    pub field: &'static str,
    /// Expected value.
    pub expected: String,
    /// Actual value.
    pub actual: String,
}

impl<'o, 'r> Observed<'o, '_, 'r> {
    pub(super) fn mark(&self) -> Mark {
        let Some(decision) = self.decision else { return Mark::Failed };
        let passes = match self.called {
            Called::Decided => decision.code == Code::Ok,
            Called::Looked => true,
            // Without a budget, nothing is counted.
            Called::Settled { .. } => decision.statuses.iter().any(|status| status.budget.is_some()),
            Called::Ticket { was_held, .. } => was_held,
            Called::Raised { was_held, .. } => was_held && decision.code == Code::Ok,
        };
        if passes { Mark::Allowed } else { Mark::Denied }
    }

    /// The status of the limit that denies, or that has the least left.
    fn binding(&self) -> Option<&'o Status<'r>> {
        self.decision?.reported_status()
    }

    /// The decision, if it denies the request.
    fn denial(&self) -> Option<&'o Decision<'r>> {
        let is_decided = matches!(self.called, Called::Decided | Called::Raised { .. });
        self.decision.filter(|decision| is_decided && decision.code == Code::OverLimit)
    }

    /// Time until the denied request would pass: the longest of all limits that are over.
    fn wait(&self) -> Option<Duration> {
        let over = self.denial()?.statuses.iter().filter(|status| status.code == Code::OverLimit);
        over.filter_map(|status| status.reset).max()
    }

    /// Time until what the request holds ends by itself.
    fn expires_in(&self) -> Option<Duration> {
        let secs = match self.called {
            Called::Ticket { was_held, ttl_secs } | Called::Raised { was_held, ttl_secs } => {
                was_held.then_some(ttl_secs)
            }
            Called::Decided | Called::Looked | Called::Settled { .. } => {
                self.decision?.hold.map(|hold| hold.ttl_secs)
            }
        };
        secs.map(|secs| Duration::from_secs(secs.into()))
    }

    fn why(&self) -> Option<Why> {
        let status = self.denial()?.reported_status()?;
        let fails_closed = || status.rule.is_some_and(|rule| rule.on_backend_failure == FailurePolicy::Deny);
        Some(match () {
            () if status.locked_out => Why::Lockout,
            () if status.larger_than_limit => Why::Size,
            () if status.budget.is_some_and(|budget| budget.report.event == HoldEvent::TooMany) => {
                Why::TooManyHolds
            }
            () if status.budget.is_some_and(|budget| budget.is_held) => Why::Held,
            () if self.is_store_down && fails_closed() => Why::Store,
            () => Why::Limit,
        })
    }

    /// Places of the rules that apply.
    fn places(&self) -> Vec<(String, u32)> {
        let walk = explain(self.rules, self.request);
        let applied = walk.descriptors.iter().filter_map(|descriptor| descriptor.levels.last());
        let applied = applied.filter_map(|level| level.candidates.first());
        let applied = applied.filter(|candidate| candidate.fit == Fit::Applies);
        applied.map(|candidate| (candidate.source.to_owned(), candidate.span.line)).collect()
    }

    fn is_unmatched(&self) -> bool {
        let has_rule = |end| matches!(end, WalkEnd::Rule(_) | WalkEnd::Override);
        explain(self.rules, self.request).descriptors.iter().any(|descriptor| !has_rule(descriptor.end))
    }

    fn counters(&self) -> Vec<String> {
        let plan = plan(self.rules, self.request, self.keys);
        let counters = plan.limited().flat_map(|limited| &limited.counters);
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let own = |key: String| key.strip_prefix(self.foreign_prefix).map_or(key.clone(), str::to_owned);
        counters.map(|counter| own(text(&counter.key))).collect()
    }

    fn answer(&self) -> Answer {
        self.decision.map(|decision| (self.encode)(self.request, decision, self.headers)).unwrap_or_default()
    }

    /// An expectation that holds for this request alone, in YAML; `None` where there is nothing more to say than
    /// its result.
    pub(super) fn record(&self) -> Option<String> {
        let text = |text: &str| Value::from(text).to_string();
        let (mark, status) = (self.mark(), self.binding());
        let is_look = self.called == Called::Looked;
        let mut fields: Vec<_> = (!is_look).then(|| format!("{}: true", mark.field())).into_iter().collect();
        if let Some((status, limit)) = status.and_then(|status| Some((status, status.limit?))) {
            fields.push(format!("rule: {}", text(&name_of(status))));
            let layer = status.rule.and_then(|rule| rule.layer.as_ref());
            fields.extend(layer.map(|layer| format!("layer: {}", text(layer.name()))));
            fields.push(format!("limit: {}, remaining: {}", limit.requests_per_unit, status.remaining));
        } else if mark == Mark::Allowed && self.is_unmatched() {
            fields.push("unmatched: true".to_owned());
        }
        if let Some(decision) = self.decision {
            fields.extend(numbers::record(decision));
            if self.called == (Called::Settled { is_final: false }) {
                fields.push(format!("continue: {}", numbers::may_continue(decision)));
            }
        }
        fields.extend(self.wait().map(|wait| format!("wait: {}s", whole_secs(wait).as_secs())));
        fields.extend(self.why().filter(|why| *why != Why::Limit).map(|why| format!("why: {}", why.name())));
        (is_look || fields.len() > 1).then(|| format!("{{{}}}", fields.join(", ")))
    }

    /// Difference between `fact` and this request; `None` where it holds, or is about all requests of a step.
    pub(super) fn mismatch(&self, fact: &Fact) -> Option<Mismatch> {
        let (expected, actual) = self.difference(fact)?;
        Some(Mismatch { field: fact.field(), expected, actual })
    }

    fn difference(&self, fact: &Fact) -> Option<(String, String)> {
        let status = self.binding();
        let text = |expected: &str, actual: Option<&str>| {
            (actual != Some(expected)).then(|| (expected.to_owned(), actual.unwrap_or(NONE).to_owned()))
        };
        match fact {
            Fact::Layer(layer) => {
                text(layer, status.and_then(|status| Some(status.rule?.layer.as_ref()?.name())))
            }
            Fact::Rule(name) => {
                let holds = status.is_some_and(|status| is_named(status, name));
                (!holds).then(|| (name.clone(), status.map_or(NONE.to_owned(), name_of)))
            }
            Fact::Number(number, range) => {
                let actual = self.decision.and_then(|decision| number.of_decision(decision));
                numbers::difference(range, actual)
            }
            Fact::Limits(limits) => self.decision.and_then(|decision| numbers::limits(limits, decision)),
            Fact::First(_) | Fact::Late(_) | Fact::Continue(_) => numbers::flag(fact, self.decision?),
            Fact::ExpiresIn(range) => time_difference(range, self.expires_in()),
            Fact::Wait(range) => time_difference(range, self.wait()),
            Fact::Lockout(lockout) => {
                let actual = self.mark() == Mark::Denied && status.is_some_and(|status| status.locked_out);
                (actual != *lockout).then(|| (lockout.to_string(), actual.to_string()))
            }
            Fact::Why(why) => text(why.name(), self.why().map(Why::name)),
            Fact::Matched { file, line } => {
                let places = self.places();
                let holds = places.iter().any(|(source, at)| is_at(source, *at, file, *line));
                let actual = places.iter().map(|(source, line)| format!("{source}:{line}"));
                (!holds).then(|| (format!("{file}:{line}"), list_text(actual)))
            }
            Fact::Counter { key, is_prefix } => {
                let counters = self.counters();
                let is_it =
                    |counter: &String| if *is_prefix { counter.starts_with(key) } else { counter == key };
                let more = if *is_prefix { "…" } else { "" };
                (!counters.iter().any(is_it))
                    .then(|| (format!("{key}{more}"), list_text(counters.into_iter())))
            }
            Fact::Unmatched(unmatched) => {
                let actual = self.is_unmatched();
                (actual != *unmatched).then(|| (unmatched.to_string(), actual.to_string()))
            }
            Fact::Status(status) => numbers::difference(
                &(u64::from(*status)..=u64::from(*status)),
                self.decision.map(|decision| if decision.code == Code::Ok { 200 } else { 429 }),
            ),
            Fact::Headers(_) | Fact::Metadata(_) | Fact::Body(_) => self.answer_difference(fact),
            Fact::Results(..) | Fact::FirstDenied(_) | Fact::NoDenyBefore(_) | Fact::Errors(_) => None,
        }
    }

    fn answer_difference(&self, fact: &Fact) -> Option<(String, String)> {
        let answer = self.answer();
        match fact {
            Fact::Headers(headers) => headers.iter().find_map(|(name, expected)| {
                let values = answer.headers.iter().filter(|(known, _)| known == name);
                let actual: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
                let shown = |value: Option<&str>| format!("{name}: {}", value.map_or(NONE, |value| value));
                let holds = match expected {
                    None => actual.is_empty(),
                    Some(expected) => actual.contains(&expected.as_str()),
                };
                (!holds).then(|| (shown(expected.as_deref()), shown(actual.first().copied())))
            }),
            Fact::Metadata(expected) => {
                let holds = contains(&answer.metadata, expected);
                (!holds).then(|| (expected.to_string(), answer.metadata.to_string()))
            }
            Fact::Body(part) => (!answer.body.contains(part)).then(|| (quoted(part), quoted(&answer.body))),
            _ => None,
        }
    }
}

fn time_difference(
    range: &std::ops::RangeInclusive<Duration>,
    actual: Option<Duration>,
) -> Option<(String, String)> {
    let holds = actual.is_some_and(|time| range.contains(&time) || range.contains(&whole_secs(time)));
    let expected = if range.start() == range.end() {
        time_text(*range.start())
    } else {
        format!("{}..{}", time_text(*range.start()), time_text(*range.end()))
    };
    (!holds).then(|| (expected, actual.map_or(NONE.to_owned(), time_text)))
}

fn name_of(status: &Status<'_>) -> String {
    status.name.or(status.rule.map(|rule| &*rule.path)).unwrap_or(NONE).to_owned()
}

/// True if `actual` has everything that `expected` has.
fn contains(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| actual.get(key).is_some_and(|actual| contains(actual, value)))
        }
        (Value::Number(actual), Value::Number(expected)) => actual.as_f64() == expected.as_f64(),
        (actual, expected) => actual == expected,
    }
}

fn list_text(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { NONE.to_owned() } else { items.join(", ") }
}

/// `1h30m`, `0s`.
pub(super) fn time_text(time: Duration) -> String {
    GoForm(time).to_string()
}

/// `wait` as answers have it: whole seconds, rounded up.
pub(super) const fn whole_secs(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + (wait.subsec_nanos() > 0) as u64)
}
