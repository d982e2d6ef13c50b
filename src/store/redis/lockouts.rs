//! Lockouts in Redis: listed for operators, and lifted.
//!
//! A search goes through all keys with `SCAN`, one node after the other. An index (a sorted set for each slot)
//! would be quicker to read, but every strike would write it in the same script, it would hold lockouts that
//! have expired, and it would miss those that an older version left. Operators list rarely, requests strike
//! often: so the search pays. It is paced instead, and one runs at a time, so that it takes a fifth of a node's
//! time at most, however many ask for it and however many keys there are.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use tokio::time::{self, Instant};

use super::RedisStore;
use super::cluster::Cluster;
use super::node_client::NodeClient;
use super::reply::Reply;
use crate::engine::key::LOCKOUT_PREFIX;
use crate::engine::lockout::LockoutState;
use crate::engine::{KeyWriter, Timestamp};
use crate::store::StoreError;
use crate::store::lockouts::{ActiveLockout, Found, LockoutFuture, Lockouts};

/// Keys that one SCAN step examines. Redis serves no other client meanwhile, for about 0.2 ms.
const KEYS_PER_STEP: &[u8] = b"500";
/// Pause after each step, as a multiple of the step's duration, so that a busy server has less to do.
const PAUSE_FACTOR: u32 = 4;
const MIN_PAUSE: Duration = Duration::from_millis(1);

const LIFT: &str = include_str!("lift.lua");

/// Timeout of one query. No rate-limit request waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

impl Lockouts for RedisStore {
    fn search<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp, found: &'a Found) -> LockoutFuture<'a, ()> {
        Box::pin(async move {
            let _one_at_a_time = self.listing.lock().await;
            search(&self.clusters.all, keys, now, found).await
        })
    }

    fn is_blocked<'a>(&'a self, key: &'a Bytes, now: Timestamp) -> LockoutFuture<'a, bool> {
        let cluster = &self.clusters.all;
        Box::pin(async move {
            let node = cluster.node_of(cluster.slot(key))?;
            Ok(read(&node, key).await?.is_some_and(|state| state.is_blocked(now)))
        })
    }

    fn lift<'a>(&'a self, key: &'a Bytes) -> LockoutFuture<'a, bool> {
        // Whatever the window of its limits, a lockout is kept where most counters are.
        let cluster = &self.clusters.all;
        Box::pin(async move {
            let node = cluster.node_of(cluster.slot(key))?;
            Ok(ask(&node, &[b"EVAL", LIFT.as_bytes(), b"1", key]).await? != Reply::Int(0))
        })
    }
}

/// Reply to a command that is no charge.
pub(super) async fn ask(node: &NodeClient, command: &[&[u8]]) -> Result<Reply, StoreError> {
    node.ready(ANSWER_TIMEOUT).await?;
    match node.command(command, ANSWER_TIMEOUT).await? {
        Reply::Error(text) => Err(StoreError::Rejected(text)),
        reply => Ok(reply),
    }
}

async fn search(
    cluster: &Cluster,
    keys: &KeyWriter,
    now: Timestamp,
    found: &Found,
) -> Result<(), StoreError> {
    let pattern = Bytes::from([&*escaped(keys.prefix()), b"*", LOCKOUT_PREFIX, b"*"].concat());
    for node in cluster.nodes()? {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let begun = Instant::now();
            let (next, mut named) = scan(&node, &cursor, &pattern).await?;
            named.retain(|key| keys.parse_lockout_key(key).is_some());
            let states = future::try_join_all(named.iter().map(|key| read(&node, key))).await?;
            let states = named.into_iter().zip(states);
            if !found.add(states.filter_map(|(key, state)| ActiveLockout::new(key, state?, keys, now))) {
                return Ok(());
            }
            time::sleep((begun.elapsed() * PAUSE_FACTOR).max(MIN_PAUSE)).await;
            if *next == *b"0" {
                break;
            }
            cursor = next;
        }
    }
    Ok(())
}

/// One step of a `SCAN`: the next cursor, and keys that match `pattern`.
async fn scan(node: &NodeClient, cursor: &Bytes, pattern: &Bytes) -> Result<(Bytes, Vec<Bytes>), StoreError> {
    let page: [&[u8]; 6] = [b"SCAN", cursor, b"MATCH", pattern, b"COUNT", KEYS_PER_STEP];
    let mut page = ask(node, &page).await?.into_items().into_iter();
    let (Some(Reply::Text(next)), Some(found)) = (page.next(), page.next()) else {
        return Err(StoreError::Rejected("SCAN returned no page".to_owned()));
    };
    let found = found.into_items().into_iter().filter_map(|key| match key {
        Reply::Text(key) => Some(key),
        Reply::Int(_) | Reply::Nil | Reply::Error(_) | Reply::Array(_) => None,
    });
    Ok((next, found.collect()))
}

/// The lockout of `key`; `None` if it has expired or moved to another node meanwhile, or the key holds something else.
async fn read(node: &NodeClient, key: &Bytes) -> Result<Option<LockoutState>, StoreError> {
    match ask(node, &[b"GET", key]).await {
        Ok(Reply::Text(text)) => Ok(LockoutState::parse(&text)),
        Ok(_) | Err(StoreError::Rejected(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A text that a pattern of Redis takes as it is.
fn escaped(text: &[u8]) -> Vec<u8> {
    let is_special = |byte: u8| b"*?[]\\^-".contains(&byte);
    text.iter().flat_map(|byte| is_special(*byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}
