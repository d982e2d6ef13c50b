//! Health of this replica, the same over gRPC and HTTP.
//!
//! Unhealthy means that this replica is worse than its peers: it has no rules, or is shutting down. By default
//! an unreachable store does not make it unhealthy, since all replicas would be taken out of service together.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use crate::provider;
use crate::provider::xds::XdsStatus;

/// Service names with a health status: the server as a whole, that of envoyproxy/ratelimit, and the gRPC
/// service.
const NAMES: [&str; 3] = ["", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService"];

/// Upper bound on rule errors in the detail, which any client may request at any rate.
const SHOWN_ERRORS: usize = 10;

/// Rules that a replica needs before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// True if rules without a domain are not enough.
    pub needs_a_domain: bool,
    /// True if the first rules may come later; requests fail until then.
    pub ready_without_rules: bool,
}

/// State of the store.
#[derive(Clone)]
pub struct StoreHealth {
    /// Reachability of the store; `None` if health does not depend on it.
    pub reachable: Option<watch::Receiver<bool>>,
    /// The state as a JSON object, read for each detailed health check.
    pub detail: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// Health of this replica.
#[derive(Clone)]
pub(super) struct Health {
    rules: watch::Receiver<provider::Status>,
    store: StoreHealth,
    draining: watch::Sender<bool>,
    policy: HealthPolicy,
    /// Connection to the management server; `None` without xDS.
    xds: Option<Arc<XdsStatus>>,
    grpc: HealthReporter,
}

impl Health {
    pub(super) fn new(
        rules: watch::Receiver<provider::Status>,
        policy: HealthPolicy,
        store: StoreHealth,
        xds: Option<Arc<XdsStatus>>,
    ) -> Self {
        let draining = watch::Sender::new(false);
        Self { rules, store, draining, policy, xds, grpc: HealthReporter::new() }
    }

    /// gRPC health service; [`Health::report`] must run to keep it up to date.
    pub(super) fn grpc_service(&self) -> HealthService {
        HealthService::from_health_reporter(self.grpc.clone())
    }

    /// Makes this replica unhealthy for good.
    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(super) fn is_ready(&self) -> bool {
        let rules = self.rules.borrow();
        let is_loaded = rules.loaded_at.is_some() && !rules.is_partial;
        let has_rules = is_loaded || self.policy.ready_without_rules;
        let has_domain = rules.domains > 0 || !self.policy.needs_a_domain;
        has_rules && has_domain && self.has_store() && !*self.draining.borrow()
    }

    fn has_store(&self) -> bool {
        self.store.reachable.as_ref().is_none_or(|reached| *reached.borrow())
    }

    /// Details as JSON.
    pub(super) fn detail(&self) -> Value {
        let rules = self.rules.borrow();
        json!({
            "ready": self.is_ready(),
            "draining": *self.draining.borrow(),
            "store": (self.store.detail)(),
            "xds": self.xds.as_ref().map(|xds| xds.json()),
            "rules": {
                "domains": rules.domains,
                "rules": rules.rules,
                "loaded_at": rules.loaded_at.map(crate::engine::Timestamp::as_secs),
                "errors": rules.error.as_ref().map_or(0, |errors| errors.count()),
                "error": rules.error.as_ref().map(|errors| errors.first(SHOWN_ERRORS).to_string()),
            },
        })
    }

    /// Updates the gRPC health service on every change. Never returns.
    pub(super) async fn report(self) {
        let (mut rules, mut draining) = (self.rules.clone(), self.draining.subscribe());
        let mut store = self.store.reachable.clone();
        let store_changed = async |store: &mut Option<watch::Receiver<bool>>| match store {
            Some(reached) => reached.changed().await,
            None => std::future::pending().await,
        };
        loop {
            let status = if self.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in NAMES {
                self.grpc.set_service_status(name, status).await;
            }
            tokio::select! {
                Ok(()) = rules.changed() => {}
                Ok(()) = draining.changed() => {}
                Ok(()) = store_changed(&mut store) => {}
                else => return,
            }
        }
    }
}
