//! Scenarios from rules to answers, the same on every store.
//!
//! A scenario is rules and a script. A line of the script asks once and says what the answer is:
//!
//! ```text
//! domain shop                          asked from here on; before, it is `test-domain`
//! @1200                                the time from here on, in seconds since the epoch
//! user=bob -> OK | OK 4                overall code; code and remaining hits of each descriptor
//! user=bob*3; path=/ -> OVER | …       two descriptors; the first one counts 3 hits
//! user=bob*0, user=bob*-2              a peek; a refund of 2
//! user=bob -> OK | OK -                no limit applies
//! user=bob -> OVER | OVER 0 in 26      and after so many seconds it would pass, or is reset
//! user=bob -> OVER by ip | OVER 0      and this layer is the one that denies
//! user=bob -> OK                       any status for each descriptor
//! user=bob -> ?                        any answer: the test asserts on the sums
//! ```

use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;
use tollgate::clock::ManualClock;
use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
use tollgate::engine::{
    Code, Decision, Descriptor, Entry, HitCounts, Hits, KeyFormat, KeyWriter, Modes, Request, Status,
    Timestamp,
};
use tollgate::limiter::{CoreCopy, Limiter};
use tollgate::store::Store;

use super::stores;

/// Runs `script` under `rules` on a memory store and on a Redis, in both key formats.
pub(crate) async fn check(rules: &str, modes: Modes, script: &str) -> HitCounts {
    let mut totals = Vec::new();
    for (name, store) in stores::all_for(script, rules).await {
        for format in [KeyFormat::Native, KeyFormat::Envoyproxy] {
            let keys = KeyWriter::new(format, &format!("{format:?}:"));
            let world = World::new(Arc::clone(&store.store), keys, modes);
            totals.push(world.run(rules, script, &format!("{name}, {format:?}")).await);
        }
    }
    assert!(totals.windows(2).all(|pair| pair[0] == pair[1]), "stores differ in what they count: {totals:?}");
    totals[0]
}

struct World {
    limiter: Limiter,
    clock: Arc<ManualClock>,
}

impl World {
    fn new(store: Arc<dyn Store>, keys: KeyWriter, modes: Modes) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_200)));
        let limiter = Limiter {
            overrides: CoreCopy::default(),
            rules: CoreCopy::default(),
            store,
            fallback: stores::fallback(),
            store_timeout: Duration::ZERO,
            clock: Arc::clone(&clock) as _,
            metrics: stores::metrics(),
            keys,
            modes,
            candidate: None,
            tap: None,
            decision_log: None,
        };
        Self { limiter, clock }
    }

    async fn run(&self, rules: &str, script: &str, world: &str) -> HitCounts {
        let file = SourceFile { name: "rules.yaml".into(), text: rules.into() };
        let rules = compile(&[file], CompileOptions::default(), None).expect("the rules are right");
        self.limiter.rules.store(Some(Arc::new(rules)));
        let snapshot = self.limiter.snapshot();
        let mut sum = HitCounts::default();
        let mut domain = "test-domain";
        for (number, line) in script.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let at = format!("{world}: line {}: {line}", number + 1);
            if let Some(secs) = line.strip_prefix('@') {
                let since_epoch = Duration::from_secs_f64(secs.parse().expect("a number of seconds"));
                self.clock.set(Timestamp::default().after(since_epoch));
            } else if let Some(name) = line.strip_prefix("domain ") {
                domain = name;
            } else if !line.is_empty() {
                let (asked, expected) = line.split_once("->").expect("a question and its answer");
                let request = Request {
                    domain: domain.as_bytes(),
                    descriptors: asked.split(';').map(|text| descriptor(text.trim())).collect(),
                };
                let decision = snapshot.decide(&request, None).await.expect("the store answers");
                if expected.trim() != "?" {
                    assert_eq!(answer(&decision, expected), expected.trim(), "{at}");
                }
                add(&mut sum, &decision);
            }
        }
        self.still_decides().await;
        sum
    }

    /// A request under no rule passes, whatever came before it.
    async fn still_decides(&self) {
        let request = Request { domain: b"elsewhere", descriptors: smallvec![descriptor("a=b")] };
        let snapshot = self.limiter.snapshot();
        let decision = snapshot.decide(&request, None).await.expect("nothing is charged");
        assert_eq!((decision.code, decision.domain_known), (Code::Ok, false));
    }
}

fn add(sum: &mut HitCounts, decision: &Decision<'_>) {
    for (_, hit_counts) in decision.statuses.iter().filter_map(|status| status.counted.as_ref()) {
        sum.total_hits += hit_counts.total_hits;
        sum.over_limit += hit_counts.over_limit;
        sum.near_limit += hit_counts.near_limit;
        sum.within_limit += hit_counts.within_limit;
        sum.shadow_mode += hit_counts.shadow_mode;
        sum.total_negative_hits += hit_counts.total_negative_hits;
    }
}

/// `key=value,key=value`, `*hits` behind it.
pub(crate) fn descriptor(text: &str) -> Descriptor<'_> {
    let (text, hits) = text.split_once('*').unwrap_or((text, "1"));
    let hits: i64 = hits.parse().expect("a number of hits");
    let count = u32::try_from(hits.unsigned_abs()).expect("few hits");
    let pairs = text.split(',').map(|pair| pair.split_once('=').expect("key=value"));
    let entries = pairs.map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() });
    Descriptor {
        entries: entries.collect(),
        hits: if hits < 0 { Hits::Refund(count) } else { Hits::Add(count) },
        limit_override: None,
    }
}

/// `OK | OK 4, OVER 0`, with as much more as is expected.
fn answer(decision: &Decision<'_>, expected: &str) -> String {
    let code = |code| if code == Code::Ok { "OK" } else { "OVER" };
    let status = |status: &Status<'_>| match (status.limit, status.reset) {
        (Some(_), Some(reset)) if expected.contains(" in ") => {
            format!("{} {} in {}", code(status.code), status.remaining, reset.as_secs_f64())
        }
        (Some(_), _) => format!("{} {}", code(status.code), status.remaining),
        (None, _) if status.remaining == u32::MAX => format!("{} unlimited", code(status.code)),
        (None, _) => format!("{} -", code(status.code)),
    };
    let statuses: Vec<_> = decision.statuses.iter().map(status).collect();
    let layer = decision.denial().and_then(|status| status.rule?.layer.as_deref());
    let by = layer.filter(|_| expected.contains(" by ")).map(|layer| format!(" by {}", layer.name()));
    let overall = format!("{}{}", code(decision.code), by.unwrap_or_default());
    if expected.contains('|') { format!("{overall} | {}", statuses.join(", ")) } else { overall }
}
