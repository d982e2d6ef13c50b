//! From the engine's decision to Envoy's answer.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use pbjson_types::value::Kind;
use pbjson_types::{ListValue, Struct, Value};
use prost::Message;

use super::denial::{Body, Denial};
use super::fields::{bytes_len, put_bytes, put_head, put_uint, uint_len};
use super::headers::headers;
use super::{AnswerSettings, whole_secs};
use crate::engine::{Code, Decision, Limit, Status, Unit};
use crate::pb;

/// Room for a status with a limit that has no name, and for what is around it.
const USUAL_STATUS_BYTES: usize = 40;

/// The answer that tells of `decision` to whoever sent `request`, a `RateLimitResponse` as protobuf writes
/// it: exactly one status for each descriptor, in order.
pub fn encode(request: &[u8], decision: &Decision<'_>, settings: &AnswerSettings) -> Bytes {
    let mut answer = BytesMut::with_capacity(decision.statuses.len() * USUAL_STATUS_BYTES + 8);
    put_uint(&mut answer, 1, code(decision.code));
    for status in &decision.statuses {
        put_status(&mut answer, status);
    }
    for header in headers(decision, settings) {
        put_header(&mut answer, header);
    }
    if let Some(Body { content_type, text }) = Denial::of(decision).and_then(|denial| denial.body()) {
        put_header(&mut answer, (CONTENT_TYPE, content_type));
        put_bytes(&mut answer, 5, text.as_bytes());
    }
    if settings.dynamic_metadata {
        put_message(&mut answer, 6, &metadata(request, decision));
    }
    answer.freeze()
}

const fn code(code: Code) -> u64 {
    match code {
        Code::Ok => pb::Code::Ok as u64,
        Code::OverLimit => pb::Code::OverLimit as u64,
    }
}

/// What stands of a status that answers with nothing in between, in numbers.
fn put_status(to: &mut BytesMut, status: &Status<'_>) {
    let (code, remaining) = (code(status.code), u64::from(status.remaining));
    let secs = status.reset.map(whole_secs);
    let name = status.name.unwrap_or_default();
    let limit = status.limit.map(|limit| (u64::from(limit.requests_per_unit), unit(limit)));
    let limit_len = |(requests, unit)| {
        let name_len = if name.is_empty() { 0 } else { bytes_len(3, name.len()) };
        uint_len(1, requests) + uint_len(2, unit) + name_len
    };
    let len = uint_len(1, code)
        + limit.map_or(0, |limit| bytes_len(2, limit_len(limit)))
        + uint_len(3, remaining)
        + secs.map_or(0, |secs| bytes_len(4, uint_len(1, secs)));
    put_head(to, 2, len);
    put_uint(to, 1, code);
    if let Some((requests, unit)) = limit {
        put_head(to, 2, limit_len((requests, unit)));
        put_uint(to, 1, requests);
        put_uint(to, 2, unit);
        if !name.is_empty() {
            put_bytes(to, 3, name.as_bytes());
        }
    }
    put_uint(to, 3, remaining);
    if let Some(secs) = secs {
        put_head(to, 4, uint_len(1, secs));
        put_uint(to, 1, secs);
    }
}

fn unit(limit: Limit) -> u64 {
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
    unit as u64
}

fn put_header(to: &mut BytesMut, (name, value): (HeaderName, HeaderValue)) {
    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let header = pb::HeaderValue { key: name.as_str().to_owned(), value, raw_value: Bytes::new() };
    put_message(to, 3, &header);
}

/// Writes a message under `number`.
fn put_message(to: &mut BytesMut, number: u32, message: &impl Message) {
    put_head(to, number, message.encoded_len());
    to.reserve(message.encoded_len());
    // It fails where there is no room.
    let written = message.encode(to);
    debug_assert!(written.is_ok());
}

/// The request, and what the rules that passed it have to say, as envoyproxy/ratelimit tells it; of a denial
/// also what denied.
fn metadata(request: &[u8], decision: &Decision<'_>) -> Struct {
    // What was decided on was readable.
    let request = pb::RateLimitRequest::decode(request).unwrap_or_default();
    let mut metadata = serde_json::Map::new();
    let passed = decision.statuses.iter().filter(|status| status.code == Code::Ok);
    for rule in passed.filter_map(|status| status.rule?.metadata.as_ref()) {
        merge(&mut metadata, rule);
    }
    let mut fields = vec![
        ("domain", text(request.domain)),
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
