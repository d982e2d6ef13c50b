//! Holds of budgets in stores: against a model, memory against Redis, and callers that add up what they used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, prelude::*};
use tokio::runtime;
use tokio::task::JoinSet;
use tollgate::engine::algorithm::group::ChargeOutcome::{Charged, Denied};
use tollgate::engine::reserve::{
    Action, Extension, HoldEvent, OnExpiry, Opening, Reservation, Settled, Settlement, Terms,
};
use tollgate::engine::{Algorithm, ChargeMode, Enforcement, Hits, Limit, Ticket, Timestamp, Unit, Window};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::{Charge, Reading, Store};

use crate::places::{peek, ticket};
use crate::store::{connected, connected_by_callers_clock};
use crate::support::case_clock::CaseClock;
use crate::support::cases;
use crate::support::redis::Redis;
use crate::support::stores::complete;

const MIDNIGHT: Timestamp = Timestamp::from_secs(1_699_920_000);
const LIMIT: u32 = 100;
const MEMORY_SECS: u32 = 600;
/// So long that no window ends in a test against the model, which has none.
pub(crate) const LONG: Limit =
    Limit { requests_per_unit: LIMIT, window: Window::of_secs(864_000), algorithm: Algorithm::FixedWindow };

/// A charge to the budget `key` with this action.
pub(crate) fn charge(key: &str, limit: Limit, on_expiry: OnExpiry, action: Action) -> Charge {
    let (hits, mode) = action.hits().unwrap_or((Hits::Add(0), ChargeMode::IfAllowed));
    let enforcement = match action {
        Action::Settle(_) => Enforcement::Shadow,
        _ => Enforcement::Enforced,
    };
    let terms = Terms { on_expiry, memory_secs: MEMORY_SECS };
    let reserve = Some(Box::new(Reservation { action, terms }));
    Charge { key: Bytes::from(key.to_owned()), limit, hits, mode, enforcement, reserve, ..peek("") }
}

pub(crate) const fn opening(ticket: Ticket, amount: u32, ttl_secs: u32) -> Opening {
    Opening { ticket: Some(ticket), amount, ttl_secs, is_anonymous: false, is_named: false }
}

pub(crate) const fn extending(ticket: Ticket, ttl_secs: u32, amount: u32) -> Action {
    Action::Extend(Extension { ticket, ttl_secs, amount })
}

pub(crate) const fn settling(of: Settled, amount: u32) -> Action {
    Action::Settle(Settlement { of, amount })
}

/// A charge with each action on a ticket, so that every command of the script is run.
pub(crate) fn every_action(key: &str, ticket: Ticket) -> Vec<Charge> {
    let named = Opening { is_named: true, ..opening(ticket, 5, 60) };
    let actions = [
        Action::Open(opening(ticket, 5, 60)),
        Action::Open(named),
        extending(ticket, 120, 0),
        extending(ticket, 120, 9),
        Action::Lower(ticket, 1),
        settling(Settled::Part(ticket), 2),
        Action::Cancel(ticket),
        settling(Settled::Whole(ticket), 3),
        settling(Settled::Rest(ticket), 0),
        settling(Settled::Oldest, 3),
        Action::Look,
    ];
    actions.map(|action| charge(key, LONG, OnExpiry::Charge, action)).into()
}

pub(crate) async fn ask(store: &dyn Store, charge: Charge, now: Timestamp) -> Reading {
    complete(store.charge(&[charge], now).await).expect("readings")[0]
}

/// Step of a generated sequence. Tickets are named by how many were made since.
#[derive(Clone, Debug)]
enum Step {
    Open {
        amount: u32,
        ttl_secs: u32,
        is_anonymous: bool,
        is_named_before: bool,
    },
    /// Opens a hold in a request that another charge denies.
    OpenDenied {
        amount: u32,
    },
    Settle {
        back: usize,
        amount: u32,
    },
    Part {
        back: usize,
        amount: u32,
    },
    Rest {
        back: usize,
    },
    Oldest {
        amount: u32,
    },
    Extend {
        back: usize,
        ttl_secs: u32,
        amount: u32,
    },
    /// Raises a hold in a request that another charge denies.
    ExtendDenied {
        back: usize,
        amount: u32,
    },
    Cancel {
        back: usize,
    },
    Look,
}

fn some_step() -> impl Strategy<Value = Step> {
    let (amount, back, ttl) = (1..=60_u32, 0..6_usize, 1..=120_u32);
    prop_oneof![
        6 => (amount.clone(), ttl.clone(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            // An anonymous hold has a ticket that nobody can name.
            |(amount, ttl_secs, is_anonymous, is_named_before)| {
                let is_anonymous = is_anonymous && !is_named_before;
                Step::Open { amount, ttl_secs, is_anonymous, is_named_before }
            },
        ),
        1 => amount.clone().prop_map(|amount| Step::OpenDenied { amount }),
        5 => (back.clone(), 0..80_u32).prop_map(|(back, amount)| Step::Settle { back, amount }),
        2 => (back.clone(), amount.clone()).prop_map(|(back, amount)| Step::Part { back, amount }),
        2 => back.clone().prop_map(|back| Step::Rest { back }),
        2 => amount.prop_map(|amount| Step::Oldest { amount }),
        3 => (back.clone(), ttl, prop_oneof![Just(0), 1..=100_u32])
            .prop_map(|(back, ttl_secs, amount)| Step::Extend { back, ttl_secs, amount }),
        1 => (back.clone(), 1..=100_u32).prop_map(|(back, amount)| Step::ExtendDenied { back, amount }),
        1 => back.prop_map(|back| Step::Cancel { back }),
        1 => Just(Step::Look),
    ]
}

/// A ticket as it should be.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Amount held and its end, while it is open.
    open: Option<(u32, u64)>,
    is_anonymous: bool,
    /// Amount that is counted of it, and that its caller has reported.
    counted: u32,
    reported: u32,
    /// True once it is settled for good.
    is_settled: bool,
    /// Until when it is remembered, if it is closed.
    until: u64,
}

/// A budget as it should be: what is used is what was settled first, and nothing is remembered for longer than agreed.
#[derive(Default)]
struct Model {
    tickets: BTreeMap<u8, Known>,
    used: u32,
    charges_expired: bool,
}

impl Model {
    fn held(&self) -> u32 {
        self.tickets.values().filter_map(|known| known.open).map(|(amount, _)| amount).sum()
    }

    /// Lets time pass.
    fn expire(&mut self, now: u64) {
        let until = now + u64::from(MEMORY_SECS) * 1_000_000;
        for known in self.tickets.values_mut() {
            if let Some((amount, _)) = known.open.filter(|(_, end)| *end <= now) {
                known.open = None;
                known.until = until;
                if self.charges_expired {
                    self.used += amount;
                    known.counted += amount;
                }
            }
        }
        self.tickets.retain(|_, known| {
            known.open.is_some() || (known.until > now && (known.is_settled || known.counted > 0))
        });
    }

    fn settle(&mut self, ticket: u8, amount: Option<u32>, now: u64) {
        let known = self.tickets.entry(ticket).or_default();
        let is_unknown = known.open.is_none() && known.counted == 0 && !known.is_settled;
        if known.is_settled || (is_unknown && amount.is_none()) {
            self.tickets.retain(|_, known| known.open.is_some() || known.until > now);
            return;
        }
        let amount = amount.unwrap_or(known.reported).max(known.counted);
        self.used = (self.used + amount).saturating_sub(known.counted);
        *known = Known {
            counted: amount,
            is_settled: true,
            until: now + u64::from(MEMORY_SECS) * 1_000_000,
            ..Known::default()
        };
    }

    fn part(&mut self, ticket: u8, amount: u32, now: u64) {
        let known = self.tickets.entry(ticket).or_default();
        if known.is_settled {
            return;
        }
        let more = amount.saturating_sub(known.counted);
        self.used += more;
        known.counted += more;
        known.reported = known.reported.max(amount);
        match &mut known.open {
            Some((held, _)) => *held = held.saturating_sub(more),
            None => known.until = now + u64::from(MEMORY_SECS) * 1_000_000,
        }
    }

    /// Carries out a step. Returns whether its request passes, if that is a question.
    fn carry_out(&mut self, step: &Step, tickets: &[u8], now: u64) -> Option<bool> {
        self.expire(now);
        let named = |back: usize| tickets.iter().rev().nth(back).copied().unwrap_or(u8::MAX);
        let end = |ttl_secs: u32| now + u64::from(ttl_secs) * 1_000_000;
        match *step {
            Step::Open { amount, ttl_secs, is_anonymous, is_named_before } => {
                let ticket = named(usize::from(is_named_before));
                let before =
                    self.tickets.get(&ticket).copied().filter(|_| is_named_before).unwrap_or_default();
                if before.open.is_some() || before.is_settled {
                    return Some(true);
                }
                let fits = self.used + self.held() + amount <= LIMIT;
                if fits {
                    let open = Some((amount, end(ttl_secs)));
                    let Known { counted, reported, .. } = before;
                    let known = Known { open, is_anonymous, counted, reported, ..Known::default() };
                    self.tickets.insert(ticket, known);
                }
                return Some(fits);
            }
            Step::OpenDenied { .. } | Step::ExtendDenied { .. } | Step::Look => {}
            Step::Settle { back, amount } => self.settle(named(back), Some(amount), now),
            Step::Rest { back } => self.settle(named(back), None, now),
            Step::Part { back, amount } => self.part(named(back), amount, now),
            Step::Oldest { amount } => {
                let open = self.tickets.iter().filter_map(|(ticket, known)| Some((known.open?.1, *ticket)));
                let mut open: Vec<_> = open.collect();
                open.sort_unstable();
                let oldest = open.into_iter().take(16).find(|(_, ticket)| self.tickets[ticket].is_anonymous);
                oldest.and_then(|(_, ticket)| self.tickets.remove(&ticket));
                self.used += amount;
            }
            Step::Extend { back, ttl_secs, amount } => {
                let all_held = self.held();
                let known = self.tickets.get_mut(&named(back));
                let Some(known @ Known { open: Some((held, ends)), .. }) = known.map(|known| *known) else {
                    return Some(false);
                };
                let raised = held.max(amount.saturating_sub(known.counted));
                let fits = raised == held || self.used + all_held + raised - held <= LIMIT;
                if fits {
                    let open = Some((raised, ends.max(end(ttl_secs))));
                    self.tickets.insert(named(back), Known { open, ..known });
                }
                return Some(fits);
            }
            Step::Cancel { back } => {
                if let Some(known) = self.tickets.get_mut(&named(back)).filter(|known| known.open.is_some()) {
                    known.open = None;
                    known.until = now + u64::from(MEMORY_SECS) * 1_000_000;
                }
            }
        }
        None
    }
}

fn charges_of(key: &str, limit: Limit, on_expiry: OnExpiry, step: &Step, tickets: &[u8]) -> Vec<Charge> {
    let named = |back: usize| ticket(tickets.iter().rev().nth(back).copied().unwrap_or(u8::MAX));
    let action = match *step {
        Step::Open { amount, ttl_secs, is_anonymous, is_named_before } => {
            let own = opening(named(usize::from(is_named_before)), amount, ttl_secs);
            Action::Open(Opening { is_anonymous, is_named: is_named_before, ..own })
        }
        Step::OpenDenied { amount } => Action::Open(opening(named(0), amount, 60)),
        Step::Settle { back, amount } => settling(Settled::Whole(named(back)), amount),
        Step::Part { back, amount } => settling(Settled::Part(named(back)), amount),
        Step::Rest { back } => settling(Settled::Rest(named(back)), 0),
        Step::Oldest { amount } => settling(Settled::Oldest, amount),
        Step::Extend { back, ttl_secs, amount } => extending(named(back), ttl_secs, amount),
        // A TTL that lengthens nothing: without a larger amount, there is nothing to deny.
        Step::ExtendDenied { back, amount } => extending(named(back), 0, amount),
        Step::Cancel { back } => Action::Cancel(named(back)),
        Step::Look => Action::Look,
    };
    let own = charge(key, limit, on_expiry, action);
    let closed = Limit { requests_per_unit: 0, ..LONG };
    let denying =
        Charge { key: Bytes::from(format!("{key}closed/")), limit: closed, hits: Hits::Add(1), ..peek("") };
    let is_denied = matches!(step, Step::OpenDenied { .. } | Step::ExtendDenied { .. });
    [own].into_iter().chain(is_denied.then_some(denying)).collect()
}

fn limits() -> impl Strategy<Value = Limit> {
    let minute = Limit::per(LIMIT, Unit::Minute);
    prop_oneof![
        4 => Just(LONG),
        1 => Just(minute),
        1 => Just(Limit { algorithm: Algorithm::SlidingWindow, ..minute }),
        1 => Just(Limit { algorithm: Algorithm::TokenBucket { burst: LIMIT }, ..minute }),
    ]
}

/// Agreement of memory and Redis on every reading, and with the model on a limit whose window does not end.
fn agrees(
    runtime: &runtime::Runtime,
    stores: [&dyn Store; 2],
    limit: Limit,
    on_expiry: OnExpiry,
    sequence: &[(u64, Step)],
) -> Result<(), TestCaseError> {
    let (case, mut clock) = (format!("{}/", fastrand::u64(..)), CaseClock::starting_at(MIDNIGHT));
    let mut model = Model { charges_expired: on_expiry == OnExpiry::Charge, ..Model::default() };
    let mut tickets = Vec::new();
    for (micros, step) in sequence {
        let now = clock.advance(*micros);
        if matches!(step, Step::Open { is_named_before: false, .. } | Step::OpenDenied { .. }) {
            tickets.push(u8::try_from(tickets.len() + 1).expect("few"));
        }
        let charges = charges_of(&case, limit, on_expiry, step, &tickets);
        let look = charges_of(&case, limit, on_expiry, &Step::Look, &tickets);
        let [in_memory, in_redis] = stores.map(|store| {
            let of_step = complete(runtime.block_on(store.charge(&charges, now))).expect("readings");
            let after = complete(runtime.block_on(store.charge(&look, now))).expect("readings");
            (of_step, after)
        });
        prop_assert_eq!(&in_memory, &in_redis, "{:?}", step);
        if limit != LONG {
            continue;
        }
        let passes = model.carry_out(step, &tickets, now.as_micros());
        let (of_step, after) = (in_memory.0[0], in_memory.1[0]);
        if let Some(passes) = passes {
            prop_assert_eq!(of_step.outcome, if passes { Charged } else { Denied }, "{:?}", step);
        }
        let held = after.budget.expect("a report").held;
        prop_assert_eq!(
            (after.used - u64::from(held), held),
            (u64::from(model.used), model.held()),
            "{:?}",
            step
        );
        let report = of_step.budget.expect("a report");
        if report.event == HoldEvent::Opened || report.more > 0 && report.event == HoldEvent::Extended {
            prop_assert!(after.used <= u64::from(LIMIT), "{:?}", step);
        }
    }
    Ok(())
}

/// 500 sequences of up to 60 calls, unless [`cases`] says otherwise.
#[test]
fn memory_redis_and_the_model_agree_on_budgets() {
    let sequences = collection::vec((0..25_000_000_u64, some_step()), 1..60);
    let on_expiry = prop_oneof![Just(OnExpiry::Release), Just(OnExpiry::Charge)];
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let redis = connected_by_callers_clock(&server.settings()).await;
        (server, redis)
    });
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000_000));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases(500)) });
    let steps = AtomicU64::new(0);
    let outcome = runner.run(&(limits(), on_expiry, sequences), |(limit, on_expiry, sequence)| {
        steps.fetch_add(sequence.len() as u64, Ordering::Relaxed);
        agrees(&runtime, [&memory, &redis], limit, on_expiry, &sequence)
    });
    outcome.expect("agreement");
    assert!(steps.into_inner() >= 10_000);
}

/// A denial by holds names the moment at which the request passes, if nothing is settled: it does, and not before.
#[tokio::test]
async fn a_denial_names_the_earliest_moment_that_admits() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    let minute = Limit::per(LIMIT, Unit::Minute);
    let bucket = Limit { algorithm: Algorithm::TokenBucket { burst: LIMIT }, ..minute };
    let sliding = Limit { algorithm: Algorithm::SlidingWindow, ..minute };
    let begin = Timestamp::from_micros(MIDNIGHT.as_micros() + 30_000_000);
    for (number, (limit, used, held, asked, expected)) in [
        // The end of the window frees nothing of what is held.
        (minute, 0, [(80, 600)].as_slice(), 30, 600),
        (bucket, 0, &[(80, 600)], 30, 600),
        (sliding, 0, &[(80, 600)], 30, 600),
        // It frees what is used, whatever is held.
        (minute, 40, &[(50, 600)], 20, 30),
        (minute, 90, &[(5, 600)], 20, 30),
        (bucket, 40, &[(50, 600)], 20, 6),
        // A hold ends first, and another later.
        (minute, 40, &[(50, 10), (5, 700)], 20, 10),
        (bucket, 40, &[(50, 2), (5, 700)], 20, 2),
        // Both must happen.
        (minute, 90, &[(9, 600)], 92, 600),
        (bucket, 90, &[(9, 5)], 92, 50),
    ]
    .into_iter()
    .enumerate()
    {
        for store in [&redis as &dyn Store, &memory] {
            let key = format!("{number}/");
            let on = |action| charge(&key, limit, OnExpiry::Release, action);
            ask(store, on(settling(Settled::Nothing, used)), begin).await;
            for (hold, (amount, ttl_secs)) in (1..).zip(held) {
                let action = Action::Open(opening(ticket(hold), *amount, *ttl_secs));
                assert_eq!(ask(store, on(action), begin).await.outcome, Charged, "case {number}");
            }
            let asking = |ticket| on(Action::Open(opening(ticket, asked, 60)));
            let denied = ask(store, asking(ticket(9)), begin).await;
            let waits = denied.reset.as_secs_f64();
            assert_eq!((denied.outcome, waits.ceil()), (Denied, f64::from(expected)), "case {number}");
            let then = begin.after(denied.reset);
            let before = Timestamp::from_micros(then.as_micros() - 1);
            assert_eq!(ask(store, asking(ticket(9)), before).await.outcome, Denied, "case {number}");
            assert_eq!(ask(store, asking(ticket(9)), then).await.outcome, Charged, "case {number}");
        }
    }
}

/// Holds and what is known of their tickets do not belong to a window: the amount counts in the one in which it is settled.
#[tokio::test]
async fn holds_and_settlements_outlive_the_window_in_which_they_began() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    let day = Limit::per(LIMIT, Unit::Day);
    let [before, after] = [86_390, 86_410].map(|secs| Timestamp::from_secs(MIDNIGHT.as_secs() + secs));
    for store in [&redis as &dyn Store, &memory] {
        let at = async |action, now| {
            let reading = ask(store, charge("a/", day, OnExpiry::Release, action), now).await;
            let report = reading.budget.expect("a report");
            (report.event, reading.used - u64::from(report.held), report.held)
        };
        let settle = |number, amount| settling(Settled::Whole(ticket(number)), amount);
        for number in [1, 2] {
            let opened = at(Action::Open(opening(ticket(number), 30, 60)), before).await;
            assert_eq!(opened, (HoldEvent::Opened, 0, 30 * u32::from(number)));
        }
        assert_eq!(at(settle(1, 20), before).await, (HoldEvent::Settled, 20, 30));
        assert_eq!(at(Action::Look, after).await, (HoldEvent::None, 0, 30), "the hold goes over");
        assert_eq!(
            at(settle(1, 20), after).await,
            (HoldEvent::Repeated, 0, 30),
            "it counted on the day before"
        );
        for event in [HoldEvent::Settled, HoldEvent::Repeated] {
            assert_eq!(at(settle(2, 50), after).await, (event, 50, 0));
        }
    }
}

/// The hold of the caller makes no room for itself: when it ends, there is nothing to raise.
#[tokio::test]
async fn a_raise_that_is_denied_waits_for_the_holds_of_others() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    let after = |micros: u64| Timestamp::from_micros(MIDNIGHT.as_micros() + micros);
    for store in [&redis as &dyn Store, &memory] {
        let on = |action| charge("a/", LONG, OnExpiry::Release, action);
        ask(store, on(Action::Open(opening(ticket(1), 50, 10))), MIDNIGHT).await;
        ask(store, on(Action::Open(opening(ticket(2), 40, 600))), MIDNIGHT).await;
        let raise = async |micros| ask(store, on(extending(ticket(1), 0, 70)), after(micros)).await;
        let denied = raise(0).await;
        assert_eq!((denied.outcome, denied.reset.as_secs()), (Denied, 600));
        assert_eq!(ask(store, on(extending(ticket(1), 900, 0)), MIDNIGHT).await.outcome, Charged);
        assert_eq!(raise(599_999_999).await.outcome, Denied);
        assert_eq!(raise(600_000_000).await.outcome, Charged);
    }
}

/// A rule that has lost its `reserve` counts as any other, and its holds are not in its way.
#[tokio::test]
async fn charges_that_are_not_about_holds_do_not_see_them() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    for store in [&redis as &dyn Store, &memory] {
        let on = |action| charge("a/", LONG, OnExpiry::Release, action);
        ask(store, on(Action::Open(opening(ticket(1), 90, 60))), MIDNIGHT).await;
        let plain = Charge { reserve: None, hits: Hits::Add(60), ..on(Action::Look) };
        let other = Charge { key: Bytes::from_static(b"b/"), ..plain.clone() };
        let alone = ask(store, Charge { mode: ChargeMode::Always, ..plain.clone() }, MIDNIGHT).await;
        assert_eq!((alone.outcome, alone.used), (Charged, 60));
        let in_group = complete(store.charge(&[plain, other], MIDNIGHT).await).expect("readings");
        assert_eq!((in_group[0].outcome, in_group[0].used), (Denied, 60));
        let look = ask(store, on(Action::Look), MIDNIGHT).await;
        assert_eq!((look.used, look.budget.map(|report| report.held)), (150, Some(90)), "both are kept");
    }
}

/// Five at once of 130 each, of a budget of 100: one passes with an amount of the rule, none with one that is named.
#[tokio::test]
async fn nobody_gets_past_a_budget_by_asking_at_once() {
    let server = Redis::start().await;
    let redis = connected(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    for store in [&redis as &dyn Store, &memory] {
        let open = async |number: u8, amount: u32| {
            let action = Action::Open(opening(ticket(number), amount, 60));
            ask(store, charge("a/", LONG, OnExpiry::Release, action), MIDNIGHT).await
        };
        for number in 1..=5 {
            assert_eq!((open(number, 130).await.outcome, open(number, 130).await.used), (Denied, 0));
        }
        assert_eq!(open(1, 100).await.outcome, Charged);
        for number in 2..=5 {
            assert_eq!((open(number, 100).await.outcome, open(number, 1).await.used), (Denied, 100));
        }
        let settle = charge("a/", LONG, OnExpiry::Release, settling(Settled::Whole(ticket(1)), 130));
        let first = ask(store, settle.clone(), MIDNIGHT).await;
        let report = first.budget.expect("a report");
        assert_eq!((first.used, report.event, report.amount), (130, HoldEvent::Settled, 130), "in full");
        let second = ask(store, settle, MIDNIGHT).await;
        assert_eq!((second.used, second.budget.expect("a report").event), (130, HoldEvent::Repeated));
        assert_eq!(open(6, 1).await.outcome, Denied, "the debt comes first");
    }
}

/// Callers on three replicas hold, settle and settle again. What is used is the sum of what each settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_is_the_sum_of_what_was_settled() {
    const CALLERS: u64 = 48;
    const ROUNDS: u64 = 25;
    let server = Redis::start().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Arc::new(connected(&server.settings()).await));
    }
    let limit = Limit { requests_per_unit: 20_000, ..LONG };
    let (settled, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&replicas[usize::try_from(caller % 3).expect("a small number")]);
        let (settled, most) = (Arc::clone(&settled), Arc::clone(&most));
        callers.spawn(async move {
            for round in 0..ROUNDS {
                let mut bits = [0; 16];
                bits[..8].copy_from_slice(&(caller + 1).to_be_bytes());
                bits[8..].copy_from_slice(&round.to_be_bytes());
                let ticket = Ticket::from_bits(bits);
                let on = |action| charge("hot/", limit, OnExpiry::Release, action);
                let opened = ask(&*store, on(Action::Open(opening(ticket, 100, 600))), MIDNIGHT).await;
                if opened.outcome != Charged {
                    continue;
                }
                most.fetch_max(opened.used, Ordering::Relaxed);
                // Never more than was held, so that the limit holds at every moment.
                let actual = u32::try_from((caller * round) % 100).expect("small");
                for expected in [HoldEvent::Settled, HoldEvent::Repeated] {
                    let action = settling(Settled::Whole(ticket), actual);
                    let reading = ask(&*store, on(action), MIDNIGHT).await;
                    assert_eq!(reading.budget.map(|report| report.event), Some(expected));
                }
                settled.fetch_add(actual.into(), Ordering::Relaxed);
            }
        });
    }
    callers.join_all().await;
    let look = ask(&*replicas[0], charge("hot/", limit, OnExpiry::Release, Action::Look), MIDNIGHT).await;
    let settled = settled.load(Ordering::Relaxed);
    assert!(settled > 10_000, "{settled}");
    assert_eq!((look.used, look.budget.map(|report| (report.held, report.holds))), (settled, Some((0, 0))));
    let most = most.load(Ordering::Relaxed);
    assert!(most <= limit.requests_per_unit.into(), "{most}");
}

/// Holds are bounded in number, and give their memory back.
#[tokio::test]
async fn ten_thousand_holds_are_the_most_of_one_budget() {
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    let limit = Limit { requests_per_unit: 1_000_000, ..LONG };
    let numbered = |number: u32| {
        let mut bits = [0; 16];
        bits[12..].copy_from_slice(&number.to_be_bytes());
        Ticket::from_bits(bits)
    };
    let on = |action| charge("a/", limit, OnExpiry::Release, action);
    for number in 1..=10_000 {
        let reading = ask(&memory, on(Action::Open(opening(numbered(number), 1, 60))), MIDNIGHT).await;
        assert_eq!(reading.used, u64::from(number));
    }
    let one_more = ask(&memory, on(Action::Open(opening(numbered(0), 1, 60))), MIDNIGHT).await;
    assert_eq!((one_more.outcome, one_more.budget.expect("a report").event), (Denied, HoldEvent::TooMany));
    let bytes = memory.figures().bytes;
    assert!((1_000_000..2_000_000).contains(&bytes), "{bytes} bytes");
    for number in 1..=10_000 {
        ask(&memory, on(Action::Cancel(numbered(number))), MIDNIGHT).await;
    }
    assert_eq!((memory.len(), memory.figures().bytes), (0, 0));
}
