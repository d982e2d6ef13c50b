use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::search::{KEPT_FOR, WAIT};
use super::*;
use crate::clock::SystemClock;
use crate::engine::lockout::{Block, LockoutSchedule};
use crate::engine::{ChargeMode, Enforcement, FailurePolicy, Hits, KeyFormat, Limit, Unit};
use crate::store::lockouts::{Found, LockoutFuture};
use crate::store::memory::{MemorySettings, MemoryStore};
use crate::store::{Charge, Lockout, Store as _};

/// A store that is searched for a minute, and counts how often.
#[derive(Default)]
struct Slow(AtomicUsize);

impl Lockouts for Slow {
    fn search<'a>(&'a self, _: &'a KeyWriter, _: Timestamp, _: &'a Found) -> LockoutFuture<'a, ()> {
        Box::pin(async {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(60)).await;
            Err(StoreError::Unreachable("gone".to_owned()))
        })
    }

    fn is_blocked<'a>(&'a self, _: &'a Bytes, _: Timestamp) -> LockoutFuture<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn lift<'a>(&'a self, _: &'a Bytes) -> LockoutFuture<'a, bool> {
        Box::pin(async { Ok(false) })
    }
}

fn keys() -> KeyWriter {
    KeyWriter::new(KeyFormat::Native, "")
}

/// A store with this many lockouts.
async fn with_lockouts(count: usize, now: Timestamp) -> MemoryStore {
    let store = MemoryStore::new(MemorySettings::of_counters(1_000));
    let schedule = Arc::new(LockoutSchedule {
        after: 1,
        within_secs: 60,
        steps: [Block::Permanent].into_iter().collect(),
        forget_secs: 60,
        extend: false,
    });
    for number in 0..count {
        let key = format!("tgp1/4:shop,5:login,4:user,2:{number:02},").into();
        let charge = Charge {
            key: format!("counter {number}").into(),
            limit: Limit::per(1, Unit::Day),
            rule: 0,
            hits: Hits::Add(2),
            mode: ChargeMode::Always,
            enforcement: Enforcement::Enforced,
            lockout: Some(Lockout { key, schedule: Arc::clone(&schedule) }),
            on_failure: FailurePolicy::Error,
            hold: None,
            lease: None,
            reserve: None,
        };
        store.charge(&[charge], now).await[0].as_ref().unwrap();
    }
    store
}

#[tokio::test(start_paused = true)]
async fn callers_share_one_search_get_what_it_has_found_and_do_not_end_it() {
    let (slow, clock) = (Arc::new(Slow::default()), Arc::new(SystemClock));
    let fast = Arc::new(with_lockouts(3, clock.now()).await);
    let admin = LockoutAdmin::new(vec![Arc::clone(&slow) as _, fast as _], keys(), clock);
    let left = tokio::time::timeout(Duration::from_millis(100), admin.listing()).await;
    assert!(left.is_err(), "it left");
    let asked: Vec<_> = (0..100).map(|_| admin.clone()).collect();
    let begun = tokio::time::Instant::now();
    let page = Page { limit: Some(2), cursor: None, q: None };
    for page in futures_util::future::join_all(asked.iter().map(|admin| admin.page(&page))).await {
        let page = page.unwrap();
        assert_eq!((page.lockouts.len(), page.searching, page.complete), (2, true, false));
    }
    assert_eq!(begun.elapsed(), WAIT);
    let first = admin.first(9, "").await;
    assert_eq!(first.missing.as_deref(), Some("the store is still being searched"));
    tokio::time::advance(Duration::from_secs(60)).await;
    let whole = admin.page(&page).await.unwrap();
    assert_eq!((whole.lockouts.len(), whole.searching, whole.complete), (2, false, false));
    assert!(whole.error.as_deref().is_some_and(|error| error.contains("gone")));
    // The result of a search that took a minute is used for a minute.
    tokio::time::advance(Duration::from_secs(50)).await;
    assert_eq!(admin.page(&page).await.unwrap().age_secs, whole.age_secs + 50);
    assert_eq!(slow.0.load(Ordering::Relaxed), 1);
    // The result before is shown until there is a new one.
    tokio::time::advance(Duration::from_secs(60)).await;
    let before = admin.page(&page).await.unwrap();
    assert_eq!((before.lockouts.len(), before.searching, slow.0.load(Ordering::Relaxed)), (2, true, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lifted_lockout_is_not_listed_although_the_search_was_before() {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(with_lockouts(3, clock.now()).await);
    let admin = LockoutAdmin::new(vec![store as _], keys(), clock);
    let listed = async || {
        let page = admin.page(&Page { limit: None, cursor: None, q: None }).await.unwrap();
        page.lockouts.into_iter().map(|item| item.id).collect::<Vec<_>>()
    };
    let mut ids = listed().await;
    let lockout = admin.named(&ids[0]).unwrap();
    assert!(lockout.is_blocked().await.unwrap());
    assert!(matches!(lockout.lift().await, Ok(Lift::Done)));
    assert!(!lockout.is_blocked().await.unwrap());
    ids.remove(0);
    assert_eq!(listed().await, ids);
    tokio::time::advance(KEPT_FOR).await;
    assert_eq!(listed().await, ids);
}

/// A store that has the lockout, or fails.
struct Lifts(Result<bool, StoreError>);

impl Lockouts for Lifts {
    fn search<'a>(&'a self, _: &'a KeyWriter, _: Timestamp, _: &'a Found) -> LockoutFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn is_blocked<'a>(&'a self, _: &'a Bytes, _: Timestamp) -> LockoutFuture<'a, bool> {
        Box::pin(async { self.0.clone() })
    }

    fn lift<'a>(&'a self, _: &'a Bytes) -> LockoutFuture<'a, bool> {
        Box::pin(async { self.0.clone() })
    }
}

#[tokio::test]
async fn a_lift_that_one_store_failed_is_reported_as_one_in_part() {
    let gone = || Err(StoreError::Unreachable("gone".to_owned()));
    for (first, second, expected) in [
        (Ok(true), Ok(false), "Ok(Done)"),
        (Ok(false), Ok(true), "Ok(Done)"),
        (Ok(false), Ok(false), "Ok(NotFound)"),
        (gone(), Ok(false), "Err(Unreachable(\"gone\"))"),
        (gone(), Ok(true), "Ok(Partial(Unreachable(\"gone\")))"),
        (Ok(true), gone(), "Ok(Partial(Unreachable(\"gone\")))"),
    ] {
        let stores = [first, second].map(|outcome| Arc::new(Lifts(outcome)) as _);
        let admin = LockoutAdmin::new(stores.into(), keys(), Arc::new(SystemClock));
        let lifted = admin.lift(&Bytes::from_static(b"key")).await;
        assert_eq!(format!("{lifted:?}"), expected);
    }
}

#[test]
fn a_cursor_is_read_as_it_was_written() {
    let cursor = URL_SAFE_NO_PAD.encode([&7_u64.to_be_bytes()[..], b"key"].concat());
    assert_eq!(read_cursor(&cursor), Some((7, b"key".to_vec())));
    assert_eq!((read_cursor("AAAA"), read_cursor("!")), (None, None));
}
