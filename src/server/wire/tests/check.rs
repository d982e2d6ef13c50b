//! Answers of `POST /v1/check`.

use super::*;

fn check(keys: &str, counters: &[(u64, u64)], style: HeaderStyle) -> (CheckAnswer, Value) {
    let (rules, request) = (rules(), request(keys));
    let answer = encode_check(&decide(&rules, &request, counters), &settings(style));
    let body = serde_json::from_str(&answer.body).expect("JSON");
    (answer, body)
}

#[test]
fn a_check_reports_every_descriptor() {
    let (answer, body) = check("user free none ip", &[(4, 1_500), (3, 20_000)], HeaderStyle::None);
    assert!(answer.allowed);
    let standing = |layer, rule, limit: [Option<u32>; 3]| {
        let [limit, remaining, reset_in] = limit;
        json!({
            "layer": layer, "rule": rule, "allowed": true,
            "limit": limit, "remaining": remaining, "resetIn": reset_in,
        })
    };
    let layers = json!([
        standing(Some("user"), Some("per-user"), [Some(10), Some(6), Some(2)]),
        standing(Some("free"), Some("shop.free"), [None; 3]),
        standing(None, None, [None; 3]),
        standing(Some("ip"), Some("shop.ip"), [Some(3), Some(0), Some(20)]),
    ]);
    assert_eq!(
        body,
        json!({
            "allowed": true, "error": null, "message": null, "failedLayer": null,
            "limit": 3, "remaining": 0, "resetIn": 20, "retryAfter": null, "layers": layers,
        })
    );
    let (answer, body) = check("user ip", &[(4, 1_500), (4, 20_000)], HeaderStyle::None);
    assert!(!answer.allowed);
    assert_eq!((&body["layers"][0]["allowed"], &body["layers"][1]["allowed"]), (&json!(true), &json!(false)));
    assert_eq!(
        (&body["error"], &body["failedLayer"], &body["retryAfter"]),
        (&json!("rate_limit_exceeded"), &json!("ip"), &json!(20))
    );
    assert_eq!(body["message"], "The limit of layer 'ip' is 3 in 60 s. Try again in 20 s.");
    let (_, nothing) = check("none", &[], HeaderStyle::None);
    assert_eq!((&nothing["allowed"], &nothing["limit"]), (&json!(true), &Value::Null));
}

#[test]
fn a_check_has_headers_in_every_style() {
    let names = |style| {
        let (answer, _) = check("ip", &[(4, 20_000)], style);
        answer.headers.iter().map(|(name, _)| name.as_str().to_owned()).collect::<Vec<_>>()
    };
    let denial = ["retry-after", "x-ratelimit-failed-layer", "x-ratelimit-type", "x-help"];
    let draft06 = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
    let x = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    assert_eq!(names(HeaderStyle::None), [&draft06[..], &denial].concat());
    assert_eq!(names(HeaderStyle::Draft06), [&draft06[..], &denial].concat());
    assert_eq!(names(HeaderStyle::X), [&x[..], &denial].concat());
    assert_eq!(names(HeaderStyle::Ietf), [&["ratelimit-policy", "ratelimit"][..], &denial].concat());
}

#[test]
fn both_forms_of_a_check_are_read() {
    let long = |hits: &str| {
        format!(
            r#"{{"domain": "shop", "descriptors": [
                {{"entries": [{{"key": "user", "value": "42"}}]{hits}}},
                {{"entries": [{{"key": "ip", "value": "1.2.3.4"}}]{hits}}}]}}"#
        )
    };
    let short =
        |hits: &str| format!(r#"{{"domain": "shop", "entries": {{"user": "42", "ip": "1.2.3.4"}}{hits}}}"#);
    for (in_short, in_long) in [
        ("", ""),
        (r#", "hitsAddend": 3"#, r#", "hitsAddend": "3""#),
        (r#", "hits_addend": 0"#, r#", "hitsAddend": "0""#),
        (r#", "hitsAddend": null"#, ""),
        (r#", "descriptors": null"#, ""),
    ] {
        let (in_short, in_long) = (short(in_short), long(in_long));
        let read = decode_check(in_short.as_bytes()).expect("a request");
        assert_eq!(read, decode_check(in_long.as_bytes()).expect("a request"), "{in_short}");
        assert_eq!(read, decode_json(in_long.as_bytes()).expect("a request"), "{in_short}");
    }
}

#[test]
fn an_invalid_check_is_rejected_with_the_reason() {
    let many: Vec<_> = (0..1_025).map(|key| format!("\"{key}\": \"\"")).collect();
    for (body, expected) in [
        ("".to_owned(), "EOF while parsing a value at line 1 column 0"),
        ("{".to_owned(), "EOF while parsing an object"),
        ("[]".to_owned(), "invalid type: sequence, expected an object"),
        (r#"{"domain": 7}"#.to_owned(), "invalid type: integer `7`, expected a string"),
        (r#"{"domain": "d", "unknown": 1}"#.to_owned(), "unknown field `unknown`"),
        (
            r#"{"domain": "d", "entries": {"a": 7}}"#.to_owned(),
            "invalid type: integer `7`, expected a string",
        ),
        (r#"{"domain": "d", "entries": {"a": null}}"#.to_owned(), "invalid type: null, expected a string"),
        (
            r#"{"domain": "d", "entries": ["a"]}"#.to_owned(),
            "invalid type: sequence, expected an object of strings",
        ),
        (r#"{"domain": "d", "entries": {"a": "", "a": ""}}"#.to_owned(), "duplicate entry `a`"),
        (r#"{"entries": {"\n\u001b": "", "\n\u001b": ""}}"#.to_owned(), r"duplicate entry `\n\u{1b}`"),
        (format!("{{\"entries\": {{{}}}}}", many.join(",")), "more than 1024 entries"),
        (r#"{"entries": {}, "descriptors": []}"#.to_owned(), "'entries' and 'descriptors' are two forms"),
        (
            r#"{"entries": {}, "hitsAddend": -1}"#.to_owned(),
            "invalid value: integer `-1`, expected a whole number of at least 0",
        ),
        (r#"{"entries": {}} x"#.to_owned(), "trailing characters"),
    ] {
        let error = decode_check(body.as_bytes()).expect_err(&body).to_string();
        assert!(error.starts_with(expected), "{body}: {error}");
    }
    for (body, expected) in [
        (r#"{"entries": {"a": ""}}"#, "rate limit domain must not be empty"),
        (r#"{"domain": "d", "entries": {}}"#, "rate limit descriptor list must not be empty"),
        (r#"{"domain": "d"}"#, "rate limit descriptor list must not be empty"),
    ] {
        let request = decode_check(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.received().expect_err(body).to_string(), expected);
    }
}
