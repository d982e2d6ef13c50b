//! Candidate rules: evaluated beside those in force on counters of their own, compared, and never enforced. The
//! answer is always that of the rules in force.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use smallvec::SmallVec;
use tokio::time::{self, Instant};
use tracing::Level;

use super::core_copy::CoreCopy;
use super::redact;
use super::sampler::Sampler;
use crate::engine::compare::{Comparison, ComparisonOutcome, compare};
use crate::engine::{Decision, KeyWriter, Request, Rules, Timestamp};
use crate::store::{Charge, Reading, Store};
use crate::telemetry::metrics::CandidateMetrics;

/// Rule name in the metrics for limits in requests. No rule has it: their names contain a dot.
const OVERRIDE: &str = "override";

/// Upper bound on the delay of an answer by the candidate. Charges in one batch end together, without a delay;
/// otherwise it is the time of a round trip on a network nearby.
pub const CANDIDATE_GRACE: Duration = Duration::from_millis(1);

/// Candidate rules.
pub struct Candidate {
    /// Rules; `None` before the first load without errors.
    pub rules: CoreCopy<Rules>,
    /// Store of their counters.
    pub store: Arc<dyn Store>,
    /// Keys of their counters, which are separate from all others.
    pub keys: KeyWriter,
    /// Metrics of the differences.
    pub metrics: Arc<CandidateMetrics>,
    /// Sampler of the log of differences.
    pub sampler: Arc<Sampler>,
    /// Upper bound on the delay of an answer by the candidate: [`CANDIDATE_GRACE`].
    pub grace: Duration,
}

/// Rules and their decision, as one side of a comparison.
#[derive(Clone, Copy)]
pub(super) struct Evaluation<'d, 'r> {
    /// Rules, if any.
    pub(super) rules: Option<&'d Rules>,
    /// Decision of the rules; `None` without rules, or if the store failed.
    pub(super) decision: Option<&'d Decision<'r>>,
}

impl Candidate {
    /// Charges the store. `None` unless every charge has a reading: decisions without a store are not those of
    /// the rules.
    pub(super) async fn charge(&self, charges: &[Charge], now: Timestamp) -> Option<SmallVec<[Reading; 2]>> {
        if charges.is_empty() {
            return Some(SmallVec::new());
        }
        let readings = self.store.charge(charges, now).await;
        let readings: Result<_, _> = readings.into_iter().collect();
        readings.inspect_err(|error| tracing::debug!(%error, "candidate not charged")).ok()
    }

    /// Records and logs the difference between two evaluations of `request`.
    pub(super) fn compare(
        &self,
        request: &Request<'_>,
        live: Evaluation<'_, '_>,
        other: Evaluation<'_, '_>,
        now: Timestamp,
    ) {
        let Some((decision, trial)) = live.decision.zip(other.decision) else {
            return self.metrics.record_failure();
        };
        let comparison = compare(decision, trial);
        self.metrics.record(comparison.outcome);
        let Some(denial) = comparison.denial else { return };
        // A known domain, since its rules deny.
        let domain = String::from_utf8_lossy(request.domain);
        let rule = denial.rule.map_or(OVERRIDE, |rule| &*rule.path);
        self.metrics.record_difference(comparison.outcome, &domain, rule);
        if tracing::event_enabled!(Level::INFO)
            && let Some(unlogged) = self.sampler.admit(now)
        {
            log(request, [live.rules, other.rules], &comparison, unlogged);
        }
    }
}

/// Result of `live`, and that of `trial` if it is ready at the same time or within `grace`, and before
/// `deadline`. A slower trial is dropped, which stores tolerate at any time.
pub(super) async fn with_trial<L, T>(
    live: impl Future<Output = L>,
    trial: impl Future<Output = Option<T>>,
    grace: Duration,
    deadline: Option<Instant>,
) -> (L, Option<T>) {
    let trial = pin!(trial);
    let (live, trial) = match select(pin!(live), trial).await {
        Either::Left(ready) => ready,
        Either::Right((trial, live)) => return (live.await, trial),
    };
    let grace = Instant::now() + grace;
    let until = deadline.map_or(grace, |deadline| grace.min(deadline));
    // Poll the trial first: the timer is needed only if it is not ready.
    (live, time::timeout_at(until, trial).await.ok().flatten())
}

/// Logs a difference, and the number of differences without a line since the last one.
fn log(request: &Request<'_>, rules: [Option<&Rules>; 2], comparison: &Comparison<'_>, unlogged: u64) {
    let domains = rules.into_iter().flatten().filter_map(|rules| rules.domain(request.domain));
    let domains: SmallVec<[_; 2]> = domains.collect();
    let Comparison { outcome, denial, passing } = comparison;
    let (live, candidate) = match outcome {
        ComparisonOutcome::Same => return,
        ComparisonOutcome::Stricter => ("OK", "OVER_LIMIT"),
        ComparisonOutcome::Looser => ("OVER_LIMIT", "OK"),
    };
    let limit = denial.and_then(|status| status.limit);
    tracing::info!(
        domain = redact::lossy(request.domain),
        descriptors = redact::descriptors(request, &domains),
        live,
        candidate,
        outcome = outcome.name(),
        rule = denial.map(|status| status.rule.map_or(OVERRIDE, |rule| &*rule.path)),
        layer = denial.and_then(|status| status.rule?.layer.as_deref()).map(|layer| layer.name()),
        limit = limit.map(|limit| limit.requests_per_unit),
        window_secs = limit.map(|limit| limit.nominal_secs()),
        locked_out = denial.map(|status| status.locked_out),
        remaining = passing.map(|status| status.remaining),
        unlogged,
        "candidate decides differently"
    );
}
