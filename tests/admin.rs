//! The admin listener: who may read and write, what it shows, and what it records.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tollgate::settings::Settings;

pub(crate) use crate::support::admin::TOKENS;
use crate::support::admin::token_file;
use crate::support::eventually;
use crate::support::service::Service;

pub(crate) const RULES: &str = "
domain: shop
descriptors:
  - {key: user, layer: user, rate_limit: 2/day}
  - key: account
    rate_limit: 1/day
    penalty: {after: 1, within: 10m, block: [1h], name: account_lockout}
  - {key: tokens, rate_limit: 1000/day, reserve: {amount: 400, ttl: 10m}}
  - {key: tenant, concurrency: {max: 2, ttl: 10m}}
";

/// Texts that run a script, break out of an attribute or forge a line wherever they are not escaped.
const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</table><svg/onload=alert(1)>",
    "line\nevent: forged\r\ndata: {}",
];

/// A service with a token for each role.
pub(crate) async fn start_with_tokens() -> (Service, tempfile::NamedTempFile) {
    let file = token_file();
    let path = file.path().display().to_string();
    (Service::start(&[("shop.yaml", RULES)], &[("ADMIN_TOKEN_FILE", &path)]).await, file)
}

pub(crate) async fn ask(service: &Service, key: &str, value: &str) {
    let descriptors = json!([{"entries": [{"key": key, "value": value}]}]);
    let body = json!({"domain": "shop", "descriptors": descriptors});
    Client::new().post(service.url("/json")).body(body.to_string()).send().await.expect("an answer");
}

fn request(service: &Service, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
    let request = Client::new().request(method, service.admin_url(path));
    match token {
        Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    }
}

async fn get(service: &Service, path: &str) -> Value {
    let answer = request(service, Method::GET, path, Some(TOKENS[0].1)).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.json().await.expect("JSON")
}

pub(crate) async fn page(service: &Service, path: &str) -> String {
    let answer = request(service, Method::GET, path, Some(TOKENS[0].1)).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.text().await.expect("text")
}

const READS: [&str; 30] = [
    "/",
    "/rules",
    "/rule?rule=shop.user",
    "/keys",
    "/key?domain=shop&descriptor=user%3Dann",
    "/denials",
    "/explain",
    "/lockouts",
    "/overrides",
    "/candidate",
    "/store",
    "/config",
    "/fleet",
    "/audit",
    "/api/v1/events",
    "/api/v1/summary",
    "/api/v1/rules",
    "/api/v1/config",
    "/api/v1/top",
    "/api/v1/denials",
    "/api/v1/series",
    "/api/v1/lockouts",
    "/api/v1/audit",
    "/api/v1/openapi.json",
    "/api/v1/config/loads",
    "/api/v1/candidate",
    "/api/v1/store",
    "/api/v1/fleet",
    "/api/v1/overrides",
    "/api/v1/keys?domain=shop&descriptor=user%3Dann",
];

#[tokio::test]
async fn every_endpoint_needs_the_role_that_it_names() {
    let (service, _file) = start_with_tokens().await;
    let writes = [
        (Method::POST, "/api/v1/config:reload", "admin"),
        (Method::POST, "/api/v1/rules:shadow", "admin"),
        (Method::DELETE, "/api/v1/lockouts/AAAA", "operate"),
        (Method::PUT, "/api/v1/overrides", "operate"),
        (Method::DELETE, "/api/v1/overrides/0123456789abcdef", "operate"),
        (Method::POST, "/api/v1/keys:reset", "operate"),
        (Method::POST, "/api/v1/explain", "view"),
    ];
    let reads = READS.iter().map(|path| (Method::GET, *path, "view"));
    let endpoints: Vec<_> = reads.chain(writes).collect();
    // The table lacks no endpoint of the API, and no page of the navigation.
    let document = get(&service, "/api/v1/openapi.json").await;
    for (path, method, _) in operations(&document) {
        let begin = path.split('{').next().expect("a path");
        let is_it = |listed: &str| match path.contains('{') {
            true => listed.strip_prefix(begin).is_some_and(|id| !id.is_empty()),
            false => listed.split('?').next() == Some(path),
        };
        let is_listed =
            endpoints.iter().any(|(of, listed, _)| method.to_uppercase() == of.as_str() && is_it(listed));
        assert!(is_listed, "{method} {path} is not in the table");
    }
    let first = page(&service, "/").await;
    let links: Vec<_> = first.split("<a href=\"").skip(1).filter_map(|link| link.split('"').next()).collect();
    assert!(links.len() >= 12, "{links:?}");
    for link in links.iter().filter(|link| link.starts_with('/')) {
        let link = link.split('?').next();
        assert!(READS.iter().any(|read| read.split('?').next() == link), "{link:?} is not in the table");
    }
    let rank = |role: &str| TOKENS.iter().position(|(name, _)| *name == role).expect("a role");
    for (method, path, needed) in endpoints {
        for token in [None, Some("no-such-token-at-all")] {
            let answer = request(&service, method.clone(), path, token).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path} {token:?}");
        }
        for (role, token) in TOKENS {
            let write =
                request(&service, method.clone(), path, Some(token)).json(&json!({"reason": "a test"}));
            let status = write.send().await.expect("an answer").status();
            let is_allowed = status != StatusCode::FORBIDDEN && status != StatusCode::UNAUTHORIZED;
            assert_eq!(is_allowed, rank(role) >= rank(needed), "{method} {path} as {role}: {status}");
        }
    }
}

#[tokio::test]
async fn without_tokens_this_machine_may_read_under_its_own_names_and_never_write() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    let read = async |name, value: &str| {
        let request = request(&service, Method::GET, "/api/v1/summary", None).header(name, value);
        request.send().await.expect("an answer").status()
    };
    assert_eq!(read(HOST, "localhost").await, StatusCode::OK);
    assert_eq!(read(HOST, "rebound.example").await, StatusCode::FORBIDDEN);
    assert_eq!(read(ORIGIN, "http://evil.example").await, StatusCode::FORBIDDEN);
    let write =
        request(&service, Method::POST, "/api/v1/config:reload", None).json(&json!({"reason": "a test"}));
    assert_eq!(write.send().await.expect("an answer").status(), StatusCode::FORBIDDEN);
    let audit = get_without_token(&service, "/api/v1/audit").await;
    assert_eq!(audit["items"].as_array().map(Vec::len), Some(1));
    let only = &audit["items"][0];
    assert_eq!((&only["action"], &only["actor"]), (&json!("rejected"), &json!("loopback")));
}

async fn get_without_token(service: &Service, path: &str) -> Value {
    let answer = request(service, Method::GET, path, None).send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

#[test]
fn an_address_that_others_reach_needs_tokens() {
    let error = Settings::from_variables(&[("ADMIN_HOST", "0.0.0.0")]).expect_err("no tokens").to_string();
    assert!(error.contains("ADMIN_HOST") && error.contains("ADMIN_TOKEN_FILE"), "{error}");
    for host in ["127.0.0.1", "::1", "localhost"] {
        Settings::from_variables(&[("ADMIN_HOST", host)]).expect("a loopback address");
    }
    let off =
        Settings::from_variables(&[("ADMIN_HOST", "0.0.0.0"), ("ADMIN_PORT", "off")]).expect("it is off");
    assert!(off.listen.admin.is_none());
}

#[tokio::test]
async fn clients_over_a_limit_are_shown_with_their_rule_and_its_place() {
    let (service, _file) = start_with_tokens().await;
    for _ in 0..9 {
        ask(&service, "user", "greedy").await;
    }
    let top = get(&service, "/api/v1/top?by=denied&window=5m").await;
    let first = &top["items"][0];
    assert_eq!(
        (&first["key"], &first["count"], &first["used"]),
        (&json!("user=greedy"), &json!(7), &json!(9))
    );
    assert_eq!((&first["rule"], &first["over_limit"]), (&json!("shop.user"), &json!(true)));
    assert_eq!(first["descriptor"], json!([{"key": "user", "value": "greedy"}]));
    let rules = get(&service, "/api/v1/rules").await;
    let rule = rules["items"].as_array().expect("a list").iter().find(|rule| rule["rule"] == "shop.user");
    let rule = rule.expect("a rule in force");
    assert_eq!((&rule["highest_use"], &rule["limits"][0]["requests"]), (&json!(4.5), &json!(2)));
    let source = first["source"].as_str().expect("a place");
    assert!(source.ends_with("shop.yaml:4"), "{source}");
    for rule in ["shop.user", source] {
        let path = format!("/api/v1/top?by=denied&rule={rule}");
        assert_eq!(get(&service, &path).await["items"].as_array().map(Vec::len), Some(1), "{path}");
    }
    let denials = get(&service, "/api/v1/denials?layer=user&q=greedy").await;
    assert_eq!(denials["items"].as_array().map(Vec::len), Some(7));
    assert_eq!(denials["items"][0]["reason"], "over_limit");
    for (path, page_has) in [
        ("/keys?by=denied&window=5m", "user=greedy"),
        ("/denials", "user=greedy"),
        ("/", "over limit"),
        ("/rules", "450 %"),
        ("/rule?rule=shop.user", "user=greedy"),
    ] {
        assert!(page(&service, path).await.contains(page_has), "{path}");
    }
}

#[tokio::test]
async fn the_rates_of_one_rule_are_a_series_of_its_own() {
    let (service, _file) = start_with_tokens().await;
    let series = async |rule: &str| get(&service, &format!("/api/v1/series?rule={rule}")).await;
    let is_denied = |series: &Value| {
        let points = series["items"].as_array().expect("a list").iter();
        points.clone().any(|point| point["over_limit_per_sec"].as_f64() > Some(0.0))
    };
    eventually("its denials are shown", async || {
        ask(&service, "user", "greedy").await;
        is_denied(&series("shop.user").await)
    })
    .await;
    let by_position = series("shop.yaml:4").await;
    assert_eq!(by_position["rule"], "shop.user");
    assert!(is_denied(&by_position), "{by_position}");
    let other = series("shop.account").await;
    assert!(
        other["items"].as_array().is_some_and(|points| !points.is_empty()) && !is_denied(&other),
        "{other}"
    );
    let unknown = request(&service, Method::GET, "/api/v1/series?rule=shop.nobody", Some(TOKENS[0].1)).send();
    assert_eq!(unknown.await.expect("an answer").status(), StatusCode::NOT_FOUND);
    assert!(page(&service, "/rule?rule=shop.user").await.contains("<polyline class=\"over\""));
}

#[tokio::test]
async fn denials_are_found_by_their_rule_its_position_and_the_name_of_its_limit() {
    let rules = "
domain: shop
descriptors:
  - {key: agent, rate_limit: {unit: day, requests_per_unit: 1, name: per-agent}}
  - {key: tokens, rate_limit: {unit: day, requests_per_unit: 1000, name: tokens}, reserve: {amount: 600, ttl: 10m}}
  - {key: other, rate_limit: 0/day}
";
    let service = Service::start(&[("shop.yaml", rules)], &[]).await;
    let agent = "Mozilla/5.0 (KHTML, like=Gecko; \"x\")";
    ask(&service, "other", "x").await;
    for _ in 0..2 {
        ask(&service, "agent", agent).await;
        let body = json!({"domain": "shop", "entries": {"tokens": "ann"}});
        let reserve = Client::new().post(service.url("/v1/reserve")).json(&body).send();
        reserve.await.expect("an answer");
    }
    let denials = async |query: &str| {
        let found = get_without_token(&service, &format!("/api/v1/denials{query}")).await;
        found["items"].as_array().expect("a list").clone()
    };
    assert_eq!(denials("").await.len(), 3);
    for (rule, line, name) in [("shop.agent", 4, "per-agent"), ("shop.tokens", 5, "tokens")] {
        for wanted in [rule, name, &format!("shop.yaml:{line}")] {
            let found = denials(&format!("?rule={wanted}")).await;
            assert_eq!(found.len(), 1, "{wanted}: {found:?}");
            let found = &found[0];
            assert_eq!((&found["rule"], &found["name"]), (&json!(rule), &json!(name)));
            assert!(
                found["source"].as_str().is_some_and(|at| at.ends_with(&format!("/shop.yaml:{line}"))),
                "{found}"
            );
        }
        // The page of a rule shows its denials, and `top` takes its position.
        let answer = request(&service, Method::GET, &format!("/rule?rule={rule}"), None).send().await;
        let shown = answer.expect("an answer").text().await.expect("text");
        assert!(!shown.contains("No denials."), "{rule}: {shown}");
        let top = get_without_token(&service, &format!("/api/v1/top?by=hits&rule=shop.yaml:{line}")).await;
        assert_eq!(top["items"].as_array().map(Vec::len), Some(1), "{rule}: {top}");
    }
    let held = &denials("?rule=shop.tokens").await[0];
    assert_eq!((&held["reason"], &held["used"]), (&json!("held"), &json!(600)));
    // What a client sent reads back exactly: as the body of an explanation, and by the link of the console.
    let found = &denials("?rule=per-agent").await[0];
    assert_eq!(found["request"], json!([{"entries": [{"key": "agent", "value": agent}]}]));
    let body = json!({"domain": "shop", "descriptors": found["request"]});
    let explained = request(&service, Method::POST, "/api/v1/explain", None).json(&body).send().await;
    let explained: Value = explained.expect("an answer").json().await.expect("JSON");
    assert_eq!(
        (&explained["next"], &explained["descriptors"][0]["limits"][0]["used"]),
        (&json!("denied"), &json!(2))
    );
    let shown =
        request(&service, Method::GET, "/denials?rule=per-agent", None).send().await.expect("an answer");
    let shown = shown.text().await.expect("text");
    let link =
        shown.split("<a href=\"/explain?").nth(1).and_then(|link| link.split('"').next()).expect("a link");
    let link = format!("/explain?{}", link.replace("&amp;", "&"));
    let explained = request(&service, Method::GET, &link, None).send().await.expect("an answer");
    let explained = explained.text().await.expect("text");
    assert!(explained.contains("<strong class=\"bad\">denied</strong>"), "{explained}");
}

#[tokio::test]
async fn a_lockout_is_found_among_many_by_its_client() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    for number in 0..103 {
        for _ in 0..3 {
            ask(&service, "account", &format!("client-{number:03}")).await;
        }
    }
    let listed = async |query: &str| {
        get_without_token(&service, &format!("/api/v1/lockouts{query}")).await["lockouts"]
            .as_array()
            .map(Vec::len)
    };
    eventually("all are listed", async || listed("").await == Some(103)).await;
    assert_eq!(listed("?q=account%3Dclient-07").await, Some(10));
    assert_eq!(listed("?q=nobody").await, Some(0));
    let shown = async |path: &str| {
        let answer = request(&service, Method::GET, path, None).send().await.expect("an answer");
        answer.text().await.expect("text")
    };
    let first = shown("/lockouts").await;
    assert!(first.contains("The 100 that end first; 3 others are not shown."), "{first}");
    let found = shown("/lockouts?q=client-042").await;
    assert_eq!(found.matches("account=client-").count(), 1, "{found}");
    let key = shown("/key?domain=shop&descriptor=account%3Dclient-042").await;
    assert!(key.contains("href=\"/lockouts?q=account%3Dclient%2D042\""), "{key}");
    let nobody = shown("/lockouts?q=nobody").await;
    assert!(nobody.contains("No such client is locked out."), "{nobody}");
}

#[tokio::test]
async fn a_lockout_is_lifted_with_a_reason_and_audited() {
    let (service, _file) = start_with_tokens().await;
    for _ in 0..3 {
        ask(&service, "account", "acme").await;
    }
    let listed = get(&service, "/api/v1/lockouts").await;
    let id = listed["lockouts"][0]["id"].as_str().expect("a lockout").to_owned();
    assert!(page(&service, "/lockouts").await.contains("account=acme"));
    let path = format!("/api/v1/lockouts/{id}");
    let lift = async |path: &str, body: &str, content_type: &str| {
        let request = request(&service, Method::DELETE, path, Some(TOKENS[1].1));
        let request = request.header(CONTENT_TYPE, content_type).body(body.to_owned());
        request.send().await.expect("an answer").status()
    };
    let good = r#"{"reason": "customer called"}"#;
    for (body, content_type, status) in [
        ("{}", "application/json", StatusCode::BAD_REQUEST),
        (r#"{"reason": " "}"#, "application/json", StatusCode::BAD_REQUEST),
        (r#"{"reason": "x", "more": 1}"#, "application/json", StatusCode::BAD_REQUEST),
        ("nonsense", "application/json", StatusCode::BAD_REQUEST),
        (good, "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        assert_eq!(lift(&path, body, content_type).await, status, "{body}");
    }
    assert_eq!(lift(&format!("{path}?dry_run=1"), good, "application/json").await, StatusCode::OK);
    assert_eq!(get(&service, "/api/v1/lockouts").await["lockouts"].as_array().map(Vec::len), Some(1));
    assert_eq!(lift(&path, good, "application/json").await, StatusCode::OK);
    assert_eq!(get(&service, "/api/v1/lockouts").await["lockouts"], json!([]));
    assert_eq!(lift(&path, good, "application/json").await, StatusCode::NOT_FOUND);
    let audit = get(&service, "/api/v1/audit").await;
    let handled =
        audit["items"].as_array().expect("a list").iter().filter(|entry| entry["action"] != "rejected");
    let handled: Vec<_> = handled.collect();
    let results: Vec<_> = handled.iter().map(|entry| &entry["result"]).collect();
    assert_eq!(results, ["not_found", "done", "done"]);
    let dry_run = handled[2];
    assert_eq!((&dry_run["dry_run"], &dry_run["actor"]), (&json!(true), &json!("operate token, line 2")));
    assert_eq!((&dry_run["reason"], &dry_run["from"]), (&json!("customer called"), &json!("127.0.0.1")));
    for (result, count) in [("done", 1.0), ("dry_run", 1.0), ("not_found", 1.0)] {
        let series = format!("tollgate_admin_actions{{action=\"lockouts:lift\",result=\"{result}\"}}");
        assert_eq!(metric(&service, &series).await, Some(count), "{series}");
    }
    assert!(page(&service, "/audit").await.contains("customer called"));
}

#[tokio::test]
async fn client_text_is_escaped_on_every_page() {
    let (service, _file) = start_with_tokens().await;
    for value in HOSTILE {
        for _ in 0..4 {
            ask(&service, "user", value).await;
            ask(&service, "account", value).await;
        }
    }
    let query = "?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    for path in
        ["/", "/rules", "/keys?by=denied", "/denials", &format!("/denials{query}"), "/lockouts", "/audit"]
    {
        let page = page(&service, path).await;
        // Attributes are in double quotes everywhere, which a single one does not end.
        for unescaped in ["<script>", "<img", "<svg/", "</table><svg"] {
            assert!(!page.contains(unescaped), "{path}: {unescaped}");
        }
    }
    let shown = page(&service, "/keys?by=denied").await;
    assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{shown}");
    let policy = request(&service, Method::GET, "/", Some(TOKENS[0].1)).send().await.expect("an answer");
    let policy = policy.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
}

#[tokio::test]
async fn events_report_statistics_and_new_denials_and_streams_are_bounded() {
    let (service, _file) = start_with_tokens().await;
    for _ in 0..3 {
        ask(&service, "user", HOSTILE[4]).await;
    }
    let open = async || request(&service, Method::GET, "/api/v1/events", Some(TOKENS[0].1)).send().await;
    let mut stream = open().await.expect("an answer");
    let mut text = String::new();
    while !text.contains("event: denials") {
        let chunk = stream.chunk().await.expect("an open stream").expect("more events");
        text += &String::from_utf8_lossy(&chunk);
    }
    assert!(text.contains("event: stats") && text.contains("retry: 2000"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("event: forged")), "{text}");
    let mut streams = Vec::new();
    for _ in 0..31 {
        let stream = open().await.expect("an answer");
        assert_eq!(stream.status(), StatusCode::OK);
        streams.push(stream);
    }
    assert_eq!(open().await.expect("an answer").status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(streams);
    eventually("a stream that ended makes room", async || {
        open().await.is_ok_and(|stream| stream.status() == StatusCode::OK)
    })
    .await;
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let (service, _file) = start_with_tokens().await;
    for (path, named) in [
        ("/api/v1/top?by=size", "by"),
        ("/api/v1/top?window=soon", "window"),
        ("/api/v1/top?window=2h", "window"),
        ("/api/v1/top?window=1ms", "window"),
        ("/api/v1/series?from=-61m", "from"),
        ("/api/v1/top?windw=5m", "windw"),
        ("/api/v1/series?from=yesterday", "from"),
        ("/api/v1/denials?limit=many", "limit"),
    ] {
        let answer = request(&service, Method::GET, path, Some(TOKENS[0].1)).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        let text = answer.text().await.expect("text");
        assert!(text.contains(named) || named == "limit", "{path}: {text}");
    }
    let missing =
        request(&service, Method::GET, "/nowhere", Some(TOKENS[0].1)).send().await.expect("an answer");
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}

/// Path, method and description of each operation of the OpenAPI document.
fn operations(document: &Value) -> Vec<(&String, &String, &Value)> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            operations.push((path, method, operation));
        }
    }
    operations
}

#[tokio::test]
async fn the_openapi_document_matches_the_router() {
    let (service, _file) = start_with_tokens().await;
    let document = get(&service, "/api/v1/openapi.json").await;
    let operations = operations(&document);
    for read in READS.iter().filter(|path| path.starts_with("/api/")) {
        let read = read.split('?').next().expect("a path");
        assert!(operations.iter().any(|(path, method, _)| *path == read && *method == "get"), "{read}");
    }
    for (path, method, operation) in operations {
        let url = path.replace("{id}", "nonsense");
        let method: Method = method.to_uppercase().parse().expect("a method");
        let ask = |method| request(&service, method, &url, Some(TOKENS[2].1)).send();
        let answer = ask(method).await.expect("an answer");
        let documented = &operation["responses"][answer.status().as_str()];
        assert!(documented.is_object(), "{path}: {}", answer.status());
        if answer.status() == StatusCode::NOT_FOUND {
            let text = answer.text().await.expect("text");
            assert!(!text.contains("no such page or endpoint"), "{path}");
        }
        let wrong = ask(Method::PATCH).await.expect("an answer");
        assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = wrong.headers()["allow"].to_str().expect("text").to_lowercase();
        let mut allowed: Vec<_> = allowed.split(',').filter(|method| *method != "head").collect();
        let mut described: Vec<_> = document["paths"][path].as_object().expect("methods").keys().collect();
        allowed.sort_unstable();
        described.sort();
        assert_eq!(allowed, described, "{path}");
    }
}

#[tokio::test]
async fn answers_have_the_fields_that_the_openapi_document_describes() {
    let (service, _file) = start_with_tokens().await;
    let document = get(&service, "/api/v1/openapi.json").await;
    for _ in 0..3 {
        ask(&service, "user", "alice").await;
        ask(&service, "account", "acme").await;
    }
    for (path, method, operation) in operations(&document) {
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        if method == "get" && !path.contains('{') && schema["$ref"].is_string() {
            // With its query, where it needs one.
            let read = READS.iter().find(|read| read.split('?').next() == Some(path)).copied();
            conforms(&document, schema, &get(&service, read.unwrap_or(path)).await, path);
        }
    }
}

/// Fails unless objects in `value` have exactly the fields that `schema` describes.
fn conforms(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return conforms(document, target.expect("a schema"), value, place);
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().for_each(|value| conforms(document, items, value, place));
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        assert_eq!(fields.keys().collect::<Vec<_>>(), properties.keys().collect::<Vec<_>>(), "{place}");
        properties.iter().for_each(|(name, schema)| conforms(document, schema, &fields[name], name));
    }
}

/// Value of a series, as `/metrics` shows it.
async fn metric(service: &Service, series: &str) -> Option<f64> {
    let shown = Client::new().get(service.debug_url("/metrics")).send().await.expect("an answer");
    let shown = shown.text().await.expect("text");
    shown.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn metrics_have_the_extremes_of_keys_and_lockouts_and_no_key() {
    let service = Service::start(&[("shop.yaml", RULES)], &[]).await;
    for _ in 0..9 {
        ask(&service, "user", "greedy").await;
        ask(&service, "account", "acme").await;
    }
    ask(&service, "user", "modest").await;
    eventually("the denials of the most denied key are shown", async || {
        metric(&service, "tollgate_most_denied_key_requests{rule=\"shop.user\"}").await == Some(7.0)
    })
    .await;
    let used = metric(&service, "tollgate_highest_key_use_ratio{rule=\"shop.user\"}").await;
    assert_eq!(used, Some(4.5));
    // From the second one on, which is the strike.
    assert_eq!(metric(&service, "tollgate_locked_out_requests").await, Some(8.0));
    let shown = Client::new().get(service.debug_url("/metrics")).send().await.expect("an answer");
    assert!(!shown.text().await.expect("text").contains("greedy"));
}

#[tokio::test]
async fn replicas_have_the_same_hash_only_if_they_have_the_same_rules() {
    let hash = async |rules: &str| {
        let service = Service::start(&[("shop.yaml", rules)], &[]).await;
        assert_eq!(metric(&service, "tollgate_config_wrong").await, Some(0.0));
        metric(&service, "tollgate_rules_hash").await.expect("a hash")
    };
    let (one, other) = (hash(RULES).await, hash(&RULES.replace("2/day", "3/day")).await);
    assert!(one != other && one > 0.0, "{one} {other}");
    assert_eq!(hash(RULES).await, one);
}
