//! `POST /v1/check`: decisions for applications that call without a proxy.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::super::admission::BodyError;
use super::super::origin::is_cross_site;
use super::super::service::CallError;
use super::super::wire::{CheckAnswer, decode_check, encode_check};
use super::Endpoint;
use super::call::{decide, json_response, status_of};

/// Answers 200 if the request passes, else 429. Errors are JSON too: a stable code and a message.
pub(super) async fn check(
    State(Endpoint { service, own_names }): State<Endpoint>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Some(refusal) = refuse_caller(&method, &uri, &headers, &own_names) {
        return refusal;
    }
    let answer = decide(&service, &headers, body, decode_check, |_, decision| {
        encode_check(decision, service.settings())
    });
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

/// Response to a call with another method, or from a page of another site.
pub(super) fn refuse_caller(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    own_names: &[String],
) -> Option<Response> {
    if method != Method::POST {
        let refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use POST");
        return Some(([(header::ALLOW, "POST")], refusal).into_response());
    }
    let message = "requests from pages of other sites are rejected";
    is_cross_site(headers, uri, own_names)
        .then(|| refusal(StatusCode::FORBIDDEN, "cross_site_request", message))
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
