//! Answers in proto3 JSON, without zeros, empty strings and empty lists.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use prost_types::Struct;
use prost_types::value::Kind;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::decode::ReceivedRequest;
use super::super::denial::{Body, Denial};
use super::super::headers::{headers, shown_limit};
use super::super::metadata::metadata;
use super::super::names::unit;
use super::super::{AnswerSettings, whole_secs};
use crate::engine::{Code, Decision, Status};
use crate::pb;

/// The members of a `RateLimitResponse`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'d> {
    #[serde(skip_serializing_if = "Option::is_none")]
    overall_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<DescriptorStatus<'d>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response_headers_to_add: Vec<Header<'d>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request_headers_to_add: Vec<Header<'d>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    raw_body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_metadata: Option<Map<String, Value>>,
}

/// The members of a `DescriptorStatus`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorStatus<'d> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_limit: Option<RateLimit<'d>>,
    #[serde(skip_serializing_if = "is_zero")]
    limit_remaining: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_until_reset: Option<String>,
}

/// The members of a `RateLimit`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit<'d> {
    #[serde(skip_serializing_if = "is_zero")]
    requests_per_unit: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'d str,
}

/// The members of a `HeaderValue`.
#[derive(Serialize)]
struct Header<'d> {
    key: Cow<'d, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: Cow<'d, str>,
}

/// The `RateLimitResponse` that answers `request` with `decision`, in JSON.
pub(in crate::server) fn encode_json(
    request: &ReceivedRequest<'_>,
    decision: &Decision<'_>,
    settings: &AnswerSettings,
) -> String {
    let mut headers = headers(decision, settings);
    let body = Denial::of(decision).and_then(|denial| denial.body());
    let mut raw_body = String::new();
    if let Some(Body { content_type, text }) = body {
        headers.push((CONTENT_TYPE, content_type));
        raw_body = STANDARD.encode(text);
    }
    let header = |(name, value): &'_ (HeaderName, HeaderValue)| Header {
        key: Cow::Owned(name.as_str().to_owned()),
        value: Cow::Owned(String::from_utf8_lossy(value.as_bytes()).into_owned()),
    };
    let response = Response {
        overall_code: code(decision.code),
        statuses: decision.statuses.iter().map(status).collect(),
        response_headers_to_add: headers.iter().map(header).collect(),
        request_headers_to_add: Vec::new(),
        raw_body,
        dynamic_metadata: metadata(request, decision, settings),
    };
    // Serialization fails only for maps with keys that are not strings; there are none.
    serde_json::to_string(&response).unwrap_or_default()
}

/// JSON of a response that a client received.
pub fn json_of_response(response: &pb::RateLimitResponse) -> Value {
    fn headers(headers: &[pb::HeaderValue]) -> Vec<Header<'_>> {
        headers
            .iter()
            .map(|header| Header { key: (&*header.key).into(), value: (&*header.value).into() })
            .collect()
    }
    let known = |code: pb::Code| (code != pb::Code::Unknown).then(|| code.as_str_name());
    fn limit(limit: &pb::RateLimit) -> RateLimit<'_> {
        let unit = Some(limit.unit()).filter(|unit| *unit != pb::Unit::Unknown);
        RateLimit {
            requests_per_unit: limit.requests_per_unit,
            unit: unit.map(|unit| unit.as_str_name()),
            name: &limit.name,
        }
    }
    let statuses = response.statuses.iter().map(|status| DescriptorStatus {
        code: known(status.code()),
        current_limit: status.current_limit.as_ref().map(limit),
        limit_remaining: status.limit_remaining,
        duration_until_reset: status.duration_until_reset.as_ref().map(ToString::to_string),
    });
    let shown = Response {
        overall_code: known(response.overall_code()),
        statuses: statuses.collect(),
        response_headers_to_add: headers(&response.response_headers_to_add),
        request_headers_to_add: headers(&response.request_headers_to_add),
        raw_body: STANDARD.encode(&response.raw_body),
        dynamic_metadata: response.dynamic_metadata.as_ref().map(of_struct),
    };
    serde_json::to_value(shown).unwrap_or_default()
}

fn of_struct(fields: &Struct) -> Map<String, Value> {
    fields.fields.iter().map(|(name, value)| (name.clone(), of_value(value))).collect()
}

fn of_value(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => (*truth).into(),
        Some(Kind::NumberValue(number)) => number_of(*number),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(of_value).collect(),
        Some(Kind::StructValue(fields)) => of_struct(fields).into(),
    }
}

/// Number as JSON; whole numbers have no fraction, as in other implementations.
fn number_of(number: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "exact below 2^53")]
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        (number as i64).into()
    } else {
        number.into()
    }
}

const fn code(code: Code) -> Option<&'static str> {
    match code {
        Code::Ok => Some("OK"),
        Code::OverLimit => Some("OVER_LIMIT"),
    }
}

fn status<'d>(status: &'d Status<'_>) -> DescriptorStatus<'d> {
    DescriptorStatus {
        code: code(status.code),
        current_limit: shown_limit(status).map(|limit| RateLimit {
            requests_per_unit: limit.requests_per_unit,
            unit: limit.unit().map(|_| unit(limit).as_str_name()),
            name: status.name.unwrap_or_default(),
        }),
        limit_remaining: status.remaining,
        duration_until_reset: status.reset.map(|reset| format!("{}s", whole_secs(reset))),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it skips by reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
