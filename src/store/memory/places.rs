//! Places of concurrency limits in memory: what tickets acquire, renew and release.

use smallvec::SmallVec;

use super::MemoryStore;
use super::group::{Group, Member, Stripes, find_stripe};
use super::stripe::{Counter, log_bytes};
use crate::engine::Timestamp;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::algorithm::{CounterState, Meter, places};
use crate::store::{Charge, Readings, TicketUse};

/// Places of each charge that were found to have ended by themselves.
pub(super) type ExpiredPlaces = SmallVec<[u64; 4]>;

/// Outcome of each charge; `None` for those that no ticket decides.
pub(super) type TicketOutcomes = SmallVec<[Option<ChargeOutcome>; 4]>;

impl MemoryStore {
    /// Renews and releases, before the other charges of the request are decided: a place that it gives back is free
    /// for it.
    pub(super) fn use_tickets(
        &self,
        group: &Group<'_>,
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) -> TicketOutcomes {
        let used = |(charge, requested): (&Charge, &_)| {
            let (hold, ticket_use) = charge.use_of_ticket()?;
            let member = member_of(group, requested)?;
            let change = |state: &mut places::State| match ticket_use {
                TicketUse::Release => Some(state.release(hold.ticket, now)),
                TicketUse::Renew => Some(state.renew(hold, now)),
                TicketUse::Acquire(_) => None,
            };
            let has_held = match change_places(member, stripes, change) {
                Some(has_held) => has_held?,
                None if matches!(ticket_use, TicketUse::Acquire(_)) => return None,
                None => false,
            };
            Some(if has_held { ChargeOutcome::Charged } else { ChargeOutcome::Denied })
        };
        group.charges.iter().zip(&group.requested).map(used).collect()
    }

    /// Takes the places of charges that were carried out. Returns for each charge the places that were found to have
    /// ended by themselves.
    pub(super) fn acquire_places(
        &self,
        group: &Group<'_>,
        outcomes: &[(Meter, ChargeOutcome)],
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) -> ExpiredPlaces {
        let acquired = |((charge, requested), (_, outcome)): ((&Charge, &_), &(Meter, _))| {
            let (Some((hold, TicketUse::Acquire(weight))), Some(member), ChargeOutcome::Charged) =
                (charge.use_of_ticket(), member_of(group, requested), *outcome)
            else {
                return 0;
            };
            let acquire = |state: &mut places::State| state.acquire(hold, weight, now);
            change_places(member, stripes, acquire).unwrap_or_else(|| {
                let mut state = places::State::default();
                let expired = acquire(&mut state);
                self.insert_places(member, stripes, state);
                expired
            })
        };
        group.charges.iter().zip(&group.requested).zip(outcomes).map(acquired).collect()
    }

    fn insert_places(&self, member: &Member<'_>, stripes: &mut Stripes<'_>, state: places::State) {
        let Member { key, limit, rule, hash, stripe } = *member;
        let counter = Counter { key: key.into(), limit, rule, state: CounterState::Places(Box::new(state)) };
        if let Some(stripe) = find_stripe(stripes, stripe) {
            stripe.insert(hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
    }
}

impl Group<'_> {
    /// Adds the places that have ended by themselves to the readings.
    pub(super) fn report_expired_places(readings: &mut Readings, expired: &[u64]) {
        for (reading, expired) in readings.iter_mut().zip(expired).filter(|(_, expired)| **expired > 0) {
            if let Ok(reading) = reading {
                reading.budget = Some(places::report(*expired));
            }
        }
    }
}

fn member_of<'g, 'a>(group: &'g Group<'a>, requested: &super::engine::GroupCharge) -> Option<&'g Member<'a>> {
    group.members.get(requested.counter).filter(|member| member.limit.is_concurrency())
}

/// Changes the places of `member`, and drops them once none is held. `None` if there are none.
fn change_places<T>(
    member: &Member<'_>,
    stripes: &mut Stripes<'_>,
    change: impl FnOnce(&mut places::State) -> T,
) -> Option<T> {
    let counter = member.find(stripes)?;
    let before = log_bytes(&counter.state);
    let CounterState::Places(state) = &mut counter.state else { return None };
    let changed = change(state);
    let is_empty = state.is_empty();
    counter.limit = member.limit;
    let (rule, after) = (counter.rule, log_bytes(&counter.state));
    let stripe = find_stripe(stripes, member.stripe)?;
    stripe.resize(rule, before, after);
    if is_empty {
        stripe.remove(member.hash, member.key, member.limit);
    }
    Some(changed)
}
