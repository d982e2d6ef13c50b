//! `/api/v1/`: JSON for operators, scripts and the console.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Admin;
use super::audit::{AuditEntry, ProblemText, Suppressed};
use super::candidate::CandidateView;
use super::denials::{DenialQuery, DenialView};
use super::fleet::FleetView;
use super::loads::ConfigLoad;
use super::store_view::StoreView;
use super::views::{Config, PointView, RuleView, Summary, TopView};
use crate::engine::Timestamp;
use crate::limiter::observe::{MAX_WINDOW_SECS, TopBy};
use crate::server::http::json_response;
use crate::server::lockouts::{LockoutPage, Page};
use crate::server::schema::{replies, requests};
use crate::server::tracked_body::EventStream;

/// Default number of items in a list.
const LIST: usize = 100;
/// Upper bound on the items in a list.
const MAX_LIST: usize = 1_000;
/// Default window of top keys.
const WINDOW_SECS: u64 = 300;
/// Default window of series.
const SERIES_SECS: u64 = 900;
/// Time between two events of a stream.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Upper bound on denials in one event.
const MAX_EVENT_DENIALS: usize = 20;

/// Parameters of a request. Errors in them are answered in JSON.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let read = Query::from_request_parts(parts, state).await;
        let wrong = |error: QueryRejection| problem(StatusCode::BAD_REQUEST, &error.body_text());
        read.map(|Query(params)| Self(params)).map_err(wrong)
    }
}

/// Parameters in the path of a request. Errors in them are answered in JSON.
pub(super) struct PathParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let read = Path::from_request_parts(parts, state).await;
        read.map(|Path(params)| Self(params)).map_err(|error: PathRejection| bad_request(&error.body_text()))
    }
}

fn json_of(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => json_response(StatusCode::OK, text),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// An answer of type `R`, or an error as JSON.
pub(super) type Answer<R> = Result<Reply<R>, Response>;

/// An answer as JSON.
pub(super) struct Reply<R>(pub(super) R);

impl<R: Serialize> IntoResponse for Reply<R> {
    fn into_response(self) -> Response {
        json_of(&self.0)
    }
}

replies! {
    /// An error.
    struct Problem {
        /// Problem, and what to do about it if that is known.
        error: String,
    }
    /// Rules.
    struct RuleList {
        /// Rules: those with the most denials first, then those with the most hits.
        items: Vec<RuleView>,
    }
    /// Counters.
    struct TopList {
        /// Start of the window, in seconds since the epoch.
        from: u64,
        /// Counters, in the requested order.
        items: Vec<TopView>,
    }
    /// Denials.
    struct DenialList {
        /// Denials, newest first.
        items: Vec<DenialView>,
    }
    /// Rates over time.
    struct Series {
        /// Seconds between two points.
        step_secs: u64,
        /// Path of the rule whose rates they are; `null` for all rules together.
        rule: Option<String>,
        /// Points, oldest first.
        items: Vec<PointView>,
    }
    /// Loads of the rules.
    struct LoadList {
        /// Loads since the start of the replica, newest first; at most 100.
        items: Vec<ConfigLoad>,
    }
    /// Admin actions.
    struct AuditList {
        /// Actions since the start of the replica, newest first: in descending order of `seq`.
        items: Vec<AuditEntry>,
        /// Numbers of rejected writes that are missing from the items and from the log.
        suppressed: Suppressed,
    }
}

/// Pattern of a duration from a second to an hour.
const DURATION: &str = "^(([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2}|3600)s|([1-9]|[1-5][0-9]|60)m|1h)$";
/// Pattern of a duration from a second to an hour, with or without a minus sign.
const TIME_AGO: &str = "^-?(([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2}|3600)s|([1-9]|[1-5][0-9]|60)m|1h)$";

requests! {
    /// No parameters.
    struct NoParameters {}
    /// Parameters of a list.
    struct ListQuery {
        /// Upper bound on the items; 100 by default, at most 1,000.
        limit: Option<u32>,
    }
    /// Parameters of the top counters.
    struct TopQuery {
        /// Order; `hits` by default. `use` is the share of the limit that is used.
        by: Option<String> = { "enum": ["hits", "denied", "use"] },
        /// Length of the window, at most `1h`; `5m` by default.
        window: Option<String> = { "pattern": DURATION, "examples": ["90s", "15m", "1h"] },
        /// Path or position of a rule: `shop.user`, or `shop.yaml:14` whatever the folder.
        rule: Option<String>,
        /// Upper bound on the items; 100 by default, at most 1,000.
        limit: Option<u32>,
    }
    /// Parameters of the rates.
    struct SeriesQuery {
        /// Time before now at which the rates start; `15m` by default.
        from: Option<String> = { "pattern": TIME_AGO, "examples": ["15m", "-1h"] },
        /// Path or position of a rule, for its rates alone: `shop.user`, or `shop.yaml:14` whatever the folder.
        rule: Option<String>,
    }
}

/// An error as JSON: `{"error": …}`.
pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    let mut answer = json_response(status, json!({ "error": message }).to_string());
    answer.extensions_mut().insert(ProblemText(message.to_owned()));
    answer
}

fn bad_request(message: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, message)
}

pub(super) async fn summary(State(admin): State<Arc<Admin>>, _: Params<NoParameters>) -> Answer<Summary> {
    Ok(Reply(admin.summary()))
}

pub(super) async fn rules(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<ListQuery>,
) -> Answer<RuleList> {
    let mut items = admin.rules();
    items.truncate(page(query.limit));
    Ok(Reply(RuleList { items }))
}

pub(super) async fn config(State(admin): State<Arc<Admin>>, _: Params<NoParameters>) -> Answer<Config> {
    Ok(Reply(admin.config()))
}

pub(super) async fn config_loads(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<ListQuery>,
) -> Answer<LoadList> {
    Ok(Reply(LoadList { items: admin.loads.newest(page(query.limit)) }))
}

pub(super) async fn candidate(
    State(admin): State<Arc<Admin>>,
    _: Params<NoParameters>,
) -> Answer<CandidateView> {
    Ok(Reply(admin.candidate()))
}

pub(super) async fn store(State(admin): State<Arc<Admin>>, _: Params<NoParameters>) -> Answer<StoreView> {
    Ok(Reply(admin.store().await))
}

pub(super) async fn fleet(State(admin): State<Arc<Admin>>, _: Params<NoParameters>) -> Answer<FleetView> {
    Ok(Reply(admin.fleet()))
}

pub(super) async fn lockouts(
    State(admin): State<Arc<Admin>>,
    Params(page): Params<Page>,
) -> Answer<LockoutPage> {
    admin.lockouts.page(&page).await.map(Reply).map_err(bad_request)
}

impl TopQuery {
    /// Path or position of the rule whose counters are wanted; `None` for all.
    pub(in crate::server) fn rule(&self) -> Option<&str> {
        self.rule.as_deref().filter(|rule| !rule.is_empty())
    }

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

pub(super) async fn top(State(admin): State<Arc<Admin>>, Params(query): Params<TopQuery>) -> Answer<TopList> {
    let (by, window_secs, limit) = query.read().map_err(|message| bad_request(&message))?;
    let (items, from) = admin.top(by, window_secs, query.rule(), limit);
    Ok(Reply(TopList { from, items }))
}

pub(super) async fn denials(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<DenialQuery>,
) -> Answer<DenialList> {
    Ok(Reply(DenialList { items: admin.denials(&query, page(query.limit)) }))
}

pub(super) async fn series(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<SeriesQuery>,
) -> Answer<Series> {
    let from = query.from.as_deref().map(|from| from.strip_prefix('-').unwrap_or(from));
    let secs = seconds("from", from, SERIES_SECS).map_err(|message| bad_request(&message))?;
    let wanted = query.rule.as_deref().filter(|rule| !rule.is_empty());
    let rule = wanted.and_then(|wanted| admin.rule_path(wanted));
    if wanted.is_some() && rule.is_none() {
        return Err(problem(StatusCode::NOT_FOUND, "no such rule: GET /api/v1/rules lists them"));
    }
    let items = admin.series(secs, rule.as_deref());
    Ok(Reply(Series { step_secs: super::rates::STEP_SECS, rule, items }))
}

pub(super) async fn audit(
    State(admin): State<Arc<Admin>>,
    Params(query): Params<ListQuery>,
) -> Answer<AuditList> {
    let items = admin.audit.newest(page(query.limit));
    Ok(Reply(AuditList { items, suppressed: admin.audit.suppressed() }))
}

/// Server-sent events: `stats` once a second, and `denials` if there are new ones. A client that reads slowly gets
/// fewer events, since none are queued for it. A client that stops reading is disconnected.
pub(super) async fn events(State(admin): State<Arc<Admin>>) -> Response {
    let Ok(permit) = Arc::clone(&admin.event_streams).try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open; try again later");
    };
    let start = EventSource { admin, id: 0, denials_after_ms: 0, queue: VecDeque::new(), _permit: permit };
    let events = stream::unfold(start, |mut source| async move {
        let event = source.next().await;
        Some((Ok::<_, Infallible>(event), source))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)));
    (Extension(EventStream), events).into_response()
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
        // The last microsecond of the millisecond of the newest denial that was sent.
        let after = Timestamp::from_micros(self.denials_after_ms * 1_000 + 999);
        let denials: Vec<DenialView> = self.admin.denials_after(after, None, MAX_EVENT_DENIALS);
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

fn page(limit: Option<u32>) -> usize {
    limit.map_or(LIST, |limit| limit as usize).clamp(1, MAX_LIST)
}

/// Seconds of a duration such as `90s`, `15m` or `1h`, at most [`MAX_WINDOW_SECS`], since nothing older is kept.
fn seconds(name: &str, text: Option<&str>, default: u64) -> Result<u64, String> {
    let Some(text) = text else { return Ok(default) };
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    match number.parse::<u64>().unwrap_or_default().saturating_mul(unit) {
        secs @ 1..=MAX_WINDOW_SECS if is_number => Ok(secs),
        _ => Err(format!("{name}: expected a duration such as 90s, 15m or 1h, from 1s to 1h, not {text:?}")),
    }
}
