//! `tollgate top`, printed once and on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use nix::pty::{OpenptyResult, Winsize, openpty};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::admin::{RULES, TOKENS, ask, start_with_tokens};
use crate::support::eventually;
use crate::support::service::Service;

async fn top(service: &Service, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().args(["top", "--address", &format!("127.0.0.1:{}", service.admin)]).args(arguments);
    let run = move || command.stdin(Stdio::null()).output().expect("the program runs");
    tokio::task::spawn_blocking(run).await.expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn once_prints_limited_clients_as_text_and_as_json() {
    let (service, file) = start_with_tokens().await;
    for _ in 0..5 {
        ask(&service, "user", "greedy").await;
        ask(&service, "account", "acme\u{1b}[2J").await;
    }
    let path = file.path().display().to_string();
    let printed = top(&service, &["--once", "--token-file", &path]).await;
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    let printed = text(&printed.stdout);
    for expected in
        ["NOW\n", "KEYS\n", "user=greedy", "over limit", "2/24h", "LOCKOUTS\n", "account=acme", "shop.user"]
    {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    assert!(!printed.contains('\u{1b}'), "{printed:?}");
    let lockouts = printed.split("LOCKOUTS\n").nth(1).expect("a list of lockouts");
    assert!(lockouts.contains("account=acme"), "{lockouts}");

    let printed = top(&service, &["--once", "--json", "--by", "hits", "--token-file", &path]).await;
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(printed["keys"]["by"], "hits");
    let denial = printed["denials"].as_array().expect("denials").iter();
    assert!(denial.clone().any(|denial| denial["descriptors"] == "user=greedy"), "{printed}");
    assert_eq!(printed["lockouts"].as_array().map(Vec::len), Some(1), "{printed}");
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let (service, _file) = start_with_tokens().await;
    let wrong = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(wrong.path(), format!("{}x\n", TOKENS[0].1)).expect("written");
    let wrong = wrong.path().display().to_string();
    for (arguments, expected) in [
        (&["--once"][..], "Set --token-file"),
        (&["--once", "--token-file", &wrong], "401 Unauthorized"),
        (&["--once", "--token-file", "/no/such/file"], "cannot read the token file /no/such/file"),
        (&["--json"], "--once"),
        (&[], "top needs a terminal"),
    ] {
        let printed = top(&service, arguments).await;
        assert!(!printed.status.success(), "{arguments:?}");
        assert!(text(&printed.stderr).contains(expected), "{arguments:?}: {}", text(&printed.stderr));
    }
    let open = Service::start(&[("shop.yaml", RULES)], &[]).await;
    assert!(top(&open, &["--once"]).await.status.success(), "without authentication none is needed");
}

#[tokio::test]
async fn admin_finds_its_token_in_the_environment_and_takes_flags_after_the_action() {
    let (service, file) = start_with_tokens().await;
    let admin = |variables: Vec<(&'static str, String)>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let reload =
            ["admin", "reload", "--dry-run", "-r", "a test", "--idempotency-key", "one", "--address"];
        command.env_clear().envs(variables).args(reload).arg(format!("127.0.0.1:{}", service.admin));
        async {
            tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends")
        }
    };
    let path = file.path().display().to_string();
    let token = |index: usize| ("TOLLGATE_ADMIN_TOKEN", TOKENS[index].1.to_owned());
    let file = || ("ADMIN_TOKEN_FILE", path.clone());
    for (variables, is_allowed) in
        [(vec![file()], true), (vec![token(2)], true), (vec![token(0), file()], false), (vec![], false)]
    {
        let printed = admin(variables.clone()).await;
        assert_eq!(printed.status.success(), is_allowed, "{variables:?}: {}", text(&printed.stderr));
    }
}

#[tokio::test]
async fn admin_names_clients_with_commas_and_finds_lockouts() {
    let (service, file) = start_with_tokens().await;
    let path = file.path().display().to_string();
    let admin = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let address = format!("127.0.0.1:{}", service.admin);
        command.env_clear().arg("admin").args(arguments).args(["--address", &address, "--token-file", &path]);
        let printed =
            tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends");
        assert!(printed.status.success(), "{arguments:?}: {}", text(&printed.stderr));
        text(&printed.stdout)
    };
    let client = "Mozilla/5.0 (KHTML, like=Gecko)";
    for _ in 0..3 {
        ask(&service, "user", client).await;
        ask(&service, "account", "acme").await;
        ask(&service, "account", "other").await;
    }
    let descriptor = format!(r#"[{{"key": "user", "value": "{client}"}}]"#);
    let key = ["-d", "shop", &*descriptor];
    let levels = admin(&[&["key"], &key[..]].concat()).await;
    assert!(levels.contains(client), "{levels}");
    let explained = admin(&[&["explain"], &key[..]].concat()).await;
    assert!(explained.contains("one more hit: denied"), "{explained}");
    let block = ["--block", "--ttl", "1h", "-r", "a test"];
    admin(&[&["overrides", "set"], &key[..], &block].concat()).await;
    let listed = admin(&["overrides", "list"]).await;
    assert!(listed.contains(client), "{listed}");
    let found = admin(&["lockouts", "--match", "account=ac"]).await;
    assert!(found.contains("account=acme") && !found.contains("account=other"), "{found}");
}

/// Requests of `tollgate top` to a service that answers with nothing, and `/summary` only with a permit.
#[derive(Clone)]
struct Asked {
    paths: Arc<Mutex<Vec<String>>>,
    permits: Arc<Semaphore>,
}

impl Asked {
    /// The service, with one permit, and its address.
    async fn serve() -> (Self, String) {
        let asked = Self { paths: Arc::default(), permits: Arc::new(Semaphore::new(1)) };
        let state = asked.clone();
        let answer = move |uri: Uri| {
            let Self { paths, permits } = state.clone();
            async move {
                paths.lock().expect("no panic").push(uri.to_string());
                if uri.path().ends_with("/summary") {
                    permits.acquire().await.expect("it is open").forget();
                }
                ([(CONTENT_TYPE, "application/json")], "{}")
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
        (asked, address)
    }

    /// Orders of the keys that were asked for, one of each fetch.
    fn orders(&self) -> Vec<String> {
        let paths = self.paths.lock().expect("no panic");
        let order = |path: &String| Some(path.split_once("/top?by=")?.1.split('&').next()?.to_owned());
        paths.iter().filter_map(order).collect()
    }
}

#[tokio::test]
async fn keys_that_are_pressed_during_a_fetch_cause_one_more() {
    let (asked, address) = Asked::serve().await;
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    // No other process has an end, so that the program ends with the terminal if the test fails.
    for end in [&master, &slave] {
        fcntl_setfd(end, FdFlags::CLOEXEC).expect("an open one");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().args(["top", "--interval", "60", "--address", &address]);
    command.stdin(slave.try_clone().expect("the same end")).stdout(slave);
    let mut top = command.stderr(Stdio::null()).spawn().expect("it runs");
    let mut keyboard = File::from(master);
    let mut output = keyboard.try_clone().expect("the same terminal");
    let screen = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::clone(&screen);
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok(length @ 1..) = output.read(&mut bytes) {
            shown.lock().expect("no panic").extend_from_slice(&bytes[..length]);
        }
    });
    let shows = async |expected: &str| text(&screen.lock().expect("no panic")).contains(expected);
    eventually("the screen is there", async || shows("live").await).await;
    // Each `>` changes the order of the keys; the filter is shown once they have been taken.
    keyboard.write_all(&[&[b'>'; 50][..], b"/zzz"].concat()).expect("they are typed");
    eventually("all keys have been taken", async || shows("filter: zzz_").await).await;
    eventually("a fetch is held", async || asked.orders().len() == 2).await;
    asked.permits.add_permits(100);
    eventually("the last order is fetched", async || asked.orders().last().is_some_and(|by| by == "use"))
        .await;
    keyboard.write_all(b"y").expect("it is typed");
    eventually("the next key has been taken", async || shows("filter: zzzy_").await).await;
    assert_eq!(asked.orders(), ["denied", "hits", "use"]);
    keyboard.write_all(b"\x03").expect("Ctrl-C is typed");
    let ended = tokio::task::spawn_blocking(move || top.wait()).await.expect("no panic").expect("it ends");
    assert!(ended.success(), "{ended}");
}
