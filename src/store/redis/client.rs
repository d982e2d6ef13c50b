//! How connections to Redis are opened.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, FredResult};
use fred::types::config::{
    Config, ConnectionConfig, CredentialProvider, Options, ReconnectError, ReconnectPolicy, Server,
    ServerConfig, TcpConfig, TlsConfig, TlsConnector,
};
use fred::types::{CustomCommand, Value};
use secrecy::ExposeSecret;
use tokio_util::task::AbortOnDropHandle;

use super::settings::ServerClock;
use super::{Endpoint, Login, RedisSettings};
use crate::tls::TlsError;

/// How long a connection takes to greet Redis (`AUTH`, `SELECT`), once it stands.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that acknowledges nothing for so long is gone, whatever TCP hopes for.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before the first attempt to reconnect. fred takes the connection for alive during it, so
/// it is short: commands sent meanwhile run into their deadline.
const MIN_RECONNECT_DELAY_MS: u32 = 5;
/// The longest pause between attempts, and so about how long the return of Redis may go unnoticed.
pub(super) const MAX_RECONNECT_DELAY_MS: u32 = 500;
const RECONNECT_JITTER_MS: u32 = 10;

/// A client whose every command carries its options.
pub(super) type Commands = WithOptions<Client>;

/// What it takes to reach the servers of one deployment.
pub(super) struct Access {
    pub(super) settings: RedisSettings,
    pub(super) clock: ServerClock,
    tls: Option<TlsConnector>,
}

impl Access {
    /// Reads the files that TLS needs, where it is asked for.
    pub(super) fn new(settings: RedisSettings, clock: ServerClock) -> Result<Arc<Self>, TlsError> {
        let tls = settings.tls.as_ref().map(|tls| tls.config().map(TlsConnector::from)).transpose()?;
        Ok(Arc::new(Self { settings, clock, tls }))
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// With fewer attempts fred would not follow redirections; with `fail_fast` off it would send again
/// what a lost connection may have counted already. A timeout of its own for each command would cost a
/// timer for each.
fn options() -> Options {
    Options { timeout: Some(Duration::ZERO), fail_fast: true, max_attempts: Some(3), ..Options::default() }
}

/// A client of one server that is not connected yet, and will be again whenever it was.
pub(super) fn new_client(server: &Endpoint, access: &Access) -> Commands {
    let settings = &access.settings;
    let config = config(server, &settings.credentials.server, access, settings.database);
    let mut policy = ReconnectPolicy::new_exponential(0, MIN_RECONNECT_DELAY_MS, MAX_RECONNECT_DELAY_MS, 2);
    policy.set_jitter(RECONNECT_JITTER_MS);
    let client = Client::new(config, None, Some(connections(settings)), Some(policy));
    client.with_options(&options())
}

fn config(server: &Endpoint, login: &Login, access: &Access, database: Option<u8>) -> Config {
    let server = match server {
        Endpoint::Tcp { host, port } => {
            // The resolver is handed `host:port`.
            let bare_ipv6 = host.contains(':') && !host.starts_with('[');
            let host = if bare_ipv6 { format!("[{host}]") } else { host.clone() };
            ServerConfig::Centralized { server: Server::new(host, *port) }
        }
        Endpoint::Unix(path) => ServerConfig::Unix { path: path.clone() },
    };
    let (username, password) = match login {
        Login::Open | Login::File(_) => (None, None),
        Login::Password { username, password } => {
            (username.clone(), Some(password.expose_secret().to_owned()))
        }
    };
    let credential_provider = match login {
        Login::File(_) => Some(Arc::new(ReadAgain(login.clone())) as _),
        Login::Open | Login::Password { .. } => None,
    };
    let tls = access.tls.clone().map(TlsConfig::from);
    Config {
        server,
        username,
        password,
        credential_provider,
        tls,
        database,
        fail_fast: false,
        ..Config::default()
    }
}

/// Reads a login's file for every connection, so that a password can change while the service runs.
#[derive(Debug)]
struct ReadAgain(Login);

#[async_trait]
impl CredentialProvider for ReadAgain {
    async fn fetch(&self, _: Option<&Server>) -> FredResult<(Option<String>, Option<String>)> {
        self.0.read().map_err(|error| Error::new(ErrorKind::Auth, error.to_string()))
    }
}

fn connections(settings: &RedisSettings) -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: settings.connect_timeout,
        internal_command_timeout: GREETING_TIMEOUT,
        // A server that stays a replica, or is asked for a password it did not want before, is found
        // anew: its name may lead to another by now.
        reconnect_on_auth_error: true,
        reconnect_errors: vec![ReconnectError::Loading, ReconnectError::MasterDown, ReconnectError::ReadOnly],
        tcp: TcpConfig { nodelay: Some(true), user_timeout: Some(TCP_USER_TIMEOUT), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    }
}

/// Connects to `server`, runs `commands` one after the other, and disconnects. A command that the server
/// refuses does not keep the later ones from running.
///
/// # Errors
/// The cause, for people, where the connection could not be made.
pub(super) async fn query<const N: usize>(
    access: &Access,
    server: &Endpoint,
    login: &Login,
    commands: [&[&str]; N],
) -> Result<[Result<Value, String>; N], String> {
    let details = |error: Error| error.details().to_owned();
    let config = Config { fail_fast: true, ..config(server, login, access, None) };
    let client = Client::new(config, None, Some(connections(&access.settings)), None);
    let _driver = AbortOnDropHandle::new(client.connect());
    client.wait_for_connect().await.map_err(details)?;
    let mut replies = [const { Ok(Value::Null) }; N];
    for (command, reply) in commands.iter().zip(&mut replies) {
        let Some((name, arguments)) = command.split_first() else { continue };
        let arguments: Vec<Value> = arguments.iter().map(|argument| Value::from(*argument)).collect();
        *reply = client.custom(CustomCommand::new(*name, None, false), arguments).await.map_err(details);
    }
    Ok(replies)
}
