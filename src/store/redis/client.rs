//! Connections to Redis: how they are opened, and what is said before the first call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use secrecy::{ExposeSecret as _, SecretString};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::resp::{self, Reply};
use super::settings::ServerClock;
use super::status::Nodes;
use super::{Endpoint, Login, RedisSettings};
use crate::tls::TlsError;

/// Upper bound on the time from a connection that stands to the reply to its first commands.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that acknowledges nothing for this long is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle time after which TCP probes the peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Commands that counting needs, each with arguments that change nothing in any database. Redis checks
/// permissions before it looks at arguments.
const PROBES: [(&str, &[&[u8]]); 13] = [
    ("GET", &[b"GET", PROBE_KEY]),
    ("SET", &[b"SET", PROBE_KEY, b"0", b"EX", b"0"]),
    ("INCRBY", &[b"INCRBY", PROBE_KEY, b"none"]),
    ("EXPIRE", &[b"EXPIRE", PROBE_KEY, b"none"]),
    ("EVALSHA", &[b"EVALSHA", b"0000000000000000000000000000000000000000", b"0"]),
    ("EVAL", &[b"EVAL", b"return 0", b"0"]),
    ("TIME", &[b"TIME"]),
    ("ZADD", &[b"ZADD", PROBE_KEY, b"none", b"0"]),
    ("ZCARD", &[b"ZCARD", PROBE_KEY]),
    ("ZCOUNT", &[b"ZCOUNT", PROBE_KEY, b"none", b"0"]),
    ("ZRANGE", &[b"ZRANGE", PROBE_KEY, b"none", b"0"]),
    ("ZREMRANGEBYRANK", &[b"ZREMRANGEBYRANK", PROBE_KEY, b"none", b"0"]),
    ("ZPOPMAX", &[b"ZPOPMAX", PROBE_KEY, b"none"]),
];
/// Never written.
const PROBE_KEY: &[u8] = b"tollgate:permission-probe";

/// A connected byte stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) type Io = Box<dyn Stream>;

/// What it takes to reach the servers of one deployment, shared by all cores.
pub(super) struct Access {
    pub(super) settings: RedisSettings,
    pub(super) clock: ServerClock,
    /// State of the nodes, as all cores see it.
    pub(super) nodes: Nodes,
    tls: Option<TlsConnector>,
    #[cfg(test)]
    network: Option<Arc<dyn Network>>,
}

/// A network that exists in memory only.
#[cfg(test)]
pub(super) trait Network: Send + Sync {
    fn dial(&self, server: &Endpoint) -> std::pin::Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;
}

impl Access {
    /// Reads the files that TLS needs, where it is asked for.
    pub(super) fn new(settings: RedisSettings, clock: ServerClock) -> Result<Arc<Self>, TlsError> {
        let config = settings.tls.as_ref().map(|tls| tls.config()).transpose()?;
        let tls = config.map(|config| TlsConnector::from(Arc::new(config)));
        Ok(Arc::new(Self {
            settings,
            clock,
            nodes: Nodes::default(),
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
    ) -> Arc<Self> {
        Arc::new(Self { settings, clock, nodes: Nodes::default(), tls: None, network: Some(network) })
    }

    async fn dial(&self, server: &Endpoint) -> io::Result<Io> {
        #[cfg(test)]
        if let Some(network) = &self.network {
            return network.dial(server).await;
        }
        let (host, port) = match server {
            Endpoint::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Endpoint::Tcp { host, port } => (host.trim_start_matches('[').trim_end_matches(']'), *port),
        };
        let stream = dial_tcp(host, port).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// The name is resolved for every connection: it may lead elsewhere by now.
async fn dial_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A connection that has greeted, and the commands that its user may not run.
pub(super) struct Connected {
    pub(super) io: Io,
    pub(super) denied: Vec<&'static str>,
}

/// Opens a connection to a server that counts.
///
/// # Errors
/// The cause in words.
pub(super) async fn connect(access: &Access, server: &Endpoint) -> Result<Connected, String> {
    let settings = &access.settings;
    let mut io = dial_in_time(access, server).await?;
    let probes = PROBES.iter().map(|(_, command)| *command);
    let replies = greet(&mut io, &settings.credentials.server, settings.database, probes).await?;
    let denied = PROBES.iter().zip(&replies).filter(|(_, reply)| is_denied(reply));
    Ok(Connected { denied: denied.map(|((name, _), _)| *name).collect(), io })
}

/// Connects to `server`, sends `commands`, and disconnects. A command that the server rejects does not keep
/// the later ones from running.
///
/// # Errors
/// The cause in words, where the connection could not be made.
pub(super) async fn query<const N: usize>(
    access: &Access,
    server: &Endpoint,
    login: &Login,
    commands: [&[&str]; N],
) -> Result<[Result<Reply, String>; N], String> {
    let mut io = dial_in_time(access, server).await?;
    let commands = commands.map(|command| command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    let sent = greet(&mut io, login, None, commands.iter().map(|command| &**command)).await?;
    let mut sent = sent.into_iter();
    Ok(commands.map(|_| match sent.next() {
        Some(Reply::Error(text)) => Err(text),
        Some(reply) => Ok(reply),
        None => Err("no reply".to_owned()),
    }))
}

async fn dial_in_time(access: &Access, server: &Endpoint) -> Result<Io, String> {
    match time::timeout(access.settings.connect_timeout, access.dial(server)).await {
        Ok(dialed) => dialed.map_err(|error| in_words(&error)),
        Err(_) => Err("connection timed out".to_owned()),
    }
}

/// Logs in, selects the database, and sends `commands`, all in one round trip. Returns the replies to
/// `commands`.
async fn greet<'c>(
    io: &mut Io,
    login: &Login,
    database: Option<u8>,
    commands: impl Iterator<Item = &'c [&'c [u8]]>,
) -> Result<Vec<Reply>, String> {
    // A file is read for every connection, so that the password can change while the service runs.
    let (username, password) = login.read().map_err(|error| error.to_string())?;
    let password = password.map(SecretString::from);
    let mut out = BytesMut::new();
    let mut greetings = 1;
    match (&username, &password) {
        (_, None) => greetings -= 1,
        (None, Some(password)) => resp::encode(&mut out, &[b"AUTH", password.expose_secret().as_bytes()]),
        (Some(user), Some(password)) => {
            resp::encode(&mut out, &[b"AUTH", user.as_bytes(), password.expose_secret().as_bytes()]);
        }
    }
    if let Some(database) = database {
        resp::encode(&mut out, &[b"SELECT", itoa::Buffer::new().format(database).as_bytes()]);
        greetings += 1;
    }
    // Fails where a login is needed and none is set, and while Redis loads its data.
    resp::encode(&mut out, &[b"PING"]);
    greetings += 1;
    let mut expected = greetings;
    for command in commands {
        resp::encode(&mut out, command);
        expected += 1;
    }
    let exchange = async {
        io.write_all(&out).await?;
        io.flush().await?;
        read_replies(io, greetings, expected).await
    };
    match time::timeout(GREETING_TIMEOUT, exchange).await {
        Ok(replies) => replies.map_err(|error| in_words(&error)),
        Err(_) => Err("no reply to the greeting".to_owned()),
    }
}

/// Reads so many replies, the first `greetings` of which must not be errors. Returns the others.
async fn read_replies(io: &mut Io, greetings: usize, expected: usize) -> io::Result<Vec<Reply>> {
    let (mut inbox, mut replies) = (BytesMut::new(), Vec::new());
    let mut seen = 0;
    while seen < expected {
        let Some((reply, len)) = resp::decode(&inbox).map_err(io::Error::other)? else {
            if io.read_buf(&mut inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        drop(inbox.split_to(len));
        match reply {
            Reply::Error(text) if seen < greetings => return Err(io::Error::other(text)),
            _ if seen < greetings => {}
            reply => replies.push(reply),
        }
        seen += 1;
    }
    Ok(replies)
}

/// Whether the user may not run the command, whatever its key.
fn is_denied(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("NOPERM") && text.contains("to run the"))
}

/// `error`, without the number that the system adds.
pub(super) fn in_words(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed by the server".to_owned(),
        _ => error.to_string(),
    };
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
