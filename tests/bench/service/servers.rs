//! The servers: the ceiling, the program and Redis, each on free ports of 127.0.0.1, and ended with the
//! value that stands for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::proc;
use crate::support::ports::free_ports;
use crate::support::process::{POLL, Process};

/// 100,000 rules are compiled before a service is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// A port that looked free may be somebody else's a moment later.
const TRIES: usize = 5;

/// Commands of the measurement that Redis' figures are compared with.
const INCRBYS: u32 = 500_000;

/// A service that speaks Envoy's protocol.
pub(crate) struct Service {
    process: Process,
    /// Address for gRPC.
    pub(crate) address: String,
    /// Its port for HTTP, and the one for debugging; the ceiling has none.
    ports: Option<(u16, u16)>,
    dir: TempDir,
}

/// Settings of a service that most cases leave alone.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup<'a> {
    /// The Redis that counts; without one, its memory does.
    pub(crate) redis: Option<&'a Redis>,
    /// Further arguments of `tollgate serve`.
    pub(crate) args: &'a [&'a str],
}

/// A Redis that keeps nothing on disk.
pub(crate) struct Redis {
    process: Process,
    /// Address of the server.
    pub(crate) address: String,
    _dir: TempDir,
}

/// Starts something until it listens at `address`.
async fn start(name: &'static str, launch: impl Fn(&Path) -> (Command, u16)) -> (Process, u16, TempDir) {
    let mut printed = String::new();
    for _ in 0..TRIES {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut command, port) = launch(dir.path());
        let mut process = Process::start(name, &mut command, dir.path());
        let deadline = Instant::now() + PATIENCE;
        while !process.has_ended() {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return (process, port, dir);
            }
            assert!(Instant::now() < deadline, "{name} does not listen");
            sleep(POLL).await;
        }
        printed = process.output();
    }
    panic!("{name} ends as soon as it is started: {printed}")
}

impl Service {
    /// The ceiling.
    pub(crate) async fn ceiling() -> Self {
        let launch = |_: &Path| {
            let [port] = free_ports();
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.env_clear().args(["--ceiling", &port.to_string()]);
            (command, port)
        };
        let (process, port, dir) = start("ceiling", launch).await;
        Self { process, address: format!("127.0.0.1:{port}"), ports: None, dir }
    }

    /// The program under `rules`.
    pub(crate) async fn tollgate(program: &Path, rules: &str, setup: Setup<'_>) -> Self {
        let mut service = Self::launch(program, rules, setup).await;
        let deadline = Instant::now() + PATIENCE;
        while service.get("/healthcheck").await.is_none() {
            assert!(
                !service.process.has_ended() && Instant::now() < deadline,
                "tollgate is not healthy: {}",
                service.process.output()
            );
            sleep(POLL).await;
        }
        service
    }

    /// envoyproxy/ratelimit under `rules`, counting in `redis`, with its default settings.
    pub(crate) async fn ratelimit(program: &Path, rules: &str, redis: &Redis) -> Self {
        let launch = |dir: &Path| {
            let [grpc, http, debug] = free_ports();
            let config = dir.join("ratelimit/config");
            fs::create_dir_all(&config).expect("a folder");
            fs::write(config.join("rules.yaml"), rules).expect("a file");
            let mut command = Command::new(program);
            command.env_clear().current_dir(dir).env("RUNTIME_ROOT", dir).env("REDIS_URL", &redis.address);
            command.envs([
                ("RUNTIME_SUBDIRECTORY", "ratelimit"),
                ("RUNTIME_WATCH_ROOT", "false"),
                ("USE_STATSD", "false"),
                ("LOG_LEVEL", "error"),
                ("REDIS_SOCKET_TYPE", "tcp"),
                ("HOST", "127.0.0.1"),
                ("GRPC_HOST", "127.0.0.1"),
                ("DEBUG_HOST", "127.0.0.1"),
            ]);
            for (name, port) in [("GRPC_PORT", grpc), ("PORT", http), ("DEBUG_PORT", debug)] {
                command.env(name, port.to_string());
            }
            (command, grpc)
        };
        let (process, port, dir) = start("ratelimit", launch).await;
        Self { process, address: format!("127.0.0.1:{port}"), ports: None, dir }
    }

    /// Rule file of a tollgate, which watches it.
    pub(crate) fn rules(&self) -> RuleFile {
        RuleFile(self.dir.path().join("rules.yaml"))
    }

    async fn launch(program: &Path, rules: &str, setup: Setup<'_>) -> Self {
        let ports = std::cell::Cell::new([0; 3]);
        let launch = |dir: &Path| {
            ports.set(free_ports());
            let [grpc, http, debug] = ports.get();
            fs::write(dir.join("rules.yaml"), rules).expect("a file");
            let mut command = Command::new(program);
            command.env_clear().current_dir(dir).args(["serve", "--rules", "rules.yaml"]);
            // Everything else is the default. The admin listener, which observes every decision, has a free port.
            command.args(["--admin-port", "0"]);
            command.args(["--host", "127.0.0.1", "--grpc-host", "127.0.0.1", "--debug-host", "127.0.0.1"]);
            for (flag, port) in [("--grpc-port", grpc), ("--port", http), ("--debug-port", debug)] {
                command.args([flag, &port.to_string()]);
            }
            command.args(setup.args);
            match setup.redis {
                Some(redis) => command.args(["--redis-url", &redis.address]),
                None => command.args(["--memory-max-counters", "4000000"]),
            };
            (command, grpc)
        };
        let (process, grpc, dir) = start("tollgate", launch).await;
        let [_, http, debug] = ports.get();
        Self { process, address: format!("127.0.0.1:{grpc}"), ports: Some((http, debug)), dir }
    }

    async fn get(&self, path: &str) -> Option<String> {
        let (http, debug) = self.ports?;
        let port = if path == "/healthcheck" { http } else { debug };
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    /// Number of counters in memory.
    pub(crate) async fn counters(&self) -> u32 {
        let metrics = self.get("/metrics").await.expect("it serves metrics");
        let gauge = metrics.lines().find_map(|line| line.strip_prefix("tollgate_memory_counters "));
        gauge.and_then(|number| number.parse().ok()).expect("it counts its counters")
    }

    /// Its CPU time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        proc::cpu_seconds(self.process.id())
    }

    /// Its memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> f64 {
        proc::resident_bytes(self.process.id())
    }
}

/// Rule file of a service, which watches it.
pub(crate) struct RuleFile(PathBuf);

impl RuleFile {
    /// Replaces it, as editors do.
    pub(crate) fn replace(&self, rules: &str) {
        let next = self.0.with_extension("next");
        fs::write(&next, rules).expect("a file");
        fs::rename(next, &self.0).expect("it replaces the other");
    }
}

impl Redis {
    /// A fresh one.
    pub(crate) async fn start() -> Self {
        let launch = |dir: &Path| {
            let [port] = free_ports();
            let mut command = Command::new("redis-server");
            command.current_dir(dir).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            (command, port)
        };
        let (process, port, dir) = start("redis-server", launch).await;
        Self { process, address: format!("127.0.0.1:{port}"), _dir: dir }
    }

    /// Its CPU time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        proc::cpu_seconds(self.process.id())
    }

    fn port(&self) -> &str {
        self.address.rsplit_once(':').expect("an address with a port").1
    }

    /// Commands that it has carried out so far, those of scripts included.
    pub(crate) fn commands(&self) -> f64 {
        let output = Command::new("redis-cli").args(["-p", self.port(), "INFO", "stats"]).output();
        let stats = String::from_utf8(output.expect("redis-cli runs").stdout).expect("text");
        let count = stats.lines().find_map(|line| line.trim().strip_prefix("total_commands_processed:"));
        count.and_then(|count| count.parse().ok()).expect("it counts commands")
    }

    /// CPU time for one `INCRBY` in batches of 16 on 100,000 keys, in microseconds.
    pub(crate) fn incrby_us(&self) -> f64 {
        let before = self.cpu_seconds();
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", self.port(), "-q", "-P", "16", "-r", "100000", "-n", &INCRBYS.to_string()]);
        let output = command.args(["INCRBY", "incrby:__rand_int__", "1"]).output();
        assert!(output.expect("redis-benchmark runs").status.success(), "redis-benchmark fails");
        1e6 * (self.cpu_seconds() - before) / f64::from(INCRBYS)
    }
}
