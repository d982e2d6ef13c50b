//! Redis over TLS, behind Sentinels, with a second one for limits per second, and with passwords that
//! change: reached as set, and found again after what happens to it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::{ChargeMode, Hits, Limit, Unit};
use tollgate::store::redis::{self, Credentials, Deployment, Login, RedisSettings, RedisStore};
use tollgate::store::{Charge, Store, StoreError};
use tollgate::tls::ClientTls;

use crate::store::{MIDNIGHT, charge, connected, hit, used};
use crate::support::redis::sentinel::{Passwords, Sentinels};
use crate::support::redis::{Redis, User};
use crate::support::stores::complete;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const USER: User = User { name: "tollgate", password: "open sesame" };

/// The error of a store that cannot connect.
async fn cause(settings: &RedisSettings) -> String {
    let store = RedisStore::connect(settings).expect("settings of use");
    match store.ready(Duration::from_secs(2)).await {
        Ok(()) => panic!("let in with {settings:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_server_over_tls_is_used_only_if_its_certificate_is_valid() {
    let server = Redis::start_with_tls(USER).await;
    let good = server.settings();
    let tls = good.tls.clone().expect("TLS");
    let store = connected(&good).await;
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);

    // Its certificate is for another name; whose it is matters less than that somebody trusted says so.
    let by_address = RedisSettings { deployment: server.reached_by("127.0.0.1"), ..good.clone() };
    let any_name = ClientTls { verify_hostname: false, ..tls.clone() };
    let store = connected(&RedisSettings { tls: Some(any_name.clone()), ..by_address.clone() }).await;
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 2);
    let other_ca = Some(server.certificates().other_ca());
    for (settings, tls) in [
        (&by_address, tls.clone()),
        (&good, ClientTls { ca: other_ca.clone(), ..tls.clone() }),
        (&by_address, ClientTls { ca: other_ca, ..any_name }),
    ] {
        let cause = cause(&RedisSettings { tls: Some(tls), ..settings.clone() }).await;
        assert!(cause.contains("invalid peer certificate"), "{cause}");
    }
    cause(&RedisSettings { tls: Some(ClientTls { identity: None, ..tls }), ..good.clone() }).await;
    cause(&RedisSettings { tls: None, ..good }).await;
}

const RULES: &str = "
domain: shop
descriptors:
  - {key: second, rate_limit: {unit: second, requests_per_unit: 1000}}
  - {key: year, rate_limit: {unit: year, requests_per_unit: 3}}
";

/// Asks once over HTTP; the status.
async fn ask(service: &Tollgate, key: &str) -> u16 {
    let body = format!(
        r#"{{"domain": "shop", "descriptors": [{{"entries": [{{"key": "{key}", "value": "x"}}]}}]}}"#
    );
    let request = reqwest::Client::new().post(service.url("/json")).body(body);
    request.send().await.expect("an answer").status().as_u16()
}

async fn start(environment: &[(&str, &str)]) -> Tollgate {
    Tollgate::start(&[("rules.yaml", RULES)], environment).await
}

#[tokio::test]
async fn the_program_speaks_tls_as_the_environment_says() {
    let server = Redis::start_with_tls(USER).await;
    let tls = server.settings().tls.expect("TLS");
    let client = tls.identity.expect("a certificate");
    let file = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let (ca, certificate, key) = (file(&tls.ca.expect("a CA")), file(&client.certificate), file(&client.key));
    let Deployment::Single(endpoint) = server.reached_by("localhost") else { panic!("a server") };
    let url = format!("rediss://{endpoint}");
    let service = start(&[
        ("REDIS_URL", &url),
        ("REDIS_AUTH", &format!("{}:{}", USER.name, USER.password)),
        ("REDIS_TLS_CACERT", &ca),
        ("REDIS_TLS_CLIENT_CERT", &certificate),
        ("REDIS_TLS_CLIENT_KEY", &key),
        ("REDIS_CALL_TIMEOUT", "5s"),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "20s"),
    ])
    .await;
    assert_eq!(ask(&service, "year").await, 200);
    assert_eq!(server.len(), 1);
}

/// The successor of a primary that goes counts on from what was replicated.
async fn fail_over(goes: impl FnOnce(&mut Sentinels)) {
    let mut servers = Sentinels::start(Passwords { servers: Some("one"), sentinels: Some("two") }).await;
    let settings = RedisSettings { call_timeout: Duration::from_millis(50), ..servers.settings() };
    let store = Arc::new(connected(&settings).await);
    assert_eq!(used(&store, hit("before")).await.expect("a reading"), 1);
    servers.replicated().await;
    goes(&mut servers);
    // Calls do not wait for the successor: they fail until there is one.
    eventually("the primary is missed", async || used(&store, hit("load")).await.is_err()).await;
    servers.wait_for_failover().await;
    eventually("the new primary counts", async || used(&store, hit("after")).await.is_ok()).await;
    let look = || charge("before", Unit::Minute, Hits::Add(0));
    eventually("what the replica had is counted on", async || {
        used(&store, look()).await.is_ok_and(|used| used == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_followed_to_its_successor() {
    fail_over(Sentinels::kill_primary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_is_followed_to_its_successor() {
    fail_over(|servers| servers.pause_primary()).await;
}

#[tokio::test]
async fn sentinels_that_do_not_know_the_primary_or_the_password_are_quoted() {
    let servers = Sentinels::start(Passwords { servers: None, sentinels: Some("two") }).await;
    let good = servers.settings();
    let Deployment::Sentinel { sentinels, .. } = good.deployment.clone() else { panic!("Sentinels") };
    let deployment = Deployment::Sentinel { primary: "nobody".to_owned(), sentinels };
    let cause_of_name = cause(&RedisSettings { deployment, ..good.clone() }).await;
    assert!(cause_of_name.contains("does not know the primary nobody"), "{cause_of_name}");
    let credentials = Credentials { sentinel: Login::Open, ..good.credentials.clone() };
    let cause_of_login = cause(&RedisSettings { credentials, ..good }).await;
    assert!(cause_of_login.contains("NOAUTH"), "{cause_of_login}");
}

#[tokio::test]
async fn a_password_that_changes_in_its_file_is_read_with_the_next_connection() {
    let mut server = Redis::start_for(USER).await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    fs::write(&file, format!("{}:{}\n", USER.name, USER.password)).expect("a file");
    let credentials = Credentials { server: Login::File(file.clone()), sentinel: Login::Open };
    let settings = RedisSettings { credentials, ..server.settings() };
    let store = connected(&settings).await;
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);

    fs::write(&file, format!("{}:forgotten", USER.name)).expect("a file");
    server.restart().await;
    eventually("it is not let in", async || {
        matches!(used(&store, hit("a")).await, Err(StoreError::Unreachable(cause)) if cause.contains("WRONGPASS"))
    })
    .await;
    fs::write(&file, format!("{}:{}", USER.name, USER.password)).expect("a file");
    eventually("it is let in again", async || used(&store, hit("a")).await.is_ok()).await;

    let missing = Credentials { server: Login::File(dir.path().join("missing")), sentinel: Login::Open };
    let cause = cause(&RedisSettings { credentials: missing, ..server.settings() }).await;
    assert!(cause.contains("missing"), "{cause}");
}

#[tokio::test]
async fn limits_per_second_are_counted_in_their_own_redis() {
    let (all, mut second) = (Redis::start().await, Redis::start().await);
    let redis =
        redis::Redis::watch(all.settings(), Some(second.settings()), None, &redis::RedisContext::detached());
    let store = redis.expect("settings of use").store();
    store.ready(PATIENCE).await.expect("both are there");
    let of = |key, unit, limit| Charge {
        limit: Limit::per(limit, unit),
        mode: ChargeMode::IfAllowed,
        ..charge(key, unit, Hits::Add(1))
    };
    let ask = async || {
        let charges = [of("a/", Unit::Second, 9), of("b/", Unit::Day, 1)];
        let readings = complete(store.charge(&charges, MIDNIGHT).await).expect("readings");
        [readings[0].outcome, readings[1].outcome]
    };
    assert_eq!(ask().await, [ChargeOutcome::Charged, ChargeOutcome::Charged]);
    assert_eq!((all.command(["KEYS", "*"]).as_str(), second.len()), ("b/1699920000", 1));
    assert_eq!(ask().await, [ChargeOutcome::Withheld, ChargeOutcome::Denied]);
    store.settle().await;
    assert_eq!(second.command(["GET", "a/1699920000"]), "1", "what the other one denied is given back");

    second.kill();
    eventually("only its own limits fail", async || {
        let charges = [charge("c/", Unit::Second, Hits::Add(1)), charge("d/", Unit::Day, Hits::Add(1))];
        let readings = store.charge(&charges, MIDNIGHT).await;
        readings[0].is_err() && readings[1].is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_program_counts_limits_per_second_apart() {
    let (all, second) = (Redis::start().await, Redis::start().await);
    let service = start(&[
        ("REDIS_URL", &all.settings().deployment.to_string()),
        ("REDIS_PERSECOND", "true"),
        ("REDIS_PERSECOND_URL", &second.settings().deployment.to_string()),
        ("REDIS_CALL_TIMEOUT", "5s"),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "20s"),
    ])
    .await;
    for key in ["second", "year", "year"] {
        assert_eq!(ask(&service, key).await, 200, "{key}");
    }
    assert_eq!(all.len(), 1);
    assert_eq!((second.executed("incrby"), all.executed("incrby")), (1, 2));
}

#[tokio::test]
async fn the_program_waits_for_redis_for_the_configured_time_and_reports_the_cause() {
    let absent = Redis::absent();
    let url = absent.settings().deployment.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().env("REDIS_URL", &url).env("REDIS_STARTUP_MAX_ELAPSED_TIME", "500ms");
    command.envs([
        ("PORT", "0"),
        ("GRPC_PORT", "0"),
        ("DEBUG_PORT", "0"),
        ("ADMIN_PORT", "0"),
        ("RULES_PATH", "config"),
    ]);
    let output = command.output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("Connection refused"), "{said}");
}

#[tokio::test]
async fn health_includes_redis_only_if_configured() {
    let mut redis = Redis::absent();
    let url = redis.settings().deployment.to_string();
    let careless = start(&[("REDIS_URL", &url)]).await;
    let environment = [("REDIS_URL", url.as_str()), ("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "true")];
    let careful = Tollgate::start_unhealthy(&[("rules.yaml", RULES)], &environment).await;
    let health = async |service: &Tollgate| {
        reqwest::get(service.url("/healthcheck")).await.expect("an answer").status().as_u16()
    };
    redis.restart().await;
    eventually("it is ready", async || health(&careful).await == 200).await;
    redis.pause();
    eventually("a Redis that hangs is noticed", async || health(&careful).await == 500).await;
    redis.resume();
    eventually("it is ready again", async || health(&careful).await == 200).await;
    redis.kill();
    eventually("a Redis that is gone is noticed", async || health(&careful).await == 500).await;
    assert_eq!(health(&careless).await, 200);
}
