//! The program as people run it.

use std::process::{Command, Output};

/// Runs the program with `args` and nothing but `variables` in its environment.
fn tollgate(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().envs(variables.iter().copied()).args(args).output().expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_wrong_setting_is_told_by_name_before_anything_is_done() {
    let output = tollgate(
        &["serve", "--near-limit-ratio", "2"],
        &[("GRPC_PORT", "70000"), ("PORT", ""), ("REDIS_TLS", "true"), ("NEAR_LIMIT_RATIO", "0.5")],
    );
    assert_eq!(output.status.code(), Some(2));
    let expected = "\
error: the settings cannot be used:
  GRPC_PORT (--grpc-port): expected a number from 0 to 65535, found \"70000\"
  NEAR_LIMIT_RATIO (--near-limit-ratio): expected a number from 0 to 1, found \"2\"
  REDIS_TLS: expected false: Redis is not spoken to over TLS yet, found \"true\"
";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn no_secret_is_told_in_help_or_complaints() {
    let secrets = [("REDIS_AUTH", "hunter2"), ("REDIS_URL", "redis://user:hunter2@nowhere:x")];
    for args in [&["--help"][..], &["serve", "--help"], &["serve"], &["serve", "--no-such-flag"]] {
        let output = tollgate(args, &secrets);
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert!(!told.contains("hunter2"), "{args:?}: {told}");
    }
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
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
fn a_service_that_is_not_there_is_explained() {
    let output = tollgate(&["query", "-d", "shop", "user=a", "--address", "127.0.0.1:1"], &[]);
    let told = stderr(&output);
    for part in ["127.0.0.1:1", "Connection refused", "--address"] {
        assert!(told.contains(part), "{told}");
    }
}
