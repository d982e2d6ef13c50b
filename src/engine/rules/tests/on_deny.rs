//! Response bodies and headers of denials, and layers.

use serde_json::json;

use super::loading::{check, with_fields};
use super::{entries, load};
use crate::engine::rules::on_deny::{DenialBody, DenialFacts, MAX_HEADERS, TextKind};
use crate::engine::rules::{OnDeny, Rules};

fn on_deny<'r>(rules: &'r Rules, text: &str) -> Option<&'r OnDeny> {
    rules.domain(b"d").expect("its domain").find(&entries(text)).expect("a rule").rule.on_deny.as_deref()
}

fn shown(text: &str) -> serde_json::Value {
    load(text).dump_json()["rules"][0]["on_deny"].clone()
}

fn with_on_deny(fields: &str) -> String {
    with_fields(&format!("    rate_limit: 5/minute\n    on_deny: {fields}\n"))
}

#[test]
fn bodies_and_headers_are_read() {
    for (fields, expected) in [
        ("{body: problem_json}", json!({"body": "problem_json", "headers": {}})),
        (
            "{headers: {X-Help: \"https://example.com/\", x-number: 007}}",
            json!({"body": null, "headers": {"x-help": "https://example.com/", "x-number": "007"}}),
        ),
        (
            "{body: {text: 'Wait {reset} s'}}",
            json!({
                "body": {"text": "Wait {reset} s", "content_type": "text/plain; charset=utf-8"},
                "headers": {},
            }),
        ),
        (
            "{body: {text: '{{\"wait\": {reset}}}', content_type: application/json}}",
            json!({
                "body": {"text": "{{\"wait\": {reset}}}", "content_type": "application/json"},
                "headers": {},
            }),
        ),
        ("{}", json!({"body": null, "headers": {}})),
    ] {
        assert_eq!(shown(&with_on_deny(fields)), expected, "{fields}");
    }
    assert_eq!(shown(&with_fields("    rate_limit: 5/minute\n")), json!(null));
}

#[test]
fn the_nearest_on_deny_holds_as_a_whole() {
    let rules = load(
        "
domain: d
descriptors:
  - key: a
    rate_limit: 1/minute
    on_deny: {body: {text: outer}, headers: {x-a: a}}
    descriptors:
      - {key: b, rate_limit: 1/minute}
      - {key: c, rate_limit: 1/minute, on_deny: {body: {text: inner}}}
      - {key: e, rate_limit: 1/minute, on_deny: {}}
  - {key: f, rate_limit: 1/minute}
",
    );
    let facts = DenialFacts { limit: 1, remaining: 0, reset_secs: 1, layer: "", rule: "" };
    let reported = |text: &str| {
        let on_deny = on_deny(&rules, text)?;
        let body = on_deny.body.as_ref().map(|body| match body {
            DenialBody::Problem => "problem".to_owned(),
            DenialBody::Text { template, .. } => template.render(&facts, TextKind::Plain),
        });
        Some((body, on_deny.headers.len()))
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(reported("a=1"), Some((text("outer"), 1)));
    assert_eq!(reported("a=1,b=1"), Some((text("outer"), 1)));
    assert_eq!(reported("a=1,c=1"), Some((text("inner"), 0)));
    assert_eq!(reported("a=1,e=1"), Some((None, 0)));
    assert_eq!(reported("f=1"), None);
}

#[test]
fn responses_that_cannot_be_sent_are_rejected_with_their_position() {
    let many: Vec<_> = (0..=MAX_HEADERS).map(|number| format!("x-{number}: a")).collect();
    for (fields, expected) in [
        ("problem_json".to_owned(), "5:14 config error, yaml file contains list of type other than map"),
        ("{body: html}".to_owned(), "5:21 error checking config: 'body' must be problem_json or a map"),
        ("{body: [a]}".to_owned(), "5:21 error checking config: 'body' must be problem_json or a map"),
        ("{body: {content_type: text/html}}".to_owned(), "5:21 'body' without 'text'"),
        ("{body: {text: [a]}}".to_owned(), "5:28 error checking config: 'text' must be text"),
        (
            "{body: {text: 'for {user}'}}".to_owned(),
            "5:28 invalid 'text' of 'on_deny': unknown placeholder '{user}': known are {limit}, {remaining}, \
             {reset}, {layer}, {rule}",
        ),
        ("{body: {text: 'a } b'}}".to_owned(), "5:28 invalid 'text' of 'on_deny': a '}' without its '{'"),
        (
            "{body: {text: a, content_type: \"a\\nb\"}}".to_owned(),
            "5:45 error checking config: 'content_type' must be a media type",
        ),
        ("{header: {x-a: b}}".to_owned(), "5:15 config error, unknown key 'header': did you mean 'headers'?"),
        ("{text: a}".to_owned(), "5:15 config error, 'text' does not belong here: write it inside 'body'"),
        ("{headers: [a]}".to_owned(), "5:24 error checking config: 'headers' must be a map"),
        ("{headers: {x-a: [b]}}".to_owned(), "5:30 error checking config: 'x-a' must be text"),
        ("{headers: {a b: c}}".to_owned(), "5:25 invalid header of 'on_deny': 'a b' is not a valid name"),
        (
            "{headers: {':status': 200}}".to_owned(),
            "5:25 invalid header of 'on_deny': ':status' is not a valid name",
        ),
        (
            "{headers: {Transfer-Encoding: chunked}}".to_owned(),
            "5:25 invalid header of 'on_deny': 'transfer-encoding' belongs to the connection",
        ),
        (
            "{headers: {content-type: a/b}}".to_owned(),
            "5:25 invalid header of 'on_deny': 'content-type' belongs to the body",
        ),
        (
            "{headers: {x-a: \"b\\nc\"}}".to_owned(),
            "5:25 invalid header of 'on_deny': the value of 'x-a' must",
        ),
        ("{headers: {x-a: b, X-A: c}}".to_owned(), "5:33 the header 'x-a' is there twice"),
        (format!("{{headers: {{{}}}}}", many.join(", ")), "5:24 'headers' may have at most 32 entries"),
    ] {
        check(&with_on_deny(&fields), expected);
    }
    check(
        &with_fields("    headers: {x-a: b}\n    rate_limit: 5/minute\n"),
        "4:14 error checking config: 'headers' must be all or none (headers to add belong inside 'on_deny')",
    );
}

#[test]
fn layers_are_printable_ascii_of_at_most_64_characters() {
    let layer = |name: &str| with_fields(&format!("    layer: \"{name}\"\n    rate_limit: 5/minute\n"));
    for name in ["ip", "Tier 1 (paid)", "\\\"a\\\"", &"x".repeat(64)] {
        assert_eq!(load(&layer(name)).layers().count(), 1, "{name}");
    }
    for name in ["caf\u{e9}", "a\\nb", "a\\tb", "\\x7f", "\\0", &"x".repeat(65)] {
        check(
            &layer(name),
            "4:12 error checking config: 'layer' must be printable ASCII of at most 64 characters, not '",
        );
    }
}
