//! Names of counters and lockouts: the domain of their keys.

use super::Context;
use crate::engine::rules::{Domain, Match};
use crate::engine::{DescriptorHash, Entry, HashTag, KeyDomain, Limit, LockoutName};

impl<'r> Context<'r, '_> {
    /// True if denials by the rule are enforced for `entries`.
    pub(super) fn is_enforced(&self, matched: &Match<'r, '_>, entries: &[Entry<'_>]) -> bool {
        let enforce_percent = matched.rule.enforce_percent;
        let hash = || DescriptorHash::of(self.domain.name().as_bytes(), entries, matched).as_u64();
        !self.overrides.is_some_and(|overrides| overrides.shadows(matched.rule))
            && (enforce_percent.is_all() || enforce_percent.includes(hash()))
    }

    /// Name of the lockout of `entries`, if the rule has one.
    pub(super) fn lockout_name(
        &self,
        matched: &Match<'r, '_>,
        entries: &[Entry<'_>],
        enforced: bool,
    ) -> Option<LockoutName> {
        let Match { rule, .. } = *matched;
        let penalty = rule.penalty.as_ref()?;
        let enforced = enforced && !rule.shadow_mode;
        Some(LockoutName::of(self.domain.name(), entries, matched, penalty, enforced))
    }

    /// Domain of the counters of the rule. Those that are decided together are in one slot of a Cluster.
    pub(super) fn key_domain(
        &self,
        matched: &Match<'r, '_>,
        entries: &[Entry<'_>],
        lockout_name: Option<&LockoutName>,
    ) -> KeyDomain<'r> {
        let Self { domain, keys, .. } = *self;
        let only_limit = matched.rule.limits().len() == 1;
        let mut key_domain = KeyDomain { only_limit, ..key_domain(domain) };
        if keys.is_for_cluster() && key_domain.hash_tag.is_none() {
            let hash = || DescriptorHash::of(domain.name().as_bytes(), entries, matched);
            key_domain.hash_tag = match lockout_name {
                Some(lockout_name) => Some(HashTag::Descriptor(lockout_name.hash())),
                // The holds of a budget lie beside its counter.
                None if matched.rule.limits().len() > 1 || matched.rule.reserve.is_some() => {
                    Some(HashTag::Descriptor(hash()))
                }
                None => None,
            };
        }
        key_domain
    }

    /// Domain of the counter of an override: the rule's, so that it counts on from what the rule has counted.
    pub(super) fn override_domain(
        &self,
        matched: Option<&Match<'r, '_>>,
        entries: &[Entry<'_>],
        limit: Limit,
    ) -> KeyDomain<'r> {
        let Some(matched) = matched else { return key_domain(self.domain) };
        let lockout_name = self.lockout_name(matched, entries, self.is_enforced(matched, entries));
        // Keys of envoyproxy/ratelimit do not name the window: two that begin together would share a counter.
        let has_window = matched.rule.limits().iter().any(|of| of.limit.window == limit.window);
        let key_domain = self.key_domain(matched, entries, lockout_name.as_ref());
        KeyDomain { only_limit: key_domain.only_limit && has_window, ..key_domain }
    }
}

/// Domain of counters without a rule.
pub(super) fn key_domain(domain: &Domain) -> KeyDomain<'_> {
    let hash_tag = domain.hash_tag().then_some(HashTag::Domain);
    KeyDomain { name: domain.name().as_bytes(), hash_tag, only_limit: true }
}
