//! State of a service as text for people: its rules, configuration, store and replicas.

use std::iter;

use serde_json::Value;

use super::text::{items, limit_text, point_in_time, reserve_text, rfc3339, table, text, time};
use crate::engine::text::one_line;

/// Upper bound on a line of an error, in bytes.
const MAX_ERROR_LINE: usize = 400;

/// A number with one decimal.
fn rate(of: &Value, name: &str) -> String {
    of[name].as_f64().map(|rate| format!("{rate:.1}")).unwrap_or_default()
}

pub(super) fn rules(answer: &Value) -> String {
    let row = |rule: &Value| {
        let limit = |limit: &Value| limit_text(limit) + &reserve_text(&limit["reserve"]);
        let limits: Vec<_> = items(rule, "limits").iter().map(limit).collect();
        let highest_use = rule["highest_use"].as_f64().map(|share| format!("{:.0} %", 100.0 * share));
        let shadow = match (&rule["shadow_ends_at"], &rule["shadow_mode"]) {
            (Value::Number(_), _) => format!("shadow until {}", point_in_time(rule, "shadow_ends_at")),
            (_, Value::Bool(true)) => "shadow mode".to_owned(),
            _ => String::new(),
        };
        vec![
            text(rule, "rule"),
            limits.join(", "),
            rate(rule, "hits_per_sec"),
            rate(rule, "over_limit_per_sec"),
            highest_use.unwrap_or_default(),
            text(rule, "hits"),
            text(rule, "over_limit"),
            shadow,
            text(rule, "source"),
        ]
    };
    let rows = items(answer, "items").iter().map(row).collect();
    let heading =
        ["RULE", "LIMITS", "HITS/S", "OVER/S", "HIGHEST USE", "HITS", "OVER LIMIT", "STATE", "SOURCE"];
    table(&heading, rows, "no rules are in force")
}

/// `shop.user (per-minute)`: the rule of a denial, and the name of its limit.
fn rule_and_name(denial: &Value) -> String {
    let (rule, name) = (text(denial, "rule"), text(denial, "name"));
    if name.is_empty() { rule } else { format!("{rule} ({name})") }
}

pub(super) fn config(answer: &Value) -> String {
    let loaded_at = match point_in_time(answer, "loaded_at") {
        at if at.is_empty() => "never".to_owned(),
        at => at,
    };
    let errors = items(answer, "errors").iter().filter_map(Value::as_str);
    let lines = errors.flat_map(|error| iter::once("").chain(error.lines()));
    let errors: String = lines.map(|line| format!("{}\n", one_line(line, MAX_ERROR_LINE))).collect();
    let none = if errors.is_empty() { "\nno errors\n" } else { "" };
    let (rules, domains, hash) = (text(answer, "rules"), text(answer, "domains"), text(answer, "rules_hash"));
    format!("{rules} rules in {domains} domains, hash {hash}, loaded at {loaded_at}\n{errors}{none}")
}

pub(super) fn fleet(answer: &Value) -> String {
    let row = |replica: &Value| {
        let id = text(replica, "id") + if replica["is_self"] == true { " (this one)" } else { "" };
        vec![
            id,
            rate(replica, "hits_per_sec"),
            rate(replica, "over_limit_per_sec"),
            text(replica, "version"),
            text(replica, "rules_hash"),
            text(replica, "rules"),
            text(replica, "errors"),
            point_in_time(replica, "started_at"),
            time(replica, "announced_secs_ago"),
        ]
    };
    let rows = items(answer, "replicas").iter().map(row).collect();
    let heading = [
        "REPLICA",
        "HITS/S",
        "OVER/S",
        "VERSION",
        "RULES HASH",
        "RULES",
        "ERRORS",
        "STARTED AT",
        "ANNOUNCED AGO",
    ];
    let same = if answer["same_rules"] == true { "" } else { "\nthe replicas have different rules\n" };
    let error = match &answer["error"] {
        Value::Null => String::new(),
        _ => format!("\nThe list may be out of date: {}\n", text(answer, "error")),
    };
    table(&heading, rows, "no replicas are known") + same + &error
}

pub(super) fn store(answer: &Value) -> String {
    let milliseconds = |secs: &Value| secs.as_f64().map(|secs| format!("{:.2} ms", 1_000.0 * secs));
    let latency = &answer["latency"];
    let latency = match (milliseconds(&latency["p50_secs"]), milliseconds(&latency["p99_secs"])) {
        (Some(p50), Some(p99)) => format!("latency p50 {p50}, p99 {p99}\n"),
        _ => "latency unknown: no calls in the last minute\n".to_owned(),
    };
    let memory = &answer["memory"];
    if !memory.is_null() {
        let (counters, bytes) = (text(memory, "counters"), text(memory, "bytes"));
        return format!(
            "{latency}{counters} counters in memory, {bytes} bytes, {} evicted\n",
            text(memory, "evicted")
        );
    }
    let row = |node: &Value| {
        let server = &node["server"];
        vec![
            text(node, "node"),
            text(node, "state"),
            format!("{} of {}", text(node, "connected"), text(node, "connections")),
            milliseconds(&node["latency"]["p50_secs"]).unwrap_or_default(),
            milliseconds(&node["latency"]["p99_secs"]).unwrap_or_default(),
            text(node, "queued"),
            text(node, "batch_size"),
            text(server, "role"),
            text(server, "used_memory"),
            text(node, "error") + &text(node, "server_error"),
        ]
    };
    let nodes = items(answer, "nodes");
    let heading = ["NODE", "STATE", "CONNECTED", "P50", "P99", "QUEUED", "BATCH", "ROLE", "MEMORY", "ERROR"];
    let list = table(&heading, nodes.iter().map(row).collect(), "no node is known");
    let wrong = nodes.iter().flat_map(|node| {
        let checks = items(node, "checks").iter().filter(|check| check["ok"] == false);
        checks.map(|check| {
            let (name, value, advice) = (text(check, "name"), text(check, "value"), text(check, "advice"));
            format!("\n{}: {name} is {value}: {advice}\n", text(node, "node"))
        })
    });
    format!("{latency}\n{list}{}", wrong.collect::<String>())
}

pub(super) fn denials(answer: &Value) -> String {
    let row = |denial: &Value| {
        let passed = if denial["enforced"] == false { " (passed)" } else { "" };
        vec![
            denial["at_ms"].as_u64().map(|at| rfc3339(at / 1_000)).unwrap_or_default(),
            text(denial, "descriptors"),
            rule_and_name(denial),
            text(denial, "reason") + passed,
            time(denial, "wait_secs"),
        ]
    };
    let rows = items(answer, "items").iter().map(row).collect();
    table(&["AT", "DESCRIPTORS", "RULE", "REASON", "WAIT"], rows, "no denials")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_are_named() {
        let shown = config(&json!({
            "rules": 2, "domains": 1, "rules_hash": "ab", "loaded_at": 1_795_774_087, "errors": ["shop.yaml:3:1: wrong"],
        }));
        assert!(shown.starts_with("2 rules in 1 domains, hash ab, loaded at 2026-11-27T"), "{shown}");
        assert!(shown.ends_with("\n\nshop.yaml:3:1: wrong\n"), "{shown}");
        let shown =
            fleet(&json!({"replicas": [{"id": "a", "is_self": true, "rules": 2}], "same_rules": false}));
        assert!(shown.contains("a (this one)") && shown.contains("different rules"), "{shown}");
        let check = json!({"name": "maxmemory-policy", "value": "allkeys-lru", "ok": false, "advice": "set noeviction"});
        let shown = store(&json!({"nodes": [{"node": "r:6379", "state": "up", "checks": [check]}]}));
        assert!(shown.ends_with("r:6379: maxmemory-policy is allkeys-lru: set noeviction\n"), "{shown}");
        let rule = json!({"rule": "shop.user", "limits": [{"requests": 5, "window_secs": 60}], "highest_use": 0.5,
                          "shadow_mode": true, "shadow_ends_at": 1_795_774_087});
        let shown = rules(&json!({"items": [rule]}));
        assert!(
            shown.contains("5 per 1m") && shown.contains("50 %") && shown.contains("shadow until 2026"),
            "{shown}"
        );
        let denied = json!({"at_ms": 1_795_774_087_000_u64, "descriptors": "user=a", "reason": "over_limit", "enforced": false});
        assert!(denials(&json!({"items": [denied]})).contains("over_limit (passed)"));
    }
}
