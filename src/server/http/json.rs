//! `POST /json`: `ShouldRateLimit` in proto3 JSON, as envoyproxy/ratelimit answers it.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::super::origin::is_cross_site;
use super::super::wire::{AcquireRequest, decode_json, encode_json};
use super::Endpoint;
use super::call::{decide, json_response, status_of};
use crate::engine::Code;

/// Answers 200, or 429 over the limit. Errors are plain text. Any method is accepted, as in
/// envoyproxy/ratelimit.
pub(super) async fn json(
    State(Endpoint { service, own_names }): State<Endpoint>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if is_cross_site(&headers, &uri, &own_names) {
        return (StatusCode::FORBIDDEN, "cross-site request\n").into_response();
    }
    let answer = decide(
        &service,
        &headers,
        body,
        |body| decode_json(body).map(AcquireRequest::from),
        |request, decision| (decision.code, encode_json(request, decision, service.settings())),
    );
    match answer.await {
        Ok((Code::OverLimit, json)) => json_response(StatusCode::TOO_MANY_REQUESTS, json),
        Ok((Code::Ok, json)) => json_response(StatusCode::OK, json),
        Err(error) => (status_of(&error), format!("{error}\n")).into_response(),
    }
}
