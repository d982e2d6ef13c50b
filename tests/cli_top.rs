//! `tollgate top`, printed once.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::admin::{RULES, TOKENS, ask, start_with_tokens};
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
async fn once_prints_who_is_limited_as_text_and_as_json() {
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
