//! Rules: read from YAML, checked, and compiled into an immutable tree that requests are matched
//! against.

mod cidr;
mod compile;
mod dump;
mod error;
mod glob;
mod matching;
mod normalize;
mod parse;
mod pattern;
mod quota;
mod siblings;
mod source;
mod text_map;
mod tree;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Map, Value};

pub use compile::{CompileOptions, compile};
pub use error::{Place, RuleError, RuleErrors};
pub use glob::Glob;
pub use normalize::{HashKey, Normalize, NormalizeStep, Text};
pub use pattern::{Cidr, Expression, OneOf};
pub use source::SourceFile;
pub use tree::{Domain, Match, Node, Pattern, SharedPattern, Step};

use crate::engine::tally::{Counts, StatsPath};
use crate::engine::{ChargeMode, FailurePolicy, Limit};

/// A compiled rule set: immutable, and swapped as a whole.
#[derive(Debug, Default)]
pub struct Rules {
    domains: HashMap<Box<[u8]>, Domain, foldhash::fast::RandomState>,
    /// The counts of every rule whose name is fixed at load, in the order of their paths.
    counts: BTreeMap<StatsPath, Arc<Counts>>,
    /// How many levels something applies at.
    len: usize,
    /// What holds for limits that callers bring.
    default_charge: ChargeMode,
    default_on_backend_failure: FailurePolicy,
    /// What loads, and is probably not meant.
    pub warnings: Vec<RuleError>,
}

impl Rules {
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

/// What applies to requests that end at a node of the tree.
#[derive(Debug)]
pub struct Rule {
    /// How much may pass.
    pub quota: Quota,
    /// The rule's name, by which others may replace it; not empty.
    pub name: Option<Box<str>>,
    /// Names of rules that do not apply when this one matches in the same request.
    pub replaces: Box<[Box<str>]>,
    /// Whether what is denied counts.
    pub charge: ChargeMode,
    /// What becomes of its descriptors when the store fails.
    pub on_backend_failure: FailurePolicy,
    /// Counted and reported, never enforced.
    pub shadow_mode: bool,
    /// Denies only together with every other quota rule of the request.
    pub quota_mode: bool,
    /// Merged into the answer's dynamic metadata when the rule's descriptor passes.
    pub metadata: Option<Map<String, Value>>,
    /// Where hits are counted; `None` where the request's own values are part of the name.
    pub counts: Option<Arc<Counts>>,
}

/// How much may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Everything; nothing is counted.
    Unlimited,
    /// As much as the limit says.
    Limited(Limit),
}
