//! State that the admin API reports: the store, the replicas that share it, loads of rules, the candidate.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::service::Service;

const RULES: &str = "domain: shop\ndescriptors:\n  - {key: user, rate_limit: 2/day}\n";
const OTHER_RULES: &str = "domain: shop\ndescriptors:\n  - {key: user, rate_limit: 1/day}\n";

async fn get(service: &Service, path: &str) -> Value {
    let answer = reqwest::get(service.admin_url(path)).await.expect("an answer");
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.expect("JSON")
}

async fn ask(service: &Service, user: &str) {
    let descriptors = json!([{"entries": [{"key": "user", "value": user}]}]);
    let body = json!({"domain": "shop", "descriptors": descriptors}).to_string();
    reqwest::Client::new().post(service.url("/json")).body(body).send().await.expect("an answer");
}

async fn start(rules: &str, redis: &Redis) -> Service {
    let url = format!("127.0.0.1:{}", redis.port());
    Service::start(&[("shop.yaml", rules)], &[("REDIS_URL", &url), ("THREADS", "1")]).await
}

#[tokio::test]
async fn replicas_see_each_other_in_redis_and_whether_they_have_the_same_rules() {
    let redis = Redis::start().await;
    let one = start(RULES, &redis).await;
    // The first replica must be announced before the second one reads the list.
    eventually("the first replica is announced", async || redis.command(["HLEN", "tgf1/fleet"]) == "1").await;
    let ttl: i64 = redis.command(["TTL", "tgf1/fleet"]).parse().expect("a number");
    assert!((1..=30).contains(&ttl), "{ttl}");
    let two = start(OTHER_RULES, &redis).await;
    let fleet = async || get(&two, "/api/v1/fleet").await;
    eventually("the second one sees both", async || {
        fleet().await["replicas"].as_array().is_some_and(|replicas| replicas.len() == 2)
    })
    .await;
    let fleet = fleet().await;
    assert_eq!((&fleet["same_rules"], &fleet["error"]), (&json!(false), &Value::Null));
    let replicas = fleet["replicas"].as_array().expect("a list");
    assert_eq!(replicas.iter().filter(|replica| replica["is_self"] == true).count(), 1);
    assert!(
        replicas
            .iter()
            .all(|replica| replica["version"] == env!("CARGO_PKG_VERSION") && replica["rules"] == 1)
    );
    assert!(replicas.iter().all(|replica| replica["hits_per_sec"].is_f64()), "{fleet}");
    let hash = get(&one, "/api/v1/config").await["rules_hash"].clone();
    assert!(replicas.iter().any(|replica| replica["is_self"] == false && replica["rules_hash"] == hash));
    assert_eq!(get(&two, "/api/v1/summary").await["replicas"], 2);
    // A replica whose announcement is old is neither listed nor kept.
    redis.command(["HSET", "tgf1/fleet", "gone", "1700000000 {}"]);
    let three = start(RULES, &redis).await;
    eventually("the third one sees three", async || {
        get(&three, "/api/v1/fleet").await["replicas"].as_array().is_some_and(|replicas| replicas.len() == 3)
    })
    .await;
    assert_eq!(redis.command(["HEXISTS", "tgf1/fleet", "gone"]), "0");
}

#[tokio::test]
async fn a_replica_with_counters_in_memory_is_its_own_fleet() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    let fleet = get(&service, "/api/v1/fleet").await;
    assert_eq!(fleet["replicas"].as_array().map(Vec::len), Some(1));
    assert_eq!((&fleet["replicas"][0]["is_self"], &fleet["same_rules"]), (&json!(true), &json!(true)));
    ask(&service, "alice").await;
    let store = get(&service, "/api/v1/store").await;
    assert_eq!((&store["kind"], &store["memory"]["counters"]), (&json!("memory"), &json!(1)));
    assert_eq!(store["nodes"], json!([]));
}

#[tokio::test]
async fn each_redis_node_is_shown_with_its_checks() {
    let mut redis = Redis::start().await;
    redis.command(["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let service = start(RULES, &redis).await;
    // One connection of the only core, and one for operators.
    eventually("both connections are up", async || {
        let node = get(&service, "/api/v1/store").await["nodes"][0].clone();
        node["state"] == "up" && node["connected"] == 2
    })
    .await;
    let store = get(&service, "/api/v1/store").await;
    let node = &store["nodes"][0];
    assert_eq!(store["kind"], "redis");
    assert_eq!((&node["server"]["role"], &node["server_error"]), (&json!("master"), &Value::Null));
    let check = |node: &Value, name: &str| {
        let checks = node["checks"].as_array().expect("a list").iter();
        checks.filter(|check| check["name"] == name).map(|check| check["ok"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(check(node, "maxmemory-policy"), [json!(false)]);
    assert_eq!((check(node, "role"), check(node, "permissions")), (vec![json!(true)], vec![json!(true)]));
    ask(&service, "alice").await;
    let latency = async || get(&service, "/api/v1/store").await["nodes"][0]["latency"].clone();
    eventually("its round trips are shown", async || latency().await["batches"].as_u64() > Some(0)).await;
    let latency = latency().await;
    let [p50, p99] = ["p50_secs", "p99_secs"].map(|quantile| latency[quantile].as_f64().expect("a number"));
    assert!(0.0 < p50 && p50 <= p99 && p99 < 60.0, "{latency}");
    redis.kill();
    eventually("the node is down", async || {
        let store = get(&service, "/api/v1/store").await;
        store["nodes"][0]["state"] == "down" && store["nodes"][0]["server_error"].is_string()
    })
    .await;
}

#[tokio::test]
async fn loads_are_listed_with_their_errors() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    let loads = async || get(&service, "/api/v1/config/loads").await["items"].clone();
    eventually("the first load is listed", async || loads().await[0]["rules"] == 1).await;
    service
        .write_rules("shop.yaml", "domain: shop\ndescriptors:\n  - {key: user, rate_limit: 2/fortnight}\n");
    eventually("a load with an error is listed", async || loads().await[0]["error_count"] == 1).await;
    service.write_rules("shop.yaml", OTHER_RULES);
    eventually("a load without one is listed", async || loads().await[0]["error_count"] == 0).await;
    let loads = loads().await;
    let [newest, wrong, first] = [0, 1, 2].map(|index| loads[index].clone());
    assert!(wrong["errors"][0].as_str().is_some_and(|error| error.contains("shop.yaml:3")), "{wrong}");
    assert_eq!(
        (&wrong["changed"], &newest["changed"], &first["changed"]),
        (&json!(false), &json!(true), &json!(true))
    );
    assert_eq!(wrong["rules_hash"], first["rules_hash"]);
    assert_ne!(newest["rules_hash"], first["rules_hash"]);
}

#[tokio::test]
async fn the_candidate_is_shown_with_its_differences_by_rule() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("candidate.yaml");
    std::fs::write(&path, OTHER_RULES).expect("it is written");
    let path = path.display().to_string();
    let service = Service::start(&[("shop.yaml", RULES)], &[("CANDIDATE_CONFIG", &path)]).await;
    for _ in 0..2 {
        ask(&service, "alice").await;
    }
    eventually("both requests are compared", async || {
        let candidate = get(&service, "/api/v1/candidate").await;
        candidate["same"] == 1 && candidate["stricter"] == 1
    })
    .await;
    let candidate = get(&service, "/api/v1/candidate").await;
    assert_eq!((&candidate["config"]["rules"], &candidate["looser"]), (&json!(1), &json!(0)));
    let expected = json!([{"domain": "shop", "rule": "shop.user", "outcome": "stricter", "requests": 1}]);
    assert_eq!(candidate["differences"], expected);
    let without = Service::start(&[("shop.yaml", RULES)], &[]).await;
    assert_eq!(get(&without, "/api/v1/candidate").await["config"], Value::Null);
}
