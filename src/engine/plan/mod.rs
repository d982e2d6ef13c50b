//! Planning: matches the descriptors of a request against the rules and names the counters to charge.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::algorithm::group::counts_only_if_allowed;
use super::hit_counts::{StatsPath, StatsRef};
use super::lockout::LockoutSchedule;
use super::rules::{Domain, Match, NamedLimit, Quota, Rule, Rules};
use super::{
    ChargeMode, Descriptor, DescriptorHash, Enforcement, FailurePolicy, HashTag, Hits, KeyDomain, KeyWriter,
    Limit, LockoutName, Modes, Request,
};
use crate::engine::request::Entry;

/// Plan of a request.
#[derive(Debug)]
pub struct Plan<'r> {
    /// True if the request's domain has rules.
    pub domain_known: bool,
    /// Item of each descriptor, in order.
    pub items: SmallVec<[Item<'r>; 4]>,
    /// True if a descriptor exceeds its rule's `max_hits`, which denies the request whatever its counters hold.
    pub denied_by_size: bool,
}

/// Plan of one descriptor.
#[derive(Debug)]
pub enum Item<'r> {
    /// No rule applies.
    NoLimit,
    /// Another matched rule replaces the one that applies.
    Replaced,
    /// A rule without a limit applies.
    Unlimited(&'r Rule),
    /// A limit applies.
    Limited(Limited<'r>),
}

/// Descriptor with a limit.
#[derive(Debug)]
pub struct Limited<'r> {
    /// Rule; `None` for a limit in the request.
    pub rule: Option<&'r Rule>,
    /// Counters to charge, at least one. The descriptor passes if it is within all of their limits.
    pub counters: SmallVec<[Counter<'r>; 1]>,
    /// Lockout that its denials count towards.
    pub lockout: Option<Lockout<'r>>,
    /// True if `enforce_percent` includes the descriptor.
    pub enforced: bool,
    /// Hits to count.
    pub hits: Hits,
    /// True if it counts when it is denied.
    pub mode: ChargeMode,
    /// Result if the store fails.
    pub on_failure: FailurePolicy,
    /// Counts for metrics.
    pub stats: StatsRef<'r>,
}

/// Lockout of a descriptor.
#[derive(Clone, Debug)]
pub struct Lockout<'r> {
    /// Schedule of blocks.
    pub schedule: &'r Arc<LockoutSchedule>,
    /// Key of the lockout, which identifies the client.
    pub key: bytes::Bytes,
}

/// Limit and the key of its counter.
#[derive(Clone, Debug)]
pub struct Counter<'r> {
    /// The limit.
    pub limit: Limit,
    /// Name in answers.
    pub name: Option<&'r str>,
    /// Key of the counter.
    pub key: bytes::Bytes,
}

impl Limited<'_> {
    /// True if it has more hits than its rule allows in one request.
    pub fn is_too_large(&self) -> bool {
        let max_hits = self.rule.and_then(|rule| rule.max_hits);
        matches!((self.hits, max_hits), (Hits::Add(hits), Some(max)) if hits > max)
    }

    /// True if its hits are not charged because the size of a descriptor decides: they count only if the
    /// request passes, and this one does not. `denied_by_size` is the plan's.
    pub fn is_withheld(&self, denied_by_size: bool) -> bool {
        let is_denied = self.is_too_large() || denied_by_size;
        is_denied && counts_only_if_allowed(self.mode, self.hits) && self.hits != Hits::Add(0)
    }

    /// True if it denies nothing and is only counted and reported.
    pub fn is_shadow(&self) -> bool {
        !self.enforced || self.rule.is_some_and(|rule| rule.shadow_mode)
    }

    /// Effect on the request if one of the limits is exceeded.
    pub fn enforcement(&self, modes: &Modes) -> Enforcement {
        // A rule with several limits cannot be a quota, not even with QUOTA_MODE.
        let may_be_quota = self.counters.len() == 1;
        let is_quota = may_be_quota && (modes.quota_mode || self.rule.is_some_and(|rule| rule.quota_mode));
        match (self.is_shadow(), is_quota) {
            (false, false) => Enforcement::Enforced,
            (false, true) => Enforcement::Quota,
            (true, false) => Enforcement::Shadow,
            (true, true) => Enforcement::ShadowQuota,
        }
    }
}

impl<'r> Plan<'r> {
    /// Descriptors with a limit, in order.
    pub fn limited(&self) -> impl Iterator<Item = &Limited<'r>> {
        self.items.iter().filter_map(|item| match item {
            Item::Limited(limited) => Some(limited),
            Item::NoLimit | Item::Replaced | Item::Unlimited(_) => None,
        })
    }
}

/// Matches every descriptor of `request`, drops the rules that others replace, and names the counters of the
/// rest.
pub fn plan<'r>(rules: &'r Rules, request: &Request<'_>, keys: &KeyWriter) -> Plan<'r> {
    let Some(domain) = rules.domain(request.domain) else {
        let items = request.descriptors.iter().map(|_| Item::NoLimit).collect();
        return Plan { domain_known: false, items, denied_by_size: false };
    };
    let found: SmallVec<[Lookup<'r, '_>; 4]> = request.descriptors.iter().map(|d| find(domain, d)).collect();
    let replaced = ReplacedNames::by(&found);
    let items = request
        .descriptors
        .iter()
        .zip(&found)
        .map(|(descriptor, own)| match own {
            Lookup::NoMatch => Item::NoLimit,
            Lookup::Rule(matched) if replaced.contains(matched.rule) => Item::Replaced,
            Lookup::Rule(matched) => match &matched.rule.quota {
                Quota::Unlimited => Item::Unlimited(matched.rule),
                Quota::Limited(limits) => Item::Limited(limited(domain, matched, limits, descriptor, keys)),
            },
            Lookup::Override(limit) => Item::Limited(Limited {
                rule: None,
                counters: smallvec![Counter {
                    limit: *limit,
                    name: None,
                    key: keys.key(key_domain(domain), &descriptor.entries, None, *limit),
                }],
                lockout: None,
                enforced: true,
                hits: descriptor.hits,
                mode: rules.default_charge(),
                on_failure: rules.default_on_backend_failure(),
                stats: StatsRef::Named(Box::new(StatsPath::of_values(domain.name(), &descriptor.entries))),
            }),
        })
        .collect();
    let mut plan = Plan { domain_known: true, items, denied_by_size: false };
    let denied_by_size = plan.limited().any(|limited| limited.is_too_large() && !limited.is_shadow());
    plan.denied_by_size = denied_by_size;
    plan
}

fn key_domain(domain: &Domain) -> KeyDomain<'_> {
    let hash_tag = domain.hash_tag().then_some(HashTag::Domain);
    KeyDomain { name: domain.name().as_bytes(), hash_tag, only_limit: true }
}

fn limited<'r>(
    domain: &Domain,
    matched: &Match<'r, '_>,
    limits: &'r [NamedLimit],
    descriptor: &Descriptor<'_>,
    keys: &KeyWriter,
) -> Limited<'r> {
    let Match { rule, .. } = *matched;
    let entries = &descriptor.entries;
    let hash = || DescriptorHash::of(domain.name().as_bytes(), entries, matched);
    let enforced = rule.enforce_percent.is_all() || rule.enforce_percent.includes(hash().as_u64());
    let mut key_domain = KeyDomain { only_limit: limits.len() == 1, ..key_domain(domain) };
    let lockout_name = rule.penalty.as_ref().map(|penalty| {
        LockoutName::of(domain.name(), entries, matched, penalty, enforced && !rule.shadow_mode)
    });
    if keys.is_for_cluster() && key_domain.hash_tag.is_none() {
        key_domain.hash_tag = match &lockout_name {
            Some(lockout_name) => Some(HashTag::Descriptor(lockout_name.hash())),
            None if limits.len() > 1 => Some(HashTag::Descriptor(hash())),
            None => None,
        };
    }
    let lockout = rule.penalty.as_ref().zip(lockout_name).map(|(penalty, lockout_name)| Lockout {
        schedule: &penalty.schedule,
        key: keys.lockout_key(key_domain, &lockout_name),
    });
    let counter = |NamedLimit { limit, name }: &'r NamedLimit| Counter {
        limit: *limit,
        name: name.as_deref(),
        key: keys.key(key_domain, entries, Some(matched), *limit),
    };
    Limited {
        rule: Some(rule),
        counters: limits.iter().map(counter).collect(),
        lockout,
        enforced,
        hits: descriptor.hits,
        mode: rule.charge,
        on_failure: rule.on_backend_failure,
        stats: rule_stats(domain, matched, entries),
    }
}

#[expect(clippy::large_enum_variant, reason = "most of them are rules, and a box would allocate for each")]
enum Lookup<'r, 'a> {
    NoMatch,
    Rule(Match<'r, 'a>),
    Override(Limit),
}

/// A limit in the request takes precedence over the rules.
fn find<'r, 'a>(domain: &'r Domain, descriptor: &Descriptor<'a>) -> Lookup<'r, 'a> {
    match descriptor.limit_override {
        Some(limit) => Lookup::Override(limit),
        None => domain.find(&descriptor.entries).map_or(Lookup::NoMatch, Lookup::Rule),
    }
}

/// Names in the `replaces` of all rules that the request matched. Sorted for binary search, since a request may
/// have a thousand descriptors.
struct ReplacedNames<'r>(SmallVec<[&'r str; 8]>);

impl<'r> ReplacedNames<'r> {
    fn by(found: &[Lookup<'r, '_>]) -> Self {
        let replaces = |found: &Lookup<'r, '_>| match found {
            Lookup::Rule(matched) => &matched.rule.replaces[..],
            Lookup::NoMatch | Lookup::Override(_) => &[],
        };
        let mut names: SmallVec<_> = found.iter().flat_map(replaces).map(|name| &**name).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// True if `rule` is replaced. Unlimited rules and rules without a name never are.
    fn contains(&self, rule: &Rule) -> bool {
        let mut names = rule.limits().iter().filter_map(|limit| limit.name.as_deref());
        !self.0.is_empty() && names.any(|name| self.0.binary_search(&name).is_ok())
    }
}

fn rule_stats<'r>(domain: &Domain, matched: &Match<'r, '_>, entries: &[Entry<'_>]) -> StatsRef<'r> {
    match &matched.rule.counts {
        Some(counts) => StatsRef::Rule(counts),
        None => StatsRef::Named(Box::new(matched.stats_path(domain.name(), entries))),
    }
}

#[cfg(test)]
mod tests;
