//! Who is locked out, as far as Redis knows: looked for among all keys, a server after the other.

use bytes::Bytes;
use fred::types::{CustomCommand, Value};

use super::RedisStore;
use super::servers::Servers;
use crate::engine::key::LOCKOUT_MARK;
use crate::engine::lockout::State;
use crate::store::StoreError;
use crate::store::lockouts::{Asking, Lockouts, MAX_LISTED};

/// Keys that a server looks through before it serves others.
const KEYS_PER_STEP: i64 = 1_000;

impl Lockouts for RedisStore {
    fn list<'a>(&'a self, prefix: &'a [u8]) -> Asking<'a, Vec<(Bytes, State)>> {
        Box::pin(list(&self.servers.all, prefix))
    }

    fn lift<'a>(&'a self, key: &'a Bytes) -> Asking<'a, bool> {
        // Whatever the window of its limits, a lockout is kept where most counters are.
        let servers = &self.servers.all;
        Box::pin(async move {
            let shard = servers.server_of(servers.slot(key))?;
            let deleted: i64 = shard.command(command("DEL"), vec![key.clone().into()]).await?;
            Ok(deleted > 0)
        })
    }
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, None, false)
}

async fn list(servers: &Servers, prefix: &[u8]) -> Result<Vec<(Bytes, State)>, StoreError> {
    let pattern = [&*escaped(prefix), b"*", LOCKOUT_MARK, b"*"].concat();
    let mut listed = Vec::new();
    for shard in servers.every_server()? {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let arguments: Vec<Value> = vec![
                cursor.into(),
                "MATCH".into(),
                Bytes::from(pattern.clone()).into(),
                "COUNT".into(),
                KEYS_PER_STEP.into(),
            ];
            let (next, keys): (Bytes, Vec<Bytes>) = shard.command(command("SCAN"), arguments).await?;
            for key in keys {
                let text: Option<Bytes> = shard.command(command("GET"), vec![key.clone().into()]).await?;
                listed.extend(text.and_then(|text| State::read(&text)).map(|state| (key, state)));
            }
            if listed.len() >= MAX_LISTED {
                listed.truncate(MAX_LISTED);
                return Ok(listed);
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
