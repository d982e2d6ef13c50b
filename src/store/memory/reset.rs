//! Removal of counters from memory.

use std::future;

use super::MemoryStore;
use crate::engine::Timestamp;
use crate::store::Charge;
use crate::store::reset::{CounterReset, ResetFuture};

impl CounterReset for MemoryStore {
    fn reset<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ResetFuture<'a> {
        let remove = |charge: &Charge| {
            let hash = self.hash(&charge.key, charge.limit);
            let mut stripe = self.stripes[self.stripe_index(hash)].lock();
            let found = stripe.counters.find(hash, |counter| counter.is(&charge.key, charge.limit));
            let Some(counter) = found else { return false };
            let is_current = counter.end_secs() > now.as_secs();
            let before = stripe.usage;
            stripe.remove(hash, &charge.key, charge.limit);
            self.room.account(before, stripe.usage);
            is_current
        };
        Box::pin(future::ready(Ok(charges.iter().filter(|charge| remove(charge)).count())))
    }
}
