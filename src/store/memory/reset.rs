//! Removal of counters from memory.

use std::future;

use super::MemoryStore;
use super::budgets::{change_budget, drop_empty};
use super::group::find_stripe;
use crate::engine::Timestamp;
use crate::store::Charge;
use crate::store::reset::{CounterReset, ResetFuture};

impl CounterReset for MemoryStore {
    fn reset<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ResetFuture<'a> {
        Box::pin(future::ready(Ok(charges.iter().filter(|charge| self.remove(charge, now)).count())))
    }
}

impl MemoryStore {
    /// Removes the counter of `charge`. Returns whether there was one.
    fn remove(&self, charge: &Charge, now: Timestamp) -> bool {
        let member = self.member(&charge.key, charge.limit, charge.rule);
        let mut stripes = self.lock_all([member.stripe].into_iter());
        let Some(is_current) = member.find(&mut stripes).map(|counter| counter.end_secs() > now.as_secs())
        else {
            return false;
        };
        let terms = charge.reserve.as_ref().map(|reserve| reserve.terms);
        let was_used = terms.and_then(|terms| {
            let was_used =
                change_budget(&member, &mut stripes, |state| state.reset(charge.limit, terms, now));
            drop_empty(&member, &mut stripes, now);
            was_used
        });
        if let Some(stripe) = find_stripe(&mut stripes, member.stripe) {
            if was_used.is_none() {
                stripe.remove(member.hash, member.key, member.limit);
            }
            self.room.account(stripe);
        }
        was_used.unwrap_or(is_current)
    }
}
