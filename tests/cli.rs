//! The program as people run it.

use std::process::{Command, Output};

use crate::support::ports::free_ports;
use crate::support::process::Process;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

/// Runs the program with `args` and nothing but `variables` in its environment.
fn tollgate(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().envs(variables.iter().copied()).args(args).output().expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_wrong_setting_is_reported_by_name_before_the_start() {
    let output = tollgate(
        &["serve", "--near-limit-ratio", "2"],
        &[("GRPC_PORT", "70000"), ("PORT", ""), ("GRPC_SERVER_USE_TLS", "true"), ("NEAR_LIMIT_RATIO", "0.5")],
    );
    assert_eq!(output.status.code(), Some(2));
    let expected = "\
error: invalid settings:
  GRPC_PORT (--grpc-port): expected a number from 0 to 65535, found \"70000\"
  GRPC_SERVER_TLS_CERT (--grpc-server-tls-cert): expected the file of the certificate, since GRPC_SERVER_USE_TLS is true
  GRPC_SERVER_TLS_KEY (--grpc-server-tls-key): expected the file of the certificate's private key, since GRPC_SERVER_USE_TLS is true
  NEAR_LIMIT_RATIO (--near-limit-ratio): expected a number from 0 to 1, found \"2\"
";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn help_and_errors_contain_no_secret() {
    let secrets = [("REDIS_AUTH", "hunter2"), ("REDIS_URL", "redis://user:hunter2@nowhere:x")];
    for args in [&["--help"][..], &["serve", "--help"], &["serve"], &["serve", "--no-such-flag"]] {
        let output = tollgate(args, &secrets);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert!(!shown.contains("hunter2"), "{args:?}: {shown}");
    }
}

#[test]
fn wrong_usage_and_failure_have_different_exit_codes() {
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["srve"], 2),
        (&["serve", "--no-such-flag"], 2),
        (&["query", "-d", "shop", "user"], 2),
        (&["query", "-d", "shop", "user=a", "--address", "not an address"], 2),
        (&["query", "-d", "shop", "user=a", "--address", "127.0.0.1:1"], 1),
    ] {
        let output = tollgate(args, &[]);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn the_version_names_the_build() {
    let output = tollgate(&["--version"], &[]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = printed.lines();
    assert_eq!(lines.next(), Some(concat!("tollgate ", env!("CARGO_PKG_VERSION"))), "{printed}");
    let build = lines.next().expect("the build");
    for named in ["profile ", "target ", std::env::consts::ARCH, std::env::consts::OS] {
        assert!(build.contains(named), "{named}: {printed}");
    }
    let short = tollgate(&["-V"], &[]);
    assert!(printed.starts_with(String::from_utf8_lossy(&short.stdout).trim_end()), "{printed}");
}

/// envoyproxy/ratelimit reads no arguments, and Envoy AI Gateway passes one that it does not know.
#[tokio::test]
async fn as_ratelimit_it_serves_whatever_the_arguments() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = dir.path().join("ratelimit");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tollgate"), &program).expect("a link");
    let [http, grpc, debug] = free_ports();
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir.path()).args([
        "--quotaRateLimitServiceAddr=hunter2:1",
        "serve",
        "-x",
    ]);
    for (name, value) in [("PORT", http), ("GRPC_PORT", grpc), ("DEBUG_PORT", debug)] {
        command.env(name, value.to_string());
    }
    let mut process = Process::start("ratelimit", &mut command, dir.path());
    let url = format!("http://127.0.0.1:{http}/healthcheck");
    eventually("it serves", async || reqwest::get(&url).await.is_ok()).await;
    process.signal("TERM");
    assert_eq!(process.exit_code(PATIENCE).await, Some(0));
    let printed = process.output();
    for argument in ["--quotaRateLimitServiceAddr", "serve", "-x"] {
        let line = printed.lines().find(|line| line.contains(&format!("argument=\"{argument}\"")));
        assert!(line.is_some_and(|line| line.contains("unknown argument ignored")), "{argument}: {printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_service_that_is_not_there_is_explained() {
    let output = tollgate(&["query", "-d", "shop", "user=a", "--address", "127.0.0.1:1"], &[]);
    let shown = stderr(&output);
    for part in ["127.0.0.1:1", "Connection refused", "--address"] {
        assert!(shown.contains(part), "{shown}");
    }
}

const RULES: &str = "\
domain: shop
descriptors:
  - key: user
    rate_limit: {name: per-user, unit: day, requests_per_unit: 2}
  - key: user
    value: admin
    rate_limit: {unlimited: true}
";

/// Writes rule files into a directory of their own.
fn rule_files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    dir
}

#[test]
fn check_says_how_many_rules_are_good() {
    let (one, other) = (("a.yaml", RULES), ("b.yaml", "domain: bank\ndescriptors: [{key: k}]\n"));
    let dir = rule_files(&[one, other]);
    let output = tollgate(&["check", &dir.path().display().to_string()], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK: 2 rules in 2 domains\n");
}

#[test]
fn check_reports_every_error_in_every_file_with_its_position() {
    let dir = rule_files(&[
        ("a.yaml", "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: {unit: fortnight}\n"),
        ("b.yaml", "domain: bank\ndescriptors:\n  - kye: user\n"),
    ]);
    let path = dir.path().display().to_string();
    let output = tollgate(&["check", &path, "/no/such/file"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output);
    for part in [
        &format!("{path}/a.yaml:4:"),
        "     4 |     rate_limit: {unit: fortnight}\n",
        &format!("{path}/b.yaml:3:"),
        "     3 |   - kye: user\n",
        "/no/such/file: cannot be read",
        "error: found ",
    ] {
        assert!(shown.contains(part), "{part}\nin\n{shown}");
    }
}

#[test]
fn check_reads_stdin_and_reports_as_json() {
    use std::io::Write as _;
    let check = |args: &[&str], text: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.env_clear().arg("check").args(args);
        let piped = std::process::Stdio::piped;
        let mut process =
            command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().expect("the program runs");
        process.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("it reads");
        process.wait_with_output().expect("it ends")
    };
    let json = |output: &Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).expect("JSON on stdout")
    };
    let good = check(&["-"], RULES);
    assert_eq!(String::from_utf8_lossy(&good.stdout), "OK: 2 rules in 1 domain\n");

    let wrong = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: 5/fortnight\n";
    let output = check(&["--json", "-"], wrong);
    let report = json(&output);
    assert_eq!(
        (output.status.code(), &report["ok"], stderr(&output)),
        (Some(1), &false.into(), String::new())
    );
    let error = &report["errors"][0];
    assert_eq!(
        (&error["file"], &error["line"], &error["column"]),
        (&"<stdin>".into(), &4.into(), &17.into())
    );
    assert!(error["message"].as_str().is_some_and(|message| message.contains("fortnight")), "{report}");

    let monthly = "domain: shop\ndescriptors:\n  - {key: user, rate_limit: {unit: month}}\n";
    let report = json(&check(&["--json", "-"], monthly));
    assert_eq!((&report["ok"], &report["rules"], &report["domains"]), (&true.into(), &1.into(), &1.into()));
    assert!(report["warnings"][0]["message"].to_string().contains("no requests_per_unit"), "{report}");
    assert!(report["notes"][0]["message"].to_string().contains("30 days"), "{report}");
    assert!(
        stderr(&check(&["-"], monthly)).contains("note: <stdin>:3:5: the month of 'shop.user' is 30 days")
    );
}

#[test]
fn check_joins_domains_where_serve_would() {
    let dir = rule_files(&[("a.yaml", RULES), ("b.yaml", "domain: shop\ndescriptors: [{key: k}]\n")]);
    let path = dir.path().display().to_string();
    for (args, variables, code) in [
        (&["check", &path][..], &[][..], 1),
        (&["check", &path], &[("MERGE_DOMAIN_CONFIG", "true")], 0),
        (&["check", &path], &[("MERGE_DOMAIN_CONFIG", "")], 1),
        (&["check", "--merge-domains", "--", &path], &[], 0),
        (&["check", "--merge-domain-config=false", &path], &[("MERGE_DOMAIN_CONFIG", "true")], 1),
    ] {
        let output = tollgate(args, variables);
        assert_eq!(output.status.code(), Some(code), "{args:?} {variables:?}: {}", stderr(&output));
    }
}

#[tokio::test]
async fn query_shows_the_answer_and_ends_as_it_is() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let address = format!("127.0.0.1:{}", service.grpc);
    let query = |args: &[&str]| {
        let output = tollgate(&[&["query", "-d", "shop", "--address", &address], args].concat(), &[]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (args, code, first_line, of_alice) in [
        (&["--hits", "0", "user=alice"][..], 0, "OK", "user=alice  OK    per-user  2 per day  2  "),
        (&["user=alice"], 0, "OK", "user=alice  OK    per-user  2 per day  1  "),
        (&["user=alice"], 0, "OK", "user=alice  OK    per-user  2 per day  0  "),
        (&["user=alice"], 3, "OVER_LIMIT", "user=alice  OVER_LIMIT  per-user  2 per day  0  "),
        (&["user=admin"], 0, "OK", "user=admin  OK  shop.user_admin  unlimited  -  "),
        (&["user=bob,path=/"], 0, "OK", "user=bob,path=/  OK    -      -  "),
    ] {
        let (ended, shown) = query(args);
        assert_eq!((ended, shown.lines().next()), (Some(code), Some(first_line)), "{args:?}: {shown}");
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeeze(&shown).contains(&squeeze(of_alice)), "{args:?}: {shown}");
    }
    let (ended, shown) = query(&["--json", "user=alice", "user=admin"]);
    let json: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((ended, &json["overallCode"]), (Some(3), &"OVER_LIMIT".into()), "{shown}");
    assert_eq!(json["statuses"][0]["currentLimit"]["unit"], "DAY");
    assert_eq!(json["statuses"][1]["limitRemaining"], u32::MAX);
}

#[tokio::test]
async fn a_rejected_request_is_explained() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let address = format!("127.0.0.1:{}", service.grpc);
    let output = tollgate(&["query", "-d", "", "user=a", "--address", &address], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the service rejected the request: "), "{}", stderr(&output));
    let http = format!("127.0.0.1:{}", service.http);
    let output = tollgate(&["query", "-d", "shop", "user=a", "--address", &http], &[]);
    assert_eq!(output.status.code(), Some(1), "HTTP is no gRPC");
}

#[tokio::test]
async fn serve_prints_its_addresses_and_a_first_request_at_every_log_level() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("LOG_LEVEL", "error")]).await;
    let shown = service.process.output_with("curl ").await;
    for part in [
        format!("gRPC      127.0.0.1:{}\n", service.grpc),
        format!("HTTP      127.0.0.1:{}\n", service.http),
        format!("debug     127.0.0.1:{}\n", service.debug),
        "2 in 1 domain,".to_owned(),
        format!("{} query --address 127.0.0.1:{} -d shop ", env!("CARGO_BIN_EXE_tollgate"), service.grpc),
        format!("curl http://127.0.0.1:{}/json -d '", service.http),
    ] {
        assert!(shown.contains(&part), "{part}\nin\n{shown}");
    }
}

#[tokio::test]
async fn a_port_in_use_ends_the_program_with_its_name() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let taken = service.grpc.to_string();
    let output = tollgate(
        &["--grpc-port", &taken, "--grpc-host", "127.0.0.1", "--port", "0", "--debug-port", "0"],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("127.0.0.1:{taken}")), "{}", stderr(&output));
}

#[tokio::test]
async fn a_log_line_is_text_or_json_and_as_grave_as_asked() {
    let ignored = ("RUNTIME_IGNOREDOTFILES", "false");
    for (format, line) in [("text", "WARN tollgate::cli::serve: setting has no effect"), ("json", "{")] {
        let environment = [("LOG_FORMAT", format), ("LOG_LEVEL", "warning"), ignored];
        let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
        let shown = service.process.output_with("setting has no effect").await;
        let logged = shown.lines().find(|shown| shown.contains("setting has no effect")).expect("a warning");
        assert!(logged.contains(line) && logged.contains("RUNTIME_IGNOREDOTFILES"), "{logged}");
        if format == "json" {
            let logged: serde_json::Value = serde_json::from_str(logged).expect("JSON");
            assert_eq!(
                (&logged["level"], &logged["name"]),
                (&"WARN".into(), &"RUNTIME_IGNOREDOTFILES".into())
            );
        }
        assert!(!shown.contains("INFO"), "{shown}");
    }
}
