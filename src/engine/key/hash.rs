//! Hashes of descriptors.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::engine::Entry;
use crate::engine::rules::Match;

/// Hash of the key that a descriptor counts under. It is the same on every replica and after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorHash(u64);

impl DescriptorHash {
    /// Hash of `entries` in `domain`, which matched the path `matched`.
    pub fn of(domain: &[u8], entries: &[Entry<'_>], matched: &Match<'_, '_>) -> Self {
        let mut hash = Xxh3::new();
        let mut add = |text: &[u8]| {
            hash.update(&text.len().to_le_bytes());
            hash.update(text);
        };
        add(domain);
        for (level, entry) in entries.iter().enumerate() {
            add(entry.key);
            match matched.shared_pattern(level) {
                Some(pattern) => {
                    add(&[pattern.mark()]);
                    add(pattern.text().as_bytes());
                }
                None => add(matched.value(level, entry)),
            }
        }
        Self(hash.digest())
    }

    /// Hash of a text that identifies the descriptor.
    pub(super) fn of_text(text: &[u8]) -> Self {
        Self(xxh3_64(text))
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}
