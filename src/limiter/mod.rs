//! Where the pure core meets the world: the rules in force, the store, the clock and the metrics.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use smallvec::SmallVec;
use tokio::time::{self, Instant};

use crate::clock::Clock;
use crate::engine::judge::judge;
use crate::engine::plan::{Limited, plan};
use crate::engine::{Decision, KeyWriter, Modes, Request, Rules, Timestamp, Vote};
use crate::store::fallback::Fallback;
use crate::store::{Charge, Lockout, Readings, Store, StoreError};
use crate::telemetry::metrics::{Metrics, StoreFailure};

/// Decides requests.
pub struct Limiter {
    /// The rules in force; none before the first ones are loaded.
    pub rules: Arc<ArcSwapOption<Rules>>,
    /// Where counters live.
    pub store: Arc<dyn Store>,
    /// What to do while they cannot be reached.
    pub fallback: Arc<Fallback>,
    /// How long the store may take at the most; zero where it never waits.
    pub patience: Duration,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where what happened is counted.
    pub metrics: Arc<Metrics>,
    /// How counters are named.
    pub keys: KeyWriter,
    /// What the operator set for every rule at once.
    pub modes: Modes,
}

impl Limiter {
    /// The rules in force now. A decision and its answer are made from one snapshot.
    pub fn rules(&self) -> Guard<Option<Arc<Rules>>> {
        self.rules.load()
    }

    /// Decides `request`: what applies to it, what the counters say, what that means. Whoever asks waits
    /// until `deadline`, and for no store longer than that.
    ///
    /// # Errors
    /// [`StoreError`] where the store did not count, and a rule says to fail then; nothing is decided.
    pub async fn decide<'r>(
        &self,
        rules: &'r Rules,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'r>, StoreError> {
        let now = self.clock.now();
        let plan = plan(rules, request, &self.keys);
        let charges: SmallVec<[Charge; 2]> =
            plan.limited().flat_map(|limited| self.charges_of(limited)).collect();
        let readings = self.charge(&charges, now, deadline).await;
        let readings = self.fallback.resolve(&charges, readings, now)?;
        let decision = judge(plan, readings, &self.modes);
        self.metrics.record_decision(&decision);
        Ok(decision)
    }

    fn charges_of<'l>(&self, limited: &'l Limited<'_>) -> impl Iterator<Item = Charge> + use<'l> {
        // Where nothing is enforced, nothing keeps anything else from being counted.
        let vote = if self.modes.shadow_mode { Vote::Shadow } else { limited.vote(&self.modes) };
        let Limited { counters, lockout, hits, mode, on_failure, .. } = limited;
        let lockout = lockout
            .as_ref()
            .map(|lockout| Lockout { key: lockout.key.clone(), ladder: Arc::clone(lockout.ladder) });
        counters.iter().map(move |counter| Charge {
            key: counter.key.clone(),
            limit: counter.limit,
            hits: *hits,
            mode: *mode,
            vote,
            lockout: lockout.clone(),
            on_failure: *on_failure,
        })
    }

    /// Asks the store, if there is anything to ask, and takes note of how that went.
    async fn charge(&self, charges: &[Charge], now: Timestamp, deadline: Option<Instant>) -> Readings {
        if charges.is_empty() {
            return Readings::new();
        }
        let asked = Instant::now();
        let charging = self.store.charge(charges, now);
        let patience = (!self.patience.is_zero()).then(|| asked + self.patience);
        let readings = match deadline.into_iter().chain(patience).min() {
            None => charging.await,
            Some(until) => time::timeout_at(until, charging).await.unwrap_or_else(|_| {
                let late = StoreError::Unanswered("no answer in time".to_owned());
                charges.iter().map(|_| Err(late.clone())).collect()
            }),
        };
        self.metrics.record_store_latency(asked.elapsed());
        if let Some(error) = readings.iter().find_map(|reading| reading.as_ref().err()) {
            self.metrics.record_store_failure(failure(error));
        }
        readings
    }
}

const fn failure(error: &StoreError) -> StoreFailure {
    match error {
        StoreError::Full { .. } => StoreFailure::Full,
        StoreError::Unreachable(_) => StoreFailure::Unreachable,
        StoreError::Unanswered(_) => StoreFailure::Unanswered,
        StoreError::Refused(_) => StoreFailure::Refused,
    }
}
