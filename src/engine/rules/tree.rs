//! The matcher: an immutable tree, one level of it for each entry of a descriptor.
//!
//! Lookup borrows from the request and allocates nothing for descriptors of up to eight entries.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Rule;
use crate::engine::Entry;
use crate::engine::tally::StatsPath;

type Map<V> = HashMap<Box<[u8]>, V, foldhash::fast::RandomState>;

/// The rules of one domain.
#[derive(Debug)]
pub struct Domain {
    pub(super) name: Box<str>,
    pub(super) children: Children,
}

/// The nodes below a node, found by an entry in this order: its exact value, the first pattern in
/// the file that matches, the bare key.
#[derive(Debug, Default)]
pub struct Children {
    pub(super) by_key: Map<KeyChildren>,
    /// Nodes whose *key* holds a `*`: their pattern is matched against `key_value`.
    pub(super) key_patterns: Vec<Glob>,
}

/// The nodes for one key.
#[derive(Debug, Default)]
pub(super) struct KeyChildren {
    pub(super) exact: Map<Node>,
    pub(super) value_patterns: Vec<Glob>,
    pub(super) bare: Option<Box<Node>>,
}

/// A pattern and the node it leads to.
#[derive(Debug)]
pub(super) struct Glob {
    /// Where in the file it stands among the patterns of its level.
    pub(super) order: u32,
    /// The text between the `*`s, at least two pieces.
    pub(super) pieces: Box<[Box<[u8]>]>,
    pub(super) node: Node,
}

/// A level of a rule: a key, with or without a value.
#[derive(Debug)]
pub struct Node {
    /// The key as written.
    pub key: Box<str>,
    /// Which values it takes.
    pub pattern: Pattern,
    /// Every value that matches the pattern counts as one.
    pub share_threshold: bool,
    /// The level appears in metrics with the request's value.
    pub value_to_metric: bool,
    /// Every level above and including this one appears in metrics with the request's values.
    pub detailed_metric: bool,
    /// What applies to requests that end here.
    pub rule: Option<Rule>,
    pub(super) children: Children,
}

/// Which values a node takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every value.
    Any,
    /// This one.
    Exact(Box<str>),
    /// Those that the text matches, each `*` in it standing for any bytes or none.
    Glob(Box<str>),
}

/// The rule that applies to a descriptor, and the levels that led to it, one for each entry.
#[derive(Debug)]
pub struct Match<'r> {
    /// The rule.
    pub rule: &'r Rule,
    /// The nodes, outermost first.
    pub path: SmallVec<[&'r Node; 8]>,
}

impl Domain {
    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rule at exactly the depth of the last entry, if there is one there.
    pub fn find(&self, entries: &[Entry<'_>]) -> Option<Match<'_>> {
        let mut path = SmallVec::<[&Node; 8]>::new();
        let mut children = &self.children;
        for entry in entries {
            let node = children.find(entry)?;
            path.push(node);
            children = &node.children;
        }
        let rule = path.last()?.rule.as_ref()?;
        Some(Match { rule, path })
    }
}

impl Children {
    fn find(&self, entry: &Entry<'_>) -> Option<&Node> {
        let of_key = self.by_key.get(entry.key);
        if let Some(exact) = of_key.and_then(|key| key.exact.get(entry.value)) {
            return Some(exact);
        }
        let by_value =
            of_key.and_then(|key| key.value_patterns.iter().find(|glob| glob.takes(&[entry.value])));
        let by_key = self.key_patterns.iter().find(|glob| glob.takes(&[entry.key, b"_", entry.value]));
        match (by_value, by_key) {
            (Some(value), Some(key)) => Some(if value.order < key.order { &value.node } else { &key.node }),
            (Some(glob), None) | (None, Some(glob)) => Some(&glob.node),
            (None, None) => of_key.and_then(|key| key.bare.as_deref()),
        }
    }
}

impl Match<'_> {
    /// The pattern that the entry at `level` counts under in place of its own value.
    pub fn shared_pattern(&self, level: usize) -> Option<&str> {
        match self.path.get(level)? {
            Node { share_threshold: true, pattern: Pattern::Glob(pattern), .. } => Some(pattern),
            _ => None,
        }
    }

    /// The name in metrics, for a rule that wants the request's values in it.
    pub fn stats_path(&self, _domain: &str, _entries: &[Entry<'_>]) -> StatsPath {
        unimplemented!()
    }
}

impl Glob {
    fn takes(&self, _text: &[&[u8]]) -> bool {
        unimplemented!()
    }
}
