//! Who is locked out, for operators to look at and to lift.

use std::pin::Pin;

use bytes::Bytes;

use super::StoreError;
use crate::engine::lockout::State;

/// Lockouts that are told at once, at the most.
pub const MAX_LISTED: usize = 10_000;

/// A question under way.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store that keeps lockouts.
pub trait Lockouts: Send + Sync {
    /// What is known of everybody who was denied by a rule with a penalty and whose key begins with
    /// `prefix`: [`MAX_LISTED`] of them at the most, in no order. Those are among them that are not blocked.
    ///
    /// # Errors
    /// [`StoreError`] where a part of the store cannot be asked.
    fn list<'a>(&'a self, prefix: &'a [u8]) -> Asking<'a, Vec<(Bytes, State)>>;

    /// Forgets the lockout of this key: whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked.
    fn lift<'a>(&'a self, key: &'a Bytes) -> Asking<'a, bool>;
}
