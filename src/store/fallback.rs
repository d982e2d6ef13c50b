//! Result of charges that the store failed: each rule's `on_backend_failure`.
//!
//! The fallback does not probe the store: a store that is down fails charges at once until it is back.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::lockouts::Lockouts;
use super::memory::{MemorySettings, MemoryStore};
use super::{Charge, Reading, Readings, Store, StoreError};
use crate::engine::algorithm::group::{ChargeOutcome, is_over};
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
    Reading { used: 0, outcome: ChargeOutcome::Charged, reset: charge.limit.window.remaining(now) }
}

fn denied(charge: &Charge) -> Reading {
    let used = charge.limit.capacity().into();
    Reading { used, outcome: ChargeOutcome::FailClosed, reset: RETRY_WITHOUT_STORE }
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
    let used = charge.limit.capacity().into();
    Reading { used, outcome: ChargeOutcome::Withheld, reset: RETRY_WITHOUT_STORE }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::super::ChargeFuture;
    use super::*;
    use crate::engine::{ChargeMode, Enforcement, Hits, Unit};

    const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);

    fn fallback(replicas: u32) -> Fallback {
        Fallback::new(MemorySettings::of_counters(1_000), replicas)
    }

    fn charge(limit: u32, on_failure: FailurePolicy, mode: ChargeMode) -> Charge {
        Charge {
            key: Bytes::from_static(b"key"),
            limit: Limit::per(limit, Unit::Minute),
            rule: 0,
            hits: Hits::Add(1),
            mode,
            enforcement: Enforcement::Enforced,
            lockout: None,
            on_failure,
        }
    }

    /// A store that records what it is asked to refund.
    #[derive(Default)]
    struct Refunds(Mutex<Vec<(Bytes, Hits)>>);

    impl Store for Refunds {
        fn charge<'a>(&'a self, _: &'a [Charge], _: Timestamp) -> ChargeFuture<'a> {
            unreachable!("readings are given")
        }

        fn refund(&self, refunds: &[Charge], _: Timestamp) {
            self.0.lock().extend(refunds.iter().map(|charge| (charge.key.clone(), charge.hits)));
        }
    }

    const fn counted(used: u64) -> Result<Reading, StoreError> {
        Ok(Reading { used, outcome: ChargeOutcome::Charged, reset: Duration::ZERO })
    }

    fn failed() -> Result<Reading, StoreError> {
        Err(StoreError::Unreachable("gone".to_owned()))
    }

    fn resolve_one(fallback: &Fallback, charge: &Charge) -> Result<Reading, StoreError> {
        let charges = std::slice::from_ref(charge);
        let failing = [failed()].into_iter().collect();
        fallback.resolve(&Refunds::default(), charges, failing, NOON).map(|readings| readings[0])
    }

    /// Hits out of ten that pass.
    fn passing(fallback: &Fallback, charge: &Charge) -> usize {
        let quota = u64::from(charge.limit.requests_per_unit);
        let passes = |reading: Reading| reading.outcome == ChargeOutcome::Charged && reading.used <= quota;
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
        let read = Reading { used: 3, outcome: ChargeOutcome::Charged, reset: Duration::ZERO };
        let resolve = |readings: [_; 3]| {
            let charges = charges.clone().map(|charge| Charge { enforcement: Enforcement::Shadow, ..charge });
            fallback(1).resolve(&Refunds::default(), &charges, readings.into_iter().collect(), NOON)
        };
        let readings = resolve([failed(), failed(), Ok(read)]).expect("readings");
        assert_eq!((readings[0].used, readings[0].outcome), (0, ChargeOutcome::Charged));
        assert_eq!(readings[1].outcome, ChargeOutcome::FailClosed);
        assert_eq!(readings[2], read);
        let error = resolve([failed(), failed(), failed()]).expect_err("the call fails");
        assert!(matches!(&error, StoreError::Unreachable(cause) if cause == "gone"), "{error}");
    }

    #[test]
    fn a_denial_takes_precedence_over_an_error() {
        let charge = |policy, mode, enforcement| Charge { enforcement, ..charge(5, policy, mode) };
        for (enforcement, is_denied) in
            [(Enforcement::Enforced, true), (Enforcement::Quota, false), (Enforcement::Shadow, false)]
        {
            let charges = [
                charge(FailurePolicy::Error, ChargeMode::Always, enforcement),
                charge(FailurePolicy::Error, ChargeMode::Always, Enforcement::Quota),
            ];
            let readings = [counted(6), failed()].into_iter().collect();
            let resolved = fallback(1).resolve(&Refunds::default(), &charges, readings, NOON);
            let outcomes = resolved.map(|readings| {
                readings.iter().map(|reading| (reading.outcome, reading.used)).collect::<Vec<_>>()
            });
            match is_denied {
                true => {
                    assert_eq!(outcomes.unwrap(), [(ChargeOutcome::Charged, 6), (ChargeOutcome::Withheld, 5)])
                }
                false => drop(outcomes.expect_err("nothing denies")),
            }
        }
    }

    #[test]
    fn a_local_denial_refunds_what_the_store_counted_only_for_a_request_that_passes() {
        let (fallback, store) = (fallback(1), Refunds::default());
        let there = |key, hits, mode| Charge {
            key: Bytes::from_static(key),
            hits: Hits::Add(hits),
            ..charge(9, FailurePolicy::Error, mode)
        };
        let charges = [
            there(b"if_allowed", 2, ChargeMode::IfAllowed),
            there(b"always", 2, ChargeMode::Always),
            there(b"peek", 0, ChargeMode::IfAllowed),
            charge(1, FailurePolicy::Local, ChargeMode::IfAllowed),
        ];
        let ask = || {
            let readings = [counted(2), counted(2), counted(0), failed()].into_iter().collect();
            let readings = fallback.resolve(&store, &charges, readings, NOON).expect("readings");
            readings.iter().map(|reading| (reading.outcome, reading.used)).collect::<Vec<_>>()
        };
        use ChargeOutcome::{Charged, Denied, Withheld};
        assert_eq!(ask(), [(Charged, 2), (Charged, 2), (Charged, 0), (Charged, 1)]);
        assert!(store.0.lock().is_empty());
        assert_eq!(ask(), [(Withheld, 0), (Charged, 2), (Withheld, 0), (Denied, 1)]);
        assert_eq!(*store.0.lock(), [(Bytes::from_static(b"if_allowed"), Hits::Refund(2))]);
    }

    #[test]
    fn nothing_stays_counted_here_for_a_request_that_the_store_denies_or_fails() {
        let fallback = fallback(1);
        let charges = [
            charge(1, FailurePolicy::Local, ChargeMode::IfAllowed),
            Charge {
                key: Bytes::from_static(b"other"),
                ..charge(5, FailurePolicy::Error, ChargeMode::Always)
            },
        ];
        for other in [counted(6), failed()] {
            let readings = [failed(), other].into_iter().collect();
            let resolved = fallback.resolve(&Refunds::default(), &charges, readings, NOON);
            assert!(
                resolved.is_err()
                    || resolved.is_ok_and(|readings| readings[0].outcome == ChargeOutcome::Withheld)
            );
        }
        assert_eq!(passing(&fallback, &charges[0]), 1);
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
            let readings = fallback.resolve(&Refunds::default(), &both, failing, now).expect("readings");
            readings.iter().map(|reading| (reading.outcome, reading.used)).collect::<Vec<_>>()
        };
        assert_eq!(ask(0), [(ChargeOutcome::Charged, 1), (ChargeOutcome::Charged, 1)]);
        assert_eq!(ask(0), [(ChargeOutcome::Withheld, 1), (ChargeOutcome::Denied, 1)]);
        assert_eq!(ask(1), [(ChargeOutcome::Charged, 2), (ChargeOutcome::Charged, 1)]);
    }
}
