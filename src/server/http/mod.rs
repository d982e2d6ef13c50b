//! HTTP for callers without gRPC, and for probes: `/json`, the endpoints under `/v1`, `/healthcheck`, `/livez` and
//! `/readyz`.

mod budgets;
mod call;
mod check;
mod json;
mod places;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};

pub(super) use self::call::{json_response, wants_json};
use self::check::{check, refuse_callers, refuse_other_sites};
use self::json::json;
use super::health::Health;
use super::service::RateLimitService;

/// Service behind `/json`, and the host names under which pages may call it.
#[derive(Clone)]
struct Endpoint {
    service: Arc<RateLimitService>,
    own_names: Arc<[String]>,
}

/// `/json`, the endpoints under `/v1`, and the probes `/healthcheck`, `/livez` and `/readyz`. `own_names` are host names
/// of the listener.
pub(super) fn router(service: Arc<RateLimitService>, health: Health, own_names: Arc<[String]>) -> Router {
    let v1 = Router::new()
        .route("/v1/check", any(check))
        .route("/v1/acquire", any(places::acquire))
        .route("/v1/renew", any(places::renew))
        .route("/v1/release", any(places::release))
        .route("/v1/reserve", any(budgets::reserve))
        .route("/v1/settle", any(budgets::settle))
        .route("/v1/extend", any(places::extend))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&own_names), refuse_callers))
        .with_state(Arc::clone(&service));
    let usage = get(budgets::usage_of_query).post(budgets::usage).fallback(budgets::refuse_method);
    let usage = Router::new()
        .route("/v1/usage", usage)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&own_names), refuse_other_sites))
        .with_state(Arc::clone(&service));
    Router::new()
        .merge(v1)
        .merge(usage)
        .route("/json", any(json).with_state(Endpoint { service, own_names }))
        .route("/healthcheck", get(healthcheck).with_state(health.clone()))
        .route("/readyz", get(readyz).with_state(health))
        .route("/livez", get(async || "OK"))
}

/// Answers 500 while the replica is not ready, as envoyproxy/ratelimit does.
async fn healthcheck(State(health): State<Health>, headers: HeaderMap) -> Response {
    health_response(&health, &headers, StatusCode::INTERNAL_SERVER_ERROR)
}

/// Answers 503 while the replica is not ready.
async fn readyz(State(health): State<Health>, headers: HeaderMap) -> Response {
    health_response(&health, &headers, StatusCode::SERVICE_UNAVAILABLE)
}

fn health_response(health: &Health, headers: &HeaderMap, not_ready: StatusCode) -> Response {
    let is_ready = health.is_ready();
    let status = if is_ready { StatusCode::OK } else { not_ready };
    if wants_json(headers) {
        return json_response(status, health.detail().to_string());
    }
    (status, if is_ready { "OK" } else { "NOT_SERVING" }).into_response()
}
