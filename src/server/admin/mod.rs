//! The admin listener: an API and a console for operators, on loopback unless tokens are configured.
//!
//! Reading needs the role `view`; every write needs a higher one, a JSON body with a reason, and no other site
//! behind it, and is recorded in the audit log.

mod access;
mod actions;
mod api;
mod audit;
mod endpoints;
mod openapi;
mod rates;
mod views;

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

pub use self::access::{Role, TokenFileError, Tokens};
pub(super) use self::api::{DenialQuery, TopQuery};
use self::views::RuleNames;
pub(super) use self::views::{DenialView, PointView, RuleView, Summary, TopView};

use self::access::Actor;
use self::audit::Audit;
use self::rates::Rates;
use super::local::{self, LocalPeer};
use super::lockouts::LockoutAdmin;
use crate::clock::Clock;
use crate::engine::{KeyWriter, Rules, Timestamp};
use crate::limiter::observe::Observer;
use crate::provider;
use crate::telemetry::metrics::Metrics;

/// Event streams that may be open.
const MAX_EVENT_STREAMS: usize = 32;

/// Parts of the admin listener.
pub struct AdminParts {
    /// Rules in force.
    pub rules: Arc<ArcSwapOption<Rules>>,
    /// Outcome of the latest load of rules.
    pub rules_status: watch::Receiver<provider::Status>,
    /// Providers, which a reload wakes.
    pub providers: Vec<provider::Handle>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Observations of all cores.
    pub observer: Arc<Observer>,
    /// Lockouts.
    pub lockouts: LockoutAdmin,
    /// Keys of counters.
    pub keys: KeyWriter,
    /// Clock of decisions.
    pub clock: Arc<dyn Clock>,
    /// Tokens; `None` for clients on this machine alone, which may read.
    pub tokens: Option<Arc<Tokens>>,
}

/// State of the admin listener.
pub(super) struct Admin {
    rules: Arc<ArcSwapOption<Rules>>,
    rules_status: watch::Receiver<provider::Status>,
    providers: Vec<provider::Handle>,
    metrics: Arc<Metrics>,
    observer: Arc<Observer>,
    pub(super) lockouts: LockoutAdmin,
    keys: KeyWriter,
    clock: Arc<dyn Clock>,
    tokens: Option<Arc<Tokens>>,
    host_names: Arc<[String]>,
    rates: Rates,
    audit: Audit,
    event_streams: Arc<Semaphore>,
    /// Names of the rules in force, for as long as they are.
    rule_names: Mutex<(Weak<Rules>, Arc<RuleNames>)>,
    started_at: Timestamp,
}

impl Admin {
    /// `host_names` are names of this machine that `Host` may have where there are no tokens.
    pub(super) fn new(parts: AdminParts, host_names: Arc<[String]>) -> Arc<Self> {
        let AdminParts { rules, rules_status, providers, metrics, observer, lockouts, keys, clock, tokens } =
            parts;
        Arc::new(Self {
            started_at: clock.now(),
            rules,
            rules_status,
            providers,
            metrics,
            observer,
            lockouts,
            keys,
            clock,
            tokens,
            host_names,
            rates: Rates::default(),
            audit: Audit::default(),
            rule_names: Mutex::default(),
            event_streams: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)),
        })
    }

    /// Samples rates, for ever.
    pub(super) async fn sample_rates(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(rates::STEP_SECS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let snapshot = self.metrics.snapshot();
            let totals = snapshot.rules().iter().map(|(path, counts)| (path.to_string(), *counts));
            self.rates.tick(self.clock.now(), totals);
        }
    }

    pub(super) fn audit_entries(&self, limit: usize) -> Vec<audit::AuditEntry> {
        self.audit.newest(limit)
    }
}

/// The API under `/api/v1/`, and `pages` everywhere else.
pub(super) fn router(admin: &Arc<Admin>, pages: Router) -> Router {
    let api = endpoints::endpoints().into_iter().fold(Router::new(), |api, endpoint| {
        let (path, route) = endpoint.into_route();
        api.route(path, route)
    });
    let api = api.with_state(Arc::clone(admin));
    Router::new()
        .merge(api)
        .merge(pages)
        .method_not_allowed_fallback(async || {
            api::problem(StatusCode::METHOD_NOT_ALLOWED, "no such method here; see the Allow header")
        })
        .fallback(async || api::problem(StatusCode::NOT_FOUND, "no such page or endpoint; see docs/admin.md"))
        .layer(middleware::from_fn_with_state(Arc::clone(admin), authenticated))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin.host_names), local::same_site_only))
        .layer(middleware::map_response(secure_headers))
}

/// Rejects requests without a token, or without tokens those of other machines and foreign `Host` names.
async fn authenticated(
    State(admin): State<Arc<Admin>>,
    peer: Option<Extension<LocalPeer>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_local = peer.is_some_and(|Extension(LocalPeer(is_local))| is_local);
    let tokens = admin.tokens.as_deref();
    let is_own_host = tokens.is_some() || local::has_own_host(&request, &admin.host_names);
    match access::authenticate(tokens, request.headers(), is_local) {
        Ok(_) if !is_own_host => {
            let message = "the Host header must be an IP address, localhost or ADMIN_HOST";
            api::problem(StatusCode::FORBIDDEN, message)
        }
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(access::Rejected { status, message }) => {
            let mut answer = api::problem(status, &message);
            if status == StatusCode::UNAUTHORIZED {
                let scheme =
                    HeaderValue::from_static("Basic realm=\"tollgate: any name, token as password\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            answer
        }
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

/// Headers that keep a browser from running, framing or leaking anything.
async fn secure_headers(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}
