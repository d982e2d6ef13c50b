//! Expectations as written, and whether they can hold at all.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::reader::{Placed, Reader};
use super::tables::{EXPECT, NUMBERS};
use crate::engine::rules::{SourceNode, SourceSpan, SourceValue};

/// Expected results of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// Position.
    pub span: SourceSpan,
    /// Result of each request, in order.
    pub results: Option<Vec<Mark>>,
    /// Facts that must hold.
    pub facts: Vec<Placed<Fact>>,
}

/// Result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It passes.
    Allowed,
    /// It is denied.
    Denied,
    /// There is no decision.
    Failed,
}

/// A number of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Every request of the step, or none.
    Every(bool),
    /// So many.
    Count(RangeInclusive<u64>),
}

/// Cause of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A limit is used up.
    Limit,
    /// A lockout.
    Lockout,
    /// The request has more hits than ever pass.
    Size,
    /// It would fit without what others hold.
    Held,
    /// The budget has as many open holds as it can have.
    TooManyHolds,
    /// The store failed, and the rule says to deny then.
    Store,
}

/// A number of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Hits that count, without those that are held.
    Used,
    /// Hits that open holds have.
    Held,
    /// Open holds.
    Holds,
    /// Requests per window.
    Limit,
    /// Hits left.
    Remaining,
    /// Amount that the request holds.
    Amount,
    /// Amount that is counted of the request by now.
    Charged,
    /// Amount that was held and is free again.
    Returned,
}

/// Numbers of a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct NumbersOf {
    /// Name of the limit, or path of its rule.
    pub name: Placed<String>,
    /// Its numbers.
    pub numbers: Vec<(Number, RangeInclusive<u64>)>,
}

/// A fact about the requests of a step. Counts are of all of them, everything else holds for each.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// Requests with this result.
    Results(Mark, Requests),
    /// Number of the first request that is denied, counted from 1.
    FirstDenied(RangeInclusive<u64>),
    /// Time since the first request before which none is denied.
    NoDenyBefore(Duration),
    /// Layer of the binding limit.
    Layer(String),
    /// Name of the binding limit, or the path of its rule.
    Rule(String),
    /// A number of the binding limit.
    Number(Number, RangeInclusive<u64>),
    /// Numbers of limits by name.
    Limits(Vec<NumbersOf>),
    /// True if what was held is settled for the first time.
    First(bool),
    /// True if an amount was counted for which nothing was held any more.
    Late(bool),
    /// True if no budget is exceeded.
    Continue(bool),
    /// Time until what is held ends by itself.
    ExpiresIn(RangeInclusive<Duration>),
    /// Time until the denied request would pass.
    Wait(RangeInclusive<Duration>),
    /// True if a lockout denies.
    Lockout(bool),
    /// Cause of the denial.
    Why(Why),
    /// Place of a rule that applies.
    Matched {
        /// Path of its file, or the end of it.
        file: String,
        /// Line in the file.
        line: u32,
    },
    /// Key of a counter, or the beginning of it.
    Counter {
        /// Text of the key.
        key: String,
        /// True if more may follow.
        is_prefix: bool,
    },
    /// True if no rule applies to a descriptor.
    Unmatched(bool),
    /// Response headers; `None` for one that is absent.
    Headers(Vec<(String, Option<String>)>),
    /// Dynamic metadata.
    Metadata(Value),
    /// Part of the body.
    Body(String),
    /// HTTP status.
    Status(u32),
    /// Errors in reloaded rules.
    Errors(RangeInclusive<u64>),
}

impl Mark {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::Failed];

    /// As test files write it.
    pub const fn symbol(self) -> char {
        match self {
            Self::Allowed => '+',
            Self::Denied => '-',
            Self::Failed => '!',
        }
    }

    /// Name of the field that counts it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl Why {
    const ALL: [(&'static str, Self); 6] = [
        ("limit", Self::Limit),
        ("lockout", Self::Lockout),
        ("size", Self::Size),
        ("held", Self::Held),
        ("too_many_holds", Self::TooManyHolds),
        ("store", Self::Store),
    ];

    /// As test files write it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, why)| *why == self).map_or("limit", |(name, _)| name)
    }
}

impl Number {
    const ALL: [Self; 8] = [
        Self::Used,
        Self::Held,
        Self::Holds,
        Self::Limit,
        Self::Remaining,
        Self::Amount,
        Self::Charged,
        Self::Returned,
    ];

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|number| number.name() == name)
    }

    /// As test files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Held => "held",
            Self::Holds => "holds",
            Self::Limit => "limit",
            Self::Remaining => "remaining",
            Self::Amount => "amount",
            Self::Charged => "charged",
            Self::Returned => "returned",
        }
    }
}

impl Fact {
    /// Name of its field.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Results(mark, _) => mark.field(),
            Self::FirstDenied(_) => "first_denied",
            Self::NoDenyBefore(_) => "no_deny_before",
            Self::Layer(_) => "layer",
            Self::Rule(_) => "rule",
            Self::Number(number, _) => number.name(),
            Self::Limits(_) => "limits",
            Self::First(_) => "first",
            Self::Late(_) => "late",
            Self::Continue(_) => "continue",
            Self::ExpiresIn(_) => "expires_in",
            Self::Wait(_) => "wait",
            Self::Lockout(_) => "lockout",
            Self::Why(_) => "why",
            Self::Matched { .. } => "matched",
            Self::Counter { .. } => "counter",
            Self::Unmatched(_) => "unmatched",
            Self::Headers(_) => "headers",
            Self::Metadata(_) => "metadata",
            Self::Body(_) => "body",
            Self::Status(_) => "status",
            Self::Errors(_) => "errors",
        }
    }

    /// True if only a denied request can have it.
    pub(super) const fn needs_denial(&self) -> bool {
        matches!(self, Self::Wait(_) | Self::Why(_) | Self::Lockout(true) | Self::Body(_) | Self::Status(429))
    }
}

/// Reads the expectation of a step.
pub(super) fn read(reader: &mut Reader, node: &SourceNode) -> Option<Expect> {
    Some(match &node.value {
        SourceValue::Map(_) => {
            let mut facts = Vec::new();
            for (name, value) in reader.fields(node, "'expect'", &EXPECT)? {
                facts.extend(fact(reader, name, value).map(|fact| Placed { value: fact, span: value.span }));
            }
            Expect { span: node.span, results: None, facts }
        }
        _ => {
            let text = node.text().unwrap_or_default();
            let marks: Option<Vec<Mark>> = text.chars().map(mark).collect();
            let Some(marks) = marks.filter(|marks| !marks.is_empty()) else {
                let message = format!(
                    "'expect' must be a text of + (passes), - (denied) and ! (fails), or a map, not {node}"
                );
                reader.error(node.span, message);
                return None;
            };
            Expect { span: node.span, results: Some(marks), facts: Vec::new() }
        }
    })
}

fn mark(c: char) -> Option<Mark> {
    Mark::ALL.into_iter().find(|mark| mark.symbol() == c)
}

fn fact(reader: &mut Reader, name: &str, node: &SourceNode) -> Option<Fact> {
    let text = |reader: &mut Reader| reader.text(name, node).map(|text| text.value);
    Some(match name {
        "allowed" => Fact::Results(Mark::Allowed, requests(reader, name, node)?),
        "denied" => Fact::Results(Mark::Denied, requests(reader, name, node)?),
        "failed" => Fact::Results(Mark::Failed, requests(reader, name, node)?),
        "first_denied" => Fact::FirstDenied(reader.range(name, node)?),
        "no_deny_before" => Fact::NoDenyBefore(reader.time(name, node)?),
        "layer" => Fact::Layer(text(reader)?),
        "rule" => Fact::Rule(text(reader)?),
        "limits" => Fact::Limits(numbers(reader, node)),
        "first" => Fact::First(reader.truth(name, node)?),
        "late" => Fact::Late(reader.truth(name, node)?),
        "continue" => Fact::Continue(reader.truth(name, node)?),
        "expires_in" => Fact::ExpiresIn(reader.time_range(name, node)?),
        "wait" => Fact::Wait(reader.time_range(name, node)?),
        "lockout" => Fact::Lockout(reader.truth(name, node)?),
        "why" => Fact::Why(reader.choice(name, node, &Why::ALL)?),
        "matched" => matched(reader, node)?,
        "counter" => {
            let key = text(reader)?;
            let prefix = key.strip_suffix('…');
            Fact::Counter { is_prefix: prefix.is_some(), key: prefix.unwrap_or(&key).to_owned() }
        }
        "unmatched" => Fact::Unmatched(reader.truth(name, node)?),
        "headers" => Fact::Headers(headers(reader, name, node)),
        "metadata" => {
            reader.map(name, node);
            Fact::Metadata(node.json())
        }
        "body" => Fact::Body(text(reader)?),
        "status" => Fact::Status(reader.count(name, node, 200..=599)?),
        "errors" => Fact::Errors(reader.range(name, node)?),
        name => Fact::Number(Number::from_name(name)?, reader.range(name, node)?),
    })
}

fn requests(reader: &mut Reader, name: &str, node: &SourceNode) -> Option<Requests> {
    match node.value {
        SourceValue::Bool(every) => Some(Requests::Every(every)),
        _ => reader.range(name, node).map(Requests::Count),
    }
}

/// Numbers of limits by name.
fn numbers(reader: &mut Reader, node: &SourceNode) -> Vec<NumbersOf> {
    let mut limits = Vec::new();
    for (name, node) in reader.map("limits", node) {
        let Some(name) = reader.text("the name of a limit", name) else { continue };
        let fields = reader.fields(node, "a limit", &NUMBERS).unwrap_or_default();
        let read = fields
            .into_iter()
            .filter_map(|(field, node)| Some((Number::from_name(field)?, reader.range(field, node)?)));
        let numbers = read.collect();
        limits.push(NumbersOf { name, numbers });
    }
    limits
}

fn matched(reader: &mut Reader, node: &SourceNode) -> Option<Fact> {
    let text = reader.text("matched", node)?.value;
    let place = text.rsplit_once(':').and_then(|(file, line)| Some((file.to_owned(), line.parse().ok()?)));
    if place.is_none() {
        reader.error(node.span, format!("'matched' must be FILE:LINE, not {node}"));
    }
    place.map(|(file, line)| Fact::Matched { file, line })
}

fn headers(reader: &mut Reader, name: &str, node: &SourceNode) -> Vec<(String, Option<String>)> {
    let mut headers = Vec::new();
    for (key, value) in reader.map(name, node) {
        let Some(key) = reader.text("the name of a header", key) else { continue };
        let value = match value.value {
            SourceValue::Null => Some(None),
            _ => reader.text(&key.value, value).map(|text| Some(text.value)),
        };
        headers.extend(value.map(|value| (key.value.to_ascii_lowercase(), value)));
    }
    headers
}

/// Requests that `requests` stands for, of `times`.
pub(super) fn range_of(requests: &Requests, times: u64) -> RangeInclusive<u64> {
    match requests {
        Requests::Every(true) => times..=times,
        Requests::Every(false) => 0..=0,
        Requests::Count(range) => range.clone(),
    }
}
