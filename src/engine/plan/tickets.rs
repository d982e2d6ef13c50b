//! Plans of descriptors that release, extend or settle the holds of a ticket.

use super::{Context, Item, Limited, Plan};
use crate::engine::reserve::{Action, Extension, MAX_TTL_SECS, Reserve, Settled, Settlement};
use crate::engine::rules::{Match, Quota, Rules};
use crate::engine::ticket::{self, TicketEntry};
use crate::engine::usage::Usage;
use crate::engine::{Descriptor, FailurePolicy, Hits, KeyWriter, Request};

/// Effect of a call on the holds of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketUse<'a> {
    /// Releases places, and what budgets hold and have not counted.
    End,
    /// Extends the holds, and sets the amounts that budgets hold.
    Extend {
        /// Time from now on, in seconds; [`u32::MAX`] for the TTL of the rule.
        ttl_secs: u32,
        /// Amount that each budget is to hold in all; 0 leaves it as it is.
        amounts: Amounts<'a>,
    },
    /// Releases places, and counts the real amounts of budgets.
    Settle(Amounts<'a>),
    /// Counts the amounts used so far. Budgets still hold the rest, and places stay taken.
    Continue(Amounts<'a>),
}

impl<'a> TicketUse<'a> {
    /// Usage of a language model that the call counts.
    pub const fn usage(&self) -> Option<&'a Usage> {
        match self {
            Self::Settle(amounts) | Self::Continue(amounts) => amounts.usage,
            Self::End | Self::Extend { .. } => None,
        }
    }
}

/// Amounts of the descriptors of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts<'a> {
    /// Amount of descriptors without their own; 0 for the amount of the rule, where the caller may omit it.
    pub of_request: u32,
    /// For each descriptor, true if its hits are its own amount.
    pub own: &'a [bool],
    /// Usage of a language model, from which each budget computes its amount. Replaces the other amounts.
    pub usage: Option<&'a Usage>,
}

impl Amounts<'_> {
    /// No amounts.
    pub const NONE: Self = Self { of_request: 0, own: &[], usage: None };

    /// Amount of the descriptor at `index`.
    pub fn of(&self, index: usize, descriptor: &Descriptor<'_>) -> u32 {
        match (self.own.get(index), descriptor.hits) {
            (Some(true), Hits::Add(amount)) => amount,
            _ => self.of_request,
        }
    }
}

/// Plan of a call that names one ticket for all descriptors of `request`.
pub fn plan_tickets<'r>(
    rules: &'r Rules,
    request: &Request<'_>,
    keys: &KeyWriter,
    ticket: TicketEntry,
    ticket_use: TicketUse<'_>,
) -> Plan<'r> {
    let Some(domain) = rules.domain(request.domain) else {
        let items = request.descriptors.iter().map(|_| Item::NoLimit).collect();
        return Plan { domain_known: false, items, denied_outright: false };
    };
    let context = Context { rules, domain, overrides: None, keys };
    let item = |(index, descriptor): (usize, &Descriptor<'_>)| {
        let matched = domain.find(ticket::split(&descriptor.entries).0);
        let amount = |reserve: &Reserve, amounts: Amounts<'_>| match amounts.usage {
            Some(usage) => domain.amount(&reserve.count, usage),
            None => amounts.of(index, descriptor),
        };
        let action = |reserve: &Reserve| action(reserve, amount, ticket, ticket_use);
        let mut item = context.with_ticket(matched.as_ref(), ticket, descriptor, action);
        if let (TicketUse::Continue(_), Item::Limited(limited)) = (ticket_use, &mut item) {
            // Places stay taken.
            limited.counters.retain(|counter| counter.reserve.is_some());
            if limited.counters.is_empty() {
                return Item::HoldsNothing;
            }
        }
        item
    };
    let items = request.descriptors.iter().enumerate().map(item).collect();
    Plan { domain_known: true, items, denied_outright: false }
}

/// Effect of the call on the holds of a budget; `amount` computes an amount of it.
fn action(
    reserve: &Reserve,
    amount: impl Fn(&Reserve, Amounts<'_>) -> u32,
    entry: TicketEntry,
    ticket_use: TicketUse<'_>,
) -> Option<Action> {
    let settle = |of, amount| Some(Action::Settle(Settlement { of, amount }));
    match (entry, ticket_use) {
        (TicketEntry::Named(ticket), TicketUse::End) => settle(Settled::Rest(ticket), 0),
        (TicketEntry::Named(ticket), TicketUse::Extend { ttl_secs, amounts }) => {
            let ttl_secs = if ttl_secs == u32::MAX { reserve.ttl_secs } else { ttl_secs.min(MAX_TTL_SECS) };
            Some(Action::Extend(Extension { ticket, ttl_secs, amount: amount(reserve, amounts) }))
        }
        (TicketEntry::Named(ticket), TicketUse::Settle(amounts)) => {
            settle(Settled::Whole(ticket), amount(reserve, amounts))
        }
        (TicketEntry::Named(ticket), TicketUse::Continue(amounts)) => {
            settle(Settled::Part(ticket), amount(reserve, amounts))
        }
        (_, TicketUse::Settle(amounts) | TicketUse::Continue(amounts)) => {
            settle(Settled::Nothing, amount(reserve, amounts))
        }
        (TicketEntry::Unknown | TicketEntry::Absent, TicketUse::End | TicketUse::Extend { .. }) => None,
    }
}

impl<'r> Context<'r, '_> {
    /// Item of a descriptor with a ticket. Overrides do not apply: a ticket from before an override
    /// must be released all the same.
    pub(super) fn returned(
        &self,
        matched: Option<&Match<'r, '_>>,
        ticket: TicketEntry,
        descriptor: &Descriptor<'_>,
    ) -> Item<'r> {
        let ticket_use = match descriptor.hits {
            Hits::Add(of_request) if !ticket::is_end(&descriptor.entries) => {
                TicketUse::Settle(Amounts { of_request, own: &[], usage: None })
            }
            Hits::Add(_) | Hits::Refund(_) => TicketUse::End,
        };
        let amount = |_: &Reserve, amounts: Amounts<'_>| amounts.of_request;
        self.with_ticket(matched, ticket, descriptor, |reserve| action(reserve, amount, ticket, ticket_use))
    }

    fn with_ticket(
        &self,
        matched: Option<&Match<'r, '_>>,
        ticket: TicketEntry,
        descriptor: &Descriptor<'_>,
        action: impl Fn(&Reserve) -> Option<Action>,
    ) -> Item<'r> {
        let (entries, _) = ticket::split(&descriptor.entries);
        let Some(matched) = matched else { return Item::HoldsNothing };
        let rule = matched.rule;
        let Quota::Limited(limits) = &rule.quota else { return Item::HoldsNothing };
        let mut limited = self.limited(matched, limits, entries, Hits::Refund(0));
        for counter in &mut limited.counters {
            let reserve = rule.reserve.as_ref();
            let reservation = reserve.and_then(|reserve| Some(reserve.with(action(reserve)?)));
            counter.reserve = reservation.map(Box::new);
        }
        limited.counters.retain(|counter| counter.limit.is_concurrency() || counter.reserve.is_some());
        if limited.counters.is_empty() {
            return Item::HoldsNothing;
        }
        // If the store fails, the places end with their TTL, and a settlement is repeated.
        Item::Limited(Limited { ticket, lockout: None, on_failure: FailurePolicy::Allow, ..limited })
    }
}
