//! `tollgate bench` as people run it, against the program itself. How fast anything is depends on the
//! machine, and nothing here asks for it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::bench::{Ran, bench, count, endless, report_of};
use crate::support::ports::free_ports;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const GUIDE: &str = include_str!("../docs/bench.md");

const RULES: &str = "\
domain: load
descriptors:
  - key: hot
    rate_limit: {unit: year, requests_per_unit: 100}
  - key: user
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: free
    rate_limit: {unlimited: true}
";

async fn service() -> (Tollgate, String) {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let address = format!("127.0.0.1:{}", service.grpc);
    (service, address)
}

#[tokio::test]
async fn a_closed_loop_is_admitted_up_to_the_limit() {
    let (_service, address) = service().await;
    let args = ["hot=x", "--json", "--duration", "700ms", "--warmup", "0", "--concurrency", "10"];
    let ran = bench(&address, &args).await;
    let report = ran.json();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(count(&report, "admitted"), 100, "{report}");
    let decided = count(&report, "admitted") + count(&report, "denied");
    assert_eq!(count(&report, "requests"), decided + count(&report, "errors"), "{report}");
    assert!(count(&report, "denied") > 0 && count(&report, "unsent") == 0, "{report}");
    assert_eq!((report["loop"].as_str(), count(&report, "concurrency")), (Some("closed"), 10));
}

#[tokio::test]
async fn every_key_is_asked_for_and_hits_and_descriptors_count() {
    let (_service, address) = service().await;
    // Each key has one hit, and they are few: all of them are used up.
    let common = ["--json", "--duration", "500ms", "--warmup", "0", "--keys", "5"];
    let admitted = async |args: &[&str]| {
        let ran = bench(&address, &[&common[..], args].concat()).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        count(&ran.json(), "admitted")
    };
    assert_eq!(admitted(&["user=a{n}"]).await, 5);
    assert_eq!(admitted(&["user=b{}", "--distribution", "zipf"]).await, 5);
    assert_eq!(admitted(&["user=c{n}", "--hits", "2"]).await, 0);
    assert_eq!(admitted(&["hot=y", "--hits", "10"]).await, 10);
    // One after the other: requests that overlap would share the last hits between them.
    assert_eq!(admitted(&["hot=z", "--descriptors", "4", "--concurrency", "1"]).await, 25);
}

#[tokio::test]
async fn requests_of_the_warm_up_are_not_counted() {
    let (_service, address) = service().await;
    let args = ["hot=w", "--json", "--duration", "200ms", "--warmup", "1s"];
    let report = bench(&address, &args).await.json();
    assert!(count(&report, "admitted") < 100, "{report}");
    assert!(report["durationSeconds"].as_f64().expect("a number") <= 0.2, "{report}");
}

#[tokio::test]
async fn an_open_loop_sends_at_its_rate_and_accounts_for_every_due_request() {
    let (_service, address) = service().await;
    let args = ["free=x", "--json", "--rate", "200", "--duration", "1s", "--warmup", "100ms"];
    let ran = bench(&address, &args).await;
    let report = ran.json();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(count(&report, "requests") + count(&report, "unsent"), 200, "{report}");
    assert!(count(&report, "requests") >= 100, "{report}");
    assert!(report["scheduleLagUs"]["p50"].is_number(), "{report}");
}

#[tokio::test]
async fn requests_above_the_bound_in_flight_count_as_not_sent() {
    let (_service, address) = service().await;
    let args = [
        "free=x",
        "--json",
        "--rate",
        "1000000",
        "--max-in-flight",
        "1",
        "--duration",
        "200ms",
        "--warmup",
        "0",
    ];
    let report = bench(&address, &args).await.json();
    assert!(count(&report, "unsent") > 0, "{report}");
    assert_eq!(count(&report, "requests") + count(&report, "unsent"), 200_000, "{report}");
}

/// The fields that the guide lists, with those inside them.
fn documented() -> BTreeSet<String> {
    let section = GUIDE.split("## JSON").nth(1).expect("a section");
    let names = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    names.flat_map(|(names, _)| names.split("`, `").map(str::to_owned)).collect()
}

#[tokio::test]
async fn json_has_every_field_that_is_documented_and_no_other() {
    let (_service, address) = service().await;
    let short = ["free=x", "--json", "--duration", "100ms", "--warmup", "0"];
    for args in [&[][..], &["--rate", "100"]] {
        let report = bench(&address, &[&short[..], args].concat()).await.json();
        let found: BTreeSet<_> = report.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(found, documented(), "{args:?}");
        for times in ["latencyUs", "scheduleLagUs"].iter().filter(|times| report[**times].is_object()) {
            let found: Vec<_> = report[times].as_object().expect("an object").keys().collect();
            assert_eq!(found, ["mean", "p50", "p90", "p99", "p999", "max"]);
        }
    }
}

#[tokio::test]
async fn the_text_report_has_errors_and_progress() {
    let (_service, address) = service().await;
    let short = ["--duration", "1100ms", "--warmup", "0"];
    let ran = bench(&address, &[&short[..], &["free=x", "--progress"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("closed loop, 64 requests in flight") && ran.stdout.contains("latency"));
    assert!(ran.stderr.contains("requests in the last second"), "{}", ran.stderr);
    // Requests with too many descriptors are rejected.
    let many = ["free=x", "--duration", "100ms", "--warmup", "0", "--descriptors", "2000"];
    let ran = bench(&address, &many).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stdout.contains("INVALID_ARGUMENT"), "{}", ran.stdout);
    assert!(ran.stderr.contains("no request got a decision: INVALID_ARGUMENT: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[tokio::test]
async fn an_unreachable_service_is_reported_once_and_at_once() {
    let [unused] = free_ports();
    let ran = bench(&format!("127.0.0.1:{unused}"), &["free=x", "--duration", "1h"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    for part in [&unused.to_string(), "Connection refused", "--address"] {
        assert_eq!(ran.stderr.matches(part).count(), 1, "{part} in {}", ran.stderr);
    }
    let (service, _) = service().await;
    let ran = bench(&format!("127.0.0.1:{}", service.http), &["free=x", "--duration", "1h"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("is no rate-limit service"), "{}", ran.stderr);
}

#[tokio::test]
async fn contradictory_options_are_wrong_usage() {
    for (args, expected) in [
        (&["user"][..], "key=value"),
        (&["a=1", "b=2", "--descriptors", "1"], "--descriptors"),
        (&["a=1", "--rate", "0"], "--rate"),
    ] {
        let ran = bench("127.0.0.1:1", args).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn an_interrupt_ends_it_early_with_a_report() {
    let (_service, address) = service().await;
    for args in [&["--concurrency", "2"][..], &["--rate", "50"]] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ran = interrupted(&address, args, dir.path()).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stdout);
        for part in ["Stopped early", "requests", "latency"] {
            assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
        }
    }
}

/// Runs until the first progress line, and interrupts it then.
async fn interrupted(address: &str, args: &[&str], dir: &Path) -> Ran {
    let mut process = endless(address, &[&["--warmup", "0"][..], args].concat(), dir);
    eventually("it reports progress", async || process.output().contains("in the last second")).await;
    process.signal("INT");
    let code = process.exit_code(PATIENCE).await;
    Ran { code, stdout: process.output(), stderr: String::new() }
}

#[tokio::test]
async fn a_service_that_restarts_gets_requests_again() {
    let [port] = free_ports();
    let port = port.to_string();
    let (rules, ports) = ([("rules.yaml", RULES)], [("GRPC_PORT", port.as_str())]);
    let service = Tollgate::start(&rules, &ports).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let args = ["--warmup", "0", "--json", "--concurrency", "4"];
    let mut load = endless(&format!("127.0.0.1:{port}"), &args, dir.path());
    eventually("it reports progress", async || load.output().contains("in the last second")).await;
    service.process.signal("KILL");
    drop(service);
    let before = load.output().len();
    let _service = Tollgate::start(&rules, &ports).await;
    let is_asked = async || {
        let since = load.output().split_off(before);
        since.lines().skip(1).any(|line| line.contains(" s: ") && !line.contains(": 0 requests"))
    };
    eventually("requests are answered again", is_asked).await;
    load.signal("INT");
    assert_eq!(load.exit_code(PATIENCE).await, Some(0));
    let report = report_of(&load);
    assert!(count(&report, "lostConnections") > 0 && count(&report, "admitted") > 0, "{report}");
    // Requests in flight are errors; there is no busy loop of attempts.
    assert!(count(&report, "errors") <= 8, "{report}");
}
