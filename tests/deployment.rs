//! The files in `deploy/` do what they say. Whether they are well formed is for `tests/deploy.sh`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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

#[test]
fn alerts_are_about_metrics_that_exist() {
    let rules = fs::read_to_string(repository().join("deploy/helm/tollgate/templates/prometheusrule.yaml"));
    let rules = rules.unwrap();
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| word.starts_with("tollgate_") || word.starts_with("ratelimit_");
    let alerted: BTreeSet<_> = words.filter(is_metric).map(|word| word.trim_end_matches("_bucket")).collect();
    assert!(alerted.len() >= 5, "{alerted:?}");
    for name in alerted {
        assert!(definitions::ALL.iter().any(|metric| metric.name == name), "{name} is no metric");
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
