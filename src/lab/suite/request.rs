//! Requests of steps as written.

use std::time::Duration;

use super::action::{Ask, AskCall, AskDescriptor, Reserved};
use super::fields::Fields;
use super::labels::{Labelled, Labels};
use super::reader::{Placed, Reader};
use super::tables::{DESCRIPTOR, LIMIT};
use super::template::Template;
use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES};
use crate::engine::rules::{SourceNode, SourceValue};
use crate::engine::ticket::MAX_ID_BYTES;
use crate::engine::{Hits, Limit, Unit};

/// Upper bound on the requests of one step.
const MAX_TIMES: u32 = 1_000_000;
/// Upper bound on concurrent requests.
const MAX_TOGETHER: u32 = 1_000;

/// Reads the requests of a step, which are the value `node` of its field `name`.
pub(super) fn ask(
    (reader, labels): (&mut Reader, &mut Labels),
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
    let hits = match fields.get("weight") {
        Some(node) => reader.count("weight", node, 0..=u32::MAX).map(i64::from),
        None => fields.get("hits").and_then(|node| reader.hits("hits", node)),
    };
    let mut descriptors = match name {
        "descriptors" => long_descriptors(reader, node, hits.unwrap_or(1)),
        _ => short_descriptors(reader, (name, node), hits.unwrap_or(1)),
    };
    if descriptors.len() > MAX_DESCRIPTORS {
        reader.error(node.span, format!("a request has at most {MAX_DESCRIPTORS} descriptors"));
    }
    let call = match name {
        "acquire" => AskCall::Acquire { max_ttl_secs: max_ttl_secs(reader, fields) },
        "reserve" => AskCall::Reserve(reserved(reader, fields, &mut descriptors)),
        "look" => AskCall::Look,
        _ => AskCall::Decide,
    };
    let (times, every, together) = pace(reader, fields);
    let of = Labelled {
        domain: domain.as_ref().map(|domain| domain.value.clone()).unwrap_or_default(),
        descriptors: descriptors.len(),
        line: node.span.line,
    };
    let label = fields.get("as").and_then(|node| labels.add(reader, node, times, &of));
    Some(Ask { domain: domain?.value, descriptors, call, label, times, every, together })
}

/// Number of requests, the time between two, and whether they are concurrent.
fn pace(reader: &mut Reader, fields: &Fields<'_>) -> (u32, Duration, bool) {
    let times = fields.get("times").and_then(|node| reader.count("times", node, 1..=MAX_TIMES));
    let every = fields.get("every").and_then(|node| reader.time("every", node));
    let together = fields
        .get("together")
        .and_then(|node| Some((node, reader.count("together", node, 1..=MAX_TOGETHER)?)));
    if let (Some((together, _)), true) = (together, times.or(every.map(|_| 1)).is_some()) {
        let message = "'together' is the number of requests at one time: leave 'times' and 'every' out";
        reader.error(together.span, message);
    }
    let count = together.map(|(_, count)| count).or(times).unwrap_or(1);
    (count, every.unwrap_or_default(), together.is_some())
}

/// Upper bound on the time for which something is held, in seconds; [`u32::MAX`] for that of the rule.
pub(super) fn max_ttl_secs(reader: &mut Reader, fields: &Fields<'_>) -> u32 {
    let ttl = fields.get("ttl").and_then(|node| Some((node, reader.time("ttl", node)?)));
    let Some((node, ttl)) = ttl else { return u32::MAX };
    if ttl.as_secs() < 1 || ttl.subsec_nanos() > 0 {
        reader.error(node.span, "'ttl' must be whole seconds such as 90s or 2m, at least 1s");
    }
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

/// Amounts of a reservation. Those of single descriptors become their hits.
fn reserved(reader: &mut Reader, fields: &Fields<'_>, descriptors: &mut [AskDescriptor]) -> Reserved {
    let ttl_secs = max_ttl_secs(reader, fields);
    let id = fields.get("id").and_then(|node| id(reader, node));
    let Some(node) = fields.get("amount") else {
        return Reserved { amount: 0, own: Vec::new(), ttl_secs, id };
    };
    let (amount, own) = amounts(reader, node, descriptors.len(), 1);
    for (descriptor, amount) in descriptors.iter_mut().zip(&own) {
        descriptor.hits = Hits::Add(*amount);
    }
    Reserved { amount, own: own.iter().map(|_| true).collect(), ttl_secs, id }
}

/// Name that the caller of a reservation gives it.
fn id(reader: &mut Reader, node: &SourceNode) -> Option<Template> {
    let text = node.text().filter(|text| !text.is_empty() && text.len() <= MAX_ID_BYTES);
    if text.is_none() {
        reader.error(node.span, format!("'id' must be a name of 1 to {MAX_ID_BYTES} bytes, not {node}"));
    }
    text.map(|text| Template::new(&text))
}

/// `amount`: one for every descriptor, or a list with one for each of `count`.
pub(super) fn amounts(reader: &mut Reader, node: &SourceNode, count: usize, least: u32) -> (u32, Vec<u32>) {
    let SourceValue::List(items) = &node.value else {
        return (reader.count("amount", node, least..=u32::MAX).unwrap_or(least), Vec::new());
    };
    if items.len() != count {
        let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let message = format!(
            "'amount' has {} for {}: write one number, or one for each descriptor",
            plural(items.len(), "number"),
            plural(count, "descriptor")
        );
        reader.error(node.span, message);
    }
    let own = items.iter().map(|item| reader.count("amount", item, least..=u32::MAX).unwrap_or(least));
    (0, own.collect())
}

/// `{key: value, …}`, or a list of such maps.
fn short_descriptors(
    reader: &mut Reader,
    (name, node): (&str, &SourceNode),
    hits: i64,
) -> Vec<AskDescriptor> {
    let items = match &node.value {
        SourceValue::List(items) => &items[..],
        _ => std::slice::from_ref(node),
    };
    if items.is_empty() {
        reader.error(node.span, format!("'{name}' has no descriptor: write {{KEY: VALUE}}"));
    }
    let mut descriptors = Vec::with_capacity(items.len());
    for item in items {
        let entries = reader.map(name, item);
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
