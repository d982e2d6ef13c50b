//! Request bodies, which take memory as they arrive and time until they have: both are bounded.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::caller::Caller;
use crate::support::http2::{RawClient, SHOULD_RATE_LIMIT};
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1000000}}
";
/// The prefix of a message that is one byte smaller than the largest.
const LARGE_PREFIX: &[u8] = &[0, 0, 0x3f, 0xff, 0xff];
const DISPLACED: &str = r#"tollgate_incomplete_request_bodies{reason="displaced"}"#;
const TIMED_OUT: &str = r#"tollgate_incomplete_request_bodies{reason="timed_out"}"#;
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

async fn start(environment: &[(&str, &str)]) -> Tollgate {
    let one_core = [("THREADS", "1")];
    let environment: Vec<_> = one_core.iter().chain(environment).copied().collect();
    Tollgate::start(&[("rules.yaml", RULES)], &environment).await
}

#[tokio::test]
async fn declared_lengths_take_no_memory_and_bodies_that_do_not_come_are_given_up() {
    let service = start(&[]).await;
    let mut honest = Caller::connect(service.grpc).await;
    let before = service.process.resident_mib();
    let mut attackers = Vec::new();
    for path in [SHOULD_RATE_LIMIT, CHECK] {
        let mut attacker = RawClient::connect(service.grpc).await;
        attacker.open(2_000, path, LARGE_PREFIX).await;
        attackers.push(attacker);
    }
    for _ in 0..20 {
        honest.ask("user", "ann").await.expect("an answer");
    }
    eventually("every stream is ended", async || {
        attackers.iter().all(|attacker| attacker.ended_streams() == 2_000)
    })
    .await;
    honest.ask("user", "ann").await.expect("an answer");
    let grown = service.process.peak_mib() - before;
    assert!(grown < 50, "{grown} MiB");
}

#[tokio::test]
async fn bytes_of_unfinished_bodies_are_bounded_for_the_process() {
    let service = start(&[("MAX_REQUESTS_IN_FLIGHT", "1000")]).await;
    let before = service.process.resident_mib();
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let port = service.http;
        attackers.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            let head = format!("POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 250 << 10);
            drop(stream.write_all(head.as_bytes()).await);
            // 72 MiB together.
            drop(stream.write_all(&vec![b' '; 245 << 10]).await);
            let mut answer = vec![0; 64];
            drop(tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("it is given up"));
            String::from_utf8_lossy(&answer).into_owned()
        });
    }
    let mut honest = Caller::connect(service.grpc).await;
    for _ in 0..20 {
        honest.ask("user", "ann").await.expect("an answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answers = attackers.join_all().await;
    let displaced = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503")).count();
    assert!(displaced > 0, "{answers:?}");
    assert!(service.metric(DISPLACED).await >= displaced);
    let unfinished =
        |answer: &String| answer.starts_with("HTTP/1.1 503") || answer.starts_with("HTTP/1.1 408");
    assert!(answers.iter().all(unfinished), "{answers:?}");
    let grown = service.process.peak_mib() - before;
    assert!(grown < 150, "{grown} MiB");
}

#[tokio::test]
async fn the_time_of_bodies_is_a_setting_for_every_port() {
    // The connection is cut before the usual five seconds are over.
    let service = start(&[("BODY_TIMEOUT", "100ms"), ("FIRST_REQUEST_TIMEOUT", "4s")]).await;
    let mut attackers = Vec::new();
    for (port, path) in [(service.grpc, SHOULD_RATE_LIMIT), (service.http, "/json")] {
        let mut attacker = RawClient::connect(port).await;
        attacker.open(3, path, LARGE_PREFIX).await;
        attackers.push(attacker);
    }
    eventually("they are given up", async || service.metric(TIMED_OUT).await == 6).await;
    assert_eq!(service.metric(DISPLACED).await, 0);
}

#[tokio::test]
async fn the_bytes_of_unfinished_bodies_are_a_setting() {
    let service = start(&[("MAX_UNFINISHED_BODY_BYTES", "8388608"), ("BODY_TIMEOUT", "1m")]).await;
    // 10 MiB together.
    let mut bodies = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", service.http)).await.expect("it listens");
        let head = format!("POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 250 << 10);
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(&vec![b' '; 245 << 10]).await.expect("sent");
        bodies.push(stream);
    }
    eventually("the oldest give way", async || service.metric(DISPLACED).await > 0).await;
    assert_eq!(service.metric(TIMED_OUT).await, 0);
}

#[tokio::test]
async fn incomplete_requests_are_dropped_for_complete_ones() {
    let service = start(&[("MAX_REQUESTS_IN_FLIGHT", "50")]).await;
    let mut honest = Caller::connect(service.grpc).await;
    let mut attacker = RawClient::connect(service.grpc).await;
    attacker.open(80, SHOULD_RATE_LIMIT, b"").await;
    eventually("the bound is reached", async || attacker.ended_streams() >= 30).await;
    assert!(service.metric(DISPLACED).await >= 30);
    for _ in 0..20 {
        honest.ask("user", "ann").await.expect("an answer");
    }
}

#[tokio::test]
async fn open_streams_are_bounded_and_the_connection_with_most_of_them_loses_one() {
    let service = start(&[]).await;
    let mut honest = RawClient::connect(service.grpc).await;
    honest.call(WATCH, &[0; 5]).await;
    honest.open(1, REFLECTION, b"").await;
    eventually("the watch is answered", async || honest.frames().iter().any(|frame| frame.stream == 1)).await;
    let before = service.process.resident_mib();
    let mut attacker = RawClient::connect(service.grpc).await;
    for _ in 0..500 {
        attacker.call(WATCH, &[0; 5]).await;
    }
    attacker.open(500, REFLECTION, b"").await;
    eventually("most of them are ended", async || attacker.ended_streams() == 802).await;
    assert_eq!(honest.ended_streams(), 0);
    let grown = service.process.resident_mib() - before;
    assert!(grown < 50, "{grown} MiB");
}

#[tokio::test]
async fn unread_answers_are_bounded() {
    let service = start(&[]).await;
    let mut honest = Caller::connect(service.grpc).await;
    let mut attackers = Vec::new();
    for _ in 0..8 {
        let mut attacker = RawClient::connect_with_window(service.grpc, 0).await;
        // An empty message is answered with a status; this one names a domain and a descriptor.
        let message = b"\x0a\x04shop\x12\x0b\x0a\x09\x0a\x04user\x12\x01x";
        let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).expect("a short message")];
        framed.extend(message);
        for _ in 0..2_000 {
            attacker.call(SHOULD_RATE_LIMIT, &framed).await;
        }
        attackers.push(attacker);
    }
    let closed = || attackers.iter().filter(|attacker| attacker.is_closed()).count();
    eventually("those with most are closed", async || closed() >= 3).await;
    assert!(closed() < 8, "the others have time to read");
    for _ in 0..20 {
        honest.ask("user", "ann").await.expect("an answer");
    }
}

/// So many rules that their listing is long.
fn many_rules(count: u32) -> String {
    let rules = (0..count).map(|rule| format!("  - {{key: user, value: u{rule}, rate_limit: 5/minute}}\n"));
    format!("domain: shop\ndescriptors:\n{}", rules.collect::<String>())
}

#[tokio::test]
async fn large_unread_pages_are_bounded_in_bytes() {
    let rules = many_rules(5_000);
    let service = Tollgate::start(&[("rules.yaml", &rules)], &[("THREADS", "1")]).await;
    let page = reqwest::get(service.debug_url("/rlconfig")).await.expect("an answer").bytes().await;
    let page = page.expect("a page").len();
    let before = service.process.resident_mib();
    let mut attackers = Vec::new();
    // 150 MiB together; a window of one byte lets each begin.
    let each = (150 << 20) / page / 4;
    for _ in 0..4 {
        let mut attacker = RawClient::connect_with_window(service.debug, 1).await;
        for _ in 0..each {
            attacker.get("/rlconfig").await;
        }
        attackers.push(attacker);
    }
    let closed = || attackers.iter().filter(|attacker| attacker.is_closed()).count();
    eventually("one is closed for the bytes that it holds, or for the time", async || closed() > 0).await;
    assert_eq!(reqwest::get(service.debug_url("/metrics")).await.expect("an answer").status(), 200);
    let grown = service.process.peak_mib() - before;
    assert!(grown < 120, "{grown} MiB");
}

#[tokio::test]
async fn mistakes_in_a_calls_framing_are_named_by_their_meaning() {
    let service = start(&[]).await;
    let mut caller = Caller::connect(service.grpc).await;
    let large = "x".repeat(5 << 20);
    assert_eq!(caller.ask("user", &large).await.expect_err("refused").code(), Code::ResourceExhausted);
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let url = format!("http://127.0.0.1:{}{SHOULD_RATE_LIMIT}", service.grpc);
    for (content_type, body, status, code) in [
        ("application/grpc", &b""[..], 200, "12"),
        ("application/grpc", b"\0\0\0", 200, "3"),
        ("application/grpc", b"\x02\0\0\0\0", 200, "3"),
        ("application/grpc+proto", b"\0\0\0\0\0", 200, "3"),
        ("application/json", b"{}", 415, ""),
    ] {
        let answer = client.post(&url).header("content-type", content_type).body(body).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), status, "{body:?}");
        let found = answer.headers().get("grpc-status").map_or(&b""[..], |code| code.as_bytes());
        assert_eq!(found, code.as_bytes(), "{body:?}");
    }
}
