//! The service of a test: its limiter, with a clock that only the test moves, and a store that the test can take away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::file::TestSettings;
use super::rules::RuleSet;
use crate::clock::ManualClock;
use crate::engine::{KeyWriter, Rules, Timestamp};
use crate::lab::explanation::{ExplainContext, Explanation, explain, peek_of};
use crate::limiter::{CoreCopy, Limiter};
use crate::store::fallback::Fallback;
use crate::store::memory::{MemorySettings, MemoryStore};
use crate::store::{Charge, ChargeFuture, Store, StoreError};
use crate::telemetry::metrics::{Metrics, MetricsSettings};

/// Upper bound on the counters of a test in memory: as many as a step has requests.
const MAX_COUNTERS: usize = 1_000_000;

/// Store of the counters of tests.
#[derive(Clone)]
pub enum Backend {
    /// A fresh one in memory for each test.
    Memory,
    /// One for all tests, with keys of its own for each.
    Shared {
        /// The store. It goes by the time of the test.
        store: Arc<dyn Store>,
        /// Beginning of its keys.
        prefix: String,
        /// True if it is a Redis Cluster.
        is_cluster: bool,
    },
}

/// A store that can be taken away.
struct Switched {
    store: Arc<dyn Store>,
    is_down: AtomicBool,
}

impl Store for Switched {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        if self.is_down.load(Ordering::Relaxed) {
            let down = || Err(StoreError::Unreachable("the test took the store down".to_owned()));
            return Box::pin(std::future::ready(charges.iter().map(|_| down()).collect()));
        }
        self.store.charge(charges, now)
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        if !self.is_down.load(Ordering::Relaxed) {
            self.store.refund(refunds, now);
        }
    }
}

/// The service of a test.
pub(super) struct World {
    pub(super) limiter: Limiter,
    clock: Arc<ManualClock>,
    store: Arc<Switched>,
    /// Beginning of keys that is not the test's.
    pub(super) prefix: String,
}

impl World {
    /// A service without counters. `number` differs for each test of a run.
    pub(super) fn new(settings: &TestSettings, start: Timestamp, backend: &Backend, number: usize) -> Self {
        let clock = Arc::new(ManualClock::new(start));
        let (store, prefix, is_cluster) = match backend {
            Backend::Memory => {
                let memory = MemoryStore::new(MemorySettings::of_counters(MAX_COUNTERS));
                (Arc::new(memory) as Arc<dyn Store>, String::new(), false)
            }
            Backend::Shared { store, prefix, is_cluster } => {
                (Arc::clone(store), format!("{prefix}{number}:"), *is_cluster)
            }
        };
        let store = Arc::new(Switched { store, is_down: AtomicBool::new(false) });
        let keys = KeyWriter::new(settings.key_format, &format!("{prefix}{}", settings.key_prefix));
        let rules = Arc::new(ArcSwapOption::empty());
        let local = MemorySettings::of_counters(MAX_COUNTERS);
        let limiter = Limiter {
            rules: Arc::clone(&rules).into(),
            store: Arc::clone(&store) as _,
            fallback: Arc::new(Fallback::new(local, settings.replicas)),
            store_timeout: Duration::ZERO,
            clock: Arc::clone(&clock) as _,
            metrics: Arc::new(Metrics::new(MetricsSettings::default(), rules)),
            keys: if is_cluster { keys.for_cluster() } else { keys },
            modes: settings.modes,
            candidate: None,
            tap: None,
            decision_log: None,
            overrides: CoreCopy::default(),
        };
        Self { limiter, clock, store, prefix }
    }

    pub(super) fn set_time(&self, now: Timestamp) {
        self.clock.set(now);
    }

    pub(super) fn set_store(&self, up: bool) {
        self.store.is_down.store(!up, Ordering::Relaxed);
    }

    pub(super) fn is_store_down(&self) -> bool {
        self.store.is_down.load(Ordering::Relaxed)
    }

    /// Puts rules in force. Those with errors do not take the place of others. Returns the number of errors.
    pub(super) fn load(&self, rules: &RuleSet) -> usize {
        match &rules.rules {
            Ok(rules) => {
                self.limiter.rules.store(Some(Arc::clone(rules)));
                0
            }
            Err(errors) => errors.count(),
        }
    }

    pub(super) fn rules(&self) -> Option<Arc<Rules>> {
        self.limiter.rules.load_full()
    }

    /// Explains the decision on `request`, with the levels that the counters have now.
    pub(super) async fn explain(&self, request: &crate::engine::Request<'_>) -> Option<Explanation> {
        let rules = self.rules()?;
        let readings =
            self.limiter.peek(&rules, &self.limiter.peek_charges(&rules, None, request)).await.ok();
        let Limiter { keys, modes, .. } = &self.limiter;
        let context = ExplainContext { rules: &rules, overrides: None, keys, modes };
        // After the request of a step: the result of one more hit.
        Some(explain(context, &peek_of(request), readings.as_deref()))
    }
}
