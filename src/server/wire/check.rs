//! The request and the answer of `POST /v1/check`, for applications: JSON that people and front ends can
//! read.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use super::denial::{Denial, layer, rule};
use super::headers::headers;
use super::{AnswerSettings, HeaderStyle, InvalidRequest, whole_secs};
use crate::engine::request::MAX_DESCRIPTORS;
use crate::engine::{Code, Decision, Status};
use crate::pb;

/// The stable code of a denial.
const RATE_LIMIT_EXCEEDED: &str = "rate_limit_exceeded";

/// What an application is told.
pub(in crate::server) struct CheckAnswer {
    /// Whether the request may pass.
    pub(in crate::server) allowed: bool,
    /// Headers, besides the body's type.
    pub(in crate::server) headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub(in crate::server) body: String,
}

/// The short form: each entry is a descriptor of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ShortRequest {
    #[serde(default)]
    domain: String,
    entries: Entries,
    #[serde(alias = "hits_addend")]
    hits_addend: Option<u64>,
}

/// Keys and values in the order of the text, each key once.
struct Entries(Vec<(String, String)>);

/// The request in `body`: that of `/json`, or the short form, which has `entries` in place of
/// `descriptors`. In the short form `hitsAddend` is each descriptor's own, so 0 looks without counting.
///
/// # Errors
/// What in it is no request, with its line and column. Bounds are for [`decode()`](super::decode()) to check.
pub(in crate::server) fn decode_check(body: &[u8]) -> Result<pb::RateLimitRequest, InvalidRequest> {
    let invalid = |error: serde_json::Error| InvalidRequest(error.to_string());
    let fields: BTreeMap<String, IgnoredAny> = serde_json::from_slice(body).map_err(invalid)?;
    if !fields.contains_key("entries") {
        return serde_json::from_slice(body).map_err(invalid);
    }
    let ShortRequest { domain, entries, hits_addend } = serde_json::from_slice(body).map_err(invalid)?;
    let descriptor = |(key, value)| pb::RateLimitDescriptor {
        entries: vec![pb::Entry { key: Bytes::from(key), value: Bytes::from(value) }],
        hits_addend: hits_addend.map(|value| pbjson_types::UInt64Value { value }),
        ..pb::RateLimitDescriptor::default()
    };
    Ok(pb::RateLimitRequest {
        domain,
        descriptors: entries.0.into_iter().map(descriptor).collect(),
        hits_addend: 0,
    })
}

/// The answer that tells of `decision`. There is no Envoy in between, so it has headers in every case.
pub(in crate::server) fn encode_check(
    _request: &[u8],
    decision: &Decision<'_>,
    settings: &AnswerSettings,
) -> CheckAnswer {
    let style = match settings.style {
        HeaderStyle::None => HeaderStyle::Draft06,
        style @ (HeaderStyle::Draft06 | HeaderStyle::X | HeaderStyle::Ietf) => style,
    };
    let denial = Denial::of(decision);
    let binding = decision.binding.and_then(|index| decision.statuses.get(index));
    let Standing { limit, remaining, reset_in } = binding.map(Standing::of).unwrap_or_default();
    let body = json!({
        "allowed": denial.is_none(),
        "error": denial.as_ref().map(|_| RATE_LIMIT_EXCEEDED),
        "message": denial.as_ref().map(Denial::sentence),
        "failedLayer": denial.as_ref().and_then(Denial::layer),
        "limit": limit,
        "remaining": remaining,
        "resetIn": reset_in,
        "retryAfter": denial.as_ref().map(Denial::retry_after_secs),
        "layers": decision.statuses.iter().map(encode_layer).collect::<Vec<_>>(),
    });
    CheckAnswer {
        allowed: denial.is_none(),
        headers: headers(decision, &AnswerSettings { style, ..settings.clone() }),
        body: body.to_string(),
    }
}

/// The numbers of a descriptor; nothing where no limit applied.
#[derive(Default)]
struct Standing {
    limit: Option<u32>,
    remaining: Option<u32>,
    /// Whole seconds, rounded up.
    reset_in: Option<u64>,
}

impl Standing {
    fn of(status: &Status<'_>) -> Self {
        Self {
            limit: status.limit.map(|limit| limit.requests_per_unit),
            remaining: status.limit.map(|_| status.remaining),
            reset_in: status.reset.map(whole_secs),
        }
    }
}

fn encode_layer(status: &Status<'_>) -> Value {
    let Standing { limit, remaining, reset_in } = Standing::of(status);
    json!({
        "layer": layer(status),
        "rule": rule(status),
        "allowed": status.code == Code::Ok,
        "limit": limit,
        "remaining": remaining,
        "resetIn": reset_in,
    })
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::<(String, String)>::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if entries.len() == MAX_DESCRIPTORS {
                return Err(A::Error::custom(format_args!("more than {MAX_DESCRIPTORS} entries")));
            }
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format_args!("duplicate entry `{key}`")));
            }
            entries.push((key, value));
        }
        Ok(Entries(entries))
    }
}
