//! Charges that are decided together, under the locks of all their stripes. A request may have thousands of them, so
//! every step is linear in their number.

use std::hash::{BuildHasher as _, Hash, Hasher};

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::MemoryStore;
use super::stripe::{Counter, LockoutCounter, Stripe, Usage, log_bytes};
use crate::engine::algorithm::budget::Prepared;
use crate::engine::algorithm::group::{self, GroupCharge, LeaseStep, Locked};
use crate::engine::algorithm::{CounterState, Meter};
use crate::engine::{Limit, Timestamp, lockout};
use crate::store::positions::Positions;
use crate::store::{Charge, Lockout, Reading, Readings};

/// A counter of a group of charges, there or not.
pub(super) struct Member<'a> {
    pub(super) key: &'a [u8],
    pub(super) limit: Limit,
    /// See [`Charge::rule`].
    pub(super) rule: u32,
    pub(super) hash: u64,
    pub(super) stripe: usize,
    /// True if a charge is about its holds. Another charge to a counter with holds does not see them.
    pub(super) has_budget: bool,
}

/// Identity of a counter.
struct CounterId<'a> {
    key: &'a [u8],
    limit: Limit,
}

impl PartialEq for CounterId<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.limit.shares_counter_with(other.limit)
    }
}

impl Eq for CounterId<'_> {}

impl Hash for CounterId<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.key, self.limit.counter_window()).hash(state);
    }
}

/// A lockout of a group of charges, there or not.
struct Suspect<'a> {
    lockout: &'a Lockout,
    hash: u64,
    stripe: usize,
}

/// Charges that are decided together.
pub(super) struct Group<'a> {
    pub(super) charges: &'a [Charge],
    pub(super) members: SmallVec<[Member<'a>; 4]>,
    suspects: SmallVec<[Suspect<'a>; 1]>,
    pub(super) requested: SmallVec<[GroupCharge; 4]>,
}

/// Locked stripes, each with its place.
pub(super) type Stripes<'a> = SmallVec<[(usize, MutexGuard<'a, Stripe>); 4]>;

impl Member<'_> {
    pub(super) fn find<'s>(&self, stripes: &'s mut Stripes<'_>) -> Option<&'s mut Counter> {
        let stripe = find_stripe(stripes, self.stripe)?;
        Some(&mut **stripe.counters.find_mut(self.hash, |counter| counter.is(self.key, self.limit))?)
    }

    /// Its state, for a decision at `now`.
    fn load(&self, stripes: &mut Stripes<'_>, now: Timestamp) -> CounterState {
        match self.find(stripes) {
            Some(counter) => {
                let state = if self.has_budget { &mut counter.state } else { counter.state.without_holds() };
                state.correct(self.limit, now);
                state.for_decision(now)
            }
            None => CounterState::empty(self.limit.algorithm),
        }
    }
}

impl<'a> Suspect<'a> {
    fn find<'s>(&self, stripes: &'s mut Stripes<'_>) -> Option<&'s mut LockoutCounter> {
        let stripe = find_stripe(stripes, self.stripe)?;
        stripe.lockouts.find_mut(self.hash, |counter| *counter.key == *self.lockout.key)
    }

    /// Its state at `now`.
    fn load(&self, stripes: &mut Stripes<'_>, now: Timestamp) -> Locked<'a> {
        let state = self.find(stripes).map_or_else(lockout::LockoutState::default, |counter| counter.state);
        Locked::new(&self.lockout.schedule, state, now)
    }
}

impl MemoryStore {
    /// Carries out charges that are decided together, under the locks of all their stripes.
    pub(super) fn charge_together(&self, charges: &[Charge], now: Timestamp) -> Readings {
        let mut group = self.group(charges, now);
        let counters = group.members.iter().map(|member| member.stripe);
        let mut stripes = self.lock_all(counters.chain(group.suspects.iter().map(|suspect| suspect.stripe)));
        let usage: SmallVec<[Usage; 4]> = stripes.iter().map(|(_, stripe)| stripe.usage).collect();
        let has_tickets = charges.iter().any(|charge| charge.hold.is_some());
        let (used_tickets, mut expired_tickets) = match has_tickets {
            true => self.use_tickets(&mut group, &mut stripes, now),
            false => (SmallVec::new(), SmallVec::new()),
        };
        let has_budgets = charges.iter().any(|charge| charge.reserve.is_some());
        let mut prepared = match has_budgets {
            true => self.prepare_budgets(&mut group, &mut stripes, now),
            false => SmallVec::new(),
        };
        let Group { members, suspects, requested, .. } = &group;
        let mut states: SmallVec<[CounterState; 4]> =
            members.iter().map(|member| member.load(&mut stripes, now)).collect();
        let load = |(state, member): (&mut CounterState, &Member<'_>)| state.load(member.limit, now);
        let before: SmallVec<[Meter; 4]> = states.iter_mut().zip(members).map(load).collect();
        let mut meters = before.clone();
        let mut lockouts: SmallVec<[Locked<'_>; 1]> =
            suspects.iter().map(|suspect| suspect.load(&mut stripes, now)).collect();
        let mut outcomes = group::charge(requested, &mut meters, &mut lockouts);

        if has_budgets {
            let parts = (&mut prepared, &mut *outcomes);
            group.finish_budgets(parts, &mut meters, &mut stripes, now);
        }
        let changed = |index: &usize| before.get(*index) != meters.get(*index);
        let has_state = |index: &usize| !members[*index].limit.is_concurrency();
        for index in (0..members.len()).filter(changed).filter(has_state) {
            let mut state = states[index].clone();
            state.save(meters[index], members[index].limit, now);
            self.write(&members[index], &mut stripes, state);
        }
        if has_tickets {
            outcomes_of_tickets(&mut outcomes, &used_tickets);
            let parts = (&*outcomes, &used_tickets, &mut *expired_tickets);
            self.acquire_places(&group, parts, &mut stripes, now);
            read_places(&mut states, members, &mut stripes, now);
        }
        if has_budgets {
            let parts = (&mut prepared, &mut *outcomes);
            group.complete_budgets(parts, &mut states, &mut stripes, now);
        }
        for (suspect, locked) in suspects.iter().zip(&lockouts) {
            self.write_lockout(suspect, &mut stripes, locked, members);
        }
        self.account(&group, &mut stripes, &usage, now);
        let reading = |(index, (meter, outcome)): (usize, (Meter, _))| {
            let (charge, requested) = (&charges[index], &requested[index]);
            let of_ticket = group.state_of_ticket(index, &mut stripes, now);
            let own = of_ticket.or_else(|| group.state_beside_hold(index, &mut stripes, now));
            let mut state = own.unwrap_or_else(|| states[requested.counter].clone());
            state.save(meter, charge.limit, now);
            let (context, used) = (charge.context(now), meter.used());
            let reading = match (&charge.reserve, prepared.get(index)) {
                (Some(reserve), Some(Some(Prepared { report, .. }))) => {
                    Reading::of_budget(context, state, used, outcome, (reserve.action, *report))
                }
                _ => {
                    let places = group.place_report(index, &used_tickets, &expired_tickets);
                    Reading { places, ..Reading::of(context, &state, used, outcome) }
                }
            };
            let ends_us = requested.lockout.map_or(0, |index| lockouts[index].state().ends_us);
            Ok(reading.locked_until(ends_us, now))
        };
        outcomes.into_iter().enumerate().map(reading).collect()
    }

    /// Records what the group takes now, and makes room if that is too much.
    fn account(&self, group: &Group<'_>, stripes: &mut Stripes<'_>, usage: &[Usage], now: Timestamp) {
        let Group { members, suspects, .. } = group;
        let mut has_changed = false;
        for ((_, stripe), before) in stripes.iter_mut().zip(usage) {
            has_changed |= stripe.usage != *before;
            self.room.account(stripe);
        }
        for suspect in suspects.iter().filter(|_| has_changed) {
            if let Some(stripe) = find_stripe(stripes, suspect.stripe) {
                self.make_room_for_lockout(stripe, now, &suspect.lockout.key);
            }
        }
        if has_changed {
            let mut kept: SmallVec<[u64; 4]> = members.iter().map(|member| member.hash).collect();
            kept.sort_unstable();
            let keep =
                |counter: &Counter| kept.binary_search(&self.hash(&counter.key, counter.limit)).is_ok();
            self.make_room(stripes.iter_mut().map(|(_, stripe)| &mut **stripe), now, keep);
        }
    }

    /// The counters and the lockouts of `charges`, each once, and the charges to them.
    fn group<'c>(&self, charges: &'c [Charge], now: Timestamp) -> Group<'c> {
        let mut group = Group {
            charges,
            members: SmallVec::new(),
            suspects: SmallVec::new(),
            requested: SmallVec::new(),
        };
        let (mut counters, mut lockouts) = (Positions::default(), Positions::default());
        for charge in charges {
            let Charge { key, limit, rule, hits, mode, enforcement, lockout, .. } = charge;
            let (counter, is_new) = counters.of(CounterId { key, limit: *limit });
            if is_new {
                group.members.push(self.member(key, *limit, *rule));
            }
            if let Some(member) = group.members.get_mut(counter) {
                member.has_budget |= charge.reserve.is_some();
            }
            let lockout = lockout.as_ref().map(|lockout| {
                let (index, is_new) = lockouts.of(&*lockout.key);
                if is_new {
                    let hash = self.hasher.hash_one(&*lockout.key);
                    group.suspects.push(Suspect { lockout, hash, stripe: self.stripe_index(hash) });
                }
                index
            });
            let (capacity, hits, mode, enforcement) = (limit.capacity(), *hits, *mode, *enforcement);
            let lease = LeaseStep::of(charge.lease, *limit, now);
            group.requested.push(GroupCharge { counter, capacity, hits, mode, enforcement, lockout, lease });
        }
        group
    }

    pub(super) fn member<'k>(&self, key: &'k [u8], limit: Limit, rule: u32) -> Member<'k> {
        let hash = self.hash(key, limit);
        Member { key, limit, rule, hash, stripe: self.stripe_index(hash), has_budget: false }
    }

    /// Locks stripes, in the order of their places: two callers cannot wait for each other.
    pub(super) fn lock_all(&self, indexes: impl Iterator<Item = usize>) -> Stripes<'_> {
        let mut indexes: SmallVec<[usize; 4]> = indexes.collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.into_iter().map(|index| (index, self.stripes[index].lock())).collect()
    }

    /// Sets a counter, and makes it if there is none.
    fn write(&self, member: &Member<'_>, stripes: &mut Stripes<'_>, state: CounterState) {
        let Some(stripe) = find_stripe(stripes, member.stripe) else { return };
        let found = stripe.counters.find_mut(member.hash, |counter| counter.is(member.key, member.limit));
        let Some(counter) = found else {
            let counter = Counter { key: member.key.into(), limit: member.limit, rule: member.rule, state };
            return stripe.insert(member.hash, counter, |counter| self.hash(&counter.key, counter.limit));
        };
        let before = log_bytes(&counter.state);
        match (&mut counter.state, state) {
            // Its holds are changed in place.
            (CounterState::Budget(before), CounterState::Budget(after)) => before.counter = after.counter,
            (CounterState::Budget(before), after) => before.counter = after,
            (before, after) => *before = after,
        }
        counter.limit = member.limit;
        let (rule, after) = (counter.rule, log_bytes(&counter.state));
        stripe.resize(rule, before, after);
    }

    /// Sets a lockout, and makes it if there is none.
    fn write_lockout(
        &self,
        suspect: &Suspect<'_>,
        stripes: &mut Stripes<'_>,
        locked: &Locked<'_>,
        members: &[Member<'_>],
    ) {
        // As in Redis, only a change is written: after a clock is set back, the strikes are the same.
        if !locked.has_changed() {
            return;
        }
        let Some(stripe) = find_stripe(stripes, suspect.stripe) else { return };
        let key = &suspect.lockout.key;
        let hash = |counter: &LockoutCounter| self.hasher.hash_one(&*counter.key);
        stripe.write_lockout(suspect.hash, key, hash, |counter| change_lockout(counter, locked, members));
    }
}

/// Sets the outcomes that tickets decide.
fn outcomes_of_tickets(
    outcomes: &mut [(Meter, group::ChargeOutcome)],
    used: &[Option<group::ChargeOutcome>],
) {
    for ((_, outcome), used) in outcomes.iter_mut().zip(used) {
        *outcome = used.unwrap_or(*outcome);
    }
}

/// Reads the places of `members` anew, after tickets changed them.
fn read_places(
    states: &mut [CounterState],
    members: &[Member<'_>],
    stripes: &mut Stripes<'_>,
    now: Timestamp,
) {
    for (state, member) in states.iter_mut().zip(members).filter(|(_, member)| member.limit.is_concurrency())
    {
        *state = match member.find(stripes) {
            Some(counter) => counter.state.for_decision(now),
            None => CounterState::empty(member.limit.algorithm),
        };
    }
}

/// Stores the new state of a lockout, and marks those of `members` that struck.
fn change_lockout(counter: &mut LockoutCounter, locked: &Locked<'_>, members: &[Member<'_>]) {
    let end_us = locked.state().expires_us(locked.schedule()).unwrap_or(u64::MAX);
    (counter.state, counter.end_secs) = (locked.state(), end_us.div_ceil(1_000_000));
    let Some(strike) = locked.strike() else { return };
    if strike.is_first {
        counter.struck.clear();
    }
    for member in strike.counters.iter().filter_map(|index| members.get(*index)) {
        counter.remember(member.key, member.limit);
    }
}

pub(super) fn find_stripe<'s>(stripes: &'s mut Stripes<'_>, index: usize) -> Option<&'s mut Stripe> {
    // In the order in which they were locked.
    let position = stripes.binary_search_by_key(&index, |(locked, _)| *locked).ok()?;
    stripes.get_mut(position).map(|(_, stripe)| &mut **stripe)
}
