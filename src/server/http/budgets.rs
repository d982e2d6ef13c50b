//! `POST /v1/reserve` and `/v1/settle`, and `/v1/usage`: budgets, for applications that call without a proxy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;

use super::super::service::{Call, CallError, RateLimitService};
use super::super::wire::{
    JsonRequest, SettleRequest, decode_check, decode_reserve, decode_settle, encode_check, encode_settled,
    encode_usage,
};
use super::call::{begin, decide, json_response, span};
use super::check::{refusal, refuse, respond};
use crate::engine::plan::tickets::{Amounts, TicketUse};

/// Answers 200 with a ticket if the request passes and holds its amounts, else 429.
pub(super) async fn reserve(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = decide(&service, &headers, body, decode_reserve, |_, decision| {
        encode_check(decision, service.settings())
    });
    respond(answer.await)
}

/// Answers 200 once the amount is counted. A settlement may be repeated.
pub(super) async fn settle(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let settled = async {
        let (call, body) = begin(&service, body).await?;
        let settled = async {
            let SettleRequest { request, ticket, amount, usage, is_final } =
                call.accept(decode_settle(&body))?;
            let request = call.accept(request.received())?;
            let amounts = Amounts { of_request: amount, own: request.own_hits(), usage: usage.as_ref() };
            let ticket_use = if is_final { TicketUse::Settle(amounts) } else { TicketUse::Continue(amounts) };
            let rules = call.snapshot();
            let decision = call.settle(&rules, &request, ticket, ticket_use).await?;
            Ok(encode_settled(&decision, is_final))
        };
        settled.instrument(span(&headers)).await
    };
    match settled.await {
        Ok(Some(body)) => json_response(StatusCode::OK, body),
        Ok(None) => refusal(
            StatusCode::NOT_FOUND,
            "no_budget",
            "no rule with 'reserve' applies to these entries; nothing was counted",
        ),
        Err(error) => refuse(&error),
    }
}

/// Use of the budgets of the descriptors in a body like that of `/v1/check`.
pub(super) async fn usage(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let used = async {
        let (call, body) = begin(&service, body).await?;
        let request = call.accept(decode_check(&body))?;
        used(&call, &request).instrument(span(&headers)).await
    };
    answer(used.await)
}

/// Use of the budgets of the entries in the query.
pub(super) async fn usage_of_query(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let used = async {
        let (call, _) = begin(&service, Body::empty()).await?;
        let request = call.accept(JsonRequest::of_query(query.ok().map(|Query(pairs)| pairs)))?;
        used(&call, &request).instrument(span(&headers)).await
    };
    answer(used.await)
}

async fn used(call: &Call<'_>, request: &JsonRequest<'_>) -> Result<String, CallError> {
    let received = call.accept(request.received())?;
    let rules = call.snapshot();
    let decision = call.usage(&rules, &received).await?;
    Ok(encode_usage(&decision))
}

fn answer(used: Result<String, CallError>) -> Response {
    match used {
        Ok(body) => json_response(StatusCode::OK, body),
        Err(error) => refuse(&error),
    }
}

/// Answer to other methods than GET and POST.
pub(super) async fn refuse_method() -> Response {
    let refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use GET or POST");
    ([(header::ALLOW, "GET, POST")], refusal).into_response()
}
