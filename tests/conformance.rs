//! envoyproxy/ratelimit's behaviour from rules to answers, the same on every store.

use tollgate::engine::{HitCounts, Modes};

use crate::support::scenario::check;

fn hit_counts(total_hits: u64, over_limit: u64, near_limit: u64, within_limit: u64) -> HitCounts {
    HitCounts { total_hits, over_limit, near_limit, within_limit, ..HitCounts::default() }
}

#[tokio::test]
async fn twenty_a_minute_pass_and_the_rest_of_the_minute_is_denied() {
    let rules = "
domain: test-domain
descriptors:
  - {key: key2, rate_limit: {unit: minute, requests_per_unit: 20}}
";
    let passing = (0..20).rev().map(|left| format!("key2=a -> OK | OK {left}\n")).collect::<String>();
    let denied = "key2=a -> OVER | OVER 0\n".repeat(5);
    let script = format!("@1200\n{passing}@1259\n{denied}key2=b -> OK | OK 19\n@1260\nkey2=a -> OK | OK 19");
    let counted = check(rules, Modes::default(), &script).await;
    assert_eq!(counted, hit_counts(27, 5, 4, 22));
}

#[tokio::test]
async fn every_unit_counts_in_its_own_windows() {
    for (unit, secs) in [
        ("second", 1),
        ("minute", 60),
        ("hour", 3_600),
        ("day", 86_400),
        ("week", 604_800),
        ("month", 2_592_000),
        ("year", 31_536_000),
    ] {
        let rules = format!(
            "{{domain: test-domain, descriptors: [{{key: k, rate_limit: {{unit: {unit}, requests_per_unit: 1}}}}]}}"
        );
        let start = 40 * 31_536_000 / secs * secs;
        let (last, next) = (start + secs - 1, start + secs);
        let script =
            format!("@{start}\nk=v -> OK | OK 0\n@{last}\nk=v -> OVER | OVER 0\n@{next}\nk=v -> OK | OK 0");
        check(&rules, Modes::default(), &script).await;
    }
}

#[tokio::test]
async fn a_limit_of_zero_denies_every_hit_and_no_peek() {
    let rules = "
domain: test-domain
descriptors:
  - {key: none, rate_limit: {unit: hour, requests_per_unit: 0}}
";
    let script = "
none=a*0 -> OK | OK 0
none=a -> OVER | OVER 0
none=a*0 -> OVER | OVER 0
none=a*7 -> OVER | OVER 0
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn values_of_one_pattern_count_apart_unless_they_share_the_threshold() {
    let rules = "
domain: test-domain
descriptors:
  - {key: own, value: v*, rate_limit: {unit: hour, requests_per_unit: 2}}
  - {key: shared, value: v*, share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 2}}
";
    let script = "
own=v1 -> OK | OK 1
own=v2 -> OK | OK 1
shared=v1 -> OK | OK 1
shared=v2 -> OK | OK 0
shared=v3 -> OVER | OVER 0
own=v3 -> OK | OK 1
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_shadow_rule_passes_what_it_counts_as_over() {
    let rules = "
domain: test-domain
descriptors:
  - {key: k, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 10}}
";
    let script = "
k=v*9 -> OK | OK 1
k=v*3 -> OK | OK 0
k=v -> OK | OK 0
";
    let counted = check(rules, Modes::default(), script).await;
    assert_eq!(counted, HitCounts { shadow_mode: 3, ..hit_counts(13, 3, 2, 9) });
}

#[tokio::test]
async fn a_peek_before_and_a_debit_after_let_three_pass_under_a_limit_of_two() {
    let rules = "
domain: test-domain
descriptors:
  - {key: k, rate_limit: {unit: hour, requests_per_unit: 2}}
";
    let script = "
k=v*0 -> OK | OK 2
k=v*1 -> OK | OK 1
k=v*0 -> OK | OK 1
k=v*1 -> OK | OK 0
k=v*0 -> OK | OK 0
k=v*1 -> OVER | OVER 0      # the debit of the third response; nobody waits for its answer
k=v*0 -> OVER | OVER 0
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn refunds_give_hits_back_within_the_window_and_never_below_zero() {
    let rules = "
domain: test-domain
descriptors:
  - {key: k, rate_limit: {unit: minute, requests_per_unit: 5}}
";
    let script = "
@1200
k=v*-3 -> OK | OK 5
k=v*4 -> OK | OK 1
k=v*-1 -> OK | OK 2
k=v*-9 -> OK | OK 5
k=v*6 -> OVER | OVER 0
k=v*-2 -> OK | OK 1
k=v -> OK | OK 0
@1260
k=v*-5 -> OK | OK 5
k=v -> OK | OK 4
";
    let counted = check(rules, Modes::default(), script).await;
    assert_eq!(counted.total_negative_hits, 20);
}

#[tokio::test]
async fn a_large_hit_that_is_denied_is_counted_all_the_same() {
    let rules = "
domain: test-domain
descriptors:
  - {key: k, rate_limit: {unit: minute, requests_per_unit: 10}}
";
    let script = "
k=v*1000000000 -> OVER | OVER 0
k=v -> OVER | OVER 0
";
    check(rules, Modes::default(), script).await;
}

const REPLACING: &str = "
domain: test-domain
descriptors:
  - {key: banned, rate_limit: {name: banned, unit: hour, requests_per_unit: 0}}
  - {key: slow, rate_limit: {name: slow, unit: hour, requests_per_unit: 1}}
  - {key: special, rate_limit: {name: special, unit: hour, requests_per_unit: 2, replaces: [{name: banned}]}}
  - {key: vip, rate_limit: {unit: hour, requests_per_unit: 4, replaces: [{name: banned}, {name: slow}]}}
";

#[tokio::test]
async fn replaced_rules_neither_deny_nor_count() {
    let script = "
banned=x -> OVER | OVER 0
banned=x; special=y -> OK | OK -, OK 1
banned=x; special=y -> OK | OK -, OK 0
banned=x; special=y -> OVER | OK -, OVER 0
banned=x; slow=z; vip=v -> OK | OK -, OK -, OK 3
banned=x; slow=z; vip=v -> OK | OK -, OK -, OK 2
banned=x; slow=z; vip=v -> OK | OK -, OK -, OK 1
banned=x; slow=z; vip=v -> OK | OK -, OK -, OK 0
banned=x; slow=z; vip=v -> OVER | OK -, OK -, OVER 0
slow=z -> OK | OK 0
slow=z -> OVER | OVER 0
";
    check(REPLACING, Modes::default(), script).await;
}

#[tokio::test]
async fn quota_rules_are_all_counted_and_deny_only_together() {
    let rules = "
domain: test-domain
descriptors:
  - {key: one, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: two, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 2}}
  - {key: regular, rate_limit: {unit: hour, requests_per_unit: 3}}
";
    let script = "
one=a; two=a -> OK | OK 0, OK 1
one=a; two=a -> OK | OVER 0, OK 0
one=a; two=a -> OVER | OVER 0, OVER 0
one=a; nothing=here -> OVER | OVER 0, OK -
one=b; two=b; regular=b*4 -> OVER | OK 0, OK 1, OVER 0
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn the_global_shadow_mode_denies_nothing_and_reports_everything() {
    let script = "
banned=x -> OK | OVER 0
slow=z -> OK | OK 0
slow=z -> OK | OVER 0
";
    check(REPLACING, Modes { shadow_mode: true, ..Modes::default() }, script).await;
}

#[tokio::test]
async fn one_counter_charged_twice_in_a_request_is_charged_in_order() {
    let rules = "
domain: test-domain
descriptors:
  - {key: k, rate_limit: {unit: hour, requests_per_unit: 3}}
";
    let script = "
k=v*2; k=v; k=v -> OVER | OK 1, OK 0, OVER 0
k=v*-2; k=v -> OK | OK 1, OK 0
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn the_time_until_reset_falls_as_the_window_passes() {
    let rules = "
domain: test-domain
descriptors:
  - {key: k, rate_limit: {unit: minute, requests_per_unit: 3}}
";
    let script = "
@1200
k=v -> OK | OK 2 in 60
@1202.5
k=v -> OK | OK 1 in 57.5
@1259.999999
k=v -> OK | OK 0 in 0.000001
";
    check(rules, Modes::default(), script).await;
}

#[tokio::test]
async fn a_limit_that_counts_only_if_allowed_stays_where_another_one_stops_it() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - {key: wide, rate_limit: {unit: hour, requests_per_unit: 20}}
  - {key: narrow, rate_limit: {unit: day, requests_per_unit: 10}}
";
    let passing = (0..10)
        .map(|hit| format!("wide=a; narrow=a -> OK | OK {}, OK {}\n", 19 - hit, 9 - hit))
        .collect::<String>();
    let denied = "wide=a; narrow=a -> OVER | OK 10, OVER 0\n".repeat(5);
    let counted = check(rules, Modes::default(), &format!("{passing}{denied}wide=a -> OK | OK 9")).await;
    assert_eq!(counted, hit_counts(31, 5, 2, 21));
}

#[tokio::test]
async fn charge_modes_mix_in_one_request() {
    let rules = "
domain: test-domain
descriptors:
  - {key: metered, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: kept, charge: if_allowed, rate_limit: {unit: year, requests_per_unit: 3}}
  - {key: tried, charge: if_allowed, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
";
    let script = "
metered=a; kept=a; tried=a -> OK | OK 1, OK 2, OK 0
metered=a; kept=a; tried=a -> OK | OK 0, OK 1, OK 0
metered=a; kept=a; tried=a -> OVER | OVER 0, OK 1, OK 0   # metered is counted past its limit
kept=a*2 -> OVER | OVER 0                                 # and what does not fit is not
kept=a -> OK | OK 0
kept=a*0 -> OVER | OVER 0
kept=a*-2 -> OK | OK 2
kept=a; kept=a; kept=a -> OVER | OK 2, OK 2, OVER 0
kept=a; kept=a -> OK | OK 1, OK 0
metered=b*0; kept=b*4 -> OVER | OK 2, OVER 0
";
    check(rules, Modes::default(), script).await;
    let unenforced = "
kept=a*9; metered=a -> OK | OVER 0, OK 1
kept=a*2; kept=b -> OK | OK 1, OK 2
";
    check(rules, Modes { shadow_mode: true, ..Modes::default() }, unenforced).await;
}

#[tokio::test]
async fn algorithms_admit_as_promised_on_every_store() {
    let rules = "
domain: test-domain
defaults: {charge: if_allowed}
descriptors:
  - {key: window, rate_limit: {requests_per_unit: 4, unit: year, algorithm: sliding_window}}
  - {key: log, rate_limit: {requests_per_unit: 3, window: 2w, algorithm: sliding_log}}
  - {key: bucket, rate_limit: {requests_per_unit: 10, window: 10w, algorithm: token_bucket, burst: 2}}
  - {key: short, rate_limit: 2/3w}
";
    let script = "
@0
window=a*4 -> OK | OK 0
window=a -> OVER | OVER 0
log=a*2 -> OK | OK 1
bucket=a*2 -> OK | OK 0
bucket=a -> OVER | OVER 0
short=a*2 -> OK | OK 0
short=a -> OVER | OVER 0
@604799
bucket=a -> OVER | OVER 0           # a hit comes back every week
log=a -> OK | OK 0
log=a -> OVER | OVER 0
@604800
bucket=a -> OK | OK 0
@1209600
log=a*2 -> OK | OK 0                # two weeks after the first two
log=a -> OVER | OVER 0
bucket=a -> OK | OK 0
@1814399
short=a -> OVER | OVER 0
@1814400
short=a -> OK | OK 1
log=a -> OK | OK 0
@31536000
window=a -> OVER | OVER 0           # a year has begun, and all of the last one counts
@39420000
window=a -> OK | OK 0               # a quarter of it is over
window=a -> OVER | OVER 0
";
    check(rules, Modes::default(), script).await;
}
