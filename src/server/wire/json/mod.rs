//! JSON messages, decoded to and encoded from the engine's types: proto3 JSON for `POST /json`, and `POST
//! /v1/check`.

mod budgets;
mod check;
mod members;
mod places;
mod request;
mod response;
mod values;

pub(in crate::server) use budgets::{
    SettleRequest, decode_reserve, decode_settle, encode_extended, encode_settled, encode_usage,
};
pub use check::decode_check;
pub(in crate::server) use check::{CheckAnswer, encode_check};
pub(in crate::server) use places::{
    AcquireRequest, TicketEndpoint, TicketRequest, decode_acquire, decode_ticket,
};
pub use request::{JsonRequest, decode_json};
pub(in crate::server) use response::encode_json;
pub use response::json_of_response;

#[cfg(test)]
mod tests;
