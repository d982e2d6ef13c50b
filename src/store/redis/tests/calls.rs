//! Callers at random times, and what they were answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::world::World;
use super::{CALL_TIMEOUT, NOW};
use crate::engine::algorithm::group::{ChargeOutcome, is_over};
use crate::engine::{ChargeMode, Enforcement, FailurePolicy, Hits, Limit, Unit};
use crate::store::redis::RedisStore;
use crate::store::{Charge, Reading, Readings, Store, StoreError};

pub(super) const LIMIT: u32 = 10;

/// Hits of a counter by the answers that callers got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReportedHits {
    /// Confirmed.
    pub(super) counted: u64,
    /// Sent, and it is unknown whether they were carried out.
    pub(super) unknown: u64,
    /// Not counted, or counted and refunded.
    pub(super) withheld: u64,
    /// Of callers that did not wait for their answer.
    pub(super) dropped: u64,
    /// True if it counts only requests that pass.
    pub(super) if_allowed: bool,
}

/// One request.
struct Call {
    charges: Vec<Charge>,
    at: Duration,
    /// Time after which the caller goes, if it does not wait.
    patience: Option<Duration>,
}

impl Call {
    fn random(number: u32, random: &mut fastrand::Rng) -> Self {
        let len = if random.bool() { 1 } else { random.usize(2..4) };
        // Counters of one tag lie in one slot.
        let tag = random.u8(0..6);
        let tag = if tag < 3 { format!("{{{tag}}}") } else { String::new() };
        let charges = (0..len).map(|index| {
            // Half of the counters belong to one caller, so that it is known what became of its charge.
            let (key, mode) = match random.bool() {
                true => (format!("{tag}own{number}-{index}/"), random.bool()),
                // Each caller has one mode for a counter.
                false => {
                    let shared = random.u8(0..5);
                    (format!("{tag}shared{shared}/"), shared.is_multiple_of(2))
                }
            };
            let mode = if mode { ChargeMode::Always } else { ChargeMode::IfAllowed };
            charge(Bytes::from(key), random.u32(1..4), mode)
        });
        let charges = charges.collect();
        let micros = |most: u64, random: &mut fastrand::Rng| Duration::from_micros(random.u64(0..most));
        let patience = (random.u8(0..6) == 0).then(|| micros(12_000, random));
        Self { charges, at: micros(1_900_000, random), patience }
    }

    /// Keys in Redis of the counters that no other call has.
    fn own_counters(&self) -> impl Iterator<Item = Bytes> {
        let own = self.charges.iter().filter(|charge| charge.key.windows(3).any(|text| text == b"own"));
        own.map(|charge| counter(&charge.key))
    }

    async fn carry_out(self, store: &RedisStore, world: &World) -> Vec<(Bytes, ReportedHits)> {
        sleep(self.at).await;
        for counter in self.own_counters() {
            world.lock().answered.insert(counter, false);
        }
        let charging = store.charge(&self.charges, NOW);
        let answer = match self.patience {
            Some(patience) => timeout(patience, charging).await.ok(),
            None => Some(timeout(CALL_TIMEOUT * 20, charging).await.expect("every call is answered")),
        };
        if let Some(readings) = &answer {
            let mut state = world.lock();
            for counter in self.own_counters() {
                state.answered.insert(counter, true);
            }
            state.violations.extend(self.violation(readings));
        }
        let reported = |(index, charge): (usize, &Charge)| {
            let Hits::Add(hits) = charge.hits else { unreachable!("no refunds") };
            let (hits, mut reported) = (u64::from(hits), ReportedHits::default());
            reported.if_allowed = charge.mode == ChargeMode::IfAllowed;
            match answer.as_ref().map(|readings| &readings[index]) {
                None => reported.dropped = hits,
                Some(Err(StoreError::Unanswered(_))) => reported.unknown = hits,
                Some(Ok(reading)) if reading.outcome == ChargeOutcome::Charged => reported.counted = hits,
                Some(Ok(reading)) if reading.outcome == ChargeOutcome::Withheld => reported.withheld = hits,
                Some(Ok(_) | Err(_)) => {}
            }
            (counter(&charge.key), reported)
        };
        self.charges.iter().enumerate().map(reported).collect()
    }

    /// A charge that counts only if its request passes was counted though another one denied it.
    fn violation(&self, readings: &Readings) -> Option<String> {
        assert_eq!(readings.len(), self.charges.len(), "a reading for each charge");
        let is_denied = |(charge, reading): (&Charge, &Result<Reading, StoreError>)| match reading {
            Ok(reading) => is_over(charge.mode, charge.hits, reading.used, LIMIT, reading.outcome),
            Err(_) => true,
        };
        let is_counted = |(charge, reading): (&Charge, &Result<Reading, StoreError>)| {
            let charged = matches!(reading, Ok(reading) if reading.outcome == ChargeOutcome::Charged);
            charge.mode == ChargeMode::IfAllowed && charged
        };
        let mut both = self.charges.iter().zip(readings);
        let is_torn = both.clone().any(is_denied) && both.any(is_counted);
        is_torn.then(|| format!("denied, and counted in part: {:?}: {readings:?}", self.charges))
    }
}

pub(super) fn charge(key: Bytes, hits: u32, mode: ChargeMode) -> Charge {
    Charge {
        key,
        rule: 0,
        limit: Limit::per(LIMIT, Unit::Day),
        hits: Hits::Add(hits),
        mode,
        enforcement: Enforcement::Enforced,
        lockout: None,
        hold: None,
        lease: None,
        reserve: None,
        on_failure: FailurePolicy::Error,
    }
}

/// Key of the counter in Redis.
fn counter(key: &Bytes) -> Bytes {
    Bytes::from([key, NOW.as_secs().to_string().as_bytes()].concat())
}

/// Calls at random times while there is trouble. Returns the answers by counter.
pub(super) async fn call(
    store: &Arc<RedisStore>,
    world: &World,
    random: &mut fastrand::Rng,
) -> HashMap<Bytes, ReportedHits> {
    let mut callers = JoinSet::new();
    for number in 0..random.u32(50..400) {
        let (store, world, call) = (Arc::clone(store), Arc::clone(world), Call::random(number, random));
        callers.spawn(async move { call.carry_out(&store, &world).await });
    }
    let mut all = HashMap::<Bytes, ReportedHits>::new();
    while let Some(reported) = callers.join_next().await {
        for (counter, reported) in reported.expect("no panic") {
            let sum = all.entry(counter).or_default();
            sum.counted += reported.counted;
            sum.unknown += reported.unknown;
            sum.withheld += reported.withheld;
            sum.dropped += reported.dropped;
            sum.if_allowed |= reported.if_allowed;
        }
    }
    all
}
