//! Steps of a test as written: time, and what happens then.

use std::time::Duration;

use super::action::{Action, Ask, AskDescriptor};
use super::expect::{self, Expect};
use super::facts::time_text;
use super::reader::{Placed, Reader};
use super::rules::RuleSets;
use super::tables::{DESCRIPTOR, LIMIT, STEP};
use super::template::Template;
use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES};
use crate::engine::rules::{SourceNode, SourceSpan, SourceValue};
use crate::engine::{Hits, Limit, Unit};

/// Upper bound on the requests of one step.
const MAX_TIMES: u32 = 1_000_000;
/// Upper bound on concurrent requests.
const MAX_TOGETHER: u32 = 1_000;
/// Upper bound on the time of a test, some thousand years.
const MAX_TEST_TIME: Duration = Duration::from_secs(100_000_000_000);

/// A step of a test.
#[derive(Debug)]
pub struct Step {
    /// Position of the step.
    pub span: SourceSpan,
    /// Position of its first field, where a field can be added.
    pub(super) first_field: SourceSpan,
    /// Position of the value of `expect`.
    pub(super) expect_value: Option<SourceSpan>,
    /// Time since the start of the test.
    pub at: Duration,
    /// Action at that time.
    pub action: Action,
    /// Expected results.
    pub expect: Option<Expect>,
}

/// Reads the steps of a test.
pub(super) fn steps<'f>(
    reader: &mut Reader,
    rules: &mut RuleSets<'f>,
    nodes: &'f [SourceNode],
    domain: Option<&Placed<String>>,
) -> Vec<Step> {
    let mut steps = Vec::with_capacity(nodes.len());
    let mut now = Duration::ZERO;
    for node in nodes {
        let Some(step) = step((&mut *reader, &mut *rules), node, domain, now) else { continue };
        now = step.at;
        if let Action::Ask(ask) = &step.action {
            now = now.saturating_add(ask.every.saturating_mul(ask.times - 1));
        }
        if now > MAX_TEST_TIME {
            reader.error(step.span, "the test takes longer than three thousand years");
            break;
        }
        steps.push(step);
    }
    steps
}

/// Fields of a step.
struct Fields<'n>(Vec<(&'static str, &'n SourceNode)>);

impl<'n> Fields<'n> {
    fn get(&self, name: &str) -> Option<&'n SourceNode> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, node)| *node)
    }
}

fn step<'f>(
    (reader, rules): (&mut Reader, &mut RuleSets<'f>),
    node: &'f SourceNode,
    domain: Option<&Placed<String>>,
    now: Duration,
) -> Option<Step> {
    let fields = Fields(reader.fields(node, "a step", &STEP)?);
    let at = time(reader, &fields, now);
    let actions = ["ask", "descriptors", "release", "reload", "store"];
    let found: Vec<_> = fields.0.iter().filter(|(name, _)| actions.contains(name)).collect();
    if let [(first, _), (second, at), ..] = &found[..] {
        reader.error(at.span, format!("'{first}' and '{second}' in one step: write two steps"));
    }
    let action = match found.first() {
        Some(("reload", node)) => Action::Reload(rules.rule_set(reader, "reload", node)),
        Some(("store", node)) => {
            let up = reader.choice("store", node, &[("down", false), ("up", true)]);
            Action::Store { up: up.unwrap_or(true) }
        }
        Some(("release", request)) => {
            for name in ["every", "together", "hits"] {
                if let Some(field) = fields.get(name) {
                    reader.error(field.span, format!("'{name}' is for steps with 'ask'"));
                }
            }
            Action::Release(ask(reader, &fields, ("ask", request), domain)?)
        }
        Some((name, request)) => Action::Ask(ask(reader, &fields, (name, request), domain)?),
        None if fields.get("at").or(fields.get("wait")).is_some() => Action::Wait,
        None => {
            let message = "the step does nothing: write 'ask', 'release', 'reload', 'store' or 'wait'";
            reader.error(node.span, message);
            return None;
        }
    };
    if !matches!(action, Action::Ask(_) | Action::Release(_)) {
        for name in ["times", "every", "together", "hits", "domain"] {
            if let Some(field) = fields.get(name) {
                reader.error(field.span, format!("'{name}' is for steps with 'ask'"));
            }
        }
    }
    let expect = fields.get("expect").and_then(|node| expect::read(reader, node, &action));
    let SourceValue::Map(entries) = &node.value else { return None };
    Some(Step {
        span: node.span,
        first_field: entries.first().map_or(node.span, |(key, _)| key.span),
        expect_value: fields.get("expect").map(|node| node.span),
        at,
        action,
        expect,
    })
}

/// Time of a step that follows `now`.
fn time(reader: &mut Reader, fields: &Fields<'_>, now: Duration) -> Duration {
    if let (Some(_), Some(wait)) = (fields.get("at"), fields.get("wait")) {
        reader.error(wait.span, "'at' and 'wait' both set the time: write one of them");
    }
    if let Some(node) = fields.get("at") {
        let at = reader.time("at", node).unwrap_or(now);
        if at < now {
            let message = format!(
                "impossible 'at': the steps before it end at {}, and time does not go back",
                time_text(now)
            );
            reader.error(node.span, message);
        }
        return at.max(now);
    }
    let wait = fields.get("wait").and_then(|node| reader.time("wait", node));
    now.saturating_add(wait.unwrap_or_default())
}

fn ask(
    reader: &mut Reader,
    fields: &Fields<'_>,
    (name, node): (&str, &SourceNode),
    domain: Option<&Placed<String>>,
) -> Option<Ask> {
    let own = fields.get("domain").and_then(|node| reader.text("domain", node));
    let domain = own.or_else(|| domain.cloned());
    let domain = domain.filter(|domain| !domain.value.is_empty());
    if domain.is_none() {
        let message = "the request has no domain: write 'domain' in the test, since the rules have several";
        reader.error(node.span, message);
    }
    let hits = fields.get("hits").and_then(|node| reader.hits("hits", node)).unwrap_or(1);
    let descriptors = match name {
        "ask" => short_descriptors(reader, node, hits),
        _ => long_descriptors(reader, node, hits),
    };
    if descriptors.len() > MAX_DESCRIPTORS {
        reader.error(node.span, format!("a request has at most {MAX_DESCRIPTORS} descriptors"));
    }
    let times = fields.get("times").and_then(|node| reader.count("times", node, 1..=MAX_TIMES));
    let every = fields.get("every").and_then(|node| reader.time("every", node));
    let together = fields
        .get("together")
        .and_then(|node| Some((node, reader.count("together", node, 1..=MAX_TOGETHER)?)));
    if let (Some((together, _)), true) = (together, times.or(every.map(|_| 1)).is_some()) {
        let message = "'together' is the number of requests at one time: leave 'times' and 'every' out";
        reader.error(together.span, message);
    }
    Some(Ask {
        domain: domain?.value,
        descriptors,
        times: together.map(|(_, count)| count).or(times).unwrap_or(1),
        every: every.unwrap_or_default(),
        together: together.is_some(),
    })
}

/// `{key: value, …}`, or a list of such maps.
fn short_descriptors(reader: &mut Reader, node: &SourceNode, hits: i64) -> Vec<AskDescriptor> {
    let items = match &node.value {
        SourceValue::List(items) => &items[..],
        _ => std::slice::from_ref(node),
    };
    if items.is_empty() {
        reader.error(node.span, "'ask' has no descriptor: write {KEY: VALUE}");
    }
    let mut descriptors = Vec::with_capacity(items.len());
    for item in items {
        let entries = reader.map("ask", item);
        if entries.len() > MAX_ENTRIES {
            reader.error(item.span, format!("a descriptor has at most {MAX_ENTRIES} entries"));
        }
        let mut pairs = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            pairs.extend(template(reader, "a key", key).zip(template(reader, "a value", value)));
        }
        descriptors.push(AskDescriptor { entries: pairs, hits: to_hits(hits), limit: None });
    }
    descriptors
}

fn long_descriptors(reader: &mut Reader, node: &SourceNode, hits: i64) -> Vec<AskDescriptor> {
    let mut descriptors = Vec::new();
    let items = reader.list("descriptors", node);
    if items.is_empty() && matches!(node.value, SourceValue::List(_)) {
        reader.error(node.span, "'descriptors' is empty: write at least one");
    }
    for item in items {
        let fields = reader.fields(item, "a descriptor", &DESCRIPTOR).unwrap_or_default();
        let mut descriptor = AskDescriptor { entries: Vec::new(), hits: to_hits(hits), limit: None };
        for (name, value) in fields {
            match name {
                "entries" => descriptor.entries = long_entries(reader, value),
                "hits" => {
                    let own = reader.hits(name, value);
                    descriptor.hits = to_hits(own.unwrap_or(hits));
                }
                "limit" => descriptor.limit = limit(reader, value),
                _ => {}
            }
        }
        descriptors.push(descriptor);
    }
    descriptors
}

/// `[[key, value], …]`.
fn long_entries(reader: &mut Reader, node: &SourceNode) -> Vec<(Template, Template)> {
    let mut pairs = Vec::new();
    let items = reader.list("entries", node);
    if items.len() > MAX_ENTRIES {
        reader.error(node.span, format!("a descriptor has at most {MAX_ENTRIES} entries"));
    }
    for item in items {
        match &item.value {
            SourceValue::List(pair) => match &pair[..] {
                [key, value] => {
                    pairs.extend(template(reader, "a key", key).zip(template(reader, "a value", value)));
                }
                _ => reader.error(item.span, "an entry is a list of key and value: [KEY, VALUE]"),
            },
            _ => reader.error(item.span, "an entry is a list of key and value: [KEY, VALUE]"),
        }
    }
    pairs
}

fn template(reader: &mut Reader, name: &str, node: &SourceNode) -> Option<Template> {
    if matches!(node.value, SourceValue::Null) {
        return Some(Template::new(""));
    }
    reader.text(name, node).map(|text| Template::new(&text.value))
}

fn limit(reader: &mut Reader, node: &SourceNode) -> Option<Limit> {
    let (mut requests, mut unit) = (None, None);
    for (name, value) in reader.fields(node, "'limit'", &LIMIT)? {
        match name {
            "requests_per_unit" => requests = reader.count(name, value, 0..=u32::MAX),
            "unit" => {
                let names = Unit::ALL.map(|unit| unit.name().to_ascii_lowercase());
                let choices: Vec<_> = names.iter().map(String::as_str).zip(Unit::ALL).collect();
                unit = reader.choice(name, value, &choices);
            }
            _ => {}
        }
    }
    Some(Limit::per(requests?, unit?))
}

/// Hits as written: negative for a refund.
fn to_hits(hits: i64) -> Hits {
    let count = u32::try_from(hits.unsigned_abs()).unwrap_or(u32::MAX);
    if hits < 0 { Hits::Refund(count) } else { Hits::Add(count) }
}
