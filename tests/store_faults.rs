//! A Redis that is away, hangs, refuses commands, or rejects the credentials.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time;
use tollgate::engine::{Hits, Unit};
use tollgate::store::redis::{Credentials, Login, RedisSettings, RedisStore};
use tollgate::store::{Store, StoreError};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::store::{MIDNIGHT, charge, connected, hit, used};
use crate::support::redis::{Redis, User};
use crate::support::stores::complete;
use crate::support::{PATIENCE, eventually};

/// A call timeout to test with.
const CALL_TIMEOUT: Duration = Duration::from_millis(100);

fn hasty(server: &Redis) -> RedisSettings {
    RedisSettings { call_timeout: CALL_TIMEOUT, ..server.settings() }
}

#[tokio::test]
async fn a_server_that_starts_late_is_found() {
    let mut server = Redis::absent();
    let store = RedisStore::connect(&server.settings()).expect("settings of use");
    eventually("the cause is known", async || {
        let error = store.ready(Duration::from_millis(20)).await.expect_err("nobody listens");
        matches!(error, StoreError::Unreachable(text) if text.contains("Connection refused"))
    })
    .await;
    for _ in 0..10 {
        let cause = used(&store, hit("a")).await.expect_err("nobody listens");
        assert!(matches!(cause, StoreError::Unreachable(_)), "{cause}");
    }

    server.restart().await;
    store.ready(PATIENCE).await.expect("Redis has come");
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);
}

#[tokio::test]
async fn a_server_that_is_killed_fails_calls_fast_and_is_found_again() {
    let mut server = Redis::start().await;
    let store = connected(&hasty(&server)).await;
    for _ in 0..3 {
        used(&store, hit("a")).await.expect("a reading");
        server.kill();
        eventually("calls fail without being sent", async || match used(&store, hit("a")).await {
            Ok(_) => panic!("a reading from a dead server"),
            Err(error) => matches!(error, StoreError::Unreachable(_)),
        })
        .await;
        server.restart().await;
        eventually("Redis is found", async || used(&store, hit("a")).await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_no_longer_than_the_call_timeout() {
    let server = Redis::start().await;
    let store = Arc::new(connected(&hasty(&server)).await);
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);
    server.pause();
    for (number, hits) in [Hits::Add(1), Hits::Add(0), Hits::Refund(1)].into_iter().enumerate() {
        let error = used(&store, charge("a", Unit::Minute, hits)).await.expect_err("it hangs");
        // Behind a batch without any reply nothing is sent, so nothing more can have been counted.
        assert_eq!(matches!(error, StoreError::Unanswered(_)), number == 0, "{error}");
    }
    // More than may wait in line: the rest is turned away.
    let mut callers = JoinSet::new();
    for _ in 0..20_000 {
        let store = store.clone();
        callers.spawn(async move { used(&store, hit("flood")).await.expect_err("it hangs") });
    }
    let errors = callers.join_all().await;
    assert!(errors.iter().any(|error| matches!(error, StoreError::Unreachable(_))));
    server.resume();
    eventually("Redis answers again", async || used(&store, hit("b")).await.is_ok()).await;
}

#[tokio::test]
async fn a_connection_that_is_lost_while_its_queue_is_full_is_restored() {
    let mut server = Redis::start().await;
    let store = Arc::new(connected(&hasty(&server)).await);
    server.pause();
    let key = Bytes::from(vec![b'k'; 8_000]);
    // The first of them fill the socket, the second ones the queue behind it.
    for len in [10_000, 4_000] {
        let mut callers = JoinSet::new();
        for _ in 0..len {
            let (store, charge) = (store.clone(), charge(key.clone(), Unit::Minute, Hits::Add(1)));
            callers.spawn(async move { used(&store, charge).await.expect_err("it hangs") });
        }
        callers.join_all().await;
    }
    server.restart().await;
    eventually("Redis is found", async || used(&store, hit("a")).await.is_ok()).await;
}

#[tokio::test]
async fn a_call_that_was_not_answered_is_not_sent_again() {
    let mut server = Redis::start().await;
    // Redis is back long before the caller gives up.
    let store = Arc::new(connected(&RedisSettings { call_timeout: PATIENCE, ..server.settings() }).await);
    server.pause();
    let caller = store.clone();
    let call = tokio::spawn(async move { caller.charge(&[hit("a")], MIDNIGHT).await });
    // The call is on the wire when a look sent after it is given up.
    let look = [charge("a", Unit::Minute, Hits::Add(0))];
    assert!(time::timeout(CALL_TIMEOUT, store.charge(&look, MIDNIGHT)).await.is_err(), "it hangs");

    server.restart().await;
    eventually("Redis is found", async || used(&store, hit("b")).await.is_ok()).await;
    let answer = complete(call.await.expect("no panic"));
    assert!(matches!(answer, Err(StoreError::Unanswered(_))), "{answer:?}");
    store.settle().await;
    assert_eq!(server.command(["KEYS", "a*"]), "");
}

#[tokio::test]
async fn a_server_that_refuses_says_why_and_is_asked_again() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    for (refuse, cause, accept) in [
        (vec!["CONFIG", "SET", "maxmemory", "1"], "OOM", vec!["CONFIG", "SET", "maxmemory", "0"]),
        (vec!["REPLICAOF", "127.0.0.1", "1"], "READONLY", vec!["REPLICAOF", "NO", "ONE"]),
    ] {
        server.command(&refuse);
        let error = used(&store, hit("a")).await.expect_err("it refuses");
        assert!(matches!(&error, StoreError::Rejected(text) if text.starts_with(cause)), "{error}");
        server.command(&accept);
        eventually("Redis accepts", async || used(&store, hit("a")).await.is_ok()).await;
    }
}

/// Behind its name there may be another server by now, one that takes writes.
#[tokio::test]
async fn a_server_that_has_become_a_replica_is_connected_to_anew() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let connections = || -> Vec<String> {
        let clients = server.command(["CLIENT", "LIST", "TYPE", "normal"]);
        let others = clients.lines().filter(|client| !client.contains("cmd=client"));
        others.filter_map(|client| client.split(' ').next().map(str::to_owned)).collect()
    };
    let before = connections();
    assert_eq!(before.len(), 1, "{before:?}");
    server.command(["REPLICAOF", "127.0.0.1", "1"]);
    used(&store, hit("a")).await.expect_err("a replica refuses");
    eventually("another connection", async || matches!(&connections()[..], [one] if *one != before[0])).await;
}

const USER: User = User { name: "someone", password: "correct-horse-battery" };

#[tokio::test]
async fn a_wrong_password_is_reported_by_its_cause_and_never_logged() {
    let log = Log::default();
    let writer = log.clone();
    let _logging = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish()
        .set_default();

    // With a second subscriber, tracing does not cache another thread's finding that no subscriber is interested.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());

    let server = Redis::start_for(USER).await;
    let wrong = SecretString::from("wrong-horse-battery");
    let wrong = Login::Password { username: Some(USER.name.to_owned()), password: wrong };
    for (login, cause) in [(wrong, "WRONGPASS"), (Login::Open, "NOAUTH")] {
        let credentials = Credentials { server: login, ..Credentials::default() };
        let settings = RedisSettings { credentials, ..server.settings() };
        let store = RedisStore::connect(&settings).expect("settings of use");
        eventually("the cause is known", async || {
            let error = store.ready(Duration::from_millis(20)).await.expect_err("not let in");
            matches!(error, StoreError::Unreachable(text) if text.contains(cause))
        })
        .await;
        let error = used(&store, hit("a")).await.expect_err("not let in");
        assert!(matches!(&error, StoreError::Unreachable(text) if text.contains(cause)), "{error}");
        tracing::info!(?store, ?settings, ?error, %error, "everything there is to print");
    }
    let store = connected(&server.settings()).await;
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);
    tracing::info!(?store, settings = ?server.settings(), "everything there is to print");

    eventually("it is logged", async || log.text().contains("connected to Redis")).await;
    let text = log.text();
    for logged in ["cannot be reached", "WRONGPASS", "NOAUTH", "connected to Redis", "RedisSettings"] {
        assert!(text.contains(logged), "{logged} is not in the log");
    }
    for secret in ["horse", "someone"] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
}

/// The log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn calls_do_not_wait_for_a_server_that_hangs_and_count_again_after_its_return() {
    let server = Redis::start().await;
    let store = connected(&hasty(&server)).await;
    let ask = async || used(&store, hit("a")).await;
    let is_turned_away = |answer| matches!(answer, Err(StoreError::Unreachable(_)));
    assert_eq!(ask().await.expect("a reading"), 1);
    server.pause();
    eventually("the breaker opens", async || is_turned_away(ask().await)).await;
    for _ in 0..1_000 {
        assert!(is_turned_away(ask().await), "none is sent while the breaker is open");
    }

    server.resume();
    eventually("it counts again", async || ask().await.is_ok()).await;
    let before = ask().await.expect("a reading");
    assert_eq!(ask().await.expect("a reading"), before + 1);
}
