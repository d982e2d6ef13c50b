//! Queries of operators: the state of the servers, and the replicas that use them.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{self, Instant};

use super::connect::{ConnectConfig, query};
use super::discovery::{Discovery, Topology};
use super::reply::Reply;
use super::{Endpoint, NodeSnapshot, Redis};
use crate::store::StoreError;
use crate::store::fleet::{Announcement, Member};
use crate::store::inspect::{NodeReport, ServerReport, StoreReport};

/// Bound on the report of one server. An operator waits for it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

const ANNOUNCE: &str = include_str!("fleet.lua");

impl Redis {
    /// State of every node that counts, with a report of its own, which takes a connection and an `INFO`.
    pub async fn inspect(&self) -> StoreReport {
        let mut connected = self.nodes();
        let deployments = [&self.all].into_iter().chain(&self.per_second);
        let servers: Vec<_> = deployments
            .flat_map(|(config, discovery)| {
                servers(discovery).into_iter().map(move |server| (config, server))
            })
            .collect();
        let reports = join_all(servers.iter().map(|(config, server)| report(config, server))).await;
        let mut nodes = Vec::with_capacity(reports.len());
        for ((_, server), report) in servers.iter().zip(reports) {
            let name = server.to_string();
            let place = connected.iter().position(|node| node.node == name);
            let connections = match place {
                Some(place) => connected.swap_remove(place),
                None => NodeSnapshot { node: name, ..NodeSnapshot::default() },
            };
            nodes.push(NodeReport { connections, server: report });
        }
        let gone = "no longer a server of this deployment";
        nodes.extend(
            connected.into_iter().map(|connections| NodeReport { connections, server: Err(gone.to_owned()) }),
        );
        StoreReport::Redis { error: self.discovery_error(), nodes }
    }
}

fn servers(discovery: &Discovery) -> Vec<Endpoint> {
    match &**discovery.topology().borrow() {
        Topology::Unknown(_) => Vec::new(),
        Topology::One(server) => vec![server.clone()],
        Topology::Cluster(slots) => slots.primaries().to_vec(),
    }
}

async fn report(config: &ConnectConfig, server: &Endpoint) -> Result<ServerReport, String> {
    let begun = Instant::now();
    let login = &config.settings.credentials.server;
    let asked = time::timeout(REPORT_TIMEOUT, query(config, server, login, [&["INFO"]]));
    let [info] = asked.await.map_err(|_| "no answer in time".to_owned())??;
    let info = info?;
    let mut report = parse_info(info.text().ok_or("INFO is not text")?);
    report.elapsed = begun.elapsed();
    Ok(report)
}

/// Lines of `name:value`, under headings that begin with `#`.
fn parse_info(info: &str) -> ServerReport {
    let mut report = ServerReport::default();
    for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
        let number = || value.parse().unwrap_or_default();
        match name {
            // Valkey reports the version of Redis that it is compatible with, too.
            "redis_version" if report.version.is_empty() => value.clone_into(&mut report.version),
            "valkey_version" => report.version = format!("Valkey {value}"),
            "role" => value.clone_into(&mut report.role),
            "connected_slaves" => report.replicas = number(),
            "used_memory" => report.used_memory = number(),
            "maxmemory" => report.max_memory = number(),
            "maxmemory_policy" => value.clone_into(&mut report.eviction_policy),
            "evicted_keys" => report.evicted_keys = number(),
            _ => {}
        }
    }
    report
}

impl Redis {
    /// Announces a replica, in a connection of its own: every few seconds, nothing waits for it.
    ///
    /// # Errors
    /// [`StoreError`] where the server cannot be reached or rejects it.
    pub async fn announce(&self, announcement: Announcement<'_>) -> Result<Vec<Member>, StoreError> {
        let Announcement { key, id, text, ttl } = announcement;
        let (config, discovery) = &self.all;
        let server = match &**discovery.topology().borrow() {
            Topology::Unknown(cause) => Err(cause.clone()),
            Topology::One(server) => Ok(server.clone()),
            Topology::Cluster(slots) => {
                let owner = slots.owner(fred::util::redis_keyslot(key.as_bytes()));
                let server = owner.and_then(|owner| slots.primaries().get(owner));
                server.cloned().ok_or_else(|| "no node has the slot of the fleet".to_owned())
            }
        };
        let server = server.map_err(StoreError::Unreachable)?;
        let login = &config.settings.credentials.server;
        let ttl = ttl.as_secs().max(1).to_string();
        let command: &[&str] = &["EVAL", ANNOUNCE, "1", key, id, text, &ttl];
        let asked = time::timeout(REPORT_TIMEOUT, query(config, &server, login, [command])).await;
        let [reply] = asked
            .map_err(|_| StoreError::Unanswered("no answer in time".to_owned()))?
            .map_err(StoreError::Unreachable)?;
        let members = reply.map_err(StoreError::Rejected)?.into_items();
        Ok(members.into_iter().filter_map(member).collect())
    }
}

/// `[id, age, text]`
fn member(reply: Reply) -> Option<Member> {
    match reply.into_items().as_slice() {
        [id, age, text] => Some(Member {
            id: id.text()?.to_owned(),
            age: Duration::from_secs(age.number()?),
            text: text.text()?.to_owned(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_whatever_else_it_has() {
        let info = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.3\r\n\r\n# Memory\r\nused_memory:1048576\r\n\
                    maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n# Stats\r\nevicted_keys:12\r\nnonsense\r\n\
                    # Replication\r\nrole:master\r\nconnected_slaves:2\r\n";
        let expected = ServerReport {
            elapsed: Duration::ZERO,
            version: "Valkey 8.1.3".to_owned(),
            role: "master".to_owned(),
            replicas: 2,
            used_memory: 1_048_576,
            max_memory: 0,
            eviction_policy: "allkeys-lru".to_owned(),
            evicted_keys: 12,
        };
        assert_eq!(parse_info(info), expected);
        assert_eq!(parse_info(""), ServerReport::default());
    }
}
