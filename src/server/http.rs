//! HTTP for callers without gRPC, and for probes: `/json`, `/v1/check` and `/healthcheck`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use prost::Message as _;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::admission::BodyError;
use super::answer::{AnswerError, Answerer};
use super::check::check;
use super::health::Health;
use super::wire::{self, AnswerSettings};
use crate::engine::Decision;
use crate::pb;
use crate::telemetry::traces;

/// Bytes of one body, at the most; more is 413.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a body beyond that which are read and thrown away, and the time for it.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// `/json`, `/v1/check` and `/healthcheck`.
pub(super) fn router(answerer: Arc<Answerer>, health: Health) -> Router {
    Router::new()
        .route("/json", any(json).with_state(Arc::clone(&answerer)))
        .route("/v1/check", any(check).with_state(answerer))
        .route("/healthcheck", get(healthcheck).with_state(health))
}

/// `ShouldRateLimit` in proto3 JSON, as envoyproxy/ratelimit answers it, whatever the method.
async fn json(State(answerer): State<Arc<Answerer>>, headers: HeaderMap, body: Body) -> Response {
    let _in_flight = match answerer.admit() {
        Ok(in_flight) => in_flight,
        Err(error) => return refuse(&error),
    };
    let body = match receive(&answerer, body).await {
        Ok(body) => body,
        Err(error) => return refuse(&error),
    };
    let request: pb::RateLimitRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%error, "a body that is no request");
            return (StatusCode::BAD_REQUEST, "Bad Request\n").into_response();
        }
    };
    let answer = answer(&answerer, &headers, &request, wire::encode).await;
    let answer = answer.map(|answer| pb::RateLimitResponse::decode(answer).unwrap_or_default());
    match answer.map(|answer| (answer.overall_code(), serde_json::to_string(&answer))) {
        Ok((pb::Code::OverLimit, Ok(json))) => json_response(StatusCode::TOO_MANY_REQUESTS, json),
        Ok((pb::Code::Ok, Ok(json))) => json_response(StatusCode::OK, json),
        Ok((pb::Code::Unknown, _)) => json_response(StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned()),
        Ok((_, Err(error))) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &AnswerError) -> Response {
    (status_of(error), format!("{error}\n")).into_response()
}

/// Receives the body of a request that was admitted.
pub(super) async fn receive(answerer: &Answerer, mut body: Body) -> Result<Bytes, AnswerError> {
    let received = answerer.receive(&mut body, MAX_BODY_BYTES, |_| true).await;
    if matches!(received, Err(AnswerError::Body(BodyError::TooLarge(_)))) {
        // Over HTTP/1 a client that is still sending would meet a reset in place of the answer.
        let rest = Limited::new(body, MAX_DISCARDED_BYTES);
        let discard = async { rest.into_data_stream().for_each(async |_| ()).await };
        // What is left after that may be lost with the connection.
        drop(timeout(DISCARD_TIMEOUT, discard).await);
    }
    received
}

/// Answers `request`, as [`Answerer::answer`] does.
pub(super) async fn answer<T>(
    answerer: &Answerer,
    headers: &HeaderMap,
    request: &pb::RateLimitRequest,
    encode: impl FnOnce(&[u8], &Decision<'_>, &AnswerSettings) -> T,
) -> Result<T, AnswerError> {
    let span = tracing::info_span!("ShouldRateLimit Execution");
    traces::set_parent(&span, headers);
    let message = request.encode_to_vec();
    answerer.answer(&message, Instant::now(), None, encode).instrument(span).await
}

/// What an error is in HTTP.
pub(super) const fn status_of(error: &AnswerError) -> StatusCode {
    match error {
        AnswerError::InvalidRequest(_) | AnswerError::Body(BodyError::Unreadable(_)) => {
            StatusCode::BAD_REQUEST
        }
        AnswerError::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
        AnswerError::Body(BodyError::TimedOut) => StatusCode::REQUEST_TIMEOUT,
        AnswerError::Body(BodyError::Displaced)
        | AnswerError::NoRules
        | AnswerError::Overloaded
        | AnswerError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn healthcheck(State(health): State<Health>, headers: HeaderMap) -> Response {
    let is_ready = health.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if wants_json(&headers) {
        return json_response(status, health.detail().to_string());
    }
    (status, if is_ready { "OK" } else { "NOT_SERVING" }).into_response()
}

/// Whether the caller asks for JSON where there is text, too.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("application/json"))
}

pub(super) fn json_response(status: StatusCode, json: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}
