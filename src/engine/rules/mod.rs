//! Rules: parsed from YAML, checked, and compiled into an immutable tree that requests are matched against.

mod cidr;
mod compile;
mod concurrency;
mod diagnostics;
mod document;
mod dump;
mod enforce;
mod error;
mod example;
mod explain;
mod glob;
mod layer;
mod lease;
mod matching;
mod normalize;
pub mod on_deny;
mod parse;
mod pattern;
mod penalty;
mod prices;
mod quota;
mod report;
mod reserve;
mod short_limit;
mod source;
mod span;
mod text_map;
mod timezone;
mod tree;
mod unreachable;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Map, Value};
use smallvec::SmallVec;

pub use compile::{CompileOptions, SourceSummary, compile};
pub use concurrency::MAX_TTL_SECS as MAX_PLACE_TTL_SECS;
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
pub use prices::Prices;
pub use quota::parse_window;
pub use report::located;
pub use short_limit::{limit_of, parse_limit};
pub use span::{NodePaths, SourceSpan};
pub use tree::{Domain, Match, Node, Pattern, SharedPattern, Step};
pub use yaml::SourceFile;

use crate::engine::estimate::Estimate;
use crate::engine::hit_counts::{Counts, StatsPath};
use crate::engine::hold_counts::HoldCounts;
use crate::engine::lockout::LockoutSchedule;
use crate::engine::usage::Count;
use crate::engine::{ChargeMode, FailurePolicy, LeaseTerms, Limit, Reserve};

/// Estimates of amounts by rule, each with what its amounts count.
type Estimates = BTreeMap<StatsPath, (Count, Arc<Estimate>)>;

/// Compiled rule set: immutable, and swapped as a whole.
#[derive(Debug, Default)]
pub struct Rules {
    domains: HashMap<Box<[u8]>, Domain, foldhash::fast::RandomState>,
    /// Counts of every rule whose name is fixed at load, ordered by path.
    counts: BTreeMap<StatsPath, Arc<Counts>>,
    /// Layers by domain and name.
    layers: BTreeMap<(Box<str>, Box<str>), Arc<Layer>>,
    /// Estimates of budgets with `amount: auto`.
    estimates: Estimates,
    /// Rules with a leased limit by their ids: domain and path.
    leased: BTreeMap<u32, (Box<str>, Box<str>)>,
    /// Rules with budgets or places by their ids.
    holding: BTreeMap<u32, HoldingRule>,
    /// Number of rules.
    len: usize,
    /// Defaults for limits in requests.
    default_charge: ChargeMode,
    default_on_backend_failure: FailurePolicy,
    /// Position of every node, by its order.
    origins: Box<[report::Origin]>,
    /// Paths of sources that are not text, by the index of the source.
    paths: Vec<Option<NodePaths>>,
    /// True until each provider has delivered its first rules: the domains of the others are not known yet.
    pub is_partial: bool,
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

    /// Path of a node in its source; `None` if that is a text.
    fn path_of(&self, node: &Node) -> Option<String> {
        let report::Origin { source, span } = *self.origins.get(node.order as usize)?;
        Some(self.paths.get(source)?.as_ref()?.path(span))
    }

    /// The rules of one domain.
    pub fn domain(&self, name: &[u8]) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// Every domain, in no order.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.values()
    }

    /// Charge mode of limits in requests.
    pub fn default_charge(&self) -> ChargeMode {
        self.default_charge
    }

    /// Failure policy of limits in requests.
    pub fn default_on_backend_failure(&self) -> FailurePolicy {
        self.default_on_backend_failure
    }

    /// Number of rules: levels at which a limit, or `unlimited`, applies.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Counts of every rule whose name is fixed at load, ordered by path.
    pub fn counts(&self) -> impl Iterator<Item = (&StatsPath, &Counts)> {
        self.counts.iter().map(|(path, counts)| (path, &**counts))
    }
}

impl Rules {
    /// Ids of rules with a leased limit, each with its domain and its path.
    pub fn leased(&self) -> impl Iterator<Item = (u32, &str, &str)> {
        self.leased.iter().map(|(id, (domain, path))| (*id, &**domain, &**path))
    }

    /// Rules with budgets or places: domain, path and counts.
    pub fn holding(&self) -> impl Iterator<Item = (&str, &str, &HoldCounts)> {
        self.holding.values().map(|HoldingRule { domain, path, counts }| (&**domain, &**path, &**counts))
    }

    /// Counts of the rule with this [`Rule::id`], if it has budgets or places.
    pub fn holds_of(&self, id: u32) -> Option<&HoldCounts> {
        self.holding.get(&id).map(|rule| &*rule.counts)
    }

    /// Layers with their domains, ordered by name.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Layer)> {
        self.layers.iter().map(|((domain, _), layer)| (&**domain, &**layer))
    }
}

/// Rule for descriptors that end at a node of the tree.
#[derive(Debug)]
pub struct Rule {
    /// Full name: `domain.key_value.key`.
    pub path: Box<str>,
    /// Digest of the path, the same after every reload. The memory store uses it to find the counters of a
    /// rule.
    pub id: u32,
    /// Limits.
    pub quota: Quota,
    /// Names of limits whose rules do not apply if this one matches in the same request.
    pub replaces: Box<[Box<str>]>,
    /// True if denied hits count.
    pub charge: ChargeMode,
    /// Result of its descriptors if the store fails.
    pub on_backend_failure: FailurePolicy,
    /// True if it is counted and reported, but not enforced.
    pub shadow_mode: bool,
    /// Share of its keys that is enforced; the others are counted and reported.
    pub enforce_percent: EnforcePercent,
    /// Layer that a denial reports.
    pub layer: Option<Arc<Layer>>,
    /// Lockout of clients that it denies too often.
    pub penalty: Option<Penalty>,
    /// Holds of its limits.
    pub reserve: Option<Reserve>,
    /// Response body and headers for denied requests.
    pub on_deny: Option<Arc<OnDeny>>,
    /// Upper bound on the hits of one request; `None` for no bound.
    pub max_hits: Option<u32>,
    /// True if its limits appear in response headers.
    pub headers: RateLimitHeaders,
    /// True if it denies only together with all other quotas of the request.
    pub quota_mode: bool,
    /// Dynamic metadata of the answer if the descriptor passes.
    pub metadata: Option<Map<String, Value>>,
    /// Counts for metrics; `None` if their name contains values of the request.
    pub counts: Option<Arc<Counts>>,
    /// Counts of its holds and places, if it has any.
    pub holds: Option<Arc<HoldCounts>>,
}

/// Rule with budgets or places.
#[derive(Debug)]
struct HoldingRule {
    domain: Box<str>,
    path: Box<str>,
    counts: Arc<HoldCounts>,
}

/// Lockout of clients that a rule denies too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// Schedule of blocks.
    pub schedule: Arc<LockoutSchedule>,
    /// Levels whose entries identify the client, outermost first.
    pub scope: Box<[usize]>,
    /// Name in answers.
    pub name: Option<Box<str>>,
    /// Name, or else the path of the rule. Penalties of a domain with the same id and scope share their
    /// lockouts.
    pub id: Box<str>,
}

/// True if the limits of a rule appear in response headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimitHeaders {
    /// They appear, in the style of the service.
    #[default]
    All,
    /// They appear neither in tollgate's headers nor in Envoy's.
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

/// Limits of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quota {
    /// No limit; nothing is counted.
    Unlimited,
    /// Limits, at least one; a descriptor passes if it is within all of them.
    Limited(SmallVec<[NamedLimit; 1]>),
}

/// Limit of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedLimit {
    /// Limit.
    pub limit: Limit,
    /// Name in answers and in `replaces`; not empty.
    pub name: Option<Box<str>>,
    /// Terms of leases, if it is leased.
    pub lease: Option<LeaseTerms>,
}

impl Rule {
    /// The [`Self::id`] of the rule with this path.
    pub fn id_of(path: &str) -> u32 {
        let [high, low] = [32, 0].map(|shift| xxhash_rust::xxh3::xxh3_64(path.as_bytes()) >> shift);
        u32::try_from((high ^ low) & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Takes in the real amount of a request, for the estimate of its budgets.
    pub fn learn(&self, amount: u32) {
        if let Some(reserve) = &self.reserve {
            reserve.learn(amount, self.limits().iter().map(|limit| limit.limit));
        }
    }

    /// Limits; none for an unlimited rule.
    pub fn limits(&self) -> &[NamedLimit] {
        match &self.quota {
            Quota::Unlimited => &[],
            Quota::Limited(limits) => limits,
        }
    }
}
