//! A real Envoy that calls tollgate, with the configuration of `deploy/envoy/envoy.yaml` on other ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Response};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::ports::free_ports;
use super::process::{POLL, Process};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a request; longer than Envoy waits for tollgate.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The configuration that the README shows.
pub(crate) const CONFIG: &str = include_str!("../../deploy/envoy/envoy.yaml");

/// Path where `tests/run.sh` installs Envoy.
pub(crate) fn binary() -> PathBuf {
    let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/envoy/bin/envoy");
    assert!(binary.exists(), "tests need a real Envoy at {}: run tests/run.sh", binary.display());
    binary
}

/// A configuration of Envoy.
pub(crate) struct Config {
    text: String,
}

impl Config {
    /// The deployed configuration with the services on these ports, and a timeout for a machine under load.
    pub(crate) fn asking(services: &[u16]) -> Self {
        Self::of(CONFIG, services)
    }

    /// Another configuration of `deploy/` with the services on these ports.
    pub(crate) fn of(config: &str, services: &[u16]) -> Self {
        let endpoint = |port: &u16| {
            format!("- endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}")
        };
        let endpoints: Vec<_> = services.iter().map(endpoint).collect();
        Self { text: config.to_owned() }
            .with(&endpoint(&8081), &endpoints.join("\n        "))
            .with("timeout: 0.1s", "timeout: 5s")
    }

    /// Replaces `old`, which occurs exactly once, by `new`.
    pub(crate) fn with(self, old: &str, new: &str) -> Self {
        assert_eq!(self.text.matches(old).count(), 1, "{old:?} in {}", self.text);
        Self { text: self.text.replace(old, new) }
    }
}

/// A running Envoy. It ends when dropped.
pub(crate) struct Envoy {
    front: u16,
    admin: u16,
    client: Client,
    _process: Process,
    _dir: TempDir,
}

impl Envoy {
    /// Starts Envoy and waits until it accepts requests.
    pub(crate) async fn start(config: &Config) -> Self {
        let mut printed = String::new();
        for _ in 0..5 {
            let [front, upstream, admin] = free_ports();
            let text = config.text.replace("port_value: 10000}", &format!("port_value: {front}}}"));
            let text = text.replace("port_value: 10001}", &format!("port_value: {upstream}}}"));
            let text = text.replace("port_value: 9901}", &format!("port_value: {admin}}}"));
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("envoy.yaml");
            fs::write(&path, text).expect("a file");
            let mut command = Command::new(binary());
            command.args(["--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning"]);
            // Access logs are written at once, not every ten seconds.
            command.args(["--file-flush-interval-msec", "50", "-c"]);
            let mut process = Process::start("envoy", command.arg(&path), dir.path());
            if is_ready_in_time(&mut process, admin).await {
                let client = Client::builder().timeout(ANSWER_TIMEOUT).build().expect("a client");
                return Self { front, admin, client, _process: process, _dir: dir };
            }
            printed = process.output();
        }
        panic!("envoy ends as soon as it is started: {printed}");
    }

    /// Address of the listener for clients.
    pub(crate) fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.front)
    }

    /// Requests `path` as `user`.
    pub(crate) async fn get(&self, path: &str, user: &str) -> Response {
        let name = HeaderName::from_static("x-user");
        let user = HeaderValue::from_str(user).expect("a header value");
        let url = format!("http://127.0.0.1:{}{path}", self.front);
        self.client.get(url).header(name, user).send().await.expect("Envoy answers")
    }

    /// The status of [`Envoy::get`] at `/`.
    pub(crate) async fn status(&self, user: &str) -> u16 {
        self.get("/", user).await.status().as_u16()
    }

    /// One of Envoy's own counters; 0 if Envoy does not have it yet.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let url = format!("http://127.0.0.1:{}/stats?filter=^{name}$", self.admin);
        let text = self.client.get(url).send().await.expect("stats").text().await.expect("text");
        let value = text.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
        value.map_or(0, |value| value.parse().expect("a number"))
    }
}

/// Waits until Envoy is ready; false if the process ends first.
async fn is_ready_in_time(process: &mut Process, admin: u16) -> bool {
    let deadline = Instant::now() + START_TIMEOUT;
    while !process.has_ended() {
        let answer = reqwest::get(format!("http://127.0.0.1:{admin}/ready")).await;
        if answer.is_ok_and(|answer| answer.status() == 200) {
            return true;
        }
        assert!(Instant::now() < deadline, "envoy is not ready: {}", process.output());
        sleep(POLL).await;
    }
    false
}
