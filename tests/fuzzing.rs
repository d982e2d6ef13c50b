//! The properties that `tests/fuzz.sh` fuzzes, on a few random inputs.

#[path = "fuzz/properties.rs"]
#[allow(unreachable_pub, reason = "fuzz targets use it as a module of their own")]
mod properties;

use proptest::prelude::*;
use prost::Message as _;
use tollgate::pb;

/// `seed` with some bytes replaced, removed or repeated.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
    (prop::sample::select(seeds), prop::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (place, byte, change) in changes {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match change {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                2 => drop(bytes.remove(place)),
                _ => bytes.extend_from_within(place..),
            }
        }
        bytes
    })
}

fn message() -> Vec<u8> {
    let entry = pb::Entry { key: "user".into(), value: "ann".into() };
    let descriptor = pb::RateLimitDescriptor {
        entries: vec![entry.clone(), entry],
        limit: Some(pb::RateLimitOverride { requests_per_unit: 300, unit: 7 }),
        hits_addend: Some(1 << 40),
        is_negative_hits: true,
    };
    let descriptors = vec![descriptor, pb::RateLimitDescriptor::default()];
    pb::RateLimitRequest { domain: "shop".to_owned(), descriptors, hits_addend: 3 }.encode_to_vec()
}

fn bodies() -> Vec<Vec<u8>> {
    [
        r#"{"domain": "shop", "entries": {"user": "ann", "ip": "1.2.3.4"}, "hitsAddend": 1e2}"#,
        r#"{"domain": "shop", "hits_addend": "3", "descriptors": [{"entries": [{"key": "k", "value": null}],
            "limit": {"requestsPerUnit": 5, "unit": "WEEK"}, "isNegativeHits": true, "hitsAddend": 1.0}, {}]}"#,
    ]
    .map(|body| body.as_bytes().to_vec())
    .into()
}

fn rule_files() -> Vec<Vec<u8>> {
    [
        &include_bytes!("../config/example.yaml")[..],
        b"domain: d\ndescriptors:\n- &a {key: k, one_of: [a, b], rate_limit: 5/minute}\n- {<<: *a, key: l}\n",
        b"domain: d\ndescriptors: [{key: ip, cidr: [10.0.0.0/8], penalty: {after: 3, within: 1m, block: [1m]},\
          rate_limits: [{unit: day, requests_per_unit: 9, algorithm: token_bucket, burst: 3}, 5/s]}]",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

fn test_files() -> Vec<Vec<u8>> {
    [
        &include_bytes!("../config/presets/lockout.test.yaml")[..],
        b"rules: {domain: d, descriptors: [{key: k, rate_limit: 5/minute}]}\nsettings: {replicas: 2}\ntests:\n- name: a\n  \
          start: 2026-03-29T00:59:30Z\n  steps:\n  - {ask: {k: 'u{n%3}'}, times: 3, every: 1s, expect: '+++'}\n  \
          - {together: 2, ask: [{k: a}], hits: -1, expect: {allowed: 1..2, wait: 1s..2s}}\n  - {reload: x, expect: {errors: 0}}\n  \
          - {descriptors: [{entries: [[k, a]], limit: {requests_per_unit: 5, unit: day}}], expect: {counter: 'tg1\xE2\x80\xA6'}}\n",
        &include_bytes!("../config/presets/llm.test.yaml")[..],
        b"rules: {domain: d, descriptors: [{key: k, rate_limit: 9/day, reserve: {amount: 5}}]}\ntests:\n- name: a\n  steps:\n  \
          - {reserve: [{k: a}, {k: 'u{n}'}], amount: [2, 3], ttl: 9s, times: 3, as: 'c-{n}', expect: {held: 1..9}}\n  \
          - {settle: 'c-{n}', times: 2, usage: {model: m, input: 3, output: 4}, expect: {limits: {d.k: {used: 7}}}}\n  \
          - {settle: c-3, amount: 5, final: false, expect: {continue: true}}\n  - {extend: c-3, ttl: 5s, expect: '+'}\n  \
          - {acquire: {k: b}, weight: 2, as: p}\n  - {renew: p}\n  - {release: p}\n  - {look: {k: a}, expect: {used: 7}}\n",
        b"rules: |\n  domain: d\ntests: [{name: a, steps: [{store: down}, {wait: 1d}]}]\nnever: [{rule: d.k}]\n",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

fn logs() -> Vec<Vec<u8>> {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x33, 0xe4, 2, 0, 0x53, 0xfc, 0x51, 0x67, 2, 0, 0, 0];
    [
        &b"[2026-11-16T12:34:56.789Z] \"GET /a?b HTTP/1.1\" 200 RL 0 25 3 - \"-\" \"x?a=B\" \"5f\" \"h\" \"-\"\n\xff\n"[..],
        br#"10.0.0.1 - ann [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 2326 "-" "a \" b?a=1""#,
        br#"{"time":1794832496.5,"a":{"b":"x\u00e9\ud83d\ude00"},"path":["/"],"c":1e99,"d":null}"#,
        b"1794832496,\"a \"\"b\"\"\",\n1794832490,b,c\n99999999999999999,d,",
        br#"{"t":"2026-11-16T12:34:56Z","domain":"d","descriptors":[{"entries":[["k","v"],["l",{"base64":"/w=="}]],"hits":-4294967296,"limit":{"requests_per_unit":3,"unit":"YEAR"}}],"verdict":"ok"}"#,
        &gzip,
        &[0x28, 0xb5, 0x2f, 0xfd, 4, 0, 0x11, 0, 0, b'1', b'\n', 0xff, 0xff, 0xff, 0xff],
    ]
    .map(<[u8]>::to_vec)
    .into()
}

fn pairs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let byte = || prop::sample::select(&b"a_:,*/1{}%#\xff"[..]);
    let text = move || prop_oneof![9 => prop::collection::vec(byte(), 0..5), 1 => prop::collection::vec(byte(), 255..259)];
    prop::collection::vec((text(), text()), 0..3)
}

fn borrowed(pairs: &[(Vec<u8>, Vec<u8>)]) -> properties::Pairs<'_> {
    pairs.iter().map(|(key, value)| (&**key, &**value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn requests_read_as_prost_reads_them(bytes in mutated(vec![message()])) {
        properties::request(&bytes);
    }

    #[test]
    fn bodies_are_requests_or_short_errors(bytes in mutated(bodies())) {
        properties::json(&bytes);
    }

    #[test]
    fn rule_files_compile_or_have_bounded_errors(bytes in mutated(rule_files())) {
        properties::rules(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn test_files_can_be_run_or_have_bounded_errors(bytes in mutated(test_files())) {
        properties::test_file(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn text_stays_on_its_line(bytes in prop::collection::vec(any::<u8>(), 0..100), max in 0..120_usize) {
        properties::text(&bytes, max);
    }

    #[test]
    fn keys_differ_and_choose_no_slot(a in pairs(), b in pairs()) {
        properties::keys((b"d", borrowed(&a)), (b"d", borrowed(&b)));
        properties::keys((b"d", borrowed(&a)), (b"d", borrowed(&a)));
    }
}

proptest! {
    // Each case is five replays.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn logs_are_replayed_whatever_is_in_them(bytes in mutated(logs())) {
        properties::log(&bytes);
    }
}
