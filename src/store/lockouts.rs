//! Lockouts, for operators to list and to lift.

use std::pin::Pin;

use bytes::Bytes;
use parking_lot::Mutex;

use super::StoreError;
use crate::engine::lockout::LockoutState;
use crate::engine::{KeyWriter, LockoutParts, Timestamp};

/// Upper bound on the lockouts that a search finds in one store.
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

/// Lockouts that a search has found so far: at most [`MAX_LISTED`], in no order.
#[derive(Debug, Default)]
pub struct Found(Mutex<Vec<ActiveLockout>>);

impl Found {
    /// Adds lockouts. Returns false if there is no room for more.
    pub(super) fn add(&self, lockouts: impl IntoIterator<Item = ActiveLockout>) -> bool {
        let mut found = self.0.lock();
        let room = MAX_LISTED - found.len();
        found.extend(lockouts.into_iter().take(room));
        found.len() < MAX_LISTED
    }

    /// Those that have been found.
    pub fn so_far(&self) -> Vec<ActiveLockout> {
        self.0.lock().clone()
    }
}

/// A store that keeps lockouts.
pub trait Lockouts: Send + Sync {
    /// Searches for lockouts that block at `now`, under keys that `keys` writes, and adds them to `found` one by one.
    ///
    /// # Errors
    /// [`StoreError`] where a part of the store cannot be asked.
    fn search<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp, found: &'a Found) -> LockoutFuture<'a, ()>;

    /// True if the lockout of this key exists and blocks at `now`.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked.
    fn is_blocked<'a>(&'a self, key: &'a Bytes, now: Timestamp) -> LockoutFuture<'a, bool>;

    /// Removes the lockout of this key together with the counters that struck it, in one step: its client
    /// begins with the whole limit, and the next failure does not bring the lockout back. Returns whether
    /// there was a lockout.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked.
    fn lift<'a>(&'a self, key: &'a Bytes) -> LockoutFuture<'a, bool>;
}
