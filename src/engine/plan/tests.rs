use super::*;
use crate::engine::overrides::{Override, Overrides};
use crate::engine::rules::{CompileOptions, SourceFile, compile};
use crate::engine::{KeyFormat, Timestamp, Unit};

fn rules(text: &str) -> Rules {
    let file = SourceFile { name: "test.yaml".into(), text: text.into() };
    compile(&[file], CompileOptions::default(), None).expect("the rules of these tests are right")
}

/// `k=v,k2=v2`
fn descriptor(text: &str) -> Descriptor<'_> {
    let pairs = text.split(',').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let entries = pairs.map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() }).collect();
    Descriptor { entries, hits: Hits::Add(1), limit_override: None }
}

fn with_override<'a>(text: &'a str, requests_per_unit: u32, unit: Unit) -> Descriptor<'a> {
    Descriptor { limit_override: Some(Limit::per(requests_per_unit, unit)), ..descriptor(text) }
}

fn request<'a>(domain: &'a str, descriptors: &[Descriptor<'a>]) -> Request<'a> {
    Request { domain: domain.as_bytes(), descriptors: descriptors.iter().cloned().collect() }
}

/// Items as text: `-`, `unlimited`, or the name of the rule and the key of its counter.
fn planned(rules: &Rules, request: &Request<'_>) -> Vec<String> {
    let keys = KeyWriter::new(KeyFormat::Envoyproxy, "");
    let name = |limited: &Limited<'_>| match limited.rule {
        None => "override".to_owned(),
        Some(_) => limited.counters[0].name.unwrap_or("unnamed").to_owned(),
    };
    plan(rules, request, &keys)
        .items
        .iter()
        .map(|item| match item {
            Item::NoLimit | Item::Replaced => "-".to_owned(),
            Item::HoldsNothing => "holds nothing".to_owned(),
            Item::Unlimited(_) | Item::Exempt(_) => "unlimited".to_owned(),
            Item::Blocked(_) => "blocked".to_owned(),
            Item::Limited(limited) => {
                format!("{} {}", name(limited), String::from_utf8_lossy(&limited.counters[0].key))
            }
        })
        .collect()
}

fn check(rules: &Rules, descriptors: &[&str], expected: &[&str]) {
    let descriptors: Vec<_> = descriptors.iter().map(|text| descriptor(text)).collect();
    assert_eq!(planned(rules, &request("d", &descriptors)), expected, "{descriptors:?}");
}

const REPLACING: &str = "
domain: d
descriptors:
  - {key: banned, rate_limit: {name: banned, unit: minute, requests_per_unit: 0}}
  - {key: slow, rate_limit: {name: slow, unit: minute, requests_per_unit: 1}}
  - {key: unnamed, rate_limit: {unit: minute, requests_per_unit: 1}}
  - key: special
    rate_limit: {name: special, unit: minute, requests_per_unit: 2, replaces: [{name: banned}, {name: nobody}]}
  - key: both
    rate_limit: {unit: minute, requests_per_unit: 4, replaces: [{name: banned}, {name: slow}]}
  - {key: free, rate_limit: {name: free, unlimited: true, replaces: [{name: slow}]}}
  - {key: greedy, rate_limit: {unit: minute, requests_per_unit: 9, replaces: [{name: free}]}}
";

#[test]
fn a_matched_rule_replaces_the_rules_it_names() {
    let rules = rules(REPLACING);
    check(&rules, &["banned=x"], &["banned d_banned_x_"]);
    check(&rules, &["banned=x", "special=y"], &["-", "special d_special_y_"]);
    check(&rules, &["special=y", "banned=x"], &["special d_special_y_", "-"]);
    check(&rules, &["banned=x", "slow=z", "both=y"], &["-", "-", "unnamed d_both_y_"]);
    check(&rules, &["slow=z", "special=y"], &["slow d_slow_z_", "special d_special_y_"]);
    check(&rules, &["unnamed=u", "both=y"], &["unnamed d_unnamed_u_", "unnamed d_both_y_"]);
    // A replacing rule that is not matched has no say.
    check(&rules, &["banned=x", "special=y,deeper=z"], &["banned d_banned_x_", "-"]);
}

#[test]
fn an_unlimited_rule_replaces_and_is_never_replaced() {
    let rules = rules(REPLACING);
    check(&rules, &["slow=z", "free=f"], &["-", "unlimited"]);
    check(&rules, &["free=f", "greedy=g"], &["unlimited", "unnamed d_greedy_g_"]);
}

#[test]
fn a_limit_in_the_request_replaces_the_rules() {
    let rules = rules(REPLACING);
    let brought = with_override("banned=x", 42, Unit::Hour);
    let brought_unmatched = with_override("nothing=here,at=all", 10, Unit::Day);
    let request = request("d", &[brought, brought_unmatched, descriptor("both=y")]);
    let expected = ["override d_banned_x_", "override d_nothing_here_at_all_", "unnamed d_both_y_"];
    assert_eq!(planned(&rules, &request), expected);
}

#[test]
fn a_descriptor_has_its_rule_s_failure_policy_and_a_brought_limit_has_the_default() {
    let text = "
domain: d
defaults: {on_backend_failure: deny}
descriptors:
  - {key: plain, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: own, on_backend_failure: local, rate_limit: {unit: minute, requests_per_unit: 1}}
";
    let file = SourceFile { name: "test.yaml".into(), text: text.into() };
    let options = CompileOptions { on_backend_failure: FailurePolicy::Allow, ..CompileOptions::default() };
    let rules = compile(&[file], options, None).expect("the rules are right");
    let request =
        request("d", &[descriptor("plain=a"), descriptor("own=a"), with_override("own=a", 1, Unit::Day)]);
    let plan = plan(&rules, &request, &KeyWriter::default());
    let policies: Vec<_> = plan.limited().map(|limited| limited.on_failure).collect();
    assert_eq!(policies, [FailurePolicy::Deny, FailurePolicy::Local, FailurePolicy::Allow]);
}

#[test]
fn an_unknown_domain_has_no_limits_whatever_the_caller_brings() {
    let rules = rules(REPLACING);
    let request = request("elsewhere", &[descriptor("banned=x"), with_override("a=b", 1, Unit::Day)]);
    let plan = plan(&rules, &request, &KeyWriter::default());
    assert!(!plan.domain_known);
    assert_eq!(planned(&rules, &request), ["-", "-"]);
}

#[test]
fn brought_limits_are_counted_under_the_descriptors_own_values() {
    let rules = rules(REPLACING);
    let stats_of = |text: &str, count, unit| {
        let request = request("d", &[with_override(text, count, unit)]);
        let plan = plan(&rules, &request, &KeyWriter::default());
        match &plan.items[0] {
            Item::Limited(Limited { stats: StatsRef::Named(path), .. }) => path.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(stats_of("key1=value1,subkey1=something", 10, Unit::Day), "d.key1_value1.subkey1_something");
    assert_eq!(stats_of("key1=value1,subkey1=something", 42, Unit::Hour), "d.key1_value1.subkey1_something");
    assert_eq!(stats_of("key1=value1,subkey1=other", 42, Unit::Hour), "d.key1_value1.subkey1_other");
}

#[test]
fn values_that_share_a_threshold_count_under_their_pattern() {
    let rules = rules(
        "
domain: d
descriptors:
  - {key: files, value: files/*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 1}}
  - key: parent
    descriptors:
      - {key: files, value: nested/*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 1}}
  - key: files
    value: top/*
    share_threshold: true
    descriptors:
      - {key: files, value: nested/*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 1}}
      - {key: own, value: each*, rate_limit: {unit: minute, requests_per_unit: 1}}
",
    );
    check(&rules, &["files=files/a", "files=files/b"], &["unnamed d_files_files/*_"; 2]);
    check(&rules, &["parent=value1,files=nested/b"], &["unnamed d_parent_value1_files_nested/*_"]);
    check(&rules, &["files=top/x,files=nested/y"], &["unnamed d_files_top/*_files_nested/*_"]);
    check(&rules, &["files=top/x,own=each1"], &["unnamed d_files_top/*_own_each1_"]);
}

#[test]
fn a_value_that_reads_like_a_shared_pattern_does_not_share_its_native_key() {
    let shared = rules(
        "
domain: d
descriptors:
  - {key: files, value: files/*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 1}}
",
    );
    let own = rules(
        "
domain: d
descriptors:
  - {key: files, rate_limit: {unit: minute, requests_per_unit: 1}}
",
    );
    let request = request("d", &[descriptor("files=files/*")]);
    let key = |rules: &Rules| {
        plan(rules, &request, &KeyWriter::default()).limited().next().map(|l| l.counters[0].key.clone())
    };
    assert_ne!(key(&shared), key(&own));
}

#[test]
fn every_counter_of_a_domain_with_a_hash_tag_carries_it() {
    let text = "{domain: d, TAGdescriptors: [{key: a, rate_limit: {unit: minute, requests_per_unit: 1}}]}";
    let request = request("d", &[descriptor("a=b"), with_override("c=d", 1, Unit::Day)]);
    let tagged = rules(&text.replace("TAG", "hash_tag: true, "));
    assert_eq!(planned(&tagged, &request), ["unnamed {d}d_a_b_", "override {d}d_c_d_"]);
    let untagged = rules(&text.replace("TAG", ""));
    assert_eq!(planned(&untagged, &request), ["unnamed d_a_b_", "override d_c_d_"]);
}

#[test]
fn enforced_values_stay_the_same_during_a_rollout() {
    let rules = rules(
        "{domain: d, descriptors: [{key: user, enforce_percent: 10, rate_limit: {unit: minute, requests_per_unit: 1}}]}",
    );
    let is_enforced = |user: &usize| {
        let text = format!("user={user}");
        let request = request("d", &[descriptor(&text)]);
        plan(&rules, &request, &KeyWriter::default()).limited().all(|limited| limited.enforced)
    };
    let enforced: Vec<usize> = (0..100).filter(is_enforced).collect();
    // A release that chose others would let go of them.
    assert_eq!(enforced, [15, 26, 36, 52, 61, 85, 86, 90, 95]);
    let share = (0..10_000).filter(is_enforced).count();
    assert!((900..1_100).contains(&share), "{share}");
}

#[test]
fn several_counters_of_a_descriptor_lie_in_one_slot() {
    let rules = rules("{domain: d, descriptors: [{key: user, rate_limits: [1/minute, 2/hour]}]}");
    let keys = |user: &str| -> Vec<String> {
        let request = request("d", &[descriptor(user)]);
        let keys = KeyWriter::new(KeyFormat::Envoyproxy, "p:").for_cluster();
        let plan = plan(&rules, &request, &keys);
        let limited = plan.limited().next().expect("it is limited");
        limited.counters.iter().map(|counter| String::from_utf8_lossy(&counter.key).into_owned()).collect()
    };
    assert_eq!(
        keys("user=a"),
        ["p:{8c77863c099085d6}tg1/f60/1:d,4:user,1:a,", "p:{8c77863c099085d6}tg1/f3600/1:d,4:user,1:a,"]
    );
    assert_ne!(keys("user=a")[0].split('}').next(), keys("user=b")[0].split('}').next());
}

#[test]
fn an_edited_rule_keeps_its_counters() {
    let request = request("d", &[descriptor("user=a")]);
    let keys = |rule: &str, writer: &KeyWriter| -> Vec<String> {
        let rules = rules(&format!("{{domain: d, descriptors: [{{key: user, {rule}}}]}}"));
        let plan = plan(&rules, &request, writer);
        let limited = plan.limited().next().expect("it is limited");
        limited.counters.iter().map(|counter| String::from_utf8_lossy(&counter.key).into_owned()).collect()
    };
    let native = KeyWriter::new(KeyFormat::Native, "");
    let one = keys("rate_limit: 3/day", &native);
    for edited in [
        "rate_limit: 9/day",
        "rate_limits: [3/day]",
        "rate_limits: [3/day, 5/second]",
        "rate_limit: 3/day, penalty: {block: 1h}",
        "rate_limit: 3/day, penalty: {block: 1h, name: other}, layer: user, shadow_mode: true",
        "rate_limit: 3/day, enforce_percent: 50",
    ] {
        assert_eq!(keys(edited, &native)[0], one[0], "{edited}");
    }
    let compatible = KeyWriter::new(KeyFormat::Envoyproxy, "");
    assert_eq!(keys("rate_limit: 3/day, penalty: {block: 1h}", &compatible), ["d_user_a_"]);
    let several = keys("rate_limits: [3/day, 5/second]", &compatible);
    assert_ne!(several[0], several[1], "compatible keys tell no units apart");
}

#[test]
fn lockouts_are_apart_where_they_are_to_be() {
    let rules = rules(
        "
domain: d
descriptors:
  - {key: path, rate_limit: 1/hour, penalty: {block: 1h, name: p}}
  - {key: path, regex: '/v[0-9]+', share_threshold: true, rate_limit: 9/hour, penalty: {block: 1h, name: p}}
  - key: a
    descriptors: [{key: user, rate_limit: 1/hour, penalty: {block: permanent, scope: [user]}}]
  - key: b
    descriptors: [{key: user, rate_limit: 1/hour, penalty: {block: 1m, scope: [user]}}]
  - key: c
    descriptors: [{key: user, rate_limit: 1/hour, penalty: {block: 1m, scope: [user], name: shared}}]
  - key: e
    descriptors: [{key: user, rate_limit: 2/hour, penalty: {block: 1m, scope: [user], name: shared}}]
  - key: f
    descriptors:
      - {key: user, shadow_mode: true, rate_limit: 2/hour, penalty: {block: 1m, scope: [user], name: shared}}
",
    );
    let keys = KeyWriter::new(KeyFormat::Native, "");
    let lockout = |text: &str| {
        let request = request("d", &[descriptor(text)]);
        let plan = plan(&rules, &request, &keys);
        plan.limited().next().and_then(|limited| limited.lockout.clone()).expect("a lockout").key
    };
    assert_ne!(lockout("path=regex(/v[0-9]+)"), lockout("path=/v1"), "a value that reads like a pattern");
    assert_eq!(lockout("path=/v2"), lockout("path=/v1"));
    assert_ne!(lockout("a=,user=u"), lockout("b=,user=u"), "each rule has its own");
    assert_eq!(lockout("c=,user=u"), lockout("e=,user=u"), "unless they have one name");
    assert_ne!(lockout("f=,user=u"), lockout("e=,user=u"), "what is in shadow mode blocks nobody");
    let parts = keys.parse_lockout_key(&lockout("path=/v1")).expect("a lockout");
    assert_eq!(parts.name, b"p");
    assert_eq!(parts.entries, [(b"path".to_vec(), b"regex(/v[0-9]+)".to_vec())]);
    assert_eq!(keys.parse_lockout_key(&lockout("f=,user=u")), None, "nobody to let in");
}

/// Keys of the counters of the only descriptor of `request`.
fn counter_keys(rules: &Rules, overrides: Option<&Overrides>, text: &str, keys: &KeyWriter) -> Vec<String> {
    let overrides = overrides.map(|overrides| overrides.at(Timestamp::default()));
    let request = request("d", &[descriptor(text)]);
    let plan = plan_with(rules, overrides, &request, keys);
    let limited = plan.limited().next().expect("a limit");
    limited.counters.iter().map(|counter| String::from_utf8_lossy(&counter.key).into_owned()).collect()
}

#[test]
fn a_limit_of_an_override_counts_on_from_the_rules_in_every_format_of_keys() {
    let rules = rules(
        "
domain: d
descriptors:
  - {key: one, rate_limit: 5/minute}
  - {key: several, rate_limits: [5/minute, 50/hour]}
  - {key: lockout, rate_limit: 5/minute, penalty: {after: 1, within: 10m, block: 1m}}
  - {key: staged, enforce_percent: 50, rate_limit: 5/minute, penalty: {after: 1, within: 10m, block: 1m}}
  - {key: free, rate_limit: {unlimited: true}}
",
    );
    let native = || KeyWriter::new(KeyFormat::Native, "p:");
    let writers = [
        native(),
        native().for_cluster(),
        KeyWriter::new(KeyFormat::Envoyproxy, "p:"),
        KeyWriter::new(KeyFormat::Envoyproxy, "p:").for_cluster(),
    ];
    let overridden = |text: &str, unit| {
        let (key, value) = text.split_once('=').expect("an entry");
        let mut overrides = Overrides::default();
        overrides.insert(
            b"d",
            Override {
                entries: [(key.as_bytes().into(), value.as_bytes().into())].into(),
                effect: Effect::Limit(Limit::per(9, unit)),
                ends_at: Timestamp::from_secs(60),
            },
        );
        overrides
    };
    for keys in &writers {
        for text in ["one=a", "several=a", "lockout=a", "staged=a", "staged=b", "staged=c"] {
            let own = counter_keys(&rules, None, text, keys);
            let other = counter_keys(&rules, Some(&overridden(text, Unit::Minute)), text, keys);
            assert_eq!(other, own[..1], "{text}");
            let of_day = counter_keys(&rules, Some(&overridden(text, Unit::Day)), text, keys);
            assert!(!own.contains(&of_day[0]), "{text}: another window is another counter: {of_day:?}");
        }
        let unlimited = counter_keys(&rules, Some(&overridden("free=a", Unit::Day)), "free=a", keys);
        assert_eq!(unlimited.len(), 1);
    }
}

#[test]
fn a_limit_of_an_override_counts_its_own_hits_where_the_values_of_a_rule_share_a_counter() {
    let rules = rules(
        "domain: d\ndescriptors: [{key: path, value: /a*, share_threshold: true, rate_limit: 5/minute}]",
    );
    let keys = KeyWriter::new(KeyFormat::Native, "");
    let mut overrides = Overrides::default();
    overrides.insert(
        b"d",
        Override {
            entries: [(b"path"[..].into(), b"/ab"[..].into())].into(),
            effect: Effect::Limit(Limit::per(9, Unit::Minute)),
            ends_at: Timestamp::from_secs(60),
        },
    );
    assert_ne!(
        counter_keys(&rules, Some(&overrides), "path=/ab", &keys),
        counter_keys(&rules, None, "path=/ab", &keys)
    );
}

#[test]
fn a_ticket_is_split_off_and_only_what_holds_places_is_charged() {
    let rules = rules(
        "domain: d\ndescriptors:\n  - key: tenant\n    rate_limits: [5/minute, {concurrency: {max: 2, ttl: 1m}}]\n  \
         - {key: user, rate_limit: 5/minute}\n",
    );
    let text = "0".repeat(32);
    let of_ticket = |entries: &str, ticket: &str| {
        let text = format!("{entries},tollgate.ticket={ticket}");
        let request = request("d", &[descriptor(&text)]);
        let keys = KeyWriter::default();
        let plan = plan(&rules, &request, &keys);
        let limited = plan.limited().next().map(|limited| {
            let keys: Vec<_> = limited.counters.iter().map(|counter| counter.key.clone()).collect();
            (keys, limited.ticket, limited.hits)
        });
        (limited, matches!(plan.items[0], Item::HoldsNothing))
    };
    let key = "tg1/c/1:d,6:tenant,1:a,".into();
    let ticket = TicketEntry::of(text.as_bytes());
    assert_ne!(ticket, TicketEntry::Unknown);
    let expected = (Some((vec![key], ticket, Hits::Refund(0))), false);
    assert_eq!(of_ticket("tenant=a", &text), expected);
    assert_eq!(of_ticket("tenant=a", "-").0.map(|(_, ticket, _)| ticket), Some(TicketEntry::Unknown));
    assert_eq!(of_ticket("user=a", &text), (None, true), "a rate counts the request once, when it begins");
    assert_eq!(of_ticket("other=a", &text), (None, true), "no rule is needed");

    let text = format!("user=a,tollgate.ticket={text}");
    let request = request("d", &[with_override(&text, 1, Unit::Minute)]);
    let plan = plan(&rules, &request, &KeyWriter::default());
    assert!(matches!(plan.items[0], Item::HoldsNothing), "a brought limit is not counted under the ticket");
}
