//! Lockouts, for operators to list and to lift.

use std::pin::Pin;

use bytes::Bytes;

use super::StoreError;
use crate::engine::lockout::LockoutState;
use crate::engine::{KeyWriter, LockoutParts, Timestamp};

/// Upper bound on the lockouts in one listing.
pub const MAX_LISTED: usize = 10_000;

/// Future of a query about lockouts.
pub type LockoutFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A lockout that blocks its client.
#[derive(Clone, Debug)]
pub struct ActiveLockout {
    /// The lockout's key.
    pub key: Bytes,
    /// Domain and entries that it names.
    pub parts: LockoutParts,
    /// Block and strikes.
    pub state: LockoutState,
}

impl ActiveLockout {
    /// The lockout of `key`, if it is one and blocks at `now`.
    pub(super) fn new(key: Bytes, state: LockoutState, keys: &KeyWriter, now: Timestamp) -> Option<Self> {
        let parts = keys.parse_lockout_key(&key)?;
        state.is_blocked(now).then_some(Self { key, parts, state })
    }
}

/// A store that keeps lockouts.
pub trait Lockouts: Send + Sync {
    /// Lockouts that block at `now`, under keys that `keys` writes: at most [`MAX_LISTED`], in no order.
    ///
    /// # Errors
    /// [`StoreError`] where a part of the store cannot be asked.
    fn list<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp) -> LockoutFuture<'a, Vec<ActiveLockout>>;

    /// Removes the lockout of this key together with the counters that struck it, in one step: its client
    /// begins with the whole limit, and the next failure does not bring the lockout back. Returns whether
    /// there was a lockout.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked.
    fn lift<'a>(&'a self, key: &'a Bytes) -> LockoutFuture<'a, bool>;
}
