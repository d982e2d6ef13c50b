//! A breaker: nobody waits for a store that does not answer.
//!
//! A store that is away says so at once. One that hangs costs every call its whole deadline, and while
//! calls wait more of them come. After a few calls in a row that were not answered, the breaker answers
//! in the store's place; now and then it lets one call through to see whether the store is back.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Charge, Charging, Store, StoreError};
use crate::engine::Timestamp;

/// Calls in a row without an answer that open the breaker.
const MAX_UNANSWERED: u32 = 5;
/// The shortest and the longest pause before a call is let through to an open breaker's store, in
/// milliseconds; between them by chance, so that the cores and replicas do not all ask at once.
const PROBE_PAUSE_MS: std::ops::Range<u64> = 100..500;

/// A store with a breaker in front.
#[derive(Debug)]
pub struct Breaker<S> {
    store: S,
    /// A lock, since any call may change it. It is never held across an await, and a core has a breaker
    /// of its own.
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Calls go through. So many of the last ones were not answered.
    Closed { unanswered: u32 },
    /// Calls are refused. One that comes at this time or later is let through.
    Open { probe_at: Instant },
}

impl<S> Breaker<S> {
    /// A closed breaker in front of `store`.
    pub const fn new(store: S) -> Self {
        Self { store, state: Mutex::new(State::Closed { unanswered: 0 }) }
    }

    /// The store behind it.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Whether a call may go through now. Where it may although the breaker is open, the next one may
    /// only after another pause.
    fn admits(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => true,
            State::Open { probe_at } if now < probe_at => false,
            State::Open { .. } => {
                *state = State::Open { probe_at: next_probe(now) };
                true
            }
        }
    }

    /// Takes note of whether the store answered a call.
    fn note(&self, answered: bool, now: Instant) {
        let mut state = self.state.lock();
        let next = match (*state, answered) {
            (_, true) => State::Closed { unanswered: 0 },
            (State::Closed { unanswered }, false) if unanswered + 1 < MAX_UNANSWERED => {
                State::Closed { unanswered: unanswered + 1 }
            }
            (State::Closed { .. } | State::Open { .. }, false) => State::Open { probe_at: next_probe(now) },
        };
        let before = std::mem::replace(&mut *state, next);
        drop(state);
        match (before, next) {
            (State::Closed { .. }, State::Open { .. }) => {
                tracing::warn!("the counter store does not answer; calls are refused until it does");
            }
            (State::Open { .. }, State::Closed { .. }) => tracing::info!("the counter store answers again"),
            (State::Closed { .. }, State::Closed { .. }) | (State::Open { .. }, State::Open { .. }) => {}
        }
    }
}

fn next_probe(now: Instant) -> Instant {
    now + Duration::from_millis(fastrand::u64(PROBE_PAUSE_MS))
}

impl<S: Store> Store for Breaker<S> {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a> {
        Box::pin(async move {
            if !self.admits(Instant::now()) {
                return Err(StoreError::Unreachable(
                    "it has not answered, and is asked again soon".to_owned(),
                ));
            }
            let outcome = self.store.charge(charges, now).await;
            match outcome {
                Ok(_) | Err(StoreError::Refused(_) | StoreError::Full { .. }) => {
                    self.note(true, Instant::now())
                }
                Err(StoreError::Unanswered(_)) => self.note(false, Instant::now()),
                // It was not asked, and so has nothing to do with whether it answers.
                Err(StoreError::Unreachable(_)) => {}
            }
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::store::Readings;

    /// Hangs until its deadline, or answers; counts how often it was asked.
    #[derive(Default)]
    struct Hanging {
        answers: AtomicBool,
        asked: AtomicU32,
    }

    const DEADLINE: Duration = Duration::from_millis(10);

    impl Store for Hanging {
        fn charge<'a>(&'a self, _: &'a [Charge], _: Timestamp) -> Charging<'a> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                if self.answers.load(Ordering::Relaxed) {
                    return Ok(Readings::new());
                }
                tokio::time::sleep(DEADLINE).await;
                Err(StoreError::Unanswered("too late".to_owned()))
            })
        }
    }

    /// Asks once, and says how that went and how long it took.
    async fn ask(breaker: &Breaker<Hanging>) -> (Result<Readings, StoreError>, Duration) {
        let begun = Instant::now();
        (breaker.charge(&[], Timestamp::default()).await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_is_waited_for_five_times_and_then_asked_now_and_then() {
        let breaker = Breaker::new(Hanging::default());
        for _ in 0..MAX_UNANSWERED {
            let (outcome, took) = ask(&breaker).await;
            assert!(matches!(outcome, Err(StoreError::Unanswered(_))) && took >= DEADLINE);
        }
        let mut waited = 0;
        for _ in 0..10_000 {
            let (outcome, took) = ask(&breaker).await;
            match outcome {
                Err(StoreError::Unreachable(_)) => assert_eq!(took, Duration::ZERO),
                Err(StoreError::Unanswered(_)) => waited += 1,
                other => panic!("{other:?}"),
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // Ten seconds, and a probe every 110 to 510 ms.
        assert!((19..=91).contains(&waited), "{waited}");
        assert_eq!(breaker.store().asked.load(Ordering::Relaxed), MAX_UNANSWERED + waited);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_answers_again_is_asked_by_everybody_within_half_a_second() {
        let breaker = Breaker::new(Hanging::default());
        for _ in 0..MAX_UNANSWERED {
            drop(ask(&breaker).await);
        }
        breaker.store().answers.store(true, Ordering::Relaxed);
        let back = Instant::now();
        while ask(&breaker).await.0.is_err() {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(back.elapsed() <= Duration::from_millis(501), "{:?}", back.elapsed());
        assert!(ask(&breaker).await.0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_now_and_then_keeps_it_closed() {
        let breaker = Breaker::new(Hanging::default());
        for _ in 0..20 {
            for _ in 1..MAX_UNANSWERED {
                assert!(matches!(ask(&breaker).await.0, Err(StoreError::Unanswered(_))));
            }
            breaker.store().answers.store(true, Ordering::Relaxed);
            assert!(ask(&breaker).await.0.is_ok());
            breaker.store().answers.store(false, Ordering::Relaxed);
        }
    }
}
