//! `POST /v1/check`: whether a request may pass, for applications that ask by themselves.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::admission::BodyError;
use super::answer::{AnswerError, Answerer};
use super::http::{answer, json_response, receive, status_of};
use super::wire::{self, CheckAnswer};
use crate::store::StoreError;

/// 200 where the request may pass and 429 where it may not. Whatever else there is to say is JSON too: a
/// stable code and a sentence.
pub(super) async fn check(
    State(answerer): State<Arc<Answerer>>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if method != Method::POST {
        let refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use POST");
        return ([(header::ALLOW, "POST")], refusal).into_response();
    }
    let _in_flight = match answerer.admit() {
        Ok(in_flight) => in_flight,
        Err(error) => return refuse(&error),
    };
    let body = match receive(&answerer, body).await {
        Ok(body) => body,
        Err(error) => return refuse(&error),
    };
    let request = match wire::decode_check(&body) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%error, "a body that is no request");
            return refuse(&error.into());
        }
    };
    match answer(&answerer, &headers, &request, wire::encode_check).await {
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

fn refuse(error: &AnswerError) -> Response {
    let code = match error {
        AnswerError::InvalidRequest(_) | AnswerError::Body(BodyError::Unreadable(_)) => "invalid_request",
        AnswerError::Body(BodyError::TooLarge(_)) => "body_too_large",
        AnswerError::Body(BodyError::TimedOut) => "body_timeout",
        AnswerError::Overloaded | AnswerError::Body(BodyError::Displaced) => "overloaded",
        AnswerError::NoRules => "no_rules",
        AnswerError::Store(
            StoreError::Unreachable(_) | StoreError::Unanswered(_) | StoreError::Refused(_),
        ) => "store_unavailable",
    };
    refusal(status_of(error), code, &error.to_string())
}

/// An answer without a decision.
fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    json_response(status, json!({ "error": code, "message": message }).to_string())
}
