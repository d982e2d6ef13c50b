//! Compiler: rules as written to compiled rules. Continues after every error, so that one load reports all of
//! them.

mod tree;

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::diagnostics::shortened;
use super::document::RuleSource;
use super::error::RuleErrors;
use super::normalize::HashKey;
use super::parse::parse;
use super::pattern::Expressions;
use super::report::{Origin, Report};
use super::source::Document;
use super::span::Located;
use super::tree::Domain;
use super::unreachable::{Unreachable, unreachable};
use super::{Estimates, HoldingRule, Layer, NamedLimit, Quota, Rule, Rules};
use crate::engine::hit_counts::{Counts, StatsPath};
use crate::engine::hold_counts::HoldCounts;
use crate::engine::lockout::LockoutSchedule;
use crate::engine::reserve::{Amount, Reserve};
use crate::engine::{ChargeMode, FailurePolicy, StoreCapabilities};

/// Options that apply to every rule of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// True if the documents of one domain are joined; otherwise the second one is an error.
    pub merge_domains: bool,
    /// Charge mode of rules that name none and of limits in requests; `None` for the algorithm's own
    /// ([`Algorithm::default_charge`](crate::engine::Algorithm::default_charge)).
    pub charge: Option<ChargeMode>,
    /// Failure policy of rules that name none and of limits in requests.
    pub on_backend_failure: FailurePolicy,
    /// Secret of `hash`; without it a rule that hashes is an error.
    pub hash_key: Option<HashKey>,
    /// Capabilities of the store of the counters.
    pub stores: StoreCapabilities,
}

/// Compiles `sources` into one rule set. Rules that `previous` had under the same stats path keep their
/// counts.
///
/// # Errors
/// Every error in every source, up to [`super::MAX_REPORTED`].
pub fn compile<S: RuleSource>(
    sources: &[S],
    options: CompileOptions,
    previous: Option<&Rules>,
) -> Result<Rules, RuleErrors> {
    let sources: Vec<&dyn RuleSource> = sources.iter().map(|source| source as &dyn RuleSource).collect();
    let mut compiler = Compiler::new(&sources, options, previous);
    // Normalization of a key applies to all files of its domain, and names of rules depend on it: collect it
    // first.
    let mut parsed = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        let mut documents = parse(*source, index, &mut compiler.report);
        compiler.summaries.push(SourceSummary::of(*source, &documents));
        compiler.source = index;
        documents.retain(|document| compiler.domain(document));
        parsed.push(documents);
    }
    for (index, documents) in parsed.into_iter().enumerate() {
        compiler.source = index;
        documents.into_iter().for_each(|document| compiler.document(document));
    }
    compiler.finish()
}

/// Number of rules in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSummary {
    /// Name of the source.
    pub name: Box<str>,
    /// Rules, in force or switched off.
    pub rules: usize,
    /// True if every document without rules says so, with `descriptors: []`, or need not.
    pub says_none: bool,
}

impl SourceSummary {
    fn of(source: &dyn RuleSource, documents: &[Document]) -> Self {
        let says_none = |document: &Document| document.says_none || document.rules() > 0;
        Self {
            name: source.name().into(),
            rules: documents.iter().map(Document::rules).sum(),
            says_none: source.may_be_empty() || documents.iter().all(says_none),
        }
    }
}

/// Domain, name and keys of the scope of a lockout.
type SharedLockout = (Box<str>, Box<str>, Vec<Box<str>>);

/// Rules under construction.
struct Compiler<'s> {
    options: CompileOptions,
    previous: Option<&'s Rules>,
    report: Report<'s>,
    /// Index of the source at hand.
    source: usize,
    summaries: Vec<SourceSummary>,
    domains: HashMap<String, Domain>,
    /// Position of the document that began each domain.
    domain_origins: HashMap<String, Origin>,
    /// Position of every node by its order.
    origins: Vec<Origin>,
    rules: usize,
    /// True if the domain at hand has prices.
    has_prices: bool,
    expressions: Expressions,
    counts: BTreeMap<StatsPath, Arc<Counts>>,
    layers: BTreeMap<(Box<str>, Box<str>), Arc<Layer>>,
    estimates: Estimates,
    leased: BTreeMap<u32, (Box<str>, Box<str>)>,
    holding: BTreeMap<u32, HoldingRule>,
    /// Lockout schedules of rules that share lockouts, each with the position of the first.
    schedules: BTreeMap<SharedLockout, (Arc<LockoutSchedule>, Origin)>,
    names: ReplacedNames,
}

/// Names of limits, and the names that limits replace, by domain.
#[derive(Default)]
struct ReplacedNames {
    known: HashMap<Box<str>, HashSet<Box<str>>>,
    replaced: Vec<(Box<str>, Located<String>, usize)>,
}

impl<'s> Compiler<'s> {
    fn new(sources: &[&'s dyn RuleSource], options: CompileOptions, previous: Option<&'s Rules>) -> Self {
        Self {
            options,
            previous,
            report: Report::new(sources.iter().copied()),
            source: 0,
            summaries: Vec::with_capacity(sources.len()),
            domains: HashMap::new(),
            domain_origins: HashMap::new(),
            origins: Vec::new(),
            rules: 0,
            has_prices: false,
            expressions: Expressions::default(),
            counts: BTreeMap::new(),
            layers: BTreeMap::new(),
            estimates: Estimates::new(),
            leased: BTreeMap::new(),
            holding: BTreeMap::new(),
            schedules: BTreeMap::new(),
            names: ReplacedNames::default(),
        }
    }

    /// Counts under `path`: those of an equally named rule of this set or of the previous one.
    fn counts(&mut self, path: &StatsPath) -> Arc<Counts> {
        let before = self.previous.and_then(|previous| previous.counts.get(path));
        let counts = || before.map_or_else(Arc::default, Arc::clone);
        Arc::clone(self.counts.entry(path.clone()).or_insert_with(counts))
    }

    /// Counts of the holds and places of a rule with these limits, if it has any: those that it had before.
    fn hold_counts(&mut self, path: &StatsPath, has_reserve: bool, quota: &Quota) -> Option<Arc<HoldCounts>> {
        let has_places = |limits: &[NamedLimit]| limits.iter().any(|limit| limit.limit.is_concurrency());
        if !has_reserve && !matches!(quota, Quota::Limited(limits) if has_places(limits)) {
            return None;
        }
        let (domain, path): (_, Box<str>) = (path.domain.clone(), path.to_string().into());
        let id = Rule::id_of(&path);
        let before = self.previous.and_then(|previous| previous.holding.get(&id));
        let counts = before.map_or_else(Arc::default, |before| Arc::clone(&before.counts));
        let rule = self.holding.entry(id).or_insert(HoldingRule { domain, path, counts });
        Some(Arc::clone(&rule.counts))
    }

    /// Takes the domain `name` out of this set, or starts it.
    fn take_domain(&mut self, name: &str) -> Domain {
        let before = || self.previous.and_then(|previous| previous.domain(name.as_bytes()));
        self.domains.remove(name).unwrap_or_else(|| Domain::new(name, before()))
    }

    /// Layer of this name: that of this set or of the previous one.
    fn layer(&mut self, domain: &str, name: &str) -> Arc<Layer> {
        let key = (domain.into(), name.into());
        let before = self.previous.and_then(|previous| previous.layers.get(&key));
        let layer = || before.map_or_else(|| Arc::new(Layer::new(name)), Arc::clone);
        Arc::clone(self.layers.entry(key).or_insert_with(layer))
    }

    /// `reserve` of the rule at `path`, with the estimate that the rule had before, if it counts the same.
    fn with_estimate(&mut self, path: &StatsPath, mut reserve: Reserve) -> Reserve {
        if let Amount::Auto(estimate) = &mut reserve.amount {
            let before = self.previous.and_then(|previous| previous.estimates.get(path));
            if let Some((_, before)) = before.filter(|(count, _)| *count == reserve.count) {
                *estimate = Arc::clone(before);
            }
            self.estimates.insert(path.clone(), (reserve.count, Arc::clone(estimate)));
        }
        reserve
    }

    /// Gives `domain` the prices of `document`, if it has any.
    fn prices(&mut self, document: &Document, domain: &mut Domain) {
        let Some(Located { value: prices, span }) = &document.prices else { return };
        if domain.prices.is_some() {
            let name = shortened(&document.domain.value);
            let message = format!("domain '{name}' has 'prices' already: write all of them in one place");
            self.report.error(Origin { source: self.source, span: *span }, message);
        }
        domain.prices = Some(prices.clone());
    }

    fn warn_of_unreachable_rules(&mut self) {
        let mut found = Vec::new();
        self.domains.values().for_each(|domain| unreachable(&domain.children, &mut found));
        for Unreachable { node, other, reason } in found {
            let [here, there] = [node, other].map(|node| self.origins[node.order as usize]);
            let message = format!(
                "'{}' can never match: {reason}; see '{}' at {}",
                shortened(&node.composite()),
                shortened(&other.composite()),
                self.report.refer(here, there)
            );
            self.report.warn(here, message);
        }
    }

    fn finish(mut self) -> Result<Rules, RuleErrors> {
        for (domain, Located { value: name, span }, source) in mem::take(&mut self.names.replaced) {
            if self.names.known.get(&domain).is_some_and(|known| known.contains(&*name)) {
                continue;
            }
            let message = format!(
                "'replaces' names '{}', and no limit of domain '{domain}' has that name: it replaces nothing",
                shortened(&name)
            );
            self.report.warn(Origin { source, span }, message);
        }
        self.warn_of_unreachable_rules();
        let (warnings, paths) = self.report.finish()?;
        let domains = self.domains.into_iter().map(|(name, mut domain)| {
            domain.gather_hashed();
            (name.into_bytes().into(), domain)
        });
        Ok(Rules {
            domains: domains.collect(),
            counts: self.counts,
            layers: self.layers,
            estimates: self.estimates,
            leased: self.leased,
            holding: self.holding,
            len: self.rules,
            default_charge: self.options.charge.unwrap_or_default(),
            default_on_backend_failure: self.options.on_backend_failure,
            origins: self.origins.into(),
            paths,
            is_partial: false,
            sources: self.summaries,
            warnings,
        })
    }
}
