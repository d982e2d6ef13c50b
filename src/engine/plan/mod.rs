//! Planning: matches the descriptors of a request against the rules and names the counters to charge.

mod holds;
pub mod tickets;

use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use super::algorithm::group::counts_only_if_allowed;
use super::hit_counts::{StatsPath, StatsRef};
use super::lockout::LockoutSchedule;
use super::overrides::{self, DomainOverrides, Effect, OverridesAt};
use super::reserve::Reservation;
use super::rules::{Domain, Match, NamedLimit, Quota, Rule, Rules};
use super::ticket::{self, TicketEntry};
use super::{
    ChargeMode, Descriptor, Enforcement, FailurePolicy, Hits, KeyWriter, LeaseTerms, Limit, Modes, Request,
};
use crate::engine::request::Entry;

mod names;

pub use self::holds::Holding;
use self::names::key_domain;

/// Plan of a request.
#[derive(Debug)]
pub struct Plan<'r> {
    /// True if the request's domain has rules.
    pub domain_known: bool,
    /// Item of each descriptor, in order.
    pub items: SmallVec<[Item<'r>; 4]>,
    /// True if the request is denied whatever its counters hold: a descriptor exceeds its rule's `max_hits`, or an
    /// operator has blocked it.
    pub denied_outright: bool,
}

/// Plan of one descriptor.
#[derive(Debug)]
pub enum Item<'r> {
    /// No rule applies.
    NoLimit,
    /// Another matched rule replaces the one that applies.
    Replaced,
    /// The descriptor names a ticket, but no limit that applies to it is held under a ticket.
    HoldsNothing,
    /// A rule without a limit applies.
    Unlimited(&'r Rule),
    /// A limit applies.
    Limited(Limited<'r>),
    /// An operator has exempted the descriptor from the rule, if one matches.
    Exempt(Option<&'r Rule>),
    /// An operator has blocked the descriptor.
    Blocked(Blocked<'r>),
}

/// Descriptor that an operator has blocked.
#[derive(Debug)]
pub struct Blocked<'r> {
    /// Rule, if one matches.
    pub rule: Option<&'r Rule>,
    /// Time until the block ends.
    pub wait: Duration,
    /// Hits to count.
    pub hits: Hits,
    /// Counts for metrics.
    pub stats: StatsRef<'r>,
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
    /// Charge mode: effect of a denial on the counters.
    pub mode: ChargeMode,
    /// Result if the store fails.
    pub on_failure: FailurePolicy,
    /// Counts for metrics.
    pub stats: StatsRef<'r>,
    /// True for the limit of an override, in place of everything that the rule says about limits.
    pub overridden: bool,
    /// Ticket that the descriptor names. If there is one, `counters` has only those that are held under it.
    pub ticket: TicketEntry,
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
    /// Terms of leases, if the limit is leased.
    pub lease: Option<LeaseTerms>,
    /// Effect on the holds of a budget.
    pub reserve: Option<Box<Reservation>>,
}

impl Counter<'_> {
    /// Hits and mode to charge the counter with, for a descriptor with `hits` and a rule with the mode `of_rule`.
    pub fn charged(&self, hits: Hits, of_rule: ChargeMode) -> (Hits, ChargeMode) {
        let own = self.reserve.as_ref().and_then(|reserve| reserve.action.hits());
        own.unwrap_or((hits, self.mode(of_rule)))
    }

    /// Mode to charge the counter with, for a rule with the mode `of_rule`. A denied request never takes a place.
    pub const fn mode(&self, of_rule: ChargeMode) -> ChargeMode {
        if self.limit.is_concurrency() { ChargeMode::IfAllowed } else { of_rule }
    }
}

/// True if hits are not charged, because the request is already denied and this mode counts only requests that pass.
pub fn is_withheld(is_denied: bool, mode: ChargeMode, hits: Hits) -> bool {
    is_denied && counts_only_if_allowed(mode, hits) && hits != Hits::Add(0)
}

impl Limited<'_> {
    /// True if the descriptor has more hits than its rule allows in one request.
    pub fn is_too_large(&self) -> bool {
        let max_hits = self.rule.filter(|_| !self.overridden).and_then(|rule| rule.max_hits);
        matches!((self.hits, max_hits), (Hits::Add(hits), Some(max)) if hits > max)
    }

    /// True in shadow mode: the limit is counted and reported, and denies nothing.
    pub fn is_shadow(&self) -> bool {
        !self.enforced || self.rule.is_some_and(|rule| rule.shadow_mode && !self.overridden)
    }

    /// Effect on the request if one of the limits is exceeded.
    pub fn enforcement(&self, modes: &Modes) -> Enforcement {
        // A rule with several limits cannot be a quota, not even with QUOTA_MODE.
        let may_be_quota = self.counters.len() == 1
            && !self.overridden
            && !self.counters.iter().any(|counter| counter.limit.is_concurrency());
        let is_quota = may_be_quota && (modes.quota_mode || self.rule.is_some_and(|rule| rule.quota_mode));
        match (self.is_shadow(), is_quota) {
            (false, false) => Enforcement::Enforced,
            (false, true) => Enforcement::Quota,
            (true, false) => Enforcement::Shadow,
            (true, true) => Enforcement::ShadowQuota,
        }
    }
}

impl Item<'_> {
    /// True if the item denies the request by itself.
    const fn is_blocked(&self) -> bool {
        matches!(self, Self::Blocked(Blocked { hits: Hits::Add(_), .. }))
    }
}

impl<'r> Item<'r> {
    /// Limits of the descriptor, if there are any.
    pub const fn limited(&self) -> Option<&Limited<'r>> {
        match self {
            Self::Limited(limited) => Some(limited),
            Self::NoLimit
            | Self::Replaced
            | Self::HoldsNothing
            | Self::Unlimited(_)
            | Self::Exempt(_)
            | Self::Blocked(_) => None,
        }
    }
}

impl<'r> Plan<'r> {
    /// Descriptors with a limit, in order.
    pub fn limited(&self) -> impl Iterator<Item = &Limited<'r>> {
        self.items.iter().filter_map(Item::limited)
    }

    /// Descriptors with a limit, in order, to be changed.
    pub fn limited_mut(&mut self) -> impl Iterator<Item = &mut Limited<'r>> {
        self.items
            .iter_mut()
            .filter_map(|item| if let Item::Limited(limited) = item { Some(limited) } else { None })
    }
}

/// Matches every descriptor of `request`, drops the rules that others replace, and names the counters of the
/// rest.
pub fn plan<'r>(rules: &'r Rules, request: &Request<'_>, keys: &KeyWriter) -> Plan<'r> {
    plan_with(rules, None, request, keys)
}

/// [`plan()`] with the overrides in force.
pub fn plan_with<'r, 'a>(
    rules: &'r Rules,
    overrides: Option<OverridesAt<'r>>,
    request: &Request<'a>,
    keys: &KeyWriter,
) -> Plan<'r> {
    let Some(domain) = rules.domain(request.domain) else {
        let items = request.descriptors.iter().map(|_| Item::NoLimit).collect();
        return Plan { domain_known: false, items, denied_outright: false };
    };
    let found: SmallVec<[Lookup<'r, 'a>; 4]> = request.descriptors.iter().map(|d| find(domain, d)).collect();
    let replaced = ReplacedNames::by(&found);
    let context = Context { rules, domain, overrides, keys };
    let of_domain = overrides.and_then(|overrides| overrides.domain(request.domain));
    let item = |(descriptor, own): (&Descriptor<'a>, &Lookup<'r, 'a>)| {
        let overridden = of_domain.and_then(|overrides| context.overridden(overrides, descriptor, own));
        overridden.unwrap_or_else(|| context.item(descriptor, own, &replaced))
    };
    let items: SmallVec<_> = request.descriptors.iter().zip(&found).map(item).collect();
    let mut plan = Plan { domain_known: true, items, denied_outright: false };
    let is_too_large = plan.limited().any(|limited| limited.is_too_large() && !limited.is_shadow());
    plan.denied_outright = is_too_large || plan.items.iter().any(Item::is_blocked);
    plan
}

/// Arguments of a plan that all descriptors have in common.
#[derive(Clone, Copy)]
struct Context<'r, 'k> {
    rules: &'r Rules,
    domain: &'r Domain,
    overrides: Option<OverridesAt<'r>>,
    keys: &'k KeyWriter,
}

impl<'r> Context<'r, '_> {
    /// Item of a descriptor without an override.
    fn item(
        &self,
        descriptor: &Descriptor<'_>,
        own: &Lookup<'r, '_>,
        replaced: &ReplacedNames<'r>,
    ) -> Item<'r> {
        let Self { rules, domain, keys, .. } = *self;
        match own {
            Lookup::NoMatch => Item::NoLimit,
            Lookup::Rule(matched) if replaced.contains(matched.rule) => Item::Replaced,
            Lookup::Rule(matched) => match &matched.rule.quota {
                Quota::Unlimited => Item::Unlimited(matched.rule),
                Quota::Limited(limits) => {
                    Item::Limited(self.limited(matched, limits, &descriptor.entries, descriptor.hits))
                }
            },
            Lookup::Override(limit) => Item::Limited(Limited {
                rule: None,
                counters: smallvec![Counter {
                    limit: *limit,
                    name: None,
                    key: keys.key(key_domain(domain), &descriptor.entries, None, *limit),
                    lease: None,
                    reserve: None,
                }],
                lockout: None,
                enforced: true,
                hits: descriptor.hits,
                mode: rules.default_charge(),
                on_failure: rules.default_on_backend_failure(),
                stats: StatsRef::Named(Box::new(StatsPath::of_values(domain.name(), &descriptor.entries))),
                overridden: false,
                ticket: TicketEntry::Absent,
            }),
            Lookup::Ticket(matched, ticket) => self.returned(matched.as_ref(), *ticket, descriptor),
        }
    }

    /// Item of a descriptor with an override; `None` if none of `overrides` is for it.
    fn overridden<'a>(
        &self,
        overrides: DomainOverrides<'r>,
        descriptor: &Descriptor<'a>,
        own: &Lookup<'r, 'a>,
    ) -> Option<Item<'r>> {
        let Self { rules, domain, keys, .. } = *self;
        let Descriptor { entries, hits, .. } = descriptor;
        let beside_limit;
        let matched = match own {
            Lookup::Ticket(..) => return None,
            Lookup::NoMatch => None,
            Lookup::Rule(matched) => Some(matched),
            Lookup::Override(_) => {
                beside_limit = domain.find(entries);
                beside_limit.as_ref()
            }
        };
        let found = overrides.find(entries, matched)?;
        let rule = matched.map(|matched| matched.rule);
        let stats = || match matched {
            Some(matched) => rule_stats(domain, matched, entries),
            None => StatsRef::Named(Box::new(StatsPath {
                domain: domain.name().into(),
                parts: vec![overrides::NAME.into()],
            })),
        };
        let (hits, ends_at) = (*hits, found.ends_at);
        Some(match found.effect {
            Effect::Exempt => Item::Exempt(rule),
            Effect::Block => {
                let wait = overrides.ends_in(ends_at);
                Item::Blocked(Blocked { rule, wait, hits, stats: stats() })
            }
            Effect::Limit(limit) => Item::Limited(Limited {
                rule,
                counters: smallvec![Counter {
                    limit,
                    name: Some(overrides::NAME),
                    key: keys.key(
                        self.override_domain(matched, entries, limit),
                        &found.as_entries(),
                        None,
                        limit
                    ),
                    lease: None,
                    reserve: None,
                }],
                lockout: None,
                enforced: true,
                hits,
                mode: rule.map_or(rules.default_charge(), |rule| rule.charge),
                on_failure: rule.map_or(rules.default_on_backend_failure(), |rule| rule.on_backend_failure),
                stats: stats(),
                overridden: true,
                ticket: TicketEntry::Absent,
            }),
        })
    }

    fn limited(
        &self,
        matched: &Match<'r, '_>,
        limits: &'r [NamedLimit],
        entries: &[Entry<'_>],
        hits: Hits,
    ) -> Limited<'r> {
        let Self { domain, keys, .. } = *self;
        let Match { rule, .. } = *matched;
        let enforced = self.is_enforced(matched, entries);
        let lockout_name = self.lockout_name(matched, entries, enforced);
        let key_domain = self.key_domain(matched, entries, lockout_name.as_ref());
        let lockout = rule.penalty.as_ref().zip(lockout_name).map(|(penalty, lockout_name)| Lockout {
            schedule: &penalty.schedule,
            key: keys.lockout_key(key_domain, &lockout_name),
        });
        let counter = |NamedLimit { limit, name, lease }: &'r NamedLimit| Counter {
            limit: *limit,
            name: name.as_deref(),
            key: keys.key(key_domain, entries, Some(matched), *limit),
            lease: *lease,
            reserve: rule.reserve.as_ref().map(|reserve| Box::new(reserve.of_hits(*limit, hits))),
        };
        Limited {
            rule: Some(rule),
            counters: limits.iter().map(counter).collect(),
            lockout,
            enforced,
            hits,
            mode: rule.charge,
            on_failure: rule.on_backend_failure,
            stats: rule_stats(domain, matched, entries),
            overridden: false,
            ticket: TicketEntry::Absent,
        }
    }
}

enum Lookup<'r, 'a> {
    NoMatch,
    Rule(Match<'r, 'a>),
    Override(Limit),
    /// Rule of the entries before a ticket, if one matches.
    Ticket(Option<Match<'r, 'a>>, TicketEntry),
}

/// A limit in the request takes precedence over the rules, and a ticket over both, since only rules have holds.
fn find<'r, 'a>(domain: &'r Domain, descriptor: &Descriptor<'a>) -> Lookup<'r, 'a> {
    match (ticket::split(&descriptor.entries), descriptor.limit_override) {
        ((entries, TicketEntry::Absent), None) => domain.find(entries).map_or(Lookup::NoMatch, Lookup::Rule),
        ((_, TicketEntry::Absent), Some(limit)) => Lookup::Override(limit),
        ((entries, ticket), _) => Lookup::Ticket(domain.find(entries), ticket),
    }
}

/// Names in the `replaces` of all rules that the request matched. Sorted for binary search, since a request may
/// have a thousand descriptors.
struct ReplacedNames<'r>(SmallVec<[&'r str; 8]>);

impl<'r> ReplacedNames<'r> {
    fn by(found: &[Lookup<'r, '_>]) -> Self {
        let replaces = |found: &Lookup<'r, '_>| match found {
            Lookup::Rule(matched) => &matched.rule.replaces[..],
            Lookup::NoMatch | Lookup::Override(_) | Lookup::Ticket(..) => &[],
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
