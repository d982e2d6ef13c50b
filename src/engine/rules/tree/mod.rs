//! The matcher: an immutable tree with one level for each entry of a descriptor.
//!
//! Lookup borrows from the request. It does not allocate for descriptors of up to four entries, unless a
//! normalized value is long.

mod siblings;

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

pub(super) use self::siblings::{Conflict, Siblings};
use crate::engine::Entry;
use crate::engine::hit_counts::StatsPath;
use crate::engine::per_core::CoreCount;
use crate::engine::rules::glob::Glob;
use crate::engine::rules::normalize::{Normalize, Text};
use crate::engine::rules::pattern::{Cidr, Expression, OneOf};
use crate::engine::rules::text_map::TextMap;
use crate::engine::rules::{Prices, Rule};
use crate::engine::usage::{Count, Usage, Weights};

/// Rules of one domain.
#[derive(Debug)]
pub struct Domain {
    pub(super) name: Box<str>,
    pub(super) hash_tag: bool,
    pub(super) prices: Option<Prices>,
    pub(super) children: Children,
    /// Normalization of keys whose values are hashed, at any level.
    hashed: HashMap<Box<[u8]>, Normalize>,
    /// Descriptors without a rule. Kept over reloads.
    unmatched: Arc<CoreCount>,
}

/// Child nodes. An entry matches in this order: exact value, first glob in the file, longest network, first
/// regular expression, bare key.
#[derive(Debug, Default)]
pub(super) struct Children {
    by_key: TextMap<Siblings>,
    /// Nodes whose *key* contains a star: their pattern matches `key_value`. Rare.
    key_patterns: Option<Box<KeyPatterns>>,
}

#[derive(Debug, Default)]
struct KeyPatterns {
    nodes: Vec<(Glob, Node)>,
    /// Index by pattern, for the compiler.
    by_text: HashMap<Box<str>, usize>,
}

/// Level of the tree: a key, with or without a value.
#[derive(Debug)]
pub struct Node {
    /// The key as written.
    pub key: Box<str>,
    /// Pattern of values.
    pub pattern: Pattern,
    /// Hash of the pattern's text, for names, if values are hashed.
    pub(super) hash: Option<Box<str>>,
    /// True if all values that match the pattern share a counter.
    pub share_threshold: bool,
    /// True if metrics contain the request's value at this level.
    pub value_to_metric: bool,
    /// True if metrics of the rule that ends here contain the request's value at every level.
    pub detailed_metric: bool,
    /// Rule for descriptors that end here. Boxed, so that nodes on the way are small and close together.
    pub rule: Option<Box<Rule>>,
    /// Index among all nodes in the order of the files.
    pub(super) order: u32,
    pub(super) children: Children,
}

/// Values that a node matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every value.
    Any,
    /// One value.
    Exact(Box<str>),
    /// Values that match a glob.
    Glob(Glob),
    /// Values of a list.
    OneOf(Box<OneOf>),
    /// Addresses in these networks.
    Cidr(Box<Cidr>),
    /// Values that match an expression.
    Regex(Box<Expression>),
}

/// Rule that applies to a descriptor, and the path to it.
#[derive(Debug)]
pub struct Match<'r, 'a> {
    /// The rule.
    pub rule: &'r Rule,
    /// Steps, outermost first; one for each entry.
    pub path: SmallVec<[Step<'r, 'a>; 4]>,
}

/// Node that an entry matched.
#[derive(Debug)]
pub struct Step<'r, 'a> {
    /// The node.
    pub node: &'r Node,
    /// Value of the entry, as it is counted and shown.
    pub value: Text<'a>,
}

/// Text of a pattern, in place of the value, in the key of a shared counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedPattern<'r> {
    /// Glob as written, or its hash.
    Glob(&'r str),
    /// Text of any other pattern, unique among the kinds of patterns.
    Other(&'r str),
}

impl<'r> SharedPattern<'r> {
    /// The text itself.
    pub const fn text(self) -> &'r str {
        match self {
            Self::Glob(text) | Self::Other(text) => text,
        }
    }

    /// Mark that distinguishes the text from an equal value and from another kind of pattern.
    pub const fn mark(self) -> u8 {
        match self {
            Self::Glob(_) => b'*',
            Self::Other(_) => b'~',
        }
    }
}

impl Domain {
    /// Domain without rules that keeps the count of unmatched descriptors of `previous`.
    pub(super) fn new(name: &str, previous: Option<&Self>) -> Self {
        let (children, hashed) = (Children::default(), HashMap::new());
        let unmatched = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.unmatched));
        Self { name: name.into(), hash_tag: false, prices: None, children, hashed, unmatched }
    }

    /// Counts descriptors that no rule matched.
    pub fn add_unmatched(&self, descriptors: u32) {
        self.unmatched.add(descriptors.into());
    }

    /// Descriptors that no rule matched, since the domain was first loaded.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.get()
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Amount that a budget counts of `usage`.
    pub fn amount(&self, count: &Count, usage: &Usage) -> u32 {
        match (count, &self.prices) {
            (Count::Tokens(weights), _) => weights.amount(usage),
            (Count::Cost, Some(prices)) => prices.of(&usage.model).amount(usage),
            // Refused when rules are compiled.
            (Count::Cost, None) => Weights::TOKENS.amount(usage),
        }
    }

    /// Prices of language models, if it has any.
    pub fn prices(&self) -> Option<&Prices> {
        self.prices.as_ref()
    }

    /// True if all of its counters have the same hash tag, and so are in one slot of a Redis Cluster.
    pub fn hash_tag(&self) -> bool {
        self.hash_tag
    }

    /// Normalization of `key`, if its values are hashed at any level.
    pub fn hashed(&self, key: &[u8]) -> Option<&Normalize> {
        self.hashed.get(key)
    }

    /// Keys for [`Domain::hashed`] that have rules for some of their values, in alphabetical order.
    pub fn hashed_keys_with_values(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        self.children.add_keys_with_values(&mut keys);
        keys.retain(|key| self.hashed.contains_key(key.as_bytes()));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Collects the keys for [`Domain::hashed`], once all rules are inserted.
    pub(super) fn gather_hashed(&mut self) {
        self.children.add_hashed(&mut self.hashed);
    }

    /// Rule at exactly the depth of the last entry.
    pub fn find<'a>(&self, entries: &[Entry<'a>]) -> Option<Match<'_, 'a>> {
        let mut path = SmallVec::<[Step<'_, 'a>; 4]>::new();
        let mut children = &self.children;
        for entry in entries {
            let step = children.find(*entry)?;
            children = &step.node.children;
            path.push(step);
        }
        let rule = path.last()?.node.rule.as_deref()?;
        Some(Match { rule, path })
    }
}

impl Children {
    fn find<'a>(&self, entry: Entry<'a>) -> Option<Step<'_, 'a>> {
        let Some(siblings) = self.by_key.get(entry.key) else {
            let node = self.find_by_key_pattern(entry.key, entry.value)?;
            return Some(Step { node, value: Text::Borrowed(entry.value) });
        };
        let value = siblings.normalized(entry.value);
        let node = match siblings.exact(&value) {
            Some(exact) => exact,
            None => self.find_by_pattern(siblings, entry.key, &value)?,
        };
        Some(Step { node, value: siblings.counted(value) })
    }

    fn find_by_pattern<'r>(&'r self, siblings: &'r Siblings, key: &[u8], value: &[u8]) -> Option<&'r Node> {
        match (siblings.first_glob(value), self.find_by_key_pattern(key, value)) {
            (Some(of_value), Some(of_key)) => {
                Some(if of_value.order < of_key.order { of_value } else { of_key })
            }
            (Some(node), None) | (None, Some(node)) => Some(node),
            (None, None) => siblings.network_expression_or_bare(value),
        }
    }

    fn find_by_key_pattern(&self, key: &[u8], value: &[u8]) -> Option<&Node> {
        let patterns = self.key_patterns.as_ref()?;
        let mut composite = SmallVec::<[u8; 256]>::from_slice(key);
        composite.push(b'_');
        composite.extend_from_slice(value);
        patterns.nodes.iter().find(|(glob, _)| glob.matches(&composite)).map(|(_, node)| node)
    }

    /// Inserts `node`.
    ///
    /// # Errors
    /// Another node matches the same values.
    pub(super) fn insert(&mut self, node: Node) -> Result<(), Conflict> {
        if !node.key.contains('*') {
            return self.of_key(&node.key).insert(node);
        }
        let glob = Glob::new(&node.composite());
        let KeyPatterns { nodes, by_text } = &mut **self.key_patterns.get_or_insert_default();
        if let Some((_, known)) = by_text.get(glob.text()).and_then(|index| nodes.get(*index)) {
            return Err(Conflict::Node(known.order));
        }
        by_text.insert(glob.text().into(), nodes.len());
        nodes.push((glob, node));
        Ok(())
    }

    /// Normalization of the values of `key`.
    pub(super) fn normalize(&self, key: &str) -> Option<&Normalize> {
        self.by_key.get(key.as_bytes())?.normalize()
    }

    fn add_hashed(&self, hashed: &mut HashMap<Box<[u8]>, Normalize>) {
        for node in self.nodes() {
            let normalize = self.normalize(&node.key).filter(|normalize| normalize.hashes());
            if let Some(normalize) = normalize
                && !hashed.contains_key(node.key.as_bytes())
            {
                hashed.insert(node.key.as_bytes().into(), normalize.clone());
            }
            node.children.add_hashed(hashed);
        }
    }

    fn add_keys_with_values<'r>(&'r self, keys: &mut Vec<&'r str>) {
        for node in self.nodes() {
            if !matches!(node.pattern, Pattern::Any) {
                keys.push(&node.key);
            }
            node.children.add_keys_with_values(keys);
        }
    }

    pub(super) fn of_key(&mut self, key: &str) -> &mut Siblings {
        self.by_key.entry(key.as_bytes())
    }

    /// The nodes of each key that is no pattern, in no order.
    pub(super) fn siblings(&self) -> impl Iterator<Item = &Siblings> {
        self.by_key.values()
    }

    /// Nodes for `key`, and those whose key is a pattern.
    pub(super) fn candidates(&self, key: &[u8]) -> (Option<&Siblings>, &[(Glob, Node)]) {
        let patterns = self.key_patterns.as_ref().map_or(&[][..], |patterns| &patterns.nodes);
        (self.by_key.get(key), patterns)
    }

    /// The nodes, in no order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let of_keys = self.by_key.values().flat_map(Siblings::nodes);
        let of_patterns = self.key_patterns.iter().flat_map(|patterns| &patterns.nodes);
        of_keys.chain(of_patterns.map(|(_, node)| node))
    }
}

impl Node {
    /// `key` or `key_value`, as written or with the hash of the value: name of the node in errors, dumps and
    /// metrics.
    pub fn composite(&self) -> Cow<'_, str> {
        match self.text() {
            None => Cow::Borrowed(&self.key),
            Some(text) => Cow::Owned(format!("{}_{text}", self.key)),
        }
    }

    /// Pattern of the shared counter.
    fn shared_pattern(&self) -> Option<SharedPattern<'_>> {
        let text = self.text().filter(|_| self.share_threshold)?;
        match &self.pattern {
            Pattern::Any | Pattern::Exact(_) => None,
            Pattern::Glob(_) => Some(SharedPattern::Glob(text)),
            Pattern::OneOf(_) | Pattern::Cidr(_) | Pattern::Regex(_) => Some(SharedPattern::Other(text)),
        }
    }

    /// Pattern in names.
    fn text(&self) -> Option<&str> {
        self.hash.as_deref().or_else(|| self.pattern.text())
    }
}

impl Pattern {
    /// Text on one line; `None` for any value.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Any => None,
            Self::Exact(value) => Some(value),
            Self::Glob(glob) => Some(glob.text()),
            Self::OneOf(one_of) => Some(one_of.text()),
            Self::Cidr(cidr) => Some(cidr.text()),
            Self::Regex(expression) => Some(expression.text()),
        }
    }
}

impl Match<'_, '_> {
    /// Pattern of the shared counter at `level`.
    pub fn shared_pattern(&self, level: usize) -> Option<SharedPattern<'_>> {
        self.path.get(level)?.node.shared_pattern()
    }

    /// Value of `entry`, which is at `level`, as it is counted and shown.
    pub fn value<'m>(&'m self, level: usize, entry: &'m Entry<'_>) -> &'m [u8] {
        self.path.get(level).map_or(entry.value, |step| &step.value)
    }

    /// Name in metrics of a rule with values of the request: at every level if the last node has
    /// `detailed_metric`, else at levels with `value_to_metric`. Shared patterns stay patterns. `entries` are
    /// the matched ones.
    pub fn stats_path(&self, domain: &str, entries: &[Entry<'_>]) -> StatsPath {
        let detailed = self.path.last().is_some_and(|leaf| leaf.node.detailed_metric);
        let part = |(step, entry): (&Step<'_, '_>, &Entry<'_>)| {
            let Step { node, value } = step;
            let as_asked = (detailed || node.value_to_metric) && node.shared_pattern().is_none();
            if as_asked {
                StatsPath::value_part(&Entry { key: entry.key, value })
            } else {
                node.composite().into()
            }
        };
        StatsPath { domain: domain.into(), parts: self.path.iter().zip(entries).map(part).collect() }
    }
}
