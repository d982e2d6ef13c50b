//! Counts of holds and places of rules.

use super::algorithm::Reading;
use super::algorithm::group::ChargeOutcome;
use super::per_core::CoreCount;
use super::reserve::{Action, HoldEvent};

/// Event of a hold of a budget, or of a place of a concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldCount {
    /// A hold was opened, or a ticket took places.
    Opened,
    /// It did not fit, or what was to raise it.
    Denied,
    /// A hold was settled, or a ticket was released.
    Settled,
    /// An amount was counted without a hold.
    Late,
    /// A settlement was repeated.
    Repeated,
    /// A hold, or a ticket with places, was found to have ended by itself.
    Expired,
}

impl HoldCount {
    /// Names, in the order of the events.
    pub const NAMES: [&'static str; 6] = ["opened", "denied", "settled", "late", "repeated", "expired"];

    /// Event of a charge with this action to a budget, if there is one. Expired holds are counted beside it.
    pub fn of_budget(action: Action, reading: &Reading) -> Option<Self> {
        match (reading.budget?.event, action) {
            // Otherwise it was withheld at once: a limit in another slot of a Redis Cluster denied the request.
            (HoldEvent::Opened, _) => (reading.outcome == ChargeOutcome::Charged).then_some(Self::Opened),
            (HoldEvent::Settled, _) => Some(Self::Settled),
            (HoldEvent::Late, _) => Some(Self::Late),
            (HoldEvent::Repeated, _) => Some(Self::Repeated),
            (HoldEvent::None | HoldEvent::TooMany, Action::Open(_) | Action::Extend(_)) => {
                (reading.outcome == ChargeOutcome::Denied).then_some(Self::Denied)
            }
            (
                HoldEvent::None
                | HoldEvent::Known
                | HoldEvent::TooMany
                | HoldEvent::Continued
                | HoldEvent::Extended
                | HoldEvent::Unknown,
                _,
            ) => None,
        }
    }
}

/// Counts of the holds of one rule since it was first loaded. Kept over reloads.
#[derive(Debug, Default)]
pub struct HoldCounts([CoreCount; HoldCount::NAMES.len()]);

impl HoldCounts {
    /// Adds `count` of an event.
    pub fn add(&self, event: HoldCount, count: u64) {
        if let Some(sum) = self.0.get(event as usize).filter(|_| count > 0) {
            sum.add(count);
        }
    }

    /// Counts so far, each with the name of its event.
    pub fn sums(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HoldCount::NAMES.into_iter().zip(self.0.iter().map(CoreCount::get))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::algorithm::places::PlaceReport;
    use crate::engine::reserve::{Opening, Report};

    /// As in a Redis Cluster, where a limit in another slot may deny the request.
    #[test]
    fn a_hold_that_is_withheld_at_once_was_not_opened() {
        let opening = Opening { ticket: None, amount: 5, ttl_secs: 60, is_anonymous: false, is_named: false };
        let event = |outcome| {
            let budget: Option<Report> = Some(Report::of(HoldEvent::Opened));
            let places = PlaceReport::NONE;
            let reading = Reading { used: 0, outcome, reset: Duration::ZERO, budget, places };
            HoldCount::of_budget(Action::Open(opening), &reading)
        };
        assert_eq!(event(ChargeOutcome::Charged), Some(HoldCount::Opened));
        assert_eq!(event(ChargeOutcome::Withheld), None);
    }
}
