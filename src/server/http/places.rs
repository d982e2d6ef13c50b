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
use super::super::wire::{
    AnswerSettings, TicketEndpoint, TicketRequest, decode_acquire, decode_ticket, encode_check,
    encode_extended,
};
use super::call::{begin, decide, json_response, span};
use super::check::{refusal, refuse, respond};
use crate::engine::TicketEntry;
use crate::engine::plan::tickets::Amounts;
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
    used(ticket_used(&service, &headers, body, TicketEndpoint::Renew).await)
}

/// The same, in the words of budgets. Answers 429 if a larger amount does not fit, and raises nothing then.
pub(super) async fn extend(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    used(ticket_used(&service, &headers, body, TicketEndpoint::Extend).await)
}

/// Answers 200, whether or not the ticket held anything: a release may be repeated.
pub(super) async fn release(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    used(ticket_used(&service, &headers, body, TicketEndpoint::Release).await)
}

fn used(answer: Result<Response, CallError>) -> Response {
    answer.unwrap_or_else(|error| refuse(&error))
}

/// Carries out the call that the body makes of `endpoint`.
async fn ticket_used(
    service: &RateLimitService,
    headers: &HeaderMap,
    body: Body,
    endpoint: TicketEndpoint,
) -> Result<Response, CallError> {
    let (call, body) = begin(service, body).await?;
    let used = async {
        let TicketRequest { request, ticket, max_ttl_secs, amount } =
            call.accept(decode_ticket(&body, endpoint))?;
        let request = call.accept(request.received())?;
        let amounts = match endpoint {
            TicketEndpoint::Extend => {
                Amounts { of_request: amount, own: request.own_hits(), ..Amounts::NONE }
            }
            TicketEndpoint::Renew | TicketEndpoint::Release => Amounts::NONE,
        };
        let ticket_call = match endpoint {
            TicketEndpoint::Renew | TicketEndpoint::Extend => TicketCall::Renew { max_ttl_secs, amounts },
            TicketEndpoint::Release => TicketCall::Release,
        };
        let rules = call.snapshot();
        let result = match ticket {
            TicketEntry::Named(ticket) => call.use_ticket(&rules, &request, ticket, ticket_call).await?,
            TicketEntry::Absent | TicketEntry::Unknown => TicketResult::NOTHING,
        };
        Ok(respond_to_ticket(&result, endpoint, service.settings()))
    };
    used.instrument(span(headers)).await
}

fn respond_to_ticket(
    TicketResult { was_held, ttl_secs, decision }: &TicketResult<'_>,
    endpoint: TicketEndpoint,
    settings: &AnswerSettings,
) -> Response {
    let word = match endpoint {
        TicketEndpoint::Renew => "renewed",
        TicketEndpoint::Extend => "extended",
        TicketEndpoint::Release => {
            return json_response(StatusCode::OK, json!({ "released": was_held }).to_string());
        }
    };
    match decision {
        Some(decision) if decision.denial().is_some() => respond(Ok(encode_check(decision, settings))),
        _ if !was_held => refusal(
            StatusCode::NOT_FOUND,
            "unknown_ticket",
            "the ticket holds nothing under these entries: it has expired, was released or settled, or the entries differ",
        ),
        decision => json_response(StatusCode::OK, encode_extended(word, *ttl_secs, decision.as_ref())),
    }
}
