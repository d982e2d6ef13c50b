//! Counts of what charges did to holds and places.

use std::iter;

use super::Limiter;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::hold_counts::{HoldCount, HoldCounts};
use crate::engine::plan::Plan;
use crate::engine::reserve::Action;
use crate::engine::{Hits, Report, Rules};
use crate::store::{Charge, Reading, Readings};

impl Limiter {
    /// Counts what the charges of `plan` did to holds and places, in all and for each rule.
    pub(super) fn record_holds(&self, plan: &Plan<'_>, charges: &[Charge], readings: &Readings) {
        if charges.iter().all(|charge| charge.reserve.is_none() && charge.hold.is_none()) {
            return;
        }
        self.record_tickets(charges, readings);
        self.record_budgets(charges, readings);
        let rules = plan.limited().flat_map(|limited| iter::repeat_n(limited.rule, limited.counters.len()));
        for ((charge, reading), rule) in charges.iter().zip(readings).zip(rules) {
            if let (Ok(reading), Some(counts)) = (reading, rule.and_then(|rule| rule.holds.as_deref())) {
                record(counts, charge, reading);
            }
        }
    }
}

impl Limiter {
    /// Counts the holds that a look at `charges` has ended: no other call will find them.
    pub(super) fn record_expired(&self, rules: &Rules, charges: &[Charge], readings: &Readings) {
        for (charge, reading) in charges.iter().zip(readings) {
            let Ok(reading @ Reading { budget: Some(Report { expired: 1.., .. }), .. }) = reading else {
                continue;
            };
            self.metrics.record_budget(Action::Look, reading);
            if let Some(counts) = rules.holds_of(charge.rule) {
                counts.add(HoldCount::Expired, expired(reading));
            }
        }
    }
}

/// Holds, or tickets with places, that were found to have ended.
fn expired(reading: &Reading) -> u64 {
    let of_holds = reading.budget.map_or(0, |Report { expired, .. }| expired);
    u64::from(of_holds) + u64::from(reading.places.expired)
}

fn record(counts: &HoldCounts, charge: &Charge, reading: &Reading) {
    let event = match charge.reservation() {
        Some((reservation, _)) => HoldCount::of_budget(reservation.action, reading),
        None => of_places(charge, reading),
    };
    if let Some(event) = event {
        counts.add(event, 1);
    }
    counts.add(HoldCount::Expired, expired(reading));
}

/// Event of a charge to places, if there is one.
fn of_places(charge: &Charge, reading: &Reading) -> Option<HoldCount> {
    charge.hold.as_ref()?;
    match (charge.hits, reading.outcome) {
        (Hits::Add(1..), ChargeOutcome::Charged) => (!reading.places.is_known).then_some(HoldCount::Opened),
        (Hits::Add(1..), ChargeOutcome::Denied) => Some(HoldCount::Denied),
        (Hits::Refund(_), ChargeOutcome::Charged) => Some(HoldCount::Settled),
        _ => None,
    }
}
