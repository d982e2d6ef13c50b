use super::{entries, load};
use crate::engine::Unit;
use crate::engine::rules::{NamedLimit, Rules};

/// The reference's own examples, rebuilt from their description.
pub(in crate::engine::rules) const BASIC: &str = "
domain: test-domain
descriptors:
  - key: key1
    value: value1
    descriptors:
      - {key: subkey1, rate_limit: {unit: second, requests_per_unit: 5}}
      - {key: subkey1, value: subvalue1, rate_limit: {unit: second, requests_per_unit: 10}}
  - {key: key2, rate_limit: {unit: minute, requests_per_unit: 20}}
  - {key: key2, value: value2, rate_limit: {unit: minute, requests_per_unit: 30}}
  - {key: key2, value: value3}
  - {key: key3, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: key4, rate_limit: {name: key4_rate_limit, unit: day, requests_per_unit: 1}}
  - {key: key5, value: value5, descriptors: [{key: subkey5, value: sub, rate_limit: {unit: day, requests_per_unit: 15}}]}
  - {key: key6, rate_limit: {unlimited: true}}
";

pub(in crate::engine::rules) const WILDCARD: &str = "
domain: test-domain
descriptors:
  - {key: wild, value: foo*, rate_limit: {unit: minute, requests_per_unit: 20}}
  - {key: mid, value: bar*b, rate_limit: {unit: minute, requests_per_unit: 21}}
  - {key: several, value: foo*bar*baz, rate_limit: {unit: minute, requests_per_unit: 22}}
  - {key: noWild, value: foo, rate_limit: {unit: minute, requests_per_unit: 23}}
  - {key: nestedWild, value: val1, descriptors: [{key: wild, value: goo*, rate_limit: {unit: minute, requests_per_unit: 24}}]}
  - {key: file, value: test*, rate_limit: {unit: minute, requests_per_unit: 100}}
  - {key: file, value: test1, rate_limit: {unit: minute, requests_per_unit: 50}}
";

/// `-`, `unlimited`, or `count/UNIT name`.
fn found(rules: &Rules, request: &str) -> String {
    let domain = rules.domain(b"test-domain").expect("the domain is known");
    let entries = entries(request);
    let Some(found) = domain.find(&entries) else { return "-".to_owned() };
    assert_eq!(found.path.len(), entries.len());
    match found.rule.limits() {
        [] => "unlimited".to_owned(),
        [NamedLimit { limit, name, .. }, ..] => {
            let name = name.as_deref().unwrap_or_default();
            format!("{}/{} {name}", limit.requests_per_unit, limit.unit().map_or("", Unit::name))
                .trim()
                .to_owned()
        }
    }
}

fn check(rules: &Rules, table: &[(&str, &str)]) {
    for (request, expected) in table {
        assert_eq!(found(rules, request), *expected, "{request}");
    }
}

#[test]
fn an_unknown_domain_and_an_empty_descriptor_have_no_limit() {
    let rules = load(BASIC);
    assert!(rules.domain(b"elsewhere").is_none());
    check(&rules, &[("", "-")]);
}

#[test]
fn exact_value_then_pattern_then_bare_key() {
    let table = [
        ("key1=value1,subkey1=something", "5/SECOND"),
        ("key1=value1,subkey1=subvalue1", "10/SECOND"),
        ("key2=something", "20/MINUTE"),
        ("key2=value2", "30/MINUTE"),
        ("key2=value3", "-"),
        ("key3=foo", "1/HOUR"),
        ("key4=foo", "1/DAY key4_rate_limit"),
        ("key6=foo", "unlimited"),
        ("unknown=foo", "-"),
    ];
    check(&load(BASIC), &table);
}

#[test]
fn a_limit_applies_only_at_the_depth_of_the_last_entry() {
    let table = [
        ("key1=something", "-"),
        ("key1=value1", "-"),
        ("key2=value2,subkey=subvalue", "-"),
        ("key5=value5,subkey5=subvalue", "-"),
        ("key5=value5,subkey5=sub", "15/DAY"),
        ("key5=value5", "-"),
        ("key1=value1,subkey1=subvalue1,more=x", "-"),
    ];
    check(&load(BASIC), &table);
}

#[test]
fn patterns_match_and_exact_values_take_precedence() {
    let table = [
        ("wild=foo1", "20/MINUTE"),
        ("wild=foo2", "20/MINUTE"),
        ("wild=bar", "-"),
        ("noWild=foo1", "-"),
        ("noWild=foo", "23/MINUTE"),
        ("mid=barab", "21/MINUTE"),
        ("mid=bar123b", "21/MINUTE"),
        ("mid=barb", "21/MINUTE"),
        ("mid=bara", "-"),
        ("mid=xbarb", "-"),
        ("several=foobarbaz", "22/MINUTE"),
        ("several=foo123bar456baz", "22/MINUTE"),
        ("several=foo123baz", "-"),
        ("several=bar456baz", "-"),
        ("nestedWild=val1,wild=goo2", "24/MINUTE"),
        ("nestedWild=val2,wild=goo2", "-"),
        ("file=test1", "50/MINUTE"),
        ("file=test2", "100/MINUTE"),
    ];
    check(&load(WILDCARD), &table);
}

#[test]
fn the_first_pattern_in_the_file_wins_wherever_its_star_is() {
    let rules = load(
        "
domain: test-domain
descriptors:
  - {key: path, value: /api/*, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: path, value: /api/v1/*, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: path, value: '*.php', rate_limit: {unit: minute, requests_per_unit: 3}}
  - {key: x-*, rate_limit: {unit: minute, requests_per_unit: 4}}
  - {key: x-a, value: b*, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: x-a, value: exact, rate_limit: {unit: minute, requests_per_unit: 6}}
  - {key: x-a, rate_limit: {unit: minute, requests_per_unit: 7}}
  - {key: y, value: b*, rate_limit: {unit: minute, requests_per_unit: 8}}
  - {key: y*, value: '*c', rate_limit: {unit: minute, requests_per_unit: 9}}
  - {key: y, rate_limit: {unit: minute, requests_per_unit: 10}}
",
    );
    let table = [
        ("path=/api/v1/users", "1/MINUTE"),
        ("path=/index.php", "3/MINUTE"),
        ("path=/api/index.php", "1/MINUTE"),
        ("x-a=bcd", "4/MINUTE"),
        ("x-a=other", "4/MINUTE"),
        ("x-a=exact", "6/MINUTE"),
        ("x-b=", "4/MINUTE"),
        ("y=bc", "8/MINUTE"),
        ("y=c", "9/MINUTE"),
        ("y2=abc", "9/MINUTE"),
        ("y2=abd", "-"),
        ("y=d", "10/MINUTE"),
    ];
    check(&rules, &table);
}

#[test]
fn an_empty_value_takes_the_bare_key() {
    let rules = load(
        "
domain: test-domain
descriptors:
  - {key: a, value: b, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: a, value: b*, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: a, rate_limit: {unit: minute, requests_per_unit: 3}}
  - {key: only_value, value: x, rate_limit: {unit: minute, requests_per_unit: 4}}
  - {key: any, value: '*', rate_limit: {unit: minute, requests_per_unit: 5}}
",
    );
    // A star alone takes everything: the text it is held against is `any_`.
    check(&rules, &[("a", "3/MINUTE"), ("only_value", "-"), ("any", "5/MINUTE")]);
}

#[test]
fn keys_and_values_do_not_run_into_each_other() {
    let rules = load(
        "
domain: test-domain
descriptors:
  - {key: a_b, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: a, value: b, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: c_d, value: e*, rate_limit: {unit: minute, requests_per_unit: 3}}
",
    );
    check(&rules, &[("a_b=x", "1/MINUTE"), ("a=b", "2/MINUTE"), ("c=d_e1", "-"), ("c_d=e1", "3/MINUTE")]);
}

#[test]
fn values_that_are_no_text_match_bare_keys_and_patterns() {
    let rules = load(WILDCARD);
    let domain = rules.domain(b"test-domain").expect("the domain is known");
    let matches = |key: &'static [u8], value: &'static [u8]| {
        domain.find(&[crate::engine::Entry { key, value }]).is_some()
    };
    assert!(matches(b"wild", b"foo\xff"));
    assert!(matches(b"mid", b"bar\xff\x00b"));
    assert!(!matches(b"wild", b"\xfffoo"));
}

#[test]
fn lookup_allocates_nothing() {
    let rules = load(&format!(
        "{BASIC}  - key: deep
    descriptors: [{{key: deeper, value: x*, descriptors: [{{key: deepest, rate_limit: {{unit: day, requests_per_unit: 1}}}}]}}]
"
    ));
    let domain = rules.domain(b"test-domain").expect("the domain is known");
    for request in ["deep=a,deeper=xyz,deepest=c", "key1=value1,subkey1=z", "nothing=at,all=here"] {
        let entries = entries(request);
        let allocated = allocation_counter::measure(|| {
            std::hint::black_box(domain.find(std::hint::black_box(&entries)));
        });
        assert_eq!(allocated.count_total, 0, "{request}");
    }
}
