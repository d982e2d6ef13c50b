//! The permissions of the Redis user: those in the documentation are enough for everything, and a missing one is
//! visible.

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::engine::{Algorithm, ChargeMode, Hits, KeyFormat, KeyWriter, Limit, Unit};
use tollgate::store::Charge;
use tollgate::store::lockouts::{Found, Lockouts as _};
use tollgate::store::redis::{Credentials, Login, RedisSettings};

use crate::places::{acquire, outcomes, peek, release, renew, ticket};
use crate::store::{MIDNIGHT, charge, connected, used};
use crate::support::admin::{call, token_file};
use crate::support::eventually;
use crate::support::load::{Caller, request};
use crate::support::redis::{Redis, User};
use crate::support::service::Service;
use crate::support::tollgate::Tollgate;

const USER: User = User { name: "tollgate", password: "sesame" };

/// The words of the documentation after `user`, with the password of [`USER`].
fn documented() -> Vec<String> {
    let documentation = include_str!("../docs/redis.md");
    let user =
        documentation.lines().find(|line| line.starts_with("user tollgate ")).expect("a line of an ACL");
    user.split(' ').skip(1).map(|word| word.replace("PASSWORD", USER.password)).collect()
}

/// A server with a user that may do exactly what the documentation says.
async fn server_as_documented() -> Redis {
    let server = Redis::start().await;
    let command: Vec<String> =
        ["ACL", "SETUSER"].map(str::to_owned).into_iter().chain(documented()).collect();
    assert_eq!(server.command(&command), "OK");
    server
}

#[tokio::test]
async fn the_permissions_in_the_documentation_are_enough_to_count() {
    let server = server_as_documented().await;
    let login = Login::parse(&format!("{}:{}", USER.name, USER.password));
    let credentials = Credentials { server: login, sentinel: Login::Open };
    let store = connected(&RedisSettings { credentials, ..server.settings() }).await;
    for mode in [ChargeMode::Always, ChargeMode::IfAllowed] {
        for algorithm in [
            Algorithm::FixedWindow,
            Algorithm::SlidingWindow,
            Algorithm::SlidingLog,
            Algorithm::TokenBucket { burst: 9 },
        ] {
            for hits in [Hits::Add(3), Hits::Add(0), Hits::Refund(1), Hits::Add(20)] {
                let key = format!("tg1/{mode:?}/{}/", algorithm.name());
                let limit = Limit { algorithm, ..Limit::per(9, Unit::Day) };
                let charge = Charge { limit, mode, ..charge(key, Unit::Day, hits) };
                used(&store, charge).await.expect("a reading");
            }
        }
    }
    for (max, weight) in [(9, 1), (1, 2)] {
        let limit = Limit { requests_per_unit: max, ..peek("").limit };
        for charge in [acquire("tg1/c/", ticket(1), weight), renew("tg1/c/", ticket(1)), peek("tg1/c/")] {
            used(&store, Charge { limit, ..charge }).await.expect("a reading");
        }
        let of_two = [acquire("tg1/c/", ticket(2), weight), charge("tg1/a/", Unit::Day, Hits::Add(1))];
        outcomes(&store, &of_two.map(|charge| Charge { mode: ChargeMode::IfAllowed, ..charge })).await;
        used(&store, release("tg1/c/", ticket(1))).await.expect("a reading");
    }
    for number in [1, 2] {
        for charge in crate::budgets::every_action("tg1/budget/", ticket(number)) {
            used(&store, charge).await.expect("a reading");
        }
    }
    let lockout = Bytes::from_static(b"tgp1/4:shop,5:login,4:user,1:a,");
    server.command([b"SET".as_slice(), &lockout, format!("{} 1 0 0 5:tg1/a", u64::MAX >> 11).as_bytes()]);
    let keys = KeyWriter::new(KeyFormat::Native, "");
    let found = Found::default();
    store.search(&keys, MIDNIGHT, &found).await.expect("a search");
    assert_eq!(found.so_far().len(), 1);
    assert!(store.lift(&lockout).await.expect("permitted"));
    assert_eq!(server.command(["ACL", "LOG"]), "", "Redis denied nothing");
}

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, layer: user, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: path, rate_limit: {unit: year, requests_per_unit: 9, algorithm: token_bucket}}
  - key: account
    rate_limit: {unit: year, requests_per_unit: 1}
    penalty: {after: 1, within: 10m, block: [1h], name: account_lockout}
";

/// Sends one hit and returns the status.
async fn hit(service: &Service, key: &str, value: &str) -> StatusCode {
    let descriptors = json!([{"entries": [{"key": key, "value": value}]}]);
    let body = json!({"domain": "shop", "descriptors": descriptors}).to_string();
    let request = reqwest::Client::new().post(service.url("/json")).body(body);
    request.send().await.expect("an answer").status()
}

/// Calls the admin API, requires the status 200, and returns the body.
async fn done(service: &Service, method: Method, path: &str, body: Option<Value>) -> Value {
    let (status, answer) = call(service, method, path, body).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

async fn get(service: &Service, path: &str) -> Value {
    done(service, Method::GET, path, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_in_the_documentation_are_enough_for_operators() {
    let server = server_as_documented().await;
    let tokens = token_file();
    let login = format!("{}:{}", USER.name, USER.password);
    let settings = [
        ("REDIS_URL", &*server.settings().deployment.to_string()),
        ("REDIS_AUTH", &*login),
        ("REDIS_CALL_TIMEOUT", "5s"),
        ("ADMIN_TOKEN_FILE", &*tokens.path().display().to_string()),
        ("THREADS", "1"),
    ];
    let service = Service::start(&[("shop.yaml", RULES)], &settings).await;
    let (ok, over) = (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS);
    eventually("it counts", async || hit(&service, "path", "/").await == ok).await;
    assert_eq!(hit(&service, "user", "ann").await, ok);
    assert_eq!([hit(&service, "account", "bob").await, hit(&service, "account", "bob").await], [ok, over]);

    let reason = json!({"reason": "a test"});
    let descriptor = |key: &str, value: &str| json!({"domain": "shop", "descriptor": [{"key": key, "value": value}], "reason": "a test"});
    let mut block = descriptor("user", "ann");
    block["block"] = json!(true);
    block["ttl"] = json!("1h");
    let set = done(&service, Method::PUT, "/overrides", Some(block)).await;
    assert_eq!(hit(&service, "user", "ann").await, over);
    let id = set["applied"]["id"].as_str().expect("an id");
    done(&service, Method::DELETE, &format!("/overrides/{id}"), Some(reason.clone())).await;
    let shadow = json!({"rule": "shop.path", "ttl": "1h", "reason": "a test"});
    done(&service, Method::POST, "/rules:shadow", Some(shadow)).await;
    assert_eq!(get(&service, "/overrides").await["items"].as_array().map(Vec::len), Some(1));

    assert_eq!(get(&service, "/keys?domain=shop&descriptor=user%3Dann").await["limits"][0]["used"], 1);
    let asked = json!({"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]});
    done(&service, Method::POST, "/explain", Some(asked)).await;
    let reset = done(&service, Method::POST, "/keys:reset", Some(descriptor("user", "ann"))).await;
    assert_eq!(reset["removed"], 1);
    let lockouts = get(&service, "/lockouts").await;
    assert_eq!((&lockouts["complete"], &lockouts["error"]), (&json!(true), &Value::Null));
    let id = lockouts["lockouts"][0]["id"].as_str().expect("a lockout");
    done(&service, Method::DELETE, &format!("/lockouts/{id}"), Some(reason)).await;
    assert_eq!(hit(&service, "account", "bob").await, ok);

    eventually("the top keys are listed", async || !get(&service, "/top").await["items"].is_null()).await;
    eventually("the replica is listed", async || {
        let fleet = get(&service, "/fleet").await;
        fleet["replicas"].as_array().map(Vec::len) == Some(1) && fleet["error"].is_null()
    })
    .await;
    let node = get(&service, "/store").await["nodes"][0].clone();
    assert_eq!((&node["server_error"], &node["server"]["role"]), (&Value::Null, &json!("master")));
    drop(service);
    assert_eq!(server.command(["ACL", "LOG"]), "", "Redis denied nothing");
}

/// Number of lines of the log with this text.
fn logged(service: &Tollgate, text: &str) -> usize {
    service.process.output().lines().filter(|line| line.contains(text)).count()
}

/// The ACL of a release before concurrency limits. Without the probes, the first acquisition would end a whole batch.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_places_that_are_not_permitted_are_reported_before_the_first_acquisition() {
    const OF_PLACES: [&str; 4] = ["PEXPIRE", "ZRANGEBYSCORE", "ZREM", "ZSCORE"];
    let server = server_as_documented().await;
    for command in OF_PLACES {
        assert_eq!(server.command(["ACL", "SETUSER", USER.name, &format!("-{command}")]), "OK");
    }
    let (url, login) = (server.settings().deployment.to_string(), format!("{}:{}", USER.name, USER.password));
    let environment = [("REDIS_URL", url.as_str()), ("REDIS_AUTH", &login), ("THREADS", "1")];
    let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    eventually("it is logged", async || logged(&service, "lacks permissions") == 1).await;
    for command in OF_PLACES {
        let output = service.process.output();
        assert!(
            output.lines().any(|line| line.contains("lacks permissions") && line.contains(command)),
            "{output}"
        );
    }
}

/// Counters have no TTL while `EXPIRE` is refused. That is logged once for the process, whatever the number of cores
/// and counters, and counted in metrics. Once the permission is granted, the TTLs are set.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_and_refused_ttls_are_logged_once_counted_and_mended() {
    const KEYS: usize = 8;
    let server = server_as_documented().await;
    assert_eq!(server.command(["ACL", "SETUSER", USER.name, "-expire"]), "OK");
    let (url, login) = (server.settings().deployment.to_string(), format!("{}:{}", USER.name, USER.password));
    let environment = [
        ("REDIS_URL", url.as_str()),
        ("REDIS_AUTH", &login),
        ("REDIS_CALL_TIMEOUT", "5s"),
        ("THREADS", "2"),
        ("LOG_LEVEL", "warn"),
    ];
    let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    let caller = Caller::connect(service.grpc).await;
    let node = format!("{{node=\"127.0.0.1:{}\"}}", server.port());
    let denied = format!("tollgate_redis_denied_commands{node}");
    let not_set = format!("tollgate_redis_ttls_not_set{node}");
    eventually("both cores count", async || {
        let mut all = true;
        for turn in 0..KEYS {
            let value = turn.to_string();
            all &= caller.ask(turn, request("shop", &[("user", &value)])).await == "OK";
        }
        all
    })
    .await;
    assert_eq!(service.metric(&denied).await, 1);
    // Each connection knows its counters, and does not expect them to be deleted by hand.
    let keys = server.command(["KEYS", "*user*"]);
    let keys: Vec<&str> = keys.lines().collect();
    assert_eq!(keys.len(), KEYS, "{keys:?}");
    for turn in 0..KEYS {
        server.command(["DEL".to_owned()].into_iter().chain(keys.iter().map(|key| (*key).to_owned())));
        let value = turn.to_string();
        assert_eq!(caller.ask(turn, request("shop", &[("user", &value)])).await, "OK");
        let refused = async || service.metric(&not_set).await == turn + 1;
        eventually("the refused TTL is counted", refused).await;
    }
    assert_eq!(logged(&service, "cannot set the TTL of a counter"), 1, "{}", service.process.output());
    assert_eq!(logged(&service, "lacks permissions"), 1, "{}", service.process.output());
    assert!(service.process.output().contains("commands=\"EXPIRE\""), "{}", service.process.output());

    assert_eq!(server.command(["ACL", "SETUSER", USER.name, "+expire"]), "OK");
    eventually("every TTL is set", async || {
        service.metric(&not_set).await == 0 && server.times_to_live().iter().all(|(_, secs)| *secs > 0)
    })
    .await;
}
