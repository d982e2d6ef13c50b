//! Candidate rules beside those in force: their metrics and log, and that they change nothing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tollgate::clock::ManualClock;
use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
use tollgate::engine::{Code, KeyFormat, KeyWriter, Modes, Request, Rules, Timestamp};
use tollgate::limiter::{CANDIDATE_GRACE, Candidate, CoreCopy, DecideError, Limiter};
use tollgate::store::Store;
use tollgate::store::redis::{Denials, RedisStore};
use tollgate::telemetry::metrics::{CandidateMetrics, Metrics, MetricsSettings};

use crate::support::redis::Redis;
use crate::support::scenario::descriptor;
use crate::support::{PATIENCE, stores};

const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);
pub(crate) const PREFIX: &str = "p:candidate/";

fn rules(text: &str) -> Arc<Rules> {
    let file = SourceFile { name: "rules.yaml".into(), text: text.into() };
    Arc::new(compile(&[file], CompileOptions::default(), None).expect("the rules are right"))
}

/// Rules of the domain `shop`.
pub(crate) fn shop(descriptors: &str) -> Arc<Rules> {
    rules(&format!("domain: shop\ndescriptors:\n{descriptors}"))
}

/// A limiter with a candidate that counts in the same store.
pub(crate) struct World {
    pub(crate) limiter: Limiter,
    tried: Arc<ArcSwapOption<Rules>>,
    clock: Arc<ManualClock>,
    metrics: Arc<Metrics>,
}

impl World {
    pub(crate) fn new(store: &Arc<dyn Store>, live: Arc<Rules>, tried: Option<Arc<Rules>>) -> Self {
        let (live, tried) = (Arc::new(ArcSwapOption::new(Some(live))), Arc::new(ArcSwapOption::new(tried)));
        let clock = Arc::new(ManualClock::new(NOON));
        let metrics = Arc::new(Metrics::new(MetricsSettings::default(), Arc::clone(&live)));
        let counts = Arc::new(CandidateMetrics::new(Arc::clone(&tried)));
        metrics.show_candidate(&counts);
        let candidate = Candidate {
            rules: Arc::clone(&tried).into(),
            store: Arc::clone(store),
            keys: KeyWriter::new(KeyFormat::Native, PREFIX),
            metrics: counts,
            grace: CANDIDATE_GRACE,
            sampler: Arc::default(),
        };
        let limiter = Limiter {
            overrides: CoreCopy::default(),
            rules: Arc::clone(&live).into(),
            store: Arc::clone(store),
            fallback: stores::fallback(),
            store_timeout: Duration::ZERO,
            clock: Arc::clone(&clock) as _,
            metrics: Arc::clone(&metrics),
            keys: KeyWriter::new(KeyFormat::Native, "p:"),
            modes: Modes::default(),
            candidate: Some(candidate),
            tap: None,
            decision_log: None,
        };
        Self { limiter, tried, clock, metrics }
    }

    async fn decide(&self, domain: &str, asked: &str) -> Result<Code, DecideError> {
        let descriptors = asked.split(';').map(|text| descriptor(text.trim())).collect();
        let request = Request { domain: domain.as_bytes(), descriptors };
        self.limiter.snapshot().decide(&request, None).await.map(|decision| decision.code)
    }

    /// Asks, and says what was answered and what came of the comparison: `OK same`, `OVER looser`,
    /// `error failed`.
    pub(crate) async fn ask(&self, asked: &str) -> String {
        let before = self.outcomes();
        let code = match self.decide("shop", asked).await {
            Ok(Code::Ok) => "OK",
            Ok(Code::OverLimit) => "OVER",
            Err(_) => "error",
        };
        let changed: Vec<_> = before.iter().zip(self.outcomes()).filter(|(a, b)| **a != *b).collect();
        let [((name, before), (_, after))] = &changed[..] else { panic!("one outcome: {changed:?}") };
        assert_eq!(before + 1, *after, "{name}");
        format!("{code} {name}")
    }

    /// Each line is a request and its outcome; `@7` is 7 seconds after noon.
    pub(crate) async fn check(&self, world: &str, script: &str) {
        for line in script.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            if let Some(secs) = line.strip_prefix('@') {
                self.clock.set(NOON.after(Duration::from_secs(secs.parse().expect("seconds"))));
            } else if let Some((asked, expected)) = line.split_once("->") {
                assert_eq!(self.ask(asked.trim()).await, expected.trim(), "{world}: {line}");
            }
        }
    }

    fn outcomes(&self) -> Vec<(String, u64)> {
        self.stats("tollgate.candidate_requests.")
    }

    /// Lines of `/stats` whose names begin with `prefix`, without it.
    pub(crate) fn stats(&self, prefix: &str) -> Vec<(String, u64)> {
        let stats = self.metrics.render_stats();
        let lines = stats.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(": "));
        lines.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
    }
}

/// Runs `script` on a memory store and on a Redis.
async fn check(live: &str, tried: &str, modes: Modes, script: &str) -> Vec<World> {
    let mut worlds = Vec::new();
    for (name, store) in stores::all_for(script, live).await {
        let mut world = World::new(&store.store, shop(live), Some(shop(tried)));
        world.limiter.modes = modes;
        // A busy machine must not decide what the test sees.
        world.limiter.candidate.as_mut().expect("a candidate").grace = Duration::from_secs(10);
        world.check(name, script).await;
        worlds.push(world);
    }
    worlds
}

pub(crate) fn named(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[tokio::test]
async fn the_answer_is_that_of_the_rules_in_force_and_the_difference_is_counted() {
    let live = "
  - {key: user, rate_limit: 2/minute}
  - {key: ip, layer: ip, rate_limit: 1/minute}
";
    let tried = "
  - {key: user, rate_limit: 1/minute}
  - {key: ip, layer: address, rate_limit: 2/minute}
";
    let script = "
user=a -> OK same
user=a -> OK stricter
user=a -> OVER same
ip=i -> OK same
ip=i -> OVER looser
ip=i -> OVER same
other=x -> OK same
user=b*2; ip=j -> OK stricter
ip=k*2; other=x -> OVER looser
@60
user=a -> OK same
user=a*0 -> OK same
user=a*-1 -> OK same
";
    for world in check(live, tried, Modes::default(), script).await {
        let expected = [("shop.shop.ip.looser", 2), ("shop.shop.user.stricter", 2)];
        assert_eq!(world.stats("tollgate.candidate_differing_requests."), named(&expected));
        assert_eq!(world.stats("tollgate.candidate_rules"), named(&[("", 2)]));
    }
}

#[tokio::test]
async fn nothing_of_the_candidate_is_in_the_metrics_of_the_rules_in_force() {
    let live = "
  - {key: user, layer: user, rate_limit: 2/minute}
  - {key: shown, detailed_metric: true, rate_limit: 9/minute}
";
    let tried = "
  - {key: user, layer: user, rate_limit: 0/minute}
  - {key: shown, detailed_metric: true, rate_limit: 0/minute}
  - {key: more, detailed_metric: true, layer: more, rate_limit: 0/minute}
";
    let store = stores::memory();
    let [alone, beside] = [None, Some(shop(tried))].map(|tried| World::new(&store, shop(live), tried));
    let own = |world: &World| {
        let prefixes =
            ["ratelimit.", "tollgate.layer", "tollgate.rules", "tollgate.unknown", "tollgate.store"];
        prefixes.map(|prefix| world.stats(prefix))
    };
    for world in [&alone, &beside] {
        for asked in ["user=a", "user=a*2", "shown=x", "more=x", "user=a*-9"] {
            world.decide("shop", asked).await.expect("the store answers");
        }
        world.decide("elsewhere", "user=a").await.expect("nothing is charged");
    }
    assert_eq!(own(&alone), own(&beside));
    assert_eq!(beside.stats("tollgate.layer_denied_requests."), named(&[("shop.user", 1)]));
}

#[tokio::test]
async fn both_count_for_themselves_under_distinct_names() {
    let server = Redis::start().await;
    let redis = RedisStore::connect(&server.settings()).expect("settings of use");
    redis.ready(PATIENCE).await.expect("it was started just now");
    let store: Arc<dyn Store> = Arc::new(redis);
    let both = "
  - {key: user, rate_limits: [1/minute, 5/hour], penalty: {block: 5m, forget: 1h}}
  - {key: ip, rate_limit: 1/minute}
";
    let world = World::new(&store, shop(both), Some(shop(both)));
    world.check("redis", "user=a -> OK same\nuser=a -> OVER same\nip=i -> OK same\nip=i -> OVER same").await;
    let keys: Vec<_> = server.times_to_live().into_iter().map(|(key, _)| key).collect();
    let (tried, live): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.starts_with(PREFIX));
    let tried: Vec<_> = tried.iter().map(|key| key.replacen(PREFIX, "p:", 1)).collect();
    assert_eq!(tried.iter().collect::<Vec<_>>(), live);
    assert_eq!(live.len(), 4, "two limits, a lockout and a limit: {keys:?}");
    // Whatever compares next finds what was counted.
    let other = World::new(&store, shop(both), Some(shop("  - {key: ip, rate_limit: 2/minute}")));
    other.check("redis", "ip=i*0 -> OVER looser\nip=i -> OVER same\nip=j*2 -> OVER looser").await;
}

#[tokio::test]
async fn redis_is_asked_for_both_at_once() {
    let server = Redis::start().await;
    let redis = RedisStore::connect(&server.settings()).expect("settings of use");
    redis.ready(PATIENCE).await.expect("it was started just now");
    let beside: Arc<dyn Store> = Arc::new(redis.beside(Some(Arc::new(Denials::new(1 << 20)))));
    let store: Arc<dyn Store> = Arc::new(redis);
    // What takes the script is one call of it for all that go out together.
    let both = "  - {key: user, charge: if_allowed, rate_limit: 1/minute}";
    let mut world = World::new(&store, shop(both), Some(shop(both)));
    if let Some(candidate) = &mut world.limiter.candidate {
        candidate.store = beside;
    }
    world.check("redis", "user=a -> OK same").await;
    server.command(["CONFIG", "RESETSTAT"]);
    world.check("redis", "user=b -> OK same").await;
    let stats = server.command(["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).expect("it was called");
    assert!(calls.starts_with("calls=1,"), "{calls}");
    assert_eq!(server.len(), 4, "two counters each");
}

#[tokio::test]
async fn a_lockout_of_one_does_not_affect_the_other() {
    let live = "  - {key: login, rate_limit: 2/minute}";
    let tried = "  - {key: login, rate_limit: 2/minute, penalty: {block: 5m, forget: 1h, name: lockout}}";
    let script = "
login=a*2 -> OK same
login=a -> OVER same            # the candidate begins to block
@60
login=a -> OK stricter
login=a -> OK stricter
login=a -> OVER same
login=b -> OK same
@301
login=a -> OK same
";
    check(live, tried, Modes::default(), script).await;
    let script =
        script.replace("OK stricter", "OVER looser").replace("login=a -> OVER same\nlogin=b", "login=b");
    check(tried, live, Modes::default(), &script).await;
}

#[tokio::test]
async fn rules_that_are_the_same_decide_the_same_whatever_holds_for_all_of_them() {
    let both = "
  - {key: user, charge: if_allowed, rate_limits: [1/second, 2/minute]}
  - {key: a, rate_limit: 1/minute}
  - {key: b, charge: if_allowed, rate_limit: 2/minute}
";
    let stricter = both.replace("key: a, rate_limit: 1/", "key: a, rate_limit: 0/");
    let asked = ["user=x", "user=x*2", "a=x; b=x", "a=x; b=x", "a=x; b=x", "user=x; b=y*2", "b=y; a=y"];
    let default = Modes::default();
    let all = [
        default,
        Modes { shadow_mode: true, ..default },
        Modes { quota_mode: true, ..default },
        Modes { shadow_mode: true, quota_mode: true, ..default },
    ];
    for modes in all {
        let same = asked.map(|asked| format!("{asked} -> ? same\n")).concat();
        for (name, store) in stores::all().await {
            let mut world = World::new(&store.store, shop(both), Some(shop(both)));
            world.limiter.modes = modes;
            for line in same.lines() {
                let (asked, _) = line.split_once(" ->").expect("a question");
                let answer = world.ask(asked).await;
                assert!(answer.ends_with(" same"), "{name}, {modes:?}: {asked}: {answer}");
                assert!(!modes.shadow_mode || answer.starts_with("OK"), "{answer}");
            }
        }
        // What is compared is what the rules say.
        let script = "a=z -> OK stricter";
        check(both, &stricter, modes, script).await;
    }
    let script = "a=z -> OK looser";
    check(&stricter, both, Modes { shadow_mode: true, ..default }, script).await;
}

#[tokio::test]
async fn enforced_shares_are_the_same_on_both_sides() {
    let share = |percent: u32| format!("  - {{key: user, rate_limit: 0/day, enforce_percent: {percent}}}");
    for (live, tried, outcome, users) in [
        (50, 50, "same", 400..=400),
        (0, 100, "stricter", 400..=400),
        // A quarter, and nobody the other way round.
        (50, 25, "looser", 60..=140),
        (25, 50, "stricter", 60..=140),
    ] {
        let world = World::new(&stores::memory(), shop(&share(live)), Some(shop(&share(tried))));
        for user in 0..400 {
            world.ask(&format!("user={user}")).await;
        }
        let outcomes = world.outcomes();
        let count = |of: &str| outcomes.iter().find(|(name, _)| name == of).map_or(0, |(_, count)| *count);
        assert!(users.contains(&count(outcome)), "{live} beside {tried}: {outcomes:?}");
        let others = if outcome == "same" { 0 } else { count("same") };
        assert_eq!(count(outcome) + others, 400, "{live} beside {tried}: {outcomes:?}");
    }
}

#[tokio::test]
async fn candidate_rules_come_change_and_go_while_requests_are_decided() {
    let world = World::new(&stores::memory(), shop("  - {key: user, rate_limit: 1/minute}"), None);
    let ask = async || world.ask("user=a").await;
    assert_eq!((ask().await, ask().await), ("OK failed".to_owned(), "OVER failed".to_owned()));
    assert_eq!(world.stats("tollgate.candidate_rules"), named(&[("", 0)]));
    world.tried.store(Some(shop("  - {key: user, rate_limit: 1/minute}")));
    assert_eq!((ask().await, ask().await), ("OVER looser".to_owned(), "OVER same".to_owned()));
    world.tried.store(Some(shop("  - {key: user, rate_limit: 4/minute}")));
    assert_eq!((ask().await, ask().await), ("OVER looser".to_owned(), "OVER looser".to_owned()));
    assert_eq!(ask().await, "OVER same", "what was counted stays counted");
    world.tried.store(Some(rules("domain: elsewhere")));
    assert_eq!(ask().await, "OVER looser", "what it lacks has no limit");
    world.tried.store(None);
    assert_eq!(ask().await, "OVER failed");
}

#[tokio::test]
async fn a_limit_that_the_caller_brings_is_compared_where_one_side_does_not_know_the_domain() {
    use tollgate::engine::{Limit, Unit};
    let world = World::new(
        &stores::memory(),
        shop("  - {key: user, rate_limit: 9/day}"),
        Some(rules("domain: other")),
    );
    let mut asked = descriptor("user=a");
    asked.limit_override = Some(Limit::per(0, Unit::Minute));
    let request = Request { domain: b"shop", descriptors: [asked].into_iter().collect() };
    let code = world.limiter.snapshot().decide(&request, None).await.expect("the store answers").code;
    assert_eq!(code, Code::OverLimit);
    let expected = named(&[("shop.override.looser", 1)]);
    assert_eq!(world.stats("tollgate.candidate_differing_requests."), expected);
}
