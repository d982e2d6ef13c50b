//! The servers that tests of the Redis store rely on are what they claim to be.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tollgate::store::redis::{Deployment, Endpoint, Login};
use tollgate::tls::Identity;

use crate::support::eventually;
use crate::support::proxy::{Passage, Proxy};
use crate::support::redis::cluster::{self, Cluster};
use crate::support::redis::sentinel::{Passwords, Sentinels};
use crate::support::redis::{Redis, User};

const USER: User = User { name: "tollgate", password: "correct horse" };

#[tokio::test]
async fn valkey_says_that_it_is_valkey() {
    let server = Redis::start_valkey().await;
    let info = server.command(["INFO", "server"]);
    assert!(info.contains("server_name:valkey"), "{info}");
    let server = Redis::start().await;
    let info = server.command(["INFO", "server"]);
    assert!(!info.contains("valkey"), "{info}");
}

#[tokio::test]
async fn tls_refuses_a_client_without_certificate() {
    let server = Redis::start_with_tls(USER).await;
    assert_eq!(server.command(["ACL", "WHOAMI"]), USER.name);
    let tls = server.settings().tls.expect("TLS");
    assert!(tls.verify_hostname);
    let ca = tls.ca.expect("an authority");
    let client = tls.identity.expect("a certificate");

    assert_eq!(ping(&server, &ca, Some(&client)), "PONG");
    assert_eq!(ping(&server, &ca, None), "");
    assert_eq!(ping(&server, &server.certificates().other_ca(), Some(&client)), "");
    let Deployment::Single(Endpoint::Tcp { host, .. }) = server.settings().deployment else {
        panic!("one server")
    };
    assert_eq!(host, "localhost");
    assert_ne!(server.reached_by("127.0.0.1"), server.settings().deployment);
}

/// Reply to a client that trusts `ca`; empty if the server or the client refuses the connection.
fn ping(server: &Redis, ca: &Path, client: Option<&Identity>) -> String {
    let Deployment::Single(Endpoint::Tcp { port, .. }) = server.settings().deployment else {
        panic!("one server")
    };
    let mut cli = Command::new("redis-cli");
    cli.args(["-h", "127.0.0.1", "-p", &port.to_string(), "--user", USER.name, "--pass", USER.password]);
    cli.arg("--tls").arg("--cacert").arg(ca);
    if let Some(client) = client {
        cli.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
    }
    let output = cli.arg("PING").output().expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn keys_are_in_the_slots_that_redis_says() {
    for (key, slot) in [
        ("123456789", 0x31c3),
        ("foo", 12182),
        ("{user1000}.following", 3443),
        ("a{user1000}{b}", 3443),
        ("", 0),
    ] {
        assert_eq!(cluster::slot(key.as_bytes()), slot, "{key}");
    }
    // Nothing between the first braces.
    assert_ne!(cluster::slot(b"foo{}{bar}"), cluster::slot(b"bar"));
}

#[tokio::test]
async fn a_replica_replaces_a_primary_of_the_cluster() {
    let mut cluster = Cluster::start(3, 1).await;
    let Deployment::Cluster { nodes } = cluster.settings().deployment else { panic!("a Cluster") };
    assert_eq!(nodes.len(), 6);
    let primaries = cluster.primaries();
    assert_eq!(primaries.iter().map(|primary| primary.node).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(primaries[0].slots, [0..=5460]);
    assert_eq!(primaries[0].port, cluster.port(0));

    let key = b"{foo}_1";
    let slot = cluster::slot(key);
    let first = cluster.node_of(key);
    let replica = cluster.replicas_of(first);
    cluster.command_on(first, ["INCRBY", "{foo}_1", "7"]);
    cluster.replicated(first).await;
    cluster.kill(first);
    assert_eq!(cluster.primary_of(slot), None);
    let second = cluster.wait_for_new_primary_of(slot).await;
    assert_eq!([second], replica[..]);
    assert_eq!(cluster.counter(key), Some(7));
    assert_eq!(cluster.len(), 1);

    cluster.restart(first).await;
    cluster.settled().await;
    assert_eq!(cluster.node_of(key), second);
    assert_eq!(cluster.replicas_of(second), [first]);
}

#[tokio::test]
async fn a_primary_that_hangs_is_replaced_and_follows_when_it_is_back() {
    let cluster = Cluster::start(3, 1).await;
    let slot = 16_383;
    cluster.pause(2);
    let second = cluster.wait_for_new_primary_of(slot).await;
    assert_ne!(second, 2);
    cluster.resume(2);
    eventually("it follows", async || cluster.replicas_of(second) == [2]).await;
}

#[tokio::test]
async fn a_slot_migrates_with_its_keys() {
    let cluster = Cluster::start(2, 0).await;
    let keys: Vec<_> = (0..250).map(|at| format!("{{foo}}_{at}")).collect();
    let slot = cluster::slot(keys[0].as_bytes());
    let from = cluster.node_of(keys[0].as_bytes());
    let to = 1 - from;
    for key in &keys {
        cluster.command_on(from, ["SET", key, "3"]);
    }
    cluster.begin_migration(slot, from, to);
    assert!(cluster.command_on(from, ["GET", "{foo}"]).starts_with("ASK "));
    assert_eq!(cluster.counter(b"{foo}_0"), Some(3));
    cluster.migrate_keys(slot, from, to);
    assert_eq!(cluster.node_of(b"{foo}"), from);
    assert!(cluster.command_on(from, ["GET", "{foo}_0"]).starts_with("ASK "));
    assert_eq!(cluster.counter(b"{foo}_0"), Some(3));
    assert_eq!(cluster.counter(b"{foo}"), None);
    cluster.end_migration(slot, from, to).await;
    assert_eq!(cluster.node_of(b"{foo}"), to);
    assert!(cluster.command_on(from, ["GET", "{foo}_0"]).starts_with("MOVED "));
    assert_eq!(cluster.counter(b"{foo}_0"), Some(3));
    assert_eq!(cluster.len(), 250);
}

#[tokio::test]
async fn sentinels_name_the_replica_once_the_primary_is_gone() {
    let mut sentinels = Sentinels::start(Passwords::default()).await;
    let first = sentinels.primary_port();
    assert_eq!(sentinels.command_on_primary(["SET", "a", "7"]), "OK");
    sentinels.replicated().await;
    sentinels.kill_primary();
    sentinels.wait_for_failover().await;
    assert_ne!(sentinels.primary_port(), first);
    assert_eq!(sentinels.command_on_primary(["GET", "a"]), "7");

    sentinels.restart_old_primary().await;
    sentinels.settled().await;
    sentinels.replicated().await;
}

#[tokio::test]
async fn sentinels_with_passwords_replace_a_primary_that_hangs() {
    let passwords = Passwords { servers: Some("count me"), sentinels: Some("watch me") };
    let mut sentinels = Sentinels::start(passwords).await;
    let settings = sentinels.settings();
    let Deployment::Sentinel { sentinels: endpoints, .. } = settings.deployment else { panic!("Sentinels") };
    assert_eq!(endpoints.len(), 3);
    assert!(matches!(settings.credentials.server, Login::Password { username: None, .. }));
    assert!(matches!(settings.credentials.sentinel, Login::Password { username: None, .. }));

    sentinels.pause_primary();
    sentinels.wait_for_failover().await;
    let primary = sentinels.primary_port();
    sentinels.kill_sentinel(0);
    assert_eq!(sentinels.primary_port(), primary);
    assert!(sentinels.command_on_primary(["ROLE"]).starts_with("master"));
    sentinels.resume();
    sentinels.settled().await;
}

#[tokio::test]
async fn a_proxy_passes_delays_loses_and_resets() {
    let server = Redis::start().await;
    let Deployment::Single(Endpoint::Tcp { port, .. }) = server.settings().deployment else {
        panic!("one server")
    };
    let proxy = Proxy::start(port).await;
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.incr().await.as_deref(), Some(":1\r\n"));

    let slow = Duration::from_millis(50);
    proxy.set(Passage::Slow { requests: slow, replies: slow });
    let begun = Instant::now();
    assert_eq!(client.incr().await.as_deref(), Some(":2\r\n"));
    assert!(begun.elapsed() >= 2 * slow);

    proxy.set(Passage::OneWay);
    assert_eq!(client.incr().await, None);
    assert_eq!(server.command(["GET", "a"]), "3");
    proxy.set(Passage::Shut);
    let mut other = Client::connect(&proxy).await;
    assert_eq!(other.incr().await, None);
    assert_eq!(server.command(["GET", "a"]), "3");

    // A connection that has lost bytes stays silent; a new one works.
    proxy.set(Passage::Open);
    assert_eq!(other.incr().await, None);
    let mut third = Client::connect(&proxy).await;
    assert_eq!(third.incr().await.as_deref(), Some(":4\r\n"));
    proxy.reset();
    for client in [&mut client, &mut other, &mut third] {
        let error = client.0.read_u8().await.expect_err("it was reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(Client::connect(&proxy).await.incr().await.as_deref(), Some(":5\r\n"));
}

/// A plain connection through the proxy to Redis.
struct Client(TcpStream);

impl Client {
    async fn connect(proxy: &Proxy) -> Self {
        Self(TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("a connection"))
    }

    /// Sends `INCR` and returns the reply; `None` if none came within 300 ms.
    async fn incr(&mut self) -> Option<String> {
        self.0.write_all(b"INCR a\r\n").await.expect("sent");
        let mut buffer = [0; 64];
        let read = timeout(Duration::from_millis(300), self.0.read(&mut buffer)).await.ok()?;
        Some(String::from_utf8_lossy(&buffer[..read.expect("a reply")]).into_owned())
    }
}
