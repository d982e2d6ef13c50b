//! Where counters live.
//!
//! A store counts; it does not judge. Whether a reading is over its limit, what metrics say of it and
//! what the caller is told is decided in `engine::judge`, once, for every store.

pub mod breaker;
pub mod memory;
pub mod redis;

use std::pin::Pin;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::engine::algorithm::group::Outcome;
use crate::engine::{ChargeMode, Hits, Limit, Timestamp, Vote};

/// What a store is asked to do to one counter.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Names the counter. The window is not part of it: the store knows `now`.
    pub key: Bytes,
    /// The limit that is counted towards.
    pub limit: Limit,
    /// What to count.
    pub hits: Hits,
    /// Whether it counts when it is denied.
    pub mode: ChargeMode,
    /// What it does to its request when it is.
    pub vote: Vote,
}

/// What a store saw when it carried out a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What became of the charge.
    pub outcome: Outcome,
    /// Hits in the current window, those of this charge included.
    pub used: u64,
}

/// One reading for each charge, in the same order.
pub type Readings = SmallVec<[Reading; 4]>;

/// Charges under way. Dropping it does not undo what was already sent.
pub type Charging<'a> = Pin<Box<dyn Future<Output = Result<Readings, StoreError>> + Send + 'a>>;

/// Holds counters.
pub trait Store: Send + Sync {
    /// Carries out `charges` in their order, each one atomically, as of `now`.
    ///
    /// # Errors
    /// See [`StoreError`], which says what may have been counted all the same.
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a>;
}

/// Why charges have no readings.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The memory store holds as many counters as it may. The first charge that found no room was not
    /// counted, nor were those after it.
    #[error("the counter store is full ({max_counters} counters)")]
    Full {
        /// The bound that was met.
        max_counters: usize,
    },
    /// The store cannot be reached. The charge was not sent.
    #[error("the counter store cannot be reached: {0}")]
    Unreachable(String),
    /// A charge was sent, and no answer came in time: it may or may not have been counted, and is not
    /// sent again.
    #[error("the counter store did not answer: {0}")]
    Unanswered(String),
    /// The store answered a charge with an error, and did not count it. Of several charges, others may
    /// have been counted.
    #[error("the counter store refused: {0}")]
    Refused(String),
}

/// Whether `charges` must be decided together: one of them counts only if all of them pass.
fn is_group(charges: &[Charge]) -> bool {
    charges.iter().any(|charge| charge.mode == ChargeMode::IfAllowed)
}
