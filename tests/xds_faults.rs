//! Rules from a management server that fails, floods or sends garbage: rules in force stay.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use prost_types::Any;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::support::ads::{AdsServer, AdsStream, Mode, TYPE_URL, config};
use crate::support::proxy::{Passage, Proxy};
use crate::support::tollgate::Tollgate;
use crate::support::xds::{Client, VARIANTS, text};

/// A server and a client with one rule in force: 5 for `user` in `shop`.
async fn loaded(variant: &str, settings: &[(&str, &str)]) -> (AdsServer, Client, AdsStream) {
    let mut server = AdsServer::start().await;
    let client = Client::start(variant, &server, settings);
    let stream = load(&mut server).await;
    assert_eq!(client.limit("shop", "user"), Some(5));
    (server, client, stream)
}

/// The next stream, after it has accepted a snapshot.
async fn load(server: &mut AdsServer) -> AdsStream {
    let mut stream = server.stream().await;
    stream.request().await;
    stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
    let answer = stream.request().await;
    assert_eq!((&*answer.nonce, answer.refusal), ("n1", None));
    stream
}

#[tokio::test]
async fn attempts_become_rare_while_the_server_closes_connections() {
    futures_util::future::join_all(VARIANTS.map(attempts_become_rare)).await;
}

async fn attempts_become_rare(variant: &str) {
    let server = AdsServer::start().await;
    server.set_mode(Mode::Close);
    let settings = [("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "200ms")];
    let client = Client::start(variant, &server, &settings);
    client.reaches("attempts", |_| server.dials() > 1).await;
    // Waits of at least 100, 200, 400, 800 and 1,600 ms: five attempts take 1.5 s, six more than 3 s.
    sleep(Duration::from_secs(2)).await;
    assert!((2..=6).contains(&server.dials()), "{}", server.dials());
    assert!(client.stream_error().is_some());

    server.set_mode(Mode::Serve);
    client.handle.reload();
    client.reaches("connected", |client| client.xds.is_connected()).await;
}

#[tokio::test]
async fn rules_stay_in_force_while_the_server_is_away() {
    for variant in VARIANTS {
        let (mut server, client, stream) = loaded(variant, &[]).await;
        server.set_mode(Mode::Close);
        server.end_connections(false);
        drop(stream);
        client.reaches("attempts", |client| client.xds.stream_errors() > 2).await;
        assert_eq!((client.limit("shop", "user"), client.xds.is_connected()), (Some(5), false));
        server.set_mode(Mode::Serve);
        load(&mut server).await;
    }
}

#[tokio::test]
async fn a_goaway_while_idle_loses_nothing() {
    for variant in VARIANTS {
        let (mut server, client, mut stream) = loaded(variant, &[]).await;
        server.end_connections(true);
        // The stream goes on until the server ends it.
        stream.put(&config("shop", &[("user", 6)])).respond("2", "n2");
        assert_eq!(stream.request().await.refusal, None);
        assert_eq!(client.limit("shop", "user"), Some(6));
        stream.end(Status::unavailable("draining"));
        load(&mut server).await;
        assert_eq!((client.limit("shop", "user"), client.xds.reconnects()), (Some(5), 1));
    }
}

#[tokio::test]
async fn a_connection_that_is_dead_without_a_word_is_noticed() {
    futures_util::future::join_all(VARIANTS.map(a_dead_connection_is_noticed)).await;
}

async fn a_dead_connection_is_noticed(variant: &str) {
    let mut server = AdsServer::start().await;
    let proxy = Proxy::start(server.port).await;
    let address = format!("127.0.0.1:{}", proxy.port());
    let client = Client::start_at(variant, &address, &[("XDS_PING_INTERVAL", "1s")]);
    load(&mut server).await;
    proxy.set(Passage::Shut);
    client.reaches("the end is noticed", |client| !client.xds.is_connected()).await;
    assert_eq!(client.limit("shop", "user"), Some(5));
    proxy.set(Passage::Open);
    load(&mut server).await;
}

#[tokio::test]
async fn a_large_snapshot_is_taken_up_to_the_bound() {
    // 10 MiB.
    let keys: Vec<_> = (0..10_000).map(|number| format!("{number:01000}")).collect();
    let keys: Vec<_> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    let large = config("large", &keys);
    for variant in VARIANTS {
        let (_server, client, mut stream) = loaded(variant, &[]).await;
        stream.put(&large).respond("2", "n2");
        assert_eq!(stream.request().await.refusal, None);
        assert_eq!(client.rule_count(), Some(10_001));

        let bound = [("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "1048576")];
        let (mut server, client, mut stream) = loaded(variant, &bound).await;
        stream.put(&large).respond("2", "n2");
        let is_named =
            |client: &Client| client.stream_error().is_some_and(|error| error.contains(bound[0].0));
        client.reaches("the bound is named", is_named).await;
        assert_eq!((client.limit("shop", "user"), client.rule_count()), (Some(5), Some(1)));
        load(&mut server).await;
    }
}

#[tokio::test]
async fn garbage_ends_the_stream_and_nothing_else() {
    for variant in VARIANTS {
        let (mut server, client, mut stream) = loaded(variant, &[]).await;
        for garbage in [&b"\xff\xff\xff\xff"[..], b"GET / HTTP/1.1\r\n", b"\x12\x7f"] {
            let errors = client.xds.stream_errors();
            stream.send(garbage);
            client.reaches("the stream ends", |client| client.xds.stream_errors() > errors).await;
            assert_eq!(client.limit("shop", "user"), Some(5), "{garbage:?}");
            stream = load(&mut server).await;
        }
    }
}

#[tokio::test]
async fn sixty_mebibytes_of_nonsense_take_no_memory_worth_mentioning() {
    let mut server = AdsServer::start().await;
    let address = server.address();
    let environment = [
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("CONFIG_GRPC_XDS_SERVER_URL", address.as_str()),
        ("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "20ms"),
        ("RULES_PATH", ""),
    ];
    let (service, mut stream) = tokio::join!(Tollgate::start(&[], &environment), load(&mut server));
    // Empty descriptors and empty resources, two bytes each on the wire; and noise.
    let noise: Vec<u8> =
        (0..60_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for nonsense in [[0x1a, 0].repeat(30 << 20), noise] {
        stream.put_any("shop", Any { type_url: TYPE_URL.to_owned(), value: nonsense }).respond("2", "n2");
        // Too many messages end the stream; content that cannot be decoded is refused.
        match stream.try_request().await {
            Some(answer) => assert!(answer.refusal.is_some()),
            None => stream = load(&mut server).await,
        }
    }
    stream.send([0x12, 0].repeat(30 << 20));
    load(&mut server).await;
    let dump =
        reqwest::get(service.debug_url("/rlconfig")).await.expect("an answer").text().await.expect("a text");
    assert!(dump.contains("requests_per_unit=5"), "{dump}");
    // The message, its decoded copy and the flow-control window.
    assert!(service.process.peak_mib() < 400, "{} MiB", service.process.peak_mib());
}

#[tokio::test]
async fn a_flood_of_changes_is_taken_up_at_a_bounded_rate() {
    let (_server, client, mut stream) = loaded("GRPC_XDS_SOTW", &[]).await;
    let begun = Instant::now();
    for number in 0..60 {
        stream.put(&config("shop", &[("user", 100 + number)])).respond("v", &number.to_string());
    }
    client.reaches("the last one", |client| client.limit("shop", "user") == Some(159)).await;
    // A burst of 20, and then ten in a second.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn resources_that_a_new_stream_does_not_have_yet_stay_for_a_while() {
    let next_without_api = async |server: &mut AdsServer| {
        let mut stream = server.stream().await;
        stream.request().await;
        if stream.is_delta() {
            stream.remove("api");
        }
        stream.put(&config("shop", &[("user", 6)])).respond("1", "n1");
        assert_eq!(stream.request().await.refusal, None);
        stream
    };
    for variant in VARIANTS {
        let (mut server, client, mut stream) = loaded(variant, &[("XDS_REMOVAL_GRACE", "1h")]).await;
        stream.put(&config("api", &[("key", 7)])).respond("2", "n2");
        stream.request().await;
        stream.end(Status::unavailable("restart"));
        let mut stream = next_without_api(&mut server).await;
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(6), Some(7)));
        // Another resource for the domain takes its place.
        let mut other = config("api", &[("key", 8)]);
        other.name = "api-2".to_owned();
        stream.put(&other).respond("3", "n3");
        assert_eq!(stream.request().await.refusal, None);
        assert_eq!(client.limit("api", "key"), Some(8));

        let (mut server, client, mut stream) = loaded(variant, &[("XDS_REMOVAL_GRACE", "200ms")]).await;
        stream.put(&config("api", &[("key", 7)])).respond("2", "n2");
        stream.request().await;
        stream.end(Status::unavailable("restart"));
        let _stream = next_without_api(&mut server).await;
        client.reaches("it goes", |client| client.limit("api", "key").is_none()).await;
        assert_eq!(client.limit("shop", "user"), Some(6));
    }
}

#[tokio::test]
async fn a_restart_while_the_server_is_away_keeps_rules() {
    for variant in VARIANTS {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("rules.xds");
        let path = text(&file);
        let settings = [("XDS_CACHE_FILE", path.as_str())];
        let (server, client, mut stream) = loaded(variant, &settings).await;
        stream.put(&config("api", &[("key", 7)])).respond("2", "n2");
        stream.request().await;
        server.set_mode(Mode::Close);
        drop((client, stream));

        let client = Client::start(variant, &server, &settings);
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), Some(7)));
        assert!(!client.status().is_partial);
        assert_eq!(client.xds.json()["from_cache"], true);
        client.reaches("an attempt", |client| client.xds.stream_errors() > 0).await;
        assert_eq!(client.limit("shop", "user"), Some(5));
        drop(client);

        // A damaged file is not used, and holds up nothing.
        let mut bytes = fs::read(&file).expect("the file");
        *bytes.last_mut().expect("a byte") ^= 1;
        fs::write(&file, bytes).expect("the file");
        let mut server = AdsServer::start().await;
        let client = Client::start(variant, &server, &settings);
        assert_eq!(client.rule_count(), None);
        load(&mut server).await;
        client
            .reaches("written again", |_| {
                let other = Client::start_at(variant, "127.0.0.1:1", &settings);
                other.limit("shop", "user") == Some(5)
            })
            .await;
    }
}

#[tokio::test]
async fn files_and_a_server_have_domains_of_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("files.yaml");
    let rules = "domain: files\ndescriptors:\n  - {key: k, rate_limit: 3/hour}\n";
    fs::write(&file, rules).expect("a file");
    let path = text(dir.path());
    for variant in VARIANTS {
        let (_server, client, mut stream) = loaded(variant, &[("RULES_PATH", &path)]).await;
        assert_eq!((client.limit("files", "k"), client.error()), (Some(3), None));
        // Files take precedence.
        stream.put(&config("files", &[("k", 9)])).put(&config("shop", &[("user", 6)])).respond("2", "n2");
        let (_, reason) = stream.request().await.refusal.expect("a refusal");
        assert!(reason.contains("duplicate domain 'files'") && reason.contains("files.yaml"), "{reason}");
        assert_eq!((client.limit("files", "k"), client.limit("shop", "user")), (Some(3), Some(6)));
        stream.remove("files").respond("3", "n3");
        assert_eq!(stream.request().await.refusal, None);
        assert_eq!((client.limit("files", "k"), client.limit("shop", "user")), (Some(3), Some(6)));
    }
}

/// A file of rules with a limit of 3 for `k` in one domain.
struct RuleFile(PathBuf);

impl RuleFile {
    /// One that has the domain `files`.
    fn in_dir(dir: &TempDir) -> Self {
        let file = Self(dir.path().join("files.yaml"));
        file.has("files");
        file
    }

    fn has(&self, domain: &str) {
        let rules = format!("domain: {domain}\ndescriptors:\n  - {{key: k, rate_limit: 3/hour}}\n");
        fs::write(&self.0, rules).expect("a file");
    }
}

/// Sends version 2: `shop`, and `files` with a limit of 9 for `k`.
fn respond_with_two_domains(stream: &mut AdsStream, nonce: &str) {
    stream.put(&config("shop", &[("user", 5)])).put(&config("files", &[("k", 9)])).respond("2", nonce);
}

#[tokio::test]
async fn content_is_judged_by_the_rule_files_as_they_are_when_it_is_sent_again() {
    for variant in VARIANTS {
        let dir = tempfile::tempdir().expect("a directory");
        let file = RuleFile::in_dir(&dir);
        let (_server, client, mut stream) = loaded(variant, &[("RULES_PATH", &text(dir.path()))]).await;
        let refused = |client: &Client| client.xds.json()["rejected"].as_str().map(str::to_owned);
        respond_with_two_domains(&mut stream, "n2");
        assert!(stream.request().await.refusal.is_some());
        assert!(refused(&client).is_some_and(|reason| reason.contains("duplicate domain 'files'")));

        // The file gives the domain up.
        file.has("others");
        client.reaches("the resource is in force", |client| client.limit("files", "k") == Some(9)).await;
        client.reaches("it is reported", |client| refused(client).is_none()).await;
        respond_with_two_domains(&mut stream, "n3");
        let answer = stream.request().await;
        assert_eq!((&*answer.nonce, answer.refusal), ("n3", None));

        // And takes it again.
        file.has("files");
        client.reaches("the file is in force", |client| client.limit("files", "k") == Some(3)).await;
        client.reaches("it is reported", |client| refused(client).is_some()).await;
        respond_with_two_domains(&mut stream, "n4");
        let answer = stream.request().await;
        assert_eq!((&*answer.nonce, answer.refusal.is_some()), ("n4", true));
    }
}

#[tokio::test]
async fn a_refusal_that_waits_becomes_an_acceptance_if_files_make_way() {
    for variant in VARIANTS {
        let dir = tempfile::tempdir().expect("a directory");
        let file = RuleFile::in_dir(&dir);
        let (_server, client, mut stream) = loaded(variant, &[("RULES_PATH", &text(dir.path()))]).await;
        respond_with_two_domains(&mut stream, "n2");
        assert!(stream.request().await.refusal.is_some());
        // Half a second passes before the same content is refused again. The file gives the domain up meanwhile.
        respond_with_two_domains(&mut stream, "n3");
        client.reaches("it is judged", |client| client.xds.nacks() == 2).await;
        file.has("others");
        client.reaches("the resource is in force", |client| client.limit("files", "k") == Some(9)).await;
        let answer = stream.request().await;
        assert_eq!((&*answer.nonce, answer.refusal), ("n3", None));
    }
}

#[tokio::test]
async fn a_resource_is_refused_however_many_errors_files_have() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = "domain: files\ndescriptors:\n  - {key: k, rate_limit: 3/hour}\n";
    fs::write(dir.path().join("good.yaml"), good).expect("a file");
    let wrong: String =
        (0..150).map(|number| format!("  - {{key: k{number}, rate_limit: 3/fortnight}}\n")).collect();
    fs::write(dir.path().join("wrong.yaml"), format!("domain: wrong\ndescriptors:\n{wrong}"))
        .expect("a file");
    let path = text(dir.path());
    for variant in VARIANTS {
        let (_server, client, mut stream) = loaded(variant, &[("RULES_PATH", &path)]).await;
        let mut bad = config("shop", &[("user", 6)]);
        bad.descriptors[0].rate_limit.as_mut().expect("a limit").unit = 99;
        stream.put(&bad).respond("2", "n2");
        let (_, reason) = stream.request().await.refusal.expect("a refusal");
        assert!(reason.starts_with("xds:shop: ") && !reason.contains("wrong.yaml"), "{reason}");
        assert_eq!((client.limit("shop", "user"), client.limit("files", "k")), (Some(5), Some(3)));
        stream.put(&config("shop", &[("user", 6)])).respond("3", "n3");
        assert_eq!(stream.request().await.refusal, None);
        assert_eq!(client.limit("shop", "user"), Some(6));
    }
}

#[tokio::test]
async fn more_conflicts_than_are_reported_affect_no_other_resource() {
    let (_server, client, mut stream) = loaded("GRPC_XDS_SOTW", &[]).await;
    for number in 0..1_000 {
        let mut other = config("shop", &[("user", 6)]);
        other.name = format!("shop-{number}");
        stream.put(&other);
    }
    stream.put(&config("api", &[("key", 7)])).respond("2", "n2");
    let (_, reason) = stream.request().await.refusal.expect("a refusal");
    assert!(reason.starts_with("xds:shop-0: domain: duplicate domain 'shop'"), "{reason}");
    assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), Some(7)));
}

/// A response is read beside the thread that serves health, and not on it.
#[test]
fn responses_are_read_on_a_thread_of_their_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let (_server, client, stream) = loaded("GRPC_XDS_SOTW", &[]).await;
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv().unwrap_or_default());
        stream.send(&b"\xff\xff\xff\xff"[..]);
        sleep(Duration::from_millis(200)).await;
        assert!(client.xds.is_connected(), "it is not read while the thread is busy");
        drop(release);
        busy.await.expect("no panic");
        client.reaches("the stream ends", |client| client.xds.stream_errors() > 0).await;
    });
}

#[tokio::test]
async fn resources_of_one_domain_are_merged_where_that_is_asked_for() {
    let mut other = config("shop", &[("plan", 6)]);
    other.name = "shop-2".to_owned();
    for variant in VARIANTS {
        let (_server, client, mut stream) = loaded(variant, &[]).await;
        stream.put(&other).respond("2", "n2");
        let (_, reason) = stream.request().await.refusal.expect("a refusal");
        assert!(reason.starts_with("xds:shop-2: ") && reason.contains("xds:shop"), "{reason}");
        assert_eq!((client.limit("shop", "user"), client.limit("shop", "plan")), (Some(5), None));

        let (_server, client, mut stream) = loaded(variant, &[("MERGE_DOMAIN_CONFIG", "true")]).await;
        stream.put(&other).respond("2", "n2");
        assert_eq!(stream.request().await.refusal, None);
        assert_eq!((client.limit("shop", "user"), client.limit("shop", "plan")), (Some(5), Some(6)));
    }
}
