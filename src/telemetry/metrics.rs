//! Every metric: its name, unit and labels. Nothing else names one.

use crate::engine::Decision;
use crate::store::StoreError;

/// The service's instruments.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Counts what was decided.
    pub fn record_decision(&self, _decision: &Decision<'_>) {}

    /// Counts a store that did not count.
    pub fn record_store_error(&self, _error: &StoreError) {}
}
