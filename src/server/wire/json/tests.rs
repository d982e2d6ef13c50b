use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;

use super::{JsonRequest, decode_json};
use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES};
use crate::engine::{Hits, Limit, Unit};
use crate::pb;
use crate::server::wire::{ReceivedRequest, decode};

fn read(body: &str) -> JsonRequest<'_> {
    decode_json(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

/// The hits and the limit of the first descriptor.
fn first(body: &str) -> (Hits, Option<Limit>) {
    let request = read(body);
    let received = request.received().unwrap_or_else(|error| panic!("{body}: {error}"));
    (received.descriptors[0].hits, received.descriptors[0].limit_override)
}

#[test]
fn values_are_those_of_proto3_json() {
    for (number, hits) in [
        ("null", 1),
        ("3", 3),
        ("3.0", 3),
        ("0.3e1", 3),
        ("1e2", 100),
        (r#""3""#, 3),
        (r#""1e2""#, 100),
        ("-0", 0),
        ("4294967295", u32::MAX),
        // A cost of any size is over the limit, and no error.
        ("4294967296", u32::MAX),
        ("18446744073709551616", u32::MAX),
        (r#""99999999999999999999""#, u32::MAX),
    ] {
        for name in ["hitsAddend", "hits_addend"] {
            let own = format!(r#"{{"domain": "d", "descriptors": [{{"{name}": {number}}}]}}"#);
            assert_eq!(first(&own).0, Hits::Add(hits), "{own}");
            let of_request = format!(r#"{{"domain": "d", "{name}": {number}, "descriptors": [{{}}]}}"#);
            assert_eq!(first(&of_request).0, Hits::Add(hits.max(1)), "{of_request}");
        }
    }
    for (unit, expected) in [
        (r#""WEEK""#, Unit::Week),
        ("7", Unit::Week),
        ("5", Unit::Month),
        ("6.0", Unit::Year),
        (r#""SECOND""#, Unit::Second),
    ] {
        for name in ["requestsPerUnit", "requests_per_unit"] {
            let body = format!(
                r#"{{"domain": "d", "descriptors": [{{"limit": {{"{name}": "5", "unit": {unit}}}}}]}}"#
            );
            assert_eq!(first(&body).1, Some(Limit::per(5, expected)), "{body}");
        }
    }
    for (flag, expected) in [("true", Hits::Refund(1)), ("false", Hits::Add(1)), ("null", Hits::Add(1))] {
        for name in ["isNegativeHits", "is_negative_hits"] {
            let body = format!(r#"{{"domain": "d", "descriptors": [{{"{name}": {flag}}}]}}"#);
            assert_eq!(first(&body).0, expected, "{body}");
        }
    }
    let null = r#"{"domain": null, "descriptors": null, "hitsAddend": null}"#;
    assert_eq!(read(null), JsonRequest::default());
    let entries = r#"{"domain": "d", "descriptors": [{"entries": null, "limit": null},
        {"entries": [{"key": "k", "value": null}, {"key": null}]}]}"#;
    assert_eq!(read(entries).descriptors[1].entries, [("k".into(), "".into()), ("".into(), "".into())]);
}

#[test]
fn invalid_requests_are_rejected_with_the_reason() {
    let of_hits = |hits: &str| format!(r#"{{"hitsAddend": {hits}}}"#);
    let of_limit = |limit: &str| format!(r#"{{"descriptors": [{{"limit": {limit}}}]}}"#);
    for (body, expected) in [
        ("[]".to_owned(), "invalid type: sequence, expected an object"),
        ("null".to_owned(), "invalid type: null, expected an object"),
        (of_hits("1.5"), "invalid value: floating point `1.5`, expected a whole number"),
        (of_hits("-1"), "invalid value: integer `-1`, expected a whole number"),
        (of_hits(r#""""#), "invalid value: string \"\", expected a whole number"),
        (of_hits(r#"" 1""#), "invalid value: string \" 1\", expected a whole number"),
        (of_hits(r#""+1""#), "invalid value: string \"+1\", expected a whole number"),
        (of_hits(r#""NaN""#), "invalid value: string \"NaN\", expected a whole number"),
        (of_hits("true"), "invalid type: boolean `true`, expected a whole number"),
        (of_limit("[]"), "invalid type: sequence, expected an object"),
        (of_limit(r#"{"unit": "FORTNIGHT"}"#), "invalid value: string \"FORTNIGHT\", expected a unit"),
        (r#"{"descriptors": [null]}"#.to_owned(), "invalid type: null, expected an object"),
        (r#"{"descriptors": {}}"#.to_owned(), "invalid type: map, expected an array of at most"),
        (r#"{"domain": "a", "domain": "b"}"#.to_owned(), "duplicate field `domain`"),
        (r#"{"hitsAddend": 1, "hits_addend": 1}"#.to_owned(), "duplicate field `hitsAddend`"),
        (r#"{"entries": {}}"#.to_owned(), "unknown field `entries`"),
        ("{\"a\\n\\u001b[31m\": 1}".to_owned(), "unknown field `a\\n\\u{1b}[31m`"),
    ] {
        let error = decode_json(body.as_bytes()).expect_err(&body).to_string();
        assert!(error.starts_with(expected), "{body}: {error}");
    }
    let long = format!(r#"{{"{}": 1}}"#, "x".repeat(10_000));
    assert!(decode_json(long.as_bytes()).expect_err("unknown").to_string().len() < 210);
    let limit = r#"{"domain": "d", "descriptors": [{"limit": {"requestsPerUnit": 4294967296, "unit": 1}}]}"#;
    assert_eq!(
        read(limit).received().expect_err("too large").to_string(),
        "descriptors[0].limit.requests_per_unit must not be more than 4294967295"
    );
}

#[test]
fn reading_ends_at_the_first_item_too_many() {
    let of = |item: &str, items: usize| vec![item; items].join(",");
    let descriptors = |items| format!(r#"{{"domain": "d", "descriptors": [{}]}}"#, of("{}", items));
    let entries =
        |items| format!(r#"{{"domain": "d", "descriptors": [{{"entries": [{}]}}]}}"#, of("{}", items));
    assert_eq!(read(&descriptors(MAX_DESCRIPTORS)).descriptors.len(), MAX_DESCRIPTORS);
    assert_eq!(read(&entries(MAX_ENTRIES)).descriptors[0].entries.len(), MAX_ENTRIES);
    for (body, expected) in [
        (descriptors(1_390_000), "more than 1024 items in an array at line 1 column 3"),
        (entries(1_390_000), "more than 256 items in an array at line 1 column 8"),
    ] {
        let mut error = None;
        let measured =
            allocation_counter::measure(|| error = decode_json(body.as_bytes()).err().map(|e| e.to_string()));
        assert!(error.as_ref().is_some_and(|error| error.starts_with(expected)), "{error:?}");
        assert!(measured.bytes_max < 500_000, "{measured:?}");
    }
}

/// `request` in JSON.
fn in_json(request: &pb::RateLimitRequest) -> String {
    let entry = |entry: &pb::Entry| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        json!({"key": text(&entry.key), "value": text(&entry.value)})
    };
    let limit = |limit: &pb::RateLimitOverride| json!({"requestsPerUnit": limit.requests_per_unit, "unit": limit.unit().as_str_name()});
    let descriptor = |descriptor: &pb::RateLimitDescriptor| {
        json!({
            "entries": descriptor.entries.iter().map(entry).collect::<Vec<_>>(),
            "limit": descriptor.limit.as_ref().map(limit),
            "hitsAddend": descriptor.hits_addend.map(|hits| hits.to_string()),
            "isNegativeHits": descriptor.is_negative_hits,
        })
    };
    let descriptors: Vec<_> = request.descriptors.iter().map(descriptor).collect();
    let hits = request.hits_addend;
    json!({"domain": request.domain, "descriptors": descriptors, "hitsAddend": hits}).to_string()
}

fn descriptor() -> impl Strategy<Value = pb::RateLimitDescriptor> {
    let entry = ("\\PC{0,4}|[\n\"\\\\]", ".{0,4}");
    let entry = entry.prop_map(|(key, value)| pb::Entry { key: key.into(), value: value.into() });
    let limit = (any::<u32>(), 1..=7_i32);
    let limit = limit.prop_map(|(requests_per_unit, unit)| pb::RateLimitOverride { requests_per_unit, unit });
    (
        prop::collection::vec(entry, 0..4),
        prop::option::of(limit),
        prop::option::of(any::<u64>()),
        any::<bool>(),
    )
        .prop_map(|(entries, limit, hits_addend, is_negative_hits)| pb::RateLimitDescriptor {
            entries,
            limit,
            hits_addend,
            is_negative_hits,
        })
}

proptest! {
    #[test]
    fn a_request_is_the_same_in_json_and_in_protobuf(
        domain in ".{1,8}",
        descriptors in prop::collection::vec(descriptor(), 1..4),
        hits_addend in any::<u32>(),
    ) {
        let request = pb::RateLimitRequest { domain, descriptors, hits_addend };
        let (bytes, body) = (request.encode_to_vec(), in_json(&request));
        let shown = |received: ReceivedRequest<'_>| format!("{received:?}");
        let read = read(&body);
        prop_assert_eq!(read.received().map(shown), decode(&bytes).map(shown));
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(decode_json(text.as_bytes()));
        drop(decode_json(&bytes));
    }
}
