use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use smallvec::{SmallVec, smallvec};

use super::*;
use crate::clock::ManualClock;
use crate::engine::rules::{CompileOptions, SourceFile, compile};
use crate::engine::{Code, Descriptor, Entry, KeyWriter, Modes};
use crate::limiter::{CoreCopy, Limiter};
use crate::store::fallback::Fallback;
use crate::store::memory::{MemorySettings, MemoryStore};

const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A limiter with one observed core.
struct World {
    observer: Observer,
    limiter: Limiter,
    clock: Arc<ManualClock>,
}

impl World {
    fn new(rules: &str) -> Self {
        let observer = Observer::default();
        let file = SourceFile { name: "rules.yaml".into(), text: rules.into() };
        let rules = compile(&[file], CompileOptions::default(), None).unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let limiter = Limiter {
            overrides: CoreCopy::default(),
            rules: Arc::new(ArcSwapOption::from_pointee(rules)).into(),
            store: Arc::new(MemoryStore::new(MemorySettings::of_counters(10_000))),
            fallback: Arc::new(Fallback::new(MemorySettings::of_counters(1_000), 1)),
            store_timeout: Duration::ZERO,
            clock: Arc::clone(&clock) as _,
            metrics: Arc::default(),
            keys: KeyWriter::default(),
            modes: Modes::default(),
            candidate: None,
            tap: Some(observer.tap()),
            decision_log: None,
        };
        Self { observer, limiter, clock }
    }

    async fn ask(&self, user: &str) -> Code {
        let entries: SmallVec<_> = smallvec![Entry { key: b"user", value: user.as_bytes() }];
        let descriptor = Descriptor { entries, hits: Hits::Add(1), limit_override: None };
        let request = Request { domain: b"shop", descriptors: smallvec![descriptor] };
        self.limiter.snapshot().decide(&request, None).await.unwrap().code
    }

    /// Users of the first ten keys, with their counts.
    fn top(&self, by: TopBy, window_secs: u64) -> Vec<(String, u64)> {
        let (top, _) = self.observer.top(by, window_secs, 10, self.limiter.clock.now());
        let user = |key: &[u8]| {
            let parts = self.limiter.keys.parse_counter_key(key).unwrap();
            String::from_utf8(parts.entries[0].1.clone()).unwrap()
        };
        top.iter().map(|key| (user(&key.key), key.count)).collect()
    }
}

const FIVE_A_DAY: &str = "domain: shop\ndescriptors:\n  - {key: user, layer: user, rate_limit: 5/day}\n";

#[tokio::test]
async fn clients_over_their_limit_are_the_first_by_denials() {
    let world = World::new(FIVE_A_DAY);
    for _ in 0..40 {
        world.ask("greedy").await;
    }
    for _ in 0..8 {
        world.ask("eager").await;
    }
    for _ in 0..3 {
        world.ask("modest").await;
    }
    assert_eq!(world.top(TopBy::Denied, 60), [("greedy".to_owned(), 35), ("eager".to_owned(), 3)]);
    let (top, from) = world.observer.top(TopBy::Denied, 60, 10, START);
    assert_eq!((top[0].used, top[0].is_over, top[0].error), (40, true, 0));
    assert!(top[0].resets_at > START && from <= START.as_secs() && from + 120 > START.as_secs());
    assert_eq!(world.top(TopBy::Use, 60)[0].0, "greedy");
}

#[tokio::test]
async fn hits_that_pass_are_estimated_from_a_sample() {
    let world = World::new("domain: shop\ndescriptors:\n  - {key: user, rate_limit: 100000/day}\n");
    // Two requests that take turns: a sample of every 16th would see one of them only.
    for _ in 0..8_000 {
        world.ask("alice").await;
        world.ask("bob").await;
    }
    let top = world.top(TopBy::Hits, 60);
    assert_eq!(top.len(), 2, "{top:?}");
    assert!(top.iter().all(|(_, hits)| (5_000..11_000).contains(hits)), "{top:?}");
    assert!(world.top(TopBy::Denied, 60).is_empty());
}

#[tokio::test]
async fn windows_forget() {
    let world = World::new(FIVE_A_DAY);
    for _ in 0..7 {
        world.ask("alice").await;
    }
    world.clock.advance(Duration::from_secs(4 * 60));
    assert!(world.top(TopBy::Denied, 60).is_empty());
    assert_eq!(world.top(TopBy::Denied, 300).len(), 1);
    world.clock.advance(Duration::from_secs(40 * 60));
    assert_eq!(world.top(TopBy::Denied, 3600).len(), 1);
    world.clock.advance(Duration::from_secs(40 * 60));
    assert!(world.top(TopBy::Denied, 3600).is_empty());
}

#[tokio::test]
async fn a_denial_has_its_rule_layer_use_and_wait_and_escapes_texts_of_the_client() {
    let world = World::new(FIVE_A_DAY);
    for _ in 0..6 {
        world.ask("eve\n<b>").await;
    }
    let [denial] = &world.observer.denials(Timestamp::from_secs(0), |_| true, 10)[..] else {
        panic!("one denial")
    };
    assert_eq!(denial.descriptors, r"user=eve\n<b>");
    assert_eq!((denial.rule.as_deref(), denial.layer.as_deref()), (Some("shop.user"), Some("user")));
    assert_eq!((denial.used, denial.reason, denial.enforced), (Some(6), DenialReason::OverLimit, true));
    assert!(denial.wait.is_some_and(|wait| wait > Duration::ZERO));
}

#[tokio::test]
async fn a_flood_of_denials_is_sampled_and_its_memory_bounded() {
    let world = World::new("domain: shop\ndescriptors:\n  - {key: user, rate_limit: 0/day}\n");
    for number in 0..17_000_u32 {
        world.ask(&(number % 1_500).to_string()).await;
    }
    let kept = world.observer.denials(Timestamp::from_secs(0), |_| true, usize::MAX).len();
    assert_eq!(kept, MAX_KEPT_PER_SEC as usize);
    let counted: u64 = {
        let core = world.observer.cores.lock()[0].clone();
        let core = core.lock();
        let periods: Vec<_> =
            core.recent.periods(60, START).map(|period| period.sketch(TopBy::Denied).copy()).collect();
        let all = merge(&periods, |_, _| {});
        assert_eq!(all.len(), recent::SKETCH_KEYS);
        all.iter().map(|counted| counted.weight).sum()
    };
    assert!((16_000..18_000).contains(&counted), "{counted}");
}
