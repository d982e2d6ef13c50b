//! The admin listener under many or slow clients.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::admin::RULES;
use crate::support::caller::Caller;
use crate::support::service::Service;
use crate::support::{PATIENCE, eventually};

const EVENTS: &[u8] = b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Denials with long descriptors, of which each event has some.
async fn deny(service: &Service) {
    let entries: Vec<_> =
        (0..20).map(|number| json!({"key": "filler", "value": format!("{number:0100}")})).collect();
    let descriptors = json!([{"entries": [{"key": "user", "value": "greedy"}]}, {"entries": entries}]);
    let body = json!({"domain": "shop", "descriptors": descriptors}).to_string();
    let client = Client::new();
    for _ in 0..20 {
        let answer = client.post(service.url("/json")).body(body.clone()).send().await.expect("an answer");
        assert!(answer.status() == StatusCode::OK || answer.status() == StatusCode::TOO_MANY_REQUESTS);
    }
}

/// Longer than a peer may leave an answer unread.
#[tokio::test]
async fn a_stream_lasts_while_it_is_read_and_ends_when_it_is_not() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    // The kernel keeps little for the one who does not read.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut slow = socket.connect(([127, 0, 0, 1], service.admin).into()).await.expect("it listens");
    slow.write_all(EVENTS).await.expect("sent");
    let mut reader = TcpStream::connect(("127.0.0.1", service.admin)).await.expect("it listens");
    reader.write_all(EVENTS).await.expect("sent");
    let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
    let is_cut = |stream: &TcpStream| {
        // Nothing can be sent to a connection that was reset.
        stream.try_write(b"\r\n").is_err()
    };
    let deadline = Instant::now() + 6 * PATIENCE;
    while !is_cut(&slow) {
        assert!(Instant::now() < deadline, "the one who does not read is still connected");
        deny(&service).await;
        let more =
            timeout(PATIENCE, reader.read(&mut buffer)).await.expect("events go on").expect("a connection");
        assert!(more > 0, "the one who reads was disconnected after {read} bytes");
        read += more;
        sleep(Duration::from_millis(200)).await;
    }
    let more =
        timeout(PATIENCE, reader.read(&mut buffer)).await.expect("events go on").expect("a connection");
    assert!(more > 0, "the one who reads was disconnected with the other");
}

#[tokio::test]
async fn a_thousand_connections_to_the_console_delay_neither_scrapes_nor_calls() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    let mut held = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(("127.0.0.1", service.admin)).await.expect("it listens");
        // Silent ones, halves of requests, and streams.
        let sent: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nhost: local",
            _ => EVENTS,
        };
        // One that was displaced has ended already.
        drop(stream.write_all(sent).await);
        held.push(stream);
    }
    let mut caller = Caller::connect(service.grpc).await;
    for _ in 0..100 {
        caller.ask("user", "ann").await.expect("an answer");
        let scrape = reqwest::get(service.debug_url("/metrics")).await.expect("metrics");
        assert_eq!(scrape.status(), StatusCode::OK);
    }
    let admin = async || {
        let client = Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        client
            .get(service.admin_url("/api/v1/summary"))
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    };
    eventually("operators get in too", admin).await;
    drop(held);
}
