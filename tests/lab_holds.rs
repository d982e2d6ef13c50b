//! Steps of `tollgate test` that hold, settle, extend and release.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lab::{dir, report, text, tollgate};
use crate::support::redis::Redis;

const RULES: &str = "\
domain: ai
prices:
  small: {input: 0.25, cached: 0.025, output: 2}
  large: {input: 3, output: 15}
descriptors:
  - key: user
    layer: user
    rate_limit: {unit: day, requests_per_unit: 1000, name: tokens}
    reserve: {amount: 400, ttl: 1m}
  - key: team
    rate_limit: {unit: day, requests_per_unit: 5000, name: team}
    reserve: {amount: 300, ttl: 2m, on_expiry: charge, on_look: false}
  - key: spend
    rate_limit: {unit: day, requests_per_unit: 100000, name: money}
    reserve: {amount: 1000, ttl: 1m, count: cost}
  - key: tenant
    concurrency: {max: 2, ttl: 1m, name: in-flight}
  - key: path
    rate_limit: 5/day
";

/// One test for each expectation that holds, called `ok`, and for each that does not, called by its field.
const EXPECTATIONS: &str = r#"
rules: rules.yaml
tests:
  - name: ok a budget from its reservation to its end
    steps:
      - reserve: {user: ann}
        amount: 600
        ttl: 90s
        as: call
        expect: {allowed: true, amount: 600, used: 0, held: 600, holds: 1, remaining: 400, limit: 1000, rule: tokens,
                 layer: user, expires_in: 90s, status: 200, matched: "rules.yaml:6"}
      - {reserve: {user: ann}, amount: 401, expect: {denied: true, why: held, held: 600, wait: 90s}}
      - {reserve: {user: ann}, amount: 1001, expect: {denied: true, why: size}}
      - {settle: call, amount: 250, final: false, expect: {continue: true, charged: 250, used: 250, held: 350}}
      - {at: 30s, extend: call, ttl: 2m, expect: {allowed: true, expires_in: 2m, held: 350, used: 250}}
      - {at: 149s, look: {user: ann}, expect: {used: 250, held: 350, holds: 1, remaining: 400}}
      - {settle: call, amount: 320, times: 3, expect: {allowed: true, charged: 320, returned: 280, used: 320, held: 0}}
      - {settle: call, amount: 999, expect: {first: false, late: false, charged: 320, used: 320}}
      - {extend: call, expect: "-"}
      - {release: call, expect: {denied: true, used: 320, held: 0}}
  - name: ok holds end by themselves
    steps:
      - {reserve: [{user: ann}, {team: a}], as: call, expect: {limits: {tokens: {held: 400}, ai.team: {held: 300}}}}
      - {at: 59s, look: {user: ann}, expect: {held: 400}}
      - {at: 1m, look: {user: ann}, expect: {used: 0, held: 0, holds: 0, remaining: 1000}}
      - {at: 2m, look: {team: a}, expect: {used: 300, held: 0}}
      - settle: call
        amount: 500
        expect: {late: true, limits: {tokens: {used: 500, charged: 500}, team: {used: 500, charged: 500}}}
  - name: ok amounts of each descriptor
    steps:
      - reserve: [{user: ann}, {team: a}]
        amount: [700, 900]
        as: call
        expect: {limits: {tokens: {amount: 700, remaining: 300}, team: {amount: 900, remaining: 4100}}}
      - {settle: call, amount: [10, 20], expect: {limits: {tokens: {used: 10}, team: {used: 20, returned: 880}}}}
  - name: ok all or nothing
    steps:
      - {reserve: {team: a}, amount: 5000}
      - {reserve: [{user: ann}, {team: a}], as: denied, expect: {denied: true, rule: team}}
      - {look: {user: ann}, expect: {held: 0}}
  - name: ok prices
    steps:
      - {reserve: [{spend: a}, {user: ann}], as: call}
      - settle: call
        usage: {model: small, input: 500, cached: 400, output: 250}
        expect: {limits: {money: {charged: 635, used: 635}, tokens: {charged: 1150, used: 1150}}}
      - {reserve: {spend: a}, as: more}
      - {settle: more, usage: {model: other, input: 1, reasoning: 2}, expect: {charged: 33, used: 668, returned: 967}}
  - name: ok an id names a reservation
    steps:
      - {reserve: {user: ann}, amount: 600, id: req-1, as: call, expect: {amount: 600, held: 600, holds: 1}}
      - at: 10s
        reserve: {user: ann}
        amount: 900
        id: req-1
        as: repeated
        expect: {allowed: true, amount: 600, held: 600, holds: 1, expires_in: 50s}
      - {reserve: {user: ann}, amount: 600, id: req-2, expect: {denied: true, why: held}}
      - {reserve: {user: bob}, amount: 600, id: req-1, expect: {held: 600, holds: 1}}
      - {settle: repeated, amount: 100, expect: {first: true, charged: 100, used: 100, held: 0}}
      - {settle: call, amount: 100, expect: {first: false, used: 100}}
      - {reserve: {user: ann}, amount: 600, id: req-1, expect: {allowed: true, used: 100, held: 0}}
  - name: ok ids of many requests
    steps:
      - {reserve: {user: ann}, amount: 300, times: 4, id: "req-{n%2}", expect: "++++"}
      - {look: {user: ann}, expect: {held: 600, holds: 2}}
      - {release: {user: ann}, times: 2, expect: "++"}
      - {look: {user: ann}, expect: {held: 0}}
  - name: ok an extension raises what is held
    steps:
      - {reserve: {user: ann}, amount: 300, ttl: 90s, as: call}
      - {extend: call, amount: 700, ttl: 30s, expect: {allowed: true, amount: 700, held: 700, remaining: 300,
                                                       used: 0, holds: 1, rule: tokens, expires_in: 90s}}
      - {extend: call, amount: 100, expect: {amount: 700, held: 700}}
      - {settle: call, amount: 250, final: false}
      - {extend: call, amount: 800, expect: {amount: 550, used: 250, held: 550}}
      - {reserve: {user: ann}, amount: 200, ttl: 1h, as: other}
      - {extend: call, amount: 801, expect: {denied: true, why: held, rule: tokens, wait: 1h}}
      - {extend: call, amount: 1251, expect: {denied: true, why: size}}
      - {look: {user: ann}, expect: {used: 250, held: 750, holds: 2}}
      - {settle: call, amount: 800}
      - {extend: call, amount: 900, expect: {denied: true, used: 800, held: 200}}
  - name: ok an extension of several budgets raises all or none
    steps:
      - {reserve: [{user: ann}, {team: a}], amount: [100, 200], as: call}
      - {extend: call, amount: [1001, 300], expect: {denied: true, why: size, rule: tokens}}
      - {look: [{user: ann}, {team: a}], expect: {limits: {tokens: {held: 100}, team: {held: 200}}}}
      - {extend: call, amount: [0, 300], expect: {allowed: true, limits: {team: {held: 300, amount: 300}}}}
      - {look: [{user: ann}, {team: a}], expect: {limits: {tokens: {held: 100}, team: {held: 300}}}}
  - name: ok labels of many requests
    steps:
      - {reserve: {user: ann}, amount: 100, times: 11, as: "call-{n}", expect: "++++++++++-"}
      - {settle: "call-{n}", amount: 30, times: 9, expect: "+++++++++"}
      - {look: {user: ann}, expect: {used: 270, held: 100, holds: 1}}
      - {release: call-10, expect: {allowed: true, used: 270, held: 0}}
  - name: ok concurrent reservations
    steps: [{reserve: {user: "u{n%2}"}, together: 6, expect: {allowed: 4}}]
  - name: ok places
    steps:
      - {acquire: {tenant: a}, weight: 2, ttl: 30s, as: job, expect: {allowed: true, remaining: 0, expires_in: 30s}}
      - {acquire: {tenant: a}, expect: {denied: true, wait: 30s, rule: in-flight, limit: 2}}
      - {acquire: {tenant: a}, weight: 3, expect: {denied: true, why: size}}
      - {at: 20s, renew: job, expect: {allowed: true, expires_in: 1m}}
      - {at: 40s, renew: job, ttl: 1s, expect: {allowed: true, expires_in: 40s, remaining: 0}}
      - {at: 79s, look: {tenant: a}, expect: {remaining: 0}}
      - {at: 80s, renew: job, expect: "-"}
      - {acquire: {tenant: a}, as: other, expect: "+"}
      - {release: job, expect: {denied: true, remaining: 1}}
      - {release: other, expect: {allowed: true, remaining: 2}}
      - {release: other, expect: "-"}
  - name: ok settling a request gives its places back
    steps:
      - {reserve: [{user: ann}, {tenant: a}], as: call, expect: {limits: {in-flight: {remaining: 1}}}}
      - {settle: call, amount: 5, final: false}
      - {look: {tenant: a}, expect: {remaining: 1}}
      - {settle: call, amount: 5}
      - {look: {tenant: a}, expect: {remaining: 2}}
  - name: ok the way of Envoy
    steps:
      - {ask: {user: ann}, hits: 0, as: call, expect: {allowed: true, amount: 400, held: 400}}
      - {settle: call, amount: 170, expect: {used: 170, held: 0}}
      # Without a ticket, hits settle the oldest hold.
      - {ask: {user: ann}, hits: 0}
      - {ask: {user: ann}, hits: 30, expect: {charged: 30, returned: 370, late: false, used: 200, held: 0}}
      - {ask: {user: ann, tollgate.ticket: "-"}, hits: 40, expect: {charged: 40, late: true, used: 240}}
  - name: ok the oldest without a label ends
    steps:
      - {reserve: {user: ann}, amount: 100}
      - {reserve: {user: ann}, amount: 200}
      - {release: {user: ann}, expect: {allowed: true, held: 200}}
  - name: ok reloaded rules
    steps:
      - {reserve: {user: ann}, as: call}
      - {reload: {domain: ai, descriptors: [{key: user, rate_limit: 9/day}]}}
      - {settle: call, amount: 5, expect: "-"}
  - name: ok the store fails
    steps:
      - {reserve: {user: ann}, as: call}
      - {store: down}
      - {reserve: {user: ann}, expect: "!"}
      - {settle: call, amount: 5, expect: {failed: 1}}
      - {extend: call, expect: "!"}
      - {store: up}
      - {settle: call, amount: 5, expect: "+"}
  - {name: amount, steps: [{reserve: {user: ann}, expect: {amount: 399}}]}
  - {name: used, steps: [{reserve: {user: ann}, expect: {used: 400}}]}
  - {name: held, steps: [{reserve: {user: ann}, expect: {held: 0..399}}]}
  - {name: holds, steps: [{look: {user: ann}, expect: {holds: 1}}]}
  - {name: limits, steps: [{reserve: [{user: ann}, {team: a}], expect: {limits: {tokens: {held: 400}, team: {held: 1}}}}]}
  - {name: limits of another rule, steps: [{reserve: {user: ann}, expect: {limits: {team: {held: 300}}}}]}
  - {name: charged, steps: [{reserve: {user: ann}, as: a}, {settle: a, amount: 5, expect: {charged: 4}}]}
  - {name: returned, steps: [{reserve: {user: ann}, as: a}, {settle: a, amount: 5, expect: {returned: 5}}]}
  - {name: first, steps: [{reserve: {user: ann}, as: a}, {settle: a, amount: 5, expect: {first: false}}]}
  - {name: late, steps: [{reserve: {user: ann}, as: a}, {settle: a, amount: 5, expect: {late: true}}]}
  - {name: continue, steps: [{reserve: {user: ann}, as: a}, {settle: a, amount: 1001, final: false, expect: {continue: true}}]}
  - {name: expires_in, steps: [{reserve: {user: ann}, expect: {expires_in: 59s}}]}
  - {name: expires_in renewed, steps: [{acquire: {tenant: a}, as: a}, {renew: a, expect: {expires_in: 2m}}]}
  - {name: why, steps: [{reserve: {user: ann}, times: 2}, {reserve: {user: ann}, expect: {why: limit}}]}
  - {name: expect, steps: [{acquire: {tenant: a}, as: a}, {release: a, expect: "-"}]}
  - {name: allowed, steps: [{acquire: {tenant: a}, as: a}, {release: a, times: 2, expect: {allowed: 2}}]}
  - {name: settle, steps: [{reserve: {user: ann}, amount: 1001, as: a}, {settle: a, amount: 5}]}
  - {name: extend, steps: [{ask: {color: red}, as: a}, {extend: a}]}
  - {name: renew, steps: [{acquire: {tenant: a}, weight: 3, as: a}, {renew: a}]}
  - {name: release, steps: [{acquire: {tenant: a}, as: a}, {release: {tenant: a}}]}
  - {name: amount extended, steps: [{reserve: {user: ann}, as: a}, {extend: a, amount: 500, expect: {amount: 400}}]}
  - {name: why extended, steps: [{reserve: {user: ann}, as: a}, {extend: a, amount: 1001, expect: {why: held}}]}
  - name: wait extended
    steps:
      - {reserve: {user: ann}, as: a}
      - {reserve: {user: ann}}
      - {extend: a, amount: 601, expect: {wait: 59s}}
  # Calls of which the test expects nothing, and that do nothing.
  - {name: settle without a budget, steps: [{reserve: {user: ann}, as: a}, {reload: plain.yaml}, {settle: a, amount: 5}]}
  - {name: settle without an answer, steps: [{reserve: {user: ann}, as: a}, {store: down}, {settle: a, amount: 5}]}
  - {name: extend after the end, steps: [{reserve: {user: ann}, as: a}, {at: 1m, extend: a}]}
  - {name: extend too much, steps: [{reserve: {user: ann}, as: a}, {extend: a, amount: 1001}]}
  - {name: renew after the end, steps: [{acquire: {tenant: a}, as: a}, {at: 1m, renew: a}]}
  - {name: release again, steps: [{acquire: {tenant: a}, as: a}, {release: a, times: 2}]}
  - {name: release of the oldest after the end, steps: [{acquire: {tenant: a}}, {at: 1m, release: {tenant: a}}]}
never: [{rule: path}]
"#;

/// Rules of the same domain that hold nothing.
const PLAIN: &str = "domain: ai\ndescriptors: [{key: user, rate_limit: 9/day}]\n";

fn check_expectations(report: &Value) {
    let tests = report["files"][0]["tests"].as_array().expect("tests");
    assert!(tests.len() >= 30, "{}", tests.len());
    for test in tests {
        let name = test["name"].as_str().expect("a name");
        if name.starts_with("ok ") {
            assert_eq!(test["failure"], Value::Null, "{name}: {:#}", test["failure"]);
            continue;
        }
        let mismatches = test["failure"]["mismatches"].as_array();
        let mismatches = mismatches.unwrap_or_else(|| panic!("{name} passes"));
        let fields: Vec<_> = mismatches.iter().map(|mismatch| mismatch["field"].as_str()).collect();
        assert_eq!(fields, [name.split(' ').next()], "{name}: {:#}", test["failure"]);
    }
}

#[test]
fn every_expectation_of_a_hold_is_met_or_fails_its_test() {
    let dir = dir(&[("rules.yaml", RULES), ("plain.yaml", PLAIN), ("a.test.yaml", EXPECTATIONS)]);
    check_expectations(&report(dir.path(), &["test", "--json", "a.test.yaml"]));
}

#[test]
fn a_call_that_does_nothing_says_why() {
    let test = |steps: &str| {
        let file = format!("rules: rules.yaml\ntests: [{{name: one, steps: [{steps}]}}]\n");
        let dir = dir(&[("rules.yaml", RULES), ("plain.yaml", PLAIN), ("a.test.yaml", &file)]);
        let output = tollgate(dir.path(), &["test", "a.test.yaml"]);
        (output.status.code(), text(&output.stdout))
    };
    let reserve = "{reserve: {user: ann}, as: call}";
    for (steps, call, expected) in [
        (
            "{at: 1m, CALL}",
            "extend: call",
            "nothing that is still held; if that is meant, write expect: \"-\"",
        ),
        (
            "{reload: plain.yaml}, {CALL}",
            "settle: call, amount: 5",
            "no rule with 'reserve' for it; if that is meant",
        ),
        ("{CALL}", "extend: call, amount: 1001", "an amount that does not fit; if that is meant"),
        (
            "{store: down}, {CALL}",
            "settle: call, amount: 5",
            "no answer of the store; if that is meant, write expect: \"!\"",
        ),
    ] {
        let (code, printed) = test(&format!("{reserve}, {}", steps.replace("CALL", call)));
        let name = call.split(':').next().expect("a name");
        assert_eq!(code, Some(1), "{printed}");
        let expected = format!("  {name}: expected success, got {expected}");
        assert!(printed.contains(&expected), "{expected}\n{printed}");
        let mark = if steps.contains("down") { "!" } else { "-" };
        let meant = format!("{call}, expect: \"{mark}\"");
        let (code, printed) = test(&format!("{reserve}, {}", steps.replace("CALL", &meant)));
        assert_eq!(code, Some(0), "{printed}");
    }
}

#[test]
fn a_budget_has_only_so_many_holds() {
    let test = "
rules: {domain: ai, descriptors: [{key: team, rate_limit: 99999/day, reserve: {amount: 1}}]}
tests:
  - name: one
    steps:
      - {reserve: {team: a}, times: 10000, expect: {allowed: true}}
      - {reserve: {team: a}, expect: {denied: true, why: too_many_holds, holds: 10000}}
";
    let dir = dir(&[("a.test.yaml", test)]);
    let output = tollgate(dir.path(), &["test", "a.test.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[tokio::test]
async fn holds_are_the_same_in_redis() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let dir = dir(&[("rules.yaml", RULES), ("plain.yaml", PLAIN), ("a.test.yaml", EXPECTATIONS)]);
    check_expectations(&report(dir.path(), &["test", "--json", "--redis", &url, "a.test.yaml"]));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = tollgate(root, &["test", "--redis", &url, "config/presets/llm.test.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Steps with a mistake at `^`, and its error.
const MISTAKES: &[(&str, &str)] = &[
    // Labels.
    ("{settle: ^cal, amount: 5}", "no request before this step is called 'cal': did you mean 'call'?"),
    (
        "{extend: ^later}",
        "no request before this step is called 'later': write 'as' in the step of a request before",
    ),
    ("{renew: '^call-{n}', times: 2}", "no request before this step is called 'call-1'"),
    ("{release: '^many-{n}', times: 4}", "no request before this step is called 'many-4'"),
    (
        "{settle: ^{user: ann}, amount: 5}",
        "'settle' must be the label of a request, the 'as' of its step, not a map",
    ),
    ("{extend: ^[call]}", "'extend' must be the label of a request, the 'as' of its step, not a list"),
    ("{renew: ^null}", "'renew' must be the label of a request, the 'as' of its step, not nothing"),
    ("{reserve: {user: ann}, as: ^call}", "another request is called 'call', at line 5"),
    (
        "{reserve: {user: ann}, times: 2, as: ^twice}",
        "2 requests have one label: write a place for their number",
    ),
    ("{reserve: {user: ann}, times: 4, as: '^by-{n%2}'}", "another request is called 'by-1'"),
    ("{acquire: {tenant: a}, as: ^''}", "'as' must be a label such as call"),
    ("{acquire: {tenant: a}, times: 20000, as: '^t{n}'}", "a test has at most 10000 labels"),
    ("{release: call, times: ^20000}", "'times' must be a whole number from 1 to 10000, not '20000'"),
    ("{release: call, domain: ^ai}", "'domain' beside a label: it is that of the request with the label"),
    // Amounts.
    ("{reserve: {user: ann}, amount: ^0}", "'amount' must be a whole number from 1 to 4294967295, not '0'"),
    ("{reserve: {user: ann}, amount: ^-5}", "'amount' must be a whole number from 1"),
    ("{reserve: {user: ann}, amount: ^9007199254740992}", "'amount' must be a whole number from 1"),
    ("{reserve: {user: ann}, amount: ^[1, 2]}", "'amount' has 2 numbers for 1 descriptor"),
    ("{settle: both, amount: ^[1]}", "'amount' has 1 number for 2 descriptors"),
    ("{settle: both, amount: [1, ^x]}", "'amount' must be a whole number from 0 to 4294967295, not 'x'"),
    (
        "{settle: ^call}",
        "'settle' without 'amount' or 'usage': write what is counted, or 'release' in its place",
    ),
    ("{settle: call, amount: 5, usage: ^{output: 5}}", "'amount' and 'usage' in one step: write one of them"),
    ("{settle: call, usage: {^outputs: 5}}", "unknown field 'outputs' of 'usage': did you mean 'output'?"),
    ("{settle: call, usage: {output: ^many}}", "'output' must be a whole number from 0"),
    ("{settle: call, usage: ^5}", "'usage' must be a map, not '5'"),
    ("{extend: call, amount: ^0}", "'amount' must be a whole number from 1 to 4294967295, not '0'"),
    ("{extend: both, amount: ^[1]}", "'amount' has 1 number for 2 descriptors"),
    ("{extend: both, amount: [0, ^x]}", "'amount' must be a whole number from 0 to 4294967295, not 'x'"),
    ("{settle: call, amount: 5, final: ^no way}", "'final' must be true or false, not 'no way'"),
    ("{acquire: {tenant: a}, weight: ^-1}", "'weight' must be a whole number from 0"),
    // Names.
    ("{reserve: {user: ann}, id: ^''}", "'id' must be a name of 1 to 1024 bytes, not ''"),
    ("{reserve: {user: ann}, id: ^[a]}", "'id' must be a name of 1 to 1024 bytes, not a list"),
    ("{acquire: {tenant: a}, id: ^one}", "'id' is for steps with 'reserve'"),
    // Times.
    ("{reserve: {user: ann}, ttl: ^1500ms}", "'ttl' must be whole seconds such as 90s or 2m, at least 1s"),
    ("{acquire: {tenant: a}, ttl: ^0}", "'ttl' must be whole seconds"),
    ("{extend: call, ttl: ^soon}", "'ttl' must be a time such as 300ms, 30s, 1h30m or 2d, not 'soon'"),
    ("{renew: call, ttl: ^999ms}", "'ttl' must be whole seconds"),
    // Fields that do not fit.
    ("{ask: {user: ann}, amount: ^5}", "'amount' is for steps with 'reserve', 'settle' or 'extend'"),
    ("{reserve: {user: ann}, hits: ^5}", "'hits' is for steps with 'ask' or 'descriptors'"),
    ("{reserve: {user: ann}, weight: ^5}", "'weight' is for steps with 'acquire'"),
    ("{reserve: {user: ann}, usage: ^{output: 5}}", "'usage' is for steps with 'settle'"),
    ("{acquire: {tenant: a}, amount: ^5}", "'amount' is for steps with 'reserve', 'settle' or 'extend'"),
    (
        "{settle: call, amount: 5, ttl: ^5s}",
        "'ttl' is for steps with 'reserve', 'acquire', 'extend' or 'renew'",
    ),
    (
        "{settle: call, amount: 5, every: ^5s}",
        "'every' is for steps with 'ask', 'descriptors', 'reserve' or 'acquire'",
    ),
    (
        "{settle: call, amount: 5, as: ^b}",
        "'as' is for steps with 'ask', 'descriptors', 'reserve' or 'acquire'",
    ),
    ("{renew: call, amount: ^5}", "'amount' is for steps with"),
    ("{renew: call, together: ^2}", "'together' is for steps with"),
    ("{release: call, final: ^false}", "'final' is for steps with 'settle'"),
    ("{look: {user: ann}, times: ^2}", "'times' is for steps with"),
    ("{store: up, as: ^b}", "'as' is for steps with"),
    (
        "{reserve: {user: ann}, settle: ^call, amount: 5}",
        "'reserve' and 'settle' in one step: write two steps",
    ),
    // Requests.
    ("{reserve: ^[]}", "'reserve' has no descriptor: write {KEY: VALUE}"),
    ("{acquire: ^ann}", "'acquire' must be a map, not 'ann'"),
    ("^{reserve: {a: b}, domain: plain}", "impossible 'reserve': no rule of the domain has a 'reserve'"),
    ("^{acquire: {a: b}, domain: plain}", "impossible 'acquire': no rule of the domain has a 'concurrency'"),
    ("^{look: {a: b}, domain: plane}", "no domain is called 'plane': did you mean 'plain'?"),
    // Expectations.
    ("{reserve: {user: ann}, expect: ^'++'}", "impossible 'expect': 2 results for 1 request"),
    ("{settle: call, amount: 5, times: 2, expect: ^'+'}", "impossible 'expect': 1 results for 2 requests"),
    ("{look: {user: ann}, expect: ^'+'}", "impossible 'expect': a look has no result; write a map"),
    (
        "{look: {user: ann}, expect: {allowed: ^1}}",
        "impossible 'allowed': a look counts nothing, and has no result",
    ),
    ("{reserve: {user: ann}, expect: {charged: ^5}}", "impossible 'charged': it is for steps with 'settle'"),
    (
        "{reserve: {user: ann}, expect: {continue: ^true}}",
        "impossible 'continue': it is for steps with 'settle' and",
    ),
    (
        "{reserve: {user: ann}, expect: {denied: true, amount: ^5}}",
        "impossible 'amount': only a request that passes",
    ),
    (
        "{acquire: {tenant: a}, expect: {allowed: 0, expires_in: ^5s}}",
        "impossible 'expires_in': only a request that",
    ),
    (
        "{settle: call, amount: 5, expect: {wait: ^5s}}",
        "impossible 'wait': it is for steps with 'ask', 'reserve' or",
    ),
    ("{settle: call, amount: 5, expect: {amount: ^5}}", "impossible 'amount': it is for steps with 'ask'"),
    (
        "{settle: call, amount: 5, expect: {continue: ^true}}",
        "impossible 'continue': the request has ended; write 'fin",
    ),
    (
        "{settle: call, amount: 5, final: false, expect: {first: ^true}}",
        "impossible 'first': the request goes on after",
    ),
    ("{extend: call, expect: {amount: ^5}}", "impossible 'amount': the extension has no 'amount'"),
    ("{extend: call, expect: {denied: true, wait: ^5s}}", "impossible 'wait': the extension has no 'amount'"),
    (
        "{extend: call, amount: 5, expect: {why: ^too_many_holds}}",
        "impossible 'why': it is for steps with 'ask', 'reserve' or",
    ),
    ("{extend: call, expect: {late: ^true}}", "impossible 'late': it is for steps with 'settle'"),
    ("{release: call, expect: {expires_in: ^5s}}", "impossible 'expires_in': it is for steps with"),
    ("{renew: call, expect: {errors: ^1}}", "impossible 'errors': it is for steps with 'reload'"),
    (
        "{look: {user: ann}, expect: {limits: {^tokes: {used: 5}}}}",
        "no rule or limit is called 'tokes': did you mean",
    ),
    (
        "{look: {user: ann}, expect: {limits: {tokens: {^uses: 5}}}}",
        "unknown field 'uses' of a limit: did you mean",
    ),
    ("{look: {user: ann}, expect: {used: ^9..3}}", "impossible 'used': the range '9..3' is empty"),
    (
        "{look: {a: b}, domain: plain, expect: {held: ^5}}",
        "impossible 'held': no rule of the domain has a 'reserve'",
    ),
    (
        "{reserve: {user: ann}, expect: {why: ^helt}}",
        "'why' must be limit, lockout, size, held, too_many_holds, store",
    ),
];

#[test]
fn every_mistake_in_a_step_with_holds_is_reported_with_its_place() {
    let mut file =
        "rules:\n  - rules.yaml\n  - {domain: plain, descriptors: [{key: a, rate_limit: 5/day}]}\n\
                    tests: [{name: a, domain: ai, steps: [\n"
            .to_owned();
    file += "{reserve: {user: ann}, as: call},\n{reserve: [{user: ann}, {team: a}], as: both},\n";
    file += "{reserve: {user: ann}, times: 3, as: 'many-{n}'},\n";
    let mut expected = Vec::new();
    for (step, message) in MISTAKES {
        let line = file.lines().count() + 1;
        let column = step.find('^').expect("a place") + 1;
        // The place of a quoted text is its quote.
        let column = if step[..column - 1].ends_with('\'') { column - 1 } else { column };
        expected.push(format!("a.test.yaml:{line}:{column}: {message}"));
        file += &format!("{},\n", step.replace('^', ""));
    }
    file += "]}]\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", &file)]);
    let output = tollgate(dir.path(), &["test", "--json", "a.test.yaml"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for expected in &expected {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
    let found = errors.lines().filter(|line| line.starts_with("a.test.yaml:")).count();
    assert_eq!(found, expected.len(), "{errors}");
}

#[test]
fn a_failure_of_a_settlement_shows_the_calls_before_it() {
    let test = "rules: rules.yaml\ntests:\n  - name: wrong\n    steps:\n      \
                - {reserve: {user: ann}, amount: 500, as: call, expect: \"+\"}\n      \
                - {at: 10s, settle: call, amount: 100, final: false}\n      \
                - {at: 20s, extend: call, ttl: 30s}\n      \
                - {at: 30s, settle: call, amount: 320, expect: {used: 320, returned: 200}}\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", test)]);
    let output = tollgate(dir.path(), &["test", "--junit", "report.xml", "a.test.yaml"]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for part in [
        "FAIL  a.test.yaml:3  wrong (1 request)\n",
        "  step 4 at line 8, request 1, 30s after the start\n",
        "  returned: expected 200, got 180\n",
        "          0s  +  reserve user=ann amount 500 as call\n",
        "         10s  +  settle call amount 100 so far\n",
        "         20s  +  extend call for 30s\n",
        "         30s  +  settle call amount 320\n",
        "    descriptor user=ann\n",
        "        rules.yaml:6  user  applies\n",
    ] {
        assert!(printed.contains(part), "{part}\n{printed}");
    }
    let xml = fs::read_to_string(dir.path().join("report.xml")).expect("a report");
    assert!(xml.contains("<failure message=\"returned: expected 200, got 180\">"), "{xml}");
    let json = report(dir.path(), &["test", "--json", "a.test.yaml"]);
    let timeline = &json["files"][0]["tests"][0]["failure"]["timeline"];
    assert_eq!(timeline[1]["step"], "settle call amount 100 so far");
    assert_eq!(timeline[1]["results"], "+");
}

#[test]
fn recorded_results_of_holds_pass() {
    let written = "rules: rules.yaml\ntests:\n  - name: all\n    steps:\n      \
                   - {reserve: {user: ann}, amount: 600, as: call}\n      - {reserve: {user: ann}, amount: 600}\n      \
                   - {settle: call, amount: 100, final: false}\n      - {extend: call}\n      - {look: {user: ann}}\n      \
                   - {settle: call, amount: 320, expect: \"-\"}\n      - {look: {color: red}}\n      \
                   - {acquire: {tenant: a}, times: 3, as: \"t{n}\"}\n      - {release: \"t{n}\", times: 2}\n      \
                   - {renew: t1}\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", written)]);
    let output = tollgate(dir.path(), &["test", "--record", "a.test.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let recorded = fs::read_to_string(dir.path().join("a.test.yaml")).expect("text");
    for expected in [
        "as: call, expect: {allowed: true, rule: \"tokens\", layer: \"user\", limit: 1000, remaining: 400, used: 0, \
         held: 600, amount: 600}}\n",
        "amount: 600, expect: {denied: true, rule: \"tokens\", layer: \"user\", limit: 1000, remaining: 0, used: 0, \
         held: 600, wait: 60s, why: held}}\n",
        "final: false, expect: {allowed: true, rule: \"tokens\", layer: \"user\", limit: 1000, remaining: 400, \
         used: 100, held: 500, charged: 100, returned: 0, continue: true}}\n",
        "- {extend: call, expect: {allowed: true, rule: \"tokens\", layer: \"user\", limit: 1000, remaining: 400, \
         used: 100, held: 500}}\n",
        "- {look: {user: ann}, expect: {rule: \"tokens\", layer: \"user\", limit: 1000, remaining: 400, used: 100, \
         held: 500}}\n",
        "amount: 320, expect: {allowed: true, rule: \"tokens\", layer: \"user\", limit: 1000, remaining: 680, \
         used: 320, held: 0, charged: 320, returned: 280}}\n",
        "- {look: {color: red}, expect: {unmatched: true}}\n",
        "times: 3, as: \"t{n}\", expect: \"++-\"}\n",
        "- {release: \"t{n}\", times: 2, expect: \"++\"}\n",
        "- {renew: t1, expect: {denied: true, rule: \"in-flight\", limit: 2, remaining: 2}}\n",
    ] {
        assert!(recorded.contains(expected), "{expected}\n{recorded}");
    }
    let output = tollgate(dir.path(), &["test", "a.test.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn holds_reach_their_rules() {
    let test = "rules: rules.yaml\nnever: [{rule: team}]\ntests:\n  - name: one\n    steps:\n      \
                - {reserve: {user: ann}, as: call}\n      - {settle: call, amount: 5}\n      - {acquire: {tenant: a}}\n";
    let dir = dir(&[("rules.yaml", RULES), ("a.test.yaml", test)]);
    let output = tollgate(dir.path(), &["test", "--coverage", "a.test.yaml"]);
    let printed = text(&output.stdout);
    assert!(printed.contains("1 test passed, 2 requests\ncoverage: 2 of 5 rules (40 %)\n"), "{printed}");
    assert!(printed.contains("not reached: rules.yaml:10  ai.team\n"), "{printed}");
    let never = test.replace("acquire: {tenant: a}", "reserve: {team: a}");
    fs::write(dir.path().join("a.test.yaml"), never).expect("written");
    let output = tollgate(dir.path(), &["test", "a.test.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(printed.contains("never: expected no request reaches team, got this one does"), "{printed}");
}
