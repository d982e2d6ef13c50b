//! Error replies of Redis and their consequences: nothing is counted twice, and counting
//! goes on by itself.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::{ChargeMode, Hits, Limit, Unit};
use tollgate::store::redis::{Deployment, Endpoint, RedisSettings};
use tollgate::store::{Charge, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected, used};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis::cluster::{Cluster, slot};
use crate::support::stores::complete;

fn daily(key: &'static str) -> Charge {
    charge(key, Unit::Day, Hits::Add(1))
}

/// A server that greets, and answers every hit with an error.
async fn server_that_says(error: &'static str) -> RedisSettings {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while let Ok(len @ 1..) = client.read(&mut read).await {
                    let text = String::from_utf8_lossy(&read[..len]);
                    for command in text.split('*').filter(|command| !command.is_empty()) {
                        let is_hit = command.contains("INCRBY") && !command.contains("permission-probe");
                        let reply = if is_hit { format!("-{error}\r\n") } else { "+OK\r\n".to_owned() };
                        client.write_all(reply.as_bytes()).await.expect("it listens");
                    }
                }
            });
        }
    });
    let deployment = Deployment::Single(Endpoint::Tcp { host: "127.0.0.1".to_owned(), port });
    RedisSettings { deployment, ..Redis::absent().settings() }
}

#[tokio::test]
async fn redis_errors_are_reported_and_the_next_charge_is_sent() {
    for error in [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "BUSY Redis is busy running a script.",
        "MOVED 3999 127.0.0.1:6381",
        "NOPERM this user has no permissions to run the 'incrby' command",
    ] {
        let store = connected(&server_that_says(error).await).await;
        for _ in 0..3 {
            eventually("it is asked", async || match used(&store, daily("a")).await {
                Err(StoreError::Rejected(said)) => said == error,
                // Some errors make the connection anew.
                Err(StoreError::Unreachable(_)) => false,
                other => panic!("{other:?} of {error}"),
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_server_that_forgets_the_script_is_told_again_and_counts_once() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let limit = Limit::per(1_000, Unit::Day);
    for turn in 1..=50 {
        if turn % 5 == 0 {
            server.command(["SCRIPT", "FLUSH"]);
        }
        let charges = ["a/", "b/"].map(|key| Charge { mode: ChargeMode::IfAllowed, limit, ..daily(key) });
        let readings = complete(store.charge(&charges, MIDNIGHT).await).expect("readings");
        assert_eq!(readings.iter().map(|reading| reading.used).collect::<Vec<_>>(), [turn, turn]);
        assert!(readings.iter().all(|reading| reading.outcome == ChargeOutcome::Charged));
    }
}

#[tokio::test]
async fn a_slot_that_nobody_serves_fails_alone_until_somebody_does() {
    let cluster = Cluster::start(3, 0).await;
    let settings = RedisSettings { call_timeout: Duration::from_secs(1), ..cluster.settings() };
    let store = connected(&settings).await;
    let place = |key: &str| slot(format!("{key}{}", MIDNIGHT.as_secs()).as_bytes());
    let lost = place("lost/");
    let owner = cluster.primary_of(lost).expect("it is served");
    cluster.command_on(owner, ["CLUSTER", "DELSLOTS", &lost.to_string()]);
    eventually("it is known that nobody serves it", async || {
        // An older message of the owner may reach a node after that node was made to forget it.
        for node in (0..3).filter(|node| cluster.knows_primary_of(*node, lost)) {
            cluster.command_on(node, ["CLUSTER", "DELSLOTS", &lost.to_string()]);
        }
        match used(&store, daily("lost/")).await {
            Err(StoreError::Unreachable(cause)) => cause.contains("no server serves slot"),
            Err(StoreError::Rejected(cause)) => {
                assert!(cause.starts_with("CLUSTERDOWN"), "{cause}");
                false
            }
            Err(StoreError::Unanswered(_)) => false,
            other => panic!("{other:?}"),
        }
    })
    .await;
    for number in 0..20 {
        let mut attempts = 0;
        // fred ends the connection on which it reads CLUSTERDOWN; until the next one stands, nothing is counted.
        eventually("the node is connected to again", async || {
            // Each attempt has a counter of its own: a charge that was not answered may have been counted.
            attempts += 1;
            let key = format!("other{number}.{attempts}/");
            if place(&key) == lost {
                return false;
            }
            match used(&store, charge(key, Unit::Day, Hits::Add(1))).await {
                Ok(used) => {
                    assert_eq!(used, 1);
                    true
                }
                Err(StoreError::Unreachable(_) | StoreError::Unanswered(_)) => false,
                other => panic!("{other:?}"),
            }
        })
        .await;
    }
    cluster.command_on(owner, ["CLUSTER", "ADDSLOTS", &lost.to_string()]);
    eventually("it is served again", async || used(&store, daily("lost/")).await.is_ok()).await;
}
