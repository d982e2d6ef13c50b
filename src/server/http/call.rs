//! Request handling that the endpoints share.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, Span};

use super::super::admission::BodyError;
use super::super::service::{Call, CallError, RateLimitService};
use super::super::wire::{AcquireRequest, InvalidRequest, ReceivedRequest};
use crate::engine::Decision;
use crate::telemetry::traces;

/// Upper bound, in bytes, on the body of a request; larger ones get 413. Decoding blocks the core.
pub(super) const MAX_BODY_BYTES: usize = 256 * 1024;
/// Bytes of a too large body that are read and discarded, and the time for it.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Receives `body`, decides the request in it, which `decode` reads, and encodes the decision.
pub(super) async fn decide<T>(
    service: &RateLimitService,
    headers: &HeaderMap,
    body: Body,
    decode: impl FnOnce(&[u8]) -> Result<AcquireRequest<'_>, InvalidRequest>,
    encode: impl FnOnce(&ReceivedRequest<'_>, &Decision<'_>) -> T,
) -> Result<T, CallError> {
    let (call, body) = begin(service, body).await?;
    let span = span(headers);
    let decided = async {
        let AcquireRequest { request, holds } = call.accept(decode(&body))?;
        let request = call.accept(request.received())?;
        if !service.settings().http_refunds {
            call.without_refunds(&request)?;
        }
        let rules = call.snapshot();
        let decision = call.acquire(&rules, &request, holds.of(&request)).await?;
        Ok(encode(&request, &decision))
    };
    decided.instrument(span).await
}

/// Begins a call and receives its body.
pub(super) async fn begin(service: &RateLimitService, body: Body) -> Result<(Call<'_>, Bytes), CallError> {
    let call = service.begin(Instant::now())?;
    let body = receive(service, body).await?;
    Ok((call, body))
}

/// Span of a call.
pub(super) fn span(headers: &HeaderMap) -> Span {
    let span = tracing::info_span!("ShouldRateLimit Execution");
    traces::set_parent(&span, headers);
    span
}

/// Receives the body of a request that was admitted.
async fn receive(service: &RateLimitService, mut body: Body) -> Result<Bytes, CallError> {
    let received = service.receive(&mut body, MAX_BODY_BYTES, |_| true).await;
    if matches!(received, Err(CallError::Body(BodyError::TooLarge(_)))) {
        // Over HTTP/1 a client that is still sending would get a reset instead of the answer.
        let rest = Limited::new(body, MAX_DISCARDED_BYTES);
        let discard = async { rest.into_data_stream().for_each(async |_| ()).await };
        // A client that sends even more may lose the answer.
        drop(timeout(DISCARD_TIMEOUT, discard).await);
    }
    received
}

/// Status of an answer without a decision.
pub(super) const fn status_of(error: &CallError) -> StatusCode {
    match error {
        CallError::InvalidRequest(_) | CallError::Body(BodyError::Unreadable) => StatusCode::BAD_REQUEST,
        CallError::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
        CallError::Body(BodyError::TimedOut) => StatusCode::REQUEST_TIMEOUT,
        CallError::RefundsDisabled => StatusCode::FORBIDDEN,
        CallError::Body(BodyError::Displaced)
        | CallError::NoRules
        | CallError::Overloaded
        | CallError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// True if the client accepts JSON.
pub(in crate::server) fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("application/json"))
}

/// Response with a JSON body.
pub(in crate::server) fn json_response(status: StatusCode, json: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}
