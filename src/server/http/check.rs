//! `POST /v1/check`: decisions for applications that call without a proxy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::super::admission::BodyError;
use super::super::origin::is_cross_site;
use super::super::service::{CallError, RateLimitService};
use super::super::wire::{AcquireRequest, CheckAnswer, decode_check, encode_check};
use super::call::{decide, json_response, status_of};

/// Answers 200 if the request passes, else 429. Errors are JSON too: a stable code and a message.
pub(super) async fn check(
    State(service): State<Arc<RateLimitService>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = decide(
        &service,
        &headers,
        body,
        |body| decode_check(body).map(AcquireRequest::without_looks),
        |_, decision| encode_check(decision, service.settings()),
    );
    respond(answer.await)
}

/// Response with the numbers of a decision, or with an error.
pub(super) fn respond(answer: Result<CheckAnswer, CallError>) -> Response {
    match answer {
        Ok(CheckAnswer { allowed, headers, body }) => {
            let status = if allowed { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
            let mut response = json_response(status, body);
            for (name, value) in headers {
                response.headers_mut().append(name, value);
            }
            response
        }
        Err(error) => refuse(&error),
    }
}

/// Rejects calls with another method, and those from pages of other sites.
pub(super) async fn refuse_callers(
    State(own_names): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::POST {
        let refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use POST");
        return ([(header::ALLOW, "POST")], refusal).into_response();
    }
    refuse_other_sites(State(own_names), request, next).await
}

/// Rejects calls from pages of other sites.
pub(super) async fn refuse_other_sites(
    State(own_names): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    if is_cross_site(request.headers(), request.uri(), &own_names) {
        let message = "requests from pages of other sites are rejected";
        return refusal(StatusCode::FORBIDDEN, "cross_site_request", message);
    }
    next.run(request).await
}

pub(super) fn refuse(error: &CallError) -> Response {
    let code = match error {
        CallError::InvalidRequest(_) | CallError::Body(BodyError::Unreadable) => "invalid_request",
        CallError::Body(BodyError::TooLarge(_)) => "body_too_large",
        CallError::Body(BodyError::TimedOut) => "body_timeout",
        CallError::Overloaded | CallError::Body(BodyError::Displaced) => "overloaded",
        CallError::RefundsDisabled => "refunds_disabled",
        CallError::NoRules => "no_rules",
        CallError::Store(_) => "store_unavailable",
    };
    refusal(status_of(error), code, &error.to_string())
}

/// Answer without a decision.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    json_response(status, json!({ "error": code, "message": message }).to_string())
}
