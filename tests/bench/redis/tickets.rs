//! Cost in Redis of what tickets hold: amounts of a budget and places of a concurrency limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tollgate::engine::reserve::{Action, OnExpiry, Opening, Settled, Settlement, Terms};
use tollgate::engine::{
    Algorithm, ChargeMode, Enforcement, FailurePolicy, Hits, Hold, Limit, Reservation, Ticket, Unit, Window,
};
use tollgate::store::redis::{Redis, RedisContext, RedisSettings, RedisStore};
use tollgate::store::{Charge, Store as _};

use super::NOON;
use super::server::Server;

const IN_FLIGHT: u32 = 64;
const EACH: u32 = 1_000;
const KEYS: u32 = 20_000;
const TTL_SECS: u32 = 600;
const TERMS: Terms = Terms { on_expiry: OnExpiry::Release, memory_secs: 600 };

/// Uses of a ticket, with the names of the calls that open and end it.
const KINDS: [(Opened, [&str; 2]); 2] =
    [(Opened::Budget, ["reserve", "settle"]), (Opened::Places, ["acquire", "release"])];

#[derive(Clone, Copy)]
enum Opened {
    Budget,
    Places,
}

impl Opened {
    /// The charge that opens or ends the hold of `ticket` on the counter of `key`.
    fn charge(self, key: u32, ticket: Ticket, ends: bool) -> Charge {
        let name = match self {
            Self::Budget => "budget",
            Self::Places => "places",
        };
        let budget = Charge {
            key: Bytes::from(format!("tg1/{name}/4:test,7:api_key,8:{key:08}")),
            limit: Limit::per(u32::MAX, Unit::Hour),
            rule: 0,
            hits: Hits::Add(0),
            mode: ChargeMode::IfAllowed,
            enforcement: Enforcement::Enforced,
            lockout: None,
            hold: None,
            lease: None,
            reserve: None,
            on_failure: FailurePolicy::Error,
        };
        match self {
            Self::Budget => {
                let action = match ends {
                    false => Action::Open(Opening {
                        ticket: Some(ticket),
                        amount: 1_000,
                        ttl_secs: TTL_SECS,
                        is_anonymous: false,
                        is_named: false,
                    }),
                    true => Action::Settle(Settlement { of: Settled::Whole(ticket), amount: 700 }),
                };
                let (hits, mode) = action.hits().unwrap_or((budget.hits, budget.mode));
                let reserve = Some(Box::new(Reservation { action, terms: TERMS }));
                Charge { hits, mode, reserve, ..budget }
            }
            Self::Places => Charge {
                limit: Limit {
                    requests_per_unit: 10_000,
                    window: Window::of_secs(TTL_SECS),
                    algorithm: Algorithm::Concurrency,
                },
                hits: if ends { Hits::Refund(1) } else { Hits::Add(1) },
                hold: Some(Box::new(Hold { ticket, ttl_secs: TTL_SECS, is_named: false })),
                ..budget
            },
        }
    }
}

/// Opens many holds, then ends them, and prints the cost of each.
pub(crate) async fn measure(settings: &RedisSettings, server: &Server, as_json: bool) {
    let redis = Redis::watch(settings.clone(), None, None, &RedisContext::detached()).expect("no files");
    let store = Arc::new(redis.store());
    store.ready(Duration::from_secs(10)).await.expect("Redis is there");
    if !as_json {
        println!("\n| call | Redis CPU µs | times `INCRBY` |\n|---|--:|--:|");
    }
    for (opened, names) in KINDS {
        let seed = fastrand::u64(..);
        for (name, ends) in names.into_iter().zip([false, true]) {
            let (incrby_us, before) = (server.incrby_us(), server.cpu_us());
            run(&store, opened, seed, ends).await;
            let each_us = (server.cpu_us() - before) / f64::from(IN_FLIGHT * EACH);
            let times = each_us / incrby_us;
            match as_json {
                true => {
                    println!(r#"{{"case":"{name}","redis_cpu_us":{each_us:.2},"times_incrby":{times:.2}}}"#)
                }
                false => println!("| {name} | {each_us:.2} | {times:.1} |"),
            }
        }
    }
}

/// Opens or ends the holds of the tickets of `seed`, `IN_FLIGHT` at a time.
async fn run(store: &Arc<RedisStore>, opened: Opened, seed: u64, ends: bool) {
    let mut tasks = JoinSet::new();
    for task in 0..IN_FLIGHT {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(task.into()));
            for _ in 0..EACH {
                let (key, bits) = (random.u32(..KEYS), random.u128(..));
                let charge = opened.charge(key, Ticket::from_bits(bits.to_be_bytes()), ends);
                let readings = store.charge(std::slice::from_ref(&charge), NOON).await;
                assert!(readings.iter().all(Result::is_ok), "{readings:?}");
            }
        });
    }
    tasks.join_all().await;
}
