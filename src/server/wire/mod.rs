//! Between Envoy's messages and the engine's words: the only place that knows both. Pure.

mod decode;
mod encode;

pub use decode::InvalidRequest;
pub(super) use decode::decode;
pub(super) use encode::encode;

/// What an answer tells besides the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerSettings {
    /// Response headers to add, if any. Off by default: Envoy can add its own, and appends these.
    pub headers: Option<HeaderNames>,
    /// Whether dynamic metadata repeats the request and the metadata of the rules that passed it.
    pub dynamic_metadata: bool,
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

#[cfg(test)]
mod tests;
