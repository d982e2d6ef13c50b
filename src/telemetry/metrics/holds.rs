//! Counts of the holds of budgets.

use super::definitions as defined;
use super::snapshot::Snapshot;
use crate::engine::algorithm::Reading;
use crate::engine::hold_counts::HoldCount;
use crate::engine::per_core::CoreCount;
use crate::engine::reserve::Action;

/// Names of the counts beside those of [`HoldCount`].
const OTHER_NAMES: [&str; 2] = ["unsettled", "unknown_model"];
const UNSETTLED: usize = HoldCount::NAMES.len();
const UNKNOWN_MODEL: usize = UNSETTLED + 1;

/// Counts of holds by event.
#[derive(Debug, Default)]
pub(super) struct Holds([CoreCount; HoldCount::NAMES.len() + OTHER_NAMES.len()]);

impl Holds {
    /// Counts what a charge with this action has done.
    pub(super) fn record(&self, action: Action, reading: &Reading) {
        let Some(report) = reading.budget else { return };
        self.add(HoldCount::Expired as usize, report.expired.into());
        if let Some(event) = HoldCount::of_budget(action, reading) {
            self.add(event as usize, 1);
        }
    }

    /// Counts an amount that the store did not count.
    pub(super) fn record_unsettled(&self) {
        self.add(UNSETTLED, 1);
    }

    /// Counts a settlement whose model has no price.
    pub(super) fn record_unknown_model(&self) {
        self.add(UNKNOWN_MODEL, 1);
    }

    fn add(&self, index: usize, count: u64) {
        if let Some(sum) = self.0.get(index).filter(|_| count > 0) {
            sum.add(count);
        }
    }

    pub(super) fn collect(&self, snapshot: &mut Snapshot) {
        for (event, count) in HoldCount::NAMES.into_iter().chain(OTHER_NAMES).zip(&self.0) {
            snapshot.add(&defined::HOLDS, [event], count.get());
        }
    }
}
