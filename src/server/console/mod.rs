//! The console: pages for operators, rendered here and kept up to date by a small script.

mod chart;
mod pages;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use maud::{DOCTYPE, Markup, html};

use super::admin::{Admin, DenialQuery, TopQuery};

/// Request header of the script, which wants the content of a page without what is around it.
const PART_HEADER: &str = "x-tollgate-part";

const PAGES: [(&str, &str, char); 7] = [
    ("/", "Now", 'n'),
    ("/rules", "Rules", 'r'),
    ("/keys", "Keys", 'k'),
    ("/denials", "Denials", 'd'),
    ("/lockouts", "Lockouts", 'l'),
    ("/config", "Config", 'c'),
    ("/audit", "Audit", 'a'),
];

/// Pages and their style sheet and script.
pub(super) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(now))
        .route("/rules", get(rules))
        .route("/keys", get(keys))
        .route("/denials", get(denials))
        .route("/lockouts", get(lockouts))
        .route("/config", get(config))
        .route("/audit", get(audit))
        .with_state(admin)
        .route("/console.css", get(async || asset("text/css; charset=utf-8", include_str!("console.css"))))
        .route(
            "/console.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("console.js"))),
        )
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

async fn now(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    page(&headers, "/", pages::now(&admin))
}

async fn rules(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    page(&headers, "/rules", pages::rules(&admin))
}

async fn keys(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<TopQuery>,
    headers: HeaderMap,
) -> Response {
    page(&headers, "/keys", pages::keys(&admin, &query))
}

async fn denials(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<DenialQuery>,
    headers: HeaderMap,
) -> Response {
    page(&headers, "/denials", pages::denials(&admin, &query))
}

async fn lockouts(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    page(&headers, "/lockouts", pages::lockouts(&admin).await)
}

async fn config(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    page(&headers, "/config", pages::config(&admin))
}

async fn audit(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    page(&headers, "/audit", pages::audit(&admin))
}

/// The page at `path` with `content`; the content alone where the script asks for it.
fn page(headers: &HeaderMap, path: &str, content: Markup) -> Response {
    if headers.contains_key(PART_HEADER) {
        return Html(content.into_string()).into_response();
    }
    let title = PAGES.iter().find(|(of, ..)| *of == path).map_or("", |(_, title, _)| title);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · tollgate" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/console.css";
                script src="/console.js" defer {}
            }
            body {
                header {
                    strong { "tollgate" }
                    nav aria-label="Pages" {
                        @for (of, title, key) in PAGES {
                            a href=(of) data-key=(key) aria-current=[(of == path).then_some("page")] { (title) }
                        }
                    }
                    span #live role="status" { "static" }
                    button #pause type="button" aria-pressed="false" { "Pause" }
                }
                main { (content) }
            }
        }
    };
    Html(page.into_string()).into_response()
}
