//! Access to the admin listener: sessions of browsers, users that a proxy names, and certificates.

use reqwest::header::{ACCEPT, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::admin::{RULES, TOKENS, ask, start_with_tokens};
use crate::support::eventually;
use crate::support::pki::{self, Authority, Pair, Pki};
use crate::support::service::Service;

/// A page, a read, and writes that need each of the two higher roles.
const ENDPOINTS: [(Method, &str, &str); 4] = [
    (Method::GET, "/rules", "view"),
    (Method::GET, "/api/v1/summary", "view"),
    (Method::DELETE, "/api/v1/lockouts/AAAA", "operate"),
    (Method::POST, "/api/v1/config:reload", "admin"),
];

fn rank(role: &str) -> usize {
    TOKENS.iter().position(|(name, _)| *name == role).expect("a role")
}

fn request(service: &Service, method: Method, path: &str) -> RequestBuilder {
    let client = Client::builder().redirect(Policy::none()).build().expect("a client");
    client.request(method, service.admin_url(path))
}

/// Cookie of a new session, and the secret that its pages have for writes.
async fn log_in(service: &Service, token: &str) -> (String, String) {
    let form = request(service, Method::POST, "/session").body(format!("token={token}&next=%2Frules"));
    let answer = form.header(ORIGIN, service.admin_url("")).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()[LOCATION], "/rules");
    let cookie = answer.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains(token), "{cookie}");
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let page = request(service, Method::GET, "/rules").header(COOKIE, &cookie).send().await;
    let page = page.expect("an answer").text().await.expect("text");
    let csrf = page.split("name=\"csrf\" content=\"").nth(1).expect("a secret");
    (cookie, csrf.split('"').next().expect("it ends").to_owned())
}

#[tokio::test]
async fn a_session_has_the_role_of_its_token_and_writes_need_its_secret() {
    let (service, _file) = start_with_tokens().await;
    for (role, token) in TOKENS {
        let (cookie, csrf) = log_in(&service, token).await;
        for (method, path, needed) in ENDPOINTS {
            for csrf in [None, Some("forged"), Some(csrf.as_str())] {
                let request = request(&service, method.clone(), path).header(COOKIE, &cookie);
                let request = request.json(&json!({"reason": "a test"}));
                let request =
                    csrf.into_iter().fold(request, |request, csrf| request.header("x-csrf-token", csrf));
                let status = request.send().await.expect("an answer").status();
                let is_proven = method == Method::GET || csrf.is_some_and(|csrf| csrf != "forged");
                let is_allowed = is_proven && rank(role) >= rank(needed);
                assert_eq!(
                    status != StatusCode::FORBIDDEN,
                    is_allowed,
                    "{method} {path} {role} {csrf:?}: {status}"
                );
                assert_ne!(status, StatusCode::UNAUTHORIZED);
            }
        }
    }
}

#[tokio::test]
async fn a_cookie_is_worth_nothing_after_the_log_out() {
    let (service, _file) = start_with_tokens().await;
    let (cookie, _) = log_in(&service, TOKENS[2].1).await;
    let (other, _) = log_in(&service, TOKENS[2].1).await;
    let status = async |cookie: &str| {
        let page = request(&service, Method::GET, "/rules").header(COOKIE, cookie);
        page.send().await.expect("an answer").status()
    };
    assert_eq!([status(&cookie).await, status(&other).await], [StatusCode::OK; 2]);
    let out = request(&service, Method::POST, "/session:end").header(COOKIE, &cookie);
    assert_eq!(out.send().await.expect("an answer").status(), StatusCode::SEE_OTHER);
    assert_eq!([status(&cookie).await, status(&other).await], [StatusCode::UNAUTHORIZED, StatusCode::OK]);
}

#[tokio::test]
async fn rejected_writes_are_audited() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let lines = format!("view:{} # ann\nadmin:{}\n", TOKENS[0].1, TOKENS[2].1);
    std::fs::write(file.path(), lines).expect("it is written");
    let path = file.path().display().to_string();
    let service = Service::start(&[("shop.yaml", RULES)], &[("ADMIN_TOKEN_FILE", &*path)]).await;
    let send = async |method: Method, path: &str, token: Option<&str>, body: &str| {
        let request = request(&service, method, path).header("content-type", "application/json");
        let request = token.into_iter().fold(request, RequestBuilder::bearer_auth);
        request.body(body.to_owned()).send().await.expect("an answer").status()
    };
    let (reload, id) = ("/api/v1/config:reload", "/api/v1/lockouts/none");
    let (view, admin) = (Some(TOKENS[0].1), Some(TOKENS[2].1));
    assert_eq!(send(Method::POST, reload, None, "{}").await, StatusCode::UNAUTHORIZED);
    assert_eq!(send(Method::POST, reload, view, "{}").await, StatusCode::FORBIDDEN);
    assert_eq!(send(Method::POST, reload, admin, "{}").await, StatusCode::BAD_REQUEST);
    assert_eq!(send(Method::DELETE, id, admin, "{\"reason\": \"x\"}").await, StatusCode::NOT_FOUND);
    // Neither reads nor explanations change anything.
    assert_eq!(send(Method::POST, "/api/v1/explain", admin, "{}").await, StatusCode::BAD_REQUEST);
    assert_eq!(send(Method::POST, reload, admin, "{\"reason\": \"x\"}").await, StatusCode::OK);
    let audit = request(&service, Method::GET, "/api/v1/audit").bearer_auth(TOKENS[2].1).send().await;
    let audit: serde_json::Value = audit.expect("an answer").json().await.expect("JSON");
    let entries = audit["items"].as_array().expect("a list").iter().map(|entry| {
        let text = |name: &str| entry[name].as_str().expect("text").to_owned();
        let result = text("result").chars().take(4).collect::<String>();
        [text("actor"), text("role"), text("action"), text("target"), result].join("|")
    });
    let entries: Vec<_> = entries.collect();
    assert_eq!(
        entries,
        [
            "admin token, line 2|admin|config:reload|rules|done",
            "admin token, line 2|admin|rejected|DELETE /api/v1/lockouts/none|404:",
            "admin token, line 2|admin|rejected|POST /api/v1/config:reload|400:",
            "token ann|view|rejected|POST /api/v1/config:reload|403:",
            "unknown|none|rejected|POST /api/v1/config:reload|401:",
        ],
        "newest first"
    );
}

#[tokio::test]
async fn a_flood_of_strangers_hides_no_rejected_write_of_a_known_actor() {
    let (service, _file) = start_with_tokens().await;
    let write = async |token: Option<&str>| {
        let request = request(&service, Method::POST, "/api/v1/config:reload").json(&json!({"reason": "x"}));
        let request = token.into_iter().fold(request, RequestBuilder::bearer_auth);
        request.send().await.expect("an answer").status()
    };
    let listed = async || {
        let audit = request(&service, Method::GET, "/api/v1/audit?limit=1000").bearer_auth(TOKENS[0].1);
        audit.send().await.expect("an answer").json::<serde_json::Value>().await.expect("JSON")
    };
    eventually("strangers exceed their bound", async || {
        for _ in 0..20 {
            assert_eq!(write(None).await, StatusCode::UNAUTHORIZED);
        }
        listed().await["suppressed"]["unknown"].as_u64().expect("a number") > 0
    })
    .await;
    assert_eq!(write(Some(TOKENS[0].1)).await, StatusCode::FORBIDDEN);
    let audit = listed().await;
    let items = audit["items"].as_array().expect("a list").iter();
    assert_eq!(items.filter(|item| item["actor"] == "view token, line 1").count(), 1, "{audit}");
    assert_eq!(audit["suppressed"]["known"], 0);
    let metrics = reqwest::get(service.debug_url("/metrics")).await.expect("an answer");
    let metrics = metrics.text().await.expect("text");
    let line =
        format!("tollgate_audit_suppressed_writes{{actor=\"unknown\"}} {}", audit["suppressed"]["unknown"]);
    assert!(metrics.contains(&line), "{line}: {metrics}");
}

#[tokio::test]
async fn browsers_are_sent_to_the_form_and_other_clients_get_the_error() {
    let (service, _file) = start_with_tokens().await;
    let page = |accept: &'static str| request(&service, Method::GET, "/keys?by=use").header(ACCEPT, accept);
    let answer = page("text/html,*/*").send().await.expect("an answer");
    assert_eq!(
        (answer.status(), &answer.headers()[LOCATION]),
        (StatusCode::SEE_OTHER, &"/login?next=%2Fkeys%3Fby%3Duse".parse().expect("a value"))
    );
    assert_eq!(page("*/*").send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    let form =
        request(&service, Method::GET, "/login?next=%22%3E%3Cscript%3E").send().await.expect("an answer");
    assert_eq!(form.status(), StatusCode::OK);
    let form = form.text().await.expect("text");
    assert!(form.contains("value=\"&quot;&gt;&lt;script&gt;\""), "{form}");

    let log_in = |token: &str| request(&service, Method::POST, "/session").body(format!("token={token}"));
    let failed = log_in("no-such-token-at-all").send().await.expect("an answer");
    assert!(failed.headers()[LOCATION].to_str().expect("text").starts_with("/login?failed=1"));
    assert!(!failed.headers().contains_key(SET_COOKIE));
    let foreign = log_in(TOKENS[0].1).header(ORIGIN, "https://evil.example").send().await.expect("an answer");
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let out = request(&service, Method::POST, "/session:end").send().await.expect("an answer");
    assert!(out.headers()[SET_COOKIE].to_str().expect("text").starts_with("tollgate_session=; Max-Age=0"));
}

#[tokio::test]
async fn buttons_are_shown_to_actors_with_the_role() {
    let (service, _file) = start_with_tokens().await;
    for _ in 0..3 {
        ask(&service, "account", "acme").await;
    }
    for (role, token) in TOKENS {
        for (path, button, needed) in [
            ("/lockouts", "aria-label=\"Unlock account=acme\"", "operate"),
            ("/config", "aria-label=\"Reload the rules\"", "admin"),
        ] {
            let page =
                request(&service, Method::GET, path).bearer_auth(token).send().await.expect("an answer");
            let page = page.text().await.expect("text");
            assert_eq!(page.contains(button), rank(role) >= rank(needed), "{path} as {role}: {page}");
        }
    }
    let open = Service::start(&[("shop.yaml", RULES)], &[]).await;
    let page = reqwest::get(open.admin_url("/config")).await.expect("an answer").text().await.expect("text");
    assert!(!page.contains("Reload</button>") && page.contains("with the role admin"), "{page}");
}

#[tokio::test]
async fn users_of_a_trusted_proxy_have_the_roles_of_their_groups() {
    let trusted =
        [("ADMIN_TRUSTED_PROXIES", "127.0.0.1"), ("ADMIN_GROUP_ROLES", "*=view,oncall=operate,sre=admin")];
    let service = Service::start(&[("shop.yaml", RULES)], &trusted).await;
    for (groups, role) in [("", "view"), ("dev, oncall", "operate"), ("oncall,sre", "admin")] {
        for (method, path, needed) in ENDPOINTS {
            let request = request(&service, method.clone(), path).json(&json!({"reason": "a test"}));
            let request = request.header("x-forwarded-user", "ann").header("x-forwarded-groups", groups);
            let status = request.send().await.expect("an answer").status();
            assert_eq!(
                status != StatusCode::FORBIDDEN,
                rank(role) >= rank(needed),
                "{method} {path} {groups}: {status}"
            );
        }
    }
    let anonymous = request(&service, Method::GET, "/api/v1/summary").send().await.expect("an answer");
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED, "loopback gives nothing beside authentication");
    let audit = request(&service, Method::GET, "/api/v1/audit").header("x-forwarded-user", "ann");
    let audit = audit.send().await.expect("an answer").text().await.expect("text");
    assert!(audit.contains("user ann"), "{audit}");

    let elsewhere = [("ADMIN_TRUSTED_PROXIES", "192.0.2.0/24"), ("ADMIN_GROUP_ROLES", "*=admin")];
    let service = Service::start(&[("shop.yaml", RULES)], &elsewhere).await;
    let forged = request(&service, Method::GET, "/api/v1/summary").header("x-forwarded-user", "ann");
    assert_eq!(forged.send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
}

/// Status of a request over TLS; 0 if there is no connection.
async fn over_tls(service: &Service, authority: &Authority, identity: Option<&Pair>, head: &str) -> u16 {
    let client = pki::client(authority, identity, &[b"http/1.1"]);
    let Ok(mut stream) = pki::connect(&client, service.admin).await else { return 0 };
    let body = r#"{"reason": "a test"}"#;
    let request = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_err() {
        return 0;
    }
    // A rejected certificate is a reset.
    drop(stream.read_to_end(&mut answer).await);
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or(0)
}

#[tokio::test]
async fn certificates_have_roles_by_their_names() {
    let pki = Pki::new();
    let (ours, others) = (pki.authority("ours"), pki.authority("others"));
    let server = pki.pair(&ours, "server", "localhost");
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key, ca) = (path(&server.certificate), path(&server.key), path(&ours.path));
    let service = Service::start(
        &[("shop.yaml", RULES)],
        &[
            ("ADMIN_SERVER_USE_TLS", "true"),
            ("GRPC_SERVER_TLS_CERT", &certificate),
            ("GRPC_SERVER_TLS_KEY", &key),
            ("ADMIN_CLIENT_TLS_CACERT", &ca),
            ("ADMIN_CLIENT_ROLES", "spiffe://prod/sre=admin,ops.example=operate"),
        ],
    )
    .await;
    let identities = [
        (None, None),
        (Some(pki.pair_for_uri(&ours, "sre", "spiffe://prod/sre")), Some("admin")),
        (Some(pki.pair(&ours, "ops", "ops.example")), Some("operate")),
        (Some(pki.pair(&ours, "app", "app.example")), None),
    ];
    for (identity, role) in &identities {
        for (method, path, needed) in ENDPOINTS {
            let status = over_tls(&service, &ours, identity.as_ref(), &format!("{method} {path}")).await;
            let is_allowed = role.is_some_and(|role| rank(role) >= rank(needed));
            assert_eq!(![401, 403].contains(&status), is_allowed, "{method} {path} {role:?}: {status}");
            assert_ne!(status, 0);
        }
    }
    let forged = pki.pair_for_uri(&others, "forged", "spiffe://prod/sre");
    assert_eq!(over_tls(&service, &ours, Some(&forged), "GET /api/v1/summary").await, 0);
}
