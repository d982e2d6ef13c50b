//! Headers, bodies and metadata of answers.

mod check;

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};

use super::{
    AnswerSettings, CheckAnswer, HeaderNames, HeaderStyle, decode, decode_check, decode_json, encode,
    encode_check, encode_json, json_of_response,
};
use crate::engine::algorithm::Reading;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::algorithm::places::PlaceReport;
use crate::engine::judge::judge;
use crate::engine::plan::plan;
use crate::engine::rules::{CompileOptions, SourceFile, compile};
use crate::engine::{Decision, KeyFormat, KeyWriter, Modes, Rules};
use crate::pb;

const RULES: &str = r#"
domain: shop
defaults: {charge: always}
descriptors:
  - {key: user, layer: user, rate_limit: {name: per-user, requests_per_unit: 10, window: 15m}}
  - key: ip
    layer: ip
    rate_limit: {requests_per_unit: 3, unit: minute, algorithm: sliding_window}
    on_deny: {body: problem_json, headers: {x-help: "https://example.com/limits"}}
  - {key: plain, rate_limit: 5/hour}
  - {key: plainer, rate_limit: 6/hour}
  - {key: odd, rate_limit: {name: "a \"b\\c\" ü\n", requests_per_unit: 1, unit: day, algorithm: token_bucket}}
  - {key: hidden, layer: hidden, headers: none, rate_limit: 2/minute}
  - {key: free, layer: free, rate_limit: {unlimited: true}}
  - key: text
    layer: text
    rate_limit: 7/minute
    on_deny:
      body: {text: "{layer}, {rule}: {limit} and {remaining}, wait {reset} s", content_type: text/x-wait}
      headers: {retry-after: "99", x-ratelimit-limit: many}
  - key: json
    rate_limit: {name: "a \"b\\c\" ü\n", requests_per_unit: 8, unit: day}
    on_deny: {body: {text: '{{"rule": "{rule}", "wait": {reset}}}', content_type: application/json}}
"#;

fn rules() -> Rules {
    let file = SourceFile { name: "rules.yaml".to_owned(), text: RULES.to_owned() };
    compile(&[file], CompileOptions::default(), None).expect("the rules are right")
}

/// A request with one descriptor for each key.
fn request(keys: &str) -> Vec<u8> {
    let entry = |key: &str| pb::Entry { key: key.to_owned().into(), value: "v".into() };
    let descriptor = |key| pb::RateLimitDescriptor { entries: vec![entry(key)], ..Default::default() };
    let request = pb::RateLimitRequest {
        domain: "shop".to_owned(),
        descriptors: keys.split(' ').map(descriptor).collect(),
        hits_addend: 0,
    };
    request.encode_to_vec()
}

/// The answer as a client reads it, which is the same in JSON.
fn answer(request: &[u8], decision: &Decision<'_>, settings: &AnswerSettings) -> pb::RateLimitResponse {
    let request = decode(request).expect("a request");
    let answer = pb::RateLimitResponse::decode(encode(&request, decision, settings)).expect("an answer");
    let in_json: Value = serde_json::from_str(&encode_json(&request, decision, settings)).expect("JSON");
    assert_eq!(in_json, json_of_response(&answer));
    answer
}

/// The decision for counters with these hits, which reset after these milliseconds.
fn decide<'r>(rules: &'r Rules, request: &[u8], counters: &[(u64, u64)]) -> Decision<'r> {
    let plan = plan(rules, &decode(request).expect("a request"), &KeyWriter::new(KeyFormat::Native, ""));
    assert_eq!(plan.limited().count(), counters.len());
    let reading = |(used, reset_ms): &(u64, u64)| Reading {
        used: *used,
        outcome: ChargeOutcome::Charged,
        reset: Duration::from_millis(*reset_ms),
        budget: None,
        places: PlaceReport::NONE,
    };
    judge(plan, counters.iter().map(reading), &Modes::default())
}

fn settings(style: HeaderStyle) -> AnswerSettings {
    AnswerSettings { style, ..AnswerSettings::default() }
}

/// Headers of the answer, each as `name: value`.
fn header_lines(keys: &str, counters: &[(u64, u64)], settings: &AnswerSettings) -> Vec<String> {
    let (rules, request) = (rules(), request(keys));
    let answer = answer(&request, &decide(&rules, &request, counters), settings);
    let line = |header: &pb::HeaderValue| format!("{}: {}", header.key, header.value);
    answer.response_headers_to_add.iter().map(line).collect()
}

#[test]
fn each_style_reports_the_binding_limit_and_the_denial() {
    let passes = ("user free plain", &[(4, 899_001), (4, 1_000)][..]);
    let denied = ("user plain", &[(11, 60_000), (2, 90_000)][..]);
    let unlimited = ("free none", &[][..]);
    for (style, (keys, counters), expected) in [
        (HeaderStyle::None, passes, &[][..]),
        (HeaderStyle::None, denied, &[]),
        (
            HeaderStyle::Draft06,
            passes,
            &["ratelimit-limit: 5", "ratelimit-remaining: 1", "ratelimit-reset: 1"],
        ),
        (
            HeaderStyle::Draft06,
            denied,
            &[
                "ratelimit-limit: 10",
                "ratelimit-remaining: 0",
                "ratelimit-reset: 60",
                "retry-after: 60",
                "x-ratelimit-failed-layer: user",
                "x-ratelimit-type: fixed_window",
            ],
        ),
        (
            HeaderStyle::X,
            passes,
            &["x-ratelimit-limit: 5", "x-ratelimit-remaining: 1", "x-ratelimit-reset: 1"],
        ),
        (
            HeaderStyle::X,
            denied,
            &[
                "x-ratelimit-limit: 10",
                "x-ratelimit-remaining: 0",
                "x-ratelimit-reset: 60",
                "retry-after: 60",
                "x-ratelimit-failed-layer: user",
                "x-ratelimit-type: fixed_window",
            ],
        ),
        (
            HeaderStyle::Ietf,
            passes,
            &[
                r#"ratelimit-policy: "per-user";q=10;w=900, "default";q=5;w=3600"#,
                r#"ratelimit: "per-user";r=6;t=900, "default";r=1;t=1"#,
            ],
        ),
        (
            HeaderStyle::Ietf,
            denied,
            &[
                r#"ratelimit-policy: "per-user";q=10;w=900, "default";q=5;w=3600"#,
                r#"ratelimit: "per-user";r=0;t=60, "default";r=3;t=90"#,
                "retry-after: 60",
                "x-ratelimit-failed-layer: user",
                "x-ratelimit-type: fixed_window",
            ],
        ),
        (HeaderStyle::Draft06, unlimited, &[]),
        (HeaderStyle::X, unlimited, &[]),
        (HeaderStyle::Ietf, unlimited, &[]),
    ] {
        assert_eq!(header_lines(keys, counters, &settings(style)), expected, "{style:?} {keys}");
    }
}

#[test]
fn custom_header_names_replace_those_of_the_style_and_add_nothing() {
    let name = |name: &str| name.parse().expect("a name");
    let names = HeaderNames { limit: name("X-L"), remaining: name("X-R"), reset: name("X-S") };
    let custom = |style| AnswerSettings { custom_names: Some(names.clone()), ..settings(style) };
    let denied = |style| header_lines("plain", &[(6, 59_500)], &custom(style));
    let three = ["x-l: 5", "x-r: 0", "x-s: 60"];
    assert_eq!(denied(HeaderStyle::None), three, "as envoyproxy/ratelimit answers");
    for style in [HeaderStyle::Draft06, HeaderStyle::X, HeaderStyle::Ietf] {
        let found = denied(style);
        assert_eq!(found[..3], three);
        assert_eq!(found[3..], ["retry-after: 60", "x-ratelimit-type: fixed_window"], "no layer, no header");
    }
}

#[test]
fn a_limit_of_a_rule_with_headers_none_is_in_no_header() {
    for style in [HeaderStyle::Draft06, HeaderStyle::X, HeaderStyle::Ietf] {
        assert_eq!(
            header_lines("hidden", &[(1, 1_000)], &settings(style)),
            Vec::<String>::new(),
            "{style:?}"
        );
        assert_eq!(header_lines("hidden", &[(3, 1_000)], &settings(style)), ["retry-after: 1"], "{style:?}");
        let both = |counters: &[(u64, u64)]| header_lines("hidden plain", counters, &settings(style));
        let plain = |counters: &[(u64, u64)]| header_lines("plain", counters, &settings(style));
        assert_eq!(both(&[(1, 1_000), (2, 2_000)]), plain(&[(2, 2_000)]), "{style:?}");
    }
    let (rules, request) = (rules(), request("hidden plain"));
    let decision = decide(&rules, &request, &[(3, 1_000), (2, 2_000)]);
    let answer = answer(&request, &decision, &settings(HeaderStyle::None));
    let limits: Vec<_> = answer.statuses.iter().map(|status| status.current_limit.is_some()).collect();
    assert_eq!(limits, [false, true], "Envoy makes headers of the limits that it sees");
}

#[test]
fn policy_names_are_distinct_and_valid_in_structured_fields() {
    let found = header_lines(
        "odd plain plainer",
        &[(1, 1_000), (1, 2_000), (1, 3_000)],
        &settings(HeaderStyle::Ietf),
    );
    assert_eq!(
        found,
        [
            r#"ratelimit-policy: "a \"b\\c\" __";q=1;w=86400, "default";q=5;w=3600, "default-2";q=6;w=3600"#,
            r#"ratelimit: "a \"b\\c\" __";r=0;t=1, "default";r=4;t=2, "default-2";r=5;t=3"#,
        ]
    );
}

#[test]
fn retry_after_is_the_longest_wait_of_all_limits_that_are_over() {
    for (counters, expected) in [
        ([(11, 80_000), (4, 30_000)], "80"),
        ([(11, 30_000), (4, 80_001)], "81"),
        ([(11, 0), (4, 0)], "1"),
        ([(1, 80_000), (4, 30_000)], "30"),
    ] {
        let found = header_lines("user ip", &counters, &settings(HeaderStyle::X));
        assert!(found.contains(&format!("retry-after: {expected}")), "{counters:?}: {found:?}");
        assert!(found.contains(&"x-ratelimit-failed-layer: ip".to_owned()), "{found:?}");
        assert!(found.contains(&"x-ratelimit-type: sliding_window".to_owned()), "{found:?}");
    }
}

#[test]
fn body_and_headers_of_on_deny_are_added_to_denials_only_in_every_style() {
    let (rules, request) = (rules(), request("user ip"));
    for style in [HeaderStyle::None, HeaderStyle::Draft06, HeaderStyle::X, HeaderStyle::Ietf] {
        let answer = |counters| answer(&request, &decide(&rules, &request, counters), &settings(style));
        let passes = answer(&[(1, 1_000), (3, 1_000)]);
        assert!(passes.raw_body.is_empty());
        assert!(passes.response_headers_to_add.iter().all(|header| header.key != "x-help"));
        let denied = answer(&[(11, 70_000), (4, 29_500)]);
        let last: Vec<_> = denied.response_headers_to_add.iter().rev().take(2).collect();
        assert_eq!((&*last[1].key, &*last[1].value), ("x-help", "https://example.com/limits"));
        assert_eq!((&*last[0].key, &*last[0].value), ("content-type", "application/problem+json"));
        let body: Value = serde_json::from_slice(&denied.raw_body).expect("JSON");
        assert_eq!(
            body,
            json!({
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Request cannot be satisfied as assigned quota has been exceeded",
                "status": 429,
                "detail": "The limit of layer 'ip' is 3 in 60 s. Try again in 70 s.",
                "limit": 3,
                "remaining": 0,
                "resetIn": 30,
                "retryAfter": 70,
                "layer": "ip",
                "violated-policies": ["per-user", "ip"],
            })
        );
        let other = answer(&[(11, 70_000), (1, 1_000)]);
        assert!(other.raw_body.is_empty(), "the rule that denies has no body");
    }
}

#[test]
fn placeholders_are_filled_in_and_headers_of_a_rule_replace_ours() {
    let (rules, request) = (rules(), request("text"));
    let answer = answer(&request, &decide(&rules, &request, &[(8, 500)]), &settings(HeaderStyle::X));
    assert_eq!(answer.raw_body, "text, shop.text: 7 and 0, wait 1 s");
    assert_eq!(
        header_lines("text", &[(8, 500)], &settings(HeaderStyle::X)),
        [
            "x-ratelimit-remaining: 0",
            "x-ratelimit-reset: 1",
            "x-ratelimit-failed-layer: text",
            "x-ratelimit-type: fixed_window",
            "retry-after: 99",
            "x-ratelimit-limit: many",
            "content-type: text/x-wait",
        ]
    );
}

#[test]
fn a_json_body_stays_json_whatever_a_rule_is_called() {
    let (rules, request) = (rules(), request("json"));
    let answer = answer(&request, &decide(&rules, &request, &[(9, 2_000)]), &settings(HeaderStyle::None));
    let body: Value = serde_json::from_slice(&answer.raw_body).expect("JSON");
    assert_eq!(body, json!({ "rule": "a \"b\\c\" ü\n", "wait": 2 }));
}

#[test]
fn metadata_of_a_denial_names_its_layer_and_rule() {
    let settings = AnswerSettings { dynamic_metadata: true, ..AnswerSettings::default() };
    for (keys, counters, expected) in [
        ("user", (11, 1), (json!("user"), json!("per-user"))),
        ("ip", (4, 1), (json!("ip"), json!("shop.ip"))),
        ("plain", (6, 1), (Value::Null, json!("shop.plain"))),
        ("plain", (5, 1), (Value::Null, Value::Null)),
    ] {
        let (rules, request) = (rules(), request(keys));
        let answer = answer(&request, &decide(&rules, &request, &[counters]), &settings);
        let metadata = json_of_response(&answer)["dynamicMetadata"].clone();
        assert_eq!((metadata["failedLayer"].clone(), metadata["failedRule"].clone()), expected, "{keys}");
    }
}
