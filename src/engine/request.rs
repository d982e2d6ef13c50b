//! A request for a decision, borrowed from the message it came in.
//!
//! Keys and values are bytes of any length, since Envoy passes header values on as they are: a client must
//! not be able to cause an error, which Envoy answers by letting the request pass. The two bounds below are
//! for what the configuration of the caller decides, and `server::wire` holds them while it decodes.

use smallvec::SmallVec;

use super::Limit;

/// Upper bound on the descriptors of one request.
pub const MAX_DESCRIPTORS: usize = 1_024;
/// Upper bound on the entries of one descriptor.
pub const MAX_ENTRIES: usize = 256;
/// Hits of one descriptor saturate here: a larger cost is no error, since the client may choose it.
pub const MAX_HITS: u32 = u32::MAX;

/// A request for a decision.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The rule set to look in; not empty.
    pub domain: &'a [u8],
    /// At least one, at most [`MAX_DESCRIPTORS`].
    pub descriptors: SmallVec<[Descriptor<'a>; 4]>,
}

/// Entries of the request that are limited together.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// At most [`MAX_ENTRIES`].
    pub entries: SmallVec<[Entry<'a>; 4]>,
    /// Hits to count.
    pub hits: Hits,
    /// Limit in the request, which overrides the rules.
    pub limit_override: Option<Limit>,
}

/// One key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// No rule has an empty one.
    pub key: &'a [u8],
    /// May be empty.
    pub value: &'a [u8],
}

/// Effect of a descriptor on its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Counts so many hits, at most [`MAX_HITS`]. With 0 it is a peek: nothing is written.
    Add(u32),
    /// Returns so many hits, at most [`MAX_HITS`]. The counter does not fall below zero, and nothing is
    /// denied.
    Refund(u32),
}
