//! Calls about tickets that are repeated, or that another limit denies, on each kind of store. In a Cluster, where other
//! slots decide on the other limits, they have the same effect.

use std::sync::Arc;

use bytes::Bytes;
use tollgate::engine::algorithm::group::ChargeOutcome::{Charged, Denied, Withheld};
use tollgate::engine::reserve::{Action, HoldEvent, OnExpiry};
use tollgate::engine::{Enforcement, Hits, Limit};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::redis::RedisStore;
use tollgate::store::{Charge, Reading, Store};

use crate::budgets::{LONG, ask, charge, extending, opening};
use crate::places::{acquire_named, peek, ticket};
use crate::store::{MIDNIGHT, connected};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis::cluster::Cluster;
use crate::support::stores::complete;

/// A store of each kind, with the servers behind it.
struct Stores {
    memory: MemoryStore,
    single: (Redis, RedisStore),
    cluster: (Cluster, RedisStore),
}

impl Stores {
    async fn start() -> Self {
        let (redis, cluster) = (Redis::start().await, Cluster::start(1, 0).await);
        let single = connected(&redis.settings()).await;
        let of_cluster = connected(&cluster.settings()).await;
        Self {
            memory: MemoryStore::new(MemorySettings::of_counters(1_000)),
            single: (redis, single),
            cluster: (cluster, of_cluster),
        }
    }

    fn each(&self) -> [(&'static str, &dyn Store); 3] {
        [("memory", &self.memory), ("one Redis", &self.single.1), ("a Cluster", &self.cluster.1)]
    }
}

fn on(key: &str, action: Action) -> Charge {
    charge(key, LONG, OnExpiry::Release, action)
}

/// A hit on a limit that has none. Of the slot `b`.
fn closed() -> Charge {
    let limit = Limit { requests_per_unit: 0, ..LONG };
    Charge { key: Bytes::from_static(b"{b}/closed/"), limit, hits: Hits::Add(1), ..peek("") }
}

async fn charged(store: &dyn Store, charges: &[Charge]) -> Vec<Reading> {
    complete(store.charge(charges, MIDNIGHT).await).expect("readings")
}

/// Amount of the holds of a budget.
async fn held(store: &dyn Store, key: &str) -> u32 {
    ask(store, on(key, Action::Look), MIDNIGHT).await.budget.expect("a report").held
}

#[tokio::test]
async fn a_call_raises_all_its_holds_or_none() {
    let stores = Stores::start().await;
    for (name, store) in stores.each() {
        let opened = ask(store, on("{a}/", Action::Open(opening(ticket(1), 10, 60))), MIDNIGHT).await;
        assert_eq!(opened.outcome, Charged, "{name}");
        let raise = |key| on(key, extending(ticket(1), 60, 50));
        for is_first in [true, false] {
            let mut charges = [raise("{a}/"), raise("{b}/")];
            charges.rotate_left(usize::from(!is_first));
            let mut readings = charged(store, &charges).await;
            readings.rotate_left(usize::from(!is_first));
            let event = readings[1].budget.map(|report| report.event);
            assert_eq!(
                (readings[0].outcome, readings[1].outcome, event),
                (Withheld, Denied, Some(HoldEvent::Unknown)),
                "{name}"
            );
            assert_eq!(held(store, "{a}/").await, 10, "{name}");
        }
        // Without a larger amount there is nothing to deny, nor by a rule that is not enforced.
        let longer = [on("{a}/", extending(ticket(1), 60, 0)), on("{b}/", extending(ticket(1), 60, 0))];
        assert_eq!(charged(store, &longer).await[0].outcome, Charged, "{name}");
        let shadow = Charge { enforcement: Enforcement::Shadow, ..raise("{b}/") };
        assert_eq!(charged(store, &[raise("{a}/"), shadow]).await[0].outcome, Charged, "{name}");
        assert_eq!(held(store, "{a}/").await, 50, "{name}");
    }
}

#[tokio::test]
async fn a_raise_that_two_descriptors_ask_for_is_made_and_taken_back_once() {
    let stores = Stores::start().await;
    for (name, store) in stores.each() {
        ask(store, on("{a}/", Action::Open(opening(ticket(1), 10, 60))), MIDNIGHT).await;
        let raise = || on("{a}/", extending(ticket(1), 60, 30));
        let readings = charged(store, &[raise(), raise(), closed()]).await;
        assert_eq!(readings[2].outcome, Denied, "{name}");
        assert_eq!(held(store, "{a}/").await, 10, "{name}");
        let readings = charged(store, &[raise(), raise()]).await;
        let raised: Vec<_> = readings.iter().map(|reading| reading.budget.expect("a report").more).collect();
        assert_eq!((raised, held(store, "{a}/").await), (vec![20, 0], 30), "{name}");
    }
}

#[tokio::test]
async fn a_repetition_that_is_denied_leaves_the_ticket_what_it_has() {
    let stores = Stores::start().await;
    for (name, store) in stores.each() {
        let place = || acquire_named("{a}/place/", ticket(1), 2);
        let first = charged(store, &[place()]).await[0];
        assert_eq!((first.outcome, first.places.is_known), (Charged, false), "{name}");
        for _ in 0..2 {
            let readings = charged(store, &[place(), closed()]).await;
            assert_eq!((readings[0].places.is_known, readings[1].outcome), (true, Denied), "{name}");
            assert_eq!(charged(store, &[peek("{a}/place/")]).await[0].used, 2, "{name}");
        }
    }
}

/// Else the next attempt finds the hold raised, and loses it to what takes the raise back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raise_is_taken_back_before_its_caller_knows_that_it_is_denied() {
    let cluster = Cluster::start(2, 0).await;
    for node in 0..2 {
        // A node that is paused stays part of it, however slow this machine is.
        cluster.command_on(node, ["CONFIG", "SET", "cluster-node-timeout", "60000"]);
    }
    let store = Arc::new(connected(&cluster.settings()).await);
    let (raised, denying) = (cluster.node_of(b"{a}"), cluster.node_of(b"{b}"));
    assert_ne!(raised, denying);
    let executed = || {
        let stats = cluster.command_on(denying, ["INFO", "commandstats"]);
        let of_scripts = |line: &&str| line.starts_with("cmdstat_eval");
        stats.lines().filter(of_scripts).collect::<Vec<_>>().join("\n")
    };
    ask(&*store, on("{a}/", Action::Open(opening(ticket(1), 10, 60))), MIDNIGHT).await;
    assert_eq!(charged(&*store, &[closed()]).await[0].outcome, Denied);
    let before = executed();

    cluster.pause(denying);
    let call = tokio::spawn({
        let store = Arc::clone(&store);
        async move { charged(&*store, &[on("{a}/", extending(ticket(1), 60, 50)), closed()]).await }
    });
    eventually("the hold is raised", async || cluster.command_on(raised, ["HGET", "{a}/a", "="]) == "50")
        .await;
    cluster.pause(raised);
    cluster.resume(denying);
    eventually("the request is denied", async || executed() != before).await;
    for _ in 0..50 {
        assert_eq!(held(&*store, "{b}/").await, 0);
    }
    assert!(!call.is_finished(), "the raise cannot have been taken back");
    cluster.resume(raised);
    let readings = call.await.expect("it ends");
    assert_eq!((readings[0].outcome, readings[1].outcome), (Withheld, Denied));
    assert_eq!(cluster.command_on(raised, ["HGET", "{a}/a", "="]), "10");
}
