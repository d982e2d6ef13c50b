//! Removal of counters from Redis.

use super::RedisStore;
use super::lockouts::ask;
use super::reply::Reply;
use crate::engine::Timestamp;
use crate::store::Charge;
use crate::store::reset::{CounterReset, ResetFuture};

impl CounterReset for RedisStore {
    /// Denials known to this process are forgotten at once; other replicas know theirs for a second at most.
    fn reset<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ResetFuture<'a> {
        Box::pin(async move {
            let mut removed = 0;
            for (cluster, slot, key) in self.clusters.counters(charges, now) {
                let node = cluster.node_of(slot)?;
                let reply = ask(&node, &[b"DEL", &key]).await.inspect_err(|_| cluster.request_refresh())?;
                removed += usize::from(reply != Reply::Int(0));
            }
            for charge in charges {
                self.denials.iter().for_each(|denials| denials.forget(&charge.key));
                self.leases.iter().for_each(|leases| leases.forget(charge));
            }
            Ok(removed)
        })
    }
}
