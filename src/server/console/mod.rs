//! The console: pages for operators, rendered here and kept up to date by a small script.

mod chart;
mod layout;
mod pages;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;

use self::layout::View;
use self::pages::{ExplainQuery, KeyQuery, LockoutQuery, RuleQuery};
use super::admin::{Actor, Admin, DenialQuery, LOGIN_PAGE, TopQuery};

/// Pages.
pub(super) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(now))
        .route("/rules", get(rules))
        .route("/rule", get(rule))
        .route("/keys", get(keys))
        .route("/denials", get(denials))
        .route("/explain", get(explain))
        .route("/key", get(key))
        .route("/lockouts", get(lockouts))
        .route("/overrides", get(overrides))
        .route("/candidate", get(candidate))
        .route("/store", get(store))
        .route("/config", get(config))
        .route("/fleet", get(fleet))
        .route("/audit", get(audit))
        .with_state(admin)
}

/// The form that takes a token, and what every page loads: they show nothing.
pub(super) fn public_router() -> Router {
    Router::new()
        .route(LOGIN_PAGE, get(login))
        .route("/console.css", get(async || asset("text/css; charset=utf-8", include_str!("console.css"))))
        .route(
            "/console.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("console.js"))),
        )
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoginQuery {
    next: String,
    failed: Option<String>,
}

async fn login(Query(query): Query<LoginQuery>) -> Response {
    layout::login(&query.next, query.failed.is_some())
}

type Visitor = Extension<Actor>;

async fn now(State(admin): State<Arc<Admin>>, Extension(actor): Visitor, headers: HeaderMap) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/" };
    view.page(&pages::now(&admin))
}

async fn rules(State(admin): State<Arc<Admin>>, Extension(actor): Visitor, headers: HeaderMap) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/rules" };
    view.page(&pages::rules(&admin))
}

async fn rule(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    Query(query): Query<RuleQuery>,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/rules" };
    view.page(&pages::rule(&admin, &query, &view))
}

async fn keys(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    Query(query): Query<TopQuery>,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/keys" };
    view.page(&pages::keys(&admin, &query))
}

async fn denials(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    Query(query): Query<DenialQuery>,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/denials" };
    view.page(&pages::denials(&admin, &query))
}

async fn explain(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    Query(query): Query<ExplainQuery>,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/explain" };
    view.page(&pages::explain(&admin, &query).await)
}

async fn key(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    Query(query): Query<KeyQuery>,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/keys" };
    view.page(&pages::key(&admin, &query, &view).await)
}

async fn overrides(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/overrides" };
    view.page(&pages::overrides(&admin, &view))
}

async fn lockouts(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    Query(query): Query<LockoutQuery>,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/lockouts" };
    view.page(&pages::lockouts(&admin, &query, &view).await)
}

async fn candidate(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Visitor,
    headers: HeaderMap,
) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/candidate" };
    view.page(&pages::candidate(&admin))
}

async fn store(State(admin): State<Arc<Admin>>, Extension(actor): Visitor, headers: HeaderMap) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/store" };
    view.page(&pages::store(&admin).await)
}

async fn fleet(State(admin): State<Arc<Admin>>, Extension(actor): Visitor, headers: HeaderMap) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/fleet" };
    view.page(&pages::fleet(&admin))
}

async fn config(State(admin): State<Arc<Admin>>, Extension(actor): Visitor, headers: HeaderMap) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/config" };
    view.page(&pages::config(&admin, &view))
}

async fn audit(State(admin): State<Arc<Admin>>, Extension(actor): Visitor, headers: HeaderMap) -> Response {
    let view = View { actor: &actor, headers: &headers, path: "/audit" };
    view.page(&pages::audit(&admin))
}
