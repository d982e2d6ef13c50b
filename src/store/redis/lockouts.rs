//! Who is locked out, as far as Redis knows: looked for among all keys, a server after the other.

use std::time::Duration;

use bytes::Bytes;
use fred::types::{CustomCommand, FromValue, Value};
use tokio::time;

use super::RedisStore;
use super::servers::Servers;
use super::shard::Shard;
use crate::engine::key::LOCKOUT_MARK;
use crate::engine::lockout::State;
use crate::engine::{KeyWriter, Timestamp};
use crate::store::StoreError;
use crate::store::lockouts::{Asking, Blocked, Lockouts, MAX_LISTED};

/// Keys that a server looks through before it serves others.
const KEYS_PER_STEP: i64 = 1_000;

const LIFT: &str = include_str!("lift.lua");

/// How long one question may take. Nobody's request waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

impl Lockouts for RedisStore {
    fn list<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp) -> Asking<'a, Vec<Blocked>> {
        Box::pin(list(&self.servers.all, keys, now))
    }

    fn lift<'a>(&'a self, key: &'a Bytes) -> Asking<'a, bool> {
        // Whatever the window of its limits, a lockout is kept where most counters are.
        let servers = &self.servers.all;
        Box::pin(async move {
            let shard = servers.server_of(servers.slot(key))?;
            let arguments = vec![LIFT.into(), 1.into(), key.clone().into()];
            let lifted: i64 = ask(&shard, "EVAL", arguments).await?;
            Ok(lifted > 0)
        })
    }
}

async fn ask<T: FromValue>(
    shard: &Shard,
    name: &'static str,
    arguments: Vec<Value>,
) -> Result<T, StoreError> {
    shard.ready(ANSWER_TIMEOUT).await?;
    let asked = shard.command(CustomCommand::new_static(name, None, false), arguments);
    time::timeout(ANSWER_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unanswered(format!("{}: no answer in time", shard.server()))))
}

async fn list(servers: &Servers, keys: &KeyWriter, now: Timestamp) -> Result<Vec<Blocked>, StoreError> {
    let pattern = Bytes::from([&*escaped(keys.prefix()), b"*", LOCKOUT_MARK, b"*"].concat());
    let mut listed = Vec::new();
    for shard in servers.every_server()? {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let arguments: Vec<Value> = vec![
                cursor.into(),
                "MATCH".into(),
                pattern.clone().into(),
                "COUNT".into(),
                KEYS_PER_STEP.into(),
            ];
            let (next, found): (Bytes, Vec<Bytes>) = ask(&shard, "SCAN", arguments).await?;
            for key in found.into_iter().filter(|key| keys.read_lockout_key(key).is_some()) {
                let text: Option<Bytes> = match ask(&shard, "GET", vec![key.clone().into()]).await {
                    // It moved away, or somebody else wrote it.
                    Err(StoreError::Refused(_)) => None,
                    text => text?,
                };
                let state = text.and_then(|text| State::read(&text));
                listed.extend(state.and_then(|state| Blocked::new(key, state, keys, now)));
                if listed.len() >= MAX_LISTED {
                    return Ok(listed);
                }
            }
            if *next == *b"0" {
                break;
            }
            cursor = next;
        }
    }
    Ok(listed)
}

/// A text that a pattern of Redis takes as it is.
fn escaped(text: &[u8]) -> Vec<u8> {
    let is_special = |byte: u8| b"*?[]\\^-".contains(&byte);
    text.iter().flat_map(|byte| is_special(*byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}
