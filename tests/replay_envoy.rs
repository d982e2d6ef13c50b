//! Replays of logs of a real Envoy. Its configuration takes the place of a map file.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::envoy::{CONFIG, Config, Envoy};
use crate::support::eventually;
use crate::support::tollgate::Tollgate;

const RULES: &str =
    "domain: example\ndescriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: 3}}]\n";
/// Name of the access log in `deploy/envoy/envoy.yaml`.
const JSON_LOG: &str = "envoy.access_loggers.stdout";
const STDOUT: &str = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
const TEXT: &str = r#"[%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%] \"%REQ(X-USER)%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \"%REQ(:PATH)%\"\n"#;

fn replay(dir: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .current_dir(dir)
        .args(["replay", "--rules", "rules.yaml", "--json", "--identity"])
        .args(arguments);
    let output = command.output().expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The configuration with another access log.
fn logging_to(log: &str) -> String {
    let (before, rest) =
        CONFIG.split_once("          - name: envoy.access_loggers.stdout").expect("an access log");
    let (_, after) = rest.split_once("          route_config:").expect("routes");
    format!("{before}{log}          route_config:{after}")
}

#[tokio::test]
async fn lines_of_a_real_envoy_replay_as_it_decided_in_text_and_in_json() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("rules.yaml"), RULES).expect("a file");
    fs::write(dir.path().join("envoy.yaml"), CONFIG).expect("a file");
    let path = |name: &str| dir.path().join(name);
    let text_log = format!(
        "          - name: envoy.access_loggers.file\n            typed_config:\n              \"@type\": \
         type.googleapis.com/{FILE}\n              path: {}\n              log_format: {{text_format_source: \
         {{inline_string: \"{TEXT}\"}}}}\n",
        path("text.log").display()
    );
    fs::write(path("text.yaml"), logging_to(&text_log)).expect("a file");

    let tollgate = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let to_file = format!("{FILE}\n              path: {}", path("json.log").display());
    let config = Config::asking(&[tollgate.grpc]).with(STDOUT, &to_file).with(
        "          - name: envoy.access_loggers.stdout",
        &format!("{text_log}          - name: {JSON_LOG}"),
    );
    let envoy = Envoy::start(&config).await;
    // Envoy does not call tollgate before its health check has succeeded.
    eventually("envoy calls", async || {
        envoy.status("first").await;
        envoy.stat("cluster.upstream.ratelimit.ok").await > 0
    })
    .await;
    let before = fs::read_to_string(path("json.log")).unwrap_or_default().lines().count();
    let mut statuses = Vec::new();
    for user in ["ann", "say \"hi\" {you}", "ann", "ann", "ann", "-", "ann"] {
        statuses.push(envoy.get("/a?b=\"c\"", user).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429, 200, 429]);
    let is_written = |name: &str| {
        let text = fs::read_to_string(path(name)).unwrap_or_default();
        text.ends_with('\n') && text.lines().count() >= before + statuses.len()
    };
    eventually("both logs are written", async || is_written("json.log") && is_written("text.log")).await;

    for (log, config) in [("json.log", "envoy.yaml"), ("text.log", "text.yaml")] {
        let report = replay(dir.path(), &["--envoy-config", config, log]);
        assert_eq!(
            (&report["denied"], &report["bad"], &report["notes"]),
            (&json!(2), &json!(0), &json!([])),
            "{report:#}"
        );
        assert_eq!(
            report["offenders"],
            json!([{"rule": "example.user", "key": "user=ann", "hits": 5, "denied": 2}])
        );
        let identity = &report["identity"];
        assert_eq!(
            (&identity["denied_in_log"], &identity["only_log"], &identity["only_rules"]),
            (&json!(2), &json!(0), &json!(0))
        );
    }
}

/// A connection manager with these virtual hosts, whose filter has `filter` beside its domain.
fn manager(hosts: &str, filter: &str) -> String {
    format!(
        "'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n\
         access_log:\n- name: log\n  typed_config:\n    log_format:\n      json_format: {{t: '%START_TIME%', path: '%REQ(:PATH)%', host: \
         '%REQ(:AUTHORITY)%', peer: '%DOWNSTREAM_REMOTE_ADDRESS%', plan: '%REQ(X-PLAN)%', cluster: '%UPSTREAM_CLUSTER%', \
         meta: '%DYNAMIC_METADATA(auth:org)%', tokens: '%REQ(X-COST)%'}}\n\
         http_filters:\n- name: envoy.filters.http.ratelimit\n  typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit, domain: example{filter}}}\n\
         route_config:\n  virtual_hosts:\n{hosts}"
    )
}

/// The keys that were counted for `lines` of `host path`, with their hits.
fn counted(hosts: &str, filter: &str, lines: &[&str]) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = [
        "user",
        "remote_address",
        "masked_remote_address",
        "generic_key",
        "header_match",
        "query_match",
        "plan",
        "page",
        "destination_cluster",
        "org",
        "vhost",
    ];
    // A limit of zero denies everything, so that every key is an offender.
    let rule = |key: &&str| format!("- {{key: {key}, rate_limit: 0/minute}}\n");
    let rules = format!("domain: example\ndescriptors:\n{}", keys.iter().map(rule).collect::<String>());
    fs::write(dir.path().join("rules.yaml"), rules).expect("a file");
    fs::write(dir.path().join("envoy.yaml"), manager(hosts, filter)).expect("a file");
    let line = |line: &&str| {
        let (host, path) = line.split_once(' ').expect("a host and a path");
        json!({"t": "2026-11-16T12:00:00Z", "host": host, "path": path, "peer": "10.1.2.3:456", "plan": "gold",
               "cluster": "shop", "meta": null, "tokens": 7})
        .to_string()
            + "\n"
    };
    fs::write(dir.path().join("access.log"), lines.iter().map(line).collect::<String>()).expect("a file");
    let arguments =
        ["replay", "--rules", "rules.yaml", "--json", "--envoy-config", "envoy.yaml", "access.log"];
    let output =
        Command::new(env!("CARGO_BIN_EXE_tollgate")).current_dir(dir.path()).args(arguments).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let offenders = report["offenders"].as_array().expect("a list").iter();
    let mut keys: Vec<_> = offenders
        .map(|offender| format!("{}*{}", offender["key"].as_str().unwrap_or_default(), offender["hits"]))
        .collect();
    keys.sort();
    let notes = report["notes"].as_array().expect("a list").iter();
    (keys, notes.map(|note| note.as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn actions_make_the_descriptors_that_envoy_makes() {
    let host = |limits: &str| {
        format!(
            "  - name: all\n    domains: ['*']\n    rate_limits:\n{limits}    routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]\n"
        )
    };
    for (limit, expected) in [
        ("actions: [{remote_address: {}}]", &["remote_address=10.1.2.3*1"][..]),
        (
            "actions: [{masked_remote_address: {v4_prefix_mask_len: 16}}]",
            &["masked_remote_address=10.1.0.0/16*1"],
        ),
        ("actions: [{generic_key: {descriptor_value: all}}]", &["generic_key=all*1"]),
        (
            "actions: [{generic_key: {descriptor_key: plan, descriptor_value: '%REQ(X-PLAN)%'}}]",
            &["plan=gold*1"],
        ),
        ("actions: [{destination_cluster: {}}]", &["destination_cluster=shop*1"]),
        ("actions: [{request_headers: {header_name: x-plan, descriptor_key: plan}}]", &["plan=gold*1"]),
        (
            "actions: [{request_headers: {header_name: ':path', descriptor_key: page}}]",
            &["page=/a?page=x%2Fy*1"],
        ),
        (
            "actions: [{query_parameters: {query_parameter_name: page, descriptor_key: page}}]",
            &["page=x/y*1"],
        ),
        ("actions: [{query_parameters: {query_parameter_name: none, descriptor_key: page}}]", &[]),
        (
            "actions: [{header_value_match: {descriptor_value: gold, headers: [{name: x-plan, string_match: {exact: gold}}]}}]",
            &["header_match=gold*1"],
        ),
        (
            "actions: [{header_value_match: {descriptor_value: no, expect_match: false, headers: [{name: x-plan, present_match: true}]}}]",
            &[],
        ),
        (
            "actions: [{query_parameter_value_match: {descriptor_value: x, query_parameters: [{name: page, string_match: {prefix: x}}]}}]",
            &["query_match=x*1"],
        ),
        (
            "actions: [{metadata: {descriptor_key: org, default_value: none, metadata_key: {key: auth, path: [{key: org}]}}}]",
            &["org=none*1"],
        ),
        (
            "{actions: [{generic_key: {descriptor_value: cost}}], hits_addend: {format: '%REQ(X-COST)%'}}",
            &["generic_key=cost*7"],
        ),
        ("{actions: [{generic_key: {descriptor_value: other}}], stage: 1}", &[]),
    ] {
        let item = if limit.starts_with('{') { limit.to_owned() } else { format!("{{{limit}}}") };
        let (keys, notes) = counted(&host(&format!("    - {item}\n")), "", &["shop.test /a?page=x%2Fy"]);
        assert_eq!((keys, notes), (expected.iter().map(|&key| key.to_owned()).collect(), vec![]), "{limit}");
    }
    // Hits belong to their descriptor.
    let both = "    - {actions: [{generic_key: {descriptor_value: cost}}], hits_addend: {number: 3}}\n    - {actions: [{generic_key: {descriptor_value: plain}}]}\n";
    let (mut keys, _) = counted(&host(both), "", &["shop.test /"]);
    keys.sort();
    assert_eq!(keys, ["generic_key=cost*3", "generic_key=plain*1"]);
    let absent = "    - {actions: [{request_headers: {header_name: x-org, descriptor_key: org}}]}\n    - {actions: [{source_cluster: {}}]}\n";
    let (keys, notes) = counted(&host(absent), "", &["shop.test /"]);
    assert_eq!(keys, [] as [&str; 0]);
    assert_eq!(notes[0], "a log does not show the action source_cluster: its descriptors are left out");
    assert_eq!(notes[1], "the log has no %REQ(X-ORG)%, which request_headers needs");
}

#[test]
fn a_condition_that_no_log_shows_is_noted() {
    let hosts = "  - {name: any, domains: ['*'], routes: [{match: {prefix: /, grpc: {}, tls_context: {presented: true}}, \
                 route: {cluster: c, rate_limits: [{actions: [{generic_key: {descriptor_value: a}}]}]}}]}\n";
    let (keys, notes) = counted(hosts, "", &["shop.test /"]);
    assert_eq!(keys, ["generic_key=a*1"]);
    let noted = |condition| {
        format!("a log does not show the condition {condition} of a route: it is assumed to match")
    };
    assert_eq!(notes, [noted("grpc"), noted("tls_context")]);
}

#[test]
fn the_first_route_of_the_closest_virtual_host_applies() {
    let value = |name: &str| {
        format!("{{actions: [{{generic_key: {{descriptor_key: vhost, descriptor_value: {name}}}}}]}}")
    };
    let hosts = format!(
        "  - {{name: any, domains: ['*'], rate_limits: [{any}], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]}}\n  \
         - {{name: suffix, domains: ['*.test'], rate_limits: [{suffix}], routes: [{{match: {{path: /only}}, route: {{cluster: c}}}}]}}\n  \
         - name: shop\n    domains: [shop.test]\n    rate_limits: [{shop}]\n    routes:\n    \
         - {{match: {{prefix: /static}}, direct_response: {{status: 200}}}}\n    \
         - {{match: {{path_separated_prefix: /api}}, route: {{cluster: c, rate_limits: [{api}]}}}}\n    \
         - {{match: {{safe_regex: {{regex: '/v[0-9]+'}}}}, route: {{cluster: c, include_vh_rate_limits: true, rate_limits: [{version}]}}}}\n    \
         - {{match: {{prefix: /off}}, route: {{cluster: c}}, typed_per_filter_config: {{envoy.filters.http.ratelimit: {{rate_limits: [{off}]}}}}}}\n    \
         - {{match: {{prefix: /}}, route: {{cluster: c}}}}\n",
        any = value("any"),
        suffix = value("suffix"),
        shop = value("shop"),
        api = value("api"),
        version = value("version"),
        off = value("config"),
    );
    let one = |line: &str| counted(&hosts, "", &[line]).0.join(" ");
    for (line, expected) in [
        ("other.org /", "vhost=any*1"),
        ("x.test /only", "vhost=suffix*1"),
        ("x.test /else", ""),
        ("SHOP.test /", "vhost=shop*1"),
        ("shop.test /static/a", ""),
        ("shop.test /api/b?c", "vhost=api*1"),
        ("shop.test /apis", "vhost=shop*1"),
        ("shop.test /v12?x", "vhost=shop*1 vhost=version*1"),
        ("shop.test /v12/x", "vhost=shop*1"),
        ("shop.test /off", "vhost=config*1"),
    ] {
        assert_eq!(one(line), expected, "{line}");
    }
}

#[test]
fn each_of_two_filters_makes_the_request_of_the_first_route_that_matches() {
    let limit = |name: &str| {
        format!(
            "rate_limits: [{{actions: [{{generic_key: {{descriptor_value: {name}}}}}, {{source_cluster: {{}}}}]}}, {{actions: [{{generic_key: {{descriptor_value: {name}}}}}]}}]"
        )
    };
    let hosts = format!(
        "  - name: all\n    domains: ['*']\n    routes:\n    - {{match: {{prefix: /a}}, route: {{cluster: c, {}}}}}\n    \
         - {{match: {{prefix: /}}, route: {{cluster: c, {}}}}}\n",
        limit("first"),
        limit("second")
    );
    let second = "}\n- name: second\n  typed_config: {'@type': \
        type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit, domain: example";
    let (keys, notes) = counted(&hosts, second, &["shop.test /a"]);
    assert_eq!(keys, ["generic_key=first*2"]);
    assert_eq!(notes, ["a log does not show the action source_cluster: its descriptors are left out"]);
}
