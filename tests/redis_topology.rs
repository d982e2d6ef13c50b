//! Sentinels and Cluster nodes that disagree, hang, are slow or lie: the counters stay on one server, and no
//! key is ever admitted more often than its limit.

use std::time::Duration;

use tollgate::store::StoreError;
use tollgate::store::redis::{Deployment, Endpoint, RedisSettings, RedisStore};

use crate::store::{connected, hit, used};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis::cluster::Cluster;
use crate::support::redis::scripted::{Scripted, hangs, names, names_late};

/// Two Redis servers, and Sentinels that say which of them is the primary.
struct Setup {
    a: Redis,
    b: Redis,
    sentinels: Vec<Scripted>,
}

impl Setup {
    /// All Sentinels name `a`.
    async fn start(sentinels: usize) -> Self {
        let (a, b) = (Redis::start().await, Redis::start().await);
        let mut setup = Self { a, b, sentinels: Vec::new() };
        for _ in 0..sentinels {
            setup.sentinels.push(Scripted::sentinel(setup.a.port()).await);
        }
        setup
    }

    fn settings(&self) -> RedisSettings {
        let sentinels = self.sentinels.iter().map(Scripted::endpoint).collect();
        let deployment = Deployment::Sentinel { primary: "counters".to_owned(), sentinels };
        RedisSettings { deployment, ..self.a.settings() }
    }
}

/// Hits that a limit of five has let pass.
async fn admitted(store: &RedisStore, hits: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..hits {
        admitted += usize::from(used(store, hit("user")).await.expect("a reading") <= 5);
    }
    admitted
}

/// `changes` happens after the limit is used up on `a`. Nothing is counted on `b`.
async fn stays_on_a(setup: &Setup, changes: impl FnOnce(&Setup)) {
    let store = connected(&setup.settings()).await;
    assert_eq!(admitted(&store, 6).await, 5);
    changes(setup);
    setup.sentinels.last().expect("one").is_asked(4).await;
    assert_eq!(admitted(&store, 6).await, 0, "the limit was used up on the known primary");
    assert_eq!(setup.b.len(), 0);
}

#[tokio::test]
async fn one_sentinel_of_three_does_not_move_the_counters_while_two_hang() {
    let setup = Setup::start(3).await;
    stays_on_a(&setup, |setup| {
        setup.sentinels[0].answer(hangs);
        setup.sentinels[1].answer(hangs);
        setup.sentinels[2].answer(names(setup.b.port()));
    })
    .await;
}

#[tokio::test]
async fn two_sentinels_that_disagree_do_not_move_the_counters() {
    let setup = Setup::start(2).await;
    stays_on_a(&setup, |setup| setup.sentinels[1].answer(names(setup.b.port()))).await;
}

#[tokio::test]
async fn a_slow_majority_of_sentinels_outweighs_a_quick_minority() {
    let setup = Setup::start(3).await;
    let slow = Duration::from_millis(400);
    setup.sentinels[0].answer(names_late(setup.a.port(), slow));
    setup.sentinels[1].answer(names_late(setup.a.port(), slow));
    stays_on_a(&setup, |setup| setup.sentinels[2].answer(names(setup.b.port()))).await;
}

#[tokio::test]
async fn a_majority_of_sentinels_moves_the_counters_to_a_server_that_is_a_primary() {
    let setup = Setup::start(3).await;
    setup.b.command(["REPLICAOF", "127.0.0.1", &setup.a.port().to_string()]);
    let store = connected(&setup.settings()).await;
    assert_eq!(admitted(&store, 6).await, 5);
    for sentinel in &setup.sentinels[1..] {
        sentinel.answer(names(setup.b.port()));
    }
    setup.sentinels[2].is_asked(4).await;
    assert_eq!(admitted(&store, 6).await, 0, "a replica is not taken for the primary");
    let count = || setup.a.command(["GET", setup.a.command(["KEYS", "user*"]).as_str()]);
    assert_eq!(count(), "12", "the known primary went on counting");

    eventually("the replica has it", async || setup.b.len() == 1).await;
    setup.b.command(["REPLICAOF", "NO", "ONE"]);
    eventually("the new primary counts", async || {
        used(&store, hit("user")).await.expect("a reading");
        setup.b.command(["INFO", "commandstats"]).contains("cmdstat_incrby")
            && setup.b.command(["CLIENT", "LIST"]).lines().count() > 1
            && setup.b.command(["GET", setup.b.command(["KEYS", "user*"]).as_str()]) > count()
    })
    .await;
    assert_eq!(admitted(&store, 6).await, 0);
}

#[tokio::test]
async fn the_first_primary_too_is_taken_from_a_majority() {
    let setup = Setup::start(3).await;
    setup.sentinels[0].answer(hangs);
    setup.sentinels[1].answer(hangs);
    setup.sentinels[2].answer(names(setup.b.port()));
    let store = RedisStore::connect(&setup.settings()).expect("settings of use");
    setup.sentinels[2].is_asked(3).await;
    match used(&store, hit("user")).await {
        Err(StoreError::Unreachable(cause)) => assert!(cause.contains("2 of 3 Sentinels"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert_eq!((setup.a.len(), setup.b.len()), (0, 0));
    setup.sentinels[0].answer(names(setup.b.port()));
    eventually("two agree", async || used(&store, hit("user")).await.is_ok()).await;
    assert_eq!((setup.a.len(), setup.b.len()), (0, 1));
}

/// Two nodes, each of which claims all slots, with equal epochs: as bad as it gets.
#[tokio::test]
async fn two_cluster_nodes_that_disagree_never_admit_more_than_the_limit() {
    let clusters = [Cluster::start(1, 0).await, Cluster::start(1, 0).await];
    let [a, b] = [0, 1].map(|at| Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: clusters[at].port(0) });
    let settings = |nodes: [&Endpoint; 2]| RedisSettings {
        deployment: Deployment::Cluster { nodes: nodes.into_iter().cloned().collect() },
        call_timeout: Duration::from_millis(200),
        ..clusters[0].settings()
    };
    let replicas = [connected(&settings([&a, &b])).await, connected(&settings([&b, &a])).await];
    let mut total = 0;
    for replica in &replicas {
        total += admitted(replica, 4).await;
    }
    assert_eq!(total, 5);
    let counting = clusters.iter().position(|cluster| cluster.len() == 1).expect("one of them");
    assert_eq!(clusters[1 - counting].len(), 0, "only one of them");

    // The one that counts hangs, and the replicas look for another.
    clusters[counting].pause(0);
    let asked = || clusters[1 - counting].command_on(0, ["INFO", "commandstats"]);
    let nodes_asked = |stats: String| {
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_cluster|slots:calls="));
        calls.and_then(|calls| calls.split(',').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let before = nodes_asked(asked());
    for replica in &replicas {
        eventually("the other node is asked", async || {
            used(replica, hit("user")).await.expect_err("it hangs");
            nodes_asked(asked()) >= before + 4
        })
        .await;
    }
    assert_eq!(clusters[1 - counting].len(), 0, "nothing is counted elsewhere meanwhile");
    clusters[counting].resume(0);
    for replica in &replicas {
        eventually("it counts again", async || used(replica, hit("user")).await.is_ok()).await;
        assert_eq!(admitted(replica, 4).await, 0);
    }
    assert_eq!(clusters[1 - counting].len(), 0);
}

#[tokio::test]
async fn clusters_of_one_and_two_nodes_count() {
    for nodes in [1, 2] {
        let cluster = Cluster::start(nodes, 0).await;
        let store = connected(&cluster.settings()).await;
        for key in ["a", "b", "c", "d"] {
            assert_eq!(used(&store, hit(key)).await.expect("a reading"), 1, "{key} of {nodes}");
        }
        assert_eq!(cluster.len(), 4);
    }
}
