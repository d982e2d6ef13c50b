//! Counters with holds. `reserve.lua` implements the same in Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::group::ChargeOutcome::{self, Charged, Denied};
use super::marks::{Marked, Marks};
use super::{CounterState, MAX_SKEW_US, Meter};
use crate::engine::reserve::{
    Action, Extension, HoldEvent, MAX_HOLDS, MAX_TTL_SECS, OnExpiry, Opening, Report, Reservation, Settled,
    Settlement, Terms,
};
use crate::engine::{Hits, Limit, Ticket, Timestamp};

/// Upper bound on the expired holds that one call ends. The others are held until the next call.
const MAX_EXPIRED: usize = 16;
/// Holds among which the oldest anonymous one is looked for.
const MAX_SEARCHED: usize = 16;

/// A counter and its holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Hits that are counted.
    pub counter: CounterState,
    holds: BTreeMap<Ticket, Held>,
    /// Every ticket by the end of its hold, in microseconds since the epoch.
    by_end: BTreeSet<(u64, Ticket)>,
    /// Sum of the amounts.
    held: u64,
    marks: Marks,
    /// Time, after the end of the last hold, for which its expiry can still be charged and its ticket is known.
    grace_secs: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    end_us: u64,
    amount: u64,
    /// Part of the real amount that was counted already.
    counted: u64,
    is_anonymous: bool,
}

/// A charge after its effect on holds, before it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Outcome, if the holds decide it.
    pub decided: Option<ChargeOutcome>,
    /// Hits to count.
    pub hits: Hits,
    /// True if it does not fit, whatever its hits.
    pub never_fits: bool,
    /// Report, without the sums.
    pub report: Report,
}

impl State {
    /// A counter without holds.
    pub const fn new(counter: CounterState) -> Self {
        Self {
            counter,
            holds: BTreeMap::new(),
            by_end: BTreeSet::new(),
            held: 0,
            marks: Marks::new(),
            grace_secs: 0,
        }
    }

    /// State with `held` hits in holds, the first of which ends at `first_end_us`, for a decision: it names no ticket.
    pub fn summary(counter: CounterState, held: u64, first_end_us: Option<u64>) -> Self {
        let first = first_end_us.map(|end_us| (end_us, Ticket::from_bits([0; 16])));
        Self { held, by_end: first.into_iter().collect(), ..Self::new(counter) }
    }

    pub(super) fn summarize(&self, now: Timestamp) -> Self {
        self.summarize_beside(None, now)
    }

    /// Summary without the end of the hold `own`: a denied extension waits for the holds of others.
    pub fn summarize_beside(&self, own: Option<Ticket>, now: Timestamp) -> Self {
        Self::summary(self.counter.for_decision(now), self.held, self.first_end_us(own))
    }

    /// True if nothing is held, and no ticket is remembered.
    pub fn has_no_tickets(&self) -> bool {
        self.tickets() == 0
    }

    /// Number of tickets, open or remembered.
    pub fn tickets(&self) -> usize {
        self.holds.len() + self.marks.len()
    }

    /// Sum of the holds.
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// End of the first hold that is not `own`.
    fn first_end_us(&self, own: Option<Ticket>) -> Option<u64> {
        self.by_end.iter().find(|(_, ticket)| Some(*ticket) != own).map(|(end_us, _)| *end_us)
    }

    pub(super) fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        let meter = self.counter.load(limit, now);
        Meter { base: meter.base.saturating_add(self.held.saturating_mul(meter.parts)), ..meter }
    }

    /// Time until `hits` may fit if no hold is settled, and nothing else is counted: beside all that is held, or once the
    /// first hold has ended. Holds outlive windows, so the end of a window frees nothing that is held.
    pub(super) fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        let of_counter = self.counter.wait(hits, limit, now);
        let Some(first_end_us) = self.first_end_us(None).filter(|_| self.held > 0) else { return of_counter };
        if hits > limit.capacity() {
            return of_counter;
        }
        let used = self.counter.used(limit, now);
        let fits = |hits: u32| used.saturating_add(hits.into()) <= limit.capacity().into();
        let first_end = until(first_end_us, now);
        let after_first = if fits(hits) { first_end } else { first_end.max(of_counter) };
        let beside = u64::from(hits).saturating_add(self.held);
        match u32::try_from(beside) {
            // There is room, but not for one more hold.
            Ok(beside) if fits(beside) => first_end,
            Ok(beside) if beside <= limit.capacity() => {
                after_first.min(self.counter.wait(beside, limit, now))
            }
            Ok(_) | Err(_) => after_first,
        }
    }

    /// Leaves `own` hits out of what is held: those of the hold that a decision is about.
    pub(super) const fn leave_out(&mut self, own: u64) {
        self.held = self.held.saturating_sub(own);
    }

    pub(super) fn end_secs(&self, limit: Limit) -> u64 {
        let end_secs = |end_us: Option<u64>, more: u32| {
            end_us.map_or(0, |end_us| end_us.div_ceil(1_000_000).saturating_add(more.into()))
        };
        let last_hold = self.by_end.last().map(|(end_us, _)| *end_us);
        let of_tickets = end_secs(last_hold, self.grace_secs).max(end_secs(self.marks.last_end_us(), 0));
        self.counter.end_secs(limit).max(of_tickets)
    }

    /// Ends holds that have expired. Returns their number.
    pub fn expire(&mut self, limit: Limit, terms: Terms, now: Timestamp) -> u16 {
        let of_expiry = match terms.on_expiry {
            OnExpiry::Release => 0,
            OnExpiry::Charge => limit.ttl_secs(),
        };
        self.grace_secs = terms.memory_secs.saturating_add(of_expiry);
        self.correct_ends(now);
        self.marks.forget(now);
        let mut expired = 0;
        while expired < MAX_EXPIRED
            && let Some((end_us, ticket)) = self.by_end.first().copied()
            && end_us <= now.as_micros()
            && let Some(held) = self.end(ticket)
        {
            expired += 1;
            let mut counted = held.counted;
            if terms.on_expiry == OnExpiry::Charge {
                let mut meter = self.counter.load(limit, now);
                meter.add(u32::try_from(held.amount).unwrap_or(u32::MAX));
                self.counter.save(meter, limit, now);
                counted += held.amount;
            }
            if counted > 0 {
                self.mark(ticket, Marked::Expired { counted }, terms, now);
            }
        }
        u16::try_from(expired).unwrap_or(u16::MAX)
    }

    /// Shortens holds that end later than any can that begins now: a clock that has since been set back wrote them.
    fn correct_ends(&mut self, now: Timestamp) {
        let latest = end_us(MAX_TTL_SECS, now);
        while let Some((end, ticket)) = self.by_end.last().copied()
            && end > latest.saturating_add(MAX_SKEW_US)
        {
            self.set_end(ticket, latest);
        }
    }

    fn set_end(&mut self, ticket: Ticket, end_us: u64) {
        if let Some(held) = self.holds.get_mut(&ticket) {
            self.by_end.remove(&(held.end_us, ticket));
            held.end_us = end_us;
            self.by_end.insert((end_us, ticket));
        }
    }

    /// Removes a hold.
    fn end(&mut self, ticket: Ticket) -> Option<Held> {
        let held = self.holds.remove(&ticket)?;
        self.by_end.remove(&(held.end_us, ticket));
        self.held = self.held.saturating_sub(held.amount);
        Some(held)
    }

    fn mark(&mut self, ticket: Ticket, of: Marked, terms: Terms, now: Timestamp) {
        self.marks.insert(ticket, of, end_us(terms.memory_secs, now));
    }

    /// Carries out what a charge does to holds, before it is decided. Openings come afterwards.
    pub fn prepare(
        &mut self,
        Reservation { action, terms }: Reservation,
        hits: Hits,
        now: Timestamp,
    ) -> Prepared {
        let prepared =
            Prepared { decided: None, hits, never_fits: false, report: Report::of(HoldEvent::None) };
        let decided = |outcome, event| Prepared {
            decided: Some(outcome),
            hits: Hits::Refund(0),
            report: Report::of(event),
            ..prepared
        };
        match action {
            Action::Look => prepared,
            Action::Open(opening) => self.prepare_opening(opening, now, prepared),
            Action::Settle(settlement) => self.settle(settlement, terms, now, prepared),
            Action::Extend(extension) => match self.prepare_extension(extension, now) {
                Some(report @ Report { more: 0, .. }) => {
                    Prepared { report, ..decided(Charged, HoldEvent::Extended) }
                }
                Some(report) => {
                    let report = Report { event: HoldEvent::None, ..report };
                    Prepared { hits: Hits::Add(report.more), report, ..prepared }
                }
                // A request raises all its holds or none.
                None => match extension.amount {
                    0 => decided(Denied, HoldEvent::Unknown),
                    _ => Prepared { hits, never_fits: true, ..decided(Denied, HoldEvent::Unknown) },
                },
            },
            Action::Lower(ticket, amount) => {
                if let Some(held) = self.holds.get_mut(&ticket) {
                    let less = held.amount.min(amount.into());
                    (held.amount, self.held) = (held.amount - less, self.held.saturating_sub(less));
                }
                decided(Charged, HoldEvent::None)
            }
            Action::Cancel(ticket) => match self.end(ticket) {
                Some(Held { counted, .. }) => {
                    if counted > 0 {
                        self.mark(ticket, Marked::Expired { counted }, terms, now);
                    }
                    decided(Charged, HoldEvent::Settled)
                }
                None => decided(Denied, HoldEvent::Unknown),
            },
        }
    }

    fn prepare_opening(&self, opening: Opening, now: Timestamp, prepared: Prepared) -> Prepared {
        let Some(ticket) = opening.ticket else { return prepared };
        let held = self.holds.get(&ticket);
        let is_settled = matches!(self.marks.get(ticket, now), Some(Marked::Settled { .. }));
        if opening.is_named && (held.is_some() || is_settled) {
            let (amount, ends_in) =
                held.map_or((0, Duration::ZERO), |held| (held.amount, until(held.end_us, now)));
            let report = Report { amount: hits_of(amount), ends_in, ..Report::of(HoldEvent::Known) };
            return Prepared { decided: Some(Charged), hits: Hits::Refund(0), report, ..prepared };
        }
        match self.holds.len() >= MAX_HOLDS as usize {
            true => Prepared { never_fits: true, report: Report::of(HoldEvent::TooMany), ..prepared },
            false => prepared,
        }
    }

    fn settle(&mut self, of: Settlement, terms: Terms, now: Timestamp, prepared: Prepared) -> Prepared {
        let Settlement { of, amount } = of;
        let amount = u64::from(amount);
        let ended = |hits, event, amount, returned| Prepared {
            hits,
            report: Report { amount: hits_of(amount), returned: hits_of(returned), ..Report::of(event) },
            ..prepared
        };
        let ticket = match of {
            Settled::Nothing => return ended(prepared.hits, HoldEvent::Late, amount, 0),
            Settled::Oldest => {
                let oldest = self.oldest_anonymous().and_then(|ticket| self.end(ticket));
                let Some(held) = oldest else { return ended(prepared.hits, HoldEvent::Late, amount, 0) };
                return ended(prepared.hits, HoldEvent::Settled, amount, held.amount.saturating_sub(amount));
            }
            Settled::Whole(ticket) | Settled::Part(ticket) | Settled::Rest(ticket) => ticket,
        };
        let mark = self.marks.get(ticket, now);
        if let Some(Marked::Settled { amount, returned }) = mark {
            let again = ended(Hits::Refund(0), HoldEvent::Repeated, amount, returned);
            return Prepared {
                decided: Some(if matches!(of, Settled::Rest(_)) { Denied } else { Charged }),
                ..again
            };
        }
        let held = self.holds.get(&ticket).copied();
        let counted = match (held, mark) {
            (Some(held), _) => held.counted,
            (None, Some(Marked::Expired { counted })) => counted,
            (None, _) => 0,
        };
        if let Settled::Part(_) = of {
            let more = amount.saturating_sub(counted);
            let event = if held.is_some() { HoldEvent::Continued } else { HoldEvent::Late };
            self.continue_with(ticket, (counted + more, more), terms, now);
            return ended(Hits::Add(hits_of(more)), event, counted + more, 0);
        }
        let is_rest = matches!(of, Settled::Rest(_));
        if is_rest && held.is_none() && mark.is_none() {
            return Prepared { decided: Some(Denied), ..ended(Hits::Refund(0), HoldEvent::Unknown, 0, 0) };
        }
        // Counted hits are not given back: they may lie in another window, or have drained.
        let amount = if is_rest { counted } else { amount.max(counted) };
        self.end(ticket);
        let held_amount = held.map_or(0, |held| held.amount);
        let returned = (held_amount + counted).saturating_sub(amount);
        self.mark(ticket, Marked::Settled { amount, returned }, terms, now);
        ended(
            Hits::Add(hits_of(amount - counted)),
            if held.is_some() { HoldEvent::Settled } else { HoldEvent::Late },
            amount,
            returned,
        )
    }

    /// Moves `more` hits of a ticket from held to counted, of which there are `counted` now.
    fn continue_with(&mut self, ticket: Ticket, (counted, more): (u64, u64), terms: Terms, now: Timestamp) {
        if let Some(held) = self.holds.get_mut(&ticket) {
            let moved = more.min(held.amount);
            (held.amount, held.counted) = (held.amount - moved, counted);
            self.held = self.held.saturating_sub(moved);
        } else if counted > 0 {
            self.mark(ticket, Marked::Expired { counted }, terms, now);
        }
    }

    fn oldest_anonymous(&self) -> Option<Ticket> {
        let mut oldest = self.by_end.iter().take(MAX_SEARCHED).map(|(_, ticket)| *ticket);
        oldest.find(|ticket| self.holds.get(ticket).is_some_and(|held| held.is_anonymous))
    }

    /// Report of an extension that is carried out. One that adds nothing is.
    fn prepare_extension(&mut self, extension: Extension, now: Timestamp) -> Option<Report> {
        let held = self.holds.get(&extension.ticket)?;
        let amount = u64::from(extension.amount).saturating_sub(held.counted).max(held.amount);
        let more = hits_of(amount - held.amount);
        let report = Report { amount: hits_of(amount), more, ..Report::of(HoldEvent::Extended) };
        match more {
            0 => Some(self.extend(extension, report, now)),
            _ => Some(report),
        }
    }

    /// Extends a hold whose amount was found to fit. Returns `report` with its end.
    pub fn extend(&mut self, extension: Extension, report: Report, now: Timestamp) -> Report {
        let Extension { ticket, ttl_secs, .. } = extension;
        let Some(held) = self.holds.get_mut(&ticket) else { return report };
        let more = u64::from(report.amount).saturating_sub(held.amount);
        held.amount += more;
        self.held += more;
        let end_us = held.end_us.max(end_us(ttl_secs, now));
        self.set_end(ticket, end_us);
        // Of two equal charges of one request, the first has raised it.
        Report { event: HoldEvent::Extended, more: hits_of(more), ends_in: until(end_us, now), ..report }
    }

    /// Opens a hold that was found to fit. Two charges of one request add up. Returns `report` of it.
    pub fn open(&mut self, ticket: Ticket, opening: Opening, report: Report, now: Timestamp) -> Report {
        let Opening { amount, ttl_secs, is_anonymous, is_named, .. } = opening;
        // A ticket that its caller names may have had a hold that has expired.
        let counted = match self.marks.get(ticket, now) {
            Some(Marked::Expired { counted }) if is_named => counted,
            _ => 0,
        };
        let new = Held { end_us: end_us(ttl_secs, now), amount: 0, counted, is_anonymous };
        let held = self.holds.entry(ticket).or_insert(new);
        held.amount += u64::from(amount);
        self.held += u64::from(amount);
        let end_us = held.end_us;
        self.by_end.insert((end_us, ticket));
        Report { event: HoldEvent::Opened, amount, ends_in: until(end_us, now), ..report }
    }

    /// Forgets what is used, and ends every hold. What settled tickets have counted stays known. Returns whether anything
    /// was used or held.
    pub fn reset(&mut self, limit: Limit, terms: Terms, now: Timestamp) -> bool {
        let was_used = self.counter.used(limit, now) > 0 || !self.holds.is_empty();
        self.counter = CounterState::empty(limit.algorithm);
        self.counter.load(limit, now);
        for (ticket, Held { counted, .. }) in std::mem::take(&mut self.holds) {
            if counted > 0 {
                self.mark(ticket, Marked::Expired { counted }, terms, now);
            }
        }
        self.by_end.clear();
        self.held = 0;
        was_used
    }

    /// `report` with the sums; of an extension, beside its own hold.
    pub fn complete(&self, report: Report, own: Option<Ticket>, now: Timestamp) -> Report {
        Report {
            held: hits_of(self.held),
            holds: u16::try_from(self.holds.len()).unwrap_or(u16::MAX),
            first_ends_in_secs: secs_until(self.first_end_us(own), now),
            ..report
        }
    }
}

/// Seconds until `end_us`, rounded up; 0 without an end.
pub fn secs_until(end_us: Option<u64>, now: Timestamp) -> u32 {
    let left_us = end_us.map_or(0, |end_us| end_us.saturating_sub(now.as_micros()));
    u32::try_from(left_us.div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// End of what begins now, in microseconds since the epoch.
const fn end_us(secs: u32, now: Timestamp) -> u64 {
    now.as_micros().saturating_add(secs as u64 * 1_000_000)
}

const fn until(end_us: u64, now: Timestamp) -> Duration {
    Duration::from_micros(end_us.saturating_sub(now.as_micros()))
}

fn hits_of(amount: u64) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}
