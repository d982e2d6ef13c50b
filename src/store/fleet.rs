//! Replicas that share a store: each announces itself, and sees the others.

use std::pin::Pin;
use std::time::Duration;

use super::StoreError;

/// Future of an announcement.
pub type FleetFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<Member>, StoreError>> + Send + 'a>>;

/// A replica as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Id of the replica.
    pub id: String,
    /// Time since its announcement.
    pub age: Duration,
    /// Text of its announcement.
    pub text: String,
}

/// An announcement.
#[derive(Clone, Copy, Debug)]
pub struct Announcement<'a> {
    /// Key of the fleet in the store.
    pub key: &'a str,
    /// Id of the replica.
    pub id: &'a str,
    /// Text of the announcement.
    pub text: &'a str,
    /// Time after which the store deletes the announcement; at least a second.
    pub ttl: Duration,
}

/// A store that replicas share.
pub trait Fleet: Send + Sync {
    /// Announces a replica, and returns every replica whose announcement is younger than the TTL, itself included.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    fn announce<'a>(&'a self, announcement: Announcement<'a>) -> FleetFuture<'a>;
}
