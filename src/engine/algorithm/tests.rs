//! Every algorithm against what it promises, reckoned from the list of all hits.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::group::{ChargeOutcome, charge_alone};
use super::*;
use crate::engine::{ChargeMode, Hits, Unit, Window};

const SECOND_US: u64 = 1_000_000;

/// Hits that were counted, each at its time in microseconds.
#[derive(Default)]
struct Oracle {
    hits: Vec<(u64, u32)>,
}

impl Oracle {
    fn sum(&self, counts: impl Fn(u64) -> bool) -> u128 {
        self.hits.iter().filter(|(at, _)| counts(*at)).map(|(_, hits)| u128::from(*hits)).sum()
    }

    /// Hits that count at `now_us`, begun ones as whole ones.
    fn used(&self, limit: Limit, now_us: u64) -> u128 {
        let window_us = u64::from(limit.window.secs()) * SECOND_US;
        let number = |at: u64| at / window_us;
        match limit.algorithm {
            Algorithm::FixedWindow => self.sum(|at| number(at) == number(now_us)),
            Algorithm::SlidingLog => self.sum(|at| at + window_us > now_us),
            Algorithm::SlidingWindow => {
                let left = u128::from(window_us - now_us % window_us);
                let previous = self.sum(|at| number(at) + 1 == number(now_us));
                let current = self.sum(|at| number(at) == number(now_us));
                (previous * left + current * u128::from(window_us)).div_ceil(window_us.into())
            }
            // GCRA (ITU-T I.371): the time at which everything will have drained, here times the rate.
            Algorithm::TokenBucket { .. } => {
                let rate = u128::from(limit.requests_per_unit);
                let arrival = |tat: u128, (at, hits): &(u64, u32)| {
                    tat.max(u128::from(*at) * rate) + u128::from(*hits) * u128::from(window_us)
                };
                let tat = self.hits.iter().fold(0, arrival);
                tat.saturating_sub(u128::from(now_us) * rate).div_ceil(window_us.into())
            }
            Algorithm::Concurrency => unreachable!("places are not counted over time"),
        }
    }
}

fn some_limit() -> impl Strategy<Value = Limit> {
    let algorithm = prop_oneof![
        Just(Algorithm::FixedWindow),
        Just(Algorithm::SlidingWindow),
        Just(Algorithm::SlidingLog),
        (1..30_u32).prop_map(|burst| Algorithm::TokenBucket { burst }),
    ];
    (1..20_u32, prop_oneof![Just(1_u32), Just(7), Just(60)], algorithm).prop_map(
        |(requests_per_unit, secs, algorithm)| Limit {
            requests_per_unit,
            window: Window::of_secs(secs),
            algorithm,
        },
    )
}

/// A pause in thousandths of a window, some microseconds, and hits.
fn some_steps() -> impl Strategy<Value = Vec<(u64, u64, u32)>> {
    let pause = prop_oneof![4 => 0..300_u64, 1 => 0..3_000_u64];
    prop::collection::vec((pause, 0..3_u64, prop_oneof![6 => 1..4_u32, 1 => Just(0), 1 => 4..40_u32]), 400)
}

/// True if `hits` would pass `later_us` after `now_us`, if nobody else came.
fn passes(state: &CounterState, limit: Limit, now_us: u64, later_us: u64, hits: u32) -> bool {
    state.clone().load(limit, Timestamp::from_micros(now_us + later_us)).fits(hits.max(1), limit.capacity())
}

fn check(limit: Limit, steps: &[(u64, u64, u32)], mode: ChargeMode) -> Result<(), TestCaseError> {
    let window_us = u64::from(limit.window.secs()) * SECOND_US;
    let (mut oracle, mut state) = (Oracle::default(), CounterState::empty(limit.algorithm));
    let mut now_us = 1_700_000_000 * SECOND_US;
    for &(thousandths, micros, hits) in steps {
        now_us += thousandths * window_us / 1_000 + micros;
        let now = Timestamp::from_micros(now_us);
        let before = oracle.used(limit, now_us);
        let mut meter = state.load(limit, now);
        prop_assert_eq!(u128::from(meter.used()), before, "before {} at {}", hits, now_us);

        let outcome = charge_alone(mode, Hits::Add(hits), limit.capacity(), &mut meter);
        state.save(meter, limit, now);
        let needed = mode.hits_to_fit(hits);
        let fits = before + u128::from(needed) <= u128::from(limit.capacity());
        // Denied hits count no further than to about twice the limit: those are not held against this.
        prop_assume!(
            mode == ChargeMode::IfAllowed || before + u128::from(hits) <= 2 * u128::from(limit.capacity())
        );
        if fits || mode == ChargeMode::Always {
            oracle.hits.push((now_us, hits));
        }
        let denied = mode != ChargeMode::Always && !fits;
        prop_assert_eq!(outcome, if denied { ChargeOutcome::Denied } else { ChargeOutcome::Charged });
        prop_assert_eq!(u128::from(meter.used()), oracle.used(limit, now_us));

        let wait_us = u64::try_from(state.wait(needed, limit, now).as_micros()).expect("short");
        if denied && needed <= limit.capacity() {
            prop_assert!(wait_us > 0);
            let (then, just_before) = (passes(&state, limit, now_us, wait_us, needed), wait_us - 1);
            prop_assert!(then, "{} hits after {} us", needed, wait_us);
            prop_assert!(!passes(&state, limit, now_us, just_before, needed), "{} hits too early", needed);
        }
        let reset_us = u64::try_from(state.reset(limit, now).as_micros()).expect("short");
        let empty = limit.capacity();
        let at_rest = matches!(limit.algorithm, Algorithm::SlidingLog | Algorithm::TokenBucket { .. });
        if at_rest && meter.used() > 0 {
            prop_assert!(passes(&state, limit, now_us, reset_us, empty), "whole after {} us", reset_us);
            prop_assert!(!passes(&state, limit, now_us, reset_us - 1, empty));
        }
        let end_us = state.end_secs(limit) * SECOND_US;
        prop_assert!(end_us >= now_us || meter.used() == 0);
        prop_assert!(passes(&state, limit, now_us, end_us.saturating_sub(now_us), empty), "over at its end");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn charges_and_waits_match_a_list_of_hits(
        limit in some_limit(),
        steps in some_steps(),
    ) {
        check(limit, &steps, ChargeMode::IfAllowed)?;
    }

    #[test]
    fn an_overdraft_passes_while_one_hit_fits_and_must_drain_before_the_next(
        limit in some_limit(),
        steps in some_steps(),
    ) {
        // What is owed is remembered up to about the limit; more is not held against this.
        let few = |(pause, us, hits)| (pause, us, hits % (limit.capacity() + 1));
        check(limit, &steps.into_iter().map(few).collect::<Vec<_>>(), ChargeMode::Overdraft)?;
    }

    #[test]
    fn denied_hits_count_where_they_always_do(
        limit in some_limit(),
        steps in prop::collection::vec((200..900_u64, 0..3_u64, 0..2_u32), 100),
    ) {
        check(limit, &steps, ChargeMode::Always)?;
    }

    #[test]
    fn no_stretch_of_time_sees_more_than_was_promised(limit in some_limit(), steps in some_steps()) {
        let window_us = u64::from(limit.window.secs()) * SECOND_US;
        let mut state = CounterState::empty(limit.algorithm);
        let (mut now_us, mut passed) = (1_700_000_000 * SECOND_US, Vec::new());
        for (thousandths, micros, hits) in steps {
            now_us += thousandths * window_us / 1_000 + micros;
            let now = Timestamp::from_micros(now_us);
            let mut meter = state.load(limit, now);
            if hits > 0 && charge_alone(ChargeMode::IfAllowed, Hits::Add(hits), limit.capacity(), &mut meter) == ChargeOutcome::Charged {
                passed.push((now_us, u64::from(hits)));
            }
            state.save(meter, limit, now);
        }
        let quota = u64::from(limit.requests_per_unit);
        for (index, &(from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for &(at, hits) in &passed[index..] {
                sum += hits;
                let promised = match limit.algorithm {
                    Algorithm::SlidingLog if at - from < window_us => quota,
                    Algorithm::FixedWindow if at / window_us == from / window_us => quota,
                    Algorithm::SlidingWindow if at / window_us == from / window_us => quota,
                    Algorithm::TokenBucket { burst } => {
                        u64::from(burst) + u64::try_from(u128::from(at - from) * u128::from(quota) / u128::from(window_us)).expect("few")
                    }
                    _ => u64::MAX,
                };
                prop_assert!(sum <= promised, "{} of {} from {} to {}", sum, promised, from, at);
            }
        }
    }

    #[test]
    fn a_refund_restores_the_counter_or_leaves_it_slightly_fuller(
        limit in some_limit(),
        steps in prop::collection::vec((0..400_u64, 1..3_u32, any::<bool>()), 50),
    ) {
        // One of two stores takes hits now and then and gives them back a little later.
        let window_us = u64::from(limit.window.secs()) * SECOND_US;
        let (mut with, mut without) = (CounterState::empty(limit.algorithm), CounterState::empty(limit.algorithm));
        let mut now_us = 1_700_000_000 * SECOND_US;
        for (thousandths, hits, in_vain) in steps {
            now_us += thousandths * window_us / 1_000;
            let now = Timestamp::from_micros(now_us);
            let change = |state: &mut CounterState, hits| {
                let mut meter = state.load(limit, now);
                let outcome = charge_alone(ChargeMode::IfAllowed, hits, limit.capacity(), &mut meter);
                state.save(meter, limit, now);
                outcome
            };
            if in_vain {
                if change(&mut with, Hits::Add(hits)) == ChargeOutcome::Charged {
                    change(&mut with, Hits::Refund(hits));
                }
            } else if change(&mut with, Hits::Add(hits)) == ChargeOutcome::Charged {
                prop_assert_eq!(change(&mut without, Hits::Add(hits)), ChargeOutcome::Charged);
            }
            prop_assert!(with.load(limit, now).used() >= without.load(limit, now).used());
        }
    }
}

#[test]
fn a_late_refund_returns_only_hits_that_have_not_drained() {
    let limit = Limit {
        requests_per_unit: 10,
        window: Unit::Second.window(),
        algorithm: Algorithm::TokenBucket { burst: 10 },
    };
    let at = |millis: u64| Timestamp::from_micros(1_700_000_000 * SECOND_US + millis * 1_000);
    let mut state = CounterState::empty(limit.algorithm);
    let mut change = |hits, now| {
        let mut meter = state.load(limit, now);
        charge_alone(ChargeMode::IfAllowed, hits, limit.capacity(), &mut meter);
        state.save(meter, limit, now);
        meter.used()
    };
    assert_eq!(change(Hits::Add(2), at(0)), 2);
    // Somebody else takes ten in the meantime: all that drained of the two.
    assert_eq!(change(Hits::Add(9), at(100)), 10);
    // One of the two has drained since it was taken, and is not given back a second time.
    assert_eq!(change(Hits::Refund(2), at(0)), 9);
}

#[test]
fn a_clock_that_steps_back_forgets_nothing() {
    for algorithm in [
        Algorithm::FixedWindow,
        Algorithm::SlidingWindow,
        Algorithm::SlidingLog,
        Algorithm::TokenBucket { burst: 10 },
    ] {
        let limit = Limit { requests_per_unit: 10, window: Unit::Minute.window(), algorithm };
        let mut state = CounterState::empty(algorithm);
        for (secs, used) in [(1_200, 1), (1_199, 2), (600, 3), (601, 4)] {
            let now = Timestamp::from_secs(secs);
            let mut meter = state.load(limit, now);
            meter.add(1);
            state.save(meter, limit, now);
            assert_eq!(state.load(limit, now).used(), used, "{algorithm:?} at {secs}");
        }
    }
}

const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::FixedWindow,
    Algorithm::SlidingWindow,
    Algorithm::SlidingLog,
    Algorithm::TokenBucket { burst: 10 },
];

#[test]
fn a_clock_that_is_set_neither_admits_too_early_nor_denies_longer_than_the_algorithm() {
    const DAY: i64 = 86_400;
    for algorithm in ALGORITHMS {
        for secs in [60, 3_600] {
            for step_secs in [-3_600, DAY, -DAY, 400 * DAY, -400 * DAY, 200 * 366 * DAY, -1_700_000_000] {
                let limit = Limit { requests_per_unit: 10, window: Window::of_secs(secs), algorithm };
                let case = format!("{algorithm:?} of {secs} s, clock off by {step_secs} s");
                let mut state = CounterState::empty(algorithm);
                // One hit fits after so long, by the clock as it is at the time.
                let mut hit = |at: i64| {
                    let now = Timestamp::from_secs(u64::try_from(at).unwrap_or(0));
                    let mut meter = state.load(limit, now);
                    let outcome = charge_alone(ChargeMode::IfAllowed, Hits::Add(1), 10, &mut meter);
                    state.save(meter, limit, now);
                    (outcome == ChargeOutcome::Charged)
                        .then_some(())
                        .ok_or_else(|| state.wait(1, limit, now).as_secs())
                };
                let off = 1_700_000_000 + step_secs;
                let (wrong, right) =
                    if step_secs > 0 { (off, 1_700_000_000) } else { (1_700_000_000, off.max(0)) };
                for _ in 0..10 {
                    hit(wrong).unwrap_or_else(|_| panic!("{case}: ten fit"));
                }
                // Set back: what was counted still counts, for no longer than if it had come just now.
                let wait = hit(right).expect_err(&case);
                assert!(wait <= 2 * u64::from(secs), "{case}: {wait}");
                assert_eq!(hit(right).expect_err(&case), wait, "{case}");
                let wait = i64::try_from(wait).expect("short");
                hit(right + wait / 2).expect_err(&case);
                hit(right + wait + 1).unwrap_or_else(|wait| panic!("{case}: {wait} more"));
            }
        }
    }
}

#[test]
fn a_peek_does_not_extend_a_state_that_a_wrong_clock_wrote() {
    for algorithm in ALGORITHMS {
        let limit = Limit { requests_per_unit: 10, window: Unit::Minute.window(), algorithm };
        let mut state = CounterState::empty(algorithm);
        let at = |secs: u64| Timestamp::from_secs(1_700_000_000 + secs);
        let mut meter = state.load(limit, at(86_400));
        meter.add(10);
        state.save(meter, limit, at(86_400));
        for secs in (0..=130).step_by(10) {
            state.correct(limit, at(secs));
        }
        assert!(state.clone().load(limit, at(130)).fits(1, 10), "{algorithm:?}");
    }
}

#[test]
fn a_bucket_keeps_its_level_in_whatever_ticks_it_is_counted() {
    let of = |requests_per_unit| Limit {
        requests_per_unit,
        window: Unit::Day.window(),
        algorithm: Algorithm::TokenBucket { burst: requests_per_unit },
    };
    let (small, large) = (of(20_000), of(30_000));
    assert_ne!(tick_us(small), tick_us(large));
    let now = Timestamp::from_secs(1_700_000_000);
    let mut state = CounterState::empty(small.algorithm);
    let mut meter = state.load(small, now);
    meter.add(19_990);
    state.save(meter, small, now);
    for (limit, used) in [(large, 19_990), (small, 19_990), (of(1), 3), (large, 3)] {
        assert_eq!(state.load(limit, now).used(), used, "{limit:?}");
    }
}

#[test]
fn a_charge_above_the_limit_reports_the_longest_wait() {
    let now = Timestamp::from_secs(1_700_000_001);
    for (algorithm, secs) in [
        (Algorithm::FixedWindow, 39),
        (Algorithm::SlidingWindow, 99),
        (Algorithm::SlidingLog, 60),
        (Algorithm::TokenBucket { burst: 20 }, 120),
        (Algorithm::TokenBucket { burst: 0 }, 6),
    ] {
        let limit = Limit { requests_per_unit: 10, window: Unit::Minute.window(), algorithm };
        for (hits, before) in [(21, 0), (u32::MAX, 0), (21, 3)] {
            let mut state = CounterState::empty(algorithm);
            let mut meter = state.load(limit, now);
            meter.add(before);
            state.save(meter, limit, now);
            let wait = state.wait(hits, limit, now).as_secs();
            assert!(wait >= secs && wait <= 2 * secs, "{algorithm:?}, {hits} after {before}: {wait}");
        }
    }
}

#[test]
fn numbers_stay_exact_in_the_shortest_tick_that_allows_it() {
    let limit = |requests_per_unit, unit: Unit| Limit {
        requests_per_unit,
        window: unit.window(),
        algorithm: Algorithm::SlidingWindow,
    };
    assert_eq!(tick_us(limit(100, Unit::Minute)), Some(1));
    assert_eq!(tick_us(limit(1_000_000, Unit::Day)), Some(1_000));
    assert_eq!(tick_us(limit(10_000_000, Unit::Year)), Some(1_000_000));
    assert_eq!(tick_us(limit(u32::MAX, Unit::Year)), None);
}
