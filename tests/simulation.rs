//! A limiter under seeded chaos — a clock that jumps, rules that change, a store that fails — against
//! a model of a few lines. A failure names its seed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tollgate::clock::{Clock as _, ManualClock};
use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
use tollgate::engine::{
    Code, Descriptor, Entry, Hits, KeyWriter, Limit, Modes, Request, Rules, Timestamp, Unit, Window,
};
use tollgate::limiter::Limiter;
use tollgate::store::{Charge, Charging, Store, StoreError};

use crate::support::stores;

const KEYS: [&str; 4] = ["k0", "k1", "k2", "k3"];
const VALUES: [&[u8]; 3] = [b"a", b"b", b"\xff"];
const STEPS: usize = 400;

/// A store that loses its connection when it is told to.
struct FaultyStore {
    inner: Arc<dyn Store>,
    away: AtomicBool,
}

impl Store for FaultyStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a> {
        if self.away.load(Ordering::Relaxed) {
            let failed = charges.iter().map(|_| Err(StoreError::Unreachable("it is away".into()))).collect();
            return Box::pin(async { failed });
        }
        self.inner.charge(charges, now)
    }
}

/// What should happen: a limit for each key, a count for each key, value, limit's unit and window.
#[derive(Default)]
struct Model {
    limits: HashMap<&'static str, Limit>,
    used: HashMap<(&'static str, &'static [u8], Window, u64), u64>,
}

impl Model {
    fn ask(&mut self, key: &'static str, value: &'static [u8], hits: Hits, now: Timestamp) -> (Code, u32) {
        let Some(limit) = self.limits.get(key) else { return (Code::Ok, 0) };
        let used = self.used.entry((key, value, limit.window, limit.window.start_secs(now))).or_default();
        match hits {
            Hits::Add(hits) => *used += u64::from(hits),
            Hits::Refund(hits) => *used = used.saturating_sub(hits.into()),
        }
        let over = *used > limit.requests_per_unit.into() && matches!(hits, Hits::Add(_));
        let left = u64::from(limit.requests_per_unit).saturating_sub(*used);
        (if over { Code::OverLimit } else { Code::Ok }, u32::try_from(left).expect("limits are small"))
    }
}

fn change_rules(random: &mut fastrand::Rng, model: &mut Model, previous: Option<&Rules>) -> Arc<Rules> {
    model.limits.clear();
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for key in KEYS {
        if random.u8(..5) > 0 {
            let unit = Unit::ALL[random.usize(..4)];
            let limit = Limit::per(random.u32(0..12), unit);
            model.limits.insert(key, limit);
            let (count, unit) = (limit.requests_per_unit, unit.name());
            writeln!(text, "  - {{key: {key}, rate_limit: {{unit: {unit}, requests_per_unit: {count}}}}}")
                .expect("a string takes all");
        } else {
            writeln!(text, "  - {{key: {key}}}").expect("a string takes all");
        }
    }
    let file = SourceFile { name: "rules.yaml".into(), text };
    Arc::new(compile(&[file], CompileOptions::default(), previous).expect("the rules are right"))
}

async fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let store = Arc::new(FaultyStore { inner: stores::memory(), away: AtomicBool::new(false) });
    let limiter = Limiter {
        rules: Arc::default(),
        store: Arc::clone(&store) as _,
        fallback: stores::fallback(),
        patience: Duration::ZERO,
        clock: Arc::clone(&clock) as _,
        metrics: stores::metrics(),
        keys: KeyWriter::default(),
        modes: Modes::default(),
        candidate: None,
    };
    let mut model = Model::default();
    let mut rules = change_rules(&mut random, &mut model, None);
    for step in 0..STEPS {
        match random.u8(..20) {
            0 => rules = change_rules(&mut random, &mut model, Some(&rules)),
            1 => clock.advance(Duration::from_millis(random.u64(..5_000))),
            2 => clock.advance(Duration::from_secs(random.u64(..100_000))),
            3 => store.away.store(random.bool(), Ordering::Relaxed),
            _ => ask(seed, step, &mut random, &limiter, &store, &rules, &mut model, clock.now()).await,
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "they are the simulation's whole state")]
async fn ask(
    seed: u64,
    step: usize,
    random: &mut fastrand::Rng,
    limiter: &Limiter,
    store: &FaultyStore,
    rules: &Rules,
    model: &mut Model,
    now: Timestamp,
) {
    let asked: Vec<_> = (0..random.usize(1..4))
        .map(|_| {
            let hits = random.u32(..4);
            let hits = if random.u8(..6) == 0 { Hits::Refund(hits) } else { Hits::Add(hits) };
            (KEYS[random.usize(..4)], VALUES[random.usize(..3)], hits)
        })
        .collect();
    let descriptors = asked.iter().map(|(key, value, hits)| Descriptor {
        entries: [Entry { key: key.as_bytes(), value }].into_iter().collect(),
        hits: *hits,
        limit_override: None,
    });
    let request = Request { domain: b"d", descriptors: descriptors.collect() };
    let decision = limiter.decide(rules, &request, None).await;
    let limited = asked.iter().any(|(key, ..)| model.limits.contains_key(key));
    if store.away.load(Ordering::Relaxed) && limited {
        assert!(matches!(decision, Err(StoreError::Unreachable(_))), "seed {seed}, step {step}");
        return;
    }
    let decision = decision.expect("the store is there");
    let expected: Vec<_> = asked.iter().map(|(key, value, hits)| model.ask(key, value, *hits, now)).collect();
    let got: Vec<_> = decision.statuses.iter().map(|status| (status.code, status.remaining)).collect();
    assert_eq!(got, expected, "seed {seed}, step {step}: {asked:?}");
    let denied = expected.iter().any(|(code, _)| *code == Code::OverLimit);
    assert_eq!(decision.code == Code::OverLimit, denied, "seed {seed}, step {step}: {asked:?}");
}

#[tokio::test]
async fn the_limiter_does_what_the_model_does() {
    for seed in 0..200 {
        run(seed).await;
    }
}
