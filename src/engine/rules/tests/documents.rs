//! Fields of a file that apply to all of its rules, and their inheritance.

use super::file;
use super::loading::{check, with_fields, with_limit};
use crate::engine::FailurePolicy;
use crate::engine::rules::{CompileOptions, Domain, compile};

const LIMIT: &str = "rate_limit: {unit: day, requests_per_unit: 1}";

/// The policy of each rule in `text`, as the dump shows it.
fn policies(text: &str, on_backend_failure: FailurePolicy) -> Vec<String> {
    let options = CompileOptions { on_backend_failure, ..CompileOptions::default() };
    let rules =
        compile(&[file("rules.yaml", text)], options, None).unwrap_or_else(|errors| panic!("{errors}"));
    let dump = rules.dump_json();
    let rules = dump["rules"].as_array().expect("a list").iter();
    rules.map(|rule| rule["on_backend_failure"].as_str().expect("a policy").to_owned()).collect()
}

#[test]
fn failure_policies_are_inherited_down_the_tree_and_overridden_below() {
    let with_defaults = |defaults: &str| {
        format!(
            "
domain: d
{defaults}
descriptors:
  - {{key: plain, {LIMIT}}}
  - {{key: own, on_backend_failure: error, {LIMIT}}}
  - key: above
    on_backend_failure: deny
    descriptors:
      - {{key: below, {LIMIT}}}
      - {{key: other, on_backend_failure: local, {LIMIT}}}
"
        )
    };
    use FailurePolicy::{Allow, Deny, Error, Local};
    for (defaults, everywhere, expected) in [
        ("", Error, "error"),
        ("", Allow, "allow"),
        ("", Deny, "deny"),
        ("", Local, "local"),
        ("defaults: {charge: if_allowed}", Allow, "allow"),
        ("defaults: {on_backend_failure: allow}", Deny, "allow"),
        ("defaults: {on_backend_failure: error, charge: always}", Deny, "error"),
    ] {
        let found = policies(&with_defaults(defaults), everywhere);
        assert_eq!(found, [expected, "error", "deny", "local"], "{defaults} {everywhere:?}");
    }
}

#[test]
fn a_failure_policy_is_one_of_four_and_belongs_to_a_descriptor() {
    check(
        &with_fields("    on_backend_failure: ignore\n"),
        "4:25 error checking config: 'on_backend_failure' must be error, allow, deny or local, not 'ignore'",
    );
    check(
        "domain: d\ndefaults: {on_backend_failure: true}\n",
        "2:32 error checking config: 'on_backend_failure' must be error, allow, deny or local, not 'true'",
    );
    check(
        &with_fields("    on_backend_failures: deny\n"),
        "4:5 config error, unknown key 'on_backend_failures': did you mean 'on_backend_failure'?",
    );
    check(
        &with_limit("unit: day, requests_per_unit: 1, on_backend_failure: deny"),
        "4:51 config error, 'on_backend_failure' does not belong here: write it in a descriptor",
    );
    check(
        "domain: d\non_backend_failure: deny\n",
        "2:1 config error, 'on_backend_failure' does not belong here: write it in a descriptor",
    );
}

#[test]
fn one_file_of_a_domain_that_asks_for_a_hash_tag_is_enough() {
    let tagged = |texts: &[&str]| {
        let files: Vec<_> = texts.iter().map(|text| file("rules.yaml", text)).collect();
        let joined = CompileOptions { merge_domains: true, ..CompileOptions::default() };
        let rules = compile(&files, joined, None).unwrap_or_else(|errors| panic!("{errors}"));
        ["d", "e"].map(|name| rules.domain(name.as_bytes()).is_some_and(Domain::hash_tag))
    };
    assert_eq!(tagged(&["domain: d"]), [false, false]);
    assert_eq!(tagged(&["domain: d\nhash_tag: true", "domain: e"]), [true, false]);
    assert_eq!(tagged(&["domain: d\nhash_tag: true", "domain: d\nhash_tag: false"]), [true, false]);
    assert_eq!(tagged(&["domain: d", "domain: d\nhash_tag: true"]), [true, false]);
    assert_eq!(tagged(&["domain: d\n---\ndomain: e\nhash_tag: true"]), [false, true]);
}

#[test]
fn a_hash_tag_is_true_or_false_and_belongs_to_the_file() {
    check(
        "domain: d\nhash_tag: d\n",
        "2:11 error checking config: 'hash_tag' must be true or false, not 'd'",
    );
    check(
        &with_fields("    hash_tag: true\n"),
        "4:5 config error, 'hash_tag' does not belong here: write it at the top of the file",
    );
    check("domain: d\nhashtag: true\n", "2:1 config error, unknown key 'hashtag': did you mean 'hash_tag'?");
}
