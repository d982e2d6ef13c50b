//! Events of Redis in the log at the default level: one line for the process, whatever the number of cores.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::redis_failures::{all_answer, logged, start};
use crate::support::eventually;
use crate::support::load::{Caller, request};
use crate::support::redis::Redis;
use crate::support::redis::scripted::{Scripted, names};
use crate::support::tollgate::Tollgate;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_and_its_end_are_logged_once_for_the_process_at_the_default_level() {
    let mut redis = Redis::start().await;
    let (mut service, caller) = start(&redis, &[("LOG_LEVEL", "warn"), ("THREADS", "4")]).await;
    all_answer(&caller, "OK").await;
    assert_eq!(logged(&service, "connected to Redis"), 0, "{}", service.process.output());
    redis.kill();
    all_answer(&caller, "Unavailable").await;
    eventually("it is logged", async || logged(&service, "Redis unreachable") == 1).await;
    redis.restart().await;
    all_answer(&caller, "OK").await;
    eventually("so is its end", async || logged(&service, "connected to Redis again") == 1).await;
    let log = service.process.whole_output().await;
    let counts =
        ["Redis unreachable", "connected to Redis again", "fred"].map(|phrase| log.matches(phrase).count());
    assert_eq!(counts, [1, 1, 0], "its library logs nothing beside: {log}");
}

/// The service on four cores.
async fn start_on_four(redis: &Redis) -> (Tollgate, Caller) {
    let environment = [("LOG_LEVEL", "warn"), ("THREADS", "4"), ("REDIS_CALL_TIMEOUT", "300ms")];
    let (service, caller) = start(redis, &environment).await;
    all_answer(&caller, "OK").await;
    // Four connections of the cores, and one for operators.
    eventually("every connection is up", async || connected(&service, redis).await == 5).await;
    (service, caller)
}

async fn connected(service: &Tollgate, redis: &Redis) -> usize {
    let node = format!("{{node=\"127.0.0.1:{}\"}}", redis.port());
    service.metric(&format!("tollgate_redis_connections_up{node}")).await
}

/// Makes calls on every core until the handle is dropped.
fn calls(caller: &Caller) -> AbortOnDropHandle<()> {
    let caller = caller.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        for turn in 0.. {
            drop(tokio::spawn({
                let caller = caller.clone();
                async move { caller.ask(turn, request("shop", &[("error", "one")])).await }
            }));
            sleep(Duration::from_millis(5)).await;
        }
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_for_long_and_its_return_are_logged_once() {
    let redis = Redis::start().await;
    let (mut service, caller) = start_on_four(&redis).await;
    redis.pause();
    let calls = calls(&caller);
    eventually("every core drops its connection", async || connected(&service, &redis).await == 0).await;
    let lines = |phrase| logged(&service, phrase);
    let both = async || (lines("circuit breaker open"), lines("Redis unreachable")) == (1, 1);
    eventually("each is logged once", both).await;
    redis.resume();
    eventually("every core counts again", async || connected(&service, &redis).await == 5).await;
    drop(calls);
    all_answer(&caller, "OK").await;
    let again = async || lines("connected to Redis again") == 1;
    eventually("it is logged", again).await;
    let log = service.process.whole_output().await;
    let phrases =
        ["circuit breaker open", "circuit breaker closed", "Redis unreachable", "connected to Redis again"];
    assert_eq!(phrases.map(|phrase| log.matches(phrase).count()), [1, 0, 1, 1], "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn breakers_that_open_and_close_are_logged_once() {
    let redis = Redis::start().await;
    let (mut service, caller) = start_on_four(&redis).await;
    redis.pause();
    let calls = calls(&caller);
    let lines = |phrase| logged(&service, phrase);
    eventually("it is logged", async || lines("circuit breaker open") == 1).await;
    redis.resume();
    // A connection that was probed in vain for long enough is replaced.
    let ends = || lines("circuit breaker closed") + lines("connected to Redis again");
    eventually("the end is logged", async || ends() == 1).await;
    drop(calls);
    eventually("every connection is up", async || connected(&service, &redis).await == 5).await;
    all_answer(&caller, "OK").await;
    let log = service.process.whole_output().await;
    let count = |phrase| log.matches(phrase).count();
    let ends = count("circuit breaker closed") + count("connected to Redis again");
    assert_eq!((count("circuit breaker open"), ends), (1, 1), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_topology_is_logged_once() {
    let (mut a, b) = (Redis::start().await, Redis::start().await);
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(Scripted::sentinel(a.port()).await);
    }
    let endpoints: Vec<_> = sentinels.iter().map(|sentinel| sentinel.endpoint().to_string()).collect();
    let url = format!("redis-sentinel://{}/counters", endpoints.join(","));
    let rules = "domain: shop\ndescriptors:\n  - {key: error, rate_limit: 1000000/year}\n";
    let environment = [("REDIS_URL", &*url), ("LOG_LEVEL", "warn"), ("THREADS", "4")];
    let mut service = Tollgate::start(&[("rules.yaml", rules)], &environment).await;
    let caller = Caller::connect(service.grpc).await;
    all_answer(&caller, "OK").await;
    sentinels.iter().for_each(|sentinel| sentinel.answer(names(b.port())));
    a.kill();
    all_answer(&caller, "OK").await;
    eventually("the other one counts on every core", async || connected(&service, &b).await == 5).await;
    assert_eq!(b.len(), 1);
    let log = service.process.whole_output().await;
    assert_eq!(log.matches("Redis topology changed").count(), 1, "{log}");
}
