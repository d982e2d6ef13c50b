use super::lookup::{BASIC, WILDCARD};
use super::{entries, load};
use crate::engine::hit_counts::HitCounts;
use crate::engine::rules::{CompileOptions, Rules, compile};

/// The name under which a request is counted.
fn counted_as(rules: &Rules, request: &str) -> String {
    let domain = rules.domains().next().expect("there is a domain");
    let entries = entries(request);
    let found = domain.find(&entries).expect("a rule applies");
    let Some(counts) = &found.rule.counts else {
        return found.stats_path(domain.name(), &entries).to_string();
    };
    let mut named = rules.counts().filter(|(_, other)| std::ptr::eq(*other, &**counts));
    named.next().expect("fixed names are listed").0.to_string()
}

fn check(text: &str, table: &[(&str, &str)]) {
    let rules = load(text);
    for (request, expected) in table {
        assert_eq!(counted_as(&rules, request), *expected, "{request}");
    }
}

#[test]
fn a_value_is_named_where_the_rule_names_it() {
    let table = [
        ("key1=value1,subkey1=something", "test-domain.key1_value1.subkey1"),
        ("key1=value1,subkey1=subvalue1", "test-domain.key1_value1.subkey1_subvalue1"),
        ("key2=anything", "test-domain.key2"),
        ("key2=value2", "test-domain.key2_value2"),
    ];
    check(BASIC, &table);
    let table = [
        ("wild=foo1", "test-domain.wild_foo*"),
        ("nestedWild=val1,wild=goo2", "test-domain.nestedWild_val1.wild_goo*"),
        ("several=fooXbarYbaz", "test-domain.several_foo*bar*baz"),
    ];
    check(WILDCARD, &table);
}

#[test]
fn detailed_metric_of_the_last_level_names_every_value() {
    let text = "
domain: nested
descriptors:
  - {key: key_1, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}
  - key: key_2
    descriptors:
      - {key: key_3, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}
      - {key: key_4, rate_limit: {unit: minute, requests_per_unit: 1}}
  - key: key_5
    detailed_metric: true
    descriptors:
      - {key: key_6, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: key-1, rate_limit: {unit: minute, requests_per_unit: 1}}
";
    let table = [
        ("key_1=some-value-for-key-1", "nested.key_1_some-value-for-key-1"),
        ("key_1", "nested.key_1"),
        (
            "key_2=key-2-value,key_3=requested-key3-value",
            "nested.key_2_key-2-value.key_3_requested-key3-value",
        ),
        ("key_2=key-2-value,key_4=x", "nested.key_2.key_4"),
        ("key_5=x,key_6=y", "nested.key_5.key_6"),
        ("key-1=value-1", "nested.key-1"),
    ];
    check(text, &table);
}

#[test]
fn value_to_metric_names_the_value_of_its_own_level() {
    let text = "
domain: domain
descriptors:
  - key: route
    value_to_metric: true
    descriptors:
      - key: http_method
        value_to_metric: true
        descriptors: [{key: subject_id, rate_limit: {unit: minute, requests_per_unit: 60}}]
  - {key: action, value: read*, value_to_metric: true, rate_limit: {unit: minute, requests_per_unit: 60}}
  - key: wild
    value: foo*
    descriptors:
      - {key: other, value: bar, value_to_metric: true, descriptors: [{key: limit, rate_limit: {unit: day, requests_per_unit: 1}}]}
  - key: k1
    descriptors:
      - {key: k2, value_to_metric: true, descriptors: [{key: k3, rate_limit: {unit: day, requests_per_unit: 1}}]}
  - key: both
    value_to_metric: true
    descriptors: [{key: leaf, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}]
";
    let table = [
        ("route=draw,http_method=GET,subject_id=123", "domain.route_draw.http_method_GET.subject_id"),
        ("route=,http_method=GET,subject_id=123", "domain.route.http_method_GET.subject_id"),
        ("action=readfile", "domain.action_readfile"),
        ("wild=foo1,other=bar,limit=X", "domain.wild_foo*.other_bar.limit"),
        ("k1=X,k2=Y,k3=Z", "domain.k1.k2_Y.k3"),
        ("both=a,leaf=b", "domain.both_a.leaf_b"),
    ];
    check(text, &table);
}

#[test]
fn a_shared_pattern_stays_a_pattern_in_metrics() {
    let text = "
domain: d
descriptors:
  - {key: files, value: files/*, share_threshold: true, value_to_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - key: route
    value: api/*
    share_threshold: true
    value_to_metric: true
    descriptors: [{key: method, rate_limit: {unit: day, requests_per_unit: 1}}]
  - key: service
    value: svc/*
    share_threshold: true
    descriptors: [{key: endpoint, value: get, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}]
  - key: files
    value: top/*
    share_threshold: true
    descriptors: [{key: files, value: nested/*, share_threshold: true, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}]
  - key: path
    value: path/*
    share_threshold: true
    descriptors:
      - key: file
        value: file/*
        share_threshold: false
        descriptors: [{key: type, rate_limit: {unit: day, requests_per_unit: 1}}]
  - {key: tenant, value: t*prod, share_threshold: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: tenant, value: tprod, rate_limit: {unit: day, requests_per_unit: 1}}
";
    let table = [
        ("files=files/a.pdf", "d.files_files/*"),
        ("route=api/v1,method=GET", "d.route_api/*.method"),
        ("service=svc/a,endpoint=get", "d.service_svc/*.endpoint_get"),
        ("files=top/x,files=nested/y", "d.files_top/*.files_nested/*"),
        ("path=path/a,file=file/b,type=c", "d.path_path/*.file_file/*.type"),
        ("tenant=t1prod", "d.tenant_t*prod"),
        ("tenant=tprod", "d.tenant_tprod"),
    ];
    check(text, &table);
}

#[test]
fn counts_are_kept_while_a_rule_of_that_name_exists() {
    let total = |rules: &Rules, name: &str| {
        rules.counts().find(|(path, _)| path.to_string() == name).map(|(_, counts)| counts.sum().total_hits)
    };
    let before = load(
        "{domain: d, descriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}, {key: b, rate_limit: {unit: day, requests_per_unit: 1}}]}",
    );
    let a_hit = HitCounts { total_hits: 3, ..HitCounts::default() };
    before.counts().for_each(|(_, counts)| counts.add(&a_hit));
    let changed = super::file(
        "x",
        "{domain: d, descriptors: [{key: a, rate_limit: {unit: hour, requests_per_unit: 9}}, {key: c, rate_limit: {unit: day, requests_per_unit: 1}}]}",
    );
    let after = compile(&[changed], CompileOptions::default(), Some(&before)).expect("the rules are right");
    assert_eq!((total(&after, "d.a"), total(&after, "d.b"), total(&after, "d.c")), (Some(3), None, Some(0)));
}
