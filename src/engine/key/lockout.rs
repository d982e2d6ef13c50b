//! Keys of lockouts: `tgp1/4:shop,5:login,4:user,2:42,`. A version, then [texts](super::text): the domain,
//! the name of the penalty, and the entries that identify the client.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;

use super::{DescriptorHash, KeyDomain, KeyWriter, text};
use crate::engine::Entry;
use crate::engine::rules::{Match, Penalty};

/// Start of lockout keys, after the key prefix and the hash tag.
pub const LOCKOUT_PREFIX: &[u8] = b"tgp1/";

/// Start of lockout keys that are not enforced.
const SHADOW_LOCKOUT_PREFIX: &[u8] = b"tgps1/";

/// Name of a lockout: its key without prefix and hash tag.
#[derive(Clone, Debug)]
pub struct LockoutName(BytesMut);

/// Parts of a lockout's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockoutParts {
    /// The domain.
    pub domain: Vec<u8>,
    /// Name of the penalty, or the path of its rule.
    pub name: Vec<u8>,
    /// Keys and values that identify the client.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl LockoutName {
    /// Name of the lockout of the client that sent `entries`, which matched the path `matched`. Without
    /// enforcement the name is different, so that the lockout blocks no client of other rules that share it.
    pub fn of(
        domain: &str,
        entries: &[Entry<'_>],
        matched: &Match<'_, '_>,
        penalty: &Penalty,
        enforced: bool,
    ) -> Self {
        let mut name = BytesMut::new();
        name.put_slice(if enforced { LOCKOUT_PREFIX } else { SHADOW_LOCKOUT_PREFIX });
        text::write(&mut name, domain.as_bytes());
        text::write(&mut name, penalty.id.as_bytes());
        for level in &*penalty.scope {
            let Some(entry) = entries.get(*level) else { continue };
            text::write(&mut name, entry.key);
            match matched.shared_pattern(*level) {
                Some(pattern) => {
                    name.put_u8(pattern.mark());
                    text::write(&mut name, pattern.text().as_bytes());
                }
                None => text::write(&mut name, matched.value(*level, entry)),
            }
        }
        Self(name)
    }

    /// Hash of the name: the same on every replica and after a restart.
    pub fn hash(&self) -> DescriptorHash {
        DescriptorHash::of_text(&self.0)
    }
}

impl KeyWriter {
    /// The key of a lockout.
    pub fn lockout_key(&self, domain: KeyDomain<'_>, name: &LockoutName) -> Bytes {
        let mut key = BytesMut::with_capacity(self.prefix.len() + 2 * domain.name.len() + name.0.len() + 24);
        key.put_slice(self.prefix.as_bytes());
        domain.write_hash_tag(&mut key);
        key.put_slice(&name.0);
        key.freeze()
    }

    /// Prefix of all keys.
    pub fn prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    /// Parts of `key`, if it is that of a lockout.
    pub fn parse_lockout_key(&self, key: &[u8]) -> Option<LockoutParts> {
        let key = key.strip_prefix(self.prefix.as_bytes())?;
        let key = match key {
            [b'{', tagged @ ..] => tagged.get(memchr(b'}', tagged)? + 1..)?,
            key => key,
        };
        let mut texts = key.strip_prefix(LOCKOUT_PREFIX)?;
        let (domain, name) = (text::read(&mut texts)?, text::read(&mut texts)?);
        let mut entries = Vec::new();
        while !texts.is_empty() {
            let key = text::read(&mut texts)?;
            // A pattern that values share has a mark before it.
            texts = texts.strip_prefix(b"*").or(texts.strip_prefix(b"~")).unwrap_or(texts);
            entries.push((key, text::read(&mut texts)?));
        }
        Some(LockoutParts { domain, name, entries })
    }
}
