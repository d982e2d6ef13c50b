//! Explanation of a match: the walk of a request through the rules, level by level, with every candidate and the
//! reason that it applies or not.
//!
//! It tries each candidate by itself, where the matcher looks up: a property test holds both to the same rule. A
//! decision pays nothing for it.

use std::cmp::Reverse;

use super::cidr;
use super::glob::Glob;
use super::normalize::Text;
use super::tree::{Children, Domain, Node, Pattern, Siblings};
use super::{Rule, Rules, SourceSpan};
use crate::engine::{Descriptor, Entry, Request};

/// Upper bound on the candidates of a level that are listed.
pub const MAX_CANDIDATES: usize = 50;

/// The walk of a request through the rules.
#[derive(Debug)]
pub struct Walk<'r> {
    /// Domain of the request; `None` if the rules do not know it.
    pub domain: Option<&'r Domain>,
    /// One for each descriptor, in order.
    pub descriptors: Vec<DescriptorWalk<'r>>,
}

/// The walk of one descriptor.
#[derive(Debug)]
pub struct DescriptorWalk<'r> {
    /// One for each entry, up to the first without a matching rule.
    pub levels: Vec<Level<'r>>,
    /// End of the walk.
    pub end: WalkEnd<'r>,
}

/// One level of a walk: an entry, and the nodes that it was compared with.
#[derive(Debug)]
pub struct Level<'r> {
    /// Key of the entry.
    pub key: Box<[u8]>,
    /// Value of the entry.
    pub value: Box<[u8]>,
    /// The value that is matched.
    pub normalized: Box<[u8]>,
    /// The value that is counted and shown.
    pub counted: Box<[u8]>,
    /// Nodes for the key, the one that applies first, then in the order of precedence; at most
    /// [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate<'r>>,
    /// Number of candidates that are not listed.
    pub omitted: usize,
}

/// A node that an entry was compared with.
#[derive(Debug)]
pub struct Candidate<'r> {
    /// The node.
    pub node: &'r Node,
    /// Source of the node.
    pub source: &'r str,
    /// Position of the node in its source.
    pub span: SourceSpan,
    /// The position as a path, in a source that is not text.
    pub path: Option<String>,
    /// Result for the entry.
    pub fit: Fit,
}

/// Result of holding an entry against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The node applies.
    Applies,
    /// The node matches the value, but another node has precedence.
    Outranked {
        /// Reason of the precedence.
        by: &'static str,
    },
    /// The node does not take the value.
    Differs {
        /// Reason.
        why: &'static str,
    },
}

/// End of a walk.
#[derive(Clone, Copy, Debug)]
pub enum WalkEnd<'r> {
    /// A rule applies.
    Rule(&'r Rule),
    /// The last entry ends at a level without a limit of its own.
    NoLimit,
    /// No candidate of the last level takes its entry.
    NoCandidate,
    /// The descriptor has no entries.
    NoEntries,
    /// The rules do not know the domain.
    NoDomain,
    /// The request brings its own limit, which takes the place of the rules.
    Override,
}

/// Walks `request` through `rules`.
pub fn explain<'r>(rules: &'r Rules, request: &Request<'_>) -> Walk<'r> {
    let domain = rules.domain(request.domain);
    let walk = |descriptor: &Descriptor<'_>| match domain {
        _ if descriptor.limit_override.is_some() => {
            DescriptorWalk { levels: Vec::new(), end: WalkEnd::Override }
        }
        None => DescriptorWalk { levels: Vec::new(), end: WalkEnd::NoDomain },
        Some(domain) => walk(rules, domain, &descriptor.entries),
    };
    Walk { domain, descriptors: request.descriptors.iter().map(walk).collect() }
}

fn walk<'r>(rules: &'r Rules, domain: &'r Domain, entries: &[Entry<'_>]) -> DescriptorWalk<'r> {
    let mut levels = Vec::with_capacity(entries.len());
    let mut children = &domain.children;
    let mut node = None;
    for entry in entries {
        let level = level(rules, children, *entry);
        let applies = level.candidates.first().filter(|candidate| candidate.fit == Fit::Applies);
        node = applies.map(|candidate| candidate.node);
        levels.push(level);
        let Some(node) = node else {
            return DescriptorWalk { levels, end: WalkEnd::NoCandidate };
        };
        children = &node.children;
    }
    let end = match node {
        None => WalkEnd::NoEntries,
        Some(node) => node.rule.as_deref().map_or(WalkEnd::NoLimit, WalkEnd::Rule),
    };
    DescriptorWalk { levels, end }
}

/// Precedence of a node that matches the value: the least one applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Exact,
    Listed,
    /// By the order of the file.
    Glob(u32),
    /// By the length of the network.
    Network(Reverse<u8>),
    /// By the order of the file.
    Expression(u32),
    Bare,
}

impl Rank {
    /// Reason that a node of this rank goes before `other`.
    const fn goes_before(self, other: Self) -> &'static str {
        match (self, other) {
            (Self::Exact, _) => "a rule for exactly this value has precedence",
            (Self::Listed, _) => "a one_of that lists the value has precedence",
            (Self::Glob(_), Self::Glob(_)) => "an earlier pattern matches the value too",
            (Self::Glob(_), _) => "a pattern with '*' has precedence",
            (Self::Network(_), Self::Network(_)) => "a longer network contains the address",
            (Self::Network(_), _) => "a network that contains the address has precedence",
            (Self::Expression(_), Self::Expression(_)) => "an earlier regex matches the value too",
            (Self::Expression(_) | Self::Bare, _) => "a regex that matches the value has precedence",
        }
    }
}

fn level<'r>(rules: &'r Rules, children: &'r Children, entry: Entry<'_>) -> Level<'r> {
    let (siblings, key_patterns) = children.candidates(entry.key);
    let normalized =
        siblings.map_or(Text::Borrowed(entry.value), |siblings| siblings.normalized(entry.value));
    let mut found: Vec<(Result<Rank, &'static str>, &Node)> = Vec::new();
    found.extend(
        siblings.iter().flat_map(|siblings| siblings.nodes()).map(|node| (rank(node, &normalized), node)),
    );
    let composite = [entry.key, b"_", &*normalized].concat();
    found.extend(key_patterns.iter().map(|(glob, node)| (rank_of_key_pattern(glob, node, &composite), node)));
    // Those that take the value first.
    found.sort_by_key(|(rank, node)| (rank.is_err(), rank.ok(), node.order));
    let winner = found.first().and_then(|(rank, _)| rank.ok());
    let candidate = |(index, (rank, node)): (usize, (Result<Rank, &'static str>, &'r Node))| {
        let fit = match (rank, winner) {
            (Ok(_), _) if index == 0 => Fit::Applies,
            (Ok(rank), winner) => Fit::Outranked { by: winner.map_or("", |winner| winner.goes_before(rank)) },
            (Err(why), _) => Fit::Differs { why },
        };
        let (source, span) = rules.origin(node).unwrap_or_default();
        Candidate { node, source, span, path: rules.path_of(node), fit }
    };
    let omitted = found.len().saturating_sub(MAX_CANDIDATES);
    let counted = counted(siblings, normalized.clone());
    Level {
        key: entry.key.into(),
        value: entry.value.into(),
        normalized: (&*normalized).into(),
        counted: (&*counted).into(),
        candidates: found.into_iter().take(MAX_CANDIDATES).enumerate().map(candidate).collect(),
        omitted,
    }
}

fn counted<'a>(siblings: Option<&Siblings>, normalized: Text<'a>) -> Text<'a> {
    match siblings {
        Some(siblings) => siblings.counted(normalized),
        None => normalized,
    }
}

/// Rank of `node` for a normalized value.
///
/// # Errors
/// Reason that the node does not take it.
fn rank(node: &Node, value: &[u8]) -> Result<Rank, &'static str> {
    match &node.pattern {
        Pattern::Any => Ok(Rank::Bare),
        Pattern::Exact(exact) if exact.as_bytes() == value => Ok(Rank::Exact),
        Pattern::Exact(_) => Err("the value is another one"),
        Pattern::OneOf(one_of) if one_of.values.iter().any(|listed| listed.as_bytes() == value) => {
            Ok(Rank::Listed)
        }
        Pattern::OneOf(_) => Err("the list does not have the value"),
        Pattern::Glob(glob) if glob.matches(value) => Ok(Rank::Glob(node.order)),
        Pattern::Glob(_) => Err("the value does not match the pattern"),
        Pattern::Cidr(networks) => {
            let holding = networks.networks.iter().filter(|network| cidr::matches(network, value));
            let longest = holding.map(ipnet::IpNet::prefix_len).max();
            longest.map(|longest| Rank::Network(Reverse(longest))).ok_or(match cidr::is_address(value) {
                true => "no network contains the address",
                false => "the value is no IP address",
            })
        }
        Pattern::Regex(expression) if expression.matches(value) => Ok(Rank::Expression(node.order)),
        Pattern::Regex(_) => Err("the whole value does not match the regex"),
    }
}

/// Rank of a node whose key has a star, for `key_value`.
fn rank_of_key_pattern(glob: &Glob, node: &Node, composite: &[u8]) -> Result<Rank, &'static str> {
    if glob.matches(composite) {
        Ok(Rank::Glob(node.order))
    } else {
        Err("key and value together do not match the pattern")
    }
}
