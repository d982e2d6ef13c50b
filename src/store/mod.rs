//! Counter stores.
//!
//! A store counts; it does not judge. Whether a reading is over its limit, how metrics count it and
//! which answer the caller gets is decided in `engine::judge`, once, for every store.

pub mod fallback;
pub mod fleet;
pub mod inspect;
mod line;
pub mod lockouts;
pub mod memory;
pub mod overrides;
mod positions;
pub mod redis;
pub mod reset;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::engine::algorithm::ChargeContext;
pub use crate::engine::algorithm::Reading;
use crate::engine::lockout::LockoutSchedule;
use crate::engine::{
    ChargeMode, Enforcement, FailurePolicy, Hits, Hold, Lease, Limit, Reservation, Timestamp,
};

/// A charge to one counter.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Key of the counter, without its window: the store knows `now`.
    pub key: Bytes,
    /// The limit that is counted towards.
    pub limit: Limit,
    /// [`crate::engine::rules::Rule::id`] of its rule; 0 for a limit that the request brings.
    pub rule: u32,
    /// Hits to count.
    pub hits: Hits,
    /// True if it counts when it is denied.
    pub mode: ChargeMode,
    /// Effect on the request if it is denied.
    pub enforcement: Enforcement,
    /// Lockout that a denial counts towards.
    pub lockout: Option<Lockout>,
    /// Result if the store fails.
    pub on_failure: FailurePolicy,
    /// Ticket of a charge to the places of a concurrency limit: hits acquire places under it, a refund releases all
    /// that it holds, and a peek renews them. `None` for a plain peek, and for a refund that gives nothing back.
    pub hold: Option<Box<Hold>>,
    /// Part in leasing its counter; `None` if its limit is not leased.
    pub lease: Option<Lease>,
    /// Effect on the holds of a budget.
    pub reserve: Option<Box<Reservation>>,
}

/// A lockout that a charge may strike for, and that may deny it.
#[derive(Clone, Debug)]
pub struct Lockout {
    /// Key of the lockout.
    pub key: Bytes,
    /// Schedule of blocks.
    pub schedule: Arc<LockoutSchedule>,
}

impl Charge {
    /// Effect on the places of a ticket, if it has one.
    pub(crate) fn use_of_ticket(&self) -> Option<(Hold, TicketUse)> {
        let use_of_ticket = match self.hits {
            Hits::Add(0) => TicketUse::Renew,
            Hits::Add(hits) => TicketUse::Acquire(hits),
            Hits::Refund(_) => TicketUse::Release,
        };
        self.hold.as_deref().map(|hold| (*hold, use_of_ticket))
    }

    /// Effect on the holds of a budget, and the hits to count.
    pub(crate) fn reservation(&self) -> Option<(Reservation, Hits)> {
        self.reserve.as_deref().map(|reserve| reserve.in_charge(self.hits))
    }

    /// True if it gives back or settles what is held under a ticket, which has an effect once.
    pub(crate) fn is_repeatable(&self) -> bool {
        let of_holds = |(reservation, _): (Reservation, Hits)| reservation.action.is_repeatable();
        self.reservation().map_or(self.hold.is_some() && matches!(self.hits, Hits::Refund(_)), of_holds)
    }

    const fn context(&self, now: Timestamp) -> ChargeContext {
        ChargeContext { limit: self.limit, hits: self.hits, mode: self.mode, now }
    }
}

/// Effect of a charge with a ticket on its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TicketUse {
    /// Takes so many places, if they are free. A ticket that its caller names takes none if it holds some.
    Acquire(u32),
    /// Lets the places end later. Its reading resets when they end. Its outcome is [`Denied`](crate::engine::algorithm::group::ChargeOutcome::Denied) if
    /// the ticket holds none.
    Renew,
    /// Gives the places back. The same outcome if the ticket holds none.
    Release,
}

/// Result of each charge, in the same order: stores may fail in part.
pub type Readings = SmallVec<[Result<Reading, StoreError>; 2]>;

/// Charges under way. Dropping it does not undo what was already sent.
pub type ChargeFuture<'a> = Pin<Box<dyn Future<Output = Readings> + Send + 'a>>;

/// Holds counters.
pub trait Store: Send + Sync {
    /// Carries out `charges` in their order, each one atomically, as of `now`. Those that count only if
    /// all of them pass are decided as one.
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a>;

    /// Returns the hits of charges that were made as of `now` and whose request was denied elsewhere. Returns at
    /// once: no answer waits for a refund, and one that fails is logged.
    fn refund(&self, refunds: &[Charge], now: Timestamp);
}

/// Why a charge has no reading.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached. The charge was not sent.
    #[error("the counter store cannot be reached: {0}")]
    Unreachable(String),
    /// A charge was sent, and no answer came in time: it may or may not have been counted, and is not
    /// sent again.
    #[error("the counter store did not answer: {0}")]
    Unanswered(String),
    /// The store answered with an error, and did not count it.
    #[error("the counter store rejected the charge: {0}")]
    Rejected(String),
}

/// True if `charges` must be decided together: one of them counts only if all of them pass, or the client
/// may be locked out.
fn is_group(charges: &[Charge]) -> bool {
    charges.iter().any(|charge| {
        charge.mode != ChargeMode::Always || charge.lockout.is_some() || charge.reserve.is_some()
    })
}
