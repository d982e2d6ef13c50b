//! Facts that a test expects, held against a decision.

use std::time::Duration;

use serde_json::Value;

use super::check::is_at;
use super::expect::{Fact, Mark, Why};
use super::reader::quoted;
use crate::engine::duration::GoForm;
use crate::engine::plan::plan;
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

/// `None` for a binding limit that does not exist.
const NONE: &str = "none";

impl<'o, 'r> Observed<'o, '_, 'r> {
    pub(super) fn mark(&self) -> Mark {
        match self.decision.map(|decision| decision.code) {
            Some(Code::Ok) => Mark::Allowed,
            Some(Code::OverLimit) => Mark::Denied,
            None => Mark::Failed,
        }
    }

    /// The status of the limit that denies, or that has the least left.
    fn binding(&self) -> Option<&'o Status<'r>> {
        let decision = self.decision?;
        decision.statuses.get(decision.binding?)
    }

    /// Time until the denied request would pass: the longest of all limits that are over.
    fn wait(&self) -> Option<Duration> {
        let decision = self.decision.filter(|decision| decision.code == Code::OverLimit)?;
        let over = decision.statuses.iter().filter(|status| status.code == Code::OverLimit);
        over.filter_map(|status| status.reset).max()
    }

    fn why(&self) -> Option<Why> {
        if self.mark() != Mark::Denied {
            return None;
        }
        let status = self.binding()?;
        let fails_closed = || status.rule.is_some_and(|rule| rule.on_backend_failure == FailurePolicy::Deny);
        Some(match () {
            () if status.locked_out => Why::Lockout,
            () if status.larger_than_limit => Why::Size,
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
        let mut fields = vec![format!("{}: true", mark.field())];
        if let Some((status, limit)) = status.and_then(|status| Some((status, status.limit?))) {
            fields.push(format!("rule: {}", text(&name_of(status))));
            let layer = status.rule.and_then(|rule| rule.layer.as_ref());
            fields.extend(layer.map(|layer| format!("layer: {}", text(layer.name()))));
            fields.push(format!("limit: {}, remaining: {}", limit.requests_per_unit, status.remaining));
        } else if mark == Mark::Allowed && self.is_unmatched() {
            fields.push("unmatched: true".to_owned());
        }
        fields.extend(self.wait().map(|wait| format!("wait: {}s", whole_secs(wait).as_secs())));
        fields.extend(self.why().filter(|why| *why != Why::Limit).map(|why| format!("why: {}", why.name())));
        (fields.len() > 1).then(|| format!("{{{}}}", fields.join(", ")))
    }

    /// Difference between `fact` and this request; `None` where it holds, or is about all requests of a step.
    pub(super) fn mismatch(&self, fact: &Fact) -> Option<Mismatch> {
        let (expected, actual) = self.difference(fact)?;
        Some(Mismatch { field: fact.field(), expected, actual })
    }

    fn difference(&self, fact: &Fact) -> Option<(String, String)> {
        let status = self.binding();
        let number = |range: &std::ops::RangeInclusive<u64>, actual: Option<u32>| {
            let holds = actual.is_some_and(|actual| range.contains(&u64::from(actual)));
            (!holds).then(|| (range_text(range), actual.map_or(NONE.to_owned(), |actual| actual.to_string())))
        };
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
            Fact::Limit(range) => {
                number(range, status.and_then(|status| Some(status.limit?.requests_per_unit)))
            }
            Fact::Remaining(range) => number(range, status.map(|status| status.remaining)),
            Fact::Wait(range) => {
                let wait = self.wait();
                let holds =
                    wait.is_some_and(|wait| range.contains(&wait) || range.contains(&whole_secs(wait)));
                let expected = if range.start() == range.end() {
                    time_text(*range.start())
                } else {
                    format!("{}..{}", time_text(*range.start()), time_text(*range.end()))
                };
                (!holds).then(|| (expected, wait.map_or(NONE.to_owned(), time_text)))
            }
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
            Fact::Status(status) => number(
                &(u64::from(*status)..=u64::from(*status)),
                self.decision.map(|decision| if decision.code == Code::Ok { 200 } else { 429 }),
            ),
            Fact::Headers(_) | Fact::Metadata(_) | Fact::Body(_) => self.answer_difference(fact),
            Fact::Number(..) | Fact::FirstDenied(_) | Fact::NoDenyBefore(_) | Fact::Errors(_) => None,
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

/// True if `status` is that of the limit or the rule called `name`.
fn is_named(status: &Status<'_>, name: &str) -> bool {
    let is_path = status.rule.is_some_and(|rule| {
        *rule.path == *name || rule.path.split_once('.').is_some_and(|(_, path)| path == name)
    });
    status.name == Some(name) || is_path
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

/// `5` or `100..110`.
pub(super) fn range_text(range: &std::ops::RangeInclusive<u64>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}..{}", range.start(), range.end())
    }
}

/// `wait` as answers have it: whole seconds, rounded up.
pub(super) const fn whole_secs(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + (wait.subsec_nanos() > 0) as u64)
}
