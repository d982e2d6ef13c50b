//! Cost of counting in Redis: `cargo bench --bench redis`. It starts its own Redis.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a benchmark that cannot go on has failed")]

mod server;
mod tickets;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tollgate::engine::{
    Algorithm, ChargeMode, Enforcement, FailurePolicy, Hits, Lease, LeaseTerms, Limit, Timestamp, Unit,
};
use tollgate::store::redis::{
    Credentials, Denials, Deployment, Endpoint, Leases, Redis, RedisContext, RedisSettings,
};
use tollgate::store::{Charge, Store as _};

use self::server::Server;

const THREADS: usize = 2;
const LASTING: Duration = Duration::from_secs(4);
const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);
const TERMS: LeaseTerms = LeaseTerms { hold_us: 100_000, ceiling: u32::MAX / 10 * 9, max: 1_000_000 };
/// Decisions after which a task gives way to others: those without I/O never do so by themselves.
const TURN: usize = 32;

/// The request, repeated.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    in_flight: usize,
    keys: u32,
    limits: u32,
    quota: u32,
    mode: ChargeMode,
    leased: bool,
    algorithm: Algorithm,
}

const CASES: [Case; 10] = [
    Case { name: "one hot key", in_flight: 256, keys: 1, ..UNIFORM },
    Case { name: "one hot key, leased", in_flight: 256, keys: 1, leased: true, ..UNIFORM },
    Case { name: "100 keys, leased", keys: 100, leased: true, ..UNIFORM },
    UNIFORM,
    Case { name: "three limits, always", limits: 3, ..UNIFORM },
    Case { name: "one limit, if_allowed", mode: ChargeMode::IfAllowed, ..UNIFORM },
    Case {
        name: "sliding window",
        mode: ChargeMode::IfAllowed,
        algorithm: Algorithm::SlidingWindow,
        ..UNIFORM
    },
    Case {
        name: "token bucket",
        mode: ChargeMode::IfAllowed,
        algorithm: Algorithm::TokenBucket { burst: u32::MAX },
        ..UNIFORM
    },
    Case { name: "three limits, if_allowed", limits: 3, mode: ChargeMode::IfAllowed, ..UNIFORM },
    Case { name: "over the limit", keys: 1_000, quota: 1, ..UNIFORM },
];

const UNIFORM: Case = Case {
    name: "100,000 keys",
    in_flight: 64,
    keys: 100_000,
    limits: 1,
    quota: u32::MAX,
    mode: ChargeMode::Always,
    leased: false,
    algorithm: Algorithm::FixedWindow,
};

impl Case {
    /// Commands that carry out its charges. A script's own commands are counted too: of a script, the call is what was
    /// asked. Of leases, both: what had no credits is counted by a command. A new connection calls a script as well.
    fn commands(self) -> &'static [&'static str] {
        const COUNTS: &[&str] = &["cmdstat_incrby", "cmdstat_get"];
        const SCRIPTS: &[&str] = &["cmdstat_evalsha", "cmdstat_eval"];
        const ALL: &[&str] = &["cmdstat_incrby", "cmdstat_get", "cmdstat_evalsha", "cmdstat_eval"];
        match (self.leased, self.mode, self.algorithm) {
            (true, ..) => ALL,
            (false, ChargeMode::Always, Algorithm::FixedWindow) => COUNTS,
            (false, ..) => SCRIPTS,
        }
    }

    fn charges(self) -> Vec<Charge> {
        let key = fastrand::u32(..self.keys);
        let one = |limit| Charge {
            key: Bytes::from(format!("tg1/{}/4:test,7:api_key,8:{key:08},{limit}", self.algorithm.name())),
            limit: Limit { algorithm: self.algorithm, ..Limit::per(self.quota, Unit::Hour) },
            rule: 0,
            hits: Hits::Add(1),
            mode: self.mode,
            enforcement: Enforcement::Enforced,
            lockout: None,
            hold: None,
            lease: self.leased.then_some(Lease::Spend(TERMS)),
            reserve: None,
            on_failure: FailurePolicy::Error,
        };
        (0..self.limits).map(one).collect()
    }
}

/// User and system time of this process, in microseconds: its 14th and 15th field, in hundredths of a second.
fn own_cpu_us() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(") ").expect("a name").1;
    let fields: Vec<f64> = after_name.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
    (fields[11] + fields[12]) * 10_000.0
}

/// Closed loop: as many tasks as may be in flight, on two threads. How many decisions, and how long each
/// took in microseconds, in order.
fn run(case: Case, redis: &Arc<Redis>, lasting: Duration) -> Vec<f64> {
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let redis = Arc::clone(redis);
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async move {
                    let store = Arc::new(redis.store());
                    store.ready(Duration::from_secs(10)).await.expect("Redis is there");
                    let end = Instant::now() + lasting;
                    let mut tasks = JoinSet::new();
                    for _ in 0..case.in_flight / THREADS {
                        let store = Arc::clone(&store);
                        tasks.spawn(async move {
                            let mut took = Vec::new();
                            while Instant::now() < end {
                                let (charges, asked) = (case.charges(), Instant::now());
                                let readings = store.charge(&charges, NOON).await;
                                assert!(readings.iter().all(Result::is_ok), "{readings:?}");
                                took.push(asked.elapsed().as_secs_f64() * 1e6);
                                if case.leased && took.len() % TURN == 0 {
                                    tokio::task::yield_now().await;
                                }
                            }
                            took
                        });
                    }
                    let took = tasks.join_all().await.concat();
                    store.settle().await;
                    took
                })
            })
        })
        .collect();
    let mut took: Vec<f64> =
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    took.sort_unstable_by(f64::total_cmp);
    took
}

fn main() {
    let server = Server::start();
    let settings = RedisSettings {
        deployment: Deployment::Single(Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: server.port }),
        credentials: Credentials::default(),
        database: None,
        tls: None,
        connect_timeout: Duration::from_secs(5),
        call_timeout: Duration::from_secs(5),
        expiration_jitter_max_secs: 300,
    };
    let (runtime, as_json) = (
        tokio::runtime::Runtime::new().expect("a runtime"),
        std::env::args().any(|argument| argument == "--json"),
    );
    let _inside = runtime.enter();
    if !as_json {
        println!(
            "| case | in flight | decisions/s | decisions per command | bytes | Redis CPU µs | times `INCRBY` | own CPU µs | p50 µs | p99 µs |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
    }
    for case in CASES {
        let denials = Some(Arc::new(Denials::new(16 << 20)));
        let redis = Redis::watch(settings.clone(), None, denials, &RedisContext::detached());
        let redis = Arc::new(redis.expect("no files").with_leases(Arc::new(Leases::new(1))));
        // Counters that are new cost more: they are made first.
        run(case, &redis, LASTING);
        let incrby_us = server.incrby_us();
        server.reset_counts();
        let (redis_us, own_us) = (server.cpu_us(), own_cpu_us());
        let took = run(case, &redis, LASTING);
        let (redis_us, own_us) = (server.cpu_us() - redis_us, own_cpu_us() - own_us);
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let decisions = took.len() as f64;
        let per_second = decisions / LASTING.as_secs_f64();
        // Infinitely many where none was sent.
        let per_command = decisions / server.commands(case.commands());
        let (bytes, redis_us, own_us) =
            (server.bytes() / decisions, redis_us / decisions, own_us / decisions);
        let times = redis_us / incrby_us;
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        let Case { name, in_flight, .. } = case;
        if as_json {
            println!(
                r#"{{"case":"{name}","in_flight":{in_flight},"per_second":{per_second:.0},"per_command":{per_command:.2},"bytes":{bytes:.0},"redis_cpu_us":{redis_us:.2},"times_incrby":{times:.2},"own_cpu_us":{own_us:.2},"p50_us":{p50:.0},"p99_us":{p99:.0}}}"#
            );
        } else {
            println!(
                "| {name} | {in_flight} | {per_second:.0} | {per_command:.1} | {bytes:.0} | {redis_us:.2} | {times:.2} | {own_us:.2} | {p50:.0} | {p99:.0} |"
            );
        }
    }
    runtime.block_on(tickets::measure(&settings, &server, as_json));
}
