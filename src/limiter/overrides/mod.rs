//! Overrides of operators: kept in the store, read by every replica, and in force until they end.
//!
//! Replicas poll the version of one document, and read the document when it has changed. A decision reads neither:
//! it takes the overrides in force with its snapshot of the rules, and pays for one branch while there are none.
//! A document that the store has lost is written back by the replica that notices first.

mod book;
mod record;
#[cfg(test)]
mod tests;
mod version;

pub use self::book::{
    ActiveOverride, MAX_DOCUMENT_BYTES, MAX_IN_DOMAIN, MAX_OVERRIDES, MAX_TTL, NewOverride, OverrideBook,
    OverrideError, POLL_INTERVAL,
};
pub use self::record::{EntryText, LimitRecord, OverrideRecord, Subject, describe};
