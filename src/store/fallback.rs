//! What becomes of a charge that the store failed: what its rule says.
//!
//! Nothing here asks whether the store is back. The store knows that, and fails at once until it is.

use std::time::Duration;

use smallvec::SmallVec;

use super::memory::{MemorySettings, MemoryStore};
use super::{Charge, Reading, Readings, StoreError};
use crate::engine::algorithm::group::Outcome;
use crate::engine::{Algorithm, FailurePolicy, Hits, Limit, Timestamp};

/// When to ask again what was denied only because the store failed: it may be back at any time.
const RETRY_WITHOUT_STORE: Duration = Duration::from_secs(1);

/// What to do without the store.
#[derive(Debug)]
pub struct Fallback {
    /// Counts what is to be counted here while the store fails. It begins empty, and what it counts is
    /// forgotten when its window ends.
    local: MemoryStore,
    /// So many processes share the limits.
    replicas: u32,
}

impl Fallback {
    /// With `replicas` processes that share the limits, each enforces its part of them.
    pub fn new(settings: MemorySettings, replicas: u32) -> Self {
        Self { local: MemoryStore::new(settings), replicas: replicas.max(1) }
    }

    /// What counts here. Whoever runs the process sweeps it.
    pub const fn local(&self) -> &MemoryStore {
        &self.local
    }

    /// A reading for each of `charges`: the store's, or where it failed what their rules say.
    ///
    /// # Errors
    /// What the store said of the first charge whose rule says to fail.
    pub fn resolve(
        &self,
        charges: &[Charge],
        readings: Readings,
        now: Timestamp,
    ) -> Result<SmallVec<[Reading; 2]>, StoreError> {
        let may_have_counted = |(charge, reading): (&Charge, &Result<Reading, StoreError>)| match reading {
            Ok(reading) => reading.outcome == Outcome::Charged && charge.hits != Hits::Add(0),
            Err(error) => matches!(error, StoreError::Unanswered(_)),
        };
        let counted = charges.iter().zip(&readings).any(may_have_counted);
        let mut counted_here = self.count(charges, &readings, now).into_iter();
        let resolve = |(charge, reading): (&Charge, Result<Reading, StoreError>)| match reading {
            Ok(reading) => Ok(reading),
            Err(error) => match charge.on_failure {
                FailurePolicy::Local => counted_here.next().unwrap_or(Err(error)),
                FailurePolicy::Error => Err(error),
                FailurePolicy::Allow => Ok(allowed(charge, now)),
                FailurePolicy::Deny => Ok(denied(charge)),
            },
        };
        let resolved: Result<_, StoreError> = charges.iter().zip(readings).map(resolve).collect();
        // Whoever asks again after any other error would be counted twice.
        resolved.map_err(|error| match error {
            StoreError::Unreachable(cause) | StoreError::Refused(cause) if counted => {
                StoreError::Unanswered(format!("a part of the request was counted: {cause}"))
            }
            error => error,
        })
    }

    /// Counts what is to be counted here, all of a request together, each towards its share.
    fn count(
        &self,
        charges: &[Charge],
        readings: &Readings,
        now: Timestamp,
    ) -> SmallVec<[Result<Reading, StoreError>; 2]> {
        let is_here = |(charge, reading): &(&Charge, &_)| {
            charge.on_failure == FailurePolicy::Local && Result::is_err(*reading)
        };
        let here = charges.iter().zip(readings).filter(is_here).map(|(charge, _)| charge);
        let shares: SmallVec<[Charge; 2]> =
            here.clone().map(|charge| Charge { limit: self.share(charge.limit), ..charge.clone() }).collect();
        if shares.is_empty() {
            return SmallVec::new();
        }
        let counted = self.local.carry_out(&shares, now);
        here.zip(&shares)
            .zip(counted)
            .map(|((charge, share), reading)| {
                // Everybody else's share counts as used.
                let elsewhere = u64::from(charge.limit.capacity() - share.limit.capacity());
                reading.map(|reading| Reading { used: reading.used + elsewhere, ..reading })
            })
            .collect()
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

fn allowed(charge: &Charge, now: Timestamp) -> Reading {
    Reading { used: 0, outcome: Outcome::Charged, reset: charge.limit.window.remaining(now) }
}

fn denied(charge: &Charge) -> Reading {
    let used = charge.limit.capacity().into();
    Reading { used, outcome: Outcome::Refused, reset: RETRY_WITHOUT_STORE }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::engine::{ChargeMode, Hits, Unit, Vote};

    const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);

    fn fallback(replicas: u32) -> Fallback {
        Fallback::new(MemorySettings { max_counters: 1_000 }, replicas)
    }

    fn charge(limit: u32, on_failure: FailurePolicy, mode: ChargeMode) -> Charge {
        Charge {
            key: Bytes::from_static(b"key"),
            limit: Limit::per(limit, Unit::Minute),
            hits: Hits::Add(1),
            mode,
            vote: Vote::Enforced,
            lockout: None,
            on_failure,
        }
    }

    fn failed() -> Result<Reading, StoreError> {
        Err(StoreError::Unreachable("gone".to_owned()))
    }

    fn resolve_one(fallback: &Fallback, charge: &Charge) -> Result<Reading, StoreError> {
        let charges = std::slice::from_ref(charge);
        fallback.resolve(charges, [failed()].into_iter().collect(), NOON).map(|readings| readings[0])
    }

    /// How many of ten hits pass.
    fn passing(fallback: &Fallback, charge: &Charge) -> usize {
        let quota = u64::from(charge.limit.requests_per_unit);
        let passes = |reading: Reading| reading.outcome == Outcome::Charged && reading.used <= quota;
        (0..10).filter(|_| passes(resolve_one(fallback, charge).expect("a reading"))).count()
    }

    #[test]
    fn each_replica_enforces_its_share_and_at_least_one_hit() {
        for mode in [ChargeMode::Always, ChargeMode::IfAllowed] {
            for (limit, replicas, expected) in
                [(6, 1, 6), (6, 2, 3), (6, 4, 1), (6, 100, 1), (1, 2, 1), (0, 1, 0), (0, 3, 0), (7, 2, 3)]
            {
                let charge = charge(limit, FailurePolicy::Local, mode);
                assert_eq!(passing(&fallback(replicas), &charge), expected, "{limit}/{replicas} {mode:?}");
            }
        }
    }

    #[test]
    fn what_is_left_of_a_share_is_what_is_told() {
        let (fallback, charge) = (fallback(2), charge(10, FailurePolicy::Local, ChargeMode::Always));
        let left = || 10 - resolve_one(&fallback, &charge).expect("a reading").used;
        assert_eq!((left(), left(), left()), (4, 3, 2));
    }

    #[test]
    fn each_charge_gets_what_its_rule_says_and_readings_stay() {
        let charges = [FailurePolicy::Allow, FailurePolicy::Deny, FailurePolicy::Error]
            .map(|policy| charge(5, policy, ChargeMode::Always));
        let read = Reading { used: 3, outcome: Outcome::Charged, reset: Duration::ZERO };
        let resolve = |readings: [_; 3]| fallback(1).resolve(&charges, readings.into_iter().collect(), NOON);
        let readings = resolve([failed(), failed(), Ok(read)]).expect("readings");
        assert_eq!((readings[0].used, readings[0].outcome), (0, Outcome::Charged));
        assert_eq!(readings[1].outcome, Outcome::Refused);
        assert_eq!(readings[2], read);
        let error = resolve([failed(), failed(), failed()]).expect_err("the call fails");
        assert!(matches!(&error, StoreError::Unreachable(cause) if cause == "gone"), "{error}");
    }

    #[test]
    fn what_counts_here_of_one_request_is_decided_together() {
        let fallback = fallback(1);
        let of = |unit, limit| Charge {
            key: Bytes::from(format!("{unit:?}")),
            limit: Limit::per(limit, unit),
            ..charge(0, FailurePolicy::Local, ChargeMode::IfAllowed)
        };
        let both = [of(Unit::Hour, 5), of(Unit::Second, 1)];
        let ask = |secs: u64| {
            let failing = [failed(), failed()].into_iter().collect();
            let now = NOON.after(Duration::from_secs(secs));
            let readings = fallback.resolve(&both, failing, now).expect("readings");
            readings.iter().map(|reading| (reading.outcome, reading.used)).collect::<Vec<_>>()
        };
        assert_eq!(ask(0), [(Outcome::Charged, 1), (Outcome::Charged, 1)]);
        assert_eq!(ask(0), [(Outcome::Withheld, 1), (Outcome::Denied, 1)]);
        assert_eq!(ask(1), [(Outcome::Charged, 2), (Outcome::Charged, 1)]);
    }
}
