//! Conversion between messages, in protobuf and JSON, and the engine's types. The only module that knows both;
//! pure.

mod decode;
mod denial;
mod encode;
pub(crate) mod fields;
mod headers;
mod json;
mod kuadrant;
mod metadata;
mod names;

use std::time::Duration;

pub use decode::{InvalidRequest, ReceivedRequest, decode};
pub use encode::encode;
pub use json::json_of_response;
pub(super) use json::{
    AcquireRequest, CheckAnswer, SettleRequest, TicketEndpoint, TicketRequest, decode_acquire,
    decode_reserve, decode_settle, decode_ticket, encode_check, encode_extended, encode_json, encode_settled,
    encode_usage,
};
pub use json::{JsonRequest, decode_check, decode_json};
pub(super) use kuadrant::{
    CommitRequest, ReserveRequest, decode_commit, decode_reserve as decode_reservation, encode_committed,
    encode_reserved,
};
pub use names::{AppliedRule, applied_rules};

/// Optional parts of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerSettings {
    /// Style of the response headers. None by default: Envoy can add its own, and appends these.
    pub style: HeaderStyle,
    /// Names of the headers with the limit, the remaining hits and the seconds, in place of those of the style.
    /// They add no other header, so that answers without a style equal those of envoyproxy/ratelimit.
    pub custom_names: Option<HeaderNames>,
    /// Adds the request, and the metadata of the rules that passed it, as dynamic metadata.
    pub dynamic_metadata: bool,
    /// Accepts `isNegativeHits` over HTTP.
    pub http_refunds: bool,
}

/// Style of the headers with the limit. Every style but [`HeaderStyle::None`] adds further headers to a denial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    /// No headers.
    #[default]
    None,
    /// `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`.
    Draft06,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    X,
    /// `RateLimit-Policy` and `RateLimit`: structured fields.
    Ietf,
}

/// Names of the headers with the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames {
    /// The limit.
    pub limit: http::HeaderName,
    /// Remaining hits.
    pub remaining: http::HeaderName,
    /// Seconds until the limit resets.
    pub reset: http::HeaderName,
}

/// Whole seconds, rounded up: Envoy drops the fraction, and a client that waits this long must not be too
/// early.
const fn whole_secs(duration: Duration) -> u64 {
    duration.as_secs() + (duration.subsec_nanos() > 0) as u64
}

#[cfg(test)]
mod protobuf_tests;
#[cfg(test)]
mod tests;
