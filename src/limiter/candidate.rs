//! Rules that are tried out: evaluated beside those in force on counters of their own, compared, and never
//! enforced. Whatever becomes of them, the answer is that of the rules in force.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::{Either, select};
use smallvec::SmallVec;
use tokio::time::{self, Instant};
use tracing::Level;

use super::redact;
use super::sampler::Sampler;
use crate::engine::compare::{Comparison, Outcome, compare};
use crate::engine::{Decision, KeyWriter, Request, Rules, Timestamp};
use crate::store::{Charge, Reading, Store};
use crate::telemetry::metrics::CandidateMetrics;

/// What a difference counts under that comes of a limit which the caller brought. No rule is called so:
/// their names have a dot.
const BROUGHT: &str = "override";

/// How long an answer that is ready waits for what is only compared with it. Where both are asked in one
/// batch they end together, and nobody waits; else it is time for a round trip on a network nearby.
const GRACE: Duration = Duration::from_millis(1);

/// Rules that are tried out.
pub struct Candidate {
    /// The rules; none before the first good ones are loaded.
    pub rules: Arc<ArcSwapOption<Rules>>,
    /// Where they count.
    pub store: Arc<dyn Store>,
    /// How their counters are named: as nothing else is.
    pub keys: KeyWriter,
    /// Where it is counted what they would do otherwise.
    pub metrics: Arc<CandidateMetrics>,
    /// How much of that is logged.
    pub sampler: Arc<Sampler>,
}

/// One of the two that are compared.
#[derive(Clone, Copy)]
pub(super) struct Side<'d, 'r> {
    /// The rules, where there are any.
    pub(super) rules: Option<&'d Rules>,
    /// What they and the store decided; `None` where one of them did not.
    pub(super) decision: Option<&'d Decision<'r>>,
}

impl Candidate {
    /// Asks the store for a reading of each charge. `None` where it has not all of them: what rules say of
    /// a store that fails is not what they say of a request.
    pub(super) async fn charge(&self, charges: &[Charge], now: Timestamp) -> Option<SmallVec<[Reading; 2]>> {
        if charges.is_empty() {
            return Some(SmallVec::new());
        }
        let readings = self.store.charge(charges, now).await;
        let readings: Result<_, _> = readings.into_iter().collect();
        readings.inspect_err(|error| tracing::debug!(%error, "the candidate was not counted")).ok()
    }

    /// Takes note of how the two differ on `request`.
    pub(super) fn compare(
        &self,
        request: &Request<'_>,
        live: Side<'_, '_>,
        other: Side<'_, '_>,
        now: Timestamp,
    ) {
        let Some((decision, trial)) = live.decision.zip(other.decision) else {
            return self.metrics.record_failure();
        };
        let comparison = compare(decision, trial);
        self.metrics.record(comparison.outcome);
        let Some(denial) = comparison.denial else { return };
        // It is known to the rules that deny.
        let domain = String::from_utf8_lossy(request.domain);
        let rule = denial.rule.map_or(BROUGHT, |rule| &*rule.path);
        self.metrics.record_difference(comparison.outcome, &domain, rule);
        if tracing::event_enabled!(Level::INFO)
            && let Some(unlogged) = self.sampler.admit(now)
        {
            log(request, [live.rules, other.rules], &comparison, unlogged);
        }
    }
}

/// What `live` comes to, and what `trial` has come to by then or within [`GRACE`], which ends at `deadline`
/// at the latest. A trial that takes longer is dropped, which a store that is asked bears at any time.
pub(super) async fn with_trial<L, T>(
    live: impl Future<Output = L>,
    trial: impl Future<Output = Option<T>>,
    deadline: Option<Instant>,
) -> (L, Option<T>) {
    let trial = pin!(trial);
    let (live, trial) = match select(pin!(live), trial).await {
        Either::Left(ready) => ready,
        Either::Right((trial, live)) => return (live.await, trial),
    };
    let grace = Instant::now() + GRACE;
    let until = deadline.map_or(grace, |deadline| grace.min(deadline));
    // It looks for the trial first: a timer is set only where that is not ready.
    (live, time::timeout_at(until, trial).await.ok().flatten())
}

/// A line that tells of one difference, and of how many were not told since the line before.
fn log(request: &Request<'_>, rules: [Option<&Rules>; 2], comparison: &Comparison<'_>, unlogged: u64) {
    let domains = rules.into_iter().flatten().filter_map(|rules| rules.domain(request.domain));
    let domains: SmallVec<[_; 2]> = domains.collect();
    let Comparison { outcome, denial, passing } = comparison;
    let (live, candidate) = match outcome {
        Outcome::Same => return,
        Outcome::Stricter => ("OK", "OVER_LIMIT"),
        Outcome::Looser => ("OVER_LIMIT", "OK"),
    };
    let limit = denial.and_then(|status| status.limit);
    tracing::info!(
        domain = redact::lossy(request.domain),
        descriptors = redact::descriptors(request, &domains),
        live,
        candidate,
        outcome = outcome.name(),
        rule = denial.map(|status| status.rule.map_or(BROUGHT, |rule| &*rule.path)),
        layer = denial.and_then(|status| status.rule?.layer.as_deref()).map(|layer| layer.name()),
        limit = limit.map(|limit| limit.requests_per_unit),
        window_secs = limit.map(|limit| limit.nominal_secs()),
        locked_out = denial.map(|status| status.locked_out),
        remaining = passing.map(|status| status.remaining),
        unlogged,
        "the candidate rules would decide otherwise"
    );
}
