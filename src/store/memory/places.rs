//! Places of concurrency limits in memory: what tickets acquire, renew and release.

use smallvec::{SmallVec, smallvec};

use super::MemoryStore;
use super::group::{Group, Member, Stripes, find_stripe};
use super::stripe::{Counter, log_bytes};
use crate::engine::algorithm::group::{ChargeOutcome, GroupCharge};
use crate::engine::algorithm::places::{self, PlaceReport};
use crate::engine::algorithm::{CounterState, Meter};
use crate::engine::{Hits, Timestamp};
use crate::store::{Charge, TicketUse};

/// Tickets that each charge has found to have ended by themselves.
pub(super) type ExpiredTickets = SmallVec<[u64; 4]>;

/// Outcome of each charge; `None` for those that no ticket decides.
pub(super) type TicketOutcomes = SmallVec<[Option<ChargeOutcome>; 4]>;

impl MemoryStore {
    /// Renews and releases, before the other charges of the request are decided: a place that it gives back is free
    /// for it. What a ticket has acquired before, it does not acquire again. Returns beside the outcomes the tickets that
    /// each charge has found to have ended by themselves.
    pub(super) fn use_tickets(
        &self,
        group: &mut Group<'_>,
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) -> (TicketOutcomes, ExpiredTickets) {
        let Group { charges, members, requested, .. } = group;
        let mut all_expired: ExpiredTickets = smallvec![0; charges.len()];
        let used = |((charge, requested), expired): ((&Charge, &mut GroupCharge), &mut u64)| {
            let (hold, ticket_use) = charge.use_of_ticket()?;
            let member = member_of(members, requested)?;
            let change = |state: &mut places::State| match ticket_use {
                TicketUse::Release => {
                    let was_held = state.release(hold.ticket, now);
                    *expired = u64::from(was_held == Some(false));
                    Some(was_held.unwrap_or(false))
                }
                TicketUse::Renew => Some(state.renew(hold, now)),
                TicketUse::Acquire(_) => {
                    (hold.is_named && state.end_of(hold.ticket, now).is_some()).then_some(true)
                }
            };
            let has_held = match change_places(member, stripes, change) {
                Some(has_held) => has_held?,
                None if matches!(ticket_use, TicketUse::Acquire(_)) => return None,
                None => false,
            };
            requested.hits = Hits::Refund(0);
            Some(if has_held { ChargeOutcome::Charged } else { ChargeOutcome::Denied })
        };
        let outcomes = charges.iter().zip(requested).zip(&mut all_expired).map(used).collect();
        (outcomes, all_expired)
    }

    /// Takes the places of charges that were carried out, and drops those of tickets that have `expired`.
    pub(super) fn acquire_places(
        &self,
        group: &Group<'_>,
        (outcomes, used, expired): (&[(Meter, ChargeOutcome)], &TicketOutcomes, &mut [u64]),
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) {
        let Group { charges, members, requested, .. } = group;
        let acquired = charges.iter().zip(requested).zip(outcomes).zip(used).zip(expired);
        for ((((charge, requested), (_, outcome)), used), expired) in acquired {
            let (Some((hold, TicketUse::Acquire(weight))), Some(member), ChargeOutcome::Charged, None) =
                (charge.use_of_ticket(), member_of(members, requested), *outcome, used)
            else {
                continue;
            };
            let acquire = |state: &mut places::State| state.acquire(hold, weight, now);
            *expired = change_places(member, stripes, acquire).unwrap_or_else(|| {
                let mut state = places::State::default();
                let expired = acquire(&mut state);
                self.insert_places(member, stripes, state);
                expired
            });
        }
    }

    fn insert_places(&self, member: &Member<'_>, stripes: &mut Stripes<'_>, state: places::State) {
        let Member { key, limit, rule, hash, stripe, .. } = *member;
        let counter = Counter { key: key.into(), limit, rule, state: CounterState::Places(Box::new(state)) };
        if let Some(stripe) = find_stripe(stripes, stripe) {
            stripe.insert(hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
    }
}

impl Group<'_> {
    /// Effect of the charge at `index` on tickets, for its reading. A named ticket that is acquired `used` places which it
    /// held before.
    pub(super) fn place_report(
        &self,
        index: usize,
        used: &TicketOutcomes,
        expired: &ExpiredTickets,
    ) -> PlaceReport {
        let of_ticket = self.charges.get(index).and_then(Charge::use_of_ticket);
        let is_acquired = matches!(of_ticket, Some((_, TicketUse::Acquire(_))));
        let is_known = is_acquired && used.get(index).is_some_and(Option::is_some);
        PlaceReport::of(expired.get(index).copied().unwrap_or_default(), is_known)
    }

    /// State of the counter of the charge at `index` for its reading, if it renews a ticket or names one: it is about the
    /// places of that ticket.
    pub(super) fn state_of_ticket(
        &self,
        index: usize,
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) -> Option<CounterState> {
        let (hold, ticket_use) = self.charges.get(index)?.use_of_ticket()?;
        let is_about_it = match ticket_use {
            TicketUse::Renew => true,
            TicketUse::Acquire(_) => hold.is_named,
            TicketUse::Release => false,
        };
        let member = member_of(&self.members, self.requested.get(index)?).filter(|_| is_about_it)?;
        let CounterState::Places(state) = &member.find(stripes)?.state else { return None };
        let summary = places::State::summary(state.held(now), Some(state.end_of(hold.ticket, now)?));
        Some(CounterState::Places(Box::new(summary)))
    }
}

fn member_of<'g, 'a>(members: &'g [Member<'a>], requested: &GroupCharge) -> Option<&'g Member<'a>> {
    members.get(requested.counter).filter(|member| member.limit.is_concurrency())
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
