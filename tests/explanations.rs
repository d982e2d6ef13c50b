//! Explanations agree with decisions, for all kinds of rules and overrides.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::{Clock as _, ManualClock};
use tollgate::engine::overrides::{Effect, Override, Overrides};
use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
use tollgate::engine::{Code, Descriptor, Entry, Hits, Limit, Request, Timestamp, Unit};
use tollgate::lab::{ExplainContext, Explanation, Verdict, explain};
use tollgate::limiter::Limiter;

use crate::support::limiter::limiter;
use crate::support::stores;

const SEEDS: u64 = 20;
const STEPS: usize = 200;

const RULES: &str = "
domain: d
descriptors:
  - {key: fixed, rate_limit: 5/minute}
  - {key: if_allowed, charge: if_allowed, rate_limit: 5/minute}
  - {key: overdraft, charge: overdraft, rate_limit: 5/minute}
  - {key: sliding, rate_limit: {unit: minute, requests_per_unit: 6, algorithm: sliding_window}}
  - {key: log, rate_limit: {unit: minute, requests_per_unit: 4, algorithm: sliding_log}}
  - {key: bucket, rate_limit: {unit: minute, requests_per_unit: 30, algorithm: token_bucket, burst: 5}}
  - {key: several, rate_limits: [3/second, 8/minute]}
  - {key: shadow, shadow_mode: true, rate_limit: 2/minute}
  - {key: staged, enforce_percent: 50, rate_limit: 2/minute}
  - {key: small, max_hits: 3, rate_limit: 9/minute}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: lockout, rate_limit: 3/minute, penalty: {after: 2, within: 10m, block: [1m, 5m]}}
  - {key: budget, rate_limit: 30/minute, reserve: {amount: 8, ttl: 20s}}
  - {key: estimate, rate_limit: 20/minute, reserve: {amount: 8, ttl: 20s, on_look: false}}
  - {key: places, concurrency: {max: 6, ttl: 20s}}
  - {key: many, rate_limit: 20000/minute, reserve: {amount: 1, ttl: 20s}}
";

const KEYS: [&str; 16] = [
    "fixed",
    "if_allowed",
    "overdraft",
    "sliding",
    "log",
    "bucket",
    "several",
    "shadow",
    "staged",
    "small",
    "free",
    "lockout",
    "budget",
    "estimate",
    "places",
    "unknown",
];
const VALUES: [&str; 2] = ["a", "b"];

struct World {
    random: fastrand::Rng,
    clock: Arc<ManualClock>,
    limiter: Limiter,
}

impl World {
    fn new(seed: u64) -> Self {
        let file = SourceFile { name: "rules.yaml".into(), text: RULES.into() };
        let rules = compile(&[file], CompileOptions::default(), None).expect("the rules are right");
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        let limiter =
            Limiter { store: stores::memory(), clock: Arc::clone(&clock) as _, ..limiter(Arc::new(rules)) };
        Self { random: fastrand::Rng::with_seed(seed), clock, limiter }
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.random.usize(..items.len())]
    }

    /// Replaces the overrides in force by random ones, or by none.
    fn change_overrides(&mut self) {
        let mut overrides = Overrides::default();
        for _ in 0..self.random.usize(..6) {
            let (key, value) = (self.one_of(&KEYS), self.one_of(&VALUES));
            let ends_at = self.clock.now().after(Duration::from_secs(self.random.u64(1..90)));
            let limit = Limit::per(self.random.u32(..8), self.one_of(&[Unit::Second, Unit::Minute]));
            let effect =
                self.one_of(&[Effect::Block, Effect::Exempt, Effect::Limit(limit), Effect::Limit(limit)]);
            let entries = [(key.as_bytes().into(), value.as_bytes().into())].into();
            overrides.insert(b"d", Override { entries, effect, ends_at });
            if self.random.u8(..3) == 0 {
                overrides.shadow(&format!("d.{key}"), ends_at);
            }
        }
        self.limiter.overrides.store(Some(Arc::new(overrides)));
    }

    /// A request whose descriptors have different counters.
    fn request(&mut self) -> Request<'static> {
        let mut keys = KEYS;
        self.random.shuffle(&mut keys);
        let count = self.random.usize(1..=3);
        let hits = self.one_of(&[1, 1, 1, 2, 3, 6]);
        let descriptor = |key: &&'static str| {
            let value = self.one_of(&VALUES);
            // A descriptor of a budget without hits reserves the amount of the rule.
            let hits = if *key == "budget" { self.one_of(&[0, 0, hits]) } else { hits };
            Descriptor {
                entries: [Entry { key: key.as_bytes(), value: value.as_bytes() }].into_iter().collect(),
                hits: Hits::Add(hits),
                limit_override: None,
            }
        };
        Request { domain: b"d", descriptors: keys.iter().take(count).map(descriptor).collect() }
    }

    async fn explain(&self, request: &Request<'_>) -> Explanation {
        let snapshot = self.limiter.snapshot();
        let rules = snapshot.rules().expect("rules");
        let overrides = snapshot.overrides(self.clock.now());
        let charges = self.limiter.peek_charges(rules, overrides, request);
        let readings = self.limiter.peek(rules, &charges).await.expect("readings");
        let (keys, modes) = (&self.limiter.keys, &self.limiter.modes);
        explain(ExplainContext { rules, overrides, keys, modes }, request, Some(&readings))
    }
}

#[tokio::test]
async fn an_explanation_predicts_the_next_decision() {
    let (mut denied, mut overridden) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            match world.random.u8(..10) {
                0 => world.clock.advance(Duration::from_millis(world.random.u64(..40_000))),
                1 => world.change_overrides(),
                _ => {}
            }
            let request = world.request();
            let explanation = world.explain(&request).await;
            assert_eq!(explanation, world.explain(&request).await, "it changes nothing");
            let snapshot = world.limiter.snapshot();
            let decision = snapshot.decide(&request, None).await.expect("a decision");
            let expected = match decision.code {
                Code::Ok => Verdict::Allowed,
                Code::OverLimit => Verdict::Denied,
            };
            assert_eq!(
                explanation.next,
                Some(expected),
                "seed {seed}, step {step}: {request:?}\n{explanation}\n{decision:#?}"
            );
            for (explained, status) in explanation.descriptors.iter().zip(&decision.statuses) {
                let of_descriptor = explained.overridden.as_deref().filter(|kind| *kind != "shadow");
                assert_eq!(
                    of_descriptor,
                    status.overridden.map(|kind| kind.name()),
                    "seed {seed}, step {step}"
                );
                overridden += usize::from(of_descriptor.is_some());
            }
            denied += usize::from(decision.code == Code::OverLimit);
        }
    }
    let steps = usize::try_from(SEEDS).expect("few") * STEPS;
    assert!((steps / 10..steps * 9 / 10).contains(&denied), "{denied} of {steps} are denied");
    assert!(overridden > steps / 20, "{overridden} of {steps} are overridden");
}

/// The number of holds on a key is bounded, whatever is left of its budget.
#[tokio::test]
async fn a_reservation_is_denied_if_its_key_has_the_maximum_number_of_holds() {
    let world = World::new(0);
    let entries = [Entry { key: b"many", value: b"a" }].into_iter().collect();
    let descriptor = Descriptor { entries, hits: Hits::Add(0), limit_override: None };
    let request = Request { domain: b"d", descriptors: [descriptor].into_iter().collect() };
    let snapshot = world.limiter.snapshot();
    for _ in 0..10_000 {
        assert_eq!(snapshot.decide(&request, None).await.expect("a decision").code, Code::Ok);
    }
    let explanation = world.explain(&request).await;
    assert_eq!(explanation.next, Some(Verdict::Denied), "{explanation}");
    let next = explanation.descriptors[0].next.as_ref().expect("a result");
    assert!(!next.held, "not because of the amount");
    assert_eq!(snapshot.decide(&request, None).await.expect("a decision").code, Code::OverLimit);
}
