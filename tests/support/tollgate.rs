//! The real program, serving.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::ports::free_ports;
use super::process::{Output, POLL, Process};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A service on free ports of 127.0.0.1, with rules and an environment of its own.
pub(crate) struct Tollgate {
    /// Port for HTTP.
    pub(crate) http: u16,
    /// Port for gRPC.
    pub(crate) grpc: u16,
    /// Port for debugging.
    pub(crate) debug: u16,
    /// Port of the admin API.
    pub(crate) admin: u16,
    /// The process, to be signalled and waited for.
    pub(crate) process: Process,
    /// The rules, in `rules/`.
    dir: TempDir,
}

impl Tollgate {
    /// A service with these rule files and these variables; it is healthy when this returns.
    pub(crate) async fn start(rules: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        Self::start_with_health(200, "", rules, environment).await
    }

    /// A service with rules and variables with which it starts, but does not become healthy.
    pub(crate) async fn start_unhealthy(rules: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        Self::start_with_health(500, "", rules, environment).await
    }

    /// As [`Tollgate::start`], after the shell has run `ulimit`, a line that sets limits for the process.
    pub(crate) async fn start_limited(
        ulimit: &str,
        rules: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start_with_health(200, ulimit, rules, environment).await
    }

    async fn start_with_health(
        health: u16,
        ulimit: &str,
        rules: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut printed = String::new();
        for _ in 0..5 {
            let mut service = Self::launch(ulimit, rules, environment, Output::default());
            if service.has_health_in_time(health).await {
                return service;
            }
            printed = service.process.output();
        }
        panic!("tollgate ends as soon as it is started: {printed}");
    }

    /// A service that has just been started.
    pub(crate) fn spawn(rules: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        Self::launch("", rules, environment, Output::default())
    }

    /// A healthy service that prints elsewhere.
    pub(crate) async fn start_to(to: Output, rules: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        let mut service = Self::launch("", rules, environment, to);
        assert!(service.has_health_in_time(200).await, "it has ended: {}", service.process.output());
        service
    }

    /// Starts the process and does not wait until it is healthy.
    pub(crate) fn launch(
        ulimit: &str,
        rules: &[(&str, &str)],
        environment: &[(&str, &str)],
        to: Output,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in rules {
            write_rule_file(dir.path(), name, text);
        }
        let [http, grpc, debug, admin] = free_ports();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{ulimit}\nexec \"$0\""), env!("CARGO_BIN_EXE_tollgate")]);
        command.env_clear().current_dir(dir.path());
        for host in ["HOST", "GRPC_HOST", "DEBUG_HOST"] {
            command.env(host, "127.0.0.1");
        }
        for (name, port) in
            [("PORT", http), ("GRPC_PORT", grpc), ("DEBUG_PORT", debug), ("ADMIN_PORT", admin)]
        {
            command.env(name, port.to_string());
        }
        command.env("RULES_PATH", dir.path().join("rules")).env("LOG_LEVEL", "info");
        command.envs(environment.iter().copied());
        let process = Process::start_to("tollgate", &mut command, dir.path(), to);
        Self { http, grpc, debug, admin, process, dir }
    }

    /// True once its health check answers so; false if the process ends first.
    async fn has_health_in_time(&mut self, health: u16) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.process.has_ended() {
            let answer = reqwest::get(self.url("/healthcheck")).await;
            if answer.is_ok_and(|answer| answer.status() == health) {
                return true;
            }
            assert!(
                Instant::now() < deadline,
                "tollgate does not answer {health}: {}",
                self.process.output()
            );
            sleep(POLL).await;
        }
        false
    }

    /// A URL of the HTTP port.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    /// A URL of the admin port.
    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin)
    }

    /// A URL of the debug port.
    pub(crate) fn debug_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.debug)
    }

    /// The value of a series in `/metrics`; 0 without it.
    pub(crate) async fn metric(&self, series: &str) -> usize {
        let answer = reqwest::get(self.debug_url("/metrics")).await.expect("an answer");
        let text = answer.text().await.expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().expect("a number"))
    }

    /// Puts a rule file in place, with no moment at which it is half there.
    pub(crate) fn write_rules(&self, name: &str, text: &str) {
        write_rule_file(self.dir.path(), name, text);
    }
}

pub(super) fn write_rule_file(dir: &Path, name: &str, text: &str) {
    let rules = dir.join("rules");
    fs::create_dir_all(&rules).expect("a directory");
    let aside = rules.join(format!(".{name}"));
    fs::write(&aside, text).expect("a file");
    fs::rename(aside, rules.join(name)).expect("renamed");
}
