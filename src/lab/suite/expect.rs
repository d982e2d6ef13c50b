//! Expectations as written, and whether they can hold at all.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::action::Action;
use super::reader::{Placed, Reader};
use super::tables::EXPECT;
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
    /// The store failed, and the rule says to deny then.
    Store,
}

/// A fact about the requests of a step. Counts are of all of them, everything else holds for each.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// Requests with this result.
    Number(Mark, Requests),
    /// Number of the first request that is denied, counted from 1.
    FirstDenied(RangeInclusive<u64>),
    /// Time since the first request before which none is denied.
    NoDenyBefore(Duration),
    /// Layer of the binding limit.
    Layer(String),
    /// Name of the binding limit, or the path of its rule.
    Rule(String),
    /// Requests per window of the binding limit.
    Limit(RangeInclusive<u64>),
    /// Hits left in the binding limit.
    Remaining(RangeInclusive<u64>),
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
    const ALL: [(&'static str, Self); 4] =
        [("limit", Self::Limit), ("lockout", Self::Lockout), ("size", Self::Size), ("store", Self::Store)];

    /// As test files write it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, why)| *why == self).map_or("limit", |(name, _)| name)
    }
}

impl Fact {
    /// Name of its field.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Number(mark, _) => mark.field(),
            Self::FirstDenied(_) => "first_denied",
            Self::NoDenyBefore(_) => "no_deny_before",
            Self::Layer(_) => "layer",
            Self::Rule(_) => "rule",
            Self::Limit(_) => "limit",
            Self::Remaining(_) => "remaining",
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
    const fn needs_denial(&self) -> bool {
        matches!(self, Self::Wait(_) | Self::Why(_) | Self::Lockout(true) | Self::Body(_) | Self::Status(429))
    }
}

/// Reads the expectation of a step that does `action`.
pub(super) fn read(reader: &mut Reader, node: &SourceNode, action: &Action) -> Option<Expect> {
    let expect = match &node.value {
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
    };
    check(reader, &expect, action);
    Some(expect)
}

fn mark(c: char) -> Option<Mark> {
    Mark::ALL.into_iter().find(|mark| mark.symbol() == c)
}

fn fact(reader: &mut Reader, name: &str, node: &SourceNode) -> Option<Fact> {
    let text = |reader: &mut Reader| reader.text(name, node).map(|text| text.value);
    Some(match name {
        "allowed" => Fact::Number(Mark::Allowed, requests(reader, name, node)?),
        "denied" => Fact::Number(Mark::Denied, requests(reader, name, node)?),
        "failed" => Fact::Number(Mark::Failed, requests(reader, name, node)?),
        "first_denied" => Fact::FirstDenied(reader.range(name, node)?),
        "no_deny_before" => Fact::NoDenyBefore(reader.time(name, node)?),
        "layer" => Fact::Layer(text(reader)?),
        "rule" => Fact::Rule(text(reader)?),
        "limit" => Fact::Limit(reader.range(name, node)?),
        "remaining" => Fact::Remaining(reader.range(name, node)?),
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
        _ => return None,
    })
}

fn requests(reader: &mut Reader, name: &str, node: &SourceNode) -> Option<Requests> {
    match node.value {
        SourceValue::Bool(every) => Some(Requests::Every(every)),
        _ => reader.range(name, node).map(Requests::Count),
    }
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

/// Reports expectations that cannot hold.
fn check(reader: &mut Reader, expect: &Expect, action: &Action) {
    let Action::Ask(ask) = action else {
        let is_for_reload = |fact: &Fact| matches!((fact, action), (Fact::Errors(_), Action::Reload(_)));
        if expect.results.is_some() {
            reader.error(expect.span, "impossible 'expect': the step sends no request");
        }
        for fact in expect.facts.iter().filter(|fact| !is_for_reload(&fact.value)) {
            let message = format!("impossible '{}': the step sends no request", fact.value.field());
            reader.error(fact.span, message);
        }
        return;
    };
    let times = u64::from(ask.times);
    if let Some(results) = &expect.results {
        if results.len() as u64 != times {
            let message = format!(
                "impossible 'expect': {} results for {times} {}",
                results.len(),
                if times == 1 { "request" } else { "requests" }
            );
            reader.error(expect.span, message);
        } else if ask.together && results.windows(2).any(|pair| pair[0] != pair[1]) {
            let message = "impossible 'expect': requests that are sent together have no order; write \
                           {allowed: COUNT}";
            reader.error(expect.span, message);
        }
    }
    let mut total = 0..=0;
    for Placed { value: fact, span } in &expect.facts {
        let number = match fact {
            Fact::Number(_, requests) => {
                let range = range_of(requests, times);
                total = total.start() + range.start()..=total.end() + range.end();
                (*range.start() > times).then_some(*range.start())
            }
            Fact::FirstDenied(range) if *range.end() == 0 => {
                reader.error(*span, "impossible 'first_denied': requests count from 1");
                None
            }
            Fact::FirstDenied(range) => (*range.start() > times).then_some(*range.start()),
            Fact::Errors(_) => {
                reader.error(*span, "'errors' is for steps with 'reload'");
                None
            }
            _ => None,
        };
        if let Some(number) = number {
            let message = format!("impossible '{}': {number} of {times} requests", fact.field());
            reader.error(*span, message);
        }
    }
    if *total.start() > times {
        reader.error(
            expect.span,
            format!("impossible 'expect': {} results for {times} requests", total.start()),
        );
    }
    contradictions(reader, expect, times);
}

/// Requests that `requests` stands for, of `times`.
pub(super) fn range_of(requests: &Requests, times: u64) -> RangeInclusive<u64> {
    match requests {
        Requests::Every(true) => times..=times,
        Requests::Every(false) => 0..=0,
        Requests::Count(range) => range.clone(),
    }
}

/// Reports facts that exclude each other.
fn contradictions(reader: &mut Reader, expect: &Expect, times: u64) {
    let passing = |fact: &Fact| match fact {
        Fact::Number(Mark::Denied, requests) => *range_of(requests, times).end() < times,
        Fact::Number(Mark::Allowed | Mark::Failed, requests) => *range_of(requests, times).start() > 0,
        Fact::Status(200) | Fact::Unmatched(true) => true,
        _ => false,
    };
    let denying = |fact: &Fact| match fact {
        Fact::Number(Mark::Denied, requests) => *range_of(requests, times).start() > 0,
        Fact::Number(Mark::Allowed, requests) => *range_of(requests, times).end() < times,
        Fact::FirstDenied(_) => true,
        _ => false,
    };
    let facts = || expect.facts.iter();
    if let Some(pass) = facts().find(|fact| passing(&fact.value)) {
        for fact in facts().filter(|fact| fact.value.needs_denial()) {
            let message = format!(
                "impossible '{}': only a denied request has it, and '{}' says that requests pass",
                fact.value.field(),
                pass.value.field()
            );
            reader.error(fact.span, message);
        }
    }
    let all_pass = |fact: &Fact| {
        matches!(fact, Fact::Number(Mark::Denied, requests) if *range_of(requests, times).end() == 0)
            || matches!(fact, Fact::Number(Mark::Allowed, requests) if *range_of(requests, times).start() == times)
            || matches!(fact, Fact::Status(200))
    };
    if let Some(pass) = facts().find(|fact| all_pass(&fact.value)) {
        for fact in facts().filter(|fact| denying(&fact.value)) {
            let message = format!(
                "impossible '{}': it needs a denied request, and '{}' says that there is none",
                fact.value.field(),
                pass.value.field()
            );
            reader.error(fact.span, message);
        }
    }
    let why = facts().find_map(|fact| if let Fact::Why(why) = fact.value { Some(why) } else { None });
    for fact in facts() {
        if let (Fact::Lockout(lockout), Some(why)) = (&fact.value, why)
            && *lockout != (why == Why::Lockout)
        {
            let message = format!("impossible 'lockout': 'why' says {}", why.name());
            reader.error(fact.span, message);
        }
    }
}
