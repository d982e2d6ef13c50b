//! The document with the overrides of operators, which a store keeps for all replicas.
//!
//! The content is opaque to the store. The version changes with it: replicas poll only the version, and a writer cannot
//! undo a change that it has not seen.

use std::future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::StoreError;
use crate::engine::{KeyWriter, Timestamp};

/// Future of an access to the document.
pub type DocumentFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The document as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredDocument {
    /// Version; empty if there is no document.
    pub version: Bytes,
    /// Content; empty if there is no document.
    pub content: Bytes,
    /// Time by the clock of the store, which replicas share.
    pub now: Timestamp,
}

/// A new document.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Version that it replaces.
    pub expected: Bytes,
    /// Its version, which no other document has.
    pub version: Bytes,
    /// Its content.
    pub content: Bytes,
    /// Time after which the store may delete the document, at least a second.
    pub ttl: Duration,
}

/// A store that keeps the document.
pub trait DocumentStore: Send + Sync {
    /// Version of the document; empty if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    fn version<'a>(&'a self, keys: &'a KeyWriter) -> DocumentFuture<'a, Bytes>;

    /// The document. `now` is the time for a store without a clock.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    fn read<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp) -> DocumentFuture<'a, StoredDocument>;

    /// Replaces the document, in one step, if its version is the expected one. Returns true if it was.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer. After [`StoreError::Unanswered`], the document may have been replaced.
    fn replace<'a>(&'a self, keys: &'a KeyWriter, by: Replacement) -> DocumentFuture<'a, bool>;
}

/// A document in the memory of this process.
#[derive(Debug, Default)]
pub struct MemoryDocument(Mutex<StoredDocument>);

impl DocumentStore for MemoryDocument {
    fn version<'a>(&'a self, _: &'a KeyWriter) -> DocumentFuture<'a, Bytes> {
        Box::pin(future::ready(Ok(self.0.lock().version.clone())))
    }

    fn read<'a>(&'a self, _: &'a KeyWriter, now: Timestamp) -> DocumentFuture<'a, StoredDocument> {
        Box::pin(future::ready(Ok(StoredDocument { now, ..self.0.lock().clone() })))
    }

    fn replace<'a>(&'a self, _: &'a KeyWriter, by: Replacement) -> DocumentFuture<'a, bool> {
        let mut held = self.0.lock();
        let is_expected = held.version == by.expected;
        if is_expected {
            let Replacement { version, content, .. } = by;
            *held = StoredDocument { version, content, now: Timestamp::default() };
        }
        Box::pin(future::ready(Ok(is_expected)))
    }
}
