//! The decision log: complete, equal to its replay, rotated by renaming, and without what rules hash.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use smallvec::SmallVec;
use tollgate::clock::{Clock as _, ManualClock};
use tollgate::engine::rules::{CompileOptions, HashKey, SourceFile, compile};
use tollgate::engine::{
    Code, Descriptor, Entry, Hits, KeyFormat, KeyWriter, Limit, Modes, Request, Rules, Timestamp, Unit,
};
use tollgate::lab::replay::{LogFormat, LogSource, ReplayOptions, Report, RulesToReplay, replay};
use tollgate::limiter::{CoreCopy, DecisionLog, Limiter};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::telemetry::logs::{DecisionLogTarget, decision_writer};

use crate::support::service::Service;
use crate::support::{eventually, stores};

/// A rule for each algorithm and each way to count.
const RULES: &str = "\
domain: day
descriptors:
  - {key: fixed, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: fixed_if_allowed, charge: if_allowed, rate_limit: {unit: hour, requests_per_unit: 20}}
  - {key: sliding_window, rate_limit: {unit: minute, requests_per_unit: 5, algorithm: sliding_window}}
  - {key: sliding_log, rate_limit: {unit: minute, requests_per_unit: 5, algorithm: sliding_log}}
  - {key: token_bucket, rate_limit: {unit: minute, requests_per_unit: 5, algorithm: token_bucket, burst: 8}}
  - {key: overdraft, charge: overdraft, rate_limit: {unit: hour, requests_per_unit: 40, algorithm: token_bucket}}
  - {key: windows, rate_limits: [2/second, 6/minute, 40/hour]}
  - {key: calendar, rate_limit: {requests_per_unit: 60, unit: day, timezone: Europe/Berlin}}
  - {key: lockout, rate_limit: 3/minute, penalty: {after: 2, within: 10m, block: [1m, 5m], forget: 1h}}
  - {key: hashed, normalize: [lowercase, hash], rate_limit: 5/minute}
  - {key: shared, value: 'A*', rate_limit: 5/minute}
  - {key: shadow, shadow_mode: true, rate_limit: 5/minute}
  - {key: large, max_hits: 3, rate_limit: 30/minute}
";
const KEYS: [&str; 14] = [
    "fixed",
    "fixed_if_allowed",
    "sliding_window",
    "sliding_log",
    "token_bucket",
    "overdraft",
    "windows",
    "calendar",
    "lockout",
    "hashed",
    "shared",
    "shadow",
    "large",
    "no_rule",
];
const REQUESTS: usize = 10_000;
/// Requests of the test of sampling.
const SAMPLED: usize = 1_500;
/// Requests that follow each other closely, most of them for one key.
const BURST: usize = 25;

fn rules() -> Arc<Rules> {
    let file = SourceFile { name: "rules.yaml".into(), text: RULES.into() };
    let hash_key = Some(HashKey::new(b"a secret of the service"));
    Arc::new(
        compile(&[file], CompileOptions { hash_key, ..CompileOptions::default() }, None).expect("good rules"),
    )
}

/// Decides the requests of a day with a decision log at `path`, and returns how many were denied.
async fn simulate(path: &Path, sample: f64, requests: usize) -> usize {
    let writer = decision_writer(&DecisionLogTarget::File(path.to_owned())).expect("it can be opened");
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_794_787_200)));
    let limiter = Limiter {
        overrides: CoreCopy::default(),
        rules: CoreCopy::default(),
        store: Arc::new(MemoryStore::new(MemorySettings::of_counters(1_000_000))),
        fallback: stores::fallback(),
        store_timeout: Duration::ZERO,
        clock: Arc::clone(&clock) as _,
        metrics: stores::metrics(),
        keys: KeyWriter::new(KeyFormat::Native, ""),
        modes: Modes::default(),
        candidate: None,
        tap: None,
        decision_log: Some(DecisionLog::new(writer.queue(), sample)),
    };
    limiter.rules.store(Some(rules()));
    let mut random = fastrand::Rng::with_seed(7);
    let (mut denied, mut busy) = (0, ("", 0));
    for number in 0..requests {
        let mut pause_us = random.u64(..900_000);
        if number % BURST == 0 {
            // Some 400 bursts make a day.
            pause_us += random.u64(..400_000_000);
            busy = (KEYS[number / BURST % KEYS.len()], random.u8(..4));
        }
        clock.set(clock.now().after(Duration::from_micros(pause_us)));
        let chosen: Vec<(&str, Vec<u8>)> = (0..random.usize(1..3))
            .map(|_| {
                let (key, value) = if random.u8(..10) < 7 {
                    busy
                } else {
                    (KEYS[random.usize(..KEYS.len())], random.u8(..4))
                };
                (key, if value == 0 { b"A\xff\"".to_vec() } else { format!("A{value}").into_bytes() })
            })
            .collect();
        let descriptors: SmallVec<_> = chosen
            .iter()
            .map(|(key, value)| {
                let hits = match random.u8(..20) {
                    0 => Hits::Add(0),
                    1 => Hits::Refund(2),
                    2 | 3 => Hits::Add(4),
                    _ => Hits::Add(1),
                };
                let limit_override = (random.u8(..30) == 0).then(|| Limit::per(3, Unit::Minute));
                let entries = [Entry { key: key.as_bytes(), value }].into_iter().collect();
                Descriptor { entries, hits, limit_override }
            })
            .collect();
        let request = Request { domain: b"day", descriptors };
        let decision = limiter.snapshot().decide(&request, None).await.expect("memory").code;
        denied += usize::from(decision == Code::OverLimit);
    }
    assert_eq!(writer.dropped()(), 0);
    denied
}

fn replayed(path: &Path) -> Report {
    let rules = RulesToReplay { name: "rules".into(), rules: rules() };
    let source = LogSource { name: "log".into(), reader: Box::new(fs::File::open(path).expect("a log")) };
    let options = ReplayOptions {
        reorder: Duration::from_secs(60),
        max_bad_percent: 0.0,
        top: 20,
        denied_percent: 0.1,
        modes: Modes::default(),
        max_counter_bytes: 1 << 30,
    };
    let log = LogFormat::decision_log();
    replay(&rules, None, (&log, vec![source]), options, &mut |_| {}).expect("every line is good")
}

#[tokio::test]
async fn a_simulated_day_equals_the_replay_of_its_decision_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("decisions.ndjson");
    let denied = simulate(&path, 1.0, REQUESTS).await;
    let report = serde_json::to_value(replayed(&path)).expect("JSON");
    assert_eq!((&report["requests"], &report["denied"]), (&json!(REQUESTS), &json!(denied)));
    let identity = json!({"compared": REQUESTS, "denied_in_log": denied, "only_log": 0, "only_rules": 0});
    assert_eq!(report["identity"], identity);
    let rules = report["rules"].as_array().expect("rules");
    let path = |rule: &Value| rule["rule"].as_str().unwrap_or_default().to_owned();
    // Some requests bring a limit of their own, which is no rule's.
    let (brought, rules): (Vec<_>, Vec<_>) =
        rules.iter().partition(|rule| path(rule).ends_with(" (limit in requests)"));
    assert!(brought.iter().any(|row| path(row).starts_with("day.no_rule ")), "{report:#}");
    for key in KEYS.iter().filter(|key| **key != "no_rule") {
        let rule = rules.iter().find(|rule| path(rule).starts_with(&format!("day.{key}")));
        let rule = rule.unwrap_or_else(|| panic!("{key} was reached: {report:#}"));
        let over = if *key == "shadow" { &rule["shadowed"] } else { &rule["denied"] };
        let (hits, over) = (rule["hits"].as_u64().expect("a number"), over.as_u64().expect("a number"));
        assert!(0 < over && over < hits, "{key}: {over} of {hits}");
    }
}

#[tokio::test]
async fn of_a_sampled_key_every_decision_is_logged() {
    let dir = tempfile::tempdir().expect("a directory");
    let (all, sampled) = (dir.path().join("all"), dir.path().join("sampled"));
    simulate(&all, 1.0, SAMPLED).await;
    simulate(&sampled, 0.3, SAMPLED).await;
    let read = |path: &Path| -> Vec<(Value, String)> {
        let text = fs::read_to_string(path).expect("a log");
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).expect("JSON");
            value.as_object_mut().expect("an object").remove("sample");
            // The key of the first descriptor; a limit in the request counts apart.
            let first = &value["descriptors"][0];
            (json!([first["entries"], first["limit"]]), value.to_string())
        };
        text.lines().map(line).collect()
    };
    let report = serde_json::to_value(replayed(&sampled)).expect("JSON");
    assert!(report["notes"].to_string().contains("a sample of 30.00 % of the keys"), "{report:#}");
    let (all, sampled) = (read(&all), read(&sampled));
    let expected: Vec<_> =
        all.iter().filter(|(key, _)| sampled.iter().any(|(found, _)| found == key)).collect();
    assert!(sampled.iter().eq(expected), "a key is logged in part");
    assert!(sampled.len() > SAMPLED / 50 && sampled.len() < SAMPLED * 3 / 4, "{}", sampled.len());
}

#[tokio::test]
async fn the_service_logs_decisions_begins_a_new_file_after_a_rename_and_hashes_what_rules_hash() {
    let rules = "domain: shop\ndescriptors:\n\
        - {key: user, rate_limit: {unit: year, requests_per_unit: 2}}\n\
        - {key: token, normalize: [hash], rate_limit: {unit: year, requests_per_unit: 5}}\n";
    let dir = tempfile::tempdir().expect("a directory");
    let (path, rotated) = (dir.path().join("decisions.ndjson"), dir.path().join("decisions.1.ndjson"));
    let file = path.display().to_string();
    let settings = [("DECISION_LOG", file.as_str()), ("HASH_KEY", "a secret of sufficient length")];
    let service = Service::start(&[("shop.yaml", rules)], &settings).await;
    let client = reqwest::Client::new();
    let ask = async |entries: Value| {
        let body = json!({"domain": "shop", "entries": entries});
        client.post(service.url("/v1/check")).json(&body).send().await.expect("an answer").status().as_u16()
    };
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(ask(json!({"user": "ann"})).await);
    }
    assert_eq!(statuses, [200, 200, 429]);
    eventually("three lines are written", async || lines(&path) == 3).await;
    fs::rename(&path, &rotated).expect("renamed");
    ask(json!({"token": "s3cret"})).await;
    eventually("a new file is begun", async || lines(&path) == 1).await;
    assert_eq!(lines(&rotated), 3);
    ask(json!({"token": "s3cret"})).await;
    eventually("five lines are written", async || lines(&path) + lines(&rotated) == 5).await;
    let text = fs::read_to_string(&rotated).expect("text") + &fs::read_to_string(&path).expect("text");
    assert!(!text.contains("s3cret") && text.contains(r#"["user","ann"]"#), "{text}");
    let verdicts: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|line| (line["verdict"].as_str().unwrap_or_default().to_owned(), line["rule"].clone()))
        .collect();
    let ok = |rule: &str| ("ok".to_owned(), json!(rule));
    let denied = ("over_limit".to_owned(), json!("shop.user"));
    assert_eq!(verdicts, [ok("shop.user"), ok("shop.user"), denied, ok("shop.token"), ok("shop.token")]);
    let dropped =
        reqwest::get(service.debug_url("/metrics")).await.expect("an answer").text().await.expect("text");
    assert!(dropped.contains("tollgate_decision_log_lines_dropped 0"), "{dropped}");
}
