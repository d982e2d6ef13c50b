//! The charges of a request, by the place of their counters, and what becomes of them together.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::RandomState;
use futures_util::future;
use hashbrown::HashMap;
use smallvec::{SmallVec, smallvec};

use super::batch::{Dispatch, SlotCharge, SlotCharges};
use super::queue::Outcomes;
use super::servers::{Apart, Servers};
use crate::engine::algorithm::group::is_over;
use crate::engine::{
    Algorithm, ChargeMode, CombinedEnforcement, Enforcement, FailurePolicy, Hits, Timestamp, Unit,
};
use crate::store::positions::Positions;
use crate::store::{Charge, Reading, Readings, StoreError};

/// Room for the digits of any window's beginning.
const MAX_DIGITS: usize = 20;

/// Where a store counts.
#[derive(Debug)]
pub(super) struct AllServers {
    pub(super) all: Servers,
    pub(super) per_second: Option<Servers>,
    pub(super) expiration_jitter_max_secs: u32,
}

/// Charges whose counters lie in one place, and where in the request they stand.
pub(super) struct Part {
    pub(super) place: Place,
    dispatch: Dispatch,
    charges: SlotCharges,
    pub(super) indexes: SmallVec<[usize; 2]>,
}

pub(super) type Parts = SmallVec<[Part; 1]>;

/// Charges in one place can be carried out in one call.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    per_second: bool,
    slot: u16,
}

impl AllServers {
    fn of(&self, place: Place) -> &Servers {
        self.per_second.as_ref().filter(|_| place.per_second).unwrap_or(&self.all)
    }

    /// The charges, by the place of their counters; their request is `denied` already or not.
    pub(super) fn parts(&self, charges: &[Charge], now: Timestamp, denied: bool) -> Parts {
        let (mut parts, mut places) = (Parts::new(), Positions::default());
        for (index, charge) in charges.iter().enumerate() {
            let slot_charge = SlotCharge { denied, ..self.slot_charge(charge, now) };
            // What may be locked out is decided in one place, whatever its window.
            let per_second = self.per_second.is_some()
                && charge.limit.window == Unit::Second.window()
                && charge.lockout.is_none();
            let servers = self.of(Place { per_second, slot: 0 });
            let place = Place { per_second, slot: servers.slot(&slot_charge.key) };
            let (position, _) = places.of(place);
            match parts.get_mut(position) {
                Some(part) => part.push(index, slot_charge),
                None => parts.push(Part::of(place, index, slot_charge)),
            }
        }
        parts
    }

    fn slot_charge(&self, charge: &Charge, now: Timestamp) -> SlotCharge {
        let jitter_secs = match self.expiration_jitter_max_secs {
            0 => 0,
            max => fastrand::u32(0..max),
        };
        let Charge { limit, hits, mode, enforcement, .. } = *charge;
        let secs = limit.ttl_secs().saturating_add(jitter_secs);
        let lockout = charge.lockout.clone();
        SlotCharge {
            key: counter_key(charge, now),
            limit,
            hits,
            mode,
            enforcement,
            lockout,
            denied: false,
            secs,
            now,
        }
    }

    /// Takes the charges of `part` and carries them out.
    pub(super) async fn charge(&self, part: &mut Part) -> Result<Outcomes, Apart> {
        self.of(part.place).charge(mem::take(&mut part.charges), part.place.slot, part.dispatch).await
    }

    /// The same, one counter after the other where they cannot be carried out together.
    async fn carry_out(&self, part: &mut Part) -> Outcomes {
        let charges = match self.charge(part).await {
            Ok(outcomes) => return outcomes,
            Err(Apart(charges)) => charges,
        };
        let len = charges.len();
        let indexes: SmallVec<[usize; 2]> = (0..len).collect();
        let mut outcomes = Vec::with_capacity(len);
        for mut part in by_counter(part.place, &indexes, charges) {
            if let Ok(of_counter) = self.charge(&mut part).await {
                outcomes.extend(part.indexes.iter().copied().zip(of_counter));
            }
        }
        in_order(outcomes, len).into_iter().collect()
    }

    /// Carries out every part at once, each whatever becomes of the others.
    pub(super) async fn charge_each(&self, parts: &mut [Part]) -> Vec<(usize, Result<Reading, StoreError>)> {
        let carried_out = parts.iter_mut().map(async |part| {
            let outcomes = self.carry_out(part).await;
            part.indexes.iter().copied().zip(outcomes).collect::<SmallVec<[_; 2]>>()
        });
        future::join_all(carried_out).await.into_iter().flatten().collect()
    }

    /// Every place decides for itself. The readings, and what to give back where the request is denied
    /// all the same.
    pub(super) async fn decide_apart(&self, parts: &mut Parts, terms: &[Terms]) -> (Readings, Parts) {
        // Whether the request's quotas are used up together is not for one place to say.
        for charge in parts.iter_mut().flat_map(|part| &mut part.charges) {
            if matches!(charge.enforcement, Enforcement::Quota | Enforcement::ShadowQuota) {
                charge.enforcement = Enforcement::Shadow;
            }
        }
        let asked: Vec<(Place, usize, SlotCharge)> = parts.iter().flat_map(Part::each).collect();
        let mut readings = in_order(self.charge_each(parts).await, terms.len());
        let mut combined = CombinedEnforcement::default();
        for (terms, reading) in terms.iter().zip(&readings) {
            combined.add(terms.enforcement, terms.is_over(reading));
        }
        let mut in_vain = Parts::new();
        if combined.is_denied() {
            for (place, index, charge) in asked {
                if let Some(Ok(reading)) = readings.get_mut(index)
                    && let Some(hits @ 1..) = reading.withhold(charge.limit, charge.mode, charge.hits)
                {
                    in_vain.push(Part::of(place, index, SlotCharge { hits: Hits::Refund(hits), ..charge }));
                }
            }
        }
        (readings, in_vain)
    }
}

/// What a charge means for its request.
pub(super) struct Terms {
    capacity: u32,
    hits: Hits,
    mode: ChargeMode,
    enforcement: Enforcement,
    on_failure: FailurePolicy,
}

impl Terms {
    pub(super) const fn of(charge: &Charge) -> Self {
        let Charge { limit, hits, mode, enforcement, on_failure, .. } = *charge;
        Self { capacity: limit.capacity(), hits, mode, enforcement, on_failure }
    }

    /// Whether it is over its limit, or will be taken for it.
    fn is_over(&self, reading: &Result<Reading, StoreError>) -> bool {
        match (reading, self.on_failure) {
            (Ok(Reading { used, outcome, .. }), _) => {
                is_over(self.mode, self.hits, *used, self.capacity, *outcome)
            }
            (Err(_), FailurePolicy::Error | FailurePolicy::Deny) => true,
            (Err(_), FailurePolicy::Allow | FailurePolicy::Local) => false,
        }
    }
}

impl Part {
    fn of(place: Place, index: usize, charge: SlotCharge) -> Self {
        Self { place, dispatch: Dispatch::Batched, charges: smallvec![charge], indexes: smallvec![index] }
    }

    fn push(&mut self, index: usize, charge: SlotCharge) {
        self.charges.push(charge);
        self.indexes.push(index);
    }

    fn each(&self) -> impl Iterator<Item = (Place, usize, SlotCharge)> {
        self.indexes.iter().zip(&self.charges).map(|(index, charge)| (self.place, *index, charge.clone()))
    }
}

/// The charges of a part, each counter's by themselves.
pub(super) fn by_counter(place: Place, indexes: &[usize], charges: SlotCharges) -> Parts {
    let mut parts = Parts::new();
    // The first part with a counter, and with a lockout.
    let mut part_of = HashMap::<Bytes, usize, RandomState>::default();
    for (index, charge) in indexes.iter().copied().zip(charges) {
        let names = [Some(charge.key.clone()), charge.lockout.as_ref().map(|lockout| lockout.key.clone())];
        let known = names.iter().flatten().filter_map(|name| part_of.get(name)).min().copied();
        let position = known.unwrap_or(parts.len());
        for name in names.into_iter().flatten() {
            let first = part_of.entry(name).or_insert(position);
            *first = position.min(*first);
        }
        match parts.get_mut(position) {
            Some(part) => part.push(index, charge),
            None => parts.push(Part { dispatch: Dispatch::Alone, ..Part::of(place, index, charge) }),
        }
    }
    parts
}

/// One reading for each charge, by their indexes.
pub(super) fn in_order(outcomes: Vec<(usize, Result<Reading, StoreError>)>, len: usize) -> Readings {
    let mut readings: Readings = (0..len).map(|_| Err(lost())).collect();
    for (index, outcome) in outcomes {
        if let Some(place) = readings.get_mut(index) {
            *place = outcome;
        }
    }
    readings
}

pub(super) fn lost() -> StoreError {
    StoreError::Unanswered("it was given up".to_owned())
}

/// The name of the counter: of fixed windows, for the one that `now` lies in.
fn counter_key(charge: &Charge, now: Timestamp) -> Bytes {
    let mut key = BytesMut::with_capacity(charge.key.len() + MAX_DIGITS);
    key.put_slice(&charge.key);
    if charge.limit.algorithm == Algorithm::FixedWindow {
        key.put_slice(itoa::Buffer::new().format(charge.limit.window.start_secs(now)).as_bytes());
    }
    key.freeze()
}
