//! Lists, networks and regexes in place of a value; normalization of values.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::loading::{check, mistakes, with_fields};
use super::{entries, file, load};
use crate::engine::plan::plan;
use crate::engine::rules::{CompileOptions, HashKey, Quota, Rules, compile};
use crate::engine::{Descriptor, Hits, KeyDomain, KeyFormat, KeyWriter, Limit, Request, Unit};

const SECRET: &[u8] = b"a secret of the tests";

/// Rules whose values may be hashed.
fn load_with_secret(text: &str) -> Rules {
    let options = CompileOptions { hash_key: Some(HashKey::new(SECRET)), ..CompileOptions::default() };
    compile(&[file("rules.yaml", text)], options, None).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Requests per unit of the rule that applies, which identifies it; 0 without a rule.
fn found(rules: &Rules, request: &str) -> u32 {
    let entries = entries(request);
    let found = rules.domain(b"d").and_then(|domain| domain.find(&entries));
    found.map_or(0, |found| match &found.rule.quota {
        Quota::Limited(limits) => limits[0].limit.requests_per_unit,
        Quota::Unlimited => 0,
    })
}

fn key(rules: &Rules, format: KeyFormat, request: &str) -> String {
    let entries = entries(request);
    let found = rules.domain(b"d").and_then(|domain| domain.find(&entries)).expect("a rule applies");
    let domain = KeyDomain { name: b"d", hash_tag: None, only_limit: true };
    let key = KeyWriter::new(format, "").key(domain, &entries, Some(&found), Limit::per(1, Unit::Minute));
    String::from_utf8(key.to_vec()).expect("these are text")
}

/// The name in metrics.
fn name(rules: &Rules, request: &str) -> String {
    let entries = entries(request);
    let found = rules.domain(b"d").and_then(|domain| domain.find(&entries)).expect("a rule applies");
    found.stats_path("d", &entries).to_string()
}

/// One rule for each kind of pattern, in the reverse of the order in which they are tried.
const KINDS: &str = "
domain: d
descriptors:
  - {key: k, rate_limit: 1/day}
  - {key: k, regex: '[0-9a-f.:x]+', rate_limit: 2/day}
  - {key: k, regex: '.*', rate_limit: 3/day}
  - {key: k, cidr: 10.0.0.0/8, rate_limit: 4/day}
  - {key: k, cidr: ['10.1.0.0/16', 'fd00::/8'], rate_limit: 5/day}
  - {key: k, value: x*, rate_limit: 6/day}
  - {key: k, value: '*y', rate_limit: 7/day}
  - {key: k, one_of: [xy, 10.1.1.1, 7, ''], rate_limit: 8/day}
  - {key: k, value: 10.1.1.1, rate_limit: 9/day}
  - {key: bare, rate_limit: 1/day}
  - {key: bare, cidr: '::/0', rate_limit: 2/day}
";

#[test]
fn patterns_are_tried_in_their_order_whatever_the_order_of_the_file() {
    let rules = load(KINDS);
    for (value, expected) in [
        ("10.1.1.1", 9),
        ("xy", 8),
        ("7", 8),
        ("", 8),
        ("x1", 6),
        ("ay", 7),
        ("xay", 6),
        ("10.1.1.2", 5),
        ("::ffff:10.1.1.2", 5),
        ("::ffff:10.2.1.2", 4),
        ("fd12::1", 5),
        ("10.2.1.1", 4),
        ("11.0.0.1", 2),
        ("10.1.1.2:80", 2),
        ("fe80::1", 2),
        ("something", 3),
    ] {
        assert_eq!(found(&rules, &format!("k={value}")), expected, "{value}");
    }
    assert_eq!(found(&rules, "bare=10.0.0.1"), 1, "IPv4 is no part of IPv6");
    assert_eq!(found(&rules, "bare=fd00::1"), 2);
    let reversed: Vec<_> = KINDS.trim().lines().skip(2).collect();
    let reversed = reversed.into_iter().rev().collect::<Vec<_>>().join("\n");
    let rules = load(&format!("domain: d\ndescriptors:\n{reversed}\n"));
    for (value, expected) in [("xy", 8), ("10.1.1.1", 9), ("xay", 7), ("10.1.1.2", 5), ("11.0.0.1", 3)] {
        assert_eq!(found(&rules, &format!("k={value}")), expected, "{value}, reversed");
    }
}

#[test]
fn regexes_match_values_that_are_not_text() {
    let rules = load(&with_fields("    regex: '/api/.*'\n    rate_limit: 1/day\n"));
    let entry = crate::engine::Entry { key: b"k", value: b"/api/\xff\n" };
    assert!(rules.domain(b"d").is_some_and(|domain| domain.find(&[entry]).is_some()));
}

const SHARED: &str = "
domain: d
descriptors:
  - {key: plan, one_of: [silver, gold], share_threshold: true, rate_limit: 1/minute}
  - {key: tier, one_of: [gold], share_threshold: true, rate_limit: 1/minute}
  - {key: tier, rate_limit: 1/minute}
  - {key: ip, cidr: [fd00::/8, 10.0.0.0/8], share_threshold: true, rate_limit: 1/minute}
  - {key: ip, cidr: 10.1.0.0/16, rate_limit: 1/minute}
  - {key: path, regex: '/v[0-9]+', share_threshold: true, detailed_metric: true, rate_limit: 1/minute}
  - {key: path, value: /s/*, share_threshold: true, rate_limit: 1/minute}
  - key: path
    one_of: [/a, /b]
    descriptors: [{key: method, one_of: [GET], value_to_metric: true, rate_limit: 1/minute}]
";

#[test]
fn values_of_a_shared_pattern_share_a_counter() {
    let rules = load(SHARED);
    for (request, native, compatible, metric) in [
        (
            "plan=gold",
            "4:plan,~19:one_of(gold,silver),",
            "plan_one_of(gold,silver)_",
            "plan_one_of(gold,silver)",
        ),
        (
            "plan=silver",
            "4:plan,~19:one_of(gold,silver),",
            "plan_one_of(gold,silver)_",
            "plan_one_of(gold,silver)",
        ),
        // A value that looks like a pattern is not one.
        ("tier=gold", "4:tier,~12:one_of(gold),", "tier_one_of(gold)_", "tier_one_of(gold)"),
        ("tier=one_of(gold)", "4:tier,12:one_of(gold),", "tier_one_of(gold)_", "tier"),
        (
            "ip=10.9.9.9",
            "2:ip,~25:cidr(10.0.0.0/8,fd00::/8),",
            "ip_cidr(10.0.0.0/8,fd00::/8)_",
            "ip_cidr(10.0.0.0/8,fd00::/8)",
        ),
        ("ip=10.1.9.9", "2:ip,8:10.1.9.9,", "ip_10.1.9.9_", "ip_cidr(10.1.0.0/16)"),
        ("path=/v12", "4:path,~15:regex(/v[0-9]+),", "path_regex(/v[0-9]+)_", "path_regex(/v[0-9]+)"),
        ("path=/s/1", "4:path,*4:/s/*,", "path_/s/*_", "path_/s/*"),
        (
            "path=/a,method=GET",
            "4:path,2:/a,6:method,3:GET,",
            "path_/a_method_GET_",
            "path_one_of(/a,/b).method_GET",
        ),
    ] {
        assert_eq!(key(&rules, KeyFormat::Native, request), format!("tg1/f60/1:d,{native}"), "{request}");
        assert_eq!(key(&rules, KeyFormat::Envoyproxy, request), format!("d_{compatible}"), "{request}");
        assert_eq!(name(&rules, request), format!("d.{metric}"), "{request}");
    }
}

const NORMALIZED: &str = "
domain: d
descriptors:
  - {key: user, normalize: [trim, lowercase], value_to_metric: true, rate_limit: 1/minute}
  - {key: user, value: admin, rate_limit: 2/minute}
  - {key: user, one_of: [root, bob], share_threshold: true, rate_limit: 3/minute}
  - {key: user, value: x-*, rate_limit: 4/minute}
  - {key: 'us*', value: q*, rate_limit: 5/minute}
  - {key: ip, cidr: [10.0.0.0/8, fd00::/8], rate_limit: 2/minute}
  - {key: ip, value: 11.0.0.0/24, rate_limit: 3/minute}
  - {key: ip, normalize: [forwarded_for, {ip_prefix: {v4: 24}}], detailed_metric: true, rate_limit: 1/minute}
  - key: mail
    normalize: [lowercase, hash]
    detailed_metric: true
    rate_limit: 1/minute
  - {key: mail, value: alice@example.com, rate_limit: 2/minute}
  - {key: plain, rate_limit: 1/minute}
";

#[test]
fn every_rule_of_a_key_sees_the_normalized_value() {
    let rules = load_with_secret(NORMALIZED);
    for (request, expected, counted) in [
        ("user= Alice ", 1, "4:user,5:alice,"),
        ("user=ADMIN", 2, "4:user,5:admin,"),
        ("user=Bob", 3, "4:user,~16:one_of(bob,root),"),
        ("user=X-1", 4, "4:user,3:x-1,"),
        ("user= Q", 5, "4:user,1:q,"),
        ("ip=10.1.2.3", 2, "2:ip,11:10.1.2.0/24,"),
        ("ip=fd00::1", 2, "2:ip,9:fd00::/64,"),
        ("ip=11.0.0.7", 3, "2:ip,11:11.0.0.0/24,"),
        ("ip=12.0.0.7:80", 1, "2:ip,11:12.0.0.0/24,"),
        ("ip=unknown", 1, "2:ip,7:unknown,"),
        ("plain= A ", 1, "5:plain,3: A ,"),
    ] {
        assert_eq!(found(&rules, request), expected, "{request}");
        assert_eq!(key(&rules, KeyFormat::Native, request), format!("tg1/f60/1:d,{counted}"), "{request}");
    }
    assert_eq!(name(&rules, "user= Alice "), "d.user_alice");
    assert_eq!(name(&rules, "ip=12.0.0.7:80"), "d.ip_12.0.0.0/24");
}

#[test]
fn a_hashed_value_is_matched_unhashed_and_counted_and_shown_as_its_hash() {
    let rules = load_with_secret(NORMALIZED);
    assert_eq!(found(&rules, "mail=Alice@Example.com"), 2);
    assert_eq!(found(&rules, "mail=bob@example.com"), 1);
    let native = key(&rules, KeyFormat::Native, "mail=Bob@example.com");
    let hash = native.trim_start_matches("tg1/f60/1:d,4:mail,32:").trim_end_matches(',').to_owned();
    assert!(hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{native}");
    assert_eq!(key(&rules, KeyFormat::Envoyproxy, "mail=bob@EXAMPLE.com"), format!("d_mail_{hash}_"));
    assert_eq!(name(&rules, "mail=bob@example.com"), format!("d.mail_{hash}"));
    let alice = key(&rules, KeyFormat::Native, "mail=alice@example.com");
    assert!(!alice.contains("alice") && !alice.contains(&hash), "{alice}");
    let dump = rules.dump_json().to_string();
    assert!(!dump.contains(&*String::from_utf8_lossy(SECRET)), "{dump}");
}

#[test]
fn values_that_normalize_to_one_share_counters_and_lockouts_whose_keys_hide_it() {
    let rules = load_with_secret(
        "
domain: d
descriptors:
  - key: user
    normalize: [trim, lowercase, hash]
    rate_limits: [1/minute, 5/hour]
    penalty: {after: 1, within: 10m, block: [1m]}
",
    );
    let names = |request: &str| -> Vec<bytes::Bytes> {
        let descriptor =
            Descriptor { entries: entries(request).into(), hits: Hits::Add(1), limit_override: None };
        let request = Request { domain: b"d", descriptors: [descriptor].into_iter().collect() };
        let plan = plan(&rules, &request, &KeyWriter::default());
        let limited = plan.limited().next().expect("a limit applies");
        let lockout = limited.lockout.as_ref().map(|lockout| lockout.key.clone());
        limited.counters.iter().map(|counter| counter.key.clone()).chain(lockout).collect()
    };
    let found = names("user=alice");
    assert_eq!(found.len(), 3);
    assert_eq!(names("user= ALICE "), found);
    assert_ne!(names("user=bob"), found);
    assert!(found.iter().all(|name| !name.windows(5).any(|part| part == b"alice")), "{found:?}");
}

#[test]
fn lookups_of_patterns_and_short_normalized_values_allocate_nothing() {
    let patterns = load(KINDS);
    let normalized = load_with_secret(NORMALIZED);
    for (rules, request) in [
        (&patterns, "k=xy"),
        (&patterns, "k=10.1.1.2"),
        (&patterns, "k=fd00::2"),
        (&patterns, "k=something"),
        (&normalized, "user= Alice "),
        (&normalized, "ip=[2001:db8:1:2:3:4:5:6]:443"),
        (&normalized, "mail=Bob@example.com"),
    ] {
        let domain = rules.domain(b"d").expect("the domain is known");
        let entries = entries(request);
        // A regex allocates its working memory when a thread uses it for the first time.
        assert!(domain.find(&entries).is_some(), "{request}");
        let allocated = allocation_counter::measure(|| {
            std::hint::black_box(domain.find(std::hint::black_box(&entries)));
        });
        assert_eq!(allocated.count_total, 0, "{request}");
    }
}

#[test]
fn a_level_matches_values_in_only_one_way() {
    let both = |first: &str, second: &str| with_fields(&format!("    {first}\n    {second}\n"));
    let message = |first: &str, second: &str| {
        format!("5:5 '{first}' and '{second}' both set which values the rule matches: write one of them")
    };
    let at = |message: String, span: &str| message.replace("5:5", span);
    check(&both("one_of: [a]", "cidr: 10.0.0.0/8"), &at(message("one_of", "cidr"), "5:11"));
    check(&both("cidr: 10.0.0.0/8", "regex: a"), &at(message("cidr", "regex"), "5:12"));
    check(&both("value: a", "one_of: [a]"), &at(message("value", "one_of"), "5:13"));
    let starred = |field: &str| format!("domain: d\ndescriptors:\n  - key: k*\n    {field}\n");
    for field in ["one_of: [a]", "cidr: 10.0.0.0/8", "regex: a", "normalize: [trim]"] {
        let name = field.split(':').next().expect("a name");
        let found = mistakes(&starred(field));
        let expected = format!("'{name}' is for one key, and 'k*' has a '*': write the key in full");
        assert!(found.len() == 1 && found[0].ends_with(&expected), "{found:?}");
    }
}

#[test]
fn invalid_and_repeated_values_and_networks_are_errors() {
    let one = |field: &str, expected: &str| check(&with_fields(&format!("    {field}\n")), expected);
    one("one_of: []", "4:13 'one_of' is empty: write at least one value");
    one("one_of: a", "4:13 error checking config: 'one_of' must be a list of values, not 'a'");
    one("one_of:", "4:11 error checking config: 'one_of' must be a list of values, not nothing");
    one("one_of: [a, [b]]", "4:17 error checking config: 'an entry of one_of' must be text, not a list");
    one(
        "one_of: [a, b*]",
        "4:17 'one_of' lists exact values: for the pattern 'b*' write a rule with 'value'",
    );
    one("one_of: [a, b, a]", "4:20 'a' is there twice, first at line 4: write it once");
    one("cidr: []", "4:11 'cidr' is empty: write at least one network");
    one("cidr: 10.0.0.1/8", "4:11 10.0.0.1/8 has host bits: write 10.0.0.0/8");
    one("cidr: [10.0.0.0/8, here]", "4:24 'here' is not a network: write one such as 10.0.0.0/8 or fd00::/8");
    one(
        "cidr: [10.0.0.0/8, '::ffff:10.0.0.0/104']",
        "4:24 '10.0.0.0/8' is there twice, first at line 4: write it once",
    );
    one("regex: '('", "4:12 regex '(' is not a regular expression: unclosed group");
    one("regex: ''", "4:12 regex '' is empty: write a pattern for the values");
    one(
        "regex: '(?u)\\w{5000}'",
        "4:12 regex '(?u)\\w{5000}' is too large: it would take more than 1048576 bytes",
    );
    let two = |first: &str, second: &str, expected: &str| {
        let text = format!("domain: d\ndescriptors:\n  - key: k\n    {first}\n  - key: k\n    {second}\n");
        check(&text, expected);
    };
    two(
        "one_of: [a, b]",
        "one_of: [c, b]",
        "6:17 'b' is in another 'one_of' for 'k', at line 3: write it in one of them",
    );
    two(
        "cidr: [10.0.0.0/8, fd00::/8]",
        "cidr: [10.1.0.0/16, 'FD00::/8']",
        "6:25 'fd00::/8' is in another 'cidr' for 'k', at line 3: write it in one of them",
    );
    two("regex: a.", "regex: a.", "5:5 duplicate descriptor composite key 'd.k_regex(a.)'");
    load(
        "domain: d\ndescriptors:\n  - {key: k, one_of: [a, b]}\n  - {key: k, value: a}\n  - {key: j, one_of: [a]}\n",
    );
}

#[test]
fn share_threshold_needs_something_to_share() {
    for (fields, shown) in [("", "k"), ("    value: v\n", "k_v"), ("    normalize: [trim]\n", "k")] {
        let text = with_fields(&format!("{fields}    share_threshold: true\n"));
        let expected = format!(
            "3:5 share_threshold can only be used with wildcard values (containing '*'), one_of, cidr and regex, \
             but found key '{shown}'"
        );
        check(&text, &expected);
    }
}

#[test]
fn unknown_steps_and_numbers_out_of_bounds_are_errors() {
    let one =
        |steps: &str, expected: &str| check(&with_fields(&format!("    normalize: {steps}\n")), expected);
    one("trim", "4:16 error checking config: 'normalize' must be a list of steps such as [trim, lowercase]");
    one("[lowercas]", "4:17 unknown step 'lowercas': did you mean 'lowercase'?");
    one("[{ip_prefixes: {}}]", "4:18 unknown step 'ip_prefixes': did you mean 'ip_prefix'?");
    one(
        "[zebra]",
        "4:17 unknown step 'zebra': known here are lowercase, trim, ip_prefix, forwarded_for, hash",
    );
    one("[[trim]]", "4:17 error checking config: 'an entry of normalize' must be a step such as lowercase");
    one("[{trim: 1, hash: 2}]", "4:17 error checking config: 'an entry of normalize' must be one step with");
    one("[{trim: {both: true}}]", "4:24 'trim' has no options: write '- trim'");
    one(
        "[{ip_prefix: {v4: 33}}]",
        "4:34 error checking config: 'v4' must be a whole number from 1 to 32, not '33'",
    );
    one(
        "[{ip_prefix: {v4: 0}}]",
        "4:34 error checking config: 'v4' must be a whole number from 1 to 32, not '0'",
    );
    one("[{ip_prefix: {v6: 129}}]", "4:34 error checking config: 'v6' must be a whole number from 1 to 128");
    one("[{ip_prefix: {v5: 1}}]", "4:30 config error, unknown key 'v5': known here are v4, v6");
    for hops in ["0", "101", "-1", "many"] {
        one(
            &format!("[{{forwarded_for: {{trusted_hops: {hops}}}}}]"),
            &format!(
                "4:48 error checking config: 'trusted_hops' must be a whole number from 1 to 100, not '{hops}'"
            ),
        );
    }
    one("[hash]", "4:17 'hash' needs a secret, and there is none: set HASH_KEY, the same for every replica");
    one("[hash, trim]", "4:17 'hash' must be the last step: write it at the end");
    load_with_secret(&with_fields(
        "    normalize: [{trim: }, ip_prefix, {ip_prefix: {}}, forwarded_for, hash]\n",
    ));
}

#[test]
fn different_normalizations_of_a_key_are_an_error() {
    let two = |first: &str, second: &str| {
        format!("domain: d\ndescriptors:\n  - key: k\n    value: a\n{first}  - key: k\n{second}")
    };
    let (trim, lower) = ("    normalize: [trim]\n", "    normalize: [lowercase]\n");
    check(&two(trim, lower), "7:16 another rule for 'k' at this level has a different 'normalize'");
    check(&two(trim, "    normalize: []\n"), "7:16 another rule for 'k' at this level has a different");
    for (first, second) in [(trim, trim), (trim, ""), ("", trim)] {
        let rules = load(&two(first, &format!("{second}    rate_limit: 1/day\n")));
        assert_eq!(key(&rules, KeyFormat::Native, "k= b "), "tg1/f60/1:d,1:k,1:b,");
    }
    let files = [
        file("one.yaml", &two(trim, "")),
        file("two.yaml", "domain: d\ndescriptors:\n  - {key: k, value: c, normalize: [hash]}\n"),
    ];
    let options = CompileOptions { merge_domains: true, ..CompileOptions::default() };
    let errors = compile(&files, options, None).expect_err("joined files are siblings");
    assert!(errors.to_string().contains("two.yaml:3:35: another rule for 'k'"), "{errors}");
}

#[test]
fn a_rule_that_is_switched_off_normalizes_nothing() {
    let rules = load(
        "{domain: d, descriptors: [{key: k, rate_limit: 1/minute}, {key: k, value: a, enabled: false, normalize: [trim]}]}",
    );
    assert_eq!(key(&rules, KeyFormat::Native, "k= b "), "tg1/f60/1:d,1:k,3: b ,");
}

#[test]
fn a_value_that_no_request_can_have_loads_with_a_warning() {
    let rules = load(
        "
domain: d
descriptors:
  - {key: k, value: Alice, rate_limit: 1/day}
  - {key: k, one_of: [bob, Carol], rate_limit: 1/day}
  - {key: k, normalize: [lowercase], value: Any*, rate_limit: 1/day}
",
    );
    let message = |value: &str, normalized: &str| {
        format!(
            "'{value}' matches nothing: 'normalize' turns it into '{normalized}' before it is matched; write that"
        )
    };
    let reported = |rules: &Rules| -> Vec<_> {
        rules.warnings.reported.iter().map(|warning| (warning.span.line, warning.message.clone())).collect()
    };
    assert_eq!(reported(&rules), [(4, message("Alice", "alice")), (5, message("Carol", "carol"))]);
    let rules = load(
        "
domain: d
descriptors:
  - {key: ip, cidr: [10.0.0.0/16, 10.1.2.3, 'fd00::/64', 'fd00:1::/65'], rate_limit: 1/day}
  - {key: ip, normalize: [trim, {ip_prefix: {v4: 24}}], rate_limit: 1/day}
",
    );
    let message = |value: &str, normalized: &str| {
        format!(
            "'{value}' matches nothing: 'normalize' turns its addresses into '{normalized}' before they are matched; \
             write a network that contains that"
        )
    };
    let expected = [(4, message("10.1.2.3", "10.1.2.0/24")), (4, message("fd00:1::/65", "fd00:1::/64"))];
    assert_eq!(reported(&rules), expected);
}

#[test]
fn all_mistakes_in_patterns_are_reported_at_once() {
    let text = "
domain: d
descriptors:
  - {key: a, one_of: [], normalize: [trimm], share_threshold: true}
  - {key: b, cidr: [10.0.0.1/8, x], rate_limit: {unit: foo, requests_per_unit: 1}}
  - {key: c, regex: '(', descriptors: [{key: d, regex: ')'}]}
";
    let found = mistakes(text);
    let lines: Vec<_> = found.iter().map(|mistake| mistake.split(':').next().expect("a line")).collect();
    assert_eq!(lines, ["4", "4", "5", "5", "5", "6", "6"], "{found:#?}");
}

#[test]
fn the_dump_shows_the_pattern_of_every_level() {
    let rules = load_with_secret(
        "
domain: d
descriptors:
  - key: ip
    cidr: [fd00::/8, 10.0.0.0/8]
    normalize: [trim, {ip_prefix: {v4: 24}}, {forwarded_for: {trusted_hops: 2}}]
    descriptors:
      - key: plan
        one_of: [silver, gold]
        share_threshold: true
        descriptors:
          - {key: path, regex: '/v[0-9]+', normalize: [lowercase, hash], rate_limit: 1/day}
",
    );
    let dump = rules.dump_json();
    assert_eq!(
        dump["rules"][0]["levels"],
        json!([
            {
                "key": "ip",
                "cidr": ["10.0.0.0/8", "fd00::/8"],
                "normalize": ["trim", {"ip_prefix": {"v4": 24, "v6": 64}}, {"forwarded_for": {"trusted_hops": 2}}],
                "share_threshold": false,
            },
            {"key": "plan", "one_of": ["gold", "silver"], "share_threshold": true},
            {"key": "path", "regex": "/v[0-9]+", "normalize": ["lowercase", "hash"], "share_threshold": false},
        ])
    );
    let path = dump["rules"][0]["path"].as_str().expect("a text");
    let hash = path.strip_prefix("d.ip_cidr(10.0.0.0/8,fd00::/8).plan_one_of(gold,silver).path_");
    assert_eq!(hash.map(str::len), Some(32), "{path}");
}

/// Text that a level counts a value under.
#[derive(Clone, Debug, PartialEq)]
enum Counted {
    Own(String),
    Glob(String),
    OneOf(BTreeSet<String>),
    Cidr(BTreeSet<u8>),
    Regex(String),
}

impl Counted {
    /// A level with this pattern, and a value that it matches.
    fn level_and_value(&self) -> (String, String) {
        let shared = |field: &str, written: serde_json::Value| {
            format!("    {field}: {written}\n    share_threshold: true\n")
        };
        match self {
            Self::Own(value) => (String::new(), value.clone()),
            Self::Glob(glob) => (shared("value", json!(glob)), glob.replace('*', "")),
            Self::OneOf(values) => (shared("one_of", json!(values)), values.first().expect("one").clone()),
            Self::Cidr(bytes) => {
                let networks: Vec<_> = bytes.iter().rev().map(|byte| format!("{byte}.0.0.0/8")).collect();
                (shared("cidr", json!(networks)), format!("{}.1.1.1", bytes.first().expect("one")))
            }
            Self::Regex(value) => (shared("regex", json!(value)), value.clone()),
        }
    }
}

/// Texts that look like parts of keys. As a regex, each matches itself.
fn counted() -> impl Strategy<Value = Counted> {
    let text = || "(one_of|cidr|[a,0:~\"])([a,0:~\"]|10){0,5}";
    prop_oneof![
        text().prop_map(Counted::Own),
        (text(), text()).prop_map(|(head, tail)| Counted::Glob(format!("{head}*{tail}"))),
        prop::collection::btree_set(text(), 1..4).prop_map(Counted::OneOf),
        prop::collection::btree_set(1..5u8, 1..4).prop_map(Counted::Cidr),
        text().prop_map(Counted::Regex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn values_share_a_native_key_only_if_they_share_a_pattern(a in counted(), b in counted()) {
        let of = |counted: &Counted| {
            let (level, value) = counted.level_and_value();
            let rules = load(&with_fields(&format!("{level}    rate_limit: 1/minute\n")));
            let entry = crate::engine::Entry { key: b"k", value: value.as_bytes() };
            let found = rules.domain(b"d").and_then(|domain| domain.find(&[entry])).expect("it takes the value");
            let domain = KeyDomain { name: b"d", hash_tag: None, only_limit: true };
            KeyWriter::default().key(domain, &[entry], Some(&found), Limit::per(1, Unit::Minute))
        };
        prop_assert_eq!(of(&a) == of(&b), a == b);
    }
}
