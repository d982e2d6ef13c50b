//! Plans of descriptors that give back what a ticket holds.

use smallvec::SmallVec;

use super::{Context, Item, Limited, Plan};
use crate::engine::rules::{Match, Quota, Rules};
use crate::engine::ticket::{self, TicketEntry};
use crate::engine::{Descriptor, FailurePolicy, Hits, KeyWriter, Request};

/// Plan of a call that names one ticket for all descriptors of `request`.
pub fn plan_tickets<'r>(
    rules: &'r Rules,
    request: &Request<'_>,
    keys: &KeyWriter,
    ticket: TicketEntry,
) -> Plan<'r> {
    let Some(domain) = rules.domain(request.domain) else {
        return Plan { domain_known: false, items: SmallVec::new(), denied_outright: false };
    };
    let context = Context { rules, domain, overrides: None, keys };
    let item = |descriptor: &Descriptor<'_>| {
        context.returned(domain.find(ticket::split(&descriptor.entries).0).as_ref(), ticket, descriptor)
    };
    Plan { domain_known: true, items: request.descriptors.iter().map(item).collect(), denied_outright: false }
}

impl<'r> Context<'r, '_> {
    /// Item of a descriptor that gives back what a ticket holds. Overrides do not apply: what was acquired before
    /// they came into force is given back all the same.
    pub(super) fn returned(
        &self,
        matched: Option<&Match<'r, '_>>,
        ticket: TicketEntry,
        descriptor: &Descriptor<'_>,
    ) -> Item<'r> {
        let (entries, _) = ticket::split(&descriptor.entries);
        let Some(matched) = matched else { return Item::HoldsNothing };
        let Quota::Limited(limits) = &matched.rule.quota else { return Item::HoldsNothing };
        let mut limited = self.limited(matched, limits, entries, Hits::Refund(0));
        limited.counters.retain(|counter| counter.limit.is_concurrency());
        if limited.counters.is_empty() {
            return Item::HoldsNothing;
        }
        // The places end with their TTL if the store fails.
        Item::Limited(Limited { ticket, lockout: None, on_failure: FailurePolicy::Allow, ..limited })
    }
}
