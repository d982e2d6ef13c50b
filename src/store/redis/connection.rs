//! One connection to one Redis server: kept up for as long as it lives, and the only way to send a
//! command.
//!
//! Every command goes through [`Connection::exec`], and each carries its options: a deadline, to fail
//! at once while the server is away, and not to be sent again once it was written. fred 10.1 needs care:
//!
//! - It ignores options on some of its typed commands (`evalsha` and all of its Lua interface), which
//!   therefore are not used.
//! - It flushes when it believes that no command waits, and a command that it turned away because its
//!   queue was full counts as waiting for ever after: from then on it would flush every 200 commands
//!   only. So its queue has no bound, and [`Connection::commands`] keeps one.
//! - A client that gave up has lost count in the same way. It is replaced, not started again.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, FredResult, KeysInterface, MetricsInterface};
use fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, ReconnectError, ReconnectPolicy, Server,
    ServerConfig, TcpConfig,
};
use fred::types::{CustomCommand, FromValue, Value};
use secrecy::ExposeSecret;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{self, Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{Deployment, Endpoint, Login, RedisSettings};
use crate::store::StoreError;

/// Commands that wait to be written. More are turned away: this bounds memory while Redis hangs.
const MAX_WAITING_COMMANDS: usize = 10_000;
/// How long a connection takes to greet Redis (`AUTH`, `SELECT`), once it stands.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that acknowledges nothing for so long is gone, whatever TCP hopes for.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before the first attempt to reconnect. fred takes the connection for alive during it, so
/// it is short: commands sent meanwhile run into their deadline.
const MIN_RECONNECT_DELAY_MS: u32 = 5;
/// The longest pause between attempts, and so about how long the return of Redis may go unnoticed.
const MAX_RECONNECT_DELAY_MS: u32 = 500;
const RECONNECT_JITTER_MS: u32 = 10;
/// A server may accept connections and refuse all commands (a replica, a server that still loads),
/// many times in a second. The log tells of it once in this time.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A client whose every command carries its options.
type Commands = WithOptions<Client>;

/// A connection that is up, or on its way.
#[derive(Debug)]
pub(super) struct Connection {
    /// Those of the client in use.
    commands: Arc<ArcSwap<Commands>>,
    call_timeout: Duration,
    /// For people: where the server listens.
    server: String,
    link: watch::Receiver<Link>,
    _supervisor: AbortOnDropHandle<()>,
}

/// A script, and the name Redis gives it.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    sha1: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    /// The first attempt is under way.
    Connecting,
    Up,
    /// Lost, or never had, and why. It is tried again all the time.
    Down(Arc<str>),
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, sha1: fred::util::sha1_hash(text).into() }
    }

    fn by_name(&self, keys: &[Bytes], arguments: &[u32]) -> Call {
        call("EVALSHA", self.sha1.clone(), keys, arguments)
    }

    fn by_text(&self, keys: &[Bytes], arguments: &[u32]) -> Call {
        call("EVAL", Bytes::from_static(self.text.as_bytes()), keys, arguments)
    }
}

impl Connection {
    /// Begins to connect, and returns at once. Belongs to the runtime it is called in.
    pub(super) fn connect(settings: &RedisSettings) -> Self {
        let commands = Arc::new(ArcSwap::from_pointee(new_client(settings)));
        let (link_sender, link) = watch::channel(Link::Connecting);
        let supervisor = supervise(settings.clone(), commands.clone(), link_sender);
        Self {
            commands,
            call_timeout: settings.call_timeout,
            server: settings.deployment.to_string(),
            link,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor)),
        }
    }

    /// Waits until the connection is up; no longer than `patience`, where that is not zero.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] with the cause of the last failure, after `patience`.
    pub(super) async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        let mut link = self.link.clone();
        let up = link.wait_for(|link| *link == Link::Up);
        let waited = match patience.is_zero() {
            true => Ok(up.await),
            false => time::timeout(patience, up).await,
        };
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.unreachable()),
        }
    }

    /// Whether the connection is up.
    pub(super) fn is_up(&self) -> bool {
        self.commands.load().is_connected()
    }

    /// `INCRBY key hits`: the counter afterwards.
    pub(super) async fn incr_by(&self, key: Bytes, hits: u32) -> Result<i64, StoreError> {
        self.exec(self.commands()?.incr_by(key, i64::from(hits))).await
    }

    /// `GET key`: the counter, where there is one.
    pub(super) async fn get(&self, key: Bytes) -> Result<Option<i64>, StoreError> {
        self.exec(self.commands()?.get(key)).await
    }

    /// `EXPIRE key secs`: whether there was such a key.
    pub(super) async fn expire(&self, key: Bytes, secs: i64) -> Result<bool, StoreError> {
        self.exec(self.commands()?.expire(key, secs, None)).await
    }

    /// Runs `script` on `keys`, and sends its text along; what it returns.
    pub(super) async fn eval<T: FromValue>(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[u32],
    ) -> Result<T, StoreError> {
        self.exec(run(&*self.commands()?, script.by_text(keys, arguments))).await
    }

    /// Runs `script` by its name. A server that does not know it (a fresh one, most of all) is sent the
    /// text in a second round trip, within the time that is left for the call; what was sent after the
    /// first one overtakes it then.
    pub(super) async fn evalsha<T: FromValue>(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[u32],
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.call_timeout;
        match self.exec(run(&*self.commands()?, script.by_name(keys, arguments))).await {
            Err(StoreError::Refused(cause)) if cause.starts_with("NOSCRIPT") => {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                let commands = self.commands()?.with_options(&options(left));
                self.exec(run(&commands, script.by_text(keys, arguments))).await
            }
            answer => answer,
        }
    }

    /// The client to send a command with, unless too many commands wait to be written.
    fn commands(&self) -> Result<Arc<Commands>, StoreError> {
        let commands = self.commands.load_full();
        if commands.command_queue_len() < MAX_WAITING_COMMANDS {
            return Ok(commands);
        }
        Err(StoreError::Unreachable(format!("{}: too many commands wait for it", self.server)))
    }

    async fn exec<T>(&self, command: impl Future<Output = FredResult<T>>) -> Result<T, StoreError> {
        command.await.map_err(|error| self.explain(&error))
    }

    /// What a failed command means for what was counted.
    fn explain(&self, error: &Error) -> StoreError {
        let details = error.details();
        if is_error_reply(details) {
            return StoreError::Refused(details.to_owned());
        }
        match error.kind() {
            // Turned away before it was written: the connection is down.
            ErrorKind::Canceled => self.unreachable(),
            ErrorKind::Parse | ErrorKind::NotFound => {
                StoreError::Refused("the counter holds no whole number".to_owned())
            }
            _ => StoreError::Unanswered(format!("{}: {details}", self.server)),
        }
    }

    fn unreachable(&self) -> StoreError {
        let cause = match &*self.link.borrow() {
            Link::Connecting | Link::Up => "not connected yet".into(),
            Link::Down(cause) => cause.clone(),
        };
        StoreError::Unreachable(format!("{}: {cause}", self.server))
    }
}

/// fred passes on what Redis said and what went wrong on the way under the same kinds. Redis begins
/// with a word in capitals (`ERR`, `WRONGTYPE`, `NOAUTH`), fred with a sentence.
fn is_error_reply(details: &str) -> bool {
    let code = details.split(' ').next().unwrap_or_default();
    code.len() >= 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// A command that fred has no type for, and its arguments.
type Call = (CustomCommand, Vec<Value>);

fn call(name: &'static str, script: Bytes, keys: &[Bytes], arguments: &[u32]) -> Call {
    let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
    let keys = keys.iter().map(|key| Value::from(key.clone()));
    let arguments = arguments.iter().map(|argument| Value::from(*argument));
    let all = [Value::from(script), Value::from(count)].into_iter().chain(keys).chain(arguments);
    (CustomCommand::new_static(name, None, false), all.collect())
}

async fn run<T: FromValue>(commands: &impl ClientLike, (command, arguments): Call) -> FredResult<T> {
    commands.custom(command, arguments).await
}

/// With fewer attempts fred would not follow redirections; with `fail_fast` off it would send again
/// what a lost connection may have counted already.
fn options(timeout: Duration) -> Options {
    Options { timeout: Some(timeout), fail_fast: true, max_attempts: Some(3), ..Options::default() }
}

fn new_client(settings: &RedisSettings) -> Commands {
    let Deployment::Single(endpoint) = &settings.deployment else { unimplemented!() };
    let server = match endpoint {
        Endpoint::Tcp { host, port } => {
            // The resolver is handed `host:port`.
            let bare_ipv6 = host.contains(':') && !host.starts_with('[');
            let host = if bare_ipv6 { format!("[{host}]") } else { host.clone() };
            ServerConfig::Centralized { server: Server::new(host, *port) }
        }
        Endpoint::Unix(path) => ServerConfig::Unix { path: path.clone() },
    };
    let (username, password) = match &settings.credentials.server {
        Login::Open => (None, None),
        Login::Password { username, password } => {
            (username.clone(), Some(password.expose_secret().to_owned()))
        }
        Login::File(_) => unimplemented!(),
    };
    let config = Config {
        server,
        username,
        password,
        database: settings.database,
        fail_fast: false,
        ..Config::default()
    };
    // The backstop for a command without options.
    let performance =
        PerformanceConfig { default_command_timeout: settings.call_timeout, ..PerformanceConfig::default() };
    let connection = ConnectionConfig {
        connection_timeout: settings.connect_timeout,
        internal_command_timeout: GREETING_TIMEOUT,
        // A server that stays a replica, or is asked for a password it did not want before, is found
        // anew: its name may lead to another by now.
        reconnect_on_auth_error: true,
        reconnect_errors: vec![ReconnectError::Loading, ReconnectError::MasterDown, ReconnectError::ReadOnly],
        tcp: TcpConfig { nodelay: Some(true), user_timeout: Some(TCP_USER_TIMEOUT), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    };
    let mut policy = ReconnectPolicy::new_exponential(0, MIN_RECONNECT_DELAY_MS, MAX_RECONNECT_DELAY_MS, 2);
    policy.set_jitter(RECONNECT_JITTER_MS);
    let client = Client::new(config, Some(performance), Some(connection), Some(policy));
    client.with_options(&options(settings.call_timeout))
}

/// Keeps a client connected and tells how it is. Never ends.
async fn supervise(settings: RedisSettings, commands: Arc<ArcSwap<Commands>>, link: watch::Sender<Link>) {
    let drive_for_ever = async {
        loop {
            let cause = drive(&commands.load_full(), &link).await;
            set(&link, Link::Down(cause));
            time::sleep(Duration::from_millis(MAX_RECONNECT_DELAY_MS.into())).await;
            commands.store(Arc::new(new_client(&settings)));
        }
    };
    tokio::join!(drive_for_ever, log_changes(link.subscribe(), &settings.deployment));
}

/// Drives a client until it gives up, which its policy does not ask for and some errors make it do all
/// the same. Returns why.
async fn drive(client: &Client, link: &watch::Sender<Link>) -> Arc<str> {
    let (mut errors, mut reconnects) = (client.error_rx(), client.reconnect_rx());
    let mut driver = AbortOnDropHandle::new(client.connect());
    loop {
        tokio::select! {
            // Where both wait, the error came first: it is what was reconnected after.
            biased;
            ended = &mut driver => return match ended {
                Ok(Ok(())) => "the client ended".into(),
                Ok(Err(error)) => error.details().into(),
                Err(error) => error.to_string().into(),
            },
            error = errors.recv() => match error {
                Ok((error, _)) => set(link, Link::Down(error.details().into())),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return "the client is closed".into(),
            },
            server = reconnects.recv() => match server {
                Ok(_) | Err(RecvError::Lagged(_)) => set(link, Link::Up),
                Err(RecvError::Closed) => return "the client is closed".into(),
            },
        }
    }
}

fn set(link: &watch::Sender<Link>, to: Link) {
    link.send_if_modified(|link| {
        let changed = *link != to;
        *link = to;
        changed
    });
}

async fn log_changes(mut link: watch::Receiver<Link>, server: &Deployment) {
    let mut logged = Link::Connecting;
    while link.changed().await.is_ok() {
        let now = link.borrow_and_update().clone();
        if now == logged {
            continue;
        }
        match &now {
            Link::Connecting => {}
            Link::Up => tracing::info!(%server, "connected to Redis"),
            Link::Down(cause) => tracing::warn!(%server, %cause, "Redis cannot be reached"),
        }
        logged = now;
        time::sleep(MIN_LOG_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::store::redis::Credentials;

    /// Ending the client by hand stands for the errors that make it end by itself.
    #[tokio::test]
    async fn a_client_that_gave_up_is_started_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = RedisSettings {
            deployment: Deployment::Single(Endpoint::Tcp { host: "127.0.0.1".to_owned(), port }),
            credentials: Credentials::default(),
            database: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(5),
            expiration_jitter_max_secs: 0,
        };
        let connection = Connection::connect(&settings);
        for _ in 0..2 {
            let (mut client, _) = listener.accept().await.unwrap();
            let agree_to_everything = async {
                let mut command = [0; 1024];
                while client.read(&mut command).await.is_ok_and(|len| len > 0) {
                    client.write_all(b"+OK\r\n").await.unwrap();
                }
            };
            let end = async {
                connection.ready(Duration::ZERO).await.unwrap();
                Client::quit(&connection.commands.load()).await.unwrap();
            };
            tokio::join!(agree_to_everything, end);
            assert!(!connection.is_up());
        }
    }

    #[test]
    fn what_redis_says_is_told_from_what_went_wrong_on_the_way() {
        for (details, is_reply) in [
            ("ERR value is not an integer or out of range", true),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("READONLY You can't write against a read only replica.", true),
            ("NOSCRIPT No matching script.", true),
            ("OOM command not allowed when used memory > 'maxmemory'.", true),
            ("Request timed out.", false),
            ("channel closed", false),
            ("Failed to send command to router.", false),
            ("Connection closed unexpectedly.", false),
            ("Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }", false),
            ("", false),
            ("A", false),
        ] {
            assert_eq!(is_error_reply(details), is_reply, "{details}");
        }
    }
}
