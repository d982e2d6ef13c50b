//! A running service with candidate rules: its metrics and log, and unchanged answers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const LIVE: &str = "\
domain: shop
descriptors:
  - key: user
    layer: user
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: email
    normalize: [lowercase, hash]
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: email
    value: zoe@example.com
    rate_limit: {unit: year, requests_per_unit: 1}
";

const STRICTER_FOR_USERS: &str = "\
domain: shop
descriptors:
  - key: user
    layer: account
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: email
    rate_limit: {unit: year, requests_per_unit: 5}
";

const WRONG: &str = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: {unit: fortnight}\n";

const SECRET: &str = "sixteen bytes or more";

/// Requests in turn, `key=value`.
const ASKED: [&str; 9] = [
    "user=ann",
    "user=ann",
    "user=ann",
    "user=bob\u{1b}[31m\nINFO",
    "email=Ann@example.com",
    "email=ann@example.com",
    "user=bob\u{1b}[31m\nINFO",
    "other=x",
    "user=",
];

fn candidate(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    dir
}

/// With no moment at which the file is half there.
fn write(dir: &Path, name: &str, text: &str) {
    let aside = dir.join(format!(".{name}"));
    fs::write(&aside, text).expect("a file");
    fs::rename(aside, dir.join(name)).expect("renamed");
}

async fn start(candidate: Option<&Path>, more: &[(&str, &str)]) -> Tollgate {
    let path = candidate.map(|path| path.display().to_string());
    let mut environment = vec![("LOG_FORMAT", "json"), ("HASH_KEY", SECRET)];
    environment.extend(path.as_deref().map(|path| ("CANDIDATE_CONFIG", path)));
    environment.extend(more);
    Tollgate::start(&[("rules.yaml", LIVE)], &environment).await
}

/// The status and the answer, but for the time until a reset.
async fn ask(service: &Tollgate, pair: &str) -> (u16, Value) {
    let (key, value) = pair.split_once('=').expect("key=value");
    let body = json!({"domain": "shop", "descriptors": [{"entries": [{"key": key, "value": value}]}]});
    let answer = reqwest::Client::new().post(service.url("/json")).json(&body).send().await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    let mut answer: Value = answer.json().await.expect("JSON");
    if let Some(statuses) = answer["statuses"].as_array_mut() {
        statuses.iter_mut().filter_map(Value::as_object_mut).for_each(|status| {
            status.remove("durationUntilReset");
        });
    }
    (status, answer)
}

async fn read(service: &Tollgate, path: &str) -> (u16, String) {
    let answer = reqwest::get(service.debug_url(path)).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

/// The lines of `/metrics` that begin with `tollgate_candidate_`, without that.
async fn metrics(service: &Tollgate) -> Vec<String> {
    let (_, text) = read(service, "/metrics").await;
    text.lines().filter_map(|line| line.strip_prefix("tollgate_candidate_")).map(str::to_owned).collect()
}

async fn has(service: &Tollgate, line: &str) -> bool {
    metrics(service).await.iter().any(|found| found == line)
}

/// Lines of the log so far that report a difference.
fn differences(service: &Tollgate) -> Vec<Value> {
    lines_of_differences(&service.process.output())
}

/// Waits until the log reports a difference, and returns all such lines.
async fn some_differences(service: &Tollgate) -> Vec<Value> {
    lines_of_differences(&service.process.output_with("candidate decides differently").await)
}

fn lines_of_differences(output: &str) -> Vec<Value> {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "candidate decides differently").collect()
}

#[tokio::test]
async fn differences_are_counted_and_logged_and_answers_are_those_of_a_service_without_a_candidate() {
    let dir = candidate(&[("next.yaml", STRICTER_FOR_USERS)]);
    let (alone, service) = (start(None, &[]).await, start(Some(dir.path()), &[]).await);
    for pair in ASKED {
        assert_eq!(ask(&alone, pair).await, ask(&service, pair).await, "{pair}");
    }
    let found = metrics(&service).await;
    for line in [
        r#"requests{outcome="same"} 6"#,
        r#"requests{outcome="stricter"} 2"#,
        r#"requests{outcome="looser"} 1"#,
        r#"requests{outcome="failed"} 0"#,
        r#"differing_requests{domain="shop",rule="shop.user",outcome="stricter"} 2"#,
        r#"differing_requests{domain="shop",rule="shop.email",outcome="looser"} 1"#,
        "rules 2",
        "config_wrong 0",
        "config_load_success 1",
        "config_load_error 0",
    ] {
        assert!(found.iter().any(|found| found == line), "{line}: {found:#?}");
    }
    assert_eq!(metrics(&alone).await, [""; 0]);

    // The first one is logged; of the others those that come in another second.
    let logged = some_differences(&service).await;
    let first = &logged[0];
    let expected = json!({
        "domain": "shop", "descriptors": "user=ann", "live": "OK", "candidate": "OVER_LIMIT",
        "outcome": "stricter", "rule": "shop.user", "layer": "account", "limit": 1,
        "window_secs": 31_536_000, "locked_out": false, "remaining": 0, "unlogged": 0,
    });
    for (field, value) in expected.as_object().expect("fields") {
        assert_eq!(&first[field], value, "{field}: {first}");
    }
    assert_eq!(first["level"], "INFO");
    assert!(logged.len() <= 3, "{logged:?}");
}

#[tokio::test]
async fn hashed_values_are_never_logged_and_no_value_breaks_a_line() {
    let dir = candidate(&[("next.yaml", STRICTER_FOR_USERS)]);
    let service = start(Some(dir.path()), &[("LOG_FORMAT", "text")]).await;
    ask(&service, "email=Ann@example.com").await;
    eventually("one of them is logged", async || {
        assert_eq!(ask(&service, "email=ann@example.com").await.0, 429);
        service.process.output().contains("candidate decides differently")
    })
    .await;
    let output = service.process.output();
    assert!(!output.to_lowercase().contains("ann@"), "{output}");
    let value = "bob\u{1b}[31m\nINFO forged";
    // Of each, the second request is the one that differs.
    let mut asked = 0;
    eventually("another is logged", async || {
        asked += 1;
        ask(&service, &format!("user={value}{}", asked / 2)).await;
        service.process.output().contains("forged")
    })
    .await;
    let output = service.process.output();
    assert!(!output.contains('\u{1b}') && !output.contains("\nINFO forged"), "{output:?}");
}

#[tokio::test]
async fn a_rule_for_a_value_that_is_hashed_is_called_by_the_hash() {
    let dir = candidate(&[("next.yaml", STRICTER_FOR_USERS)]);
    let service = start(Some(dir.path()), &[]).await;
    let answers =
        [ask(&service, "email=Zoe@example.com").await, ask(&service, "email=zoe@example.com").await];
    assert_eq!(answers.map(|(status, _)| status), [200, 429]);
    let logged = some_differences(&service).await;
    let rule = logged[0]["rule"].as_str().expect("a text");
    let hash = logged[0]["descriptors"].as_str().and_then(|found| found.strip_prefix("email="));
    assert_eq!(rule.strip_prefix("shop.email_"), hash, "{logged:?}");
    let line = format!(r#"differing_requests{{domain="shop",rule="{rule}",outcome="looser"}} 1"#);
    assert!(has(&service, &line).await, "{line}");
    let (_, all) = read(&service, "/metrics").await;
    assert!(!service.process.output().contains("zoe@") && !all.contains("zoe@"), "{all}");
}

#[tokio::test]
async fn without_info_in_the_log_differences_are_counted_all_the_same() {
    let dir = candidate(&[("next.yaml", STRICTER_FOR_USERS)]);
    let service = start(Some(dir.path()), &[("LOG_LEVEL", "warn")]).await;
    ask(&service, "user=ann").await;
    ask(&service, "user=ann").await;
    assert!(has(&service, r#"requests{outcome="stricter"} 1"#).await);
    assert_eq!(differences(&service), Vec::<Value>::new());
}

#[tokio::test]
async fn a_wrong_candidate_is_reported_with_its_position_and_harms_nothing() {
    let dir = candidate(&[("next.yaml", WRONG)]);
    let service = start(Some(dir.path()), &[]).await;
    let place = format!("{}:4:24", dir.path().join("next.yaml").display());
    let output = service.process.output_with(&place).await;
    assert!(output.contains("rules have errors"), "{output}");
    for line in ["config_wrong 1", "config_load_error 1", "config_load_success 0", "rules 0"] {
        assert!(has(&service, line).await, "{line}");
    }
    assert_eq!(ask(&service, "user=ann").await.0, 200);
    assert!(has(&service, r#"requests{outcome="failed"} 1"#).await);
    let (status, text) = read(&service, "/rlconfig?candidate").await;
    assert_eq!((status, text.as_str()), (503, "no rate limit configuration loaded\n"));
    assert_eq!(reqwest::get(service.url("/healthcheck")).await.expect("an answer").status(), 200);

    write(dir.path(), "next.yaml", STRICTER_FOR_USERS);
    eventually("it is mended", async || has(&service, "config_wrong 0").await).await;
    assert!(has(&service, "rules 2").await);
    ask(&service, "user=bob").await;
    ask(&service, "user=bob").await;
    assert!(has(&service, r#"requests{outcome="stricter"} 1"#).await);

    // What is good stays though it becomes wrong, or goes.
    write(dir.path(), "next.yaml", WRONG);
    eventually("it is wrong again", async || has(&service, "config_wrong 1").await).await;
    assert!(has(&service, "rules 2").await);
    drop(dir);
    eventually("it is gone", async || has(&service, "config_load_error 3").await).await;
    ask(&service, "user=cat").await;
    assert_eq!(ask(&service, "user=cat").await.0, 200);
    assert!(has(&service, r#"requests{outcome="stricter"} 2"#).await);
}

#[tokio::test]
async fn the_candidate_s_rules_are_shown_apart() {
    let dir = candidate(&[("next.yaml", STRICTER_FOR_USERS)]);
    let service = start(Some(dir.path()), &[]).await;
    let (_, live) = read(&service, "/rlconfig").await;
    let (_, tried) = read(&service, "/rlconfig?candidate").await;
    assert!(live.contains("shop.user: unit=YEAR requests_per_unit=2"), "{live}");
    assert!(tried.contains("shop.user: unit=YEAR requests_per_unit=1"), "{tried}");
    assert_eq!(read(&service, "/rlconfig?candidate=").await.1, tried);
    assert_eq!(read(&service, "/rlconfig?other").await.1, live);
    service.process.output_with(r#""role":"candidate","domains":1,"rules":2"#).await;
    let alone = start(None, &[]).await;
    assert_eq!(read(&alone, "/rlconfig?candidate").await.0, 404);
}

#[tokio::test]
async fn gauges_of_counters_and_of_the_deny_cache_are_of_the_rules_in_force() {
    const LIVE: &str =
        "domain: shop\ndescriptors: [{key: user, rate_limit: 2/year}, {key: ip, rate_limit: 9/year}]";
    const TRIED: &str =
        "domain: shop\ndescriptors: [{key: user, rate_limit: 1/year}, {key: ip, rate_limit: 0/year}]";
    let dir = candidate(&[("next.yaml", TRIED)]);
    let path = dir.path().display().to_string();
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let of_redis =
        [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s"), ("LOCAL_CACHE_SIZE_IN_BYTES", "100000")];
    let gauges = async |more: &[(&str, &str)]| {
        let service = Tollgate::start(&[("rules.yaml", LIVE)], more).await;
        for pair in ["user=ann", "user=ann", "ip=i", "ip=i"] {
            assert_eq!(ask(&service, pair).await.0, 200, "{pair}");
        }
        let (_, stats) = read(&service, "/stats").await;
        let is_gauge = |line: &&str| line.contains("localcache") || line.contains("memory_counters");
        let gauges: Vec<_> = stats.lines().filter(is_gauge).map(str::to_owned).collect();
        (gauges, metrics(&service).await)
    };
    for backend in [&[][..], &of_redis] {
        let (alone, _) = gauges(backend).await;
        redis.command(["FLUSHALL"]);
        let (beside, found) = gauges(&[backend, &[("CANDIDATE_CONFIG", &*path)]].concat()).await;
        redis.command(["FLUSHALL"]);
        assert!(!alone.is_empty() && alone == beside, "{alone:?} {beside:?}");
        // The candidate has denied, and denied what it knew.
        assert!(found.iter().any(|line| line == r#"requests{outcome="stricter"} 3"#), "{found:?}");
    }
}
