//! TLS of the listeners, and certificates that are replaced while the service runs.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::ads::AdsServer;
use crate::support::envoy::{Config, Envoy};
use crate::support::http2::PREFACE;
use crate::support::pki::{self, Authority, Pair, Pki};
use crate::support::redis::{Redis, User};
use crate::support::tollgate::Tollgate;
use crate::support::xds::Client;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "
domain: example
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1000000}}
";

/// Variables of a service with this pair.
fn variables<'a>(pair: &'a Pair, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let text = |path: &'a std::path::Path| path.to_str().expect("UTF-8");
    let mut variables = vec![
        ("GRPC_SERVER_USE_TLS", "true"),
        ("GRPC_SERVER_TLS_CERT", text(&pair.certificate)),
        ("GRPC_SERVER_TLS_KEY", text(&pair.key)),
    ];
    variables.extend(more);
    variables
}

async fn start(pair: &Pair, more: &[(&str, &str)]) -> Tollgate {
    Tollgate::start(&[("rules.yaml", RULES)], &variables(pair, more)).await
}

async fn metrics(service: &Tollgate) -> String {
    reqwest::get(service.debug_url("/metrics")).await.expect("metrics").text().await.expect("text")
}

/// True if the port presents `pair` to a client of `authority` with `identity`.
async fn presents(service: &Tollgate, authority: &Authority, identity: &Pair, pair: &Pair) -> bool {
    let client = pki::client(authority, Some(identity), &[b"h2"]);
    let Ok(stream) = pki::connect(&client, service.grpc).await else { return false };
    let expected = CertificateDer::from_pem_file(&pair.certificate).expect("a certificate");
    stream.get_ref().1.peer_certificates().is_some_and(|chain| chain.first() == Some(&expected))
}

/// Envoy's side of mutual TLS.
fn envoy_config(port: u16, authority: &Authority, identity: &Pair) -> Config {
    let file = |path: &std::path::Path| format!("{{filename: {}}}", path.display());
    let socket = format!(
        "    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_certificates:
          - {{certificate_chain: {}, private_key: {}}}
          validation_context:
            trusted_ca: {}
            match_typed_subject_alt_names:
            - {{san_type: DNS, matcher: {{exact: localhost}}}}
",
        file(&identity.certificate),
        file(&identity.key),
        file(&authority.path),
    );
    Config::asking(&[port])
        .with("    # gRPC is HTTP/2.\n", &format!("{socket}    # gRPC is HTTP/2.\n"))
        .with("failure_mode_deny: false", "failure_mode_deny: true")
}

#[tokio::test]
async fn envoy_over_mutual_tls_fails_no_call_while_certificates_are_replaced() {
    let pki = Pki::new();
    let (servers, clients) = (pki.authority("servers"), pki.authority("clients"));
    let used = pki.pair(&servers, "used", "localhost");
    let envoy_pair = pki.pair(&clients, "envoy", "envoy.example");
    let pairs = [pki.pair(&servers, "one", "localhost"), pki.pair(&servers, "two", "localhost")];
    let both = pki.file("both.crt");
    let read = |path| fs::read_to_string(path).expect("a file");
    fs::write(&both, read(&clients.path) + &read(&servers.path)).expect("a file");
    let trusted = pki.file("trusted.crt");
    fs::copy(&clients.path, &trusted).expect("a copy");

    let mutual = [
        ("GRPC_CLIENT_TLS_CACERT", trusted.to_str().expect("UTF-8")),
        ("GRPC_CLIENT_TLS_SAN", "envoy.example,spiffe://other"),
        // Envoy connects again all the time, so that handshakes meet every state of the files.
        ("GRPC_MAX_CONNECTION_AGE", "100ms"),
    ];
    let service = start(&used, &mutual).await;
    let envoy = Envoy::start(&envoy_config(service.grpc, &servers, &envoy_pair)).await;
    eventually("Envoy has asked", async || envoy.status("ann").await == 200).await;

    let over = CancellationToken::new();
    let traffic = async {
        let mut calls = 0;
        while !over.is_cancelled() {
            assert_eq!(envoy.status("ann").await, 200);
            calls += 1;
        }
        calls
    };
    let replacements = async {
        for round in 0..4 {
            let pair = &pairs[round % 2];
            pki::replace(&pair.certificate, &used.certificate);
            pki::replace(&pair.key, &used.key);
            fs::copy(if round % 2 == 0 { &both } else { &clients.path }, &trusted).expect("a copy");
            let presented = async || presents(&service, &servers, &envoy_pair, pair).await;
            eventually("the new certificate is presented", presented).await;
        }
        over.cancel();
    };
    let (calls, ()) = tokio::join!(traffic, replacements);
    assert!(calls > 10, "{calls} calls");
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.error").await, 0);
    let handshakes = envoy.stat("cluster.tollgate.ssl.handshake").await;
    assert!(handshakes >= 4, "{handshakes} handshakes");
    let shown = metrics(&service).await;
    assert!(shown.contains("tollgate_tls_stale_files{use=\"grpc\"} 0\n"), "{shown}");
}

#[tokio::test]
async fn clients_without_the_right_certificate_are_turned_away_and_reported() {
    let pki = Pki::new();
    let (ours, other) = (pki.authority("ours"), pki.authority("other"));
    let server = pki.pair(&ours, "server", "localhost");
    let mutual = [
        ("GRPC_CLIENT_TLS_CACERT", ours.path.to_str().expect("UTF-8")),
        ("GRPC_CLIENT_TLS_SAN", "envoy.example"),
    ];
    let service = start(&server, &mutual).await;
    let path = ours.path.display();
    for (identity, expected) in [
        (None, format!("client presented no certificate; it needs one signed by an authority in {path}")),
        (
            Some(pki.pair(&other, "stranger", "envoy.example")),
            format!("client certificate not signed by an authority in {path}"),
        ),
        (
            Some(pki.pair(&ours, "elsewhere", "web.example")),
            "client certificate is for [\\\"web.example\\\"], not for one of [\\\"envoy.example\\\"]"
                .to_owned(),
        ),
        (Some(pki.pair_until(&ours, "expired", "envoy.example", 2020)), "certificate expired".to_owned()),
    ] {
        let client = pki::client(&ours, identity.as_ref(), &[b"h2"]);
        let rejected = async || match pki::connect(&client, service.grpc).await {
            Ok(mut stream) => stream.read_u8().await.is_err(),
            Err(_) => true,
        };
        // At most one failure a second is logged.
        eventually(&expected, async || rejected().await && service.process.output().contains(&expected))
            .await;
    }
    let shown = metrics(&service).await;
    let failures = shown
        .lines()
        .find_map(|line| line.strip_prefix("tollgate_tls_handshake_failures{listener=\"grpc\"} "));
    assert!(
        failures.is_some_and(|failures| failures.parse::<u64>().is_ok_and(|failures| failures >= 4)),
        "{shown}"
    );
}

/// Runs a command of the program to its end.
async fn command(args: &[&str]) -> (Option<i32>, String) {
    let args: Vec<_> = args.iter().map(ToString::to_string).collect();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let output = command.env_clear().args(args).output().expect("the program runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    tokio::task::spawn_blocking(run).await.expect("it ends")
}

#[tokio::test]
async fn query_and_bench_connect_over_mutual_tls() {
    let pki = Pki::new();
    let (ours, other) = (pki.authority("ours"), pki.authority("other"));
    let server = pki.pair(&ours, "server", "limits.example");
    let client = pki.pair(&ours, "client", "operator.example");
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let ca = text(&ours.path);
    let service = start(&server, &[("GRPC_CLIENT_TLS_CACERT", &ca)]).await;
    let address = format!("127.0.0.1:{}", service.grpc);
    let (certificate, key) = (text(&client.certificate), text(&client.key));
    let tls = ["--address", &address, "--tls-cacert", &ca, "--tls-cert", &certificate, "--tls-key", &key];
    let named = ["--tls-server-name", "limits.example"];

    let query = [&["query", "-d", "example", "user=a"][..], &tls].concat();
    let (code, printed) = command(&[&query[..], &named].concat()).await;
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = command(&[&query[..], &["--tls-skip-hostname-verification"]].concat()).await;
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = command(&query).await;
    assert!(code == Some(1) && printed.contains("not valid for name"), "{printed}");

    let other_ca = text(&other.path);
    let untrusted = ["query", "-d", "example", "user=a", "--address", &address, "--tls-cacert", &other_ca];
    let (code, printed) = command(&[&untrusted[..], &named].concat()).await;
    let expected = format!("UnknownIssuer; the trusted authorities are in {other_ca}");
    assert!(code == Some(1) && printed.contains(&expected), "{printed}");
    let (code, printed) = command(&["query", "-d", "example", "user=a", "--address", &address]).await;
    assert!(
        code == Some(1) && printed.contains("If the service uses TLS, set --tls."),
        "in plain text: {printed}"
    );
    let anonymous = ["query", "-d", "example", "user=a", "--address", &address, "--tls-cacert", &ca];
    let (code, printed) = command(&[&anonymous[..], &named].concat()).await;
    assert!(
        code == Some(1) && printed.contains("set --tls-cert and --tls-key."),
        "no certificate: {printed}"
    );

    let bench = ["bench", "--duration", "300ms", "--warmup", "0s", "--connections", "2", "--json"];
    let (code, printed) = command(&[&bench[..], &tls, &named].concat()).await;
    assert_eq!(code, Some(0), "{printed}");
    let failures = metrics(&service).await;
    assert!(failures.contains("ratelimit_service_rate_limit_total_hits"), "{failures}");
}

/// Files shaped like those of Envoy Gateway: PKCS#1 keys of RSA, no extended key usage, and a wildcard name. A
/// wildcard of two labels is no name of a server for the client here, but for Envoy it is.
#[tokio::test]
async fn certificates_of_envoy_gateway_identify_clients_and_the_service() {
    let pki = Pki::new();
    let file = |name: &str, content: &str| {
        let path = pki.file(name);
        fs::write(&path, content).expect("a file");
        path
    };
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let ca = text(&file("ca.crt", include_str!("support/gateway/ca.crt")));
    let wildcard = Pair {
        certificate: file("wildcard.crt", include_str!("support/gateway/client.crt")),
        key: file("wildcard.key", include_str!("support/gateway/client.key")),
    };
    let other = Pair {
        certificate: file("other.crt", include_str!("support/gateway/server.crt")),
        key: file("other.key", include_str!("support/gateway/server.key")),
    };
    let names = ("GRPC_CLIENT_TLS_SAN", "envoy.envoy-gateway-system");
    let service = start(&wildcard, &[("GRPC_CLIENT_TLS_CACERT", &ca), names]).await;
    let address = format!("127.0.0.1:{}", service.grpc);
    for (client, expected) in [(&wildcard, Some(0)), (&other, Some(1))] {
        let (certificate, key) = (text(&client.certificate), text(&client.key));
        let (code, printed) = command(&[
            "query",
            "--address",
            &address,
            "--tls-cacert",
            &ca,
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
            "--tls-skip-hostname-verification",
            "-d",
            "example",
            "user=a",
        ])
        .await;
        assert_eq!(code, expected, "{printed}");
    }
}

/// Waits until the server closes `stream`; what it sent until then.
async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut received = Vec::new();
    // A reset is an end too.
    drop(timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server closes it"));
    received
}

#[tokio::test]
async fn a_client_that_stops_during_or_after_the_handshake_is_disconnected() {
    let pki = Pki::new();
    let ours = pki.authority("ours");
    let more = [("HTTP_SERVER_USE_TLS", "true"), ("FIRST_REQUEST_TIMEOUT", "1s")];
    let service = start_https(&pki.pair(&ours, "server", "localhost"), &ours, &more).await;
    for port in [service.grpc, service.http] {
        let mut silent = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        let mut begun = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        // The first bytes of a ClientHello.
        begun.write_all(&[22, 3, 1, 1, 0, 1]).await.expect("sent");
        let client = pki::client(&ours, None, &[b"h2"]);
        let mut done = pki::connect(&client, port).await.expect("a handshake");
        assert_eq!(until_closed(&mut silent).await, b"");
        until_closed(&mut begun).await;
        until_closed(&mut done).await;
    }
}

#[tokio::test]
async fn a_listener_with_tls_serves_nothing_in_plain_text() {
    let pki = Pki::new();
    let ours = pki.authority("ours");
    let more = [("HTTP_SERVER_USE_TLS", "true")];
    let service = start_https(&pki.pair(&ours, "server", "localhost"), &ours, &more).await;
    for port in [service.grpc, service.http] {
        for request in [PREFACE, b"GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            stream.write_all(request).await.expect("sent");
            let received = until_closed(&mut stream).await;
            // A TLS alert, if anything.
            assert!(received.is_empty() || received[0] == 21, "{received:?}");
        }
    }
    let is_logged = async || service.process.output().contains("client does not speak TLS");
    eventually("it is logged", is_logged).await;
}

/// A service whose health is asked for over TLS.
async fn start_https(pair: &Pair, authority: &Authority, more: &[(&str, &str)]) -> Tollgate {
    let service = Tollgate::spawn(&[("rules.yaml", RULES)], &variables(pair, more));
    eventually("it serves HTTP over TLS", async || {
        health(&service, authority, &[b"http/1.1"]).await.is_some()
    })
    .await;
    service
}

/// Status line of a health check over TLS.
async fn health(service: &Tollgate, authority: &Authority, alpn: &[&[u8]]) -> Option<String> {
    let client = pki::client(authority, None, alpn);
    let mut stream = pki::connect(&client, service.http).await.ok()?;
    let request = b"GET /healthcheck HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let answer = until_closed(&mut stream).await;
    Some(String::from_utf8_lossy(&answer).lines().next()?.to_owned())
}

#[tokio::test]
async fn http_over_tls_speaks_both_versions_and_asks_for_no_certificate() {
    let pki = Pki::new();
    let ours = pki.authority("ours");
    let mutual =
        [("HTTP_SERVER_USE_TLS", "true"), ("GRPC_CLIENT_TLS_CACERT", ours.path.to_str().expect("UTF-8"))];
    let service = start_https(&pki.pair(&ours, "server", "localhost"), &ours, &mutual).await;
    assert_eq!(health(&service, &ours, &[b"http/1.1"]).await.as_deref(), Some("HTTP/1.1 200 OK"));
    for (port, offered, expected) in [
        (service.http, &[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (service.http, &[b"http/1.1"], Some(b"http/1.1")),
        (service.http, &[], None),
    ] {
        let stream = pki::connect(&pki::client(&ours, None, offered), port).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected);
    }
    let only_http1 = pki::client(&ours, None, &[b"http/1.1"]);
    assert!(pki::connect(&only_http1, service.grpc).await.is_err());
    let printed = service.process.output_with("(TLS)").await;
    assert!(printed.contains("(mutual TLS)"), "{printed}");
}

/// Runs the program; its exit code and what it wrote to stderr.
fn run(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().env("RULES_PATH", "/none").envs(variables.iter().copied());
    for port in ["PORT", "GRPC_PORT", "DEBUG_PORT"] {
        command.env(port, "0");
    }
    let output = command.output().expect("the program runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn files_that_cannot_be_used_end_the_start_with_their_name() {
    let pki = Pki::new();
    let ours = pki.authority("ours");
    let (good, other) = (pki.pair(&ours, "good", "localhost"), pki.pair(&ours, "other", "localhost"));
    let expired = pki.pair_until(&ours, "expired", "localhost", 2020);
    let mismatched = Pair { key: other.key, ..good.clone() };
    let missing = Pair { certificate: pki.file("none.crt"), ..good.clone() };
    let no_ca = good.key.to_str().expect("UTF-8").to_owned();
    for (pair, more, code, expected) in [
        (
            &mismatched,
            &[][..],
            2,
            &["GRPC_SERVER_TLS_KEY", "other.key", "does not match the certificate"][..],
        ),
        (&missing, &[], 2, &["GRPC_SERVER_TLS_CERT", "none.crt", "No such file"]),
        (
            &good,
            &[("GRPC_CLIENT_TLS_CACERT", &*no_ca)],
            2,
            &["GRPC_CLIENT_TLS_CACERT", "good.key", "no certificate in PEM format"],
        ),
        (
            &good,
            &[("GRPC_CLIENT_TLS_SAN", "a.example")],
            2,
            &["GRPC_CLIENT_TLS_SAN", "GRPC_CLIENT_TLS_CACERT is not set"],
        ),
        (&expired, &[], 1, &["expired.crt: the certificate expired at 2020-01-01 00:00:00 UTC"]),
    ] {
        let (found, printed) = run(&variables(pair, more));
        assert_eq!(found, Some(code), "{printed}");
        assert!(expected.iter().all(|part| printed.contains(part)), "{expected:?}: {printed}");
    }
}

#[tokio::test]
async fn an_invalid_file_keeps_the_last_good_certificate_and_shows_in_log_and_metrics() {
    let pki = Pki::new();
    let ours = pki.authority("ours");
    let (used, next) = (pki.pair(&ours, "used", "localhost"), pki.pair(&ours, "next", "localhost"));
    let service = start(&used, &[]).await;
    let path = used.certificate.display();
    let expiry = format!("tollgate_tls_certificate_expiry_timestamp_seconds{{file=\"{path}\",use=\"grpc\"}}");
    let shown = metrics(&service).await;
    assert!(
        shown.contains("tollgate_tls_certificate_expiry_timestamp_seconds{")
            && shown.contains(&path.to_string()),
        "{expiry} in {shown}"
    );
    assert!(shown.contains("4102444800"), "{shown}");

    fs::write(&used.certificate, "hunter2").expect("a file");
    let is_stale = async |stale: u8| {
        metrics(&service).await.contains(&format!("tollgate_tls_stale_files{{use=\"grpc\"}} {stale}\n"))
    };
    eventually("the invalid file is noticed", async || is_stale(1).await).await;
    let client = pki::client(&ours, None, &[b"h2"]);
    pki::connect(&client, service.grpc).await.expect("the last good certificate");
    let printed = service.process.output_with("used.crt: no certificate in PEM format").await;
    assert!(printed.contains("certificate reload failed"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");

    pki::replace(&next.certificate, &used.certificate);
    pki::replace(&next.key, &used.key);
    eventually("the next pair is in force", async || is_stale(0).await).await;
    let shown = metrics(&service).await;
    assert!(shown.contains("tollgate_tls_reloads{use=\"grpc\"} 1\n"), "{shown}");
}

#[tokio::test]
async fn redis_is_reached_as_soon_as_the_file_has_the_right_authority() {
    let redis = Redis::start_with_tls(User { name: "tollgate", password: "open sesame" }).await;
    let certificates = redis.certificates();
    let pki = Pki::new();
    let used = pki.file("redis-ca.crt");
    fs::copy(certificates.other_ca(), &used).expect("a copy");
    let tls = certificates.settings().identity.expect("an identity");
    let url = format!("rediss://tollgate:open%20sesame@localhost:{}", redis.port());
    let service = Tollgate::start(
        &[("rules.yaml", RULES)],
        &[
            ("REDIS_URL", &url),
            ("REDIS_TLS_CACERT", used.to_str().expect("UTF-8")),
            ("REDIS_TLS_CLIENT_CERT", tls.certificate.to_str().expect("UTF-8")),
            ("REDIS_TLS_CLIENT_KEY", tls.key.to_str().expect("UTF-8")),
        ],
    )
    .await;
    let ask = async || {
        let body = r#"{"domain": "example", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}"#;
        let request = reqwest::Client::new().post(service.url("/json")).body(body);
        request.send().await.expect("an answer").status().as_u16()
    };
    let explained = format!("the trusted authorities are in {}", used.display());
    let is_explained = async || ask().await == 503 && service.process.output().contains(&explained);
    eventually("the log names the file of authorities", is_explained).await;
    pki::replace(&certificates.ca(), &used);
    eventually("Redis counts", async || ask().await == 200).await;
}

#[tokio::test]
async fn a_management_server_is_reached_with_the_files_as_they_are_now() {
    let pki = Pki::new();
    let (before, after) = (pki.authority("before"), pki.authority("after"));
    let trusted = pki.file("trusted.crt");
    fs::copy(&after.path, &trusted).expect("a copy");
    let used = pki.pair(&before, "used", "tollgate");
    let config = watch::Sender::new(pki::server(&pki.pair(&before, "one", "localhost"), &before));
    let mut server = AdsServer::start_with(Some(config.subscribe())).await;
    let text = |path: &std::path::Path| path.display().to_string();
    let client = Client::start_at(
        "GRPC_XDS_SOTW",
        &server.address(),
        &[
            ("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true"),
            ("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "localhost"),
            ("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", &text(&trusted)),
            ("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", &text(&used.certificate)),
            ("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", &text(&used.key)),
        ],
    );
    let explained = format!("the trusted authorities are in {}", trusted.display());
    client
        .reaches("the error names the file of authorities", |client| {
            client.stream_error().is_some_and(|error| error.contains(&explained))
        })
        .await;
    pki::replace(&before.path, &trusted);
    server.stream().await.request().await;

    // The server and its authority are new, and so is the client's certificate.
    let next = pki.pair(&after, "next", "tollgate");
    for (from, to) in
        [(&after.path, &trusted), (&next.certificate, &used.certificate), (&next.key, &used.key)]
    {
        pki::replace(from, to);
    }
    config.send_replace(pki::server(&pki.pair(&after, "two", "localhost"), &after));
    server.end_connections(false);
    server.stream().await.request().await;
}

#[tokio::test]
async fn liveness_does_not_depend_on_rules_and_readiness_does() {
    let get = async |service: &Tollgate, path: &str| {
        reqwest::get(service.url(path)).await.expect("an answer").status().as_u16()
    };
    let without = Tollgate::start_unhealthy(&[("rules.yaml", "domain: [")], &[]).await;
    for (path, expected) in [("/livez", 200), ("/readyz", 503), ("/healthcheck", 500)] {
        assert_eq!(get(&without, path).await, expected, "{path}");
    }
    // Envoy Gateway's probes, before there is any Gateway.
    let forced =
        Tollgate::start(&[("rules.yaml", "domain: [")], &[("FORCE_START_WITHOUT_INITIAL_CONFIG", "true")])
            .await;
    for path in ["/livez", "/readyz", "/healthcheck"] {
        assert_eq!(get(&forced, path).await, 200, "{path}");
    }
    let body = r#"{"domain": "example", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}"#;
    let request = reqwest::Client::new().post(forced.url("/json")).body(body);
    assert_eq!(request.send().await.expect("an answer").status(), 503);
    forced.write_rules("rules.yaml", RULES);
    eventually("the rules are in force", async || {
        let request = reqwest::Client::new().post(forced.url("/json")).body(body);
        request.timeout(Duration::from_secs(5)).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}
