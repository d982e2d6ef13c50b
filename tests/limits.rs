//! Features of rules beyond envoyproxy/ratelimit, from rules to answers, on every store.

use tollgate::engine::Modes;

use crate::support::scenario::check;

#[tokio::test]
async fn a_request_must_fit_all_limits_of_its_rule_and_the_binding_one_is_reported() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - key: user
    rate_limits:
      - {requests_per_unit: 2, unit: second, algorithm: token_bucket, burst: 3}
      - 4/minute
      - {requests_per_unit: 5, unit: hour, algorithm: sliding_log}
";
    let script = "
@3600
user=a*2 -> OK | OK 1 in 1
user=a*2 -> OVER | OVER 0 in 0.5     # the bucket has room for one: nothing is counted anywhere
user=a -> OK | OK 0 in 1.5
user=b*6 -> OVER | OVER 0 in 3600    # more than any of them ever lets pass
@3602
user=a -> OK | OK 0 in 58            # four this minute
user=a -> OVER | OVER 0 in 58
@3660
user=a -> OK | OK 0 in 3600          # five this hour
user=a -> OVER | OVER 0 in 3540      # the first one leaves the log
user=a*0 -> OVER | OVER 0 in 3540
user=a*-1 -> OK | OK 1 in 3542
user=a -> OK | OK 0 in 3600
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_client_at_twice_its_rate_gets_its_rate_unless_denied_hits_count() {
    const SECS: u64 = 3;
    let script: String =
        (0..SECS * 20).map(|n| format!("@{}\nuser=a -> ?\n", 3_600.0 + 0.05 * n as f64)).collect();
    for (algorithm, most) in [("token_bucket", SECS * 10 + 10), ("sliding_window", 35), ("sliding_log", 30)] {
        let rules = format!(
            "{{domain: test-domain, descriptors: [{{key: user, CHARGE rate_limit: {{unit: second, \
             requests_per_unit: 10, algorithm: {algorithm}}}}}]}}"
        );
        let passed = check(&rules.replace("CHARGE", ""), Modes::default(), &script).await.within_limit;
        assert!((SECS * 10 - 3..=most).contains(&passed), "{algorithm}: {passed} passed");
        let starved = check(&rules.replace("CHARGE", "charge: always,"), Modes::default(), &script).await;
        assert!(starved.within_limit < SECS * 10 - 3, "{algorithm}: {} passed", starved.within_limit);
    }
}

#[tokio::test]
async fn several_limits_that_always_count_do_so_together() {
    let rules = "
domain: test-domain
descriptors:
  - {key: user, rate_limits: [3/minute, 4/hour]}
";
    let script = "
@3600
user=a*3 -> OK | OK 0 in 60
user=a -> OVER | OVER 0 in 60
@3660
user=a -> OVER | OVER 0 in 3540
user=b -> OK | OK 2 in 60
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_request_passes_if_all_of_its_layers_do_and_names_the_one_that_denies() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - {key: user, layer: user, rate_limit: 3/minute}
  - {key: ip, layer: ip, rate_limit: 2/minute}
  - key: path
    layer: endpoint
    descriptors:
      - {key: method, value: POST, rate_limit: 4/minute}
      - {key: method, value: GET, layer: reads, rate_limit: 1/minute}
";
    let script = "
@1200
user=a; ip=i; path=p,method=POST -> OK | OK 2, OK 1, OK 3
user=a; ip=i; path=p,method=POST -> OK | OK 1, OK 0, OK 2
user=a; ip=i; path=p,method=POST -> OVER by ip | OK 1, OVER 0, OK 2
user=a; ip=j; path=p,method=POST -> OK | OK 0, OK 1, OK 1
user=a; ip=j; path=p,method=POST -> OVER by user | OVER 0, OK 1, OK 1
user=b; ip=k; path=p,method=POST -> OK | OK 2, OK 1, OK 0
user=c; ip=l; path=p,method=POST -> OVER by endpoint | OK 3, OK 2, OVER 0
path=p,method=GET -> OK | OK 0
path=p,method=GET -> OVER by reads | OVER 0
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn disabled_limits_have_no_effect() {
    let rules = "
domain: test-domain
descriptors:
  - {key: user, rate_limit: 9/minute}
  - {key: user, value: vip, enabled: false, rate_limit: 1/minute, descriptors: [{key: path, rate_limit: 1/minute}]}
  - {key: ip, enabled: false, rate_limit: 1/minute}
";
    let script = "
user=vip -> OK | OK 8
user=vip,path=x -> OK | OK -
ip=i -> OK | OK -
";
    check(rules, Modes::default(), script).await;
    let off = format!("enabled: false\n{}", rules.trim());
    check(&off, Modes::default(), "user=vip -> OK | OK -\nuser=b -> OK | OK -").await;
}

#[tokio::test]
async fn limits_not_yet_enforced_count_and_pass() {
    let rules = |percent: &str| {
        format!(
            "
domain: test-domain
descriptors:
  - {{key: user, enforce_percent: {percent}, rate_limit: 1/minute}}
"
        )
    };
    let asked = |then: &str| -> String {
        (0..50).map(|user| format!("user={user} -> OK | OK 0\nuser={user} -> {then}\n")).collect()
    };
    let nobody = check(&rules("0"), Modes::default(), &asked("OK | OK 0")).await;
    assert_eq!((nobody.over_limit, nobody.shadow_mode), (50, 50));
    let everybody = check(&rules("100"), Modes::default(), &asked("OVER | OVER 0")).await;
    assert_eq!((everybody.over_limit, everybody.shadow_mode), (50, 0));
}

const LOCKOUT: &str = "
domain: test-domain
descriptors:
  - key: login
    descriptors:
      - key: account
        rate_limit: 2/minute
        penalty: {block: [1m, 5m, 15m, permanent], forget: 24h, name: login_lockout, scope: [account]}
";

#[tokio::test]
async fn repeated_denials_block_for_longer() {
    let script = "
@1200
login=,account=a*2 -> OK | OK 0 in 60
login=,account=a*0 -> OK | OK 0 in 60
login=,account=a -> OVER | OVER 0 in 60       # the first block, a minute
login=,account=b -> OK | OK 1 in 60
@1259
login=,account=a -> OVER | OVER 0 in 1
login=,account=a*0 -> OVER | OVER 0 in 1      # a peek counts no strike
login=,account=a*-1 -> OK | OK 0 in 1         # nor does a refund
@1260
login=,account=a*0 -> OK | OK 2 in 60
login=,account=a*3 -> OVER | OVER 0 in 300    # the second one
@1559
login=,account=a -> OVER | OVER 0 in 1
@1560
login=,account=a -> OK | OK 1 in 60
login=,account=a*2 -> OVER | OVER 0 in 900
@2460
login=,account=a*3 -> OVER | OVER 0 in 86400  # for good
@9000000
login=,account=a -> OVER | OVER 0 in 86400
login=,account=b -> OK | OK 1 in 60
";
    check(LOCKOUT, Modes::default(), script).await;
}

#[tokio::test]
async fn a_clean_day_takes_the_schedule_back_to_its_first_step() {
    let script = "
@1200
login=,account=a*3 -> OVER | OVER 0 in 60
@87659
login=,account=a*3 -> OVER | OVER 0 in 300
@174360
login=,account=a*3 -> OVER | OVER 0 in 60
";
    check(LOCKOUT, Modes::default(), script).await;
}

#[tokio::test]
async fn several_strikes_within_a_time_begin_a_block_and_further_requests_may_extend_it() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - key: ip
    rate_limit: 1/second
    penalty: {after: 3, within: 10s, block: 30s, extend: true}
  - {key: other, rate_limit: 0/second}
";
    let script = "
@1200
ip=a -> OK | OK 0 in 1
ip=a; ip=a -> OVER | OVER 0 in 1, OVER 0 in 1      # one strike for a request
ip=a -> OVER | OVER 0 in 1
@1210
ip=a -> OK | OK 0 in 1
ip=a -> OVER | OVER 0 in 1                         # the first two are forgotten
ip=a -> OVER | OVER 0 in 1
@1211
ip=a; other=x -> OVER | OK 1 in 1, OVER 0 in 1     # what another one denies is no strike
ip=a*2 -> OVER | OVER 0 in 30
@1221
ip=a*0 -> OVER | OVER 0 in 20
ip=a -> OVER | OVER 0 in 30
@1250
ip=a*0 -> OVER | OVER 0 in 1
@1251
ip=a -> OK | OK 0 in 1
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_lockout_applies_to_every_rule_with_its_name_and_scope() {
    let rules = "
domain: test-domain
descriptors:
  - key: login
    descriptors: [{key: account, rate_limit: 1/minute, penalty: {block: 5m, scope: [account], name: lockout}}]
  - key: reset
    descriptors: [{key: account, rate_limit: 9/minute, penalty: {block: 5m, scope: [account], name: lockout}}]
  - key: search
    descriptors: [{key: account, rate_limit: 9/minute, penalty: {block: 5m, scope: [account]}}]
";
    let script = "
@1200
login=,account=a*2 -> OVER | OVER 0 in 300
reset=,account=a -> OVER | OVER 0 in 300
reset=,account=b -> OK | OK 8 in 60
search=,account=a -> OK | OK 8 in 60
login=,account=a; search=,account=a -> OVER | OVER 0 in 300, OK 7 in 60
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_shadow_rule_records_strikes_and_blocks_no_client() {
    let rules = LOCKOUT.replace("rate_limit: 2/minute", "shadow_mode: true\n        rate_limit: 2/minute");
    let script = "
@1200
login=,account=a*3 -> OK | OK 0 in 60
@1230
login=,account=a -> OK | OK 0 in 30
";
    let counted = check(&rules, Modes::default(), script).await;
    assert_eq!((counted.over_limit, counted.shadow_mode), (4, 4));
}

#[tokio::test]
async fn a_block_applies_to_all_limits_of_a_rule_and_the_longest_wait_is_reported() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - {key: user, rate_limits: [2/second, 3/hour], penalty: {block: 10s}}
";
    let script = "
@3600
user=a*2 -> OK | OK 0 in 1
user=a -> OVER | OVER 0 in 10
@3609
user=a -> OVER | OVER 0 in 1
@3610
user=a -> OK | OK 0 in 3590
user=a -> OVER | OVER 0 in 3590     # blocked for ten seconds, and over its hour for longer
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_shadow_rule_locks_no_client_out_of_a_rule_that_shares_its_lockout() {
    let rules = "
domain: test-domain
descriptors:
  - key: tried
    descriptors:
      - {key: user, shadow_mode: true, rate_limit: 1/hour, penalty: {name: lock, block: 1h, scope: [user]}}
  - key: enforced
    descriptors:
      - {key: user, rate_limit: 9/hour, penalty: {name: lock, block: 1h, scope: [user]}}
";
    let script = "
tried=,user=a*5 -> OK | OK 0
enforced=,user=a -> OK | OK 8
";
    check(rules, Modes::default(), script).await;
    let shadow = Modes { shadow_mode: true, ..Modes::default() };
    check(rules, shadow, "enforced=,user=a*99 -> OK | OVER 0\nenforced=,user=a*-98 -> OK | OK 8").await;
}

#[tokio::test]
async fn a_denial_by_quotas_names_a_quota() {
    let rules = "
domain: test-domain
descriptors:
  - {key: user, layer: user, rate_limit: 2/hour}
  - {key: budget, layer: budget, quota_mode: true, rate_limit: 1/hour}
";
    let script = "
user=a; budget=b -> OK | OK 1, OK 0
user=a; budget=b -> OVER by budget | OK 0, OVER 0
user=a; budget=b -> OVER by user | OVER 0, OVER 0
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_rule_with_several_limits_is_no_quota() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - {key: user, rate_limits: [1/minute, 100/hour]}
";
    let script = "
@3600
user=a -> OK | OK 0
user=a -> OVER | OVER 0
user=a -> OVER | OVER 0
@3660
user=a -> OK | OK 0
@3720
user=a*99 -> OVER | OVER 0
user=a*-1 -> OK | OK 1
";
    check(rules, Modes { quota_mode: true, ..Modes::default() }, script).await;
}

#[tokio::test]
async fn a_request_of_more_hits_than_max_hits_is_denied_whatever_is_left() {
    let rules = "
domain: test-domain
descriptors:
  - {key: always, max_hits: 3, rate_limit: 10/minute}
  - {key: polite, max_hits: 3, charge: if_allowed, rate_limit: 10/minute}
  - {key: debt, max_hits: 3, charge: overdraft, rate_limit: 10/minute}
  - {key: bucket, max_hits: 3, rate_limit: {requests_per_unit: 10, unit: minute, algorithm: token_bucket}}
  - {key: quota, max_hits: 3, quota_mode: true, rate_limit: 10/minute}
  - {key: other, quota_mode: true, rate_limit: 10/minute}
  - {key: shadow, max_hits: 3, shadow_mode: true, charge: if_allowed, rate_limit: 10/minute}
  - {key: plain, charge: if_allowed, rate_limit: 10/minute}
";
    let script = "
@3600
always=a*3 -> OK | OK 7
always=a*4 -> OVER | OVER 0 in 60     # counts all the same
always=a*1 -> OK | OK 2
always=a*0 -> OK | OK 2
polite=a*3 -> OK | OK 7
polite=a*4 -> OVER | OVER 0 in 60     # counts nothing
polite=a*1 -> OK | OK 6
debt=a*4 -> OVER | OVER 0 in 60
debt=a*3 -> OK | OK 7
bucket=a*4 -> OVER | OVER 0 in 60
bucket=a*3 -> OK | OK 7
polite=a*-9 -> OK                     # a refund has no size
always=b*4; plain=b*2 -> OVER | OVER 0, OK 10   # nothing is used up on the others
plain=b*10 -> OK | OK 0
polite=b*4; plain=b*2 -> OVER | OVER 0, OVER 0
quota=a*4; other=a -> OVER            # also where another quota has room
shadow=a*4; plain=c*2 -> OK | OK 0, OK 8
shadow=a*3 -> OK | OK 7
";
    check(rules, Modes::default(), script).await;
    let unenforced = "
always=a*4 -> OK
polite=a*4; plain=a*2 -> OK | OVER 0, OK 8
";
    check(rules, Modes { shadow_mode: true, ..Modes::default() }, unenforced).await;
}
