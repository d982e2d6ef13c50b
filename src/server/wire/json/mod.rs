//! JSON for callers over HTTP, straight from and to the engine's types: `POST /json`, which is proto3 JSON, and
//! `POST /v1/check`.

mod check;
mod request;
mod response;
mod values;

pub use check::decode_check;
pub(in crate::server) use check::{CheckAnswer, encode_check};
pub use request::{JsonRequest, decode_json};
pub(in crate::server) use response::encode_json;
pub use response::json_of_response;

#[cfg(test)]
mod tests;
