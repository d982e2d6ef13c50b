//! `POST /v1/acquire`, `/v1/renew`, `/v1/extend` and `/v1/release`: places of concurrency limits and what else a ticket
//! holds, for applications that call without a proxy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;
use tracing::Instrument as _;

use super::super::service::{CallError, RateLimitService};
use super::super::wire::{TicketRequest, decode_acquire, decode_ticket, encode_check};
use super::call::{begin, decide, json_response, span};
use super::check::{refusal, refuse, respond};
use crate::engine::TicketEntry;
use crate::limiter::{TicketCall, TicketResult};

/// Answers 200 with a ticket if the request passes and holds places, else 429.
pub(super) async fn acquire(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = decide(&service, &headers, body, decode_acquire, |_, decision| {
        encode_check(decision, service.settings())
    });
    respond(answer.await)
}

/// Answers 200 if the ticket still holds what it did, else 404: its caller must not count on it any more.
pub(super) async fn renew(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    held_for_longer(&service, &headers, body, "renewed").await
}

/// The same, in the words of budgets.
pub(super) async fn extend(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    held_for_longer(&service, &headers, body, "extended").await
}

async fn held_for_longer(
    service: &RateLimitService,
    headers: &HeaderMap,
    body: Body,
    member: &str,
) -> Response {
    let call = |max_ttl_secs| TicketCall::Renew { max_ttl_secs };
    match ticket_used(service, headers, body, call).await {
        Ok(TicketResult { was_held: true, ttl_secs }) => {
            json_response(StatusCode::OK, json!({ member: true, "expiresIn": ttl_secs }).to_string())
        }
        Ok(TicketResult { was_held: false, .. }) => refusal(
            StatusCode::NOT_FOUND,
            "unknown_ticket",
            "the ticket holds nothing under these entries: it has expired, was released or settled, or the entries differ",
        ),
        Err(error) => refuse(&error),
    }
}

/// Answers 200, whether or not the ticket held anything: a release may be repeated.
pub(super) async fn release(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match ticket_used(&service, &headers, body, |_| TicketCall::Release).await {
        Ok(TicketResult { was_held, .. }) => {
            json_response(StatusCode::OK, json!({ "released": was_held }).to_string())
        }
        Err(error) => refuse(&error),
    }
}

/// Carries out the call that `call` makes of the TTL in the request.
async fn ticket_used(
    service: &RateLimitService,
    headers: &HeaderMap,
    body: Body,
    call_of: impl FnOnce(u32) -> TicketCall,
) -> Result<TicketResult, CallError> {
    let (call, body) = begin(service, body).await?;
    let used = async {
        let TicketRequest { request, ticket, max_ttl_secs } = call.accept(decode_ticket(&body))?;
        let request = call.accept(request.received())?;
        let TicketEntry::Named(ticket) = ticket else {
            return Ok(TicketResult { was_held: false, ttl_secs: 0 });
        };
        call.use_ticket(&call.snapshot(), &request, ticket, call_of(max_ttl_secs)).await
    };
    used.instrument(span(headers)).await
}
