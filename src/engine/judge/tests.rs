//! envoyproxy/ratelimit's arithmetic and answers, item by item (the numbers are those of the
//! project's compatibility list).

use bytes::Bytes;
use smallvec::smallvec;

use super::*;
use crate::engine::hit_counts::Counts;
use crate::engine::rules::{EnforcePercent, NamedLimit, Quota};
use crate::engine::{ChargeMode, FailurePolicy, TicketEntry, Unit};

/// Reading of a limit per minute at 1234 s.
const fn reading(used: u64, outcome: ChargeOutcome) -> Reading {
    let places = PlaceReport::NONE;
    Reading { used, outcome, reset: Duration::from_secs(26), budget: None, places }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Enforced,
    Shadow,
    Quota,
}

fn rule(requests_per_unit: u32, mode: Mode) -> Rule {
    Rule {
        path: Box::default(),
        id: 0,
        quota: Quota::Limited(smallvec![NamedLimit {
            limit: Limit::per(requests_per_unit, Unit::Minute),
            name: None,
            lease: None,
        }]),
        replaces: Box::default(),
        charge: ChargeMode::Always,
        max_hits: None,
        headers: crate::engine::rules::RateLimitHeaders::All,
        on_backend_failure: FailurePolicy::Error,
        shadow_mode: mode == Mode::Shadow,
        enforce_percent: EnforcePercent::ALL,
        layer: None,
        penalty: None,
        reserve: None,
        on_deny: None,
        quota_mode: mode == Mode::Quota,
        metadata: None,
        counts: None,
        holds: None,
    }
}

fn limited<'r>(rule: &'r Rule, counts: &'r Counts, hits: Hits) -> Item<'r> {
    fn counter(NamedLimit { limit, name, lease }: &NamedLimit) -> Counter<'_> {
        Counter { limit: *limit, name: name.as_deref(), key: Bytes::new(), lease: *lease, reserve: None }
    }
    Item::Limited(Limited {
        rule: Some(rule),
        lockout: None,
        counters: rule.limits().iter().map(counter).collect(),
        enforced: true,
        hits,
        mode: rule.charge,
        on_failure: rule.on_backend_failure,
        stats: StatsRef::Rule(counts),
        overridden: false,
        ticket: TicketEntry::Absent,
    })
}

/// Judges one descriptor under a limit of `requests_per_unit`, whose counter stands at `after`.
fn check_one(requests_per_unit: u32, mode: Mode, hits: Hits, after: u64, expect: (Code, u32, HitCounts)) {
    let (rule, counts) = (rule(requests_per_unit, mode), Counts::default());
    let plan = Plan {
        domain_known: true,
        items: [limited(&rule, &counts, hits)].into_iter().collect(),
        denied_outright: false,
    };
    let decision = judge(plan, [reading(after, ChargeOutcome::Charged)], &Modes::default());
    let status = &decision.statuses[0];
    let hit_counts = status.counted.as_ref().map(|(_, hit_counts)| *hit_counts);
    let case = format!("limit {requests_per_unit}, {hits:?}, after {after}");
    assert_eq!((status.code, status.remaining, hit_counts), (expect.0, expect.1, Some(expect.2)), "{case}");
    assert_eq!(status.limit, Some(Limit::per(requests_per_unit, Unit::Minute)), "{case}");
    assert_eq!(status.reset, Some(Duration::from_secs(26)), "{case}");
    assert_eq!(decision.code, expect.0, "{case}");
}

fn hit_counts(total_hits: u64, over_limit: u64, near_limit: u64, within_limit: u64) -> HitCounts {
    HitCounts { total_hits, over_limit, near_limit, within_limit, ..HitCounts::default() }
}

#[test]
fn over_the_limit_is_strictly_more_than_it() {
    for (limit, hits, after, code, remaining) in [
        (10, 1, 1, Code::Ok, 9),
        (10, 1, 10, Code::Ok, 0),
        (10, 1, 11, Code::OverLimit, 0),
        (10, 1, u64::MAX, Code::OverLimit, 0),
        (0, 1, 1, Code::OverLimit, 0),
        (u32::MAX, 1, 1, Code::Ok, u32::MAX - 1),
    ] {
        let (rule, counts) = (rule(limit, Mode::Enforced), Counts::default());
        let items = [limited(&rule, &counts, Hits::Add(hits))].into_iter().collect();
        let decision = judge(
            Plan { domain_known: true, items, denied_outright: false },
            [reading(after, ChargeOutcome::Charged)],
            &Modes::default(),
        );
        let status = &decision.statuses[0];
        assert_eq!((status.code, status.remaining), (code, remaining), "limit {limit}, after {after}");
    }
}

#[test]
fn hits_are_split_into_within_near_and_over() {
    use Code::{Ok, OverLimit};
    for (limit, hits, after, code, over, near, within) in [
        (15, 1, 11, Ok, 0, 0, 1),
        (15, 1, 13, Ok, 0, 1, 1),
        (15, 1, 16, OverLimit, 1, 0, 0),
        (20, 3, 5, Ok, 0, 0, 3),
        (8, 2, 7, Ok, 0, 1, 2),
        (20, 3, 19, Ok, 0, 3, 3),
        (20, 3, 22, OverLimit, 2, 1, 0),
        (20, 7, 22, OverLimit, 2, 4, 0),
        (10, 3, 30, OverLimit, 3, 0, 0),
        (10, 1, 11, OverLimit, 1, 0, 0),
    ] {
        let remaining = limit - u32::try_from(after.min(u64::from(limit))).unwrap();
        let expect = (code, remaining, hit_counts(u64::from(hits), over, near, within));
        check_one(limit, Mode::Enforced, Hits::Add(hits), after, expect);
    }
}

#[test]
fn a_shadow_rule_counts_what_it_would_deny_and_lets_it_pass() {
    for (limit, hits, after, over, near) in [(15, 1, 16, 1, 0), (20, 7, 22, 2, 4), (10, 3, 30, 3, 0)] {
        let expect = HitCounts { shadow_mode: over, ..hit_counts(u64::from(hits), over, near, 0) };
        check_one(limit, Mode::Shadow, Hits::Add(hits), after, (Code::Ok, 0, expect));
    }
    check_one(15, Mode::Shadow, Hits::Add(1), 11, (Code::Ok, 4, hit_counts(1, 0, 0, 1)));
}

#[test]
fn a_peek_is_over_only_past_the_limit_and_counts_nothing() {
    check_one(2, Mode::Enforced, Hits::Add(0), 0, (Code::Ok, 2, HitCounts::default()));
    check_one(2, Mode::Enforced, Hits::Add(0), 2, (Code::Ok, 0, HitCounts::default()));
    check_one(2, Mode::Enforced, Hits::Add(0), 3, (Code::OverLimit, 0, HitCounts::default()));
}

#[test]
fn a_refund_is_never_denied_and_counts_apart() {
    let refunded = HitCounts { total_negative_hits: 3, ..HitCounts::default() };
    check_one(10, Mode::Enforced, Hits::Refund(3), 4, (Code::Ok, 6, refunded));
    check_one(10, Mode::Enforced, Hits::Refund(3), 40, (Code::Ok, 0, refunded));
}

#[test]
fn uncounted_hits_are_judged_by_whether_they_fit() {
    let counts = Counts::default();
    for (outcome, mode, code, remaining, expected) in [
        (ChargeOutcome::Denied, Mode::Enforced, Code::OverLimit, 0, hit_counts(3, 3, 0, 0)),
        (ChargeOutcome::Withheld, Mode::Enforced, Code::Ok, 2, hit_counts(3, 0, 0, 0)),
        (
            ChargeOutcome::Denied,
            Mode::Shadow,
            Code::Ok,
            0,
            HitCounts { shadow_mode: 3, ..hit_counts(3, 3, 0, 0) },
        ),
    ] {
        let rule = rule(10, mode);
        let items = [limited(&rule, &counts, Hits::Add(3))].into_iter().collect();
        let decision = judge(
            Plan { domain_known: true, items, denied_outright: false },
            [reading(8, outcome)],
            &Modes::default(),
        );
        let status = &decision.statuses[0];
        let counted = status.counted.as_ref().map(|(_, hit_counts)| *hit_counts);
        let reported = (status.code, status.remaining, counted);
        assert_eq!(reported, (code, remaining, Some(expected)), "{outcome:?}");
    }
}

/// A descriptor of a request, for the tests of the overall code.
#[derive(Clone, Copy, Debug)]
enum D {
    /// A regular rule: over its limit, or not.
    Regular(bool),
    /// A quota rule.
    Quota(bool),
    NoLimit,
}

fn overall(descriptors: &[D], modes: Modes) -> (Code, bool, Vec<Code>, Option<usize>) {
    let (regular, quota) = (rule(10, Mode::Enforced), rule(10, Mode::Quota));
    let counts = Counts::default();
    let mut used = Vec::new();
    let items = descriptors
        .iter()
        .map(|descriptor| {
            let (rule, over) = match descriptor {
                D::NoLimit => return Item::NoLimit,
                D::Regular(over) => (&regular, over),
                D::Quota(over) => (&quota, over),
            };
            used.push(reading(if *over { 11 } else { 1 }, ChargeOutcome::Charged));
            limited(rule, &counts, Hits::Add(1))
        })
        .collect();
    let decision = judge(Plan { domain_known: true, items, denied_outright: false }, used, &modes);
    let codes = decision.statuses.iter().map(|status| status.code).collect();
    (decision.code, decision.shadowed, codes, decision.binding)
}

#[test]
fn one_status_for_each_descriptor_and_any_regular_one_denies() {
    let modes = Modes::default();
    for (descriptors, code) in [
        (&[D::Regular(false), D::NoLimit][..], Code::Ok),
        (&[D::Regular(false), D::Regular(true), D::NoLimit], Code::OverLimit),
        (&[D::NoLimit, D::NoLimit], Code::Ok),
    ] {
        let (overall, _, codes, _) = overall(descriptors, modes);
        assert_eq!(overall, code, "{descriptors:?}");
        let expected = descriptors.iter().map(|descriptor| match descriptor {
            D::Regular(true) | D::Quota(true) => Code::OverLimit,
            D::Regular(false) | D::Quota(false) | D::NoLimit => Code::Ok,
        });
        assert_eq!(codes, expected.collect::<Vec<_>>(), "{descriptors:?}");
    }
}

#[test]
fn an_unlimited_rule_passes_with_everything_remaining_and_counts_nothing() {
    let rule = Rule { quota: Quota::Unlimited, ..rule(1, Mode::Enforced) };
    let plan = Plan {
        domain_known: true,
        items: [Item::Unlimited(&rule)].into_iter().collect(),
        denied_outright: false,
    };
    let decision = judge(plan, [], &Modes::default());
    let status = &decision.statuses[0];
    assert_eq!((decision.code, status.code, status.remaining), (Code::Ok, Code::Ok, u32::MAX));
    assert!(status.limit.is_none() && status.reset.is_none() && status.counted.is_none());
}

#[test]
fn quota_rules_deny_only_all_together() {
    let rule_quotas = Modes::default();
    let all_quotas = Modes { quota_mode: true, ..rule_quotas };
    for (descriptors, modes, code) in [
        (&[D::Regular(true), D::Quota(false)][..], rule_quotas, Code::OverLimit),
        (&[D::Regular(false), D::Quota(true)], rule_quotas, Code::OverLimit),
        (&[D::Quota(true), D::Quota(false)], rule_quotas, Code::Ok),
        (&[D::Quota(true), D::Quota(true)], rule_quotas, Code::OverLimit),
        (&[D::Regular(true), D::Regular(false)], all_quotas, Code::Ok),
        (&[D::Regular(true), D::Regular(true)], all_quotas, Code::OverLimit),
        // A descriptor under no limit is no quota that passed.
        (&[D::Regular(true), D::NoLimit], all_quotas, Code::OverLimit),
    ] {
        assert_eq!(overall(descriptors, modes).0, code, "{descriptors:?}, {modes:?}");
    }
}

#[test]
fn the_global_shadow_mode_admits_requests_that_statuses_deny() {
    let modes = Modes { shadow_mode: true, ..Modes::default() };
    assert_eq!(
        overall(&[D::Regular(true), D::Regular(false)], modes),
        (Code::Ok, true, vec![Code::OverLimit, Code::Ok], Some(0))
    );
    assert!(!overall(&[D::Regular(false)], modes).1, "what would pass anyway is not shadowed");
}

#[test]
fn headers_report_the_last_denying_status_else_the_least_remaining() {
    let modes = Modes::default();
    for (descriptors, binding) in [
        (&[D::NoLimit][..], None),
        (&[D::NoLimit, D::Regular(false)], Some(1)),
        (&[D::Regular(true), D::Regular(false), D::Regular(true)], Some(2)),
        (&[D::Regular(false), D::Quota(true), D::Regular(false)], Some(1)),
    ] {
        assert_eq!(overall(descriptors, modes).3, binding, "{descriptors:?}");
    }
}
