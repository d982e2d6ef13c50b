//! From the engine's decision to Envoy's answer.

use std::borrow::Cow;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use pbjson_types::value::Kind;
use pbjson_types::{ListValue, Struct, Value};

use super::denial::{Body, Denial};
use super::headers::headers;
use super::{AnswerSettings, whole_secs};
use crate::engine::{Code, Decision, Limit, Status, Unit};
use crate::pb;

/// The answer that tells of `decision` to whoever sent `request`: exactly one status for each
/// descriptor, in order.
pub fn encode(
    request: &pb::RateLimitRequest,
    decision: &Decision<'_>,
    settings: &AnswerSettings,
) -> pb::RateLimitResponse {
    let mut headers = headers(decision, settings);
    let body = Denial::of(decision).and_then(|denial| denial.body());
    let body = body.map_or_else(bytes::Bytes::new, |Body { content_type, text }| {
        headers.push((CONTENT_TYPE, content_type));
        text.into()
    });
    pb::RateLimitResponse {
        overall_code: encode_code(decision.code).into(),
        statuses: decision.statuses.iter().map(encode_status).collect(),
        response_headers_to_add: headers.into_iter().map(encode_header).collect(),
        request_headers_to_add: Vec::new(),
        raw_body: body,
        dynamic_metadata: settings.dynamic_metadata.then(|| encode_metadata(request, decision)),
    }
}

const fn encode_code(code: Code) -> pb::Code {
    match code {
        Code::Ok => pb::Code::Ok,
        Code::OverLimit => pb::Code::OverLimit,
    }
}

fn encode_status(status: &Status<'_>) -> pb::DescriptorStatus {
    pb::DescriptorStatus {
        code: encode_code(status.code).into(),
        current_limit: status.limit.map(|limit| encode_limit(limit, status.name.unwrap_or_default())),
        limit_remaining: status.remaining,
        duration_until_reset: status.reset.map(|reset| pbjson_types::Duration {
            seconds: i64::try_from(whole_secs(reset)).unwrap_or(i64::MAX),
            nanos: 0,
        }),
    }
}

fn encode_limit(limit: Limit, name: &str) -> pb::RateLimit {
    let unit = match limit.unit() {
        Some(Unit::Second) => pb::Unit::Second,
        Some(Unit::Minute) => pb::Unit::Minute,
        Some(Unit::Hour) => pb::Unit::Hour,
        Some(Unit::Day) => pb::Unit::Day,
        Some(Unit::Week) => pb::Unit::Week,
        Some(Unit::Month) => pb::Unit::Month,
        Some(Unit::Year) => pb::Unit::Year,
        // The protocol has no word for other windows.
        None => pb::Unit::Unknown,
    };
    pb::RateLimit { requests_per_unit: limit.requests_per_unit, unit: unit.into(), name: name.to_owned() }
}

fn encode_header((name, value): (HeaderName, HeaderValue)) -> pb::HeaderValue {
    pb::HeaderValue {
        key: name.as_str().to_owned(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        raw_value: bytes::Bytes::new(),
    }
}

/// The request, and what the rules that passed it have to say, as envoyproxy/ratelimit tells it; of a denial
/// also what denied.
fn encode_metadata(request: &pb::RateLimitRequest, decision: &Decision<'_>) -> Struct {
    let mut metadata = serde_json::Map::new();
    let passed = decision.statuses.iter().filter(|status| status.code == Code::Ok);
    for rule in passed.filter_map(|status| status.rule?.metadata.as_ref()) {
        merge(&mut metadata, rule);
    }
    let mut fields = vec![
        ("domain", text(request.domain.clone())),
        ("descriptors", list(request.descriptors.iter().map(encode_descriptor))),
    ];
    if request.hits_addend > 0 {
        fields.push(("hitsAddend", number(request.hits_addend.into())));
    }
    if let Some(denial) = Denial::of(decision) {
        let told = [("failedLayer", denial.layer().map(Cow::Borrowed)), ("failedRule", denial.rule())];
        fields.extend(told.into_iter().filter_map(|(name, told)| Some((name, text(told?.into_owned())))));
    }
    if !metadata.is_empty() {
        fields.push(("metadata", encode_json(serde_json::Value::Object(metadata))));
    }
    object(fields)
}

fn encode_descriptor(descriptor: &pb::RateLimitDescriptor) -> Value {
    let entries = descriptor.entries.iter().map(|pb::Entry { key, value }| {
        text(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)))
    });
    let mut fields = vec![("entries", list(entries))];
    if let Some(limit) = &descriptor.limit {
        let (count, unit) = (limit.requests_per_unit, limit.unit().as_str_name());
        fields.push(("limit", text(format!("requests_per_unit:{count} unit:{unit}"))));
    }
    if let Some(hits) = &descriptor.hits_addend {
        let hits = u32::try_from(hits.value).unwrap_or(u32::MAX);
        fields.push(("hitsAddend", number(hits.into())));
    }
    value(Kind::StructValue(object(fields)))
}

/// Adds what `into` does not have yet; maps that both have are merged in turn.
fn merge(
    into: &mut serde_json::Map<String, serde_json::Value>,
    from: &serde_json::Map<String, serde_json::Value>,
) {
    use serde_json::Value::Object;
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Object(into)), Object(from)) => merge(into, from),
            (Some(_), _) => {}
            (None, _) => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

fn encode_json(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => value(Kind::NullValue(0)),
        Json::Bool(truth) => value(Kind::BoolValue(truth)),
        Json::Number(json) => number(json.as_f64().unwrap_or_default()),
        Json::String(json) => text(json),
        Json::Array(items) => list(items.into_iter().map(encode_json)),
        Json::Object(fields) => {
            let fields = fields.into_iter().map(|(name, json)| (name, encode_json(json))).collect();
            value(Kind::StructValue(Struct { fields }))
        }
    }
}

const fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn text(text: String) -> Value {
    value(Kind::StringValue(text))
}

fn number(number: f64) -> Value {
    value(Kind::NumberValue(number))
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    value(Kind::ListValue(ListValue { values: values.collect() }))
}

fn object(fields: Vec<(&str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}
