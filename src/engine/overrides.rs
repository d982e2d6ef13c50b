//! Overrides: limits, blocks, exemptions and shadow modes that an operator set for a descriptor or a rule until a given
//! time. They take precedence over the rules.
//!
//! An override names the values of a descriptor as they are counted: normalized, and hashed where the rule hashes. It
//! applies whatever rule matches, and takes precedence over limits in requests and over `replaces`.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::rules::{Match, Rule};
use super::{Entry, Limit, Timestamp};

/// Name of the limit in answers if an override limits or blocks the descriptor.
pub const NAME: &str = "override";

/// Effect of an override on its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The descriptor is over its limit, whatever it has used.
    Block,
    /// No limit applies to the descriptor, and no lockout.
    Exempt,
    /// This limit applies, and no other.
    Limit(Limit),
}

/// Kind of an override, for answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideKind {
    /// [`Effect::Block`]
    Block,
    /// [`Effect::Exempt`]
    Exempt,
    /// [`Effect::Limit`]
    Limit,
}

/// Key and value of an entry, as counted: normalized, and hashed where the rule hashes.
pub type CountedEntry = (Box<[u8]>, Box<[u8]>);

/// Override of one descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Keys and values, as counted.
    pub entries: Box<[CountedEntry]>,
    /// Effect.
    pub effect: Effect,
    /// Time at which the override ends.
    pub ends_at: Timestamp,
}

/// Overrides in force: immutable, and swapped as a whole.
#[derive(Debug, Default)]
pub struct Overrides {
    hasher: RandomState,
    domains: HashMap<Box<[u8]>, HashTable<Override>, foldhash::fast::RandomState>,
    /// Ends of shadow modes, by [`Rule::path`].
    shadows: HashMap<Box<str>, Timestamp, RandomState>,
}

/// Overrides as of a time.
#[derive(Clone, Copy, Debug)]
pub struct OverridesAt<'o> {
    set: &'o Overrides,
    now: Timestamp,
}

/// Overrides of one domain as of a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct DomainOverrides<'o> {
    at: OverridesAt<'o>,
    descriptors: &'o HashTable<Override>,
}

impl Effect {
    /// Kind of the effect.
    pub const fn kind(self) -> OverrideKind {
        match self {
            Self::Block => OverrideKind::Block,
            Self::Exempt => OverrideKind::Exempt,
            Self::Limit(_) => OverrideKind::Limit,
        }
    }
}

impl OverrideKind {
    /// Name in metrics, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Exempt => "exempt",
            Self::Limit => "limit",
        }
    }
}

impl Overrides {
    /// Adds an override for a descriptor of `domain`. It replaces one for the same descriptor.
    pub fn insert(&mut self, domain: &[u8], added: Override) {
        let hasher = &self.hasher;
        let hash_of =
            |known: &Override| hash(hasher, known.entries.iter().map(|(key, value)| (&**key, &**value)));
        let table = self.domains.entry(domain.into()).or_default();
        let hash = hash_of(&added);
        match table.find_mut(hash, |known| known.entries == added.entries) {
            Some(known) => *known = added,
            None => drop(table.insert_unique(hash, added, hash_of)),
        }
    }

    /// Puts the rule with this path into shadow mode until `ends_at`.
    pub fn shadow(&mut self, path: &str, ends_at: Timestamp) {
        self.shadows.insert(path.into(), ends_at);
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.shadows.is_empty()
    }

    /// The overrides that have not ended at `now`.
    pub const fn at(&self, now: Timestamp) -> OverridesAt<'_> {
        OverridesAt { set: self, now }
    }
}

impl<'o> OverridesAt<'o> {
    /// The overrides of one domain; `None` if it has none.
    pub(super) fn domain(self, name: &[u8]) -> Option<DomainOverrides<'o>> {
        self.set.domains.get(name).map(|descriptors| DomainOverrides { at: self, descriptors })
    }

    /// True if an operator has put `rule` into shadow mode.
    pub fn shadows(self, rule: &Rule) -> bool {
        self.shadow_ends_in(rule).is_some()
    }

    /// Time until the end of the shadow mode into which an operator has put `rule`; `None` if none has.
    pub fn shadow_ends_in(self, rule: &Rule) -> Option<Duration> {
        if self.set.shadows.is_empty() {
            return None;
        }
        let ends_at = self.set.shadows.get(&*rule.path)?;
        (self.now < *ends_at).then(|| ends_at.since(self.now))
    }
}

impl Override {
    /// Its descriptor.
    pub(super) fn as_entries(&self) -> SmallVec<[Entry<'_>; 4]> {
        self.entries.iter().map(|(key, value)| Entry { key, value }).collect()
    }
}

impl<'o> DomainOverrides<'o> {
    /// Time until `ends_at`.
    pub(super) const fn ends_in(self, ends_at: Timestamp) -> Duration {
        ends_at.since(self.at.now)
    }

    /// The override for `entries`, which matched the path `matched` if a rule applies to them.
    pub(super) fn find(self, entries: &[Entry<'_>], matched: Option<&Match<'_, '_>>) -> Option<&'o Override> {
        let counted =
            || entries.iter().enumerate().map(|(level, entry)| (entry.key, counted(level, entry, matched)));
        let hash = hash(&self.at.set.hasher, counted());
        let is_same = |known: &Override| {
            known.entries.len() == entries.len()
                && known
                    .entries
                    .iter()
                    .zip(counted())
                    .all(|((key, value), found)| (&**key, &**value) == found)
        };
        self.descriptors.find(hash, is_same).filter(|found| self.at.now < found.ends_at)
    }
}

/// Value of an entry as it is counted.
fn counted<'m>(level: usize, entry: &'m Entry<'_>, matched: Option<&'m Match<'_, '_>>) -> &'m [u8] {
    matched.map_or(entry.value, |matched| matched.value(level, entry))
}

/// Keys and values of a descriptor as overrides name them.
pub fn counted_entries(entries: &[Entry<'_>], matched: Option<&Match<'_, '_>>) -> Box<[CountedEntry]> {
    let entry =
        |(level, entry): (usize, &Entry<'_>)| (entry.key.into(), counted(level, entry, matched).into());
    entries.iter().enumerate().map(entry).collect()
}

fn hash<'e>(hasher: &RandomState, entries: impl Iterator<Item = (&'e [u8], &'e [u8])>) -> u64 {
    let mut state = hasher.build_hasher();
    entries.for_each(|entry| entry.hash(&mut state));
    state.finish()
}
