//! A real Redis for a test: started on its own port or socket, stopped by its own process id.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;
use tokio::time::{self, Instant};
use tollgate::store::redis::{Credentials, Deployment, Endpoint, Login, RedisSettings};

const INSTALL: &str = "tests need Debian's redis-server and redis-cli: apt-get install redis-server";
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// A Redis server. It ends with this value.
pub(crate) struct Redis {
    endpoint: Endpoint,
    user: Option<User>,
    /// Configuration and socket.
    dir: TempDir,
    process: Option<Child>,
}

/// The only one that Redis lets in.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
}

impl Redis {
    /// A server on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A server on a free port that lets in nobody but `user`.
    pub(crate) async fn start_for(user: User) -> Self {
        Self::start_with(Some(user)).await
    }

    /// A server on a unix socket.
    pub(crate) async fn start_on_unix_socket() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut redis = Self::new(Endpoint::Unix(dir.path().join("redis.sock")), dir, None);
        assert!(redis.launch().await, "redis-server does not come up on a unix socket");
        redis
    }

    /// A free port that nothing listens on until [`Redis::restart`].
    pub(crate) fn absent() -> Self {
        Self::new(free_port(), tempfile::tempdir().expect("a temporary directory"), None)
    }

    async fn start_with(user: Option<User>) -> Self {
        // A port that was free may be taken by the time Redis asks for it.
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut redis = Self::new(free_port(), dir, user);
            if redis.launch().await {
                return redis;
            }
        }
        panic!("redis-server finds no port");
    }

    const fn new(endpoint: Endpoint, dir: TempDir, user: Option<User>) -> Self {
        Self { endpoint, user, dir, process: None }
    }

    /// How to connect to it, with times that suit a machine under load.
    pub(crate) fn settings(&self) -> RedisSettings {
        RedisSettings {
            deployment: Deployment::Single(self.endpoint.clone()),
            credentials: Credentials {
                server: self.user.map_or(Login::Open, |user| Login::Password {
                    username: Some(user.name.to_owned()),
                    password: SecretString::from(user.password),
                }),
                sentinel: Login::Open,
            },
            database: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(5),
            expiration_jitter_max_secs: 0,
        }
    }

    /// Ends the process at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own process");
            process.wait().expect("our own process");
        }
    }

    /// Starts it, again or for the first time, where it was.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.launch().await {
            assert!(Instant::now() < deadline, "redis-server does not come back");
            time::sleep(POLL).await;
        }
    }

    /// Lets it hang: connections stay, answers do not come.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Runs one command in `redis-cli` and returns what that prints.
    pub(crate) fn command<A: AsRef<[u8]>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let mut cli = Command::new("redis-cli");
        match &self.endpoint {
            Endpoint::Tcp { host, port } => cli.args(["-h", host, "-p", &port.to_string()]),
            Endpoint::Unix(path) => cli.arg("-s").arg(path),
        };
        if let Some(user) = self.user {
            cli.args(["--user", user.name, "--pass", user.password, "--no-auth-warning"]);
        }
        for argument in arguments {
            cli.arg(OsStr::from_bytes(argument.as_ref()));
        }
        let output = cli.output().expect(INSTALL);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.command(["DBSIZE"]).parse().expect("a number")
    }

    /// Every key and its time to live in seconds, ordered; -1 for one that lives for ever.
    pub(crate) fn times_to_live(&self) -> Vec<(String, i64)> {
        let script = "local r = {} for _, k in ipairs(redis.call('KEYS', '*')) do
            r[#r + 1] = k r[#r + 1] = tostring(redis.call('TTL', k)) end return r";
        let output = self.command(["EVAL", script, "0"]);
        let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
        let pairs = lines.chunks_exact(2);
        let mut keys: Vec<_> = pairs.map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap())).collect();
        keys.sort();
        keys
    }

    /// Whether the process could be started and answers.
    async fn launch(&mut self) -> bool {
        let mut server = Command::new("redis-server");
        server.arg(self.write_config());
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = server.spawn().expect(INSTALL);
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

    fn write_config(&self) -> PathBuf {
        let dir = self.dir.path();
        let mut config = format!("dir {}\nsave \"\"\nappendonly no\n", dir.display());
        config += &match &self.endpoint {
            Endpoint::Tcp { host, port } => format!("bind {host}\nport {port}\n"),
            Endpoint::Unix(path) => format!("port 0\nunixsocket {}\n", path.display()),
        };
        if let Some(User { name, password }) = self.user {
            config += &format!("user default off\nuser {name} on \">{password}\" ~* &* +@all\n");
        }
        let path = dir.join("redis.conf");
        fs::write(&path, config).expect("a file in the temporary directory");
        path
    }

    fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("a running server");
        let kill = format!("kill -{name} {}", process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    Endpoint::Tcp { host: "127.0.0.1".to_owned(), port }
}
