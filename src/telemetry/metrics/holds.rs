//! Counts of the holds of budgets.

use std::sync::atomic::{AtomicU64, Ordering};

use super::definitions as defined;
use super::snapshot::Snapshot;
use crate::engine::algorithm::Reading;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::reserve::{Action, HoldEvent};

/// Names of the counts.
const NAMES: [&str; 8] =
    ["opened", "denied", "settled", "late", "repeated", "expired", "unsettled", "unknown_model"];
const OPENED: usize = 0;
const DENIED: usize = 1;
const SETTLED: usize = 2;
const LATE: usize = 3;
const REPEATED: usize = 4;
const EXPIRED: usize = 5;
const UNSETTLED: usize = 6;
const UNKNOWN_MODEL: usize = 7;

/// Counts of holds by event.
#[derive(Debug, Default)]
pub(super) struct Holds([AtomicU64; NAMES.len()]);

impl Holds {
    /// Counts what a charge with this action has done.
    pub(super) fn record(&self, action: Action, reading: &Reading) {
        let Some(report) = reading.budget else { return };
        self.add(EXPIRED, report.expired.into());
        match (report.event, action) {
            (HoldEvent::Opened, _) => self.add(OPENED, 1),
            (HoldEvent::Settled, _) => self.add(SETTLED, 1),
            (HoldEvent::Late, _) => self.add(LATE, 1),
            (HoldEvent::Repeated, _) => self.add(REPEATED, 1),
            (HoldEvent::None | HoldEvent::TooMany, Action::Open(_))
                if reading.outcome == ChargeOutcome::Denied =>
            {
                self.add(DENIED, 1);
            }
            (
                HoldEvent::None
                | HoldEvent::Known
                | HoldEvent::TooMany
                | HoldEvent::Continued
                | HoldEvent::Extended
                | HoldEvent::Unknown,
                _,
            ) => {}
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
            sum.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn collect(&self, snapshot: &mut Snapshot) {
        for (event, count) in NAMES.into_iter().zip(&self.0) {
            snapshot.add(&defined::HOLDS, [event], count.load(Ordering::Relaxed));
        }
    }
}
