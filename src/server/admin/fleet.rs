//! The fleet: replicas that share a store announce themselves there, and each lists them all.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Admin;
use super::loads::hash_text;
use crate::engine::Timestamp;
use crate::engine::text::one_line_of_bytes;
use crate::server::schema::replies;
use crate::store::fleet::{Announcement, Fleet, Member};

/// Time between two announcements.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time after which a replica that is silent is no longer listed: three announcements.
const TTL: Duration = Duration::from_secs(30);
/// End of the key of the announcements, after the prefix of all keys.
const KEY: &str = "tgf1/fleet";
/// Upper bound on a text of another replica, in characters.
const MAX_TEXT: usize = 200;

replies! {
    /// The replicas that share the store.
    struct FleetView {
        /// Replicas, in the order of their ids. A replica that has stopped is listed for up to 30 seconds more.
        replicas: Vec<ReplicaView>,
        /// True if all of them have the same rules in force.
        same_rules: bool,
        /// Cause of a list that is out of date: the store cannot be reached.
        error: Option<String>,
    }
    /// A replica.
    struct ReplicaView {
        /// Id: the name of its host, and some random digits.
        id: String,
        /// True for the replica that answers.
        is_self: bool,
        /// Version of the program.
        version: String,
        /// Hash of its rules.
        rules_hash: String,
        /// Number of its rules.
        rules: u64,
        /// Number of errors that keep rules as written out of force.
        errors: u64,
        /// Its start, in seconds since the epoch.
        started_at: u64,
        /// Hits per second when it announced itself, over 10 seconds; `null` if it does not report them.
        hits_per_sec: Option<f64>,
        /// Hits over a limit per second.
        over_limit_per_sec: Option<f64>,
        /// Seconds since it announced itself.
        announced_secs_ago: u64,
    }
}

/// State of the fleet as this replica knows it.
pub(super) struct FleetState {
    /// Store that replicas share; `None` for counters in memory.
    store: Option<Arc<dyn Fleet>>,
    id: String,
    key: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Other replicas, with the age of their announcements at the time of the answer.
    others: Vec<ReplicaView>,
    /// Time of that answer.
    at: Option<Timestamp>,
    error: Option<String>,
}

impl FleetState {
    /// A replica with a new id. `prefix` is that of all keys.
    pub(super) fn new(store: Option<Arc<dyn Fleet>>, prefix: &[u8]) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = one_line_of_bytes(host.trim().as_bytes(), 64);
        let id =
            format!("{}-{:06x}", if host.is_empty() { "replica" } else { &host }, fastrand::u32(..1 << 24));
        Self { store, id, key: String::from_utf8_lossy(prefix).into_owned() + KEY, known: Mutex::default() }
    }

    /// Id of this replica.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Admin {
    /// Announces this replica every 10 seconds, and when its rules change. Never returns.
    pub(in crate::server) async fn announce(self: Arc<Self>) {
        let Some(store) = self.fleet.store.clone() else { return std::future::pending().await };
        let mut status = self.rules_status.clone();
        loop {
            let text = self.announcement().to_string();
            let FleetState { id, key, .. } = &self.fleet;
            let answer = store.announce(Announcement { key, id, text: &text, ttl: TTL }).await;
            {
                let mut known = self.fleet.known.lock();
                match answer {
                    Ok(members) => {
                        let others = members.iter().filter(|member| member.id != *id);
                        let others = others.filter_map(replica).collect();
                        *known = Known { others, at: Some(self.clock.now()), error: None };
                    }
                    Err(error) => {
                        if known.error.is_none() {
                            tracing::debug!(%error, "replica not announced");
                        }
                        known.error = Some(error.to_string());
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                Ok(()) = status.changed() => {}
            }
        }
    }

    fn announcement(&self) -> Value {
        let (status, rate) = (self.rules_status.borrow(), self.rates.latest());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "rules_hash": hash_text(status.rules_hash),
            "rules": status.rules,
            "errors": status.error.as_ref().map_or(0, |errors| errors.count()),
            "started_at": self.started_at.as_secs(),
            "hits_per_sec": rate.hits,
            "over_limit_per_sec": rate.over,
        })
    }

    pub(in crate::server) fn fleet(&self) -> FleetView {
        let known = self.fleet.known.lock();
        let since = known.at.map_or(0, |at| self.clock.now().since(at).as_secs());
        let aged = |other: &ReplicaView| ReplicaView {
            announced_secs_ago: other.announced_secs_ago + since,
            ..other.clone()
        };
        let mut replicas: Vec<_> = known.others.iter().map(aged).collect();
        replicas.retain(|replica| replica.announced_secs_ago < TTL.as_secs());
        let text = self.announcement().to_string();
        let own = replica(&Member { id: self.fleet.id.clone(), age: Duration::ZERO, text });
        replicas.extend(own.map(|own| ReplicaView { is_self: true, ..own }));
        replicas.sort_by(|one, other| one.id.cmp(&other.id));
        let first = replicas.first().map(|replica| replica.rules_hash.clone());
        let same_rules = replicas.iter().all(|replica| Some(&replica.rules_hash) == first.as_ref());
        FleetView { replicas, same_rules, error: known.error.clone() }
    }
}

/// The replica that `member` announces; `None` for a text that is none of ours.
fn replica(member: &Member) -> Option<ReplicaView> {
    let said: Value = serde_json::from_str(&member.text).ok()?;
    let text = |name: &str| Some(one_line_of_bytes(said[name].as_str()?.as_bytes(), MAX_TEXT));
    Some(ReplicaView {
        id: one_line_of_bytes(member.id.as_bytes(), MAX_TEXT),
        is_self: false,
        version: text("version")?,
        rules_hash: text("rules_hash")?,
        rules: said["rules"].as_u64()?,
        errors: said["errors"].as_u64()?,
        started_at: said["started_at"].as_u64()?,
        hits_per_sec: said["hits_per_sec"].as_f64(),
        over_limit_per_sec: said["over_limit_per_sec"].as_f64(),
        announced_secs_ago: member.age.as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_of_another_version_may_announce_less_or_more() {
        let of = |more: Value| {
            let mut said =
                json!({ "version": "1", "rules_hash": "a", "rules": 2, "errors": 0, "started_at": 5 });
            more.as_object().into_iter().flatten().for_each(|(name, value)| said[name] = value.clone());
            replica(&Member { id: "b".to_owned(), age: Duration::from_secs(3), text: said.to_string() })
        };
        let old = of(json!({})).expect("a replica");
        assert_eq!((old.hits_per_sec, old.over_limit_per_sec, old.announced_secs_ago), (None, None, 3));
        let new = of(json!({ "hits_per_sec": 2.5, "over_limit_per_sec": 0.5, "colour": "red" }))
            .expect("a replica");
        assert_eq!((new.hits_per_sec, new.over_limit_per_sec), (Some(2.5), Some(0.5)));
        assert!(of(json!({ "rules": "many" })).is_none());
    }
}
