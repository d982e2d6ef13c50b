//! Error replies of Redis and their consequences: nothing is counted twice, and counting
//! resumes by itself.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::{ChargeMode, Hits, Limit, Unit};
use tollgate::store::redis::{Deployment, Endpoint, RedisSettings};
use tollgate::store::{Charge, ChargeFuture, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected, used};
use crate::support::eventually;
use crate::support::load::{Caller, request};
use crate::support::redis::Redis;
use crate::support::redis::cluster::{Cluster, slot};
use crate::support::redis::scripted::{Reply, Scripted};
use crate::support::stores::complete;
use crate::support::tollgate::Tollgate;

fn daily(key: &'static str) -> Charge {
    charge(key, Unit::Day, Hits::Add(1))
}

/// A server that answers every hit with an error, and other commands with `OK`.
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
                // After some errors, the connection is replaced.
                Err(StoreError::Unreachable(_)) => false,
                other => panic!("{other:?} of {error}"),
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_server_that_has_lost_the_script_gets_it_again_and_counts_once() {
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
async fn a_slot_without_a_server_fails_alone_until_it_has_one() {
    let cluster = Cluster::start(3, 0).await;
    let settings = RedisSettings { call_timeout: Duration::from_secs(1), ..cluster.settings() };
    let store = connected(&settings).await;
    let place = |key: &str| slot(format!("{key}{}", MIDNIGHT.as_secs()).as_bytes());
    let lost = place("lost/");
    let owner = cluster.primary_of(lost).expect("it is served");
    cluster.command_on(owner, ["CLUSTER", "DELSLOTS", &lost.to_string()]);
    eventually("it is known that no server has it", async || {
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

/// A server that answers hits with `hit`, and calls of scripts with `script`.
async fn scripted(hit: &'static str, script: Reply) -> Scripted {
    Scripted::start(move |words| match words[0].to_ascii_uppercase().as_str() {
        _ if words.iter().any(|word| word == "tollgate:permission-probe") => {
            Reply::Bytes(b"+OK\r\n".to_vec())
        }
        "INCRBY" => Reply::Bytes(hit.into()),
        "EVALSHA" if words[2] != "0" => script.clone(),
        _ => Reply::Bytes(b"+OK\r\n".to_vec()),
    })
    .await
}

/// Polls the future once; true if it is pending.
async fn is_pending(future: &mut ChargeFuture<'_>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

/// Both calls are in one batch, and only one of them is answered. It gets its answer while the other one still waits.
#[tokio::test]
async fn a_reply_is_handed_out_while_the_rest_of_its_batch_is_awaited() {
    let server = scripted(":1\r\n", Reply::Never).await;
    let deployment = Deployment::Single(server.endpoint());
    let call_timeout = Duration::from_secs(3);
    let settings = RedisSettings { deployment, call_timeout, ..Redis::absent().settings() };
    for _ in 0..3 {
        let store = connected(&settings).await;
        let (script, plain) =
            ([Charge { mode: ChargeMode::IfAllowed, ..daily("script/") }], [daily("plain/")]);
        let (mut unanswered, mut answered) =
            (store.charge(&script, MIDNIGHT), store.charge(&plain, MIDNIGHT));
        // Both are queued before anything is sent.
        assert!(is_pending(&mut unanswered).await && is_pending(&mut answered).await);
        assert_eq!(complete(answered.await).expect("its reply has come")[0].used, 1);
        assert!(is_pending(&mut unanswered).await, "the deadline has not come");
        let outcome = complete(unanswered.await);
        assert!(matches!(outcome, Err(StoreError::Unanswered(_))), "{outcome:?}");
    }
}

const RULES: &str = "
domain: shop
descriptors:
  - {key: plain, rate_limit: {unit: year, requests_per_unit: 1000}}
  - {key: script, charge: if_allowed, rate_limit: {unit: year, requests_per_unit: 1000}}
";

/// Texts of Redis and of the operating system, and the address of the server.
const INTERNALS: [&str; 9] =
    ["127.0.0.1", "READONLY", "LOADING", "OOM", "Redis", "redis", "maxmemory", "replica", "Os {"];

/// Checks that calls over gRPC, `/json` and `/v1/check` are UNAVAILABLE with a text that names nothing internal.
async fn is_unavailable_everywhere(service: &Tollgate, key: &str) {
    use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
    let mut client = RateLimitServiceClient::connect(format!("http://127.0.0.1:{}", service.grpc))
        .await
        .expect("it listens");
    let status = client.should_rate_limit(request("shop", &[(key, "a")])).await.expect_err("not counted");
    let shown = format!("{} {:?}", status.message(), status.metadata());
    assert_eq!(status.code(), tonic::Code::Unavailable, "{shown}");
    assert!(status.message().contains("nothing was counted"), "{shown}");
    let mut all = vec![shown];
    let entry = format!(r#"{{"key": "{key}", "value": "a"}}"#);
    let json = format!(r#"{{"domain": "shop", "descriptors": [{{"entries": [{entry}]}}]}}"#);
    let check = format!(r#"{{"domain": "shop", "entries": {{"{key}": "a"}}}}"#);
    for (path, body) in [("/json", json), ("/v1/check", check)] {
        let answer =
            reqwest::Client::new().post(service.url(path)).body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 503, "{path}");
        all.push(format!("{:?} {}", answer.headers().clone(), answer.text().await.expect("text")));
    }
    for shown in all {
        assert!(INTERNALS.iter().all(|internal| !shown.contains(internal)), "{shown}");
    }
}

/// Number of failures of the store in the metrics.
async fn failures(service: &Tollgate) -> usize {
    let kinds = ["rejected", "unreachable"].map(|kind| format!("tollgate_store_errors{{kind=\"{kind}\"}}"));
    service.metric(&kinds[0]).await + service.metric(&kinds[1]).await
}

#[tokio::test]
async fn errors_of_the_server_are_unavailable_to_callers_and_counted_and_name_nothing_internal() {
    let redis = Redis::start().await;
    let loading = "-LOADING Redis is loading the dataset in memory\r\n";
    let loading_server = scripted(loading, Reply::Bytes(loading.into())).await;
    for (at, cause, refuse, accept) in [
        (
            redis.settings().deployment,
            "OOM",
            &["CONFIG", "SET", "maxmemory", "1"][..],
            &["CONFIG", "SET", "maxmemory", "0"][..],
        ),
        (
            redis.settings().deployment,
            "READONLY",
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
        ),
        (Deployment::Single(loading_server.endpoint()), "LOADING", &["PING"], &["PING"]),
    ] {
        let url = at.to_string();
        let environment = [
            ("REDIS_URL", url.as_str()),
            ("REDIS_CALL_TIMEOUT", "5s"),
            ("REDIS_STARTUP_MAX_ELAPSED_TIME", "20s"),
            ("THREADS", "2"),
            ("LOG_LEVEL", "warn"),
        ];
        redis.command(refuse);
        let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
        for key in ["plain", "script"] {
            let before = failures(&service).await;
            is_unavailable_everywhere(&service, key).await;
            assert_eq!(failures(&service).await, before + 3, "{cause} {key}");
        }
        let errors = "ratelimit_service_should_rate_limit_error{err_type=\"redis_error\"}";
        assert_eq!(service.metric(errors).await, 6, "{cause}");
        assert!(service.metric("tollgate_store_errors{kind=\"rejected\"}").await > 0, "{cause}");
        // The log has the cause.
        eventually(cause, async || service.process.output().contains(cause)).await;
        redis.command(accept);
    }
}

/// The end of a rejection is logged for requests that need a script, and for those that do not.
#[tokio::test]
async fn the_end_of_a_rejection_is_logged_whatever_ends_it() {
    for key in ["plain", "script"] {
        let redis = Redis::start().await;
        let url = redis.settings().deployment.to_string();
        let environment = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s"), ("THREADS", "1")];
        redis.command(["CONFIG", "SET", "maxmemory", "1"]);
        let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
        let caller = Caller::connect(service.grpc).await;
        let ask = async || caller.ask(0, request("shop", &[(key, "a")])).await;
        eventually("it is rejected", async || {
            ask().await;
            service.process.output().contains("OOM")
        })
        .await;
        redis.command(["CONFIG", "SET", "maxmemory", "0"]);
        eventually("it is accepted", async || ask().await == "OK").await;
        let logged = async || service.process.output().contains("Redis accepts charges again");
        eventually("it is logged", logged).await;
    }
}
