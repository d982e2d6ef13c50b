//! Counter keys: the bytes under which a store counts.
//!
//! A key ends in a separator. A store with the window in its keys appends the window's start in decimal digits.

use bytes::{BufMut, Bytes, BytesMut};

mod counter;
mod hash;
mod lockout;
mod text;

pub use counter::CounterParts;
pub use hash::DescriptorHash;
pub use lockout::{LOCKOUT_PREFIX, LockoutName, LockoutParts};
pub use text::MAX_LITERAL_BYTES;

use super::rules::{Match, SharedPattern};
use super::{Algorithm, Calendar, Entry, Limit, Period};

/// Format of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// tollgate's own: no two descriptors and windows share a key, whatever bytes they contain.
    #[default]
    Native,
    /// Byte for byte the keys of envoyproxy/ratelimit, so that both can count in one Redis during a migration.
    /// They are ambiguous: `(a, b_c)` and `(a_b, c)` share a key.
    ///
    /// A descriptor gets the native key if a client could exploit these: if a text is longer than
    /// [`MAX_LITERAL_BYTES`], or, in a Redis Cluster, has braces, which would choose the slot.
    Envoyproxy,
}

/// The domain of a counter.
#[derive(Clone, Copy, Debug)]
pub struct KeyDomain<'a> {
    /// Name; not empty if there is a hash tag.
    pub name: &'a [u8],
    /// Part of the key that decides the slot in a Redis Cluster; `None` for the whole key.
    pub hash_tag: Option<HashTag>,
    /// True if the limit is the only one of its rule. In keys of envoyproxy/ratelimit, several would collide.
    pub only_limit: bool,
}

/// Part of a key that decides the slot in a Redis Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTag {
    /// All counters of the domain are in one slot.
    Domain,
    /// All counters of a descriptor are in one slot.
    Descriptor(DescriptorHash),
}

/// Writes keys.
#[derive(Clone, Debug, Default)]
pub struct KeyWriter {
    format: KeyFormat,
    prefix: Box<str>,
    for_cluster: bool,
}

impl KeyWriter {
    /// A writer of keys that begin with `prefix`. A prefix with `{}` disables hash tags: Redis Cluster reads only the
    /// first braces of a key, and ignores them if they are empty.
    pub fn new(format: KeyFormat, prefix: &str) -> Self {
        Self { format, prefix: prefix.into(), for_cluster: false }
    }

    /// The writer for a Redis Cluster, where counters that are decided together are in one slot.
    pub fn for_cluster(self) -> Self {
        Self { for_cluster: true, ..self }
    }

    /// True for keys in a Redis Cluster.
    pub const fn is_for_cluster(&self) -> bool {
        self.for_cluster
    }

    /// The key of the counter for `entries` in `domain`, counted towards `limit`.
    ///
    /// `matched` is the path of rules that the entries matched, if any. The key then has its values, which may be
    /// normalized; at a level with `share_threshold`, it has the pattern in place of the value.
    pub fn key(
        &self,
        domain: KeyDomain<'_>,
        entries: &[Entry<'_>],
        matched: Option<&Match<'_, '_>>,
        limit: Limit,
    ) -> Bytes {
        let lens = entries.iter().flat_map(|entry| [entry.key.len(), entry.value.len()]);
        let texts: usize = lens.map(text::written_len).sum();
        let mut key = BytesMut::with_capacity(self.prefix.len() + 2 * domain.name.len() + texts + 48);
        key.put_slice(self.prefix.as_bytes());
        domain.write_hash_tag(&mut key);
        let values = entries.iter().enumerate().map(|(level, entry)| {
            let own =
                || CountedValue::Own(matched.map_or(entry.value, |matched| matched.value(level, entry)));
            let shared = matched.and_then(|matched| matched.shared_pattern(level));
            (entry.key, shared.map_or_else(own, CountedValue::Shared))
        });
        let is_compatible = self.format == KeyFormat::Envoyproxy
            && limit.algorithm == Algorithm::FixedWindow
            && limit.window.calendar().is_none()
            && domain.only_limit
            && values.clone().all(|(name, value)| self.is_literal(domain, &[name, value.text()]));
        match is_compatible {
            true => write_envoyproxy(&mut key, domain.name, values),
            // envoyproxy/ratelimit has no such counters.
            false => write_native(&mut key, domain.name, values, limit),
        }
        key.freeze()
    }

    /// True if `texts` may stand in a key of `domain` as they are.
    fn is_literal(&self, domain: KeyDomain<'_>, texts: &[&[u8]]) -> bool {
        let chooses_slot = self.for_cluster && domain.hash_tag.is_none();
        texts.iter().all(|text| text.len() <= MAX_LITERAL_BYTES && !(chooses_slot && text::has_brace(text)))
    }
}

impl KeyDomain<'_> {
    fn write_hash_tag(self, key: &mut BytesMut) {
        match self.hash_tag {
            Some(HashTag::Domain) => write_hash_tag(key, self.name),
            Some(HashTag::Descriptor(hash)) => {
                write_hash_tag(key, format!("{:016x}", hash.as_u64()).as_bytes())
            }
            None => {}
        }
    }
}

#[derive(Clone, Copy)]
enum CountedValue<'a> {
    Own(&'a [u8]),
    Shared(SharedPattern<'a>),
}

impl<'a> CountedValue<'a> {
    const fn text(self) -> &'a [u8] {
        match self {
            Self::Own(value) => value,
            Self::Shared(pattern) => pattern.text().as_bytes(),
        }
    }
}

/// Writes `{shop}`. Redis Cluster derives the slot from the text between the first `{` and the next `}`; braces
/// in `text` are percent-encoded, since they would end the tag early.
fn write_hash_tag(key: &mut BytesMut, text: &[u8]) {
    key.put_u8(b'{');
    for &byte in text {
        match byte {
            b'{' => key.put_slice(b"%7B"),
            b'}' => key.put_slice(b"%7D"),
            _ => key.put_u8(byte),
        }
    }
    key.put_u8(b'}');
}

/// Writes `tg1/f60/4:shop,4:user,2:42,`: version, algorithm and window, then [texts](text), which are
/// unambiguous. A shared pattern is preceded by `*` (globs) or `~` (others), so that it differs from an equal
/// value. A calendar window is `cd:Europe/Berlin`; names of zones contain no colon.
fn write_native<'a>(
    key: &mut BytesMut,
    domain: &[u8],
    entries: impl Iterator<Item = (&'a [u8], CountedValue<'a>)>,
    limit: Limit,
) {
    key.put_slice(b"tg1/");
    key.put_u8(match limit.algorithm {
        Algorithm::FixedWindow => b'f',
        Algorithm::SlidingWindow => b'w',
        // `l` was an older format with a member for each hit.
        Algorithm::SlidingLog => b'r',
        Algorithm::TokenBucket { .. } => b'b',
        Algorithm::Concurrency => b'c',
    });
    match limit.window.calendar() {
        // Places stay held when the rule's TTL changes.
        _ if limit.is_concurrency() => {}
        None => write_decimal(key, limit.window.secs() as usize),
        Some(calendar) => write_calendar(key, calendar),
    }
    key.put_u8(b'/');
    text::write(key, domain);
    for (name, value) in entries {
        text::write(key, name);
        if let CountedValue::Shared(pattern) = value {
            key.put_u8(pattern.mark());
        }
        text::write(key, value.text());
    }
}

/// `shop_user_42_`
fn write_envoyproxy<'a>(
    key: &mut BytesMut,
    domain: &[u8],
    entries: impl Iterator<Item = (&'a [u8], CountedValue<'a>)>,
) {
    key.put_slice(domain);
    key.put_u8(b'_');
    for (name, value) in entries {
        key.put_slice(name);
        key.put_u8(b'_');
        key.put_slice(value.text());
        key.put_u8(b'_');
    }
}

fn write_calendar(key: &mut BytesMut, calendar: Calendar) {
    key.put_slice(match calendar.period {
        Period::Day => b"cd:",
        Period::Week => b"cw:",
        Period::Month => b"cm:",
        Period::Year => b"cy:",
    });
    key.put_slice(calendar.zone.name().as_bytes());
}

fn write_decimal(key: &mut BytesMut, number: usize) {
    key.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests;
