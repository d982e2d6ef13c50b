//! Readings: the result of one charge.

use std::time::Duration;

use super::CounterState;
use super::group::{ChargeOutcome, counts_only_if_allowed, is_over};
use super::places::PlaceReport;
use crate::engine::reserve::{Action, HoldEvent};
use crate::engine::{Algorithm, ChargeMode, Hits, Limit, Report, Timestamp, lockout};

/// A charge and its time.
#[derive(Clone, Copy, Debug)]
pub struct ChargeContext {
    /// Limit of the counter.
    pub limit: Limit,
    /// Hits to count.
    pub hits: Hits,
    /// True if denied hits are counted.
    pub mode: ChargeMode,
    /// Time of the charge.
    pub now: Timestamp,
}

/// Result of a charge in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Outcome of the charge.
    pub outcome: ChargeOutcome,
    /// Hits that count now, including those of this charge if they were counted.
    pub used: u64,
    /// Time until the charge would pass, if it is denied; else until its counter resets.
    pub reset: Duration,
    /// Effect on the holds of its counter, if it has any.
    pub budget: Option<Report>,
    /// Effect on the places of its counter.
    pub places: PlaceReport,
}

impl Reading {
    /// The reading of a charge with this `outcome`, after which its counter has `state`.
    pub fn of(context: ChargeContext, state: &CounterState, used: u64, outcome: ChargeOutcome) -> Self {
        let ChargeContext { limit, hits, mode, now } = context;
        let fits = |hits| used.saturating_add(u64::from(mode.hits_to_fit(hits))) <= limit.capacity().into();
        let reset = match (is_over(mode, hits, used, limit.capacity(), outcome), hits) {
            (true, Hits::Add(hits)) if outcome == ChargeOutcome::Blocked && fits(hits) => Duration::ZERO,
            (true, Hits::Add(hits)) => state.wait(mode.hits_to_fit(hits), limit, now),
            (true, Hits::Refund(_)) | (false, _) => state.reset(limit, now),
        };
        Self { outcome, used, reset, budget: None, places: PlaceReport::NONE }
    }

    /// The reading of a charge with this `action` on the holds of its counter; `report` is what the action did.
    pub fn of_budget(
        context: ChargeContext,
        mut state: CounterState,
        used: u64,
        outcome: ChargeOutcome,
        (action, report): (Action, Report),
    ) -> Self {
        let hits = report.judged_hits(action, context.hits);
        if let (CounterState::Budget(state), Action::Extend(_)) = (&mut state, action) {
            // The hold is to be as large as this beside those of others.
            state.leave_out(u64::from(report.amount - report.more.min(report.amount)));
        }
        let context = ChargeContext { hits, ..context };
        Self { budget: Some(report), ..Self::of(context, &state, used, outcome) }
    }

    /// Turns a counted charge into a withheld one, because its request is denied after all. Returns the hits to
    /// refund: 0 for a peek, `None` for a charge that was not counted or counts in denied requests too.
    pub fn withhold(&mut self, limit: Limit, mode: ChargeMode, hits: Hits) -> Option<u32> {
        let Hits::Add(add) = hits else { return None };
        let add = match self.budget {
            // An extension counted only what it raised, and a repeated one nothing.
            Some(Report { event: HoldEvent::Extended, more: 0, .. }) => return None,
            Some(Report { event: HoldEvent::Extended, more, .. }) => more,
            Some(_) | None => add,
        };
        // A repeated call charges nothing: the first one did.
        let is_known =
            self.places.is_known || self.budget.is_some_and(|report| report.event == HoldEvent::Known);
        if !counts_only_if_allowed(mode, hits) || self.outcome != ChargeOutcome::Charged || is_known {
            return None;
        }
        // An overdraft is stored only up to twice the limit. Never refund more than was counted.
        let is_whole =
            self.used <= 2 * u64::from(limit.capacity()) || limit.algorithm == Algorithm::FixedWindow;
        let refund = if is_whole { add } else { add.min(limit.capacity().saturating_add(1)) };
        (self.used, self.outcome) = (self.used.saturating_sub(refund.into()), ChargeOutcome::Withheld);
        Some(refund)
    }

    /// Reading of a charge whose lockout ends at `ends_us` microseconds since the epoch. A blocked client waits
    /// for the end of the block, or for its limit if that takes longer.
    pub fn locked_until(self, ends_us: u64, now: Timestamp) -> Self {
        match self.outcome {
            ChargeOutcome::Blocked => {
                Self { reset: self.reset.max(lockout::remaining(ends_us, now)), ..self }
            }
            _ => self,
        }
    }
}
