//! Properties of every input. The fuzz targets look for a counterexample with coverage, and the test suite
//! (`tests/fuzzing.rs`) with random inputs.

use std::io::Cursor;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prost::Message as _;
use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
use tollgate::engine::text::{cut, one_line_of_bytes};
use tollgate::engine::{Entry, Hits, KeyDomain, KeyFormat, KeyWriter, Limit, Modes, Unit};
use tollgate::lab::replay::{LogFormat, LogSource, ReplayOptions, RulesToReplay, csv_files, html, replay};
use tollgate::lab::suite::TestFile;
use tollgate::pb::RateLimitRequest;
use tollgate::server::InvalidRequest;
use tollgate::server::wire::{decode, decode_check, decode_json};

/// A request in protobuf reads as prost reads it, or is refused.
pub fn request(bytes: &[u8]) {
    let read = match decode(bytes) {
        Ok(read) => read,
        Err(error) => return assert_is_shown(&error),
    };
    let expected = RateLimitRequest::decode(bytes).expect("prost reads it too");
    assert_eq!(read.domain, expected.domain.as_bytes());
    assert_eq!(read.descriptors.len(), expected.descriptors.len());
    for (read, descriptor) in read.descriptors.iter().zip(&expected.descriptors) {
        let entries: Vec<_> = read.entries.iter().map(|entry| (entry.key, entry.value)).collect();
        let expected_entries: Vec<_> =
            descriptor.entries.iter().map(|entry| (&*entry.key, &*entry.value)).collect();
        assert_eq!(entries, expected_entries);
        let hits = match descriptor.hits_addend {
            Some(own) => u32::try_from(own).unwrap_or(u32::MAX),
            None => expected.hits_addend.max(1),
        };
        assert_eq!(read.hits, if descriptor.is_negative_hits { Hits::Refund(hits) } else { Hits::Add(hits) });
        let limit = descriptor.limit.as_ref().map(|limit| limit.requests_per_unit);
        assert_eq!(read.limit_override.map(|limit| limit.requests_per_unit), limit);
    }
}

/// A body of `/json` or `/v1/check` is a request or a short error on one line, and what the first takes the
/// second takes too.
pub fn json(bytes: &[u8]) {
    let (json, check) = (decode_json(bytes), decode_check(bytes));
    for error in [json.as_ref().err(), check.as_ref().err()].into_iter().flatten() {
        assert_is_shown(error);
    }
    let Ok(json) = json else { return };
    assert_eq!(Ok(&json), check.as_ref());
    if let Err(error) = json.received() {
        assert_is_shown(&error);
    }
}

fn assert_is_shown(error: &InvalidRequest) {
    let text = error.to_string();
    assert!(text.len() <= 203 && !text.chars().any(char::is_control), "{text:?}");
}

/// A rule file compiles or has errors of bounded length. The runner bounds time and memory.
pub fn rules(text: &str) {
    let file = SourceFile { name: "rules.yaml".into(), text: text.into() };
    if let Err(errors) = compile(&[file], CompileOptions::default(), None) {
        let len = errors.to_string().len();
        assert!(len <= 200_000, "{len} bytes of errors");
    }
}

/// A test file can be run or has errors of bounded length. It names rules that are not there.
pub fn test_file(text: &str) {
    let file = SourceFile { name: "a.test.yaml".into(), text: text.into() };
    if let Err(errors) = TestFile::load(&file, &|_| Default::default()) {
        let text = errors.to_string();
        assert!(!text.is_empty() && text.len() <= 200_000, "{} bytes of errors", text.len());
    }
}

/// Text from outside stays on its line and within its bound.
pub fn text(bytes: &[u8], max: usize) {
    let shown = one_line_of_bytes(bytes, max);
    assert!(shown.len() <= max + '…'.len_utf8());
    assert!(!shown.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}')));
    // An invalid byte becomes three.
    assert!(bytes.len() <= max || cut(bytes, max).len() <= 3 * max + '…'.len_utf8());
}

/// Keys and values of a descriptor.
pub type Pairs<'p> = Vec<(&'p [u8], &'p [u8])>;

/// Two descriptors share a native key only if they are the same, and no text chooses the slot in a Cluster.
pub fn keys((domain_a, pairs_a): (&[u8], Pairs<'_>), (domain_b, pairs_b): (&[u8], Pairs<'_>)) {
    let native = KeyWriter::new(KeyFormat::Native, "p:").for_cluster();
    let (a, b) = (key(&native, domain_a, &pairs_a), key(&native, domain_b, &pairs_b));
    assert_eq!(a == b, (domain_a, &pairs_a) == (domain_b, &pairs_b));
    let compatible = KeyWriter::new(KeyFormat::Envoyproxy, "p:").for_cluster();
    for key in [a, b, key(&compatible, b"shop", &pairs_a)] {
        assert!(!key.contains(&b'{') && !key.contains(&b'}'), "{key:?}");
    }
}

fn key(writer: &KeyWriter, domain: &[u8], pairs: &Pairs<'_>) -> Vec<u8> {
    let entries: Vec<_> = pairs.iter().map(|(key, value)| Entry { key, value }).collect();
    let domain = KeyDomain { name: domain, hash_tag: None, only_limit: true };
    writer.key(domain, &entries, None, Limit::per(1, Unit::Minute)).to_vec()
}

/// Log formats, each of which a log is read as.
static LOG_FORMATS: LazyLock<Vec<LogFormat>> = LazyLock::new(|| {
    let map = "requests:\n- domain: d\n  where: {path: '/*'}\n  descriptors: [{k: '%path% | before(?)'}, {l: '%user_agent% | \
               query(a) | lower'}]\n  hits: '%status%'\n";
    let named = |format| LogFormat::from_map(map, Some(format)).expect("a format");
    let json =
        "format: json\nrequests: [{domain: d, descriptors: [{k: '%a.b%', l: '%path%'}], hits: '%c%'}]\n";
    let columns = "columns: [time, path, x]\nrequests: [{domain: d, descriptors: [{k: '%path%'}]}]\n";
    vec![
        named("envoy"),
        named("combined"),
        LogFormat::from_map(json, None).expect("a format"),
        LogFormat::from_map(columns, None).expect("a format"),
        LogFormat::decision_log(),
    ]
});

/// Rules with a limit of each kind.
static LOG_RULES: LazyLock<RulesToReplay> = LazyLock::new(|| {
    let text = "domain: d\ndescriptors:\n- {key: k, rate_limits: [1/second, {unit: day, requests_per_unit: 2, algorithm: \
                token_bucket}]}\n- {key: l, rate_limit: {unit: hour, requests_per_unit: 1, algorithm: sliding_log}}\n";
    let file = SourceFile { name: "rules.yaml".into(), text: text.into() };
    let rules = compile(&[file], CompileOptions::default(), None).expect("good rules");
    RulesToReplay { name: "rules.yaml".into(), rules: Arc::new(rules) }
});

/// A log is replayed, whatever is in it: each line is counted once, and nothing of it leaves its place in a report.
pub fn log(bytes: &[u8]) {
    let options = ReplayOptions {
        reorder: Duration::from_secs(1),
        max_bad_percent: 100.0,
        top: 5,
        denied_percent: 0.1,
        modes: Modes::default(),
        max_counter_bytes: 1 << 20,
    };
    for format in &*LOG_FORMATS {
        let source = LogSource { name: "log".into(), reader: Box::new(Cursor::new(bytes.to_vec())) };
        let report =
            replay(&LOG_RULES, None, (format, vec![source]), options, &mut |_| {}).expect("no bound");
        assert!(report.bad <= report.lines && report.late <= report.requests);
        assert!(report.bad_lines.len() as u64 == report.bad.min(5));
        let is_shown = |c: char| !c.is_control() || c == '\n';
        assert!(report.to_string().chars().all(is_shown) && html(&report).chars().all(is_shown));
        assert!(csv_files(&report).iter().all(|(_, text)| text.chars().all(is_shown)));
    }
}
