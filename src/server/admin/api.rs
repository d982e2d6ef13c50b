//! `/api/v1/`: JSON for operators, scripts and the console.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::views::DenialView;
use crate::engine::Timestamp;
use crate::limiter::observe::{Denial, TopBy};
use crate::server::http::json_response;

/// Items of a list, unless `limit` says otherwise; and at most.
const LIST: usize = 100;
const MAX_LIST: usize = 1_000;
/// Window of top keys, unless `window` says otherwise.
const WINDOW_SECS: u64 = 300;
/// Window of series, unless `from` says otherwise.
const SERIES_SECS: u64 = 900;
/// Time between two events of a stream.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Denials in one event.
const MAX_EVENT_DENIALS: usize = 20;

/// Parameters of a request; mistakes in them are reported as JSON.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let read = Query::from_request_parts(parts, state).await;
        let wrong = |error: QueryRejection| problem(StatusCode::BAD_REQUEST, &error.body_text());
        read.map(|Query(params)| Self(params)).map_err(wrong)
    }
}

pub(super) fn json_of(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => json_response(StatusCode::OK, text),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// An error as JSON: `{"error": …}`.
pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    json_response(status, json!({ "error": message }).to_string())
}

fn list<T: Serialize>(items: &[T]) -> Response {
    json_of(&json!({ "items": items }))
}

pub(super) async fn summary(State(admin): State<Arc<Admin>>) -> Response {
    json_of(&admin.summary())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
}

pub(super) async fn rules(State(admin): State<Arc<Admin>>, Params(query): Params<ListQuery>) -> Response {
    let mut rules = admin.rules();
    rules.truncate(page(query.limit));
    list(&rules)
}

pub(super) async fn config(State(admin): State<Arc<Admin>>) -> Response {
    json_of(&admin.config())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct TopQuery {
    by: Option<String>,
    window: Option<String>,
    rule: Option<String>,
    limit: Option<usize>,
}

impl TopQuery {
    /// Order, window in seconds, and number of keys.
    ///
    /// # Errors
    /// A message that names the parameter.
    pub(in crate::server) fn read(&self) -> Result<(TopBy, u64, usize), String> {
        let by = match self.by.as_deref() {
            None | Some("hits") => TopBy::Hits,
            Some("denied") => TopBy::Denied,
            Some("use") => TopBy::Use,
            Some(other) => return Err(format!("by: expected hits, denied or use, not {other:?}")),
        };
        Ok((by, seconds("window", self.window.as_deref(), WINDOW_SECS)?, page(self.limit)))
    }
}

pub(super) async fn top(State(admin): State<Arc<Admin>>, Params(query): Params<TopQuery>) -> Response {
    let (by, window_secs, limit) = match query.read() {
        Ok(read) => read,
        Err(message) => return problem(StatusCode::BAD_REQUEST, &message),
    };
    let (items, from) =
        admin.top(by, window_secs, query.rule.as_deref().filter(|rule| !rule.is_empty()), limit);
    json_of(&json!({ "from": from, "items": items }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct DenialQuery {
    rule: Option<String>,
    layer: Option<String>,
    /// Text within the descriptors.
    q: Option<String>,
    limit: Option<usize>,
}

impl DenialQuery {
    pub(in crate::server) fn is_wanted(&self, denial: &Denial) -> bool {
        let is = |wanted: &Option<String>, text: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || Some(wanted) == text.as_ref())
        };
        is(&self.rule, &denial.rule)
            && is(&self.layer, &denial.layer)
            && self.q.as_ref().is_none_or(|q| denial.descriptors.contains(q.as_str()))
    }

    pub(in crate::server) fn text(&self) -> &str {
        self.q.as_deref().unwrap_or_default()
    }
}

pub(super) async fn denials(State(admin): State<Arc<Admin>>, Params(query): Params<DenialQuery>) -> Response {
    let is_wanted = |denial: &Denial| query.is_wanted(denial);
    list(&admin.denials(Timestamp::from_secs(0), is_wanted, page(query.limit)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeriesQuery {
    /// Time before now: `15m`, or `-15m`.
    from: Option<String>,
}

pub(super) async fn series(State(admin): State<Arc<Admin>>, Params(query): Params<SeriesQuery>) -> Response {
    let from = query.from.as_deref().map(|from| from.trim_start_matches('-'));
    match seconds("from", from, SERIES_SECS) {
        Ok(secs) => json_of(&json!({ "step_secs": super::rates::STEP_SECS, "items": admin.series(secs) })),
        Err(message) => problem(StatusCode::BAD_REQUEST, &message),
    }
}

pub(super) async fn audit(State(admin): State<Arc<Admin>>, Params(query): Params<ListQuery>) -> Response {
    list(&admin.audit.newest(page(query.limit)))
}

/// Server-sent events: `stats` once a second, and `denials` where there are new ones. A client that reads slowly
/// gets fewer events; nothing queues for it.
pub(super) async fn events(State(admin): State<Arc<Admin>>) -> Response {
    let Ok(permit) = Arc::clone(&admin.event_streams).try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open; try again later");
    };
    let start = EventSource { admin, id: 0, denials_after_ms: 0, queue: VecDeque::new(), _permit: permit };
    let events = stream::unfold(start, |mut source| async move {
        let event = source.next().await;
        Some((Ok::<_, Infallible>(event), source))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

struct EventSource {
    admin: Arc<Admin>,
    id: u64,
    denials_after_ms: u64,
    queue: VecDeque<Event>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl EventSource {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.id += 1;
                return event.id(self.id.to_string());
            }
            if self.id > 0 {
                tokio::time::sleep(EVENT_INTERVAL).await;
            }
            self.fill();
        }
    }

    fn fill(&mut self) {
        self.queue.push_back(event("stats", &self.admin.summary()));
        // The end of the millisecond of the newest denial that was sent.
        let after = Timestamp::from_micros(self.denials_after_ms * 1_000 + 999);
        let denials: Vec<DenialView> = self.admin.denials(after, |_| true, MAX_EVENT_DENIALS);
        if let Some(newest) = denials.first() {
            self.denials_after_ms = newest.at_ms;
            self.queue.push_back(event("denials", &denials));
        }
    }
}

fn event(name: &str, value: &impl Serialize) -> Event {
    let data = serde_json::to_string(value).unwrap_or_default();
    Event::default().event(name).retry(Duration::from_secs(2)).data(data)
}

fn page(limit: Option<usize>) -> usize {
    limit.unwrap_or(LIST).clamp(1, MAX_LIST)
}

/// Seconds of a duration such as `90s`, `15m` or `1h`.
fn seconds(name: &str, text: Option<&str>, default: u64) -> Result<u64, String> {
    let Some(text) = text else { return Ok(default) };
    match crate::engine::duration::parse(text) {
        Some(duration) if !duration.is_zero() => Ok(duration.as_secs().max(1)),
        _ => Err(format!("{name}: expected a duration such as 90s, 15m or 1h, not {text:?}")),
    }
}
