//! Names of rules with hashed values, which must not contain the values.

use std::collections::HashSet;

use super::{entries, file};
use crate::engine::plan::plan;
use crate::engine::rules::{CompileOptions, HashKey, Rules, SourceFile, compile};
use crate::engine::{Descriptor, Hits, KeyWriter, Request};

fn load(files: &[SourceFile]) -> Rules {
    let hash_key = Some(HashKey::new(b"a secret of the tests"));
    let options = CompileOptions { hash_key, merge_domains: true, ..CompileOptions::default() };
    compile(files, options, None).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The names of the counters and of the lockout that `request` is charged under, and that of its rule.
fn names(rules: &Rules, request: &str) -> (Vec<String>, String) {
    let entries = entries(request);
    let descriptor = Descriptor { entries: entries.clone().into(), hits: Hits::Add(1), limit_override: None };
    let request = Request { domain: b"d", descriptors: [descriptor].into_iter().collect() };
    let plan = plan(rules, &request, &KeyWriter::default());
    let limited = plan.limited().next().expect("a limit applies");
    let keys = limited.counters.iter().map(|counter| &counter.key);
    let keys = keys.chain(limited.lockout.as_ref().map(|lockout| &lockout.key));
    let keys = keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    let found = rules.domain(b"d").and_then(|domain| domain.find(&entries)).expect("a rule applies");
    assert_eq!(*found.rule.path, *found.stats_path("d", &entries).to_string());
    (keys, found.rule.path.to_string())
}

const SECRET: &str = "
domain: d
descriptors:
  - {key: mail, normalize: [lowercase, hash], rate_limit: 1/day}
  - {key: mail, value: ann@example.com, rate_limit: 2/day, penalty: {block: 1m}}
  - {key: mail, one_of: [bob@example.com, cat@example.com], share_threshold: true, rate_limit: 3/day}
  - {key: mail, value: 'dan@*', share_threshold: true, rate_limit: 4/day}
  - {key: mail, regex: 'eve@.*', share_threshold: true, rate_limit: 5/day}
  - key: ip
    cidr: 10.0.0.1
    share_threshold: true
    normalize: [hash]
    descriptors:
      - {key: open, value: seen, rate_limit: 6/day}
";

#[test]
fn names_never_contain_a_value_that_is_hashed() {
    let rules = load(&[file("rules.yaml", SECRET)]);
    let asked = [
        ("mail=Ann@example.com", "ann@"),
        ("mail=bob@example.com", "bob@"),
        ("mail=dan@example.com", "dan@"),
        ("mail=eve@example.com", "eve@"),
        ("ip=10.0.0.1,open=seen", "10.0.0.1"),
    ];
    let mut paths = HashSet::new();
    for (request, secret) in asked {
        let (keys, path) = names(&rules, request);
        for name in keys.iter().chain([&path]) {
            assert!(!name.contains(secret), "{request}: {name}");
        }
        assert!(paths.insert(path), "{request} has a name of its own");
    }
    for name in rules.counts().map(|(path, _)| path.to_string()).chain([rules.dump_text()]) {
        assert!(asked.iter().all(|(_, secret)| !name.contains(secret)), "{name}");
    }
    // Those of one value are the value's own, and what is not hashed stays.
    let (keys, path) = names(&rules, "mail=ann@example.com");
    let hash = path.strip_prefix("d.mail_").expect("the key stays");
    assert_eq!(keys[0], format!("tg1/f86400/1:d,4:mail,32:{hash},"));
    assert!(names(&rules, "ip=10.0.0.1,open=seen").1.ends_with(".open_seen"));
    // They tell several apart that count together, and those who count alone.
    assert_eq!(names(&rules, "mail=bob@example.com"), names(&rules, "mail=cat@example.com"));
    // Rules are shown as they are written.
    let levels = rules.dump_json()["rules"].to_string();
    assert!(levels.contains(r#""value":"ann@example.com""#), "{levels}");
}

#[test]
fn a_key_that_one_file_hashes_is_hidden_in_all_files_of_the_domain() {
    let one =
        file("1.yaml", "domain: d\ndescriptors: [{key: mail, value: ann@example.com, rate_limit: 2/day}]");
    let other = file("2.yaml", "domain: d\ndescriptors: [{key: mail, normalize: [hash], rate_limit: 1/day}]");
    let paths = [[one.clone(), other.clone()], [other, one]].map(|files| {
        let (_, path) = names(&load(&files), "mail=ann@example.com");
        assert!(!path.contains("ann@"), "{path}");
        path
    });
    assert_eq!(paths[0], paths[1]);
}
