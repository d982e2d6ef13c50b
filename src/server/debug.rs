//! HTTP for operators: the rules in force, and what was counted.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use super::explain::{Explainer, explain_request};
use super::http::{json_response, wants_json};
use super::local;
use super::lockouts::{self, LockoutAdmin};
use crate::engine::Rules;
use crate::provider::xds::XdsStatus;
use crate::telemetry::metrics::Metrics;

const INDEX: &str = "\
/healthcheck is on the HTTP port. Here:

/rlconfig  the rules in force; as JSON with 'Accept: application/json'
/rlconfig?candidate  those of CANDIDATE_CONFIG, in the same way
/explain   'POST' a request as to /json: the rule that applies, why, and the levels of its counters
/lockouts  clients that are locked out, for callers on this machine; 'DELETE /lockouts/ID' lifts one
/stats     every counter, a line each
/metrics   the same for Prometheus
";

/// What operators look at.
#[derive(Clone)]
pub(super) struct Debug {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    /// Those that they are compared with, where there are to be any.
    pub(super) candidate: Option<Arc<ArcSwapOption<Rules>>>,
    /// Connection to the management server, if there is one.
    pub(super) xds: Option<Arc<XdsStatus>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lockouts: LockoutAdmin,
    pub(super) explainer: Explainer,
    /// Names of this machine that `Host` may have where lockouts are asked for.
    pub(super) host_names: Arc<[String]>,
}

/// `/`, `/rlconfig`, `/explain`, `/lockouts`, `/stats` and `/metrics`. What changes something, or names clients, is for
/// callers on this machine.
pub(super) fn router(debug: Debug) -> Router {
    let local_only = middleware::from_fn_with_state(Arc::clone(&debug.host_names), local::local_only);
    let same_site_only = middleware::from_fn_with_state(Arc::clone(&debug.host_names), local::same_site_only);
    let explain = post(explain_request).with_state(debug.explainer.clone());
    let lockouts = lockouts::router(debug.lockouts.clone()).route_layer(local_only);
    Router::new()
        .route("/", get(async || INDEX))
        .route("/rlconfig", get(rlconfig))
        .route("/explain", explain)
        .route("/stats", get(async |State(debug): State<Debug>| debug.metrics.render_stats()))
        .route("/metrics", get(prometheus))
        .with_state(debug)
        .merge(lockouts)
        .layer(same_site_only)
}

/// Metrics at `path`, and nothing else.
pub(super) fn metrics_router(debug: Debug, path: &str) -> Router {
    Router::new().route(path, get(prometheus)).with_state(debug)
}

async fn rlconfig(State(debug): State<Debug>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let asks_for_candidate = query.is_some_and(|query| query.split(['&', '=']).next() == Some("candidate"));
    let rules = match (&debug.candidate, asks_for_candidate) {
        (_, false) => &debug.rules,
        (Some(candidate), true) => candidate,
        (None, true) => return (StatusCode::NOT_FOUND, "CANDIDATE_CONFIG is not set\n").into_response(),
    };
    match rules.load_full() {
        None => (StatusCode::SERVICE_UNAVAILABLE, "no rate limit configuration loaded\n").into_response(),
        Some(rules) if wants_json(&headers) => {
            let mut dump = rules.dump_json();
            if let Some(xds) = debug.xds.filter(|_| !asks_for_candidate) {
                dump["xds"] = xds.json();
            }
            json_response(StatusCode::OK, dump.to_string())
        }
        Some(rules) => rules.dump_text().into_response(),
    }
}

async fn prometheus(State(debug): State<Debug>) -> Response {
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, debug.metrics.render_prometheus()).into_response()
}
