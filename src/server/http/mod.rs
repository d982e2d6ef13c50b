//! HTTP for callers without gRPC, and for probes: `/json`, `/v1/check` and `/healthcheck`.

mod call;
mod check;
mod json;
mod origin;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};

pub(super) use self::call::{json_response, wants_json};
use self::check::check;
use self::json::json;
use super::health::Health;
use super::service::RateLimitService;

/// `/json`, `/v1/check` and `/healthcheck`.
pub(super) fn router(service: Arc<RateLimitService>, health: Health) -> Router {
    Router::new()
        .route("/json", any(json).with_state(Arc::clone(&service)))
        .route("/v1/check", any(check).with_state(service))
        .route("/healthcheck", get(healthcheck).with_state(health))
}

async fn healthcheck(State(health): State<Health>, headers: HeaderMap) -> Response {
    let is_ready = health.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if wants_json(&headers) {
        return json_response(status, health.detail().to_string());
    }
    (status, if is_ready { "OK" } else { "NOT_SERVING" }).into_response()
}
