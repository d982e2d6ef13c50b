//! Connections: no client keeps others out by holding many connections, or for a long time.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::caller::Caller;
use crate::support::http2::{GOAWAY, RawClient, connect_from};
use crate::support::process::Process;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1000000}}
";
/// Path of a method that does not exist; a call of it is answered at once.
const NO_METHOD: &str = "/no.Service/Method";

async fn start(environment: &[(&str, &str)]) -> Tollgate {
    let service = Tollgate::start(&[("rules.yaml", RULES)], environment).await;
    eventually("the connection that it was asked over is gone", async || {
        let metrics = reqwest::get(service.debug_url("/metrics")).await.expect("metrics").text().await;
        let metrics = metrics.expect("text");
        let mut open = metrics.lines().filter(|line| line.starts_with("tollgate_connections{"));
        open.all(|line| line.ends_with(" 0"))
    })
    .await;
    service
}

/// Connections from `from` that have sent one byte.
async fn one_byte(from: &str, port: u16, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = connect_from(from, port).await;
        stream.write_all(b"P").await.expect("sent");
        streams.push(stream);
    }
    streams
}

/// Waits until the server closes `stream`.
async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    timeout(PATIENCE, end).await.expect("the server closes it");
}

/// An HTTP/1 connection from `from` that has made one request, and stays open.
async fn kept_alive(from: &str, port: u16) -> TcpStream {
    let mut stream = connect_from(from, port).await;
    assert_eq!(get_health(&mut stream).await, "HTTP/1.1 200");
    stream
}

/// The beginning of the answer to a health check on `stream`; empty if it is closed.
async fn get_health(stream: &mut TcpStream) -> String {
    drop(stream.write_all(b"GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n").await);
    let mut answer = [0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer or an end");
    String::from_utf8_lossy(&answer[..read.unwrap_or(0).min(12)]).into_owned()
}

#[tokio::test]
async fn clients_that_send_one_byte_block_no_port() {
    let service = start(&[("MAX_CONNECTIONS", "50"), ("FIRST_REQUEST_TIMEOUT", "3s")]).await;
    let mut attackers = Vec::new();
    for (port, count) in [(service.grpc, 50), (service.http, 50), (service.debug, 256)] {
        attackers.extend(one_byte("127.0.0.2", port, count).await);
    }
    // While all of them are open, honest clients come in.
    let mut honest = Caller::connect(service.grpc).await;
    honest.ask("user", "ann").await.expect("an answer");
    for url in [service.url("/healthcheck"), service.debug_url("/metrics")] {
        assert_eq!(reqwest::get(url).await.expect("an answer").status(), 200);
    }
    for listener in ["grpc", "http", "debug"] {
        let series = format!("tollgate_displaced_connections{{listener=\"{listener}\"}}");
        assert!(service.metric(&series).await > 0, "{listener}");
    }
    for attacker in &mut attackers {
        closed(attacker).await;
    }
    honest.ask("user", "ann").await.expect("an answer");
}

#[tokio::test]
async fn connections_end_soon_after_their_first_request_was_due() {
    let service = start(&[("FIRST_REQUEST_TIMEOUT", "1s")]).await;
    let half = b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    for (port, sent) in [
        (service.grpc, &b"P"[..]),
        (service.http, b"P"),
        (service.debug, b"P"),
        (service.grpc, b""),
        (service.http, half),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(sent).await.expect("sent");
        closed(&mut stream).await;
    }
    // A handshake of HTTP/2 does not count as a request.
    let idle = RawClient::connect(service.grpc).await;
    eventually("it is closed", async || idle.is_closed()).await;
    assert!(idle.frames().iter().any(|frame| frame.kind == GOAWAY), "{:?}", idle.frames());
}

#[tokio::test]
async fn connections_without_requests_end_after_their_idle_timeout() {
    let service = start(&[("HTTP_IDLE_TIMEOUT", "1s"), ("GRPC_IDLE_TIMEOUT", "1s")]).await;
    for port in [service.http, service.debug] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        closed(&mut stream).await;
    }
    let mut grpc = RawClient::connect(service.grpc).await;
    grpc.call(NO_METHOD, b"").await;
    eventually("it is closed", async || grpc.is_closed()).await;
    assert!(grpc.frames().iter().any(|frame| frame.kind == GOAWAY), "{:?}", grpc.frames());
}

#[tokio::test]
async fn at_the_bound_the_connection_that_was_idle_longest_is_closed() {
    let service = start(&[("MAX_CONNECTIONS", "4"), ("MAX_CONNECTIONS_PER_ADDRESS", "4")]).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(kept_alive("127.0.0.1", service.http).await);
    }
    // The first is used again: the second has been idle longest.
    assert_eq!(get_health(&mut streams[0]).await, "HTTP/1.1 200");
    let mut newcomer = kept_alive("127.0.0.1", service.http).await;
    closed(&mut streams[1]).await;
    for stream in [0, 2, 3] {
        assert_eq!(get_health(&mut streams[stream]).await, "HTTP/1.1 200", "{stream}");
    }
    assert_eq!(get_health(&mut newcomer).await, "HTTP/1.1 200");
}

#[tokio::test]
async fn an_address_with_more_than_its_share_gives_up_its_own_connections() {
    let service = start(&[("MAX_CONNECTIONS", "8")]).await;
    let mut honest = kept_alive("127.0.0.1", service.http).await;
    // Below the bound, one address may have all that is left.
    let mut attackers = Vec::new();
    for _ in 0..7 {
        attackers.push(kept_alive("127.0.0.2", service.http).await);
    }
    for _ in 0..20 {
        attackers.push(kept_alive("127.0.0.2", service.http).await);
    }
    // Its connection stayed open, although it has been idle longest of all.
    assert_eq!(get_health(&mut honest).await, "HTTP/1.1 200");
    let mut second = kept_alive("127.0.0.3", service.http).await;
    assert_eq!(get_health(&mut second).await, "HTTP/1.1 200");
    assert_eq!(get_health(&mut honest).await, "HTTP/1.1 200");
}

#[tokio::test]
async fn the_end_of_the_process_does_not_wait_for_peers_that_do_nothing() {
    let mut service = start(&[("SHUTDOWN_TIMEOUT", "60s")]).await;
    let _one_byte = one_byte("127.0.0.1", service.grpc, 1).await;
    let _http = one_byte("127.0.0.1", service.http, 1).await;
    // It never acknowledges the PING that follows a GOAWAY.
    let mut silent = RawClient::connect(service.grpc).await;
    silent.call(NO_METHOD, b"").await;
    silent.call("/grpc.health.v1.Health/Watch", &[0; 5]).await;
    eventually("it is answered", async || silent.frames().len() > 3).await;
    let began = Instant::now();
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_flood_of_connections_leaves_descriptors_for_health_metrics_and_redis() {
    let mut redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let environment = [("REDIS_URL", &*url), ("THREADS", "2")];
    // The soft limit is raised to the hard one.
    let limit = "ulimit -Sn 64; ulimit -Hn 256";
    let service = Tollgate::start_limited(limit, &[("rules.yaml", RULES)], &environment).await;
    let mut attackers = Vec::new();
    for port in [service.grpc, service.http, service.debug] {
        attackers.extend(one_byte("127.0.0.2", port, 300).await);
    }
    let mut honest = Caller::connect(service.grpc).await;
    redis.kill();
    redis.restart().await;
    eventually("Redis is connected to again", async || honest.ask("user", "ann").await.is_ok()).await;
    for url in [service.url("/healthcheck"), service.debug_url("/metrics")] {
        assert_eq!(reqwest::get(url).await.expect("an answer").status(), 200);
    }
    let printed =
        service.process.output_with("open file limit is too low, accepting fewer connections").await;
    assert!(!printed.contains("accept failed"), "{printed}");
}

#[tokio::test]
async fn memory_goes_back_to_the_system_after_a_burst_of_connections() {
    let service = start(&[("FIRST_REQUEST_TIMEOUT", "60s")]).await;
    let resident = |process: &Process| process.resident_mib();
    let before = resident(&service.process);
    let mut clients = Vec::new();
    for _ in 0..400 {
        let mut client = RawClient::connect(service.grpc).await;
        client.open(40, "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", b"\0").await;
        clients.push(client);
    }
    eventually("memory grows", async || resident(&service.process) > before + 20).await;
    let grown = resident(&service.process);
    drop(clients);
    let goal = before + (grown - before) / 2;
    eventually("memory is returned, without a call", async || resident(&service.process) < goal).await;
}
