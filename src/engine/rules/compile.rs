//! From rules as written to rules in force. Goes on after every mistake, so that all are told at once.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::error::{RuleError, RuleErrors, SourceSpan};
use super::matching;
use super::normalize::HashKey;
use super::parse::parse;
use super::penalty::penalty;
use super::quota::{Mistake, check_rule, quota};
use super::source::{Descriptor, Document, RateLimit, SourceFile};
use super::tree::{Children, Domain, Node, Pattern};
use super::{EnforcePercent, Layer, NamedLimit, OnDeny, Penalty, Quota, Rule, Rules};
use crate::engine::lockout::Ladder;
use crate::engine::tally::{Counts, StatsPath};
use crate::engine::{Algorithm, ChargeMode, FailurePolicy};

/// How files are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// The files and documents of one domain are joined; otherwise the second one is a mistake.
    pub merge_domains: bool,
    /// Charge mode of rules that name none and of limits in requests; `None` for the algorithm's own
    /// ([`Algorithm::default_charge`]).
    pub charge: Option<ChargeMode>,
    /// What becomes of a descriptor when the store fails, for the same.
    pub on_backend_failure: FailurePolicy,
    /// What values are hashed with; without it a rule that asks for that is a mistake.
    pub hash_key: Option<HashKey>,
}

/// Compiles `files` into one rule set. Rules that `previous` had under the same stats path keep
/// their counts.
///
/// # Errors
/// Every mistake in every file.
pub fn compile(
    files: &[SourceFile],
    options: CompileOptions,
    previous: Option<&Rules>,
) -> Result<Rules, RuleErrors> {
    let mut draft = Draft { previous, ..Draft::default() };
    let mut errors = Vec::new();
    // What one file of a domain says of a key holds in the others too, and decides how rules are called.
    let mut parsed: Vec<_> = files.iter().map(|file| (file, parse(file))).collect();
    for (file, (documents, mistakes)) in &mut parsed {
        let mut compiler = FileCompiler { file, draft: &mut draft, errors: mem::take(mistakes) };
        documents.retain(|document| compiler.domain(document, options));
        *mistakes = compiler.errors;
    }
    for (file, (documents, mistakes)) in parsed {
        let mut compiler = FileCompiler { file, draft: &mut draft, errors: mistakes };
        for document in documents {
            compiler.document(document, options);
        }
        // Mistakes of form are found before mistakes of meaning; people read from top to bottom.
        compiler.errors.sort_by_key(|error| error.span);
        errors.append(&mut compiler.errors);
    }
    if errors.is_empty() { Ok(draft.finish(options)) } else { Err(RuleErrors(errors)) }
}

/// A domain, a name, and the keys of a scope.
type SharedLockout = (Box<str>, Box<str>, Vec<Box<str>>);

/// Rules in the making.
#[derive(Default)]
struct Draft<'p> {
    previous: Option<&'p Rules>,
    domains: HashMap<String, Domain>,
    nodes: u32,
    rules: usize,
    counts: BTreeMap<StatsPath, Arc<Counts>>,
    layers: BTreeMap<(Box<str>, Box<str>), Arc<Layer>>,
    /// How those climb who are locked out under one name.
    ladders: BTreeMap<SharedLockout, Arc<Ladder>>,
    warnings: Vec<RuleError>,
}

impl Draft<'_> {
    /// The counts under `path`: those of an equally named rule of this set or of the one before.
    fn counts(&mut self, path: &StatsPath) -> Arc<Counts> {
        let before = self.previous.and_then(|previous| previous.counts.get(path));
        let counts = || before.map_or_else(Arc::default, Arc::clone);
        Arc::clone(self.counts.entry(path.clone()).or_insert_with(counts))
    }

    /// The layer of this name: that of this set or of the one before.
    fn layer(&mut self, domain: &str, name: &str) -> Arc<Layer> {
        let key = (domain.into(), name.into());
        let before = self.previous.and_then(|previous| previous.layers.get(&key));
        let layer = || before.map_or_else(|| Arc::new(Layer::new(name)), Arc::clone);
        Arc::clone(self.layers.entry(key).or_insert_with(layer))
    }

    fn finish(self, options: CompileOptions) -> Rules {
        let domains = self.domains.into_iter().map(|(name, mut domain)| {
            domain.gather_hashed();
            (name.into_bytes().into(), domain)
        });
        Rules {
            domains: domains.collect(),
            counts: self.counts,
            layers: self.layers,
            len: self.rules,
            default_charge: options.charge.unwrap_or_default(),
            default_on_backend_failure: options.on_backend_failure,
            warnings: self.warnings,
        }
    }
}

/// What a node inherits from the levels above it.
#[derive(Clone, Copy)]
struct Above<'a> {
    path: &'a StatsPath,
    /// The keys of the levels.
    keys: &'a [&'a str],
    enabled: bool,
    layer: Option<&'a str>,
    on_deny: Option<&'a Arc<OnDeny>>,
    /// Whether one of them has `value_to_metric`.
    value_to_metric: bool,
    algorithm: Algorithm,
    charge: Option<ChargeMode>,
    on_backend_failure: FailurePolicy,
    hash_key: Option<&'a HashKey>,
}

struct FileCompiler<'c, 'p> {
    file: &'c SourceFile,
    draft: &'c mut Draft<'p>,
    errors: Vec<RuleError>,
}

impl FileCompiler<'_, '_> {
    fn error(&mut self, span: SourceSpan, message: String) {
        self.errors.push(RuleError::new(&self.file.name, &self.file.text, span, message));
    }

    /// Begins the domain of `document`, or goes on with it, and takes up what is done to the values of the
    /// keys at its top. Whether its rules belong there.
    fn domain(&mut self, document: &Document, options: CompileOptions) -> bool {
        let name = &document.domain.value;
        if name.is_empty() {
            // Told already; its descriptors would be told of under no name.
            return false;
        }
        if self.draft.domains.contains_key(name) && !options.merge_domains {
            let message = format!(
                "duplicate domain '{name}' in config file: write all its rules in one place, or set \
                 MERGE_DOMAIN_CONFIG to join them"
            );
            self.error(document.domain.span, message);
            return false;
        }
        let known = self.draft.domains.remove(name);
        let mut domain = known.unwrap_or_else(|| Domain::new(name));
        domain.hash_tag |= document.hash_tag && document.enabled;
        let mut left_out = Children::default();
        let siblings = if document.enabled { &mut domain.children } else { &mut left_out };
        self.normalize(&document.descriptors, siblings, options.hash_key.as_ref());
        self.draft.domains.insert(name.clone(), domain);
        true
    }

    /// The rules of a document whose domain has begun.
    fn document(&mut self, document: Document, options: CompileOptions) {
        let name = document.domain.value;
        let mut domain = self.draft.domains.remove(&name).unwrap_or_else(|| Domain::new(&name));
        let path = StatsPath { domain: name.as_str().into(), parts: Vec::new() };
        let above = Above {
            path: &path,
            keys: &[],
            enabled: document.enabled,
            layer: None,
            on_deny: None,
            value_to_metric: false,
            algorithm: document.defaults.algorithm.unwrap_or_default(),
            charge: document.defaults.charge.or(options.charge),
            on_backend_failure: document.defaults.on_backend_failure.unwrap_or(options.on_backend_failure),
            hash_key: options.hash_key.as_ref(),
        };
        let mut left_out = Children::default();
        let siblings = if document.enabled { &mut domain.children } else { &mut left_out };
        for descriptor in document.descriptors {
            self.descriptor(descriptor, siblings, above);
        }
        self.draft.domains.insert(name, domain);
    }

    fn descriptor(&mut self, mut descriptor: Descriptor, siblings: &mut Children, above: Above<'_>) {
        let span = descriptor.span;
        self.draft.nodes = self.draft.nodes.saturating_add(1);
        let pattern = matching::pattern(&descriptor).map_err(|mistakes| self.errors(mistakes));
        let is_sound = pattern.is_ok();
        let mut node = node(&descriptor, pattern.unwrap_or(Pattern::Any), self.draft.nodes);
        let normalize = siblings.normalize(&node.key);
        node.hash = normalize.zip(node.pattern.text()).and_then(|(normalize, text)| normalize.hash_of(text));
        let mut path = above.path.clone();
        path.parts.push(node.composite().into());
        if node.share_threshold && matches!(node.pattern, Pattern::Any | Pattern::Exact(_)) && is_sound {
            let message = format!(
                "share_threshold can only be used with wildcard values (containing '*'), but found key '{}'; \
                 one_of, cidr and regex will do as well",
                node.composite()
            );
            self.error(span, message);
        }
        let mut keys: SmallVec<[&str; 8]> = above.keys.into();
        keys.push(&descriptor.key);
        let here = Above {
            path: &path,
            keys: &keys,
            enabled: above.enabled && descriptor.enabled,
            layer: descriptor.layer.as_deref().or(above.layer),
            on_deny: descriptor.on_deny.as_ref().or(above.on_deny),
            value_to_metric: above.value_to_metric || node.value_to_metric,
            algorithm: above.algorithm,
            charge: descriptor.charge.or(above.charge),
            on_backend_failure: descriptor.on_backend_failure.unwrap_or(above.on_backend_failure),
            hash_key: above.hash_key,
        };
        self.normalize(&descriptor.descriptors, &mut node.children, here.hash_key);
        for below in mem::take(&mut descriptor.descriptors) {
            self.descriptor(below, &mut node.children, here);
        }
        let rule = self.rule(&descriptor, here);
        if !here.enabled {
            // What is switched off is checked like everything else, and left out.
            return;
        }
        node.rule = rule.map(Box::new);
        self.draft.rules += usize::from(node.rule.is_some());
        if is_sound && let Err(clash) = siblings.insert(node) {
            match matching::tell(clash, &descriptor) {
                Some(mistakes) => self.errors(mistakes),
                None => self.error(span, format!("duplicate descriptor composite key '{path}'")),
            }
        }
    }

    /// What applies where `descriptor` ends; `None` for nothing, or where its limits are wrong.
    fn rule(&mut self, descriptor: &Descriptor, here: Above<'_>) -> Option<Rule> {
        let Above { path, .. } = here;
        let quota = self.quota(descriptor, here.algorithm, path);
        let limits = match &quota {
            Some(Quota::Limited(limits)) => &**limits,
            Some(Quota::Unlimited) | None => &[],
        };
        let penalty = self.penalty(descriptor, limits, here.keys, path);
        let charge = here.charge.unwrap_or_else(|| default_charge(limits));
        let quota = quota.filter(|_| here.enabled)?;
        // With `detailed_metric` or `value_to_metric` the request's values are part of the name.
        let name_is_fixed = !descriptor.detailed_metric && !here.value_to_metric;
        let replaces = descriptor.rate_limits.iter().flat_map(|limit| &limit.replaces);
        let share = descriptor.enforce_percent.as_ref();
        Some(Rule {
            id: Rule::id_of(&path.to_string()),
            path: path.to_string().into(),
            counts: (name_is_fixed && quota != Quota::Unlimited).then(|| self.draft.counts(path)),
            quota,
            replaces: replaces.map(|name| name.value.as_str().into()).collect(),
            charge,
            on_backend_failure: here.on_backend_failure,
            shadow_mode: descriptor.shadow_mode,
            enforce_percent: share.map_or(EnforcePercent::ALL, |share| share.value),
            layer: here.layer.map(|name| self.draft.layer(&path.domain, name)),
            penalty,
            on_deny: here.on_deny.cloned(),
            quota_mode: descriptor.quota_mode,
            metadata: descriptor.metadata.clone(),
        })
    }

    /// What is done to the values of each key, before `siblings` have their places.
    fn normalize(&mut self, descriptors: &[Descriptor], siblings: &mut Children, hash_key: Option<&HashKey>) {
        match matching::normalize(descriptors, siblings, hash_key) {
            Ok(warnings) => warnings.into_iter().for_each(|(span, message)| {
                let warning = RuleError::new(&self.file.name, &self.file.text, span, message);
                self.draft.warnings.push(warning);
            }),
            Err(mistakes) => self.errors(mistakes),
        }
    }

    fn errors(&mut self, mistakes: Vec<Mistake>) {
        mistakes.into_iter().for_each(|(span, message)| self.error(span, message));
    }

    /// What the limits of `descriptor` let pass together; `None` where it has none, or wrong ones.
    fn quota(&mut self, descriptor: &Descriptor, above: Algorithm, path: &StatsPath) -> Option<Quota> {
        let mut limits = SmallVec::new();
        self.check_replaces(&descriptor.rate_limits);
        for rate_limit in &descriptor.rate_limits {
            match quota(rate_limit, above) {
                Ok(None) => return Some(Quota::Unlimited),
                Ok(Some(limit)) => {
                    self.warn_of_no_requests(rate_limit, path);
                    limits.push(NamedLimit { limit, name: rate_limit.name.as_deref().map(Into::into) });
                }
                Err(mistakes) => self.errors(mistakes),
            }
        }
        for (span, message) in check_rule(descriptor, &limits) {
            self.error(span, message);
        }
        (!limits.is_empty()).then_some(Quota::Limited(limits))
    }

    fn penalty(
        &mut self,
        descriptor: &Descriptor,
        limits: &[NamedLimit],
        keys: &[&str],
        path: &StatsPath,
    ) -> Option<Penalty> {
        let written = descriptor.penalty.as_ref()?;
        // A limit that is wrong has been told of.
        let has_wrong_limits =
            limits.is_empty() && descriptor.rate_limits.iter().any(|limit| !limit.unlimited);
        match penalty(written, limits, keys, path) {
            Ok(penalty) => {
                self.check_ladder(&penalty, written.span, keys, path);
                Some(penalty)
            }
            Err(mistakes) => {
                let told = |(span, _): &Mistake| !(has_wrong_limits && *span == written.span);
                mistakes.into_iter().filter(told).for_each(|(span, message)| self.error(span, message));
                None
            }
        }
    }

    /// Those who are locked out together climb one ladder.
    fn check_ladder(&mut self, penalty: &Penalty, span: SourceSpan, keys: &[&str], path: &StatsPath) {
        let Some(name) = &penalty.name else { return };
        let scope = penalty.scope.iter().filter_map(|level| keys.get(*level)).map(|key| (*key).into());
        let one = (path.domain.clone(), name.clone(), scope.collect());
        let ladder = self.draft.ladders.entry(one).or_insert_with(|| Arc::clone(&penalty.ladder));
        if *ladder != penalty.ladder {
            let message = format!(
                "another rule locks out the same under the name '{name}' and in another way: write one ladder \
                 for both, or two names"
            );
            self.error(span, message);
        }
    }

    fn warn_of_no_requests(&mut self, rate_limit: &RateLimit, path: &StatsPath) {
        if rate_limit.requests_per_unit.is_none() {
            let message = format!(
                "'{path}' has no requests_per_unit, which means 0: nothing passes; write it, or write \
                 'requests_per_unit: 0' if that is what you want"
            );
            let warning = RuleError::new(&self.file.name, &self.file.text, rate_limit.span, message);
            self.draft.warnings.push(warning);
        }
    }

    fn check_replaces(&mut self, rate_limits: &[RateLimit]) {
        let is_own = |name: &String| rate_limits.iter().any(|limit| limit.name.as_ref() == Some(name));
        for replaced in rate_limits.iter().flat_map(|limit| &limit.replaces) {
            if is_own(&replaced.value) {
                let message =
                    "replaces should not contain name of same descriptor: a rule cannot replace itself";
                self.error(replaced.span, message.to_owned());
            }
        }
    }
}

/// Charge mode of a rule that names none. Its limits are charged together, so one that must not count denied
/// hits decides for all of them.
fn default_charge(limits: &[NamedLimit]) -> ChargeMode {
    let mut defaults = limits.iter().map(|limit| limit.limit.algorithm.default_charge());
    defaults.find(|charge| *charge != ChargeMode::Always).unwrap_or_default()
}

/// The level that `descriptor` writes, without its rule and the levels below.
fn node(descriptor: &Descriptor, pattern: Pattern, order: u32) -> Node {
    Node {
        key: descriptor.key.as_str().into(),
        pattern,
        hash: None,
        share_threshold: descriptor.share_threshold,
        value_to_metric: descriptor.value_to_metric,
        detailed_metric: descriptor.detailed_metric,
        rule: None,
        order,
        children: Children::default(),
    }
}
