//! Real Redis servers for a test: one alone, a Cluster, or a primary that Sentinels watch.

pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod scripted;
pub(crate) mod sentinel;
mod server;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tollgate::store::redis::{Credentials, Deployment, Endpoint, Login, RedisSettings};

use self::certificates::Certificates;
use self::server::{Program, Server, Setup};
use super::ports::free_ports;

/// A Redis server. It ends when dropped.
pub(crate) struct Redis {
    server: Server,
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
        Self::start_with(&Setup::new(Program::Redis)).await
    }

    /// A Valkey server on a free port of 127.0.0.1.
    pub(crate) async fn start_valkey() -> Self {
        Self::start_with(&Setup::new(Program::Valkey)).await
    }

    /// A server on a free port that accepts only `user`.
    pub(crate) async fn start_for(user: User) -> Self {
        Self::start_with(&for_user(user)).await
    }

    /// A server on a free port that speaks nothing but TLS and lets in nobody but `user`, who must show a
    /// certificate. Its own is for `localhost` alone.
    pub(crate) async fn start_with_tls(user: User) -> Self {
        let certificates = Some(Arc::new(Certificates::new()));
        Self::start_with(&Setup { certificates, ..for_user(user) }).await
    }

    /// A server on a unix socket.
    pub(crate) async fn start_on_unix_socket() -> Self {
        Self { server: Server::start_on_unix_socket(Setup::new(Program::Redis)).await }
    }

    /// A free port that nothing listens on until [`Redis::restart`].
    pub(crate) fn absent() -> Self {
        Self { server: Server::absent(free_port(), Setup::new(Program::Redis)) }
    }

    async fn start_with(setup: &Setup) -> Self {
        Self { server: Server::start(free_port, setup).await }
    }

    /// Settings to connect to it, with timeouts for a machine under load.
    pub(crate) fn settings(&self) -> RedisSettings {
        let server = login(self.server.user());
        let credentials = Credentials { server, sentinel: Login::Open };
        let tls = self.server.certificates().map(Certificates::settings);
        // By the name in its certificate, where it has one.
        let deployment = match tls {
            Some(_) => self.reached_by("localhost"),
            None => Deployment::Single(self.server.endpoint().clone()),
        };
        RedisSettings { tls, ..settings(deployment, credentials) }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// Its port by another name or address of this machine.
    pub(crate) fn reached_by(&self, host: &str) -> Deployment {
        Deployment::Single(Endpoint::Tcp { host: host.to_owned(), port: self.server.port() })
    }

    /// Certificates of both sides, with TLS.
    pub(crate) fn certificates(&self) -> &Certificates {
        self.server.certificates().expect("a server with TLS")
    }

    /// Ends the process at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it, again or for the first time, where it was.
    pub(crate) async fn restart(&mut self) {
        self.server.restart().await;
    }

    /// Lets it hang: connections stay, answers do not come.
    pub(crate) fn pause(&self) {
        self.server.pause();
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.server.resume();
    }

    /// Runs one command in `redis-cli` and returns what that prints.
    pub(crate) fn command<A: AsRef<[u8]>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        self.server.command(arguments)
    }

    /// Number of keys of counters and lockouts: all but the list of replicas.
    pub(crate) fn len(&self) -> usize {
        // In one command: the fleet may be written between two.
        let script = "return redis.call('DBSIZE') - redis.call('EXISTS', 'tgf1/fleet')";
        self.command(["EVAL", script, "0"]).parse().expect("a number")
    }

    /// Number of successful calls of this command.
    pub(crate) fn executed(&self, command: &str) -> u64 {
        let [calls, failed] = self.stats_of(command, ["calls", "failed_calls"]);
        calls - failed
    }

    /// Time that this command has taken in all, in microseconds.
    pub(crate) fn micros_in(&self, command: &str) -> u64 {
        let [micros] = self.stats_of(command, ["usec"]);
        micros
    }

    /// Number of calls of all commands but `INFO`, those of scripts among them.
    pub(crate) fn commands(&self) -> u64 {
        let stats = self.command(["INFO", "commandstats"]);
        let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
        lines.filter(|(command, _)| *command != "info").map(|(_, fields)| number_in(fields, "calls")).sum()
    }

    fn stats_of<const N: usize>(&self, command: &str, names: [&str; N]) -> [u64; N] {
        let stats = self.command(["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
        names.map(|name| number_in(line.unwrap_or_default(), name))
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
}

/// Settings to connect to `deployment`, with timeouts for a machine under load.
fn settings(deployment: Deployment, credentials: Credentials) -> RedisSettings {
    RedisSettings {
        deployment,
        credentials,
        database: None,
        tls: None,
        connect_timeout: Duration::from_secs(5),
        call_timeout: Duration::from_secs(5),
        expiration_jitter_max_secs: 0,
    }
}

/// Login of `user`.
fn login(user: Option<User>) -> Login {
    user.map_or(Login::Open, |user| Login::Password {
        username: Some(user.name.to_owned()),
        password: SecretString::from(user.password),
    })
}

fn for_user(user: User) -> Setup {
    let User { name, password } = user;
    let lines = format!("user default off\nuser {name} on \">{password}\" ~* &* +@all\n");
    Setup { user: Some(user), ..Setup::new(Program::Redis).with(&lines) }
}

fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// The number of this name in a line of `INFO commandstats`; 0 without one.
fn number_in(fields: &str, name: &str) -> u64 {
    let mut fields = fields.trim_end().split(',').filter_map(|field| field.split_once('='));
    let value = fields.find(|(field, _)| *field == name);
    value.map_or(0, |(_, value)| value.parse().expect("a number"))
}
