//! Counts of holds and places of rules.

use super::algorithm::Reading;
use super::algorithm::group::ChargeOutcome;
use super::per_core::CoreCount;
use super::reserve::{Action, HoldEvent};

/// Event of a hold of a budget, or of a place of a concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldCount {
    /// A hold was opened, or a place taken.
    Opened,
    /// It did not fit.
    Denied,
    /// It was settled or given back.
    Settled,
    /// An amount was counted without a hold.
    Late,
    /// A settlement was repeated.
    Repeated,
    /// A hold or place was found to have ended by itself.
    Expired,
}

impl HoldCount {
    /// Names, in the order of the events.
    pub const NAMES: [&'static str; 6] = ["opened", "denied", "settled", "late", "repeated", "expired"];

    /// Event of a charge with this action to a budget, if there is one. Expired holds are counted beside it.
    pub fn of_budget(action: Action, reading: &Reading) -> Option<Self> {
        match (reading.budget?.event, action) {
            (HoldEvent::Opened, _) => Some(Self::Opened),
            (HoldEvent::Settled, _) => Some(Self::Settled),
            (HoldEvent::Late, _) => Some(Self::Late),
            (HoldEvent::Repeated, _) => Some(Self::Repeated),
            (HoldEvent::None | HoldEvent::TooMany, Action::Open(_)) => {
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
