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
    Code, Descriptor, Entry, Hits, KeyFormat, KeyWriter, Limit, Modes, Request, Rules, Timestamp, Unit,
    Window,
};
use tollgate::limiter::{CANDIDATE_GRACE, Candidate, CoreCopy, DecideError, Limiter};
use tollgate::store::{Charge, ChargeFuture, Store, StoreError};
use tollgate::telemetry::metrics::Metrics;

use crate::support::stores;

const KEYS: [&str; 4] = ["k0", "k1", "k2", "k3"];
const VALUES: [&[u8]; 3] = [b"a", b"b", b"\xff"];
const STEPS: usize = 400;

/// A store whose connection can be cut.
struct FaultyStore {
    inner: Arc<dyn Store>,
    away: AtomicBool,
}

impl Store for FaultyStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        if self.away.load(Ordering::Relaxed) {
            let failed = charges.iter().map(|_| Err(StoreError::Unreachable("it is away".into()))).collect();
            return Box::pin(async { failed });
        }
        self.inner.charge(charges, now)
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        self.inner.refund(refunds, now);
    }
}

/// The model: a limit for each key; a count for each key, value, unit and window.
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

/// A key, its value, and what to count.
type Asked = (&'static str, &'static [u8], Hits);

impl Model {
    /// A code and what is left for each; `None` where that takes a store, and it is away.
    fn ask_all(&mut self, asked: &[Asked], store: &FaultyStore, now: Timestamp) -> Option<Vec<(Code, u32)>> {
        let limited = asked.iter().any(|(key, ..)| self.limits.contains_key(key));
        if limited && store.away.load(Ordering::Relaxed) {
            return None;
        }
        Some(asked.iter().map(|(key, value, hits)| self.ask(key, value, *hits, now)).collect())
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

/// A limiter, with a candidate whose store fails by itself or without one, and the models of both.
struct World {
    random: fastrand::Rng,
    clock: Arc<ManualClock>,
    limiter: Limiter,
    metrics: Arc<Metrics>,
    store: Arc<FaultyStore>,
    beside: Arc<FaultyStore>,
    rules: Arc<Rules>,
    model: Model,
    /// Of the candidate. It knows no domain while there are no rules.
    tried: Option<Model>,
    /// Requests by what came of the comparison: same, stricter, looser, failed.
    expected: [u64; 4],
}

impl World {
    fn new(seed: u64, candidate: Option<Candidate>, beside: Arc<FaultyStore>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        let store = faulty(stores::memory());
        let metrics = stores::metrics();
        if let Some(candidate) = &candidate {
            metrics.show_candidate(&candidate.metrics);
        }
        let limiter = Limiter {
            overrides: CoreCopy::default(),
            rules: CoreCopy::default(),
            store: Arc::clone(&store) as _,
            fallback: stores::fallback(),
            store_timeout: Duration::ZERO,
            clock: Arc::clone(&clock) as _,
            metrics: Arc::clone(&metrics),
            keys: KeyWriter::default(),
            modes: Modes::default(),
            candidate,
            tap: None,
            decision_log: None,
        };
        let mut model = Model::default();
        let rules = change_rules(&mut random, &mut model, None);
        Self { random, clock, limiter, metrics, store, beside, rules, model, tried: None, expected: [0; 4] }
    }

    async fn step(&mut self, at: &str) {
        let random = &mut self.random;
        match random.u8(..20) {
            0 => self.rules = change_rules(random, &mut self.model, Some(&self.rules)),
            1 => self.clock.advance(Duration::from_millis(random.u64(..5_000))),
            2 => self.clock.advance(Duration::from_secs(random.u64(..100_000))),
            3 => self.store.away.store(random.bool(), Ordering::Relaxed),
            4 => self.change_candidate(),
            _ => self.ask(at).await,
        }
    }

    /// Its rules come, change or go, or its store does. The dice fall the same where there is no candidate.
    fn change_candidate(&mut self) {
        let mut random = self.random.fork();
        let Some(candidate) = &self.limiter.candidate else { return };
        match random.u8(..8) {
            0 => {
                candidate.rules.store(None);
                // Its counters stay where they are.
                if let Some(tried) = &mut self.tried {
                    tried.limits.clear();
                }
            }
            1..4 => self.beside.away.store(random.bool(), Ordering::Relaxed),
            _ => {
                let previous = candidate.rules.load_full();
                let tried = self.tried.get_or_insert_default();
                candidate.rules.store(Some(change_rules(&mut random, tried, previous.as_deref())));
            }
        }
    }

    async fn ask(&mut self, at: &str) {
        let random = &mut self.random;
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
        self.limiter.rules.store(Some(Arc::clone(&self.rules)));
        let snapshot = self.limiter.snapshot();
        let decision = snapshot.decide(&request, None).await;
        let got = decision.map(|decision| {
            let statuses = decision.statuses.iter().map(|status| (status.code, status.remaining));
            (decision.code, statuses.collect::<Vec<_>>())
        });
        drop(snapshot);

        let now = self.clock.now();
        let live = self.model.ask_all(&asked, &self.store, now);
        self.expect(live.as_deref(), &asked, now);
        let Some(expected) = live else {
            assert!(matches!(got, Err(DecideError::Store(StoreError::Unreachable(_)))), "{at}");
            return;
        };
        let (code, statuses) = got.expect("the store is there");
        assert_eq!(statuses, expected, "{at}: {asked:?}");
        assert_eq!(code == Code::OverLimit, is_denied(&expected), "{at}: {asked:?}");
        self.check_comparisons(at);
    }

    /// Expected outcome of the comparison with the rules in force.
    fn expect(&mut self, live: Option<&[(Code, u32)]>, asked: &[Asked], now: Timestamp) {
        let Some(candidate) = &self.limiter.candidate else { return };
        let has_rules = candidate.rules.load().is_some();
        let tried = self.tried.as_mut().filter(|_| has_rules);
        let tried = tried.and_then(|tried| tried.ask_all(asked, &self.beside, now));
        let outcome = match live.zip(tried.as_deref()).map(|(a, b)| (is_denied(a), is_denied(b))) {
            Some((false, true)) => 1,
            Some((true, false)) => 2,
            Some(_) => 0,
            None => 3,
        };
        self.expected[outcome] += 1;
    }

    fn check_comparisons(&self, at: &str) {
        if self.limiter.candidate.is_none() {
            return;
        }
        let stats = self.metrics.render_stats();
        let count = |outcome: &str| -> u64 {
            let name = format!("tollgate.candidate_requests.{outcome}: ");
            let count = stats.lines().find_map(|line| line.strip_prefix(&name)).expect("a count");
            count.parse().expect("a number")
        };
        let counted = ["same", "stricter", "looser", "failed"].map(count);
        assert_eq!(counted, self.expected, "{at}: same, stricter, looser, failed");
    }
}

fn is_denied(statuses: &[(Code, u32)]) -> bool {
    statuses.iter().any(|(code, _)| *code == Code::OverLimit)
}

fn faulty(inner: Arc<dyn Store>) -> Arc<FaultyStore> {
    Arc::new(FaultyStore { inner, away: AtomicBool::new(false) })
}

#[tokio::test]
async fn the_limiter_does_what_the_model_does() {
    for seed in 0..200 {
        let mut world = World::new(seed, None, faulty(stores::memory()));
        for step in 0..STEPS {
            world.step(&format!("seed {seed}, step {step}")).await;
        }
    }
}

#[tokio::test]
async fn a_candidate_does_what_its_own_model_does_and_changes_no_decision() {
    let mut all = [0; 4];
    for seed in 0..200 {
        // Both count in one store, or each in its own.
        let shared = stores::memory();
        let beside = faulty(if seed % 2 == 0 { Arc::clone(&shared) } else { stores::memory() });
        let candidate = Candidate {
            rules: CoreCopy::default(),
            store: Arc::clone(&beside) as _,
            keys: KeyWriter::new(KeyFormat::Native, "candidate/"),
            metrics: Arc::default(),
            grace: CANDIDATE_GRACE,
            sampler: Arc::default(),
        };
        let mut world = World::new(seed, Some(candidate), beside);
        if seed % 2 == 0 {
            world.store = faulty(shared);
            world.limiter.store = Arc::clone(&world.store) as _;
        }
        for step in 0..STEPS {
            world.step(&format!("seed {seed}, step {step}")).await;
        }
        all.iter_mut().zip(world.expected).for_each(|(all, expected)| *all += expected);
    }
    assert!(all.iter().all(|count| *count > 100), "every outcome is met: {all:?}");
}
