//! The program under load while Redis hangs or is gone: answers come in time, each rule's as it says, and
//! counting goes on when Redis is back.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time;
use tonic::Request;

use crate::support::eventually;
use crate::support::load::{Answers, Caller, request};
use crate::support::redis::Redis;
use crate::support::redis::cluster::Cluster;
use crate::support::tollgate::Tollgate;

/// Rate that a debug build on a shared machine sustains.
const RATE: u32 = 1_000;
const AWAY: Duration = Duration::from_secs(3);

const RULES: &str = "
domain: shop
descriptors:
  - {key: error, rate_limit: {unit: year, requests_per_unit: 1000000}}
  - {key: allow, on_backend_failure: allow, rate_limit: {unit: year, requests_per_unit: 1000000}}
  - {key: deny, on_backend_failure: deny, rate_limit: {unit: year, requests_per_unit: 1000000}}
  - {key: local, on_backend_failure: local, rate_limit: {unit: year, requests_per_unit: 100}}
";
const KEYS: [&str; 4] = ["error", "allow", "deny", "local"];

pub(crate) async fn start(redis: &Redis, environment: &[(&str, &str)]) -> (Tollgate, Caller) {
    let url = redis.settings().deployment.to_string();
    let mut all = vec![("REDIS_URL", url.as_str()), ("REPLICAS", "4")];
    all.extend(environment);
    let service = Tollgate::start(&[("rules.yaml", RULES)], &all).await;
    let caller = Caller::connect(service.grpc).await;
    eventually("it counts", async || caller.ask(0, request("shop", &[("error", "warm")])).await == "OK")
        .await;
    (service, caller)
}

/// The memory that the process holds, in KiB.
fn resident_kib(service: &Tollgate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.process.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Load on one key for a while.
async fn load(caller: &Caller, key: &'static str, lasting: Duration) -> Answers {
    caller.load(RATE / 4, lasting, |turn| request("shop", &[(key, &format!("{}", turn % 50))])).await
}

async fn calls_are_answered_as_the_rules_say(
    redis: &mut Redis,
    go: fn(&mut Redis),
    back: impl AsyncFnOnce(&mut Redis),
) {
    let (service, caller) = start(redis, &[]).await;
    let before_kib = resident_kib(&service);
    go(redis);
    let mut answers = HashMap::new();
    let (error, allow, deny, local) = tokio::join!(
        load(&caller, "error", AWAY),
        load(&caller, "allow", AWAY),
        load(&caller, "deny", AWAY),
        caller.load(RATE / 4, AWAY, |_| request("shop", &[("local", "one")])),
    );
    for (key, of_key) in KEYS.into_iter().zip([error, allow, deny, local]) {
        answers.insert(key, of_key);
    }
    let grown_kib = resident_kib(&service).saturating_sub(before_kib);
    // Every call was answered while Redis was away: none has waited for its return.
    back(redis).await;
    eventually("it counts again", async || {
        caller.ask(0, request("shop", &[("error", "back")])).await == "OK"
    })
    .await;

    assert_eq!(answers["allow"].count("OK"), answers["allow"].len(), "{:?}", answers["allow"].counts);
    assert_eq!(answers["deny"].count("OVER_LIMIT"), answers["deny"].len(), "{:?}", answers["deny"].counts);
    assert_eq!(answers["error"].count("OK"), 0, "{:?}", answers["error"].counts);
    // A quarter of the limit, since four replicas share it.
    assert_eq!(answers["local"].count("OK"), 25, "{:?}", answers["local"].counts);
    assert_eq!(answers["local"].count("OVER_LIMIT"), answers["local"].len() - 25);
    assert!(grown_kib < 16 * 1024, "{grown_kib} KiB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_under_load_delays_no_call() {
    let mut redis = Redis::start().await;
    calls_are_answered_as_the_rules_say(&mut redis, |redis| redis.pause(), async |redis| redis.resume())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_under_load_delays_no_call() {
    let mut redis = Redis::start().await;
    calls_are_answered_as_the_rules_say(&mut redis, Redis::kill, Redis::restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_leaves_before_its_caller_gives_up() {
    let redis = Redis::start().await;
    let (_service, caller) = start(&redis, &[("REDIS_CALL_TIMEOUT", "5s")]).await;
    redis.pause();
    // The answer leaves some milliseconds before its caller gives up, which a busy machine may take.
    eventually("what the rule says without Redis", async || {
        let mut asked = Request::new(request("shop", &[("allow", "a")]));
        asked.set_timeout(Duration::from_millis(200));
        caller.ask(0, asked).await == "OK"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn excess_requests_are_rejected_and_not_counted() {
    let redis = Redis::start().await;
    let environment = [("REDIS_CALL_TIMEOUT", "20s"), ("THREADS", "1"), ("MAX_REQUESTS_IN_FLIGHT", "10")];
    let (_service, caller) = start(&redis, &environment).await;
    redis.pause();
    let calls: Vec<_> = (0..20)
        .map(|turn| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.ask(turn, request("shop", &[("error", "one")])).await })
        })
        .collect();
    eventually("half of them are turned away at once", async || {
        calls.iter().filter(|call| call.is_finished()).count() == 10
    })
    .await;
    redis.resume();
    let mut answers = HashMap::<String, usize>::new();
    for call in calls {
        *answers.entry(call.await.expect("no panic")).or_default() += 1;
    }
    let expected = [("OK".to_owned(), 10), ("Unavailable".to_owned(), 10)];
    assert_eq!(answers, HashMap::from(expected));
    let key = redis.command(["KEYS", "*one*"]);
    assert_eq!(redis.command(["GET", &key]), "10");
}

/// Lines of the log that have `phrase`.
pub(crate) fn logged(service: &Tollgate, phrase: &str) -> usize {
    service.process.output().lines().filter(|line| line.contains(phrase)).count()
}

/// The service on two cores, logging at the default level.
async fn start_quiet(redis: &Redis) -> (Tollgate, Caller) {
    start(redis, &[("THREADS", "2"), ("LOG_LEVEL", "warn"), ("REDIS_CALL_TIMEOUT", "100ms")]).await
}

/// Calls on every core until all answers are `answer`.
pub(crate) async fn all_answer(caller: &Caller, answer: &str) {
    eventually(answer, async || {
        for turn in 0..8 {
            if caller.ask(turn, request("shop", &[("error", "one")])).await != answer {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_detail_shows_each_node() {
    let mut redis = Redis::start().await;
    let (service, caller) = start_quiet(&redis).await;
    let store = async || -> serde_json::Value {
        let detail =
            reqwest::Client::new().get(service.url("/healthcheck")).header("accept", "application/json");
        let text = detail.send().await.expect("an answer").text().await.expect("text");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["store"].take()
    };
    all_answer(&caller, "OK").await;
    // Those of two cores, and that of operators.
    eventually("every connection is up", async || store().await["nodes"][0]["connected"] == 3).await;
    let up = store().await;
    let node = &up["nodes"][0];
    assert_eq!(
        (&up["kind"], &node["node"]),
        (&"redis".into(), &format!("127.0.0.1:{}", redis.port()).into())
    );
    assert_eq!(
        (&node["connections"], &node["connected"], &node["breakers_open"]),
        (&3.into(), &3.into(), &0.into())
    );
    assert!(node["error"].is_null() && node["batch_size"].as_u64() >= Some(1), "{up}");

    // One call is in flight and others wait, for longer than a call to Redis may take.
    redis.pause();
    let stop = AtomicBool::new(false);
    let calls = async {
        while !stop.load(Ordering::Relaxed) {
            caller.ask(0, request("shop", &[("error", "one")])).await;
        }
    };
    let watch = async {
        let is_open = async || store().await["nodes"][0]["breakers_open"].as_u64() >= Some(1);
        eventually("the breaker opens", is_open).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(calls, watch);
    redis.kill();
    eventually("it is gone", async || {
        let down = store().await;
        down["nodes"][0]["connected"] == 0 && down["nodes"][0]["error"].is_string()
    })
    .await;
}

/// A process that is not scheduled fails no call that Redis answers in time, and does not take its own silence for
/// that of Redis.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_of_the_process_fail_no_call() {
    // Some are longer than a call may take, and one is longer than the silence after which the breaker opens.
    const PAUSES_MS: [u64; 4] = [15, 200, 600, 1_400];
    let redis = Redis::start().await;
    // Long enough for Redis to be scheduled in time on a busy machine.
    let (service, caller) =
        start(&redis, &[("THREADS", "2"), ("LOG_LEVEL", "warn"), ("REDIS_CALL_TIMEOUT", "400ms")]).await;
    let mut failed = Vec::new();
    // On a busy machine Redis itself may be late now and then, but not in every round.
    for _ in 0..5 {
        let opened = logged(&service, "circuit breaker open");
        let pauses = async {
            for pause_ms in PAUSES_MS {
                time::sleep(Duration::from_millis(40)).await;
                service.process.signal("STOP");
                time::sleep(Duration::from_millis(pause_ms)).await;
                service.process.signal("CONT");
            }
        };
        // Few enough for those of a whole pause to be served at once by a debug build that shares its cores.
        let load = caller.load(40, Duration::from_secs(3), |turn| {
            request("shop", &[("error", &format!("{}", turn % 50))])
        });
        let (answers, ()) = tokio::join!(load, pauses);
        let is_open = logged(&service, "circuit breaker open") > opened;
        if answers.count("OK") == answers.len() && !is_open {
            return;
        }
        failed.push((answers.counts, is_open));
    }
    panic!("calls failed in every round: {failed:?}");
}

const HOT_RULES: &str = "
domain: shop
descriptors:
  - {key: hot, rate_limit: {unit: year, requests_per_unit: 30}}
  - {key: kept, charge: if_allowed, rate_limit: {unit: year, requests_per_unit: 100}}
";

/// So many processes count in `url`; how many hits passed, for each of 200 keys and for the last, whose
/// denied hits do not count.
async fn hot_keys(processes: usize, environment: &[(&str, &str)]) -> HashMap<String, u32> {
    let mut services = Vec::new();
    for _ in 0..processes {
        services.push(Tollgate::start(&[("rules.yaml", HOT_RULES)], environment).await);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for service in &services {
        let caller = Arc::new(Caller::connect(service.grpc).await);
        for task in 0..8 {
            let caller = Arc::clone(&caller);
            tasks.spawn(async move {
                let mut passed = HashMap::<String, u32>::new();
                for turn in 0..200 * 6 {
                    let number = (turn * 7 + task * 13) % 200;
                    let (key, value) = if turn % 10 == 0 { ("kept", 0) } else { ("hot", number) };
                    let name = format!("{key}{value}");
                    let answer = caller.ask(task + turn, request("shop", &[(key, &value.to_string())])).await;
                    match answer.as_str() {
                        "OK" => *passed.entry(name).or_default() += 1,
                        "OVER_LIMIT" => {}
                        other => panic!("{other}"),
                    }
                }
                passed
            });
        }
    }
    let mut all = HashMap::new();
    for of_task in tasks.join_all().await {
        for (name, passed) in of_task {
            *all.entry(name).or_default() += passed;
        }
    }
    all
}

fn admits_exactly_the_limits(passed: &HashMap<String, u32>) {
    assert_eq!(passed.len(), 201);
    for (name, passed) in passed {
        let limit = if name == "kept0" { 100 } else { 30 };
        assert_eq!(*passed, limit, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_and_four_processes_on_one_redis_admit_exactly_the_limit_of_every_key() {
    for processes in [2, 4] {
        let redis = Redis::start().await;
        let url = redis.settings().deployment.to_string();
        let environment = [
            ("REDIS_URL", url.as_str()),
            ("REDIS_CALL_TIMEOUT", "20s"),
            ("REDIS_STARTUP_MAX_ELAPSED_TIME", "20s"),
        ];
        admits_exactly_the_limits(&hot_keys(processes, &environment).await);
        let kept = redis.command(["KEYS", "*kept*"]);
        assert_eq!(redis.command(["GET", &kept]), "100", "what was denied is not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_cluster_admit_exactly_the_limit_of_every_key() {
    let cluster = Cluster::start(3, 0).await;
    let nodes: Vec<_> = (0..3).map(|node| format!("127.0.0.1:{}", cluster.port(node))).collect();
    let environment = [
        ("REDIS_TYPE", "CLUSTER"),
        ("REDIS_URL", &*nodes.join(",")),
        ("REDIS_CALL_TIMEOUT", "20s"),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "20s"),
    ];
    admits_exactly_the_limits(&hot_keys(2, &environment).await);
}

const CACHED_RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: tried, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
";

/// Number of commands that counted in Redis. Replicas also announce themselves and look for overrides, with other
/// commands.
fn counted(redis: &Redis) -> u64 {
    let stats = redis.command(["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_incrby:calls="));
    calls.map_or(0, |rest| rest.split(',').next().expect("a number").parse().expect("a number"))
}

async fn cached(cache_bytes: &str) -> (Redis, Tollgate, Caller) {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let environment = [
        ("REDIS_URL", url.as_str()),
        ("LOCAL_CACHE_SIZE_IN_BYTES", cache_bytes),
        ("REDIS_CALL_TIMEOUT", "5s"),
    ];
    let service = Tollgate::start(&[("rules.yaml", CACHED_RULES)], &environment).await;
    let caller = Caller::connect(service.grpc).await;
    (redis, service, caller)
}

#[tokio::test]
async fn a_key_that_is_over_its_limit_is_not_asked_about() {
    let (redis, service, caller) = cached("1000000").await;
    let ask = async |key| caller.ask(0, request("shop", &[(key, "a")])).await;
    let answers = [ask("user").await, ask("user").await, ask("user").await];
    assert_eq!(answers, ["OK", "OK", "OVER_LIMIT"]);
    let before = counted(&redis);
    assert_eq!(ask("user").await, "OVER_LIMIT");
    assert_eq!(counted(&redis), before);
    let stats = reqwest::get(service.debug_url("/stats")).await.expect("stats").text().await.expect("text");
    for line in [
        "ratelimit.localcache.hitCount: 1",
        "ratelimit.localcache.missCount: 3",
        "ratelimit.localcache.lookupCount: 4",
        "ratelimit.localcache.entryCount: 1",
        "ratelimit.service.rate_limit.shop.user.over_limit: 2",
        "ratelimit.service.rate_limit.shop.user.over_limit_with_local_cache: 1",
        "ratelimit.service.rate_limit.shop.user.total_hits: 4",
    ] {
        assert!(stats.lines().any(|found| found == line), "{line} is not in\n{stats}");
    }

    // What only is watched is asked about every time.
    for _ in 0..3 {
        assert_eq!(ask("tried").await, "OK");
    }
    assert_eq!(counted(&redis), before + 3);

    // Another limit is another question.
    service.write_rules("rules.yaml", &CACHED_RULES.replace("requests_per_unit: 2", "requests_per_unit: 9"));
    eventually("the limit is raised", async || ask("user").await == "OK").await;
}

#[tokio::test]
async fn a_refund_clears_the_cached_denial() {
    let (_redis, service, caller) = cached("1000000").await;
    let ask = async || caller.ask(0, request("shop", &[("user", "a")])).await;
    while ask().await == "OK" {}
    assert_eq!(ask().await, "OVER_LIMIT");
    let body = r#"{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "a"}],
        "hitsAddend": 5, "isNegativeHits": true}]}"#;
    let answer =
        reqwest::Client::new().post(service.url("/json")).body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
    assert_eq!(ask().await, "OK");
}

#[tokio::test]
async fn without_room_for_it_every_key_is_asked_about() {
    let (redis, _service, caller) = cached("0").await;
    for _ in 0..3 {
        caller.ask(0, request("shop", &[("user", "a")])).await;
    }
    let before = counted(&redis);
    assert_eq!(caller.ask(0, request("shop", &[("user", "a")])).await, "OVER_LIMIT");
    assert_eq!(counted(&redis), before + 1);
}
