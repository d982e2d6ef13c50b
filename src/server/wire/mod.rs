//! Between messages, in protobuf and JSON, and the engine's types: the only place that knows both. Pure.

mod decode;
mod denial;
mod encode;
pub(crate) mod fields;
mod headers;
mod json;
mod metadata;

use std::time::Duration;

pub use decode::{InvalidRequest, ReceivedRequest, decode};
pub use encode::encode;
pub use json::json_of_response;
pub(super) use json::{CheckAnswer, JsonRequest, decode_check, decode_json, encode_check, encode_json};

/// What an answer tells besides the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerSettings {
    /// Which response headers to add. None by default: Envoy can add its own, and appends these.
    pub style: HeaderStyle,
    /// Names for the limit, what is left and the seconds, in place of what the style has: the reference's
    /// switch. It adds nothing else, so that answers stay the reference's where there is no style.
    pub custom_names: Option<HeaderNames>,
    /// Whether dynamic metadata repeats the request and the metadata of the rules that passed it.
    pub dynamic_metadata: bool,
    /// Whether `isNegativeHits` is accepted over HTTP.
    pub http_refunds: bool,
}

/// What the headers that tell of the limit look like. With any style but [`HeaderStyle::None`] a denial has
/// headers of its own besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    /// There are none.
    #[default]
    None,
    /// `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`.
    Draft06,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    X,
    /// `RateLimit-Policy` and `RateLimit`: structured fields.
    Ietf,
}

/// The names of the headers that tell of the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames {
    /// The limit.
    pub limit: http::HeaderName,
    /// What is left of it.
    pub remaining: http::HeaderName,
    /// Seconds until it is whole again.
    pub reset: http::HeaderName,
}

/// Rounded up: Envoy cuts off what is not whole, and whoever waits must not come too early.
const fn whole_secs(duration: Duration) -> u64 {
    duration.as_secs() + (duration.subsec_nanos() > 0) as u64
}

#[cfg(test)]
mod protobuf_tests;
#[cfg(test)]
mod tests;
