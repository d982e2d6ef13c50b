//! Requests for a decision, borrowed from the message that contains them.
//!
//! Keys and values are bytes of any length, since Envoy passes header values unchanged: a client must not be
//! able to cause an error, because Envoy then lets the request pass. Numbers of descriptors and entries depend
//! on the caller's configuration; `server::wire` enforces their bounds.

use smallvec::SmallVec;

use super::Limit;

/// Upper bound on the descriptors of one request.
pub const MAX_DESCRIPTORS: usize = 1_024;
/// Upper bound on the entries of one descriptor.
pub const MAX_ENTRIES: usize = 256;
/// Upper bound on the hits of one descriptor. Larger numbers saturate: a client may choose them, so they are
/// not an error.
pub const MAX_HITS: u32 = u32::MAX;

/// A request for a decision.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Domain of the rules; not empty.
    pub domain: &'a [u8],
    /// At least one, at most [`MAX_DESCRIPTORS`].
    pub descriptors: SmallVec<[Descriptor<'a>; 4]>,
}

/// Descriptor: a list of entries with one limit.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// At most [`MAX_ENTRIES`].
    pub entries: SmallVec<[Entry<'a>; 4]>,
    /// Hits to count.
    pub hits: Hits,
    /// Limit in the request, which overrides the rules.
    pub limit_override: Option<Limit>,
}

/// Key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Key; an empty one matches no rule.
    pub key: &'a [u8],
    /// Value; may be empty.
    pub value: &'a [u8],
}

/// Effect of a descriptor on its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Counts this many hits, at most [`MAX_HITS`]. 0 is a peek: nothing is written.
    Add(u32),
    /// Returns this many hits, at most [`MAX_HITS`]. The counter does not go below zero, and nothing is denied.
    Refund(u32),
}
