//! What to count for a request: its descriptors, matched against the rules.

use smallvec::SmallVec;

use super::rules::{Domain, Match, Quota, Rule, Rules};
use super::tally::{StatsPath, StatsRef};
use super::{ChargeMode, Descriptor, FailurePolicy, Hits, KeyDomain, KeyWriter, Limit, Modes, Request, Vote};
use crate::engine::request::Entry;

/// What a request comes down to: one item for each of its descriptors, in order.
#[derive(Debug)]
pub struct Plan<'r> {
    /// Whether the rules know the request's domain.
    pub domain_known: bool,
    /// One for each descriptor.
    pub items: SmallVec<[Item<'r>; 4]>,
}

/// What one descriptor comes down to.
#[derive(Debug)]
pub enum Item<'r> {
    /// No rule applies, or another matched rule replaces the one that does.
    NoLimit,
    /// A rule lets everything pass.
    Unlimited(&'r Rule),
    /// A limit applies.
    Limited(Limited<'r>),
}

/// A descriptor that a limit applies to: what to charge, and what to say of it.
#[derive(Debug)]
pub struct Limited<'r> {
    /// The rule; `None` where the caller brought its own limit.
    pub rule: Option<&'r Rule>,
    /// The limit, the rule's or the caller's.
    pub limit: Limit,
    /// Names the counter.
    pub key: bytes::Bytes,
    /// What to count.
    pub hits: Hits,
    /// Whether it counts when it is denied.
    pub mode: ChargeMode,
    /// What becomes of it when the store fails.
    pub on_failure: FailurePolicy,
    /// Where the outcome is counted.
    pub stats: StatsRef<'r>,
}

impl Limited<'_> {
    /// What the limit does to the request when it is exceeded.
    pub fn vote(&self, modes: &Modes) -> Vote {
        let is = |flag: fn(&Rule) -> bool| self.rule.is_some_and(flag);
        let is_quota = modes.quota_mode || is(|rule| rule.quota_mode);
        match (is(|rule| rule.shadow_mode), is_quota) {
            (false, false) => Vote::Enforced,
            (false, true) => Vote::Quota,
            (true, false) => Vote::Shadow,
            (true, true) => Vote::ShadowQuota,
        }
    }
}

impl<'r> Plan<'r> {
    /// The descriptors that a limit applies to, in order.
    pub fn limited(&self) -> impl Iterator<Item = &Limited<'r>> {
        self.items.iter().filter_map(|item| match item {
            Item::Limited(limited) => Some(limited),
            Item::NoLimit | Item::Unlimited(_) => None,
        })
    }
}

/// Matches every descriptor of `request`, drops the rules that others replace, and names the counters
/// of the rest.
pub fn plan<'r>(rules: &'r Rules, request: &Request<'_>, keys: &KeyWriter) -> Plan<'r> {
    let Some(domain) = rules.domain(request.domain) else {
        let items = request.descriptors.iter().map(|_| Item::NoLimit).collect();
        return Plan { domain_known: false, items };
    };
    let key_domain = KeyDomain { name: request.domain, hash_tag: domain.hash_tag() };
    let found: SmallVec<[Found<'r, '_>; 4]> = request.descriptors.iter().map(|d| find(domain, d)).collect();
    let items = request
        .descriptors
        .iter()
        .zip(&found)
        .map(|(descriptor, own)| match own {
            Found::Nothing => Item::NoLimit,
            Found::Rule(matched) if is_replaced(matched.rule, &found) => Item::NoLimit,
            Found::Rule(matched) => match matched.rule.quota {
                Quota::Unlimited => Item::Unlimited(matched.rule),
                Quota::Limited(limit) => Item::Limited(Limited {
                    rule: Some(matched.rule),
                    limit,
                    key: keys.key(key_domain, &descriptor.entries, Some(matched), limit),
                    hits: descriptor.hits,
                    mode: matched.rule.charge,
                    on_failure: matched.rule.on_backend_failure,
                    stats: rule_stats(domain, matched, &descriptor.entries),
                }),
            },
            Found::Override(limit) => Item::Limited(Limited {
                rule: None,
                limit: *limit,
                key: keys.key(key_domain, &descriptor.entries, None, *limit),
                hits: descriptor.hits,
                mode: rules.default_charge(),
                on_failure: rules.default_on_backend_failure(),
                stats: StatsRef::Named(Box::new(StatsPath::of_values(domain.name(), &descriptor.entries))),
            }),
        })
        .collect();
    Plan { domain_known: true, items }
}

#[expect(clippy::large_enum_variant, reason = "most of them are rules, and a box would allocate for each")]
enum Found<'r, 'a> {
    Nothing,
    Rule(Match<'r, 'a>),
    Override(Limit),
}

/// A limit that the caller brings takes the place of the rules, whether or not one would match.
fn find<'r, 'a>(domain: &'r Domain, descriptor: &Descriptor<'a>) -> Found<'r, 'a> {
    match descriptor.limit_override {
        Some(limit) => Found::Override(limit),
        None => domain.find(&descriptor.entries).map_or(Found::Nothing, Found::Rule),
    }
}

/// Whether a rule that another descriptor of the request matched names `rule` in its `replaces`. An
/// unlimited rule is never replaced, and a rule without a name cannot be.
fn is_replaced(rule: &Rule, found: &[Found<'_, '_>]) -> bool {
    let (Quota::Limited(_), Some(name)) = (rule.quota, &rule.name) else { return false };
    found.iter().any(|other| match other {
        Found::Rule(other) => other.rule.replaces.contains(name),
        Found::Nothing | Found::Override(_) => false,
    })
}

fn rule_stats<'r>(domain: &Domain, matched: &Match<'r, '_>, entries: &[Entry<'_>]) -> StatsRef<'r> {
    match &matched.rule.counts {
        Some(counts) => StatsRef::Rule(counts),
        None => StatsRef::Named(Box::new(matched.stats_path(domain.name(), entries))),
    }
}

#[cfg(test)]
mod tests;
