use std::sync::atomic::AtomicUsize;

use super::*;
use crate::clock::SystemClock;
use crate::engine::KeyFormat;
use crate::store::lockouts::LockoutFuture;

/// A store whose listing takes a second, and that counts how often it is read.
#[derive(Default)]
struct Slow(AtomicUsize);

impl Lockouts for Slow {
    fn list<'a>(&'a self, _: &'a KeyWriter, _: Timestamp) -> LockoutFuture<'a, Vec<ActiveLockout>> {
        Box::pin(async {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(StoreError::Unreachable("gone".to_owned()))
        })
    }

    fn lift<'a>(&'a self, _: &'a Bytes) -> LockoutFuture<'a, bool> {
        Box::pin(async { Ok(false) })
    }
}

#[tokio::test(start_paused = true)]
async fn everybody_who_asks_at_once_shares_one_scan_even_when_the_first_leaves() {
    let store = Arc::new(Slow::default());
    let admin = LockoutAdmin::new(
        vec![Arc::clone(&store) as _],
        KeyWriter::new(KeyFormat::Native, ""),
        Arc::new(SystemClock),
    );
    let first = tokio::time::timeout(Duration::from_millis(100), admin.listing()).await;
    assert!(first.is_err(), "it left");
    let asked: Vec<_> = (0..100).map(|_| admin.clone()).collect();
    let asked = asked.iter().map(LockoutAdmin::listing);
    for listing in futures_util::future::join_all(asked).await {
        assert!(listing.error.as_deref().is_some_and(|error| error.contains("gone")));
    }
    assert_eq!(store.0.load(Ordering::Relaxed), 1);
    tokio::time::advance(KEPT_FOR).await;
    admin.listing().await;
    assert_eq!(store.0.load(Ordering::Relaxed), 2);
}

/// A store that has the lockout, or fails.
struct Lifts(Result<bool, StoreError>);

impl Lockouts for Lifts {
    fn list<'a>(&'a self, _: &'a KeyWriter, _: Timestamp) -> LockoutFuture<'a, Vec<ActiveLockout>> {
        Box::pin(async { Ok(Vec::new()) })
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
        let keys = KeyWriter::new(KeyFormat::Native, "");
        let admin = LockoutAdmin::new(stores.into(), keys, Arc::new(SystemClock));
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
