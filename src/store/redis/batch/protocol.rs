//! Protocol of `charge.lua`: charges as it reads them, and the numbers that it returns.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};

use super::SlotCharge;
use super::reserve::{self, RawBudget};
use crate::engine::algorithm::group::{ChargeOutcome, is_over};
use crate::engine::algorithm::places::{self, PlaceReport};
use crate::engine::algorithm::{
    ChargeContext, CounterState, MAX_EXACT, Reading, Ticks, budget, fixed_window, lapsed, sliding_log,
    sliding_window, token_bucket,
};
use crate::engine::lockout::Block;
use crate::engine::{Algorithm, ChargeMode, Enforcement, Hits, Hold, Lease, Report, Ticket, Timestamp};
use crate::store::{Lockout, StoreError};

/// Hold of a charge without a ticket: no random ticket has this name.
const NO_HOLD: Hold = Hold { ticket: Ticket::from_bits([0; 16]), ttl_secs: 0, is_named: false };

/// Number in place of the tickets that had ended: the one that its caller names held its places already.
const KNOWN_TICKET: i64 = -1;

/// Added to the number of an algorithm for a counter with holds.
const WITH_HOLDS: u8 = 8;

/// Number that a script returns for a counter that contains a value which tollgate did not write.
const UNREADABLE: i64 = -(1 << 62);

/// True if a request passed, and the level afterwards, of the number that a script of one shape returns for a counter:
/// -1 - level if it was denied. `None` if the counter is unreadable.
pub(super) fn level_of(number: i64) -> Option<(bool, u64)> {
    let passed = number >= 0;
    let level = u64::try_from(if passed { number } else { -1 - number }).ok()?;
    (number != UNREADABLE).then_some((passed, level))
}

/// Reply to one charge. The meaning of the numbers depends on its algorithm: see `charge.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::redis) struct RawReading {
    /// `None` if a counter of its request contains a value that tollgate did not write.
    pub(super) outcome: Option<ChargeOutcome>,
    pub(super) level: u64,
    pub(super) more: [i64; 2],
    /// When the lockout ends, or did, in microseconds since the epoch; 0 without one.
    pub(super) ends_us: u64,
    /// Holds of its counter, if it has any.
    pub(super) budget: Option<RawBudget>,
    /// When the script ran.
    pub(super) now: Timestamp,
}

/// Indexes of the keys of a charge in `KEYS`.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyIndexes {
    pub(super) counter: u16,
    pub(super) lockout: Option<u16>,
    /// Those of a counter with holds; 0 for one that is not used.
    pub(super) holds: Option<[u16; reserve::KEYS]>,
}

impl RawReading {
    /// Reading of a counter that contains a value which tollgate did not write.
    pub(super) const UNREADABLE: Self = Self {
        outcome: None,
        level: 0,
        more: [0; 2],
        ends_us: 0,
        budget: None,
        now: Timestamp::from_micros(0),
    };
}

impl SlotCharge {
    /// Hits that it adds.
    pub(super) fn added_hits(&self) -> u64 {
        match self.hits {
            Hits::Add(hits) => hits.into(),
            Hits::Refund(_) => 0,
        }
    }

    /// Used hits from which it is denied.
    pub(super) fn ceiling(&self) -> u64 {
        (u64::from(self.limit.capacity()) + 1).saturating_sub(self.added_hits().max(1))
    }

    /// Reading of a reply.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if a counter of its request contains a value that tollgate did not write.
    pub(in crate::store::redis) fn reading(&self, seen: RawReading) -> Result<Reading, StoreError> {
        let unreadable = || StoreError::Rejected("a counter holds what tollgate did not write".to_owned());
        let outcome = seen.outcome.ok_or_else(unreadable)?;
        Ok(self.reading_of_limit(seen, outcome).locked_until(seen.ends_us, seen.now))
    }

    fn reading_of_limit(&self, seen: RawReading, outcome: ChargeOutcome) -> Reading {
        let Self { limit, hits, mode, .. } = *self;
        let RawReading { level, more: [one, other], budget, .. } = seen;
        // The window of a fixed window is chosen by this replica's clock; the server's clock measures the rest.
        let now = if limit.algorithm == Algorithm::FixedWindow { self.now } else { seen.now };
        let outcome = match outcome {
            ChargeOutcome::Leased { credits, .. } => ChargeOutcome::Leased { credits, at: now },
            outcome => outcome,
        };
        let whole = |number: i64| u64::try_from(number).unwrap_or(0);
        let state = match limit.algorithm {
            Algorithm::FixedWindow => {
                let window_start_secs = limit.window.start_secs(now);
                CounterState::FixedWindow(fixed_window::State { window_start_secs, used: level })
            }
            Algorithm::SlidingWindow => CounterState::SlidingWindow(sliding_window::State {
                window: whole(other),
                current: level,
                previous: whole(one),
            }),
            Algorithm::TokenBucket { .. } => {
                CounterState::TokenBucket(token_bucket::State { at: whole(one), level, tick_us: 0 })
            }
            Algorithm::Concurrency => {
                let first_end_us = u64::try_from(one).ok();
                CounterState::Places(Box::new(places::State::summary(level, first_end_us)))
            }
            Algorithm::SlidingLog => {
                let over = is_over(mode, hits, level, limit.capacity(), outcome);
                if let Hits::Add(hits) = hits
                    && over
                    && mode.hits_to_fit(hits) > limit.capacity()
                {
                    // It never fits, whichever hits leave the log.
                    let reset = Duration::from_secs(limit.window.secs().into());
                    return Reading { outcome, used: level, reset, budget: None, places: PlaceReport::NONE };
                }
                let last = if over { one } else { other };
                let reset = u64::try_from(last).map(|at| sliding_log::until_it_leaves(at, limit, now));
                let (reset, places) = (reset.unwrap_or_default(), PlaceReport::NONE);
                return Reading { outcome, used: level, reset, budget: None, places };
            }
        };
        let used = match &state {
            CounterState::SlidingWindow(state) => state.meter(limit, now).used(),
            CounterState::TokenBucket(state) => state.meter(limit, now).used(),
            CounterState::FixedWindow(_)
            | CounterState::SlidingLog(_)
            | CounterState::Places(_)
            | CounterState::Budget(_) => level,
        };
        let context = ChargeContext { limit, hits, mode, now };
        let (Some(RawBudget { report, first_in }), Some(reserve)) = (budget, &self.reserve) else {
            let places = match limit.is_concurrency() {
                true => PlaceReport::of(whole(other), other == KNOWN_TICKET),
                false => PlaceReport::NONE,
            };
            return Reading { places, ..Reading::of(context, &state, used, outcome) };
        };
        let first_end_us = first_in.map(|first_in| now.after(first_in).as_micros());
        let report = Report { first_ends_in_secs: budget::secs_until(first_end_us, now), ..report };
        let held = u64::from(report.held);
        let state = CounterState::Budget(Box::new(budget::State::summary(state, held, first_end_us)));
        let action = reserve.reservation.action;
        Reading::of_budget(context, state, used.saturating_add(held), outcome, (action, report))
    }
}

/// Appends `charge` as `charge.lua` reads it.
pub(super) fn pack(requests: &mut BytesMut, charge: &SlotCharge, indexes: KeyIndexes) {
    let KeyIndexes { counter, lockout, holds } = indexes;
    let algorithm = match charge.limit.algorithm {
        Algorithm::FixedWindow => 0,
        Algorithm::SlidingWindow => 1,
        Algorithm::SlidingLog => 2,
        Algorithm::TokenBucket { .. } => 3,
        Algorithm::Concurrency => 4,
    };
    let (kind, hits) = match (charge.hits, charge.mode) {
        (Hits::Add(hits), _) if matches!(charge.lease, Some(Lease::Ask { .. })) => (4, hits),
        (Hits::Refund(hits), _) if matches!(charge.lease, Some(Lease::Return { .. })) => {
            (5, returned(charge, hits))
        }
        (Hits::Refund(_), _) if charge.hold.is_some() => (6, 0),
        (Hits::Add(0), _) if charge.hold.is_some() => (7, 0),
        (Hits::Add(hits), _) if charge.hold.as_ref().is_some_and(|hold| hold.is_named) => (8, hits),
        (Hits::Add(hits), ChargeMode::Always) => (0, hits),
        (Hits::Add(hits), ChargeMode::IfAllowed) => (1, hits),
        (Hits::Refund(hits), _) => (2, hits),
        (Hits::Add(hits), ChargeMode::Overdraft) => (3, hits),
    };
    let enforcement = match charge.enforcement {
        Enforcement::Enforced => 0,
        Enforcement::Quota => 1,
        Enforcement::Shadow => 2,
        Enforcement::ShadowQuota => 3,
    };
    requests.put_u16(counter);
    let with_holds = if holds.is_some() { WITH_HOLDS } else { 0 };
    requests.put_slice(&[algorithm + with_holds, kind, enforcement]);
    requests.put_u32(hits);
    requests.put_u32(charge.limit.capacity());
    requests.put_u32(charge.ttl_secs);
    requests.put_u16(lockout.unwrap_or(0));
    if charge.limit.algorithm != Algorithm::FixedWindow {
        let ticks = Ticks::of(charge.limit, charge.now);
        requests.put_u32(charge.limit.requests_per_unit);
        requests.put_f64(exact(ticks.window));
        requests.put_u32(u32::try_from(ticks.tick_us).unwrap_or(u32::MAX));
    }
    if charge.limit.is_concurrency() {
        let hold = charge.hold.as_deref().copied().unwrap_or(NO_HOLD);
        requests.put_slice(hold.ticket.to_string().as_bytes());
        requests.put_u32(hold.ttl_secs);
    }
    match charge.lease {
        Some(Lease::Ask { ceiling, shares }) => {
            requests.put_u32(ceiling);
            requests.put_u16(shares.max(1));
        }
        Some(Lease::Return { charged }) => requests.put_f64(exact(charged.as_micros())),
        Some(Lease::Spend(_)) | None => {}
    }
    if let (Some(reserve), Some(holds)) = (&charge.reserve, holds) {
        reserve.pack(requests, holds);
    }
    if let Some(Lockout { schedule, .. }) = &charge.lockout {
        for secs in [schedule.within_secs, schedule.forget_secs, schedule.after] {
            requests.put_u32(secs);
        }
        requests.put_u8(schedule.extend.into());
        requests.put_u8(u8::try_from(schedule.steps.len()).unwrap_or(u8::MAX));
        for step in &schedule.steps {
            requests.put_u32(match step {
                Block::Secs(secs) => *secs,
                Block::Permanent => 0,
            });
        }
    }
}

/// Hits that a return gives back. The key of a fixed window names the window: one that is over gets nothing back.
fn returned(charge: &SlotCharge, hits: u32) -> u32 {
    match charge.lease {
        Some(Lease::Return { charged })
            if charge.limit.algorithm == Algorithm::FixedWindow
                && lapsed(charge.limit, charged, charge.now) > 0 =>
        {
            0
        }
        _ => hits,
    }
}

/// The number as a Lua number, which is exact up to [`MAX_EXACT`].
#[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
fn exact(number: u64) -> f64 {
    number.min(MAX_EXACT) as f64
}

/// The reading in the four numbers that `charge.lua` returns for a charge; `None` if they are not one.
pub(super) fn seen(numbers: &[i64], ends_us: i64, now: Timestamp) -> Option<RawReading> {
    let [outcome, level, one, other] = *numbers else { return None };
    let outcome = match outcome {
        0 => Some(ChargeOutcome::Charged),
        1 => Some(ChargeOutcome::Denied),
        2 => Some(ChargeOutcome::Withheld),
        3 => Some(ChargeOutcome::Blocked),
        4 => None,
        16.. => Some(ChargeOutcome::Leased { credits: u32::try_from(outcome - 16).ok()?, at: now }),
        _ => return None,
    };
    let (level, ends_us) = (u64::try_from(level).ok()?, u64::try_from(ends_us).ok()?);
    Some(RawReading { outcome, level, more: [one, other], ends_us, budget: None, now })
}
