//! The log of the running program: which clients can make it write, and what happens when no process reads it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::process::Output;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: 1000/hour\n";
const BODY: &str = r#"{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}"#;

async fn call(service: &Tollgate) -> bool {
    let client = Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
    client.post(service.url("/json")).body(BODY).send().await.is_ok_and(|answer| answer.status() == 200)
}

/// Sends acknowledgements of pings that were never sent; the HTTP/2 library warns of each. Returns
/// when all of them were read.
async fn send_ping_acks(service: &Tollgate, count: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", service.grpc)).await.expect("it listens");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for _ in 0..count {
        bytes.extend(b"\0\0\x08\x06\x01\0\0\0\0unsolici");
    }
    // A ping that is answered.
    bytes.extend(b"\0\0\x08\x06\0\0\0\0\0the last");
    let (mut read, mut write) = stream.split();
    let answered = async {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.windows(8).any(|window| window == b"the last") {
            match read.read(&mut buffer).await {
                Ok(length) if length > 0 => seen.extend_from_slice(&buffer[..length]),
                // It may close such a connection too.
                Ok(_) | Err(_) => return,
            }
        }
    };
    let (_, ()) = tokio::join!(write.write_all(&bytes), answered);
}

#[tokio::test]
async fn peers_cannot_write_to_the_log() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let before = service.process.output_with("curl ").await;
    send_ping_acks(&service, 10_000).await;
    assert!(call(&service).await);
    let output = service.process.output();
    assert_eq!(output.strip_prefix(&before), Some(""), "nothing more is logged");
}

#[tokio::test]
async fn an_unread_log_delays_no_call_and_lost_lines_are_counted() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let to = Output { stdout: None, stderr: Some(writer.into()) };
    let mut service = Tollgate::start_to(to, &[("rules.yaml", RULES)], &[("LOG_LEVEL", "debug")]).await;
    for _ in 0..3 {
        send_ping_acks(&service, 10_000).await;
    }
    for _ in 0..20 {
        assert!(call(&service).await, "calls are answered");
    }
    let metrics = reqwest::get(service.debug_url("/metrics")).await.expect("it listens");
    let metrics = metrics.text().await.expect("text");
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("tollgate_log_lines_dropped "));
    let dropped: u64 = dropped.expect("a sample").parse().expect("a number");
    assert!(dropped > 1_000, "{dropped}");

    let lines = std::thread::spawn(move || {
        BufReader::new(reader).lines().map_while(Result::ok).filter(|line| line.contains("dropped")).count()
    });
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(0));
    drop(service);
    assert_eq!(lines.join().expect("it reads to the end"), 1, "one line says how many were lost");
}

#[tokio::test]
async fn a_stdout_that_cannot_be_written_to_ends_nothing() {
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let to = Output { stdout: Some(full.into()), stderr: None };
    let service = Tollgate::start_to(to, &[("rules.yaml", RULES)], &[]).await;
    assert!(call(&service).await);
    service.process.output_with("cannot write the banner").await;
}

#[tokio::test]
async fn with_json_every_line_on_stdout_and_stderr_is_json() {
    let environment = [("LOG_FORMAT", "json"), ("REDIS_URI", "redis://127.0.0.1:1")];
    let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    assert!(call(&service).await);
    let output = service.process.output_with("tollgate started").await;
    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{output}")))
        .collect();
    let has = |key: &str, value: &str| lines.iter().any(|line| line[key] == value);
    assert!(
        has("message", "tollgate started") && has("counters", "in the memory of this process"),
        "{output}"
    );
    assert!(has("name", "REDIS_URI") && has("nearest", "REDIS_URL"), "{output}");
}

#[tokio::test]
async fn without_traces_no_call_logs_an_error_of_tracing() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("LOG_LEVEL", "debug")]).await;
    assert!(call(&service).await);
    let output = service.process.output();
    assert!(!output.contains("span") && !output.contains("parent"), "{output}");
}

#[tokio::test]
async fn requests_to_a_domain_without_rules_are_logged_at_debug_level() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("LOG_LEVEL", "debug")]).await;
    let body = BODY.replace("shop", "no-shop\\nfake");
    let answer = Client::new().post(service.url("/json")).body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let logged = r#"no rules for domain domain="no-shop\\nfake""#;
    eventually(logged, async || service.process.output().contains(logged)).await;
}

#[tokio::test]
async fn the_level_changes_with_signals() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("LOG_LEVEL", "warn")]).await;
    let count = |text: &str| service.process.output().matches(text).count();
    for (signal, level) in [("USR1", "level=info"), ("USR1", "level=debug"), ("USR2", "level=warn")] {
        service.process.signal(signal);
        eventually(level, async || count(level) == 1).await;
    }
}
