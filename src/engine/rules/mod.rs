//! Rules: read from YAML, checked, and compiled into an immutable tree that requests are matched
//! against.

mod cidr;
mod compile;
mod diagnostics;
mod document;
mod dump;
mod enforce;
mod error;
mod example;
mod explain;
mod glob;
mod layer;
mod matching;
mod normalize;
pub mod on_deny;
mod parse;
mod pattern;
mod penalty;
mod quota;
mod report;
mod siblings;
mod source;
mod span;
mod text_map;
mod timezone;
mod tree;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Map, Value};
use smallvec::SmallVec;

pub use compile::{CompileOptions, SourceSummary, compile};
pub use diagnostics::{Diagnostic, Diagnostics, MAX_REPORTED};
pub use document::{Documents, RuleSource, SourceNode, SourceValue};
pub use dump::PlacedRule;
pub use enforce::EnforcePercent;
pub use error::{Excerpt, RuleError, RuleErrors};
pub use example::ExampleRequest;
pub use explain::{Candidate, DescriptorWalk, Fit, Level, MAX_CANDIDATES, Walk, WalkEnd, explain};
pub use glob::Glob;
pub use layer::Layer;
pub use normalize::{HashKey, Normalize, NormalizeStep, Text};
pub use on_deny::OnDeny;
pub use parse::RULE_FILE;
pub use pattern::{Cidr, Expression, Expressions, OneOf};
pub use report::located;
pub use span::SourceSpan;
pub use tree::{Domain, Match, Node, Pattern, SharedPattern, Step};
pub use yaml::SourceFile;

use crate::engine::hit_counts::{Counts, StatsPath};
use crate::engine::lockout::LockoutSchedule;
use crate::engine::{ChargeMode, FailurePolicy, Limit};

/// A compiled rule set: immutable, and swapped as a whole.
#[derive(Debug, Default)]
pub struct Rules {
    domains: HashMap<Box<[u8]>, Domain, foldhash::fast::RandomState>,
    /// The counts of every rule whose name is fixed at load, in the order of their paths.
    counts: BTreeMap<StatsPath, Arc<Counts>>,
    /// Every layer, by its domain and its name.
    layers: BTreeMap<(Box<str>, Box<str>), Arc<Layer>>,
    /// How many levels something applies at.
    len: usize,
    /// What holds for limits that callers bring.
    default_charge: ChargeMode,
    default_on_backend_failure: FailurePolicy,
    /// Position of every node, by its order.
    origins: Box<[report::Origin]>,
    /// Sources of the rules, in order.
    pub sources: Vec<SourceSummary>,
    /// Probable mistakes in rules that load.
    pub warnings: RuleErrors,
}

impl Rules {
    /// Source of a node and the position in it.
    pub(crate) fn origin(&self, node: &Node) -> Option<(&str, SourceSpan)> {
        let report::Origin { source, span } = *self.origins.get(node.order as usize)?;
        Some((&*self.sources.get(source)?.name, span))
    }

    /// The rules of one domain.
    pub fn domain(&self, name: &[u8]) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// Every domain, in no order.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.values()
    }

    /// Whether denied hits count towards limits that callers bring.
    pub fn default_charge(&self) -> ChargeMode {
        self.default_charge
    }

    /// What becomes of limits that callers bring when the store fails.
    pub fn default_on_backend_failure(&self) -> FailurePolicy {
        self.default_on_backend_failure
    }

    /// How many rules there are: levels at which something applies.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The counts of every rule whose name is fixed at load, in the order of their paths.
    pub fn counts(&self) -> impl Iterator<Item = (&StatsPath, &Counts)> {
        self.counts.iter().map(|(path, counts)| (path, &**counts))
    }
}

impl Rules {
    /// Every layer with its domain, in the order of their names.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Layer)> {
        self.layers.iter().map(|((domain, _), layer)| (&**domain, &**layer))
    }
}

/// What applies to requests that end at a node of the tree.
#[derive(Debug)]
pub struct Rule {
    /// Its name in full, as written: `domain.key_value.key`.
    pub path: Box<str>,
    /// A digest of the path, the same after every reload. The memory store tells by it which rule its counters
    /// belong to.
    pub id: u32,
    /// How much may pass.
    pub quota: Quota,
    /// Names of rules that do not apply when this one matches in the same request.
    pub replaces: Box<[Box<str>]>,
    /// Whether what is denied counts.
    pub charge: ChargeMode,
    /// What becomes of its descriptors when the store fails.
    pub on_backend_failure: FailurePolicy,
    /// Counted and reported, never enforced.
    pub shadow_mode: bool,
    /// Of the keys that it counts, so many are enforced; the others are counted and reported.
    pub enforce_percent: EnforcePercent,
    /// The side of the request that it protects, which a denial tells.
    pub layer: Option<Arc<Layer>>,
    /// What becomes of those whom it denies too often.
    pub penalty: Option<Penalty>,
    /// What is told to those whom it denies, besides the denial.
    pub on_deny: Option<Arc<OnDeny>>,
    /// Most hits of a single request; a larger one is denied whatever is left. `None` for no bound.
    pub max_hits: Option<u32>,
    /// Whether its limits appear in response headers.
    pub headers: RateLimitHeaders,
    /// Denies only together with every other quota rule of the request.
    pub quota_mode: bool,
    /// Merged into the answer's dynamic metadata when the rule's descriptor passes.
    pub metadata: Option<Map<String, Value>>,
    /// Where hits are counted; `None` where the request's own values are part of the name.
    pub counts: Option<Arc<Counts>>,
}

/// A lockout for those whom a rule denies too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// When to block, and for how long.
    pub schedule: Arc<LockoutSchedule>,
    /// The levels of the rule whose entries say who is locked out, outermost first.
    pub scope: Box<[usize]>,
    /// What it is called in answers.
    pub name: Option<Box<str>>,
    /// Its name, or else its rule's path. Those of one domain with one name and one scope are one lockout.
    pub id: Box<str>,
}

/// Whether the limits of a rule appear in response headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimitHeaders {
    /// Yes, in whatever style the service has.
    #[default]
    All,
    /// No, neither in tollgate's headers nor in those that Envoy makes.
    None,
}

impl RateLimitHeaders {
    /// Value of this name in rules: `all` or `none`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::All, Self::None].into_iter().find(|value| value.name() == name)
    }

    /// Name in rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// How much may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Everything; nothing is counted.
    Unlimited,
    /// As much as all of the limits say; at least one.
    Limited(SmallVec<[NamedLimit; 1]>),
}

/// A limit of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedLimit {
    /// How much may pass.
    pub limit: Limit,
    /// What it is called in answers, and what others replace its rule by; not empty.
    pub name: Option<Box<str>>,
}

impl Rule {
    /// The [`Self::id`] of the rule with this path.
    pub fn id_of(path: &str) -> u32 {
        let [high, low] = [32, 0].map(|shift| xxhash_rust::xxh3::xxh3_64(path.as_bytes()) >> shift);
        u32::try_from((high ^ low) & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Its limits; none where everything passes.
    pub fn limits(&self) -> &[NamedLimit] {
        match &self.quota {
            Quota::Unlimited => &[],
            Quota::Limited(limits) => limits,
        }
    }
}
