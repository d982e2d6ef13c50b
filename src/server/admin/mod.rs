//! The admin listener: an API and a console for operators, on loopback unless authentication is configured.
//!
//! A read needs the role `view`. A write needs a higher role and a JSON body with a reason, must not come from a page
//! of another site, and is recorded in the audit log.

mod access;
mod actions;
mod api;
mod audit;
mod candidate;
mod denials;
mod endpoints;
mod explain;
mod fleet;
mod idempotency;
mod key_gauges;
mod keys;
mod latency;
mod loads;
mod login;
mod openapi;
mod overrides;
mod rates;
mod store_view;
mod views;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

pub(super) use self::access::Actor;
pub use self::access::{Access, AccessSettings, Role, TokenFileError, TrustedProxies, token_and_name};
pub(super) use self::api::TopQuery;
pub(super) use self::audit::{AuditEntry, Suppressed};
pub(super) use self::denials::{DenialQuery, DenialView};
pub(super) use self::keys::parse_descriptor;
pub(super) use self::loads::ConfigLoad;
pub(super) use self::overrides::OverrideView;
pub(super) use self::store_view::NodeView;
use self::views::RuleNames;
pub(super) use self::views::{PointView, RuleLimitView, RuleView, Summary, TopView};

use self::access::Client;
use self::audit::Audit;
use self::fleet::FleetState;
use self::idempotency::Replays;
use self::key_gauges::KeyGauges;
use self::latency::Latency;
use self::loads::Loads;
pub(super) use self::login::LOGIN_PAGE;
use self::rates::Rates;
use self::store_view::KeptReport;
use super::local::{self, Peer};
use super::lockouts::LockoutAdmin;
use super::origin;
use crate::clock::Clock;
use crate::engine::{HitCounts, KeyWriter, Rules, Timestamp};
use crate::limiter::Limiter;
use crate::limiter::observe::Observer;
use crate::limiter::overrides::OverrideBook;
use crate::provider;
use crate::store::fleet::Fleet;
use crate::store::inspect::Inspect;
use crate::store::reset::CounterReset;
use crate::telemetry::metrics::{CandidateMetrics, Metrics};
use crate::tls::ClientCertificate;

/// Upper bound on the body of a request.
const MAX_BODY_BYTES: usize = 256 << 10;
/// Header of a write that may be sent again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Upper bound on concurrent requests that read counters.
const MAX_PEEKS: usize = 16;
/// Upper bound on open event streams.
const MAX_EVENT_STREAMS: usize = 32;

/// Parts of the admin listener.
pub struct AdminParts {
    /// Rules in force.
    pub rules: Arc<ArcSwapOption<Rules>>,
    /// Outcome of the latest load of rules.
    pub rules_status: watch::Receiver<provider::Status>,
    /// Outcome of the latest load of candidate rules; `None` if none are configured.
    pub candidate_status: Option<watch::Receiver<provider::Status>>,
    /// Counts of the candidate rules; `None` if none are configured.
    pub candidate_counts: Option<Arc<CandidateMetrics>>,
    /// Providers of rules, which a reload request wakes.
    pub providers: Vec<provider::Handle>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Observations of all cores.
    pub observer: Arc<Observer>,
    /// Lists and lifts lockouts.
    pub lockouts: LockoutAdmin,
    /// Store of the counters, to report its state.
    pub store: Arc<dyn Inspect>,
    /// Store that replicas share; `None` for counters in memory.
    pub fleet: Option<Arc<dyn Fleet>>,
    /// Writer of counter keys.
    pub keys: KeyWriter,
    /// Limiter for requests of operators, with its own connections to the store.
    pub limiter: Limiter,
    /// Overrides in force.
    pub overrides: Arc<OverrideBook>,
    /// Stores with counters: the main store and the local fallback.
    pub counters: Vec<Arc<dyn CounterReset>>,
    /// Clock of decisions.
    pub clock: Arc<dyn Clock>,
    /// Authentication, and the roles of clients.
    pub access: Arc<Access>,
}

/// State of the admin listener.
pub(super) struct Admin {
    rules: Arc<ArcSwapOption<Rules>>,
    rules_status: watch::Receiver<provider::Status>,
    candidate_status: Option<watch::Receiver<provider::Status>>,
    candidate_counts: Option<Arc<CandidateMetrics>>,
    providers: Vec<provider::Handle>,
    metrics: Arc<Metrics>,
    observer: Arc<Observer>,
    pub(super) lockouts: LockoutAdmin,
    store: Arc<dyn Inspect>,
    store_report: KeptReport,
    fleet: FleetState,
    keys: KeyWriter,
    limiter: Limiter,
    overrides: Arc<OverrideBook>,
    counters: Vec<Arc<dyn CounterReset>>,
    /// Bounds the requests that read counters.
    peeks: Arc<Semaphore>,
    replays: Replays,
    clock: Arc<dyn Clock>,
    pub(super) access: Arc<Access>,
    host_names: Arc<[String]>,
    /// True if the listener speaks TLS.
    is_tls: bool,
    rates: Rates,
    response_time: Latency,
    store_latency: Latency,
    key_gauges: KeyGauges,
    loads: Loads,
    audit: Audit,
    event_streams: Arc<Semaphore>,
    /// Names of rules, cached while these rules are in force.
    rule_names: Mutex<(Weak<Rules>, Arc<RuleNames>)>,
    started_at: Timestamp,
}

impl Admin {
    /// `host_names` are names of this machine that the header `Host` may have without authentication.
    pub(super) fn new(parts: AdminParts, host_names: Arc<[String]>, is_tls: bool) -> Arc<Self> {
        let fleet = FleetState::new(parts.fleet, parts.keys.prefix());
        let admin = Arc::new(Self {
            started_at: parts.clock.now(),
            audit: Audit::new(fleet.id()),
            fleet,
            rules: parts.rules,
            rules_status: parts.rules_status,
            candidate_status: parts.candidate_status,
            candidate_counts: parts.candidate_counts,
            providers: parts.providers,
            metrics: parts.metrics,
            observer: parts.observer,
            lockouts: parts.lockouts,
            store: parts.store,
            store_report: KeptReport::default(),
            keys: parts.keys,
            limiter: parts.limiter,
            overrides: parts.overrides,
            counters: parts.counters,
            peeks: Arc::new(Semaphore::new(MAX_PEEKS)),
            replays: Replays::default(),
            clock: parts.clock,
            access: parts.access,
            host_names,
            is_tls,
            rates: Rates::default(),
            response_time: Latency::default(),
            store_latency: Latency::default(),
            key_gauges: KeyGauges::default(),
            loads: Loads::default(),
            rule_names: Mutex::default(),
            event_streams: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)),
        });
        let observed = Arc::downgrade(&admin);
        admin.metrics.register(move |snapshot| {
            if let Some(admin) = observed.upgrade() {
                admin.audit.add_to(snapshot);
                admin.key_gauges.add_to(snapshot, &admin.observer, || admin.rule_names(), admin.clock.now());
            }
        });
        admin
    }

    /// Samples rates. Never returns.
    pub(super) async fn sample_rates(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(rates::STEP_SECS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.rates.tick(self.clock.now(), self.rule_totals());
            self.response_time.tick(self.metrics.response_time());
            self.store_latency.tick(self.metrics.store_latency());
        }
    }

    /// Hits of each rule up to now, by its path.
    fn rule_totals(&self) -> HashMap<String, HitCounts> {
        self.metrics.rule_totals().into_iter().map(|(path, counts)| (path.to_string(), counts)).collect()
    }

    /// The newest `limit` loads of rules, newest first.
    pub(super) fn config_loads(&self, limit: usize) -> Vec<ConfigLoad> {
        self.loads.newest(limit)
    }

    /// Rejected writes that are not recorded in the audit log.
    pub(super) fn audit_suppressed(&self) -> Suppressed {
        self.audit.suppressed()
    }

    pub(super) fn audit_entries(&self, limit: usize) -> Vec<AuditEntry> {
        self.audit.newest(limit)
    }
}

/// Router of the API under `/api/v1/`, and of `pages`. Routes of `public` need no authentication.
pub(super) fn router(admin: &Arc<Admin>, pages: Router, public: Router) -> Router {
    let api = endpoints::endpoints().into_iter().fold(Router::new(), |api, endpoint| {
        let (path, route) = endpoint.into_route();
        api.route(path, route)
    });
    let replayed = middleware::from_fn_with_state(Arc::clone(admin), idempotency::replayed);
    let api = api.layer(replayed).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(Arc::clone(admin));
    // Logging in and out needs no authentication.
    let sessions = Router::new()
        .route("/session", post(login::log_in))
        .route("/session:end", post(login::log_out))
        .with_state(Arc::clone(admin));
    Router::new()
        .merge(api)
        .merge(pages)
        .method_not_allowed_fallback(async || {
            api::problem(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the Allow header")
        })
        .fallback(async || api::problem(StatusCode::NOT_FOUND, "no such page or endpoint; see docs/admin.md"))
        .layer(middleware::from_fn_with_state(Arc::clone(admin), authenticated))
        .merge(sessions)
        .merge(public)
        .layer(middleware::from_fn_with_state(Arc::clone(admin), same_site_only))
        .layer(middleware::from_fn_with_state(Arc::clone(admin), audit::rejected))
        .layer(middleware::map_response(secure_headers))
}

/// Rejects requests that a browser sends for a page of another site.
async fn same_site_only(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    // With authentication, any `Host` is accepted: a browser keeps credentials by name, so a page under a foreign
    // name that resolves to this server (DNS rebinding) has none.
    let host = origin::host(request.headers(), request.uri());
    let own_name =
        admin.access.is_configured().then(|| origin::without_port(host.unwrap_or_default()).to_owned());
    let names: Vec<_> = admin.host_names.iter().cloned().chain(own_name).collect();
    if origin::is_cross_site(request.headers(), request.uri(), &names) {
        return api::problem(StatusCode::FORBIDDEN, "requests from pages of other sites are rejected");
    }
    next.run(request).await
}

/// Rejects requests that are not authenticated. If no authentication is configured, rejects requests from other
/// machines and requests with a foreign `Host`.
async fn authenticated(
    State(admin): State<Arc<Admin>>,
    peer: Option<Extension<Peer>>,
    certificate: Option<Extension<ClientCertificate>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    let client = Client {
        is_local: peer.is_some_and(|peer| peer.is_local()),
        address: peer.and_then(|peer| peer.address),
        certificate: certificate.as_ref().map(|Extension(certificate)| certificate),
        is_secure: admin.is_tls,
    };
    let is_own_host = admin.access.is_configured() || local::has_own_host(&request, &admin.host_names);
    match admin.access.authenticate(request.method(), request.headers(), client, admin.clock.now()) {
        Ok(_) if !is_own_host => {
            let message = "the Host header must be an IP address, localhost or ADMIN_HOST";
            api::problem(StatusCode::FORBIDDEN, message)
        }
        Ok(actor) => {
            if let Some(trace) = request.extensions().get::<audit::Trace>() {
                trace.authenticated(&actor);
            }
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(access::Rejected { status: StatusCode::UNAUTHORIZED, message }) => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let is_page = request.method() == Method::GET && admin.access.has_tokens();
            let redirect = is_page.then(|| login::login_redirect(request.headers(), path)).flatten();
            redirect.unwrap_or_else(|| {
                let mut answer = api::problem(StatusCode::UNAUTHORIZED, &message);
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                answer
            })
        }
        Err(access::Rejected { status, message }) => api::problem(status, &message),
    }
}

async fn needs_role(role: Role, request: Request, next: Next) -> Response {
    match request.extensions().get::<Actor>() {
        Some(actor) if actor.role >= role => next.run(request).await,
        Some(_) | None => {
            let message = format!("this needs a token with the role {}", role.name());
            api::problem(StatusCode::FORBIDDEN, &message)
        }
    }
}

/// Adds headers that forbid a browser to run foreign scripts, to show the page in a frame, to cache it, and to send
/// its URL to other sites.
async fn secure_headers(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // `no-referrer` would make the origin of a form `null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}
