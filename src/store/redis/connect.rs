//! Connections to Redis: opening, authentication, and checks before the first call.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::config::{
    Config, ConnectionConfig, Options, Server, ServerConfig, TcpConfig, TlsConfig, TlsConnector,
};
use socket2_fred::TcpKeepalive;
use tokio::time;

use super::reply::Reply;
use super::settings::ServerClock;
use super::status::Nodes;
use super::wire::{Command, FredWire, Wire, in_words};
use super::{Endpoint, Login, RedisContext, RedisSettings};
use crate::supervisor::Supervisor;
use crate::tls::{LiveClient, TlsError};

/// Upper bound on the time from a connection that stands to the reply to its first commands.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that acknowledges nothing for this long is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle time after which TCP probes the peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Commands that counting needs, each with arguments that change nothing in any database. Redis checks
/// permissions before it looks at arguments.
const PROBES: [(&str, &[&[u8]]); 24] = [
    ("GET", &[b"GET", PROBE_KEY]),
    ("SET", &[b"SET", PROBE_KEY, b"0", b"EX", b"0"]),
    ("INCRBY", &[b"INCRBY", PROBE_KEY, b"none"]),
    ("HGET", &[b"HGET", PROBE_KEY, b"none"]),
    ("HSET", &[b"HSET", PROBE_KEY, b"none", b"0", b"none"]),
    ("HDEL", &[b"HDEL", PROBE_KEY, b"none"]),
    ("HINCRBY", &[b"HINCRBY", PROBE_KEY, b"none", b"none"]),
    ("EXPIRE", &[b"EXPIRE", PROBE_KEY, b"none"]),
    ("EVALSHA", &[b"EVALSHA", b"0000000000000000000000000000000000000000", b"0"]),
    ("EVAL", &[b"EVAL", b"return 0", b"0"]),
    ("TIME", &[b"TIME"]),
    ("ZADD", &[b"ZADD", PROBE_KEY, b"none", b"0"]),
    ("ZCARD", &[b"ZCARD", PROBE_KEY]),
    ("ZCOUNT", &[b"ZCOUNT", PROBE_KEY, b"none", b"0"]),
    ("ZRANGE", &[b"ZRANGE", PROBE_KEY, b"none", b"0"]),
    ("ZRANGEBYSCORE", &[b"ZRANGEBYSCORE", PROBE_KEY, b"none", b"0"]),
    ("ZREM", &[b"ZREM", PROBE_KEY, b"none"]),
    ("ZSCORE", &[b"ZSCORE", PROBE_KEY, b"none"]),
    ("PEXPIRE", &[b"PEXPIRE", PROBE_KEY, b"none"]),
    ("ZREMRANGEBYRANK", &[b"ZREMRANGEBYRANK", PROBE_KEY, b"none", b"0"]),
    ("ZREMRANGEBYSCORE", &[b"ZREMRANGEBYSCORE", PROBE_KEY, b"none", b"0"]),
    ("TTL", &[b"TTL", PROBE_KEY]),
    ("MGET", &[b"MGET", PROBE_KEY]),
    ("DEL", &[b"DEL", PROBE_KEY]),
];
/// Reports whether the server evicts. A user that may not run it counts all the same.
const MEMORY: &[&[u8]] = &[b"INFO", b"memory"];
/// Never written.
const PROBE_KEY: &[u8] = b"tollgate:permission-probe";

/// Configuration of connections to the servers of one deployment, shared by all cores.
pub(super) struct ConnectConfig {
    pub(super) settings: RedisSettings,
    pub(super) clock: ServerClock,
    pub(super) supervisor: Supervisor,
    /// State of the nodes, as all cores see it.
    pub(super) nodes: Nodes,
    /// Number of times that a server was replaced by another.
    pub(super) generation: AtomicU64,
    tls: Option<LiveClient>,
    #[cfg(test)]
    network: Option<Arc<dyn Network>>,
}

/// A network that exists in memory only.
#[cfg(test)]
pub(super) trait Network: Send + Sync {
    fn connect(
        &self,
        server: &Endpoint,
    ) -> futures_util::future::BoxFuture<'static, Result<Box<dyn Wire>, String>>;
}

impl ConnectConfig {
    /// Reads the files that TLS needs, if it is used, and has them reloaded.
    pub(super) fn new(
        settings: RedisSettings,
        clock: ServerClock,
        context: &RedisContext,
    ) -> Result<Arc<Self>, TlsError> {
        let tls = settings.tls.as_ref().map(|tls| context.certificates.client("redis", tls, &[]));
        let tls = tls.transpose()?;
        Ok(Arc::new(Self {
            settings,
            clock,
            supervisor: context.supervisor.clone(),
            nodes: Nodes::default(),
            generation: AtomicU64::new(0),
            tls,
            #[cfg(test)]
            network: None,
        }))
    }

    /// Servers in memory, for tests.
    #[cfg(test)]
    pub(super) fn in_memory(
        settings: RedisSettings,
        clock: ServerClock,
        network: Arc<dyn Network>,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let supervisor = supervisor.clone();
        Arc::new(Self {
            settings,
            clock,
            supervisor,
            nodes: Nodes::default(),
            generation: AtomicU64::new(0),
            tls: None,
            network: Some(network),
        })
    }
}

impl std::fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// A connection that has greeted.
pub(super) struct Connected {
    pub(super) wire: Box<dyn Wire>,
    /// Commands that its user may not run.
    pub(super) denied: Vec<&'static str>,
    /// True if the server may evict counters.
    pub(super) may_evict: bool,
}

/// Opens a connection to a server that counts.
///
/// # Errors
/// The cause in words.
pub(super) async fn connect(config: &ConnectConfig, server: &Endpoint) -> Result<Connected, String> {
    let settings = &config.settings;
    let mut wire = open(config, server, &settings.credentials.server, settings.database).await?;
    let probes = PROBES.iter().map(|(_, command)| *command).chain([MEMORY]).map(Command::from_slices);
    let replies = ask(&mut *wire, probes).await?;
    let may_evict = replies.last().is_none_or(may_evict);
    let denied = PROBES.iter().zip(&replies).filter(|(_, reply)| is_denied(reply));
    Ok(Connected { denied: denied.map(|((name, _), _)| *name).collect(), may_evict, wire })
}

/// Connects to `server`, sends `commands`, and disconnects. A command that the server rejects does not keep
/// the later ones from running.
///
/// # Errors
/// The cause in words, where the connection could not be made.
pub(super) async fn query<const N: usize>(
    config: &ConnectConfig,
    server: &Endpoint,
    login: &Login,
    commands: [&[&str]; N],
) -> Result<[Result<Reply, String>; N], String> {
    let mut wire = open(config, server, login, None).await?;
    let words = |command: &[&str]| {
        Command::from_slices(&command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    };
    let mut replies = ask(&mut *wire, commands.iter().map(|command| words(command))).await?.into_iter();
    Ok(commands.map(|_| match replies.next() {
        Some(Reply::Error(text)) => Err(text),
        Some(reply) => Ok(reply),
        None => Err("no reply".to_owned()),
    }))
}

/// Connects, logs in and selects the database.
async fn open(
    config: &ConnectConfig,
    server: &Endpoint,
    login: &Login,
    database: Option<u8>,
) -> Result<Box<dyn Wire>, String> {
    #[cfg(test)]
    if let Some(network) = &config.network {
        let connected = time::timeout(config.settings.connect_timeout, network.connect(server));
        return connected.await.unwrap_or_else(|_| Err("connection timed out".to_owned()));
    }
    // A file is read for every connection, so that the password can change while the service runs.
    let (username, password) = login.read().map_err(|error| error.to_string())?;
    let of_fred = Config {
        server: server_config(server),
        username,
        password,
        database,
        tls: config.tls.as_ref().map(tls_config),
        fail_fast: true,
        ..Config::default()
    };
    let client = Client::new(of_fred, None, Some(connection_config(&config.settings)), None);
    // A timeout of its own for each command would cost a timer for each.
    let options = Options {
        timeout: Some(Duration::ZERO),
        fail_fast: true,
        max_attempts: Some(1),
        ..Options::default()
    };
    let wire = FredWire::new(client.with_options(&options), client.connect());
    client.wait_for_connect().await.map_err(|error| match &config.tls {
        Some(tls) => tls.explain(in_words(&error)),
        None => in_words(&error),
    })?;
    Ok(Box::new(wire))
}

/// A connection takes the latest certificates at its handshake.
fn tls_config(tls: &LiveClient) -> TlsConfig {
    TlsConfig::from(TlsConnector::from(tokio_rustls::TlsConnector::from(tls.config())))
}

fn server_config(server: &Endpoint) -> ServerConfig {
    match server {
        Endpoint::Tcp { host, port } => {
            // fred's resolver takes `host:port`.
            let bare_ipv6 = host.contains(':') && !host.starts_with('[');
            let host = if bare_ipv6 { format!("[{host}]") } else { host.clone() };
            ServerConfig::Centralized { server: Server::new(host, *port) }
        }
        Endpoint::Unix(path) => ServerConfig::Unix { path: path.clone() },
    }
}

fn connection_config(settings: &RedisSettings) -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: settings.connect_timeout,
        internal_command_timeout: GREETING_TIMEOUT,
        // An error is the reply of its command; the worker decides when to reconnect.
        reconnect_on_auth_error: false,
        tcp: TcpConfig {
            nodelay: Some(true),
            keepalive: Some(TcpKeepalive::new().with_time(TCP_KEEPALIVE)),
            user_timeout: Some(TCP_USER_TIMEOUT),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    }
}

/// Sends `commands` in one write, and returns their replies.
async fn ask(wire: &mut dyn Wire, commands: impl Iterator<Item = Command>) -> Result<Vec<Reply>, String> {
    let expected = commands.map(|command| wire.send(command)).count();
    let collect = async {
        let mut replies = Vec::with_capacity(expected);
        while replies.len() < expected {
            let reply = std::future::poll_fn(|context| wire.poll_reply(context)).await;
            replies.push(reply.map_err(|cause| cause.to_string())?);
        }
        Ok(replies)
    };
    time::timeout(GREETING_TIMEOUT, collect)
        .await
        .unwrap_or_else(|_| Err("no reply to the greeting".to_owned()))
}

/// True if the user may not run the command, whatever its key.
fn is_denied(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("NOPERM") && text.contains("to run the"))
}

/// True unless `INFO memory` says that the server has no memory limit, or rejects writes at the limit.
fn may_evict(info: &Reply) -> bool {
    let lines = info.text().into_iter().flat_map(str::lines);
    let mut is_safe = lines.filter(|line| ["maxmemory:0", "maxmemory_policy:noeviction"].contains(line));
    is_safe.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_say_otherwise_may_evict() {
        for (info, expected) in [
            (Reply::from("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"), false),
            (Reply::from("maxmemory:100\r\nmaxmemory_policy:noeviction\r\n"), false),
            (Reply::from("maxmemory:100\r\nmaxmemory_policy:volatile-ttl\r\n"), true),
            (Reply::from("maxmemory:01"), true),
            (Reply::Error("NOPERM this user has no permissions to run the 'info' command".to_owned()), true),
            (Reply::Nil, true),
        ] {
            assert_eq!(may_evict(&info), expected, "{info:?}");
        }
    }
}
