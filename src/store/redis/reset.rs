//! Removal of counters from Redis.

use super::RedisStore;
use super::lockouts::ask;
use super::node_client::NodeClient;
use super::reply::Reply;
use super::slot_groups::Counter;
use crate::engine::Timestamp;
use crate::store::reset::{CounterReset, ResetFuture};
use crate::store::{Charge, StoreError};

const RESET: &str = include_str!("reset.lua");

impl CounterReset for RedisStore {
    /// Denials known to this process are forgotten at once; other replicas know theirs for a second at most.
    fn reset<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ResetFuture<'a> {
        Box::pin(async move {
            let mut removed = 0;
            for counter in self.clusters.counters(charges, now) {
                let node = counter.cluster.node_of(counter.slot)?;
                let reply = remove(&node, &counter).await;
                let reply = reply.inspect_err(|_| counter.cluster.request_refresh())?;
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

async fn remove(node: &NodeClient, Counter { key, reserve, .. }: &Counter<'_>) -> Result<Reply, StoreError> {
    let Some(reserve) = reserve else { return ask(node, &[b"DEL", key]).await };
    let ([holds, amounts], _) = reserve.keys();
    let memory_secs = reserve.reservation.terms.memory_secs.to_string();
    ask(node, &[b"EVAL", RESET.as_bytes(), b"3", key, &holds, &amounts, memory_secs.as_bytes()]).await
}
