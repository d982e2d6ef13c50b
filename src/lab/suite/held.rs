//! Steps that settle, extend and release what earlier requests hold, as written.

use super::action::{HeldBy, HeldCall, Settling, TicketStep};
use super::fields::Fields;
use super::labels::{Labels, MAX_LABELS};
use super::reader::{Placed, Reader};
use super::request::{amounts, ask, max_ttl_secs};
use super::tables::USAGE;
use crate::engine::rules::{SourceNode, SourceValue};
use crate::engine::usage::{TokenKind, Usage};

/// Reads a step whose field `name` names the requests in `node`: by their label, or to release them, by their entries.
pub(super) fn read(
    (reader, labels): (&mut Reader, &mut Labels),
    fields: &Fields<'_>,
    (name, node): (&'static str, &SourceNode),
    domain: Option<&Placed<String>>,
) -> Option<TicketStep> {
    if let ("release", SourceValue::Map(_) | SourceValue::List(_)) = (name, &node.value) {
        let ask = ask((reader, labels), fields, (name, node), domain)?;
        let (domain, times) = (ask.domain.clone(), ask.times);
        return Some(TicketStep { call: HeldCall::Release, of: HeldBy::Oldest(ask), domain, times });
    }
    if let Some(domain) = fields.get("domain") {
        let message = "'domain' beside a label: it is that of the request with the label";
        reader.error(domain.span, message);
    }
    let times = fields.get("times").and_then(|node| reader.count("times", node, 1..=MAX_LABELS)).unwrap_or(1);
    let found = labels.find(reader, (name, node), times);
    let call = match name {
        "settle" => settling(reader, fields, node, found.as_ref().map(|(_, of)| of.descriptors)),
        "release" => Some(HeldCall::Release),
        name => Some(extension(reader, fields, name, found.as_ref().map(|(_, of)| of.descriptors))),
    };
    let (label, of) = found?;
    Some(TicketStep { call: call?, of: HeldBy::Label(label), domain: of.domain.clone(), times })
}

/// Reads what a settlement counts, of a request with so many descriptors.
fn settling(
    reader: &mut Reader,
    fields: &Fields<'_>,
    node: &SourceNode,
    descriptors: Option<usize>,
) -> Option<HeldCall> {
    let is_final = fields.get("final").and_then(|node| reader.truth("final", node)).unwrap_or(true);
    let settle = |(amount, own), usage| HeldCall::Settle(Settling { amount, own, usage, is_final });
    match (fields.get("amount"), fields.get("usage")) {
        (Some(amount), None) => Some(settle(amounts_of(reader, amount, descriptors, 0), None)),
        (None, Some(node)) => Some(settle((0, Vec::new()), Some(usage(reader, node)?))),
        (Some(_), Some(usage)) => {
            reader.error(usage.span, "'amount' and 'usage' in one step: write one of them");
            None
        }
        (None, None) => {
            let message =
                "'settle' without 'amount' or 'usage': write what is counted, or 'release' in its place";
            reader.error(node.span, message);
            None
        }
    }
}

/// Reads an extension of a request with so many descriptors.
fn extension(
    reader: &mut Reader,
    fields: &Fields<'_>,
    name: &'static str,
    descriptors: Option<usize>,
) -> HeldCall {
    let max_ttl_secs = max_ttl_secs(reader, fields);
    let amounts = fields.get("amount").map(|node| {
        // A list may leave some holds as they are.
        let least = u32::from(!matches!(node.value, SourceValue::List(_)));
        amounts_of(reader, node, descriptors, least)
    });
    let (amount, own) = amounts.unwrap_or_default();
    HeldCall::Extend { name, max_ttl_secs, amount, own }
}

/// Reads amounts of a request with so many descriptors.
fn amounts_of(
    reader: &mut Reader,
    node: &SourceNode,
    descriptors: Option<usize>,
    least: u32,
) -> (u32, Vec<u32>) {
    let count = match (&node.value, descriptors) {
        // Of an unknown request, only the numbers are read.
        (SourceValue::List(items), None) => items.len(),
        (_, descriptors) => descriptors.unwrap_or(1),
    };
    amounts(reader, node, count, least)
}

/// Tokens of an answer.
fn usage(reader: &mut Reader, node: &SourceNode) -> Option<Usage> {
    let mut usage = Usage::default();
    for (name, value) in reader.fields(node, "'usage'", &USAGE)? {
        match TokenKind::from_name(name) {
            Some(kind) => usage.tokens[kind as usize] = reader.count(name, value, 0..=u32::MAX).unwrap_or(0),
            None => usage.model = reader.text(name, value)?.value,
        }
    }
    Some(usage)
}
