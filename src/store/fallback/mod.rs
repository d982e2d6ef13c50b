//! Result of charges that the store failed: each rule's `on_backend_failure`.
//!
//! The fallback does not probe the store: a store that is down fails charges at once until it is back.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::lockouts::Lockouts;
use super::memory::{MemorySettings, MemoryStore};
use super::reset::CounterReset;
use super::{Charge, Reading, Readings, Store, StoreError};
use crate::engine::algorithm::group::{ChargeOutcome, is_over};
use crate::engine::algorithm::places::PlaceReport;
use crate::engine::lease::refundable;
use crate::engine::{Algorithm, CombinedEnforcement, FailurePolicy, Hits, Limit, Timestamp};

/// Retry delay of a charge that was denied only because the store failed.
const RETRY_WITHOUT_STORE: Duration = Duration::from_secs(1);

/// Decides charges that the store failed.
#[derive(Debug)]
pub struct Fallback {
    /// Counters of `on_backend_failure: local`. They start empty, and are dropped when their window ends.
    local: Arc<MemoryStore>,
    /// Processes that share the limits.
    replicas: u32,
}

impl Fallback {
    /// With `replicas` processes that share the limits, each enforces its part of them.
    pub fn new(settings: MemorySettings, replicas: u32) -> Self {
        Self { local: Arc::new(MemoryStore::new(settings)), replicas: replicas.max(1) }
    }

    /// The store of local counters, which the process must sweep.
    pub fn local(&self) -> &MemoryStore {
        &self.local
    }

    /// Lockouts that were struck here while the store failed. They hold whenever it fails again.
    pub fn lockouts(&self) -> Arc<dyn Lockouts> {
        Arc::clone(&self.local) as _
    }

    /// Local counters, for operators to remove.
    pub fn counters(&self) -> Arc<dyn CounterReset> {
        Arc::clone(&self.local) as _
    }

    /// Returns a reading for each of `charges`: the store's, or where it failed what the rule says.
    ///
    /// A denial takes precedence over an error, because a proxy may let a request pass that was answered with
    /// an error. Charges that count only if their request passes are refunded, in `store` and here, where it
    /// does not.
    ///
    /// # Errors
    /// The store's error for the first charge whose rule says to fail, unless another charge denies the
    /// request.
    pub fn resolve(
        &self,
        store: &dyn Store,
        charges: &[Charge],
        readings: Readings,
        now: Timestamp,
    ) -> Result<SmallVec<[Reading; 2]>, StoreError> {
        if readings.iter().all(Result::is_ok) {
            return readings.into_iter().collect();
        }
        let was_sent = |(charge, reading): (&Charge, &Result<Reading, StoreError>)| {
            matches!(reading, Err(StoreError::Unanswered(_))) && charge.hits != Hits::Add(0)
        };
        let maybe_counted = charges.iter().zip(&readings).any(was_sent);
        let mut answers = self.answers(charges, readings, now);
        let is_denied = is_denied(&answers);
        if is_denied || answers.iter().any(|answer| answer.reading.is_err()) {
            self.withhold(store, &mut answers, now);
        }
        let counted = maybe_counted || answers.iter().any(Answer::has_counted);
        let reading = |answer: Answer<'_>| match answer.reading {
            // The shares of all other replicas count as used.
            Ok(reading) => Ok(Reading { used: reading.used + answer.elsewhere, ..reading }),
            Err(_) if is_denied => Ok(unknown(answer.charge)),
            // A caller that repeats the call after any other error would count twice.
            Err(StoreError::Unreachable(cause) | StoreError::Rejected(cause)) if counted => {
                Err(StoreError::Unanswered(format!("a part of the request was counted: {cause}")))
            }
            Err(error) => Err(error),
        };
        answers.into_iter().map(reading).collect()
    }

    /// Answer to each charge: the reading of the store, a local one, or the result that the rule sets.
    fn answers<'c>(&self, charges: &'c [Charge], readings: Readings, now: Timestamp) -> Answers<'c> {
        let is_here = |(charge, reading): &(&Charge, &Result<_, _>)| {
            charge.on_failure == FailurePolicy::Local && reading.is_err()
        };
        let here = charges.iter().zip(&readings).filter(is_here);
        let shares: SmallVec<[Charge; 2]> = here.map(|(charge, _)| self.share_of(charge)).collect();
        let mut counted_here = match shares.is_empty() {
            true => Readings::new(),
            false => self.local.carry_out(&shares, now),
        }
        .into_iter();
        let answer = |(charge, reading): (&'c Charge, Result<Reading, StoreError>)| {
            let (source, reading) = match (reading, charge.on_failure) {
                (Ok(reading), _) => (Source::Store, Ok(reading)),
                (Err(error), FailurePolicy::Local) => {
                    (Source::Local, counted_here.next().unwrap_or(Err(error)))
                }
                (Err(error), FailurePolicy::Error) => (Source::Rule, Err(error)),
                (Err(_), FailurePolicy::Allow) => (Source::Rule, Ok(allowed(charge, now))),
                (Err(_), FailurePolicy::Deny) => (Source::Rule, Ok(denied(charge))),
            };
            let limit = if source == Source::Local { self.share(charge.limit) } else { charge.limit };
            let elsewhere = u64::from(charge.limit.capacity() - limit.capacity());
            Answer { charge, source, limit, elsewhere, reading }
        };
        charges.iter().zip(readings).map(answer).collect()
    }

    /// Refunds what was counted only in case the request passes.
    fn withhold(&self, store: &dyn Store, answers: &mut Answers<'_>, now: Timestamp) {
        let (mut here, mut there) = (SmallVec::<[Charge; 2]>::new(), SmallVec::<[Charge; 2]>::new());
        for Answer { charge, source, limit, reading, .. } in answers {
            if *source != Source::Rule
                && let Ok(reading) = reading
                && let Some(hits @ 1..) = reading.withhold(*limit, charge.mode, charge.hits)
            {
                let refunds = if *source == Source::Local { &mut here } else { &mut there };
                let hits = refundable(*limit, charge.lease, hits);
                refunds.push(Charge { limit: *limit, hits: Hits::Refund(hits), ..(*charge).clone() });
            }
        }
        self.local.carry_out(&here, now);
        if !there.is_empty() {
            store.refund(&there, now);
        }
    }

    fn share_of(&self, charge: &Charge) -> Charge {
        Charge { limit: self.share(charge.limit), ..charge.clone() }
    }

    /// The part of `limit` that this process enforces: at least one hit, where any may pass.
    fn share(&self, limit: Limit) -> Limit {
        let share = |hits: u32| (hits / self.replicas).max(hits.min(1));
        let algorithm = match limit.algorithm {
            Algorithm::TokenBucket { burst } => Algorithm::TokenBucket { burst: share(burst) },
            algorithm => algorithm,
        };
        Limit { requests_per_unit: share(limit.requests_per_unit), algorithm, ..limit }
    }
}

/// Answer to one charge.
struct Answer<'c> {
    charge: &'c Charge,
    source: Source,
    /// The limit that `source` counts towards: here, this replica's share.
    limit: Limit,
    /// Hits of the limit that are other replicas' shares.
    elsewhere: u64,
    reading: Result<Reading, StoreError>,
}

type Answers<'c> = SmallVec<[Answer<'c>; 2]>;

/// Place that carried out a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Store,
    Local,
    /// Nowhere: its rule says what to answer.
    Rule,
}

impl Answer<'_> {
    fn is_over(&self) -> bool {
        let Charge { mode, hits, .. } = *self.charge;
        let is_over =
            |reading: &Reading| is_over(mode, hits, reading.used, self.limit.capacity(), reading.outcome);
        self.reading.as_ref().is_ok_and(is_over)
    }

    fn has_counted(&self) -> bool {
        let charged = |reading: &Reading| reading.outcome == ChargeOutcome::Charged;
        self.source != Source::Rule
            && self.charge.hits != Hits::Add(0)
            && self.reading.as_ref().is_ok_and(charged)
    }
}

/// True if the request is denied by what is known of it. A charge that failed denies nothing by that.
fn is_denied(answers: &[Answer<'_>]) -> bool {
    let mut combined = CombinedEnforcement::default();
    for answer in answers {
        combined.add(answer.charge.enforcement, answer.is_over());
    }
    combined.is_denied()
}

fn allowed(charge: &Charge, now: Timestamp) -> Reading {
    Reading {
        used: 0,
        outcome: ChargeOutcome::Charged,
        reset: charge.limit.window.remaining(now),
        budget: None,
        places: PlaceReport::NONE,
    }
}

fn denied(charge: &Charge) -> Reading {
    without_store(charge, ChargeOutcome::FailClosed)
}

/// Readings of a request that is denied whatever its counters hold. An error would hide the denial.
pub fn without_errors(charges: &[Charge], readings: Readings) -> Readings {
    let known = |(charge, reading): (&Charge, Result<Reading, StoreError>)| match reading {
        Err(_) if charge.on_failure == FailurePolicy::Error => Ok(unknown(charge)),
        reading => reading,
    };
    charges.iter().zip(readings).map(known).collect()
}

/// The reading of a charge that failed in a request that is denied without it: nothing is known to be left.
fn unknown(charge: &Charge) -> Reading {
    without_store(charge, ChargeOutcome::Withheld)
}

fn without_store(charge: &Charge, outcome: ChargeOutcome) -> Reading {
    let (used, places) = (charge.limit.capacity().into(), PlaceReport::NONE);
    Reading { used, outcome, reset: RETRY_WITHOUT_STORE, budget: None, places }
}

#[cfg(test)]
mod tests;
