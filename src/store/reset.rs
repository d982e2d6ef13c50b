//! Removal of counters, for operators.

use std::pin::Pin;

use super::{Charge, StoreError};
use crate::engine::Timestamp;

/// Future of a reset.
pub type ResetFuture<'a> = Pin<Box<dyn Future<Output = Result<usize, StoreError>> + Send + 'a>>;

/// A store whose counters an operator can remove.
pub trait CounterReset: Send + Sync {
    /// Removes the counters that `charges` made as of `now` would count in, so that the next charge finds none: with them
    /// end the holds of budgets and the places of concurrency limits. Tickets that are settled stay known. Returns how
    /// many counters there were. Lockouts stay.
    ///
    /// # Errors
    /// The first [`StoreError`]; other counters may have been removed.
    fn reset<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ResetFuture<'a>;
}
