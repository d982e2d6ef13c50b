use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;

use super::record::Document;
use super::*;
use crate::clock::{Clock as _, ManualClock};
use crate::engine::{KeyFormat, KeyWriter, Timestamp};
use crate::store::overrides::{DocumentFuture, DocumentStore, MemoryDocument, Replacement, StoredDocument};

const HOUR: Duration = Duration::from_secs(3_600);

/// A document that lets another task run before each access.
#[derive(Default)]
struct Shared(MemoryDocument);

impl DocumentStore for Shared {
    fn version<'a>(&'a self, keys: &'a KeyWriter) -> DocumentFuture<'a, Bytes> {
        Box::pin(async {
            tokio::task::yield_now().await;
            self.0.version(keys).await
        })
    }

    fn read<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp) -> DocumentFuture<'a, StoredDocument> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.0.read(keys, now).await
        })
    }

    fn replace<'a>(&'a self, keys: &'a KeyWriter, by: Replacement) -> DocumentFuture<'a, bool> {
        Box::pin(async {
            tokio::task::yield_now().await;
            self.0.replace(keys, by).await
        })
    }
}

/// Replicas that share a store and a clock.
struct Fleet {
    store: Arc<Shared>,
    clock: Arc<ManualClock>,
}

impl Fleet {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        Self { store: Arc::default(), clock }
    }

    fn replica(&self) -> OverrideBook {
        let (store, clock) = (Arc::clone(&self.store) as _, Arc::clone(&self.clock) as _);
        OverrideBook::new(store, KeyWriter::new(KeyFormat::Native, ""), clock, Arc::default())
    }

    async fn stored(&self) -> StoredDocument {
        self.store.read(&keys(), Timestamp::default()).await.unwrap()
    }

    /// Puts `document` into the store, whatever it has.
    async fn put(&self, document: StoredDocument) {
        let StoredDocument { version, content, .. } = document;
        let replacement = Replacement { expected: self.stored().await.version, version, content, ttl: HOUR };
        assert!(self.store.replace(&keys(), replacement).await.unwrap());
    }
}

fn keys() -> KeyWriter {
    KeyWriter::new(KeyFormat::Native, "")
}

fn block(domain: &str, user: &str) -> NewOverride {
    let descriptor = vec![EntryText { key: "user".to_owned(), value: user.to_owned() }];
    NewOverride {
        domain: domain.to_owned(),
        subject: Subject::Block { descriptor },
        ttl: HOUR,
        actor: "user ann".to_owned(),
        reason: "a test".to_owned(),
    }
}

/// Users with an override, in order.
fn users(book: &OverrideBook) -> Vec<String> {
    let user = |active: &ActiveOverride| active.record.subject.descriptor().unwrap()[0].value.clone();
    let mut users: Vec<_> = book.active().iter().map(user).collect();
    users.sort();
    users
}

#[tokio::test]
async fn a_replica_restores_overrides_that_the_store_has_lost() {
    let fleet = Fleet::new();
    let [one, other, started_later] = [fleet.replica(), fleet.replica(), fleet.replica()];
    one.set(block("shop", "ann")).await.unwrap();
    other.refresh().await;
    fleet.put(StoredDocument::default()).await;
    other.refresh().await;
    for replica in [&one, &started_later] {
        replica.refresh().await;
        assert_eq!(users(replica), ["ann"]);
    }
    // A change of what was lost keeps the rest too.
    fleet.put(StoredDocument::default()).await;
    other.set(block("shop", "bob")).await.unwrap();
    one.refresh().await;
    assert_eq!(users(&one), ["ann", "bob"]);
    fleet.clock.advance(HOUR);
    one.refresh().await;
    assert_eq!(users(&one), [""; 0]);
}

#[tokio::test]
async fn a_deleted_override_stays_deleted_whichever_replica_writes_back() {
    let fleet = Fleet::new();
    let [one, cut_off] = [fleet.replica(), fleet.replica()];
    let id = one.set(block("shop", "ann")).await.unwrap().record.id;
    let before = fleet.stored().await;
    cut_off.refresh().await;
    assert!(one.delete(&id).await.unwrap());
    assert_eq!(users(&one), [""; 0]);
    // It takes up the deletion, and does not take the override for a lost one.
    cut_off.refresh().await;
    assert_eq!(
        (users(&cut_off), Document::parse(&fleet.stored().await.content).unwrap().unreadable()),
        (vec![], 0)
    );
    // The store fails over to a replica that never got the deletion.
    fleet.put(before.clone()).await;
    let started_later = fleet.replica();
    started_later.refresh().await;
    assert_eq!(users(&started_later), ["ann"], "as the store has it");
    one.refresh().await;
    started_later.refresh().await;
    assert_eq!(users(&started_later), [""; 0]);
    // The store loses the deletion as well, and a replica without it is the first to notice.
    fleet.put(before).await;
    cut_off.refresh().await;
    started_later.refresh().await;
    assert_eq!([users(&cut_off), users(&started_later)], [[""; 0], [""; 0]]);
}

#[tokio::test]
async fn changes_of_two_replicas_at_once_are_both_made() {
    let fleet = Fleet::new();
    let [one, other] = [fleet.replica(), fleet.replica()];
    for number in 0..50 {
        let (first, second) = (format!("a{number:02}"), format!("b{number:02}"));
        let (first, second) =
            future::join(one.set(block("shop", &first)), other.set(block("shop", &second))).await;
        let ids = [first.unwrap().record.id, second.unwrap().record.id];
        if number % 2 == 1 {
            let deleted = future::join(one.delete(&ids[1]), other.delete(&ids[0])).await;
            assert_eq!((deleted.0.unwrap(), deleted.1.unwrap()), (true, true));
        }
    }
    one.refresh().await;
    other.refresh().await;
    let kept = |name: &'static str| (0..50).step_by(2).map(move |number| format!("{name}{number:02}"));
    let expected: Vec<_> = kept("a").chain(kept("b")).collect();
    assert_eq!((users(&one), users(&other)), (expected.clone(), expected));
}

/// Puts `overrides` into the store.
async fn fill(fleet: &Fleet, overrides: impl Iterator<Item = NewOverride>) {
    let now = fleet.clock.now();
    let record = |NewOverride { domain, subject, actor, reason, .. }: NewOverride| OverrideRecord {
        id: subject.id(&domain),
        domain,
        subject,
        ends_us: now.after(HOUR).as_micros(),
        set_us: now.as_micros(),
        actor,
        reason,
    };
    let content = serde_json::to_vec(&overrides.map(record).collect::<Vec<_>>()).unwrap().into();
    fleet.put(StoredDocument { version: "1".into(), content, now }).await;
}

#[tokio::test]
async fn overrides_are_bounded_in_number() {
    let fleet = Fleet::new();
    let book = fleet.replica();
    let domain = |number| format!("domain{}", number / MAX_IN_DOMAIN);
    let new = |number| block(&domain(number), &format!("user{number}"));
    fill(&fleet, (0..MAX_OVERRIDES - 1).map(new)).await;
    let set = async |domain, user| book.set(block(domain, user)).await.map_err(|error| error.to_string());
    let full = set("domain0", "one more").await.unwrap_err();
    assert_eq!(full, "domain domain0 has 1000 overrides, the maximum; delete some first");
    set("domain9", "the last").await.unwrap();
    let full = set("domain9", "one more").await.unwrap_err();
    assert_eq!(full, "there are 4000 overrides, the maximum; delete some first");
    set("domain0", "user0").await.unwrap();
    assert_eq!(book.active().len(), MAX_OVERRIDES, "one in place of another needs no room");
}

#[tokio::test]
async fn overrides_are_bounded_in_bytes() {
    let fleet = Fleet::new();
    let book = fleet.replica();
    let large = |number: usize| NewOverride {
        reason: "x".repeat(1_000),
        ..block("shop", &format!("{number:0>4000}"))
    };
    // Each takes more than 5,000 bytes.
    let known = MAX_DOCUMENT_BYTES / 5_300;
    fill(&fleet, (0..known).map(large)).await;
    let mut set = Vec::new();
    let error = loop {
        match book.set(large(known + set.len())).await {
            Ok(active) => set.push(active.record.id),
            Err(error) => break error.to_string(),
        }
        assert!(set.len() < known);
    };
    assert!(error.contains("of at most 1048576; delete some first, or shorten reasons"), "{error}");
    assert!(fleet.stored().await.content.len() <= MAX_DOCUMENT_BYTES);
    assert_eq!(book.active().len(), known + set.len());
    assert!(!set.is_empty() && book.delete(&set[0]).await.unwrap());
    book.set(large(0)).await.unwrap();
    book.set(large(2 * known)).await.unwrap();
}
