//! The document with the overrides of operators in Redis: one hash with its version and its content, so that
//! Redis evicts either both or none.

use bytes::Bytes;

use super::RedisStore;
use super::lockouts::ask;
use super::reply::Reply;
use crate::engine::{KeyWriter, Timestamp};
use crate::store::StoreError;
use crate::store::overrides::{DocumentFuture, DocumentStore, Replacement, StoredDocument};

/// Name of the key, after the key prefix.
const DOCUMENT: &[u8] = b"tgo1/overrides";

const READ: &str = include_str!("overrides_read.lua");
const REPLACE: &str = include_str!("overrides_replace.lua");

impl RedisStore {
    /// Reply of the node that keeps the document.
    async fn ask_about_overrides(&self, keys: &KeyWriter, command: &[&[u8]]) -> Result<Reply, StoreError> {
        let cluster = &self.clusters.all;
        let answer = async {
            let node = cluster.node_of(cluster.slot(&key(keys)))?;
            ask(&node, command).await
        };
        answer.await.inspect_err(|_| cluster.request_refresh())
    }
}

impl DocumentStore for RedisStore {
    fn version<'a>(&'a self, keys: &'a KeyWriter) -> DocumentFuture<'a, Bytes> {
        Box::pin(async move {
            self.ask_about_overrides(keys, &[b"HGET", &key(keys), b"version"]).await.and_then(bytes)
        })
    }

    fn read<'a>(&'a self, keys: &'a KeyWriter, _: Timestamp) -> DocumentFuture<'a, StoredDocument> {
        Box::pin(async move {
            let key = key(keys);
            let command: [&[u8]; 4] = [b"EVAL", READ.as_bytes(), b"1", &key];
            let mut items = self.ask_about_overrides(keys, &command).await?.into_items().into_iter();
            let mut next = || items.next().unwrap_or(Reply::Nil);
            let (secs, micros): (Option<u64>, Option<u64>) = (next().number(), next().number());
            let (Some(secs), Some(micros)) = (secs, micros) else { return Err(unexpected()) };
            let now = Timestamp::from_micros(secs.saturating_mul(1_000_000).saturating_add(micros));
            Ok(StoredDocument { version: bytes(next())?, content: bytes(next())?, now })
        })
    }

    fn replace<'a>(&'a self, keys: &'a KeyWriter, by: Replacement) -> DocumentFuture<'a, bool> {
        Box::pin(async move {
            let Replacement { expected, version, content, ttl } = by;
            let ttl = ttl.as_secs().max(1).to_string();
            let key = key(keys);
            let names: [&[u8]; 4] = [b"EVAL", REPLACE.as_bytes(), b"1", &key];
            let values: [&[u8]; 4] = [&expected, &version, &content, ttl.as_bytes()];
            let reply = self.ask_about_overrides(keys, &[&names[..], &values].concat()).await?;
            Ok(reply == Reply::Int(1))
        })
    }
}

fn key(keys: &KeyWriter) -> Vec<u8> {
    [keys.prefix(), DOCUMENT].concat()
}

/// Content of a field; empty if the field does not exist.
fn bytes(reply: Reply) -> Result<Bytes, StoreError> {
    match reply {
        Reply::Text(text) => Ok(text),
        Reply::Nil => Ok(Bytes::new()),
        Reply::Int(_) | Reply::Error(_) | Reply::Array(_) => Err(unexpected()),
    }
}

fn unexpected() -> StoreError {
    StoreError::Rejected("unexpected reply about overrides".to_owned())
}
