//! Plans of calls about budgets, which differ from those of a request for a decision.

use super::tickets::Amounts;
use super::{Item, Plan};
use crate::engine::reserve::{Action, MAX_TTL_SECS, Opening, Settled, Settlement};
use crate::engine::{Hits, Request, Ticket};

/// Holds that a caller asks for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding<'a> {
    /// Amounts of the descriptors.
    pub amounts: Amounts<'a>,
    /// TTL in seconds; [`u32::MAX`] for that of the rule.
    pub ttl_secs: u32,
    /// Ticket that the caller has named.
    pub named: Option<Ticket>,
}

impl Plan<'_> {
    /// Opens holds of these amounts under every budget, whatever the hits of its descriptor.
    pub fn hold(&mut self, holding: &Holding<'_>, request: &Request<'_>) {
        let Holding { amounts, ttl_secs, named } = *holding;
        for ((index, item), descriptor) in self.items.iter_mut().enumerate().zip(&request.descriptors) {
            let Item::Limited(limited) = item else { continue };
            let Some(reserve) = limited.rule.and_then(|rule| rule.reserve.as_ref()) else { continue };
            for counter in &mut limited.counters {
                let opening = reserve.opening(counter.limit, amounts.of(index, descriptor));
                let ttl_secs =
                    if ttl_secs == u32::MAX { opening.ttl_secs } else { ttl_secs.min(MAX_TTL_SECS) };
                let opening = Opening { ttl_secs, ticket: named, is_named: named.is_some(), ..opening };
                if let Some(of) = &mut counter.reserve {
                    of.action = Action::Open(opening);
                }
            }
        }
    }

    /// Opens the hold that the rule names, where a request without hits only looks.
    pub fn hold_for_looks(&mut self) {
        for limited in self.limited_mut().filter(|limited| limited.hits == Hits::Add(0)) {
            let Some(reserve) = limited.rule.and_then(|rule| rule.reserve.as_ref()) else { continue };
            for counter in &mut limited.counters {
                let opening = reserve.opening(counter.limit, 0);
                if let Some(of) = counter.reserve.as_mut().filter(|of| of.action == Action::Look) {
                    of.action = Action::Open(opening);
                }
            }
        }
    }

    /// Decides and counts hits, where a caller has asked neither for a hold nor for its end.
    pub fn hold_nothing(&mut self) {
        let is_anonymous = |action: &Action| {
            matches!(
                action,
                Action::Open(Opening { is_anonymous: true, .. })
                    | Action::Settle(Settlement { of: Settled::Oldest, .. })
            )
        };
        self.look_where(is_anonymous);
    }

    /// Only looks at every budget.
    pub fn look_only(&mut self) {
        self.look_where(|_| true);
    }

    fn look_where(&mut self, is_look: impl Fn(&Action) -> bool) {
        for item in &mut self.items {
            let Item::Limited(limited) = item else { continue };
            for reserve in limited.counters.iter_mut().filter_map(|counter| counter.reserve.as_mut()) {
                if is_look(&reserve.action) {
                    reserve.action = Action::Look;
                }
            }
        }
    }
}
