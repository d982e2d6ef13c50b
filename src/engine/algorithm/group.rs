//! Joint decision on the charges of one request, some of which count only if the whole request passes.
//! `charge.lua` implements the same in Redis, and `fixed_windows.lua` for the most common groups.

use smallvec::SmallVec;

use super::{Meter, lapsed};
use crate::engine::lockout::{self, LockoutSchedule};
use crate::engine::{ChargeMode, CombinedEnforcement, Enforcement, Hits, Lease, Limit, Timestamp};

/// Charge of a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupCharge {
    /// Index of its counter in the group. Several charges may share one.
    pub counter: usize,
    /// Capacity of the counter, in hits.
    pub capacity: u32,
    /// Hits to count.
    pub hits: Hits,
    /// Charge mode: effect of a denial on the counter.
    pub mode: ChargeMode,
    /// Effect on the request if it is denied.
    pub enforcement: Enforcement,
    /// Index of the lockout in the group for which a denial is a strike. Several charges may share one.
    pub lockout: Option<usize>,
    /// Step of a lease, if the charge is one.
    pub lease: Option<LeaseStep>,
}

/// Charge that requests a lease or returns one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// See [`Lease::Ask`].
    Ask {
        /// Upper bound on the used hits after the lease.
        ceiling: u32,
        /// Divisor of the remaining hits: upper bound on the lease.
        shares: u16,
        /// Time of the charge.
        at: Timestamp,
    },
    /// See [`Lease::Return`].
    Return {
        /// Parts to leave out: see [`lapsed`].
        lapsed: u64,
    },
}

impl LeaseStep {
    /// Step of a charge at `now` to a counter of `limit`; `None` if the charge is not a step.
    pub fn of(lease: Option<Lease>, limit: Limit, now: Timestamp) -> Option<Self> {
        match lease? {
            Lease::Spend(_) => None,
            Lease::Ask { ceiling, shares } => Some(Self::Ask { ceiling, shares, at: now }),
            Lease::Return { charged } => Some(Self::Return { lapsed: lapsed(limit, charged, now) }),
        }
    }

    /// Carries out the step with `hits`.
    pub fn carry_out(self, hits: Hits, capacity: u32, meter: &mut Meter) -> ChargeOutcome {
        let (Hits::Add(count) | Hits::Refund(count)) = hits;
        match self {
            Self::Ask { ceiling, shares, at } => {
                ChargeOutcome::Leased { credits: meter.lease(count, capacity, ceiling, shares), at }
            }
            Self::Return { lapsed } => {
                meter.refund_but(count, lapsed);
                ChargeOutcome::Charged
            }
        }
    }
}

/// Lockout while a group is charged.
#[derive(Clone, Debug)]
pub struct Locked<'a> {
    schedule: &'a LockoutSchedule,
    state: lockout::LockoutState,
    now: Timestamp,
    was_blocked: bool,
    has_changed: bool,
    strike: Option<Strike>,
}

/// A denied request that counts towards a lockout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// True if it is the first one since the last block, or since earlier strikes expired.
    pub is_first: bool,
    /// The counters of the group that were over their limit.
    pub counters: SmallVec<[usize; 2]>,
}

impl<'a> Locked<'a> {
    /// Lockout with `state` as of `now`.
    pub fn new(schedule: &'a LockoutSchedule, mut state: lockout::LockoutState, now: Timestamp) -> Self {
        let has_changed = state.load(schedule, now);
        Self { schedule, state, now, was_blocked: state.is_blocked(now), has_changed, strike: None }
    }

    /// Schedule of blocks.
    pub const fn schedule(&self) -> &'a LockoutSchedule {
        self.schedule
    }

    /// Strikes and blocks after the group.
    pub const fn state(&self) -> lockout::LockoutState {
        self.state
    }

    /// True if the state must be written: it was corrected, there was a strike, or a block was restarted. Expiry alone
    /// needs no write.
    pub const fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// The strike of this group, if there was one.
    pub const fn strike(&self) -> Option<&Strike> {
        self.strike.as_ref()
    }

    /// Records a charge of hits to `counter`: one strike if any charge of the request was denied.
    fn note(&mut self, counter: usize, is_over: bool) {
        if self.was_blocked {
            self.state.extend_block(self.schedule, self.now);
            self.has_changed = true;
        } else if is_over {
            let (state, schedule, now) = (&mut self.state, self.schedule, self.now);
            let strike = self.strike.get_or_insert_with(|| {
                let is_first = state.strikes == 0;
                state.strike(schedule, now);
                Strike { is_first, counters: SmallVec::new() }
            });
            strike.counters.push(counter);
            self.has_changed = true;
        }
    }

    /// True if the strike of this group began a block.
    const fn has_begun_block(&self) -> bool {
        self.strike.is_some() && self.state.is_blocked(self.now)
    }
}

/// Outcome of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// Counted.
    Charged,
    /// Not counted: it does not fit.
    Denied,
    /// Not counted: it fits, but another charge denies the request.
    Withheld,
    /// Not sent to the store: it is known not to fit.
    Known,
    /// Not counted: the store failed, and the rule fails closed.
    FailClosed,
    /// Its client is locked out. Not counted, except for the charge that began the block.
    Blocked,
    /// Charged in advance.
    Leased {
        /// Hits charged; may be fewer than asked for.
        credits: u32,
        /// Time of the charge by the store's clock.
        at: Timestamp,
    },
}

/// Carries out `asks` in order on `meters` and `lockouts`. Returns the meter after each charge and its outcome. A
/// charge whose counter is not among the meters is skipped.
pub fn charge(
    asks: &[GroupCharge],
    meters: &mut [Meter],
    lockouts: &mut [Locked<'_>],
) -> SmallVec<[(Meter, ChargeOutcome); 4]> {
    let try_charge = |ask: &GroupCharge, meters: &mut [Meter]| {
        let meter = meters.get_mut(ask.counter)?;
        let lockout = ask.lockout.and_then(|index| lockouts.get(index));
        let is_blocked = lockout.is_some_and(|locked| locked.was_blocked);
        let outcome = match (is_blocked && matches!(ask.hits, Hits::Add(_)), ask.lease) {
            (true, _) => ChargeOutcome::Blocked,
            (false, Some(step)) => step.carry_out(ask.hits, ask.capacity, meter),
            (false, None) => charge_alone(ask.mode, ask.hits, ask.capacity, meter),
        };
        Some((*meter, outcome))
    };
    let mut tried: SmallVec<[Meter; 2]> = (&*meters).into();
    let mut charged: SmallVec<[_; 4]> = asks.iter().filter_map(|ask| try_charge(ask, &mut tried)).collect();
    let mut combined = CombinedEnforcement::default();
    for (ask, (meter, outcome)) in asks.iter().zip(&charged) {
        combined.add(ask.enforcement, ask.is_over(*meter, *outcome));
    }
    if combined.is_denied() {
        let in_vain = |(ask, (_, outcome)): (&GroupCharge, &(Meter, ChargeOutcome))| {
            if !counts_only_if_allowed(ask.mode, ask.hits) {
                return try_charge(ask, meters);
            }
            let outcome = if *outcome == ChargeOutcome::Charged { ChargeOutcome::Withheld } else { *outcome };
            Some((*meters.get(ask.counter)?, outcome))
        };
        charged = asks.iter().zip(&charged).filter_map(in_vain).collect();
    } else {
        meters.copy_from_slice(&tried);
    }
    if !lockouts.is_empty() {
        note_denials(asks, &mut charged, lockouts);
    }
    charged
}

/// Adds strikes for denied charges. If a strike begins a block, the denied charges of its request become blocked.
fn note_denials(asks: &[GroupCharge], charged: &mut [(Meter, ChargeOutcome)], lockouts: &mut [Locked<'_>]) {
    let of_hits = |ask: &GroupCharge| ask.lockout.filter(|_| matches!(ask.hits, Hits::Add(1..)));
    for (ask, (meter, outcome)) in asks.iter().zip(&*charged) {
        if let Some(locked) = of_hits(ask).and_then(|index| lockouts.get_mut(index)) {
            locked.note(ask.counter, ask.is_over(*meter, *outcome));
        }
    }
    for (ask, (meter, outcome)) in asks.iter().zip(charged) {
        if let Some(locked) = of_hits(ask).and_then(|index| lockouts.get(index))
            && locked.has_begun_block()
            && ask.is_over(*meter, *outcome)
        {
            *outcome = ChargeOutcome::Blocked;
        }
    }
}

impl GroupCharge {
    fn is_over(&self, meter: Meter, outcome: ChargeOutcome) -> bool {
        is_over(self.mode, self.hits, meter.used(), self.capacity, outcome)
    }
}

/// Carries out a charge that is alone in its request.
pub fn charge_alone(mode: ChargeMode, hits: Hits, capacity: u32, meter: &mut Meter) -> ChargeOutcome {
    match hits {
        Hits::Refund(hits) => meter.refund(hits),
        Hits::Add(add)
            if counts_only_if_allowed(mode, hits) && !meter.fits(mode.hits_to_fit(add), capacity) =>
        {
            return ChargeOutcome::Denied;
        }
        Hits::Add(hits) => meter.add(hits),
    }
    ChargeOutcome::Charged
}

/// True if a charge with this `outcome`, and `used` hits afterwards, exceeds its limit.
pub fn is_over(mode: ChargeMode, hits: Hits, used: u64, capacity: u32, outcome: ChargeOutcome) -> bool {
    match outcome {
        ChargeOutcome::Charged => {
            matches!((mode, hits), (ChargeMode::Always, Hits::Add(_))) && used > capacity.into()
        }
        // A ticket that held nothing denies nothing.
        ChargeOutcome::Denied => matches!(hits, Hits::Add(_)),
        ChargeOutcome::Known | ChargeOutcome::FailClosed | ChargeOutcome::Blocked => true,
        ChargeOutcome::Withheld | ChargeOutcome::Leased { .. } => false,
    }
}

/// True if a charge is counted only if its request passes.
pub const fn counts_only_if_allowed(mode: ChargeMode, hits: Hits) -> bool {
    matches!((mode, hits), (ChargeMode::IfAllowed | ChargeMode::Overdraft, Hits::Add(_)))
}

#[cfg(test)]
mod tests {
    use super::ChargeOutcome::{Charged, Denied, Withheld};
    use super::*;

    const fn ask(
        counter: usize,
        capacity: u32,
        hits: Hits,
        mode: ChargeMode,
        enforcement: Enforcement,
    ) -> GroupCharge {
        GroupCharge { counter, capacity, hits, mode, enforcement, lockout: None, lease: None }
    }

    /// An enforced limit that counts only if the request passes.
    const fn if_allowed(counter: usize, quota: u32, hits: u32) -> GroupCharge {
        ask(counter, quota, Hits::Add(hits), ChargeMode::IfAllowed, Enforcement::Enforced)
    }

    const fn always(counter: usize, quota: u32, hits: u32) -> GroupCharge {
        ask(counter, quota, Hits::Add(hits), ChargeMode::Always, Enforcement::Enforced)
    }

    const fn with_enforcement(enforcement: Enforcement, of: GroupCharge) -> GroupCharge {
        GroupCharge { enforcement, ..of }
    }

    fn check(asks: &[GroupCharge], before: &[u64], outcomes: &[(u64, ChargeOutcome)], after: &[u64]) {
        let meter = |used: &u64| Meter {
            base: 0,
            level: *used,
            lowest: *used,
            parts: 1,
            max_level: u64::MAX,
            stale_refund: 0,
        };
        let mut meters: Vec<Meter> = before.iter().map(meter).collect();
        let seen =
            charge(asks, &mut meters, &mut []).into_iter().map(|(meter, outcome)| (meter.used(), outcome));
        assert_eq!(seen.collect::<Vec<_>>(), outcomes, "{asks:?} on {before:?}");
        let used: Vec<u64> = meters.iter().map(|meter| meter.used()).collect();
        assert_eq!(used, after, "{asks:?} on {before:?}");
    }

    #[test]
    fn nothing_is_counted_unless_the_whole_request_passes() {
        let both = [if_allowed(0, 5, 1), if_allowed(1, 3, 2)];
        check(&both, &[0, 0], &[(1, Charged), (2, Charged)], &[1, 2]);
        check(&both, &[1, 2], &[(1, Withheld), (2, Denied)], &[1, 2]);
        check(&both, &[5, 3], &[(5, Denied), (3, Denied)], &[5, 3]);
    }

    #[test]
    fn unconditional_charges_count_and_deny_the_rest() {
        let both = [always(0, 1, 1), if_allowed(1, 5, 1)];
        check(&both, &[0, 0], &[(1, Charged), (1, Charged)], &[1, 1]);
        check(&both, &[1, 1], &[(2, Charged), (1, Withheld)], &[2, 1]);
        check(&both, &[0, 5], &[(1, Charged), (5, Denied)], &[1, 5]);
    }

    #[test]
    fn more_hits_than_the_limit_never_fit_and_a_look_needs_room_for_one() {
        check(&[if_allowed(0, 5, 6)], &[0], &[(0, Denied)], &[0]);
        check(&[if_allowed(0, 5, 0)], &[4], &[(4, Charged)], &[4]);
        check(&[if_allowed(0, 5, 0)], &[5], &[(5, Denied)], &[5]);
        check(&[if_allowed(0, 0, 1)], &[0], &[(0, Denied)], &[0]);
    }

    #[test]
    fn an_overdraft_passes_while_one_hit_fits_and_counts_as_a_whole() {
        let overdraft = |hits| GroupCharge { mode: ChargeMode::Overdraft, ..if_allowed(0, 5, hits) };
        check(&[overdraft(9)], &[4], &[(13, Charged)], &[13]);
        check(&[overdraft(1)], &[5], &[(5, Denied)], &[5]);
        check(&[overdraft(0)], &[4], &[(4, Charged)], &[4]);
        check(&[overdraft(0)], &[5], &[(5, Denied)], &[5]);
        check(&[overdraft(9), if_allowed(1, 1, 1)], &[0, 1], &[(0, Withheld), (1, Denied)], &[0, 1]);
    }

    #[test]
    fn one_counter_in_two_charges_holds_both_or_none() {
        let both = [if_allowed(0, 5, 3), if_allowed(0, 5, 3)];
        check(&both, &[0], &[(0, Withheld), (0, Denied)], &[0]);
        check(&[if_allowed(0, 6, 3), if_allowed(0, 6, 3)], &[0], &[(3, Charged), (6, Charged)], &[6]);
    }

    #[test]
    fn shadow_rules_deny_nothing_and_count_what_fits() {
        let shadow = |quota| with_enforcement(Enforcement::Shadow, if_allowed(0, quota, 1));
        check(&[shadow(1), if_allowed(1, 5, 1)], &[1, 0], &[(1, Denied), (1, Charged)], &[1, 1]);
        check(&[shadow(2), if_allowed(1, 5, 1)], &[1, 5], &[(1, Withheld), (5, Denied)], &[1, 5]);
    }

    #[test]
    fn quotas_deny_only_all_together() {
        let quota = |counter, limit| with_enforcement(Enforcement::Quota, if_allowed(counter, limit, 1));
        check(&[quota(0, 1), quota(1, 1)], &[1, 0], &[(1, Denied), (1, Charged)], &[1, 1]);
        check(&[quota(0, 1), quota(1, 1)], &[1, 1], &[(1, Denied), (1, Denied)], &[1, 1]);
        let passing = with_enforcement(Enforcement::ShadowQuota, if_allowed(1, 1, 1));
        check(&[quota(0, 1), passing], &[1, 1], &[(1, Denied), (1, Denied)], &[1, 1]);
        check(
            &[quota(0, 1), passing, if_allowed(2, 9, 1)],
            &[1, 1, 0],
            &[(1, Denied), (1, Denied), (1, Charged)],
            &[1, 1, 1],
        );
    }

    #[test]
    fn lockouts_of_one_request_strike_once_each_and_only_those_that_changed_are_written() {
        let schedule = |after| LockoutSchedule {
            after,
            within_secs: 100,
            steps: [lockout::Block::Secs(60)].into_iter().collect(),
            forget_secs: 100,
            extend: false,
        };
        let (now, schedules) = (Timestamp::from_secs(1_000), [schedule(1), schedule(2), schedule(1)]);
        let of = |lockout, ask: GroupCharge| GroupCharge { lockout: Some(lockout), ..ask };
        let asks = [
            of(0, if_allowed(0, 0, 1)),
            of(1, if_allowed(1, 0, 1)),
            of(0, if_allowed(1, 0, 1)),
            of(2, if_allowed(2, 9, 1)),
            of(1, if_allowed(2, 0, 0)),
        ];
        let meter = Meter { base: 0, level: 0, lowest: 0, parts: 1, max_level: u64::MAX, stale_refund: 0 };
        let mut lockouts =
            schedules.each_ref().map(|schedule| Locked::new(schedule, lockout::LockoutState::default(), now));
        let outcomes = charge(&asks, &mut [meter; 3], &mut lockouts).into_iter().map(|(_, outcome)| outcome);
        let blocked = ChargeOutcome::Blocked;
        assert_eq!(outcomes.collect::<Vec<_>>(), [blocked, Denied, blocked, Withheld, Denied]);
        let strikes = lockouts.each_ref().map(|locked| locked.strike().map(|strike| &strike.counters[..]));
        assert_eq!(strikes, [Some(&[0, 1][..]), Some(&[1]), None]);
        assert_eq!(lockouts.each_ref().map(Locked::has_changed), [true, true, false]);
        assert_eq!(lockouts[1].state().strikes, 1);
    }

    #[test]
    fn refunds_are_carried_out_even_if_the_request_is_denied() {
        let refund = ask(0, 5, Hits::Refund(3), ChargeMode::IfAllowed, Enforcement::Enforced);
        check(&[refund, if_allowed(1, 1, 1)], &[2, 1], &[(0, Charged), (1, Denied)], &[0, 1]);
        check(&[refund, if_allowed(0, 5, 5)], &[3], &[(0, Charged), (5, Charged)], &[5]);
    }
}
