//! Budgets in memory: what charges do to the holds of their counters.

use smallvec::{SmallVec, smallvec};

use super::MemoryStore;
use super::group::{Group, Member, Stripes, find_stripe};
use super::stripe::{Counter, log_bytes};
use crate::engine::algorithm::budget::{self, Prepared};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::algorithm::{CounterState, Meter};
use crate::engine::reserve::{Action, Extension};
use crate::engine::{Hits, Reservation, Ticket, Timestamp};
use crate::store::Charge;

/// Each charge of a group after its effect on holds; `None` for those that have none.
pub(super) type PreparedCharges = SmallVec<[Option<Prepared>; 4]>;

impl MemoryStore {
    /// Ends the holds that have expired and those that are settled, before the charges are decided.
    pub(super) fn prepare_budgets(
        &self,
        group: &mut Group<'_>,
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) -> PreparedCharges {
        let mut is_expired: SmallVec<[bool; 4]> = smallvec![false; group.members.len()];
        let mut prepared = PreparedCharges::new();
        for (charge, requested) in group.charges.iter().zip(&mut group.requested) {
            let member = charge.reservation().zip(group.members.get(requested.counter));
            let Some(((reservation, hits), member)) = member else {
                prepared.push(None);
                continue;
            };
            self.make_budget(member, stripes, now);
            let is_first =
                is_expired.get_mut(requested.counter).is_some_and(|done| !std::mem::replace(done, true));
            let prepare = |state: &mut budget::State| {
                let expired = if is_first { state.expire(member.limit, reservation.terms, now) } else { 0 };
                let mut prepared = state.prepare(reservation, hits, now);
                prepared.report.expired = expired;
                prepared
            };
            let of_charge = change_budget(member, stripes, prepare);
            if let Some(of_charge) = of_charge {
                requested.hits = of_charge.hits;
                if of_charge.never_fits {
                    requested.capacity = 0;
                }
            }
            prepared.push(of_charge);
        }
        prepared
    }

    /// Makes the counter of `member` one with holds.
    fn make_budget(&self, member: &Member<'_>, stripes: &mut Stripes<'_>, now: Timestamp) {
        let Member { key, limit, rule, hash, stripe, .. } = *member;
        let mut empty = CounterState::empty(limit.algorithm);
        if let Some(counter) = member.find(stripes) {
            if !matches!(counter.state, CounterState::Budget(_)) {
                let before = log_bytes(&counter.state);
                let state = std::mem::replace(&mut counter.state, empty);
                counter.state = CounterState::Budget(Box::new(budget::State::new(state)));
                let (rule, after) = (counter.rule, log_bytes(&counter.state));
                if let Some(stripe) = find_stripe(stripes, stripe) {
                    stripe.resize(rule, before, after);
                }
            }
            return;
        }
        empty.load(limit, now);
        let state = CounterState::Budget(Box::new(budget::State::new(empty)));
        if let Some(stripe) = find_stripe(stripes, stripe) {
            let counter = Counter { key: key.into(), limit, rule, state };
            stripe.insert(hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
    }
}

impl Group<'_> {
    /// Opens and raises the holds of charges that were carried out. What they took of `meters` is held, and not counted.
    pub(super) fn finish_budgets(
        &self,
        (prepared, outcomes): (&mut PreparedCharges, &mut [(Meter, ChargeOutcome)]),
        meters: &mut [Meter],
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) {
        let charges = self.charges.iter().zip(&self.requested).zip(prepared).zip(outcomes);
        for (((charge, requested), prepared), (_, outcome)) in charges {
            let Some(prepared) = prepared else { continue };
            if let Some(decided) = prepared.decided {
                *outcome = decided;
                continue;
            }
            let Some((Reservation { action, .. }, _)) = charge.reservation() else { continue };
            let held = match action {
                Action::Open(opening) => opening.amount,
                Action::Extend(_) => prepared.report.more,
                Action::Look | Action::Settle(_) | Action::Cancel(_) | Action::Lower(..) => continue,
            };
            if *outcome != ChargeOutcome::Charged {
                continue;
            }
            if let Some(meter) = meters.get_mut(requested.counter) {
                meter.level = meter.level.saturating_sub(u64::from(held).saturating_mul(meter.parts));
            }
            let Some(member) = self.members.get(requested.counter) else { continue };
            let report = prepared.report;
            let change = |state: &mut budget::State| match action {
                Action::Open(opening) => {
                    opening.ticket.map(|ticket| state.open(ticket, opening, report, now))
                }
                Action::Extend(extension) => Some(state.extend(extension, report, now)),
                _ => None,
            };
            prepared.report = change_budget(member, stripes, change).flatten().unwrap_or(report);
        }
    }

    /// Completes the reports, and drops counters with nothing to remember.
    pub(super) fn complete_budgets(
        &self,
        (prepared, outcomes): (&mut PreparedCharges, &mut [(Meter, ChargeOutcome)]),
        states: &mut [CounterState],
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) {
        let charges = self.charges.iter().zip(&self.requested).zip(&mut *prepared).zip(outcomes);
        for (((charge, requested), prepared), (meter, _)) in charges {
            let (Some(prepared), Some(member), Some(state)) =
                (prepared, self.members.get(requested.counter), states.get_mut(requested.counter))
            else {
                continue;
            };
            let Some(counter) = member.find(stripes) else { continue };
            let CounterState::Budget(budget) = &counter.state else { continue };
            let action = charge.reserve.as_ref().map(|reserve| reserve.action);
            prepared.report = budget.complete(prepared.report, extended_ticket(charge), now);
            if let (Some(Action::Settle(_)), None, Hits::Add(hits)) =
                (action, prepared.decided, prepared.hits)
            {
                prepared.report.counted = hits;
            }
            *state = counter.state.for_decision(now);
            *meter = state.load(member.limit, now);
        }
        for member in &self.members {
            drop_empty(member, stripes, now);
        }
    }

    /// State of the counter of the charge at `index` for its reading, if it extends a hold: only
    /// the holds of others can deny it.
    pub(super) fn state_beside_hold(
        &self,
        index: usize,
        stripes: &mut Stripes<'_>,
        now: Timestamp,
    ) -> Option<CounterState> {
        let own = extended_ticket(self.charges.get(index)?)?;
        let member = self.members.get(self.requested.get(index)?.counter)?;
        let CounterState::Budget(state) = &member.find(stripes)?.state else { return None };
        let mut beside = CounterState::Budget(Box::new(state.summarize_beside(Some(own), now)));
        beside.load(member.limit, now);
        Some(beside)
    }
}

/// Ticket of the hold that a charge extends.
fn extended_ticket(charge: &Charge) -> Option<Ticket> {
    match charge.reserve.as_ref()?.action {
        Action::Extend(Extension { ticket, .. }) => Some(ticket),
        _ => None,
    }
}

/// Changes the holds of `member`.
pub(super) fn change_budget<T>(
    member: &Member<'_>,
    stripes: &mut Stripes<'_>,
    change: impl FnOnce(&mut budget::State) -> T,
) -> Option<T> {
    let counter = member.find(stripes)?;
    let before = log_bytes(&counter.state);
    let CounterState::Budget(state) = &mut counter.state else { return None };
    let changed = change(state);
    counter.limit = member.limit;
    let (rule, after) = (counter.rule, log_bytes(&counter.state));
    find_stripe(stripes, member.stripe)?.resize(rule, before, after);
    Some(changed)
}

/// Drops the counter of `member` if it equals one that is not there.
pub(super) fn drop_empty(member: &Member<'_>, stripes: &mut Stripes<'_>, now: Timestamp) {
    let is_empty = match member.find(stripes) {
        Some(Counter { state: CounterState::Budget(state), .. }) => {
            state.has_no_tickets() && state.counter.used(member.limit, now) == 0
        }
        Some(_) | None => false,
    };
    if let Some(stripe) = find_stripe(stripes, member.stripe).filter(|_| is_empty) {
        stripe.remove(member.hash, member.key, member.limit);
    }
}
