//! Leases: hits that a replica charges in advance and spends without asking the store.
//!
//! A lease is an ordinary charge. The counter rises before the credit exists, and what is not spent is given back, so
//! a counter is never below the hits admitted plus the credits held, whichever replica crashes. See [`cell`] for the
//! replica's side, and [`Meter::lease`](super::algorithm::Meter::lease) for the store's.

pub mod cell;

use std::time::Duration;

use super::{Algorithm, Limit, Timestamp};

/// Terms under which a limit is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Time for which a replica keeps hits, in microseconds.
    pub hold_us: u32,
    /// Used hits above which nothing is leased.
    pub ceiling: u32,
    /// Upper bound on the hits of one lease.
    pub max: u32,
}

impl LeaseTerms {
    /// Time for which a replica keeps hits.
    pub const fn hold(self) -> Duration {
        Duration::from_micros(self.hold_us as u64)
    }
}

/// Part of a charge in leasing its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The store may spend credits on it.
    Spend(LeaseTerms),
    /// It takes up to so many hits in advance, is never denied and denies nothing.
    Ask {
        /// Used hits above which it takes nothing.
        ceiling: u32,
        /// It takes this part of the room at most; at least 1.
        shares: u16,
    },
    /// It returns unspent hits of a lease.
    Return {
        /// Time of the lease, by the clock of the store.
        charged: Timestamp,
    },
}

/// Hits by which leases make a token bucket of `limit` smaller, for direct requests too.
///
/// A credit may be spent until `hold_us` after its charge. So the hits that pass in any time t were charged in a time
/// of t + hold, and a bucket that is smaller by the refill of the hold admits no more than the whole one does in t.
pub fn burst_tax(limit: Limit, hold_us: u32) -> u32 {
    let window_us = u64::from(limit.window.secs()) * 1_000_000;
    let tax = (u64::from(limit.requests_per_unit) * u64::from(hold_us)).div_ceil(window_us.max(1));
    u32::try_from(tax).unwrap_or(u32::MAX)
}

/// Hits of a refund that may return to a leased token bucket: credits may have been charged a hold earlier, and what
/// has drained since must not be returned a second time.
pub fn refundable(limit: Limit, lease: Option<Lease>, hits: u32) -> u32 {
    match (limit.algorithm, lease) {
        (Algorithm::TokenBucket { .. }, Some(Lease::Spend(terms))) => {
            hits.saturating_sub(burst_tax(limit, terms.hold_us))
        }
        _ => hits,
    }
}
