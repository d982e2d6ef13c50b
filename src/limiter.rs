//! Where the pure core meets the world: the rules in force, the store, the clock and the metrics.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::engine::judge::judge;
use crate::engine::plan::{Limited, plan};
use crate::engine::{Decision, FailurePolicy, KeyWriter, Modes, Request, Rules, Timestamp, Vote};
use crate::store::fallback::Fallback;
use crate::store::{Charge, Readings, Store, StoreError};
use crate::telemetry::metrics::{Metrics, StoreFailure};

/// Decides requests.
pub struct Limiter {
    /// The rules in force; none before the first ones are loaded.
    pub rules: Arc<ArcSwapOption<Rules>>,
    /// Where counters live.
    pub store: Arc<dyn Store>,
    /// What to do while they cannot be reached.
    pub fallback: Arc<Fallback>,
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

    /// Decides `request`: what applies to it, what the counters say, what that means.
    ///
    /// # Errors
    /// [`StoreError`] where the store did not count, and a rule says to fail then; nothing is decided.
    pub async fn decide<'r>(
        &self,
        rules: &'r Rules,
        request: &Request<'_>,
    ) -> Result<Decision<'r>, StoreError> {
        let now = self.clock.now();
        let plan = plan(rules, request, &self.keys);
        let charges: SmallVec<[Charge; 2]> = plan.limited().map(|limited| self.charge_of(limited)).collect();
        let readings = self.charge(&charges, now).await;
        let readings = self.fallback.resolve(&charges, readings, now)?;
        let decision =
            judge(plan, readings.iter().map(|reading| (reading.used, reading.outcome)), &self.modes, now);
        self.metrics.record_decision(&decision);
        Ok(decision)
    }

    fn charge_of(&self, limited: &Limited<'_>) -> Charge {
        // Where nothing is enforced, nothing keeps anything else from being counted.
        let vote = if self.modes.shadow_mode { Vote::Shadow } else { limited.vote(&self.modes) };
        let Limited { key, limit, hits, mode, .. } = limited;
        Charge {
            key: key.clone(),
            limit: *limit,
            hits: *hits,
            mode: *mode,
            vote,
            on_failure: FailurePolicy::Error,
        }
    }

    /// Asks the store, if there is anything to ask, and takes note of how that went.
    async fn charge(&self, charges: &[Charge], now: Timestamp) -> Readings {
        if charges.is_empty() {
            return Readings::new();
        }
        let asked = Instant::now();
        let readings = self.store.charge(charges, now).await;
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
