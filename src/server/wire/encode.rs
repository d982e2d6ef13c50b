//! Encoder: from a decision of the engine to Envoy's answer.

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

use super::decode::ReceivedRequest;
use super::denial::{Body, Denial};
use super::fields::{bytes_len, put_bytes, put_head, put_uint, uint_len};
use super::headers::{headers, shown_limit};
use super::metadata::metadata;
use super::names::unit;
use super::{AnswerSettings, whole_secs};
use crate::engine::{Code, Decision, Status};
use crate::pb;

/// Estimated size, in bytes, of a status whose limit has no name.
const USUAL_STATUS_BYTES: usize = 40;

/// Encodes `decision` on `request` as a `RateLimitResponse` with exactly one status for each descriptor, in
/// order.
pub fn encode(request: &ReceivedRequest<'_>, decision: &Decision<'_>, settings: &AnswerSettings) -> Bytes {
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
    if let Some(metadata) = metadata(request, decision, settings) {
        put_message(&mut answer, 6, &encode_struct(metadata));
    }
    answer.freeze()
}

const fn code(code: Code) -> u64 {
    match code {
        Code::Ok => pb::Code::Ok as u64,
        Code::OverLimit => pb::Code::OverLimit as u64,
    }
}

/// Writes one status.
fn put_status(to: &mut BytesMut, status: &Status<'_>) {
    let (code, remaining) = (code(status.code), u64::from(status.remaining));
    let secs = status.reset.map(whole_secs);
    let name = status.name.unwrap_or_default();
    // Envoy derives its headers from the limit with the least remaining, and ignores statuses without a limit.
    let limit = shown_limit(status).map(|limit| (u64::from(limit.requests_per_unit), unit(limit) as u64));
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

fn put_header(to: &mut BytesMut, (name, value): (HeaderName, HeaderValue)) {
    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let header = pb::HeaderValue { key: name.as_str().to_owned(), value, raw_value: Bytes::new() };
    put_message(to, 3, &header);
}

/// Writes a message under `number`.
fn put_message(to: &mut BytesMut, number: u32, message: &impl Message) {
    put_head(to, number, message.encoded_len());
    to.reserve(message.encoded_len());
    // Encoding fails only without capacity in the buffer.
    let written = message.encode(to);
    debug_assert!(written.is_ok());
}

fn encode_struct(fields: Map<String, Json>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, json)| (name, encode_value(json))).collect() }
}

fn encode_value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(encode_value).collect() })
        }
        Json::Object(fields) => Kind::StructValue(encode_struct(fields)),
    };
    Value { kind: Some(kind) }
}
