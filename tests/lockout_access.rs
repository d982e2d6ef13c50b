//! Access to lockouts: the callers that may list and lift them, and those of an outage.

use std::net::UdpSocket;
use std::process::{Command, Stdio};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::service::Service;
use crate::support::{admin, eventually};

const RULES: &str = "
domain: shop
descriptors:
  - key: account
    rate_limit: {unit: year, requests_per_unit: 1}
    on_backend_failure: local
    penalty: {block: [permanent], scope: [account], name: account_lockout}
";

async fn ask(service: &Service, account: &str) -> u16 {
    let entries = json!([{"key": "account", "value": account}]);
    let body = json!({"domain": "shop", "descriptors": [{"entries": entries}]});
    let request = Client::new().post(service.url("/json")).body(body.to_string());
    request.send().await.expect("an answer").status().as_u16()
}

async fn list(service: &Service, query: &str) -> Value {
    let answer = reqwest::get(service.debug_url(&format!("/lockouts{query}"))).await.expect("an answer");
    answer.json().await.expect("JSON")
}

fn ids(listing: &Value) -> Vec<String> {
    let lockouts = listing["lockouts"].as_array().expect("a list");
    lockouts.iter().map(|one| one["id"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn lockouts_are_for_callers_on_this_machine_and_no_web_page() {
    let service = Service::start(&[("rules.yaml", RULES)], &[("DEBUG_HOST", "0.0.0.0")]).await;
    let url = service.debug_url("/lockouts");
    let status = async |headers: &[(&'static str, &str)], method: Method, url: &str| {
        let mut request = Client::new().request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer").status()
    };
    let get = Method::GET;
    assert_eq!(status(&[], get.clone(), &url).await, StatusCode::OK);
    assert_eq!(status(&[("host", "localhost:6070")], get.clone(), &url).await, StatusCode::OK);
    for headers in [
        [("host", "evil.example")],
        [("origin", "http://evil.example")],
        [("sec-fetch-site", "cross-site")],
        [("origin", "null")],
    ] {
        assert_eq!(status(&headers, get.clone(), &url).await, StatusCode::FORBIDDEN, "{headers:?}");
    }
    let lift = service.debug_url("/lockouts/abcd");
    let lifted = status(&[], Method::DELETE, &lift).await;
    assert_eq!(lifted, StatusCode::NOT_FOUND, "the debug port changes nothing");

    // An address of this machine that is not loopback's stands for another machine.
    let probe = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    probe.connect("192.0.2.1:9").expect("a route");
    let own = probe.local_addr().expect("an address").ip();
    let from_outside = |path: &str| format!("http://{own}:{}{path}", service.debug);
    assert_eq!(status(&[], get.clone(), &from_outside("/lockouts")).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&[], get, &from_outside("/rlconfig")).await, StatusCode::OK, "read-only pages stay");
}

#[tokio::test]
async fn a_listing_has_pages() {
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    for account in 0..5 {
        assert_eq!(ask(&service, &account.to_string()).await, 200);
        assert_eq!(ask(&service, &account.to_string()).await, 429);
    }
    let all = ids(&list(&service, "").await);
    assert_eq!(all.len(), 5);
    let (mut paged, mut query) = (Vec::new(), "?limit=2".to_owned());
    for left in [true, true, false] {
        let page = list(&service, &query).await;
        paged.extend(ids(&page));
        assert_eq!(page["next_cursor"].is_string(), left, "{page}");
        query = format!("?limit=2&cursor={}", page["next_cursor"].as_str().unwrap_or_default());
    }
    assert_eq!(paged, all);
    let answer = reqwest::get(service.debug_url("/lockouts?cursor=rubbish")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_lockout_among_many_other_keys_is_found_by_the_command_line() {
    let redis = Redis::start().await;
    let fill = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'key' .. i, '1', 'EX', 1000) end";
    redis.command(["EVAL", fill, "0", "300000"]);
    let url = redis.settings().deployment.to_string();
    let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")];
    let service = Service::start(&[("rules.yaml", RULES)], &settings).await;
    eventually("the client is locked out", async || ask(&service, "acme").await == 429).await;
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let address = format!("127.0.0.1:{}", service.admin);
        command.env_clear().args(["admin", "--address", &address]).args(arguments);
        let run = move || command.stdin(Stdio::null()).output().expect("the program runs");
        let output = tokio::task::spawn_blocking(run).await.expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = run(&["--json", "lockouts"]).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (ids(&answer).len(), &answer["complete"], &answer["searching"]),
        (1, &json!(true), &json!(false))
    );
    let text = run(&["lockouts"]).await;
    assert!(text.contains("account=acme") && !text.contains("incomplete"), "{text}");
}

#[tokio::test]
async fn a_lockout_of_an_outage_is_listed_and_lifted_during_it_and_after_it() {
    let mut redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let file = admin::token_file();
    let path = file.path().display().to_string();
    let settings = [("REDIS_URL", &*url), ("ADMIN_TOKEN_FILE", &path)];
    let service = Service::start(&[("rules.yaml", RULES)], &settings).await;
    eventually("Redis counts", async || ask(&service, "warm-up").await == 200 || redis.len() > 0).await;
    redis.kill();
    for account in ["ann", "bob"] {
        eventually("the limit holds here", async || ask(&service, account).await == 429).await;
    }
    let mut found = Value::Null;
    eventually("both are listed, and Redis has failed", async || {
        found = list(&service, "").await;
        ids(&found).len() == 2 && !found["error"].is_null()
    })
    .await;
    assert_eq!((&found["complete"], found["error"].is_string()), (&json!(false), true), "{found}");
    let lift = async |id: &str| {
        let reason = json!({"reason": "a test"});
        admin::call(&service, Method::DELETE, &format!("/lockouts/{id}"), Some(reason)).await.1
    };
    let [first, second] = &ids(&found)[..] else { panic!("{found}") };
    let lifted = lift(first).await;
    assert!(lifted["lifted"] == true && lifted["error"].is_string(), "Redis may have it still: {lifted}");

    redis.restart().await;
    eventually("Redis is listed again, and what is left of the outage", async || {
        found = list(&service, "").await;
        found["complete"] == true && ids(&found) == [second.clone()]
    })
    .await;
    let lifted = lift(second).await;
    assert!(lifted["lifted"] == true && lifted["error"].is_null(), "{lifted}");
    assert_eq!(list(&service, "").await["lockouts"], json!([]));
}
