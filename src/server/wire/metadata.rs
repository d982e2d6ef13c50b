//! Dynamic metadata of an answer: the request and the metadata of rules that let it pass, as in
//! envoyproxy/ratelimit; for a denial also the layer and the rule.

use serde_json::{Map, Value, json};

use super::AnswerSettings;
use super::decode::ReceivedRequest;
use super::denial::Denial;
use super::names::unit;
use crate::engine::text::cut;
use crate::engine::{Code, Decision, Descriptor, Hits};

/// Upper bound, in bytes, on a repeated key or value, so that Envoy accepts the answer however long a client's
/// values are.
const MAX_TEXT_BYTES: usize = 4_096;
/// Name of the ticket under which the request holds places.
const TICKET: &str = "ticket";

/// Metadata of the answer to `request`: the ticket, if it holds anything, and the rest if `settings` ask for it.
pub(super) fn metadata(
    request: &ReceivedRequest<'_>,
    decision: &Decision<'_>,
    settings: &AnswerSettings,
) -> Option<Map<String, Value>> {
    let ticket = decision.hold.map(|hold| (TICKET.to_owned(), hold.ticket.to_string().into()));
    if !settings.dynamic_metadata {
        return ticket.map(|ticket| Map::from_iter([ticket]));
    }
    let mut fields = of_request(request, decision);
    fields.extend(ticket);
    Some(fields)
}

fn of_request(request: &ReceivedRequest<'_>, decision: &Decision<'_>) -> Map<String, Value> {
    let descriptors = request.descriptors.iter().zip(&request.own_hits);
    let descriptors: Vec<_> = descriptors.map(|(descriptor, own)| of_descriptor(descriptor, *own)).collect();
    let mut fields = Map::new();
    fields.insert("domain".to_owned(), String::from_utf8_lossy(request.domain).into());
    fields.insert("descriptors".to_owned(), descriptors.into());
    if request.hits_addend > 0 {
        fields.insert("hitsAddend".to_owned(), request.hits_addend.into());
    }
    if let Some(denial) = Denial::of(decision) {
        fields.extend(denial.layer().map(|layer| ("failedLayer".to_owned(), layer.into())));
        fields.extend(denial.rule().map(|rule| ("failedRule".to_owned(), rule.into())));
    }
    let mut of_rules = Map::new();
    let passed = decision.statuses.iter().filter(|status| status.code == Code::Ok);
    for rule in passed.filter_map(|status| status.rule?.metadata.as_ref()) {
        merge(&mut of_rules, rule);
    }
    if !of_rules.is_empty() {
        fields.insert("metadata".to_owned(), of_rules.into());
    }
    fields
}

fn of_descriptor(descriptor: &Descriptor<'_>, own_hits: bool) -> Value {
    let text = |text| cut(text, MAX_TEXT_BYTES);
    let entries = descriptor.entries.iter();
    let entries: Vec<_> = entries.map(|entry| format!("{}={}", text(entry.key), text(entry.value))).collect();
    let mut fields = json!({ "entries": entries });
    if let Some(limit) = descriptor.limit_override {
        let (count, unit) = (limit.requests_per_unit, unit(limit).as_str_name());
        fields["limit"] = format!("requests_per_unit:{count} unit:{unit}").into();
    }
    if own_hits {
        let (Hits::Add(hits) | Hits::Refund(hits)) = descriptor.hits;
        fields["hitsAddend"] = hits.into();
    }
    fields
}

/// Adds members that `into` lacks; maps that both have are merged recursively.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            (Some(_), _) => {}
            (None, _) => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}
