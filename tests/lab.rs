//! `tollgate test`, `tollgate explain` and `tollgate schema` as people run them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tollgate::engine::rules::RULE_FILE;
use tollgate::engine::schema::{Object, json_schema};
use tollgate::lab::suite::TEST_FILE;

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::service::Service;
use crate::tidy::files;

const GUIDE: &str = include_str!("../docs/testing-rules.md");

/// Files in a directory of their own.
pub(crate) fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    dir
}

pub(crate) fn tollgate(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.current_dir(dir).args(args).output().expect("the program runs")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const RULES: &str = "\
domain: shop
descriptors:
  - key: user
    layer: user
    rate_limit: {unit: minute, requests_per_unit: 3, name: per-minute}
    on_deny: {body: {text: 'wait {reset}'}}
  - key: user
    value: vip
    rate_limit: {unlimited: true}
    metadata: {plan: vip}
  - key: login
    rate_limit: 1/minute
    on_backend_failure: deny
    penalty: {name: lockout, block: [5m]}
  - key: upload
    max_hits: 5
    rate_limit: {unit: minute, requests_per_unit: 10, algorithm: token_bucket, burst: 10}
  - key: never
    rate_limit: 1/day
";

/// One test for each expectation that holds, called `ok`, and for each that does not, called by its field.
const EXPECTATIONS: &str = r#"
rules: rules.yaml
tests:
  - {name: ok results, steps: [{ask: {user: a}, times: 5, expect: "+++--"}]}
  - {name: expect, steps: [{ask: {user: a}, times: 5, expect: "++++-"}]}
  - {name: ok counts, steps: [{ask: {user: a}, times: 5, expect: {allowed: 2..3, denied: 2, failed: 0}}]}
  - {name: allowed, steps: [{ask: {user: a}, times: 5, expect: {allowed: 4..5}}]}
  - {name: denied, steps: [{ask: {user: a}, times: 5, expect: {denied: 1}}]}
  - {name: failed, steps: [{ask: {user: a}, times: 5, expect: {failed: 1}}]}
  - {name: ok all, steps: [{ask: {user: "u{n}"}, times: 5, expect: {allowed: true, denied: false}}]}
  - {name: denied all, steps: [{ask: {user: a}, times: 5, expect: {denied: true}}]}
  - {name: ok first, steps: [{ask: {user: a}, every: 1s, times: 5, expect: {first_denied: 4, no_deny_before: 3s}}]}
  - {name: first_denied, steps: [{ask: {user: a}, times: 5, expect: {first_denied: 5}}]}
  - {name: no_deny_before, steps: [{ask: {user: a}, every: 1s, times: 5, expect: {no_deny_before: 3001ms}}]}
  - name: ok denial
    steps:
      - {ask: {user: a}, times: 3}
      - at: 12s
        ask: {user: a}
        expect:
          {denied: true, layer: user, rule: per-minute, limit: 3, remaining: 0, wait: 48s, lockout: false, why: limit,
           matched: "rules.yaml:3", counter: "tg1/f60/…", headers: {retry-after: "48", x-ratelimit-type: fixed_window,
           x-not-there: }, metadata: {failedLayer: user}, body: wait 48, status: 429, unmatched: false}
  - {name: layer, steps: [{ask: {login: a}, times: 1, expect: {layer: user}}]}
  - {name: rule, steps: [{ask: {user: a}, expect: {rule: shop.login}}]}
  - {name: limit, steps: [{ask: {user: a}, expect: {limit: 4}}]}
  - {name: remaining, steps: [{ask: {user: a}, expect: {remaining: 3}}]}
  - {name: wait, steps: [{ask: {user: a}, times: 3}, {ask: {user: a}, expect: {wait: 10s..20s}}]}
  - {name: ok a rule by its path, steps: [{ask: {user: a}, expect: {rule: shop.user, remaining: 2}}]}
  - {name: why, steps: [{ask: {user: a}, times: 3}, {ask: {user: a}, expect: {why: size}}]}
  - {name: matched, steps: [{ask: {user: a}, expect: {matched: "rules.yaml:7"}}]}
  - {name: counter, steps: [{ask: {user: a}, expect: {counter: "tg1/f60"}}]}
  - {name: unmatched, steps: [{ask: {user: a}, expect: {unmatched: true}}]}
  - {name: ok unmatched, steps: [{ask: {color: red}, expect: {unmatched: true, allowed: true}}]}
  - {name: headers, steps: [{ask: {user: a}, expect: {headers: {ratelimit-remaining: "7"}}}]}
  - {name: headers absent, steps: [{ask: {user: a}, expect: {headers: {ratelimit-remaining: }}}]}
  - {name: metadata, steps: [{ask: {user: a}, expect: {metadata: {domain: other}}}]}
  - {name: ok metadata of a rule, steps: [{ask: {user: vip}, expect: {metadata: {metadata: {plan: vip}}}}]}
  - {name: body, steps: [{ask: {user: a}, times: 3}, {ask: {user: a}, expect: {body: go away}}]}
  - {name: status, steps: [{ask: {user: a}, times: 3}, {ask: {user: a}, expect: {status: 503}}]}
  - name: ok lockout
    steps:
      - {ask: {login: ann}, times: 2, expect: "+-"}
      - {at: 4m, ask: {login: ann}, hits: 0, expect: {lockout: true, why: lockout, rule: lockout, wait: 1m}}
      - {at: 5m, ask: {login: ann}, expect: "+"}
  - {name: lockout, steps: [{ask: {login: ann}, times: 3}, {ask: {login: ann}, expect: {lockout: false}}]}
  - {name: ok size, steps: [{ask: {upload: a}, hits: 6, expect: {denied: true, why: size}}]}
  - name: ok store
    steps:
      - {store: down}
      - {ask: {login: ann}, expect: {denied: true, why: store}}
      - {ask: {user: ann}, expect: "!"}
      - {store: up}
      - {ask: {login: ann}, expect: "+"}
  - name: ok hits, refunds and limits of a request
    steps:
      - {ask: {user: a}, hits: 3, expect: {remaining: 0}}
      - {ask: {user: a}, hits: -2, expect: "+"}
      - {ask: {user: a}, hits: 0, expect: {remaining: 2}}
      - descriptors:
          - {entries: [[user, a]], hits: 2}
          - {entries: [[user, a], [x, y]], limit: {requests_per_unit: 1, unit: hour}}
        expect: {allowed: true, remaining: 0}
  - name: ok reload
    steps:
      - {ask: {user: a}, times: 4, expect: "+++-"}
      - {reload: {domain: shop, descriptors: [{key: user, rate_limit: 10/minute}]}, expect: {errors: 0}}
      - {ask: {user: a}, times: 7, expect: "++++++-"}
      - {reload: {domain: shop, descriptors: [{key: user, rate_limit: ten}]}, expect: {errors: 1}}
      - {ask: {user: b}, times: 11, expect: {allowed: 10}}
  - {name: errors, steps: [{reload: {domain: shop, descriptors: [{kye: user}]}}]}
  - {name: ok together, steps: [{together: 3, ask: {upload: ann}, hits: 4, expect: {allowed: 2}}]}
  # The first request is always denied, and its hits count: after both others, they pass.
  - name: allowed in some order
    steps:
      - reload:
          domain: shop
          descriptors:
            - {key: shared, rate_limit: 6/minute}
            - {key: number, value: "1", rate_limit: {unit: day, requests_per_unit: 0}}
      - {together: 3, ask: [{shared: a}, {number: "{n}"}], hits: 3, expect: {allowed: 1}}
"#;

pub(crate) fn report(dir: &Path, args: &[&str]) -> Value {
    let output = tollgate(dir, args);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

/// In a shared store the order of concurrent requests is up to it.
fn check_expectations(report: &Value, has_every_order: bool) {
    let tests = report["files"][0]["tests"].as_array().expect("tests");
    assert!(tests.len() > 35, "{}", tests.len());
    for test in tests {
        let name = test["name"].as_str().expect("a name");
        if name.starts_with("ok ") {
            assert_eq!(test["failure"], Value::Null, "{name}: {:#}", test["failure"]);
            continue;
        }
        if name.ends_with("in some order") && !has_every_order {
            continue;
        }
        let field = name.split(' ').next().expect("a field");
        let mismatches = test["failure"]["mismatches"].as_array();
        let mismatches = mismatches.unwrap_or_else(|| panic!("{name} passes"));
        let fields: Vec<_> =
            mismatches.iter().map(|mismatch| mismatch["field"].as_str().expect("text")).collect();
        assert_eq!(fields, [field], "{name}: {:#}", test["failure"]);
    }
}

#[test]
fn every_expectation_holds_or_fails_its_test() {
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", EXPECTATIONS)]);
    check_expectations(&report(dir.path(), &["test", "--json", "a.test.yaml"]), true);
    assert_eq!(tollgate(dir.path(), &["test", "a.test.yaml"]).status.code(), Some(1));
}

#[tokio::test]
async fn the_same_tests_run_against_redis() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", EXPECTATIONS)]);
    // Twice: the counters of the first run are not those of the second.
    for _ in 0..2 {
        check_expectations(&report(dir.path(), &["test", "--json", "--redis", &url, "a.test.yaml"]), false);
    }
    let output = tollgate(dir.path(), &["test", "--redis", "redis://127.0.0.1:1", "a.test.yaml"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

const MISTAKES: &str = r#"rules: {domain: shop, descriptors: [{key: user, rate_limit: 5/minute}]}
settings: {replicaz: 3}
tests:
  - name: a
    steps:
      - {ask: {user: a}, times: 3, expect: "++"}
      - {ask: {user: a}, times: 3, expect: {allowed: 4}}
      - {ask: {user: a}, expect: {denied: false, wait: 3s}}
      - {ask: {user: a}, expect: {rule: usr, layer: ip}}
      - {ask: {user: a}, expect: {lockout: true}}
      - {ask: {user: a}, expect: {why: store}}
      - {ask: {user: a}, expect: {matched: "a.yaml:1"}}
      - {at: 3s, ask: {user: a}}
      - {at: 1s, ask: {user: a}}
      - {ask: {user: a}, expect: "abc"}
      - {reload: nowhere}
      - {ask: {user: a}, domain: shpo}
      - {ask: {user: a}, expect: {allowed: 9..3}}
      - {together: 2, ask: {user: a}, expect: "+-"}
      - {wait: 1s, expect: "+"}
      - {}
never: [{rule: user.shop}]
"#;

#[test]
fn every_mistake_in_a_test_file_is_reported_with_its_place() {
    let dir = dir(&[("a.test.yaml", MISTAKES)]);
    let output = tollgate(dir.path(), &["test", "a.test.yaml"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for expected in [
        "a.test.yaml:2:12: unknown field 'replicaz' of 'settings': did you mean 'replicas'?",
        "a.test.yaml:6:44: impossible 'expect': 2 results for 3 requests",
        "a.test.yaml:7:54: impossible 'allowed': 4 of 3 requests",
        "a.test.yaml:8:56: impossible 'wait': only a denied request has it",
        "a.test.yaml:9:41: no rule or limit is called 'usr'",
        "a.test.yaml:9:53: no layer is called 'ip': there is none",
        "a.test.yaml:10:44: impossible 'lockout': no rule of the domain has a 'penalty'",
        "a.test.yaml:11:40: impossible 'why': the store is up",
        "a.test.yaml:12:44: impossible 'matched': no rule begins at a.yaml:1",
        "a.test.yaml:14:14: impossible 'at': the steps before it end at 3s",
        "a.test.yaml:15:34: 'expect' must be a text of +",
        "a.test.yaml:16:18: no rule files at 'nowhere'",
        "a.test.yaml:17:9: no domain is called 'shpo': did you mean 'shop'?",
        "a.test.yaml:18:44: impossible 'allowed': the range '9..3' is empty",
        "a.test.yaml:19:47: impossible 'expect': requests that are sent together have no order",
        "a.test.yaml:20:28: impossible 'expect': the step sends no request",
        "a.test.yaml:21:9: the step does nothing",
        "a.test.yaml:22:16: no rule is called 'user.shop'",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
}

#[test]
fn mistakes_in_rules_have_their_own_place_wherever_they_stand() {
    let test = "tests: [{name: a, steps: [{ask: {user: a}}]}]\n";
    let block = format!("rules: |\n  domain: shop\n  descriptors:\n  - kye: user\n{test}");
    let map = format!("rules:\n  domain: shop\n  descriptors:\n  - kye: user\n{test}");
    let dir = dir(&[
        ("rules.yaml", "domain: shop\ndescriptors: [{kye: user}]\n"),
        ("a.test.yaml", &format!("rules: rules.yaml\n{test}")),
        ("b.test.yaml", &block),
        ("c.test.yaml", &map),
    ]);
    for (file, place) in [("a", "rules.yaml:2:16: "), ("b", "b.test.yaml:4:"), ("c", "c.test.yaml:4:5: ")] {
        let output = tollgate(dir.path(), &["test", &format!("{file}.test.yaml")]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(errors.contains(place) && errors.contains("did you mean 'key'"), "{file}: {errors}");
    }
}

#[test]
fn a_failure_shows_the_step_the_timeline_and_the_explanation() {
    let test = "rules: rules.yaml\ntests:\n  - name: wrong\n    steps:\n      - {ask: {user: bob}}\n      \
                - {wait: 2s, ask: {user: ann}, times: 5, every: 1s, expect: \"++++-\"}\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", test)]);
    let output = tollgate(dir.path(), &["test", "--junit", "report.xml", "."]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "FAIL  ./a.test.yaml:3  wrong (5 requests)\n",
        "  step 2 at line 6, request 4, 5s after the start\n",
        "  expect: expected allowed, got denied\n",
        "          0s  +  user=bob\n",
        "          2s  +++-  user=ann every 1s\n              ++++-  expected\n",
        "rules.yaml:3  user  applies\n",
        "rules.yaml:7  user_vip  the value is another one\n",
        "per-minute: 3 per minute, fixed_window; 4 of 3 used, reset in 55s; counter tg1/f60/",
        "one more hit: denied for 55s\n",
        "1 of 1 test failed, 5 requests\n",
    ] {
        assert!(printed.contains(part), "{part}\n{printed}");
    }
    let xml = fs::read_to_string(dir.path().join("report.xml")).expect("a report");
    for part in [
        "<testsuite name=\"./a.test.yaml\" tests=\"1\" failures=\"1\"",
        "<failure message=\"expect: expected allowed, got denied\">",
    ] {
        assert!(xml.contains(part), "{xml}");
    }
}

#[test]
fn a_file_that_cannot_be_run_is_an_error_for_the_ci_system() {
    let good = "rules: rules.yaml\ntests: [{name: one, steps: [{ask: {user: a}, expect: \"+\"}]}]\n";
    let dir = dir(&[
        ("rules.yaml", RULES),
        ("good.test.yaml", good),
        ("bad.test.yaml", "rules: rules.yaml\ntests:\n  - {nam: 'a<b'}\n"),
        ("wrong.yaml", "domain: shop\ndescriptors: [{kye: user}]\n"),
        (
            "wrong.test.yaml",
            "rules: wrong.yaml\ntests: [{name: one, domain: shop, steps: [{ask: {user: a}}]}]\n",
        ),
    ]);
    let output = tollgate(dir.path(), &["test", "--junit", "report.xml", "."]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let xml = fs::read_to_string(dir.path().join("report.xml")).expect("a report");
    for part in [
        "<testsuite name=\"./good.test.yaml\" tests=\"1\" failures=\"0\" errors=\"0\"",
        "<testsuite name=\"./bad.test.yaml\" tests=\"1\" failures=\"0\" errors=\"1\"",
        "<error message=\"./bad.test.yaml:3:",
        "./bad.test.yaml:3:6: unknown field &apos;nam&apos; of a test",
        "<testsuite name=\"wrong.yaml\" tests=\"1\" failures=\"0\" errors=\"1\"",
    ] {
        assert!(xml.replace('\'', "&apos;").contains(part), "{part}\n{xml}");
    }
    assert_eq!(xml.matches("<error ").count(), 2, "one for each file: {xml}");
}

#[test]
fn recorded_results_pass_and_comments_stay() {
    let written = "# Header.\nrules: rules.yaml\ntests:\n  - name: all  # of them\n    steps:\n      \
                   - {ask: {user: ann}, times: 5}   # five\n      - ask: {login: ann}\n        times: 1\n\n      \
                   - {ask: {user: vip}, expect: \"-\"}\n      - {ask: {user: bob}, expect: \"+\"}\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", written)]);
    assert_eq!(tollgate(dir.path(), &["test", "a.test.yaml"]).status.code(), Some(1));
    let output = tollgate(dir.path(), &["test", "--record", "a.test.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let recorded = fs::read_to_string(dir.path().join("a.test.yaml")).expect("text");
    let expected = "# Header.\nrules: rules.yaml\ntests:\n  - name: all  # of them\n    steps:\n      \
                    - {ask: {user: ann}, times: 5, expect: \"+++--\"}   # five\n      - ask: {login: ann}\n        times: 1\n        \
                    expect: {allowed: true, rule: \"shop.login\", limit: 1, remaining: 0}\n\n      \
                    - {ask: {user: vip}, expect: \"+\"}\n      - {ask: {user: bob}, expect: \"+\"}\n";
    assert_eq!(recorded, expected);
    assert_eq!(tollgate(dir.path(), &["test", "a.test.yaml"]).status.code(), Some(0));
    tollgate(dir.path(), &["test", "--record", "a.test.yaml"]);
    assert_eq!(
        fs::read_to_string(dir.path().join("a.test.yaml")).expect("text"),
        expected,
        "nothing is left"
    );
}

#[test]
fn coverage_lists_rules_that_no_test_reaches_and_can_fail() {
    let test = "rules: rules.yaml\nnever: [{rule: never}]\ntests:\n  - {name: one, steps: [{ask: {user: a}}]}\n  \
                - {name: two, steps: [{ask: {user: vip}}, {ask: {login: a}}, {ask: {upload: a}}]}\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", test)]);
    let run = |args: &[&str]| tollgate(dir.path(), &[&["test", "a.test.yaml"], args].concat());
    let output = run(&["--coverage"]);
    let printed = text(&output.stdout);
    assert!(
        printed.contains("coverage: 4 of 5 rules (80 %)\n  not reached: rules.yaml:18  shop.never\n"),
        "{printed}"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(run(&["--min-coverage", "80"]).status.code(), Some(0));
    assert_eq!(run(&["--min-coverage", "81"]).status.code(), Some(1));
    let filtered = text(&run(&["--coverage", "--filter", "one"]).stdout);
    assert!(filtered.contains("1 test passed, 1 request\ncoverage: 1 of 5"), "{filtered}");
    assert_eq!(run(&["--filter", "three"]).status.code(), Some(2));
    assert_eq!(tollgate(dir.path(), &["test", "nowhere.test.yaml"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_watched_test_runs_again_when_its_rules_change() {
    let test =
        "rules: rules.yaml\ntests: [{name: one, steps: [{ask: {user: a}, times: 4, expect: \"+++-\"}]}]\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", test)]);
    let out = dir.path().join("out");
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .current_dir(dir.path())
        .args(["test", "--watch", "a.test.yaml"])
        .stdout(Stdio::from(fs::File::create(&out).expect("a file")))
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let printed = || fs::read_to_string(&out).unwrap_or_default();
    eventually("the tests have passed", async || printed().contains("1 test passed")).await;
    fs::write(dir.path().join("rules.yaml"), RULES.replace("requests_per_unit: 3", "requests_per_unit: 2"))
        .expect("written");
    eventually("the tests have failed", async || printed().contains("1 of 1 test failed")).await;
    watching.kill().expect("it runs");
    watching.wait().expect("it has ended");
}

#[tokio::test]
async fn an_explanation_online_has_the_levels_and_counts_nothing() {
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    let (grpc, admin) = (format!("127.0.0.1:{}", service.grpc), format!("127.0.0.1:{}", service.admin));
    let dir = dir(&[("rules.yaml", RULES)]);
    let query = |hits: &str| {
        tollgate(dir.path(), &["query", "--address", &grpc, "-d", "shop", "login=ann", "--hits", hits])
    };
    assert_eq!(query("1").status.code(), Some(0));
    for _ in 0..3 {
        let explained = report(
            dir.path(),
            &["explain", "--json", "--address", &admin, "-d", "shop", "login=ann", "user=x"],
        );
        let [login, user] = [0, 1].map(|index| &explained["descriptors"][index]);
        assert_eq!(explained["next"], "denied");
        assert_eq!(login["rule"]["name"], "shop.login");
        assert_eq!(login["limits"][0]["used"], 1);
        assert_eq!(login["next"]["verdict"], "denied");
        assert_eq!(login["next"]["locked_out"], false, "a peek counts no strike");
        assert_eq!((&user["limits"][0]["used"], &user["next"]["remaining"]), (&0.into(), &3.into()));
    }
    let explain =
        |address: &str| tollgate(dir.path(), &["explain", "--address", address, "-d", "shop", "user=vip"]);
    let shown = text(&explain(&format!("http://{admin}/")).stdout);
    assert!(shown.contains("unlimited by shop.user_vip"), "{shown}");
    for address in ["127.0.0.1:1", &grpc] {
        let wrong = explain(address);
        assert_eq!(wrong.status.code(), Some(1));
        let error = text(&wrong.stderr);
        assert!(error.contains("admin listener") && error.contains("set --address"), "{error}");
    }
}

#[test]
fn an_explanation_offline_names_candidates_reasons_and_counters() {
    let rules = "domain: shop\ndescriptors:\n  - key: ip\n    normalize: [trim, {ip_prefix: {v4: 24}}]\n    rate_limit: 9/day\n  \
                 - key: ip\n    cidr: 10.0.0.0/8\n    rate_limit: 5/minute\n  - key: ip\n    regex: '10[.].*'\n    rate_limit: 1/day\n  \
                 - key: ip\n    value: fe80*\n    descriptors: [{key: path, rate_limit: 1/day}]\n";
    let dir = dir(&[("rules.yaml", rules)]);
    let output = tollgate(
        dir.path(),
        &["explain", "--rules", "rules.yaml", "-d", "shop", "ip= 10.1.2.3", "ip=fe80x", "color=red"],
    );
    let expected = "\
domain shop
descriptor ip= 10.1.2.3
  ip= 10.1.2.3  normalized to 10.1.2.0/24
    rules.yaml:6  ip_cidr(10.0.0.0/8)  applies
    rules.yaml:9  ip_regex(10[.].*)  matches the value, but a network that contains the address has precedence
    rules.yaml:3  ip  matches the value, but a network that contains the address has precedence
    rules.yaml:12  ip_fe80*  the value does not match the pattern
  limited by shop.ip_cidr(10.0.0.0/8) (rules.yaml:6), charge always
    5 per minute, fixed_window; counter tg1/f60/4:shop,2:ip,11:10.1.2.0/24,
descriptor ip=fe80x
  ip=fe80x
    rules.yaml:12  ip_fe80*  applies
    rules.yaml:3  ip  matches the value, but a pattern with '*' has precedence
    rules.yaml:6  ip_cidr(10.0.0.0/8)  the value is no IP address
    rules.yaml:9  ip_regex(10[.].*)  the whole value does not match the regex
  no limit: the rule for 'ip' has no limit of its own at this depth
descriptor color=red
  color=red
  no limit: no rule here is for the key 'color'
";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

/// Names of the fields of `object` and of everything below it.
fn fields(object: &'static Object) -> Vec<&'static str> {
    let schema = json_schema(object, "");
    let definitions = schema["$defs"].as_object().expect("definitions").clone();
    let of_object = |definition: &Value| {
        definition["properties"].as_object().expect("properties").keys().cloned().collect::<Vec<_>>()
    };
    let names: Vec<String> = definitions.values().flat_map(of_object).collect();
    names.into_iter().map(|name| &*name.leak()).collect()
}

#[test]
fn stored_schemas_are_those_of_the_program_and_examples_refer_to_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (kind, object) in [("rules", &RULE_FILE), ("test", &TEST_FILE)] {
        let printed = text(&tollgate(root, &["schema", kind]).stdout);
        let stored = fs::read_to_string(root.join(format!("config/schema/{kind}.json"))).unwrap_or_default();
        assert!(printed == stored, "run: tollgate schema {kind} > config/schema/{kind}.json");
        assert!(fields(object).len() > 20);
    }
    for file in files(&root.join("config"), "yaml") {
        let kind = if file.to_string_lossy().ends_with(".test.yaml") { "test" } else { "rules" };
        let up =
            "../".repeat(file.strip_prefix(root.join("config")).expect("below").components().count() - 1);
        let line = format!("# yaml-language-server: $schema={up}schema/{kind}.json\n");
        let begins = fs::read_to_string(&file).expect("text").starts_with(&line);
        assert!(begins, "{} does not begin with: {line}", file.display());
    }
}

#[test]
fn every_field_of_a_test_file_is_in_the_guide() {
    let rules = fields(&RULE_FILE);
    for field in fields(&TEST_FILE).into_iter().filter(|field| !rules.contains(field)) {
        assert!(GUIDE.contains(&format!("`{field}`")), "docs/testing-rules.md does not describe {field}");
    }
}

#[test]
fn the_presets_pass_their_tests_which_reach_every_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = tollgate(root, &["test", "--min-coverage", "100", "config"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    for rules in files(&root.join("config"), "yaml") {
        let name = rules.to_string_lossy().into_owned();
        let test = name
            .strip_suffix(".yaml")
            .filter(|stem| !stem.ends_with(".test"))
            .map(|stem| format!("{stem}.test.yaml"));
        assert!(test.is_none_or(|test| Path::new(&test).exists()), "{name} has no tests");
    }
}

#[test]
fn annotations_for_github_are_one_line_each_and_escaped() {
    let good = "domain: shop\ndescriptors:\n- {key: user, rate_limit: 0/minute}\n- {key: plan, rate_limit: 1/month}\n";
    let bad = "domain: 100%\ndescriptors:\n  - kye: user\n";
    let dir = dir(&[("good.yaml", good), ("a,b/bad.yaml", bad)]);
    let check = |path: &str| {
        let output = tollgate(dir.path(), &["check", "--format", "github", path]);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, annotations, stderr) = check("good.yaml");
    assert_eq!((code, &*stderr), (Some(0), ""));
    let lines: Vec<_> = annotations.lines().collect();
    assert_eq!(lines.len(), 2, "{annotations}");
    assert!(lines[0].starts_with("::warning file=good.yaml,line=3,col="), "{annotations}");
    assert!(lines[1].starts_with("::notice file=good.yaml,line=4,col="), "{annotations}");
    let (code, annotations, _) = check("a,b/bad.yaml");
    assert_eq!(code, Some(1), "{annotations}");
    let first = annotations.lines().next().expect("an error");
    assert!(first.starts_with("::error file=a%2Cb/bad.yaml,line=3,col=5::"), "{annotations}");
    assert!(annotations.lines().all(|line| line.starts_with("::error ")), "{annotations}");
}

#[test]
fn tests_end_requests_in_flight() {
    let rules = "domain: shop\ndescriptors: [{key: tenant, concurrency: {max: 2, ttl: 1m}}]\n";
    let tests = "
rules: rules.yaml
tests:
  - name: ok
    steps:
      - {ask: {tenant: a}, times: 3, expect: '++-'}
      - {release: {tenant: a}}
      - {ask: {tenant: a}, times: 2, expect: '+-'}
      - {release: {tenant: a}, times: 2}
      - {ask: {tenant: a}, hits: 2, expect: '+'}
      - {wait: 59s, ask: {tenant: a}, hits: 0, expect: {denied: true, wait: 1s}}
      - {wait: 1s, ask: {tenant: a}, times: 2, expect: '++'}
      - {ask: {tenant: b}, hits: 3, expect: {denied: true, why: size}}
  - name: none in flight
    steps:
      - {ask: {tenant: a}}
      - {release: {tenant: b}}
";
    let dir = dir(&[("rules.yaml", rules), ("a.test.yaml", tests)]);
    let output = tollgate(dir.path(), &["test", "--filter", "ok", "."]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let output = tollgate(dir.path(), &["test", "--filter", "none", "."]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("release: expected a request with these entries"), "{shown}");
}
