//! The files in `deploy/` do what they say. Whether they are well formed is for `tests/deploy.sh`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tollgate::telemetry::metrics::definitions;

use crate::support::envoy::{Config, Envoy};
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(repository().join(path)).unwrap();
    serde_yaml::from_multiple(&text).unwrap()
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = documents("deploy/helm/tollgate/Chart.yaml").remove(0);
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let base = documents("deploy/kubernetes/base/kustomization.yaml").remove(0);
    assert_eq!(base["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
}

/// Names of metrics in a PromQL expression or in several.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let prefixes = ["tollgate_", "ratelimit_", "process_"];
    let is_metric = |word: &&str| prefixes.iter().any(|prefix| word.starts_with(prefix));
    words.filter(is_metric).map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

fn assert_metrics_exist(text: &str, place: &str) {
    for name in metrics_in(text) {
        assert!(definitions::ALL.iter().any(|metric| metric.name == name), "{place}: {name} is no metric");
    }
}

/// Rules of both files of `deploy/prometheus`.
fn prometheus_rules() -> Vec<Value> {
    let files =
        ["rules", "alerts"].map(|name| documents(&format!("deploy/prometheus/{name}.yaml")).remove(0));
    let groups = files.iter().flat_map(|file| file["groups"].as_array().unwrap());
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn alerts_are_about_metrics_and_records_that_exist() {
    let rules = prometheus_rules();
    let recorded: BTreeSet<_> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    assert!(recorded.len() >= 5);
    for rule in &rules {
        let expression = rule["expr"].as_str().unwrap();
        assert_metrics_exist(expression, expression);
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for record in words.filter(|word| word.starts_with("tollgate:")) {
            assert!(recorded.contains(record), "{record} is not recorded");
        }
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_two_tests() {
    let guide = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let tests = fs::read_to_string(repository().join("tests/data/alerts.yaml")).unwrap();
    let rules = prometheus_rules();
    let alerts: Vec<_> = rules.iter().filter_map(|rule| Some((rule["alert"].as_str()?, rule))).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    for (name, rule) in &alerts {
        assert!(guide.contains(&format!("\n### {name}\n")), "docs/operations.md has no section {name}");
        let runbook = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], runbook, "{name}");
        assert!(
            tests.contains(&format!("alertname: {name}\n    exp_alerts:")),
            "no test in which {name} fires"
        );
        assert!(tests.contains(&format!("alertname: {name}}}")), "no test in which {name} does not fire");
    }
    for section in guide.lines().filter_map(|line| line.strip_prefix("### Tollgate")) {
        assert!(alerts.iter().any(|(name, _)| name[8..] == *section), "there is no alert Tollgate{section}");
    }
}

#[test]
fn the_chart_has_the_rules_of_prometheus() {
    for name in ["rules.yaml", "alerts.yaml"] {
        let read = |folder: &str| fs::read_to_string(repository().join(folder).join(name)).unwrap();
        let (ours, charts) = (read("deploy/prometheus"), read("deploy/helm/tollgate/prometheus"));
        assert!(ours == charts, "copy deploy/prometheus/{name} to deploy/helm/tollgate/prometheus/");
    }
}

/// Dashboards by name.
fn dashboards() -> Vec<(String, Value)> {
    let folder =
        fs::read_dir(repository().join("deploy/grafana")).unwrap().map(|entry| entry.unwrap().path());
    let json = folder.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.file_name().unwrap().display().to_string(), serde_json::from_str(&text).unwrap())
    };
    json.map(read).collect()
}

#[test]
fn dashboards_are_whole_and_show_metrics_that_exist() {
    let boards = dashboards();
    assert!(boards.len() >= 2);
    let mut uids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for (name, board) in &boards {
        assert!(uids.insert(board["uid"].as_str().unwrap()), "{name}: its uid is that of another board");
        assert!(!board["title"].as_str().unwrap().is_empty() && board["schemaVersion"].as_u64() > Some(36));
        let variables: BTreeSet<_> = board["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        let used = board.to_string();
        for variable in ["datasource", "job", "console"] {
            assert!(variables.contains(variable) && used.contains(variable), "{name}: {variable}");
        }
        let panels = board["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{name}: ids of panels are unique");
        let mut cells = BTreeSet::new();
        for panel in panels {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}: {panel}");
            for cell in (place("x")..place("x") + place("w"))
                .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
            {
                assert!(cells.insert(cell), "{name}: {} overlaps another panel", panel["title"]);
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: {panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                assert_metrics_exist(expression, name);
                assert!(expression.contains(r#"job=~"$job""#), "{name}: {expression}");
                let metrics = metrics_in(expression).into_iter().map(str::to_owned);
                shown.extend(metrics);
            }
        }
    }
    for topic in [
        "tollgate_layer_denied_requests",
        "ratelimit_service_rate_limit_total_hits",
        "tollgate_highest_key_use_ratio",
        "ratelimit_service_rate_limit_near_limit",
        "tollgate_store_latency_seconds",
        "tollgate_redis_breakers_open",
        "ratelimit_service_response_time_seconds",
        "tollgate_candidate_differing_requests",
        "tollgate_locked_out_requests",
    ] {
        assert!(shown.contains(topic), "no board shows {topic}");
    }
}

#[test]
fn the_guides_show_what_is_deployed() {
    let policy = fs::read_to_string(repository().join("deploy/envoy-gateway/policy.yaml")).unwrap();
    let (_comment, policy) = policy.split_once('\n').unwrap();
    let guide = fs::read_to_string(repository().join("docs/envoy-gateway.md")).unwrap();
    assert!(guide.contains(policy), "docs/envoy-gateway.md does not show deploy/envoy-gateway/policy.yaml");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_file_limits_what_envoy_passes() {
    let project = documents("deploy/compose.yaml").remove(0);
    let services = &project["services"];
    let redis = Redis::start().await;
    let mut environment: Vec<(String, String)> = Vec::new();
    for (name, value) in services["tollgate"]["environment"].as_object().unwrap() {
        let value = match name.as_str() {
            "REDIS_URL" => format!("127.0.0.1:{}", redis.port()),
            // What is mounted there.
            "RULES_PATH" => repository().join("config").display().to_string(),
            _ => value.as_str().unwrap().to_owned(),
        };
        environment.push((name.clone(), value));
    }
    let environment: Vec<_> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let tollgate = Tollgate::start(&[], &environment).await;

    let command = services["envoy"]["command"].as_array().unwrap();
    assert_eq!(command.last().unwrap(), "/etc/envoy/compose.yaml");
    let mounted = services["envoy"]["volumes"][0].as_str().unwrap().split(':').next().unwrap();
    let config = fs::read_to_string(repository().join("deploy").join(mounted)).unwrap();
    // Containers have addresses of their own; here all share one.
    let config = config.replace("address: tollgate,", "address: 127.0.0.1,").replace("0.0.0.0", "127.0.0.1");
    let envoy = Envoy::start(&Config::of(&config, &[tollgate.grpc])).await;

    // 5 a minute: at most two windows are met.
    let mut statuses = Vec::new();
    for _ in 0..11 {
        statuses.push(envoy.status("alice").await);
    }
    assert_eq!(statuses[..5], [200; 5], "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(envoy.status("admin").await, 200);
    assert!(redis.len() > 0, "counters are in Redis");
}
