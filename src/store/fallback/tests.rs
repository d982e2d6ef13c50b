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
        hold: None,
        lease: None,
        reserve: None,
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
    let places = PlaceReport::NONE;
    Ok(Reading { used, outcome: ChargeOutcome::Charged, reset: Duration::ZERO, budget: None, places })
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
fn remaining_hits_are_those_of_the_local_share() {
    let (fallback, charge) = (fallback(2), charge(10, FailurePolicy::Local, ChargeMode::Always));
    let left = || 10 - resolve_one(&fallback, &charge).expect("a reading").used;
    assert_eq!((left(), left(), left()), (4, 3, 2));
}

#[test]
fn each_failed_charge_gets_the_reading_of_its_policy_and_others_stay() {
    let charges = [FailurePolicy::Allow, FailurePolicy::Deny, FailurePolicy::Error]
        .map(|policy| charge(5, policy, ChargeMode::Always));
    let read = counted(3).expect("a reading");
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
fn a_local_denial_refunds_hits_that_count_only_if_the_request_passes() {
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
        Charge { key: Bytes::from_static(b"other"), ..charge(5, FailurePolicy::Error, ChargeMode::Always) },
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
fn local_charges_of_a_request_are_decided_together() {
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
