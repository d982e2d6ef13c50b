//! Counter keys, read back.

use memchr::memchr;

use super::{KeyWriter, text};

/// Descriptor that a counter key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterParts {
    /// Domain.
    pub domain: Vec<u8>,
    /// Keys and values, as counted: normalized, hashed where the rule hashes, and the pattern in place of a
    /// value where values share a counter. Values longer than [`super::MAX_LITERAL_BYTES`] read as
    /// `sha256:…`.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl KeyWriter {
    /// Parts of `key`, if it is a counter key in the native format. Those of envoyproxy/ratelimit are
    /// ambiguous.
    pub fn parse_counter_key(&self, key: &[u8]) -> Option<CounterParts> {
        let key = key.strip_prefix(self.prefix.as_bytes())?;
        let key = match key {
            [b'{', tagged @ ..] => tagged.get(memchr(b'}', tagged)? + 1..)?,
            key => key,
        };
        let shaped = key.strip_prefix(b"tg1/")?;
        // The name of a time zone may have slashes; the texts begin after the last one before a colon that
        // ends a length.
        let mut texts = texts_of(shaped)?;
        let domain = text::read(&mut texts)?;
        let mut entries = Vec::new();
        while !texts.is_empty() {
            let key = text::read(&mut texts)?;
            // A pattern that values share has a mark before it.
            texts = texts.strip_prefix(b"*").or(texts.strip_prefix(b"~")).unwrap_or(texts);
            entries.push((key, text::read(&mut texts)?));
        }
        Some(CounterParts { domain, entries })
    }
}

/// Texts of a key after its algorithm and window: `f60/`, or `fcd:Europe/Berlin/`.
fn texts_of(shaped: &[u8]) -> Option<&[u8]> {
    let (_, window) = shaped.split_first()?;
    let zone = match window {
        [b'c', _, b':', zone @ ..] => zone,
        seconds => return seconds.get(memchr(b'/', seconds)? + 1..),
    };
    let colon = memchr(b':', zone)?;
    let slash = zone[..colon].iter().rposition(|&byte| byte == b'/')?;
    zone.get(slash + 1..)
}
