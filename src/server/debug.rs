//! The debug port: HTTP for operators, with the rules in force and the metrics.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::task::JoinError;

use super::http::wants_json;
use super::local;
use super::lockouts::{self, LockoutAdmin};
use super::page::Page;
use crate::engine::Rules;
use crate::provider::xds::XdsStatus;
use crate::telemetry::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = "\
Paths on this port (/healthcheck is on the HTTP port):

/rlconfig  the rules in force; as JSON with 'Accept: application/json'
/rlconfig?candidate  the candidate rules of CANDIDATE_CONFIG, in the same formats
/lockouts  clients that are locked out; only for callers on this machine
/stats     all metrics, one per line
/metrics   all metrics, for Prometheus
";

/// State of the debug port.
#[derive(Clone)]
pub(super) struct Debug {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    /// Candidate rules, which the rules in force are compared with; `None` if none are configured.
    pub(super) candidate: Option<Arc<ArcSwapOption<Rules>>>,
    /// Connection to the management server, if there is one.
    pub(super) xds: Option<Arc<XdsStatus>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lockouts: LockoutAdmin,
    /// Names of this machine that `Host` may have in requests for local callers.
    pub(super) host_names: Arc<[String]>,
    pub(super) pages: Pages,
}

/// Pages that can take long to write.
#[derive(Clone, Default)]
pub(super) struct Pages {
    rules: Page,
    rules_json: Page,
    candidate: Page,
    candidate_json: Page,
    stats: Page,
    metrics: Page,
}

/// Routes `/`, `/rlconfig`, `/lockouts`, `/stats` and `/metrics`, which only read. Pages that name clients are only for
/// callers on this machine.
pub(super) fn router(debug: Debug) -> Router {
    let local_only = middleware::from_fn_with_state(Arc::clone(&debug.host_names), local::local_only);
    let same_site_only = middleware::from_fn_with_state(Arc::clone(&debug.host_names), local::same_site_only);
    let lockouts = lockouts::router(debug.lockouts.clone()).route_layer(local_only);
    Router::new()
        .route("/", get(async || INDEX))
        .route("/rlconfig", get(rlconfig))
        .route("/stats", get(stats))
        .route("/metrics", get(prometheus))
        .with_state(debug)
        .merge(lockouts)
        .layer(same_site_only)
}

/// Router with only metrics at `path`.
pub(super) fn metrics_router(debug: Debug, path: &str) -> Router {
    Router::new().route(path, get(prometheus)).with_state(debug)
}

async fn rlconfig(State(debug): State<Debug>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let asks_for_candidate = query.is_some_and(|query| query.split(['&', '=']).next() == Some("candidate"));
    let (rules, text, json) = match (&debug.candidate, asks_for_candidate) {
        (_, false) => (&debug.rules, &debug.pages.rules, &debug.pages.rules_json),
        (Some(candidate), true) => (candidate, &debug.pages.candidate, &debug.pages.candidate_json),
        (None, true) => return (StatusCode::NOT_FOUND, "CANDIDATE_CONFIG is not set\n").into_response(),
    };
    if rules.load().is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no rate limit configuration loaded\n").into_response();
    }
    // Loaded when the page is written, not here: requests that come after a reload may share the page.
    let rules = Arc::clone(rules);
    if !wants_json(&headers) {
        let write = move || rules.load().as_deref().map(Rules::dump_text).unwrap_or_default();
        return written(TEXT, text.get(write).await);
    }
    let xds = debug.xds.filter(|_| !asks_for_candidate);
    let write = move || {
        let mut dump = rules.load().as_deref().map(Rules::dump_json).unwrap_or_default();
        if let Some(xds) = xds {
            dump["xds"] = xds.json();
        }
        dump.to_string()
    };
    written("application/json", json.get(write).await)
}

async fn stats(State(Debug { metrics, pages, .. }): State<Debug>) -> Response {
    written(TEXT, pages.stats.get(move || metrics.render_stats()).await)
}

async fn prometheus(State(Debug { metrics, pages, .. }): State<Debug>) -> Response {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    written(format, pages.metrics.get(move || metrics.render_prometheus()).await)
}

fn written(content_type: &'static str, page: Result<Bytes, JoinError>) -> Response {
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, content_type)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
