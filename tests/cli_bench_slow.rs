//! `tollgate bench` against services that are slow to answer. How slow is up to the tests: nothing here asks
//! how fast anything is.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::support::bench::{bench, count, endless, report_of};
use crate::support::held::{Answered, Held};
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "\
domain: load
descriptors:
  - key: free
    rate_limit: {unlimited: true}
";

/// Runs against a service that answers nothing before it was asked `window` ago.
async fn held_back(mut service: Held, window: Duration, args: &[&str]) -> Value {
    let address = service.address.clone();
    let common = ["free=x", "--json", "--warmup", "0", "--timeout", "30s", "--connections", "1"];
    let args = [&common[..], args].concat();
    let release = async {
        service.is_asked().await;
        sleep(window).await;
        service.answer(Answered::Everything);
    };
    let (ran, ()) = tokio::join!(bench(&address, &args), release);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.json()
}

#[tokio::test]
async fn an_answer_after_the_end_counts_as_a_request_and_not_in_the_rate() {
    let service = Held::start(1_000, Answered::Probes).await;
    let args = ["--rate", "100", "--duration", "500ms"];
    // It began no later than it was first asked.
    let report = held_back(service, Duration::from_millis(600), &args).await;
    assert_eq!((count(&report, "requests"), count(&report, "admitted")), (50, 50), "{report}");
    assert_eq!(report["requestsPerSecond"], 0.0, "{report}");
    assert_eq!(report["decisionsPerSecond"], 0.0, "{report}");
}

#[tokio::test]
async fn an_interrupt_before_anything_was_measured_is_no_success() {
    let service = Held::start(1_000, Answered::Everything).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut load = endless(&service.address, &["--warmup", "1h", "--json"], dir.path());
    eventually("it warms up", async || load.output().contains("warming up")).await;
    load.signal("INT");
    assert_eq!(load.exit_code(PATIENCE).await, Some(1));
    let report = report_of(&load);
    assert!(report["stoppedEarly"] == true && count(&report, "requests") == 0, "{report}");
    assert!(load.output().contains("stopped before any request was measured"));
}

#[tokio::test]
async fn a_request_that_waits_for_its_connection_is_late_and_not_lost() {
    let service = Held::start(4, Answered::Probes).await;
    let args = ["--rate", "100", "--duration", "500ms"];
    let report = held_back(service, Duration::from_millis(1_200), &args).await;
    assert_eq!((count(&report, "requests"), count(&report, "unsent")), (50, 0), "{report}");
    assert_eq!(count(&report, "connectionBound"), 4, "{report}");
    // All but four were due 700 ms or more before they could be sent, and took no less than that.
    for times in ["scheduleLagUs", "latencyUs"] {
        let median = report[times]["p50"].as_f64().expect("a number");
        assert!(median >= 690_000.0, "{times}: {report}");
    }
}

#[tokio::test]
async fn a_closed_loop_begins_no_more_than_the_service_allows() {
    let service = Held::start(4, Answered::Probes).await;
    let args = ["--concurrency", "10", "--duration", "1s"];
    let report = held_back(service, Duration::from_millis(1_100), &args).await;
    assert_eq!((count(&report, "requests"), count(&report, "connectionBound")), (4, 4), "{report}");
}

#[tokio::test]
async fn a_request_without_room_in_time_is_not_sent() {
    let service = Held::start(4, Answered::Probes).await;
    let address = service.address.clone();
    let args = ["free=x", "--json", "--warmup", "0", "--connections", "1", "--rate", "100"];
    let short = ["--timeout", "300ms", "--duration", "200ms"];
    let ran = bench(&address, &[&args[..], &short].concat()).await;
    let report = ran.json();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    // Four are sent, and four when those are given up on. Then it is too late for what was due in 200 ms.
    assert_eq!(count(&report, "errors") + count(&report, "unsent"), 20, "{report}");
    assert!(count(&report, "unsent") >= 12 && count(&report, "connectionBound") == 4, "{report}");
}

#[tokio::test]
async fn the_time_to_connect_is_not_part_of_the_run() {
    let service = Held::start(1_000, Answered::Nothing).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let args = ["--warmup", "0", "--timeout", "1m"];
    let load = endless(&service.address, &args, dir.path());
    eventually("it connects", async || load.output().matches("connecting for ").count() >= 2).await;
    service.answer(Answered::Everything);
    eventually("it reports progress", async || load.output().contains(" s of 3600 s: ")).await;
    let output = load.output();
    let first = output.lines().find(|line| line.contains(" s of ")).expect("a line");
    assert!(first.starts_with("1 s of 3600 s: "), "{output}");
}

#[tokio::test]
async fn an_interrupt_ends_it_while_it_connects() {
    let service = Held::start(1_000, Answered::Nothing).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut load = endless(&service.address, &["--timeout", "1m", "--json"], dir.path());
    eventually("it connects", async || load.output().contains("connecting for ")).await;
    load.signal("INT");
    assert_eq!(load.exit_code(PATIENCE).await, Some(1));
    let report = report_of(&load);
    assert!(report["stoppedEarly"] == true && count(&report, "requests") == 0, "{report}");
}

/// The report of an open loop of 100 requests each second, on a service that stood still for a second.
async fn stalled(max_in_flight: &str) -> Value {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let address = format!("127.0.0.1:{}", service.grpc);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let args = ["--warmup", "0", "--json", "--rate", "100", "--timeout", "30s"];
    let mut load = endless(&address, &[&args[..], &["--max-in-flight", max_in_flight]].concat(), dir.path());
    let seconds = || load.output().matches(" s of 3600 s: ").count();
    eventually("it reports progress", async || seconds() > 0).await;
    service.process.signal("STOP");
    sleep(Duration::from_secs(1)).await;
    service.process.signal("CONT");
    let before = seconds();
    eventually("it goes on", async || seconds() > before + 1).await;
    load.signal("INT");
    assert_eq!(load.exit_code(PATIENCE).await, Some(0));
    report_of(&load)
}

#[tokio::test]
async fn all_that_was_due_while_a_service_stood_still_shows_as_slow() {
    let report = stalled("10000").await;
    let latency = |field: &str| report["latencyUs"][field].as_f64().expect("a number") / 1e6;
    assert!(latency("max") >= 0.9, "{report}");
    // A hundred were due that waited for half a second on average.
    let requests = u32::try_from(count(&report, "requests")).expect("few");
    assert!(latency("mean") * f64::from(requests) >= 40.0, "{report}");
}

#[tokio::test]
async fn requests_that_a_stalled_service_delays_count_as_unsent() {
    let report = stalled("1").await;
    assert!(report["latencyUs"]["max"].as_f64().expect("a number") >= 0.9e6, "{report}");
    assert!(count(&report, "unsent") >= 50, "{report}");
}
