//! What is asked: a request for a decision, borrowed from the message it came in.
//!
//! Keys and values are bytes, since Envoy passes header values on as they are. A `Request` that exists
//! keeps the bounds below: `server::wire` checks them while it decodes.

use smallvec::SmallVec;

use super::Limit;

/// Descriptors in one request, at the most.
pub const MAX_DESCRIPTORS: usize = 64;
/// Entries in one descriptor, at the most.
pub const MAX_ENTRIES: usize = 32;
/// Bytes in a domain, a key or a value, at the most.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Hits of one descriptor, at the most.
pub const MAX_HITS: u32 = 1_000_000_000;

/// A request for a decision.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The rule set to look in; not empty.
    pub domain: &'a [u8],
    /// At least one, [`MAX_DESCRIPTORS`] at the most.
    pub descriptors: SmallVec<[Descriptor<'a>; 4]>,
}

/// One side of the request that is limited by itself.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// [`MAX_ENTRIES`] at the most.
    pub entries: SmallVec<[Entry<'a>; 4]>,
    /// What to count.
    pub hits: Hits,
    /// A limit that the caller brings in place of the rules'.
    pub limit_override: Option<Limit>,
}

/// One key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Not empty; [`MAX_TEXT_BYTES`] at the most.
    pub key: &'a [u8],
    /// May be empty; [`MAX_TEXT_BYTES`] at the most.
    pub value: &'a [u8],
}

/// What a descriptor does to its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Counts so many hits: 1 or more, [`MAX_HITS`] at the most. With 0 it looks without counting:
    /// nothing is written.
    Add(u32),
    /// Gives so many hits back. The counter does not fall below zero, and nothing is denied.
    Refund(u32),
}
