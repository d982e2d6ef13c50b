//! Counter keys: the bytes under which a store counts.
//!
//! A key ends in a separator; a store that keeps the window in the key appends the window's start in
//! decimal digits.

use bytes::{BufMut, Bytes, BytesMut};

use super::rules::Match;
use super::{Entry, Limit};

/// How keys are spelt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// Ours: no two descriptors and windows share a key, whatever bytes they hold.
    #[default]
    Native,
    /// Byte for byte those of envoyproxy/ratelimit, so that both can count in one Redis while one
    /// replaces the other. Its ambiguity comes with it: `(a, b_c)` and `(a_b, c)` share a key.
    Envoyproxy,
}

/// Writes keys.
#[derive(Clone, Debug, Default)]
pub struct KeyWriter {
    format: KeyFormat,
    prefix: Box<str>,
}

impl KeyWriter {
    /// A writer of keys that begin with `prefix`.
    pub fn new(format: KeyFormat, prefix: &str) -> Self {
        Self { format, prefix: prefix.into() }
    }

    /// The key of the counter for `entries` in `domain`, counted towards `limit`.
    ///
    /// `matched` is the rule path the entries took, where they took one: at a level with
    /// `share_threshold` every value counts under the pattern it matched.
    pub fn key(
        &self,
        domain: &[u8],
        entries: &[Entry<'_>],
        matched: Option<&Match<'_>>,
        limit: Limit,
    ) -> Bytes {
        let texts: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len() + 12).sum();
        let mut key = BytesMut::with_capacity(self.prefix.len() + domain.len() + texts + 48);
        key.put_slice(self.prefix.as_bytes());
        let values = entries.iter().enumerate().map(|(level, entry)| {
            let shared = matched.and_then(|matched| matched.shared_pattern(level));
            (entry.key, shared.map_or(Value::Own(entry.value), Value::Shared))
        });
        match self.format {
            KeyFormat::Native => write_native(&mut key, domain, values, limit),
            KeyFormat::Envoyproxy => write_envoyproxy(&mut key, domain, values),
        }
        key.freeze()
    }
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Own(&'a [u8]),
    Shared(&'a str),
}

/// `tg1/f60/4:shop,4:user,2:42,`: a version, the algorithm and its window, then netstrings
/// (<https://cr.yp.to/proto/netstrings.txt>), which cannot be read in two ways. A shared pattern
/// carries a `*` before its length, so that it cannot meet a value of the same text.
fn write_native<'a>(
    key: &mut BytesMut,
    domain: &[u8],
    entries: impl Iterator<Item = (&'a [u8], Value<'a>)>,
    limit: Limit,
) {
    key.put_slice(b"tg1/f");
    write_decimal(key, limit.window().secs() as usize);
    key.put_u8(b'/');
    write_netstring(key, domain);
    for (name, value) in entries {
        write_netstring(key, name);
        match value {
            Value::Own(value) => write_netstring(key, value),
            Value::Shared(pattern) => {
                key.put_u8(b'*');
                write_netstring(key, pattern.as_bytes());
            }
        }
    }
}

/// `shop_user_42_`
fn write_envoyproxy<'a>(
    key: &mut BytesMut,
    domain: &[u8],
    entries: impl Iterator<Item = (&'a [u8], Value<'a>)>,
) {
    key.put_slice(domain);
    key.put_u8(b'_');
    for (name, value) in entries {
        key.put_slice(name);
        key.put_u8(b'_');
        key.put_slice(match value {
            Value::Own(value) => value,
            Value::Shared(pattern) => pattern.as_bytes(),
        });
        key.put_u8(b'_');
    }
}

fn write_netstring(key: &mut BytesMut, text: &[u8]) {
    write_decimal(key, text.len());
    key.put_u8(b':');
    key.put_slice(text);
    key.put_u8(b',');
}

fn write_decimal(key: &mut BytesMut, number: usize) {
    key.put_slice(itoa::Buffer::new().format(number).as_bytes());
}
