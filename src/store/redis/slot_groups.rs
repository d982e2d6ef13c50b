//! The charges of a request, by the slot of their counters, and their decision as a whole.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::RandomState;
use futures_util::future;
use hashbrown::HashMap;
use smallvec::{SmallVec, smallvec};

use super::batch::{Dispatch, SlotCharge, SlotCharges, SlotReservation};
use super::cluster::{Cluster, CrossSlot};
use super::queue::Outcomes;
use crate::engine::algorithm::group::is_over;
use crate::engine::{
    Algorithm, ChargeMode, CombinedEnforcement, Enforcement, FailurePolicy, Hits, Limit, Timestamp, Unit,
};
use crate::store::positions::Positions;
use crate::store::{Charge, Reading, Readings, StoreError};

/// Room for the digits of any window's beginning.
const MAX_DIGITS: usize = 20;

/// Clusters that a store counts in.
#[derive(Debug)]
pub(super) struct Clusters {
    pub(super) all: Cluster,
    pub(super) per_second: Option<Cluster>,
    pub(super) expiration_jitter_max_secs: u32,
}

/// A counter, and where it is kept.
pub(super) struct Counter<'c> {
    pub(super) cluster: &'c Cluster,
    pub(super) slot: u16,
    pub(super) key: Bytes,
    /// Its holds, if it is a budget.
    pub(super) reserve: Option<Box<SlotReservation>>,
}

/// Charges of one request whose counters lie in one slot, with their indexes in the request.
pub(super) struct SlotGroup {
    pub(super) location: Location,
    dispatch: Dispatch,
    charges: SlotCharges,
    pub(super) indexes: SmallVec<[usize; 2]>,
}

pub(super) type SlotGroups = SmallVec<[SlotGroup; 1]>;

/// Refunds of a request that is denied.
pub(super) struct Refunds {
    pub(super) groups: SlotGroups,
    /// True if the answer must wait for them: its caller may repeat the call, find what the refunds take back, and lose it.
    pub(super) is_awaited: bool,
}

/// Charges in one location can be carried out in one call.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Location {
    per_second: bool,
    slot: u16,
}

impl Clusters {
    fn of(&self, location: Location) -> &Cluster {
        self.per_second.as_ref().filter(|_| location.per_second).unwrap_or(&self.all)
    }

    /// Number of times that a server was replaced by another, which may have lost the latest charges.
    pub(super) fn generation(&self) -> u64 {
        self.all.generation() + self.per_second.as_ref().map_or(0, Cluster::generation)
    }

    /// The charges, by the location of their counters; their request is `denied` already or not.
    pub(super) fn groups(&self, charges: &[Charge], now: Timestamp, denied: bool) -> SlotGroups {
        let (mut groups, mut locations) = (SlotGroups::new(), Positions::default());
        for (index, charge) in charges.iter().enumerate() {
            let slot_charge = SlotCharge { denied, ..self.slot_charge(charge, now) };
            // A charge with a lockout is decided in one slot, whatever its window.
            let per_second = self.per_second.is_some()
                && charge.limit.window == Unit::Second.window()
                && !charge.limit.is_concurrency()
                && charge.lockout.is_none();
            let servers = self.of(Location { per_second, slot: 0 });
            let location = Location { per_second, slot: servers.slot(&slot_charge.key) };
            let (position, _) = locations.of(location);
            match groups.get_mut(position) {
                Some(group) => group.push(index, slot_charge),
                None => groups.push(SlotGroup::of(location, index, slot_charge)),
            }
        }
        groups
    }

    /// Counters of `charges`.
    pub(super) fn counters(&self, charges: &[Charge], now: Timestamp) -> Vec<Counter<'_>> {
        let of_group = |group: SlotGroup| {
            let (cluster, slot) = (self.of(group.location), group.location.slot);
            let counter = move |SlotCharge { key, reserve, .. }| Counter { cluster, slot, key, reserve };
            group.charges.into_iter().map(counter)
        };
        self.groups(charges, now, false).into_iter().flat_map(of_group).collect()
    }

    fn slot_charge(&self, charge: &Charge, now: Timestamp) -> SlotCharge {
        let jitter_secs = match self.expiration_jitter_max_secs {
            0 => 0,
            max => fastrand::u32(0..max),
        };
        let Charge { limit, mode, enforcement, on_failure, lease, .. } = *charge;
        let reservation = charge.reservation();
        let ttl_secs = limit.ttl_secs().saturating_add(jitter_secs);
        let (lockout, hold) = (charge.lockout.clone(), charge.hold.clone());
        SlotCharge {
            key: counter_key(charge, now),
            limit,
            hits: reservation.map_or(charge.hits, |(_, hits)| hits),
            mode,
            enforcement,
            on_failure,
            lockout,
            hold,
            lease,
            reserve: reservation.map(|(reservation, _)| {
                Box::new(SlotReservation { reservation, counter: charge.key.clone() })
            }),
            denied: false,
            ttl_secs,
            now,
        }
    }

    /// Takes the charges of `group` and carries them out.
    pub(super) async fn charge(&self, group: &mut SlotGroup) -> Result<Outcomes, CrossSlot> {
        self.of(group.location)
            .charge(mem::take(&mut group.charges), group.location.slot, group.dispatch)
            .await
    }

    /// Carries out the charges of `group`: together, or one after the other where the servers cannot do it together.
    async fn carry_out(&self, group: &mut SlotGroup) -> Outcomes {
        let charges = match self.charge(group).await {
            Ok(outcomes) => return outcomes,
            Err(CrossSlot(charges)) => charges,
        };
        let len = charges.len();
        let indexes: SmallVec<[usize; 2]> = (0..len).collect();
        let mut outcomes = Vec::with_capacity(len);
        for mut group in by_counter(group.location, &indexes, charges) {
            if let Ok(of_counter) = self.charge(&mut group).await {
                outcomes.extend(group.indexes.iter().copied().zip(of_counter));
            }
        }
        in_order(outcomes, len).into_iter().collect()
    }

    /// Carries out every group at once. The failure of one does not affect the others.
    pub(super) async fn charge_each(
        &self,
        groups: &mut [SlotGroup],
    ) -> Vec<(usize, Result<Reading, StoreError>)> {
        let carried_out = groups.iter_mut().map(async |group| {
            let outcomes = self.carry_out(group).await;
            group.indexes.iter().copied().zip(outcomes).collect::<SmallVec<[_; 2]>>()
        });
        future::join_all(carried_out).await.into_iter().flatten().collect()
    }

    /// Decides each slot by itself. Returns the readings, and the refunds if the request is denied all the same.
    pub(super) async fn decide_across_slots(&self, groups: &mut SlotGroups) -> (Readings, Refunds) {
        let charges: Vec<(Location, usize, SlotCharge)> = groups.iter().flat_map(SlotGroup::each).collect();
        // A single slot cannot see whether all quotas of the request are used up.
        for charge in groups.iter_mut().flat_map(|group| &mut group.charges) {
            if matches!(charge.enforcement, Enforcement::Quota | Enforcement::ShadowQuota) {
                charge.enforcement = Enforcement::Shadow;
            }
        }
        let mut readings = in_order(self.charge_each(groups).await, charges.len());
        let mut combined = CombinedEnforcement::default();
        for (_, index, charge) in &charges {
            if let Some(reading) = readings.get(*index) {
                let SlotCharge { limit, mode, hits, on_failure, .. } = charge;
                combined.add(charge.enforcement, is_denied(*limit, (*mode, *hits), *on_failure, reading));
            }
        }
        let mut refunds = Refunds { groups: SlotGroups::new(), is_awaited: false };
        if combined.is_denied() {
            for (location, index, charge) in charges {
                if let Some(Ok(reading)) = readings.get_mut(index)
                    && let Some(hits @ 1..) = reading.withhold(charge.limit, charge.mode, charge.hits)
                {
                    refunds.is_awaited |= charge.finds_what_it_did();
                    refunds.groups.push(SlotGroup::of(location, index, charge.refund(hits)));
                }
            }
        }
        (readings, refunds)
    }
}

/// True if a charge is over its limit, or counts as over it.
pub(super) fn is_denied(
    limit: Limit,
    (mode, hits): (ChargeMode, Hits),
    on_failure: FailurePolicy,
    reading: &Result<Reading, StoreError>,
) -> bool {
    match (reading, on_failure) {
        (Ok(Reading { used, outcome, .. }), _) => is_over(mode, hits, *used, limit.capacity(), *outcome),
        (Err(_), FailurePolicy::Error | FailurePolicy::Deny) => true,
        (Err(_), FailurePolicy::Allow | FailurePolicy::Local) => false,
    }
}

impl SlotGroup {
    fn of(location: Location, index: usize, charge: SlotCharge) -> Self {
        Self { location, dispatch: Dispatch::Batched, charges: smallvec![charge], indexes: smallvec![index] }
    }

    fn push(&mut self, index: usize, charge: SlotCharge) {
        self.charges.push(charge);
        self.indexes.push(index);
    }

    fn each(&self) -> impl Iterator<Item = (Location, usize, SlotCharge)> {
        self.indexes.iter().zip(&self.charges).map(|(index, charge)| (self.location, *index, charge.clone()))
    }
}

/// The charges of a group, each counter's by themselves.
pub(super) fn by_counter(location: Location, indexes: &[usize], charges: SlotCharges) -> SlotGroups {
    let mut groups = SlotGroups::new();
    // The first group with a counter, and with a lockout.
    let mut group_of = HashMap::<Bytes, usize, RandomState>::default();
    for (index, charge) in indexes.iter().copied().zip(charges) {
        let names = [Some(charge.key.clone()), charge.lockout.as_ref().map(|lockout| lockout.key.clone())];
        let known = names.iter().flatten().filter_map(|name| group_of.get(name)).min().copied();
        let position = known.unwrap_or(groups.len());
        for name in names.into_iter().flatten() {
            let first = group_of.entry(name).or_insert(position);
            *first = position.min(*first);
        }
        match groups.get_mut(position) {
            Some(group) => group.push(index, charge),
            None => {
                groups.push(SlotGroup { dispatch: Dispatch::Alone, ..SlotGroup::of(location, index, charge) })
            }
        }
    }
    groups
}

/// One reading for each charge, by their indexes.
pub(super) fn in_order(outcomes: Vec<(usize, Result<Reading, StoreError>)>, len: usize) -> Readings {
    let mut readings: Readings = (0..len).map(|_| Err(lost())).collect();
    for (index, outcome) in outcomes {
        if let Some(reading) = readings.get_mut(index) {
            *reading = outcome;
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
