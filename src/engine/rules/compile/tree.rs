//! Compiler of documents and descriptors to domains, nodes and rules.

use std::mem;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Compiler;
use crate::engine::hit_counts::StatsPath;
use crate::engine::lockout::LockoutSchedule;
use crate::engine::rules::concurrency::{check_concurrency, check_failure_policy, concurrency, max_hits};
use crate::engine::rules::diagnostics::{Diagnostics, shortened};
use crate::engine::rules::lease::{check_default_lease, check_lease, inherited_lease, lease};
use crate::engine::rules::matching;
use crate::engine::rules::normalize::HashKey;
use crate::engine::rules::penalty::penalty;
use crate::engine::rules::quota::{DefaultAlgorithm, check_rule, has_limits, quota};
use crate::engine::rules::report::Origin;
use crate::engine::rules::reserve::reserve;
use crate::engine::rules::source::{Descriptor, Document, Lease, RateLimit};
use crate::engine::rules::span::SourceSpan;
use crate::engine::rules::tree::{Children, Conflict, Node, Pattern};
use crate::engine::rules::{EnforcePercent, NamedLimit, OnDeny, Penalty, Quota, RateLimitHeaders, Rule};
use crate::engine::{ChargeMode, FailurePolicy, Reserve};

/// Values that a node inherits from the levels above.
#[derive(Clone, Copy)]
struct Inherited<'a> {
    path: &'a StatsPath,
    /// Keys of the levels above.
    keys: &'a [&'a str],
    enabled: bool,
    /// True if one of them matches certain values only.
    is_selective: bool,
    layer: Option<&'a str>,
    on_deny: Option<&'a Arc<OnDeny>>,
    headers: RateLimitHeaders,
    /// True if a level above has `value_to_metric`.
    value_to_metric: bool,
    algorithm: DefaultAlgorithm,
    lease: Option<&'a Lease>,
    charge: Option<ChargeMode>,
    on_backend_failure: FailurePolicy,
    hash_key: Option<HashKey>,
}

impl Compiler<'_> {
    fn origin(&self, span: SourceSpan) -> Origin {
        Origin { source: self.source, span }
    }

    fn error(&mut self, span: SourceSpan, message: impl Into<String>) {
        self.report.error(self.origin(span), message);
    }

    fn errors(&mut self, errors: Diagnostics) {
        self.report.errors(self.source, errors);
    }

    /// Starts or continues the domain of `document`, and records the normalization of its top-level keys.
    /// Returns whether to compile its rules.
    pub(super) fn domain(&mut self, document: &Document) -> bool {
        let name = &document.domain.value;
        if name.is_empty() {
            // Reported already; errors of its descriptors would name no domain.
            return false;
        }
        let here = self.origin(document.domain.span);
        if let Some(first) = self.domain_origins.get(name)
            && !self.options.merge_domains
        {
            let message = format!(
                "duplicate domain '{}' in config file: the first one is at {}; write all its rules in one \
                 place, or set MERGE_DOMAIN_CONFIG to join them",
                shortened(name),
                self.report.refer(here, *first)
            );
            self.report.error(here, message);
            return false;
        }
        self.domain_origins.entry(name.clone()).or_insert(here);
        if document.descriptors.is_empty() && !document.says_none {
            let message = format!(
                "domain '{}' has no rules: write them under 'descriptors', or 'descriptors: []' if that is \
                 what you want",
                shortened(name)
            );
            self.report.warn(here, message);
        }
        let mut domain = self.take_domain(name);
        domain.hash_tag |= document.hash_tag && document.enabled;
        if document.enabled {
            self.prices(document, &mut domain);
        }
        let mut left_out = Children::default();
        let siblings = if document.enabled { &mut domain.children } else { &mut left_out };
        self.normalize(&document.descriptors, siblings, self.options.hash_key);
        self.domains.insert(name.clone(), domain);
        true
    }

    /// Compiles the rules of a document whose domain was started.
    pub(super) fn document(&mut self, document: Document) {
        let options = self.options;
        let name = document.domain.value;
        let mut domain = self.take_domain(&name);
        self.has_prices = domain.prices.is_some();
        let path = StatsPath { domain: name.as_str().into(), parts: Vec::new() };
        let inherited = Inherited {
            path: &path,
            keys: &[],
            enabled: document.enabled,
            is_selective: false,
            layer: None,
            on_deny: None,
            headers: RateLimitHeaders::All,
            value_to_metric: false,
            algorithm: match document.defaults.algorithm {
                None if document.defaults.unreadable.has("algorithm") => None,
                algorithm => Some(algorithm.unwrap_or_default()),
            },
            lease: document.defaults.lease.lease(),
            charge: document.defaults.charge.or(options.charge),
            on_backend_failure: document.defaults.on_backend_failure.unwrap_or(options.on_backend_failure),
            hash_key: options.hash_key,
        };
        self.errors(check_default_lease(&document.defaults));
        let mut left_out = Children::default();
        let siblings = if document.enabled { &mut domain.children } else { &mut left_out };
        for descriptor in document.descriptors {
            self.descriptor(descriptor, siblings, inherited);
        }
        self.domains.insert(name, domain);
    }

    fn descriptor(&mut self, mut descriptor: Descriptor, siblings: &mut Children, inherited: Inherited<'_>) {
        let span = descriptor.span;
        self.origins.push(self.origin(span));
        let order = u32::try_from(self.origins.len() - 1).unwrap_or(u32::MAX);
        let pattern = match matching::pattern(&descriptor, &mut self.expressions) {
            Ok(pattern) => Some(pattern).filter(|_| !matching::is_unreadable(&descriptor)),
            Err(errors) => {
                self.errors(errors);
                None
            }
        };
        let is_sound = pattern.is_some();
        let mut node = node(&descriptor, pattern.unwrap_or(Pattern::Any), order);
        let normalize = siblings.normalize(&node.key);
        node.hash = normalize.zip(node.pattern.text()).and_then(|(normalize, text)| normalize.hash_of(text));
        let mut path = inherited.path.clone();
        path.parts.push(node.composite().into());
        if node.share_threshold && matches!(node.pattern, Pattern::Any | Pattern::Exact(_)) && is_sound {
            let message = format!(
                "share_threshold can only be used with wildcard values (containing '*'), one_of, cidr and \
                 regex, but found key '{}'",
                shortened(&node.composite())
            );
            self.error(span, message);
        }
        let mut keys: SmallVec<[&str; 8]> = inherited.keys.into();
        keys.push(&descriptor.key);
        let here = Inherited {
            path: &path,
            keys: &keys,
            enabled: inherited.enabled && descriptor.enabled,
            is_selective: inherited.is_selective
                || !is_sound
                || node.key.contains('*')
                || node.pattern != Pattern::Any,
            layer: descriptor.layer.as_deref().or(inherited.layer),
            on_deny: descriptor.on_deny.as_ref().or(inherited.on_deny),
            headers: descriptor.headers.unwrap_or(inherited.headers),
            value_to_metric: inherited.value_to_metric || node.value_to_metric,
            algorithm: inherited.algorithm,
            lease: inherited.lease,
            charge: descriptor.charge.or(inherited.charge),
            on_backend_failure: descriptor.on_backend_failure.unwrap_or(inherited.on_backend_failure),
            hash_key: inherited.hash_key,
        };
        self.normalize(&descriptor.descriptors, &mut node.children, here.hash_key);
        for below in mem::take(&mut descriptor.descriptors) {
            self.descriptor(below, &mut node.children, here);
        }
        let rule = self.rule(&descriptor, here);
        if !here.enabled {
            // Disabled rules are checked, but not compiled.
            return;
        }
        node.rule = rule.map(Box::new);
        self.rules += usize::from(node.rule.is_some());
        if is_sound && let Err(conflict) = siblings.insert(node) {
            self.conflict(conflict, &descriptor, &path);
        }
    }

    /// Reports a node that conflicts with earlier ones.
    fn conflict(&mut self, conflict: Conflict, descriptor: &Descriptor, path: &StatsPath) {
        let here = self.origin(descriptor.span);
        match conflict {
            Conflict::Node(other) => {
                let other = self.report.refer(here, self.origins[other as usize]);
                let path = path.to_string();
                let message = format!(
                    "duplicate descriptor composite key '{}': the first one is at {other}; write one rule for \
                     both",
                    shortened(&path)
                );
                self.report.error(here, message);
            }
            Conflict::Items(items) => {
                for taken in matching::taken_values(items, descriptor) {
                    let here = Origin { span: taken.span, ..here };
                    let other = self.report.refer(here, self.origins[taken.other as usize]);
                    self.report
                        .error(here, format!("{}, at {other}: write it in one of them", taken.message));
                }
            }
        }
    }

    /// Rule of `descriptor`; `None` without a limit, or if its limits have errors.
    fn rule(&mut self, descriptor: &Descriptor, here: Inherited<'_>) -> Option<Rule> {
        let Inherited { path, .. } = here;
        let quota = self.quota(descriptor, here);
        if here.enabled && !here.is_selective {
            self.warn_of_zero(descriptor, path);
        }
        let limits = match &quota {
            Some(Quota::Limited(limits)) => &**limits,
            Some(Quota::Unlimited) | None => &[],
        };
        if let Err(message) =
            check_failure_policy(limits, descriptor.reserve.is_some(), here.on_backend_failure)
        {
            self.error(descriptor.span, message);
        }
        let max_hits = max_hits(limits, descriptor.max_hits.as_ref().map(|max_hits| max_hits.value));
        let penalty = self.penalty(descriptor, limits, here.keys, path);
        self.record_names(descriptor, &path.domain);
        let reserve = self.reserve(descriptor, limits).map(|reserve| self.with_estimate(path, reserve));
        let charge = match &reserve {
            Some(_) => ChargeMode::Overdraft,
            None => here.charge.unwrap_or_else(|| default_charge(limits)),
        };
        let quota = quota.filter(|_| here.enabled)?;
        if matches!(&quota, Quota::Limited(limits) if limits.iter().any(|limit| limit.lease.is_some())) {
            let path = path.to_string();
            self.leased.insert(Rule::id_of(&path), (here.path.domain.clone(), path.into()));
        }
        // With `detailed_metric` or `value_to_metric`, the name contains values of the request.
        let name_is_fixed = !descriptor.detailed_metric && !here.value_to_metric;
        let replaces = descriptor.rate_limits.iter().flat_map(|limit| &limit.replaces);
        let share = descriptor.enforce_percent.as_ref();
        Some(Rule {
            id: Rule::id_of(&path.to_string()),
            path: path.to_string().into(),
            counts: (name_is_fixed && quota != Quota::Unlimited).then(|| self.counts(path)),
            holds: self.hold_counts(path, reserve.is_some(), &quota),
            quota,
            replaces: replaces.map(|name| name.value.as_str().into()).collect(),
            charge,
            on_backend_failure: here.on_backend_failure,
            shadow_mode: descriptor.shadow_mode,
            enforce_percent: share.map_or(EnforcePercent::ALL, |share| share.value),
            layer: here.layer.map(|name| self.layer(&path.domain, name)),
            penalty,
            reserve,
            on_deny: here.on_deny.cloned(),
            max_hits,
            headers: here.headers,
            quota_mode: descriptor.quota_mode,
            metadata: descriptor.metadata.clone(),
        })
    }

    /// Sets the normalization of each key, before nodes are inserted into `siblings`.
    fn normalize(&mut self, descriptors: &[Descriptor], siblings: &mut Children, hash_key: Option<HashKey>) {
        self.report.warnings(self.source, matching::needless_anchors(descriptors));
        match matching::normalize(descriptors, siblings, hash_key.as_ref()) {
            Ok(warnings) => self.report.warnings(self.source, warnings),
            Err(errors) => self.errors(errors),
        }
    }

    /// Limits of `descriptor`; `None` without limits, or if all of them have errors.
    fn quota(&mut self, descriptor: &Descriptor, here: Inherited<'_>) -> Option<Quota> {
        let mut limits = SmallVec::new();
        self.check_replaces(&descriptor.rate_limits);
        let default_lease = inherited_lease(descriptor, here.lease);
        for rate_limit in &descriptor.rate_limits {
            let compiled = match &rate_limit.concurrency {
                Some(written) => concurrency(rate_limit, written, self.options.stores),
                None => quota(rate_limit, here.algorithm, self.options.stores),
            };
            match compiled {
                Ok(None) => {
                    self.errors(check_rule(descriptor, &[]));
                    return Some(Quota::Unlimited);
                }
                Ok(Some(limit)) => {
                    self.warn_of_no_requests(rate_limit, here.path);
                    let (limit, lease) = lease(rate_limit, limit, default_lease).unwrap_or_else(|errors| {
                        self.errors(errors);
                        (limit, None)
                    });
                    limits.push(NamedLimit {
                        limit,
                        name: rate_limit.name.as_deref().map(Into::into),
                        lease,
                    });
                }
                Err(errors) => self.errors(errors),
            }
        }
        self.errors(check_rule(descriptor, &limits));
        self.errors(check_concurrency(descriptor, &limits));
        self.errors(check_lease(descriptor, &limits));
        (!limits.is_empty()).then_some(Quota::Limited(limits))
    }

    /// Names of the limits of `descriptor`, and the names that they replace.
    fn record_names(&mut self, descriptor: &Descriptor, domain: &str) {
        for limit in &descriptor.rate_limits {
            if let Some(name) = &limit.name {
                let known = self.names.known.entry(domain.into()).or_default();
                known.insert(name.as_str().into());
            }
            let replaced = limit.replaces.iter().cloned();
            self.names.replaced.extend(replaced.map(|name| (domain.into(), name, self.source)));
        }
    }

    fn reserve(&mut self, descriptor: &Descriptor, limits: &[NamedLimit]) -> Option<Reserve> {
        let compiled =
            reserve(descriptor, descriptor.reserve.as_ref()?, limits, self.has_prices, self.options.stores);
        compiled.map_err(|errors| self.errors(errors)).ok()
    }

    fn penalty(
        &mut self,
        descriptor: &Descriptor,
        limits: &[NamedLimit],
        keys: &[&str],
        path: &StatsPath,
    ) -> Option<Penalty> {
        let written = descriptor.penalty.as_ref()?;
        if !self.options.stores.lockouts {
            let message = format!("{} keeps no lockouts: leave 'penalty' out", self.options.stores.name);
            self.error(written.span, message);
        }
        match penalty(written, limits, has_limits(descriptor) && !is_unlimited(descriptor), keys, path) {
            Ok(penalty) => {
                self.check_schedule(&penalty, written.span, keys, path);
                Some(penalty)
            }
            Err(errors) => {
                self.errors(errors);
                None
            }
        }
    }

    /// Checks that rules that share a lockout have one schedule.
    fn check_schedule(&mut self, penalty: &Penalty, span: SourceSpan, keys: &[&str], path: &StatsPath) {
        let Some(name) = &penalty.name else { return };
        let here = self.origin(span);
        let scope = penalty.scope.iter().filter_map(|level| keys.get(*level)).map(|key| (*key).into());
        let shared = (path.domain.clone(), name.clone(), scope.collect());
        let first = || (Arc::clone(&penalty.schedule), here);
        let (schedule, first): &(Arc<LockoutSchedule>, Origin) =
            self.schedules.entry(shared).or_insert_with(first);
        if *schedule != penalty.schedule {
            let message = format!(
                "the lockout '{}' has another schedule at {}: rules that share a name and a scope share their \
                 lockouts; write the same schedule in both, or two names",
                shortened(name),
                self.report.refer(here, *first)
            );
            self.report.error(here, message);
        }
    }

    fn warn_of_no_requests(&mut self, rate_limit: &RateLimit, path: &StatsPath) {
        if rate_limit.requests_per_unit.is_none() && rate_limit.concurrency.is_none() {
            let message = format!(
                "'{}' has no requests_per_unit, which means 0: nothing passes; write it, or write \
                 'requests_per_unit: 0' if that is what you want",
                shortened(&path.to_string())
            );
            self.report.warn(self.origin(rate_limit.span), message);
        }
    }

    /// A limit of zero blocks certain values. Without any it blocks everything.
    fn warn_of_zero(&mut self, descriptor: &Descriptor, path: &StatsPath) {
        let max = |limit: &RateLimit| match &limit.concurrency {
            Some(concurrency) => concurrency.max.as_ref().map(|max| max.value),
            None => limit.requests_per_unit,
        };
        for limit in descriptor.rate_limits.iter().filter(|limit| max(limit) == Some(0)) {
            let message = format!(
                "'{}' lets nothing pass: it is zero for every value; to block certain values write 'value', \
                 'one_of', 'cidr' or 'regex', and 'value: \"*\"' if all of them are meant",
                shortened(&path.to_string())
            );
            self.report.warn(self.origin(limit.span), message);
        }
    }

    fn check_replaces(&mut self, rate_limits: &[RateLimit]) {
        let is_own = |name: &String| rate_limits.iter().any(|limit| limit.name.as_ref() == Some(name));
        for replaced in rate_limits.iter().flat_map(|limit| &limit.replaces) {
            if is_own(&replaced.value) {
                let message =
                    "replaces should not contain name of same descriptor: a rule cannot replace itself";
                self.error(replaced.span, message);
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

fn is_unlimited(descriptor: &Descriptor) -> bool {
    descriptor.rate_limits.iter().any(|limit| limit.unlimited)
}

/// Node of `descriptor`, without its rule and the levels below.
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
