//! One connection to one Redis server: kept up for as long as it lives, and the only way to send a
//! command.
//!
//! Every command carries its options: to fail at once while the server is away, and not to be sent
//! again once it was written. How long to wait for an answer is up to who asks. fred 10.1 needs care:
//!
//! - It ignores options on some of its typed commands (`evalsha` and all of its Lua interface), which
//!   therefore are not used.
//! - A client that gave up has lost count of what waits to be flushed. It is replaced, not started again.
//! - Its own view of a Cluster lets all shards wait for one that is down, so each server gets a client of
//!   its own, which knows of no other. What Redis says of other servers comes back as an error.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, FredResult, KeysInterface};
use fred::types::{CustomCommand, FromValue, Value};
use futures_util::future;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time;
use tokio_util::task::AbortOnDropHandle;

use super::Endpoint;
use super::batch::Call;
use super::client::{Access, Commands, MAX_RECONNECT_DELAY_MS, new_client};
use crate::store::StoreError;

/// A server may accept connections and refuse all commands (a replica, a server that still loads),
/// many times in a second. The log tells of it once in this time.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A connection that is up, or on its way.
#[derive(Debug)]
pub(super) struct Connection {
    /// Those of the client in use.
    commands: Arc<ArcSwap<Commands>>,
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

    fn by_name(&self, call: &Call) -> Arguments {
        arguments("EVALSHA", self.sha1.clone(), call)
    }

    fn by_text(&self, call: &Call) -> Arguments {
        arguments("EVAL", Bytes::from_static(self.text.as_bytes()), call)
    }
}

impl Connection {
    /// Begins to connect, and returns at once. Belongs to the runtime it is called in.
    pub(super) fn connect(server: &Endpoint, access: &Arc<Access>) -> Self {
        let commands = Arc::new(ArcSwap::from_pointee(new_client(server, access)));
        let (link_sender, link) = watch::channel(Link::Connecting);
        let supervisor = supervise(server.clone(), Arc::clone(access), Arc::clone(&commands), link_sender);
        Self {
            commands,
            server: server.to_string(),
            link,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor)),
        }
    }

    /// Where the server listens, for people.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// `cause`, with the name of the server in front.
    pub(super) fn about(&self, cause: &str) -> String {
        format!("{}: {cause}", self.server)
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

    /// Waits until the first attempt to connect has come to something; no longer than `patience`.
    pub(super) async fn tried(&self, patience: Duration) {
        if *self.link.borrow() == Link::Connecting {
            let mut link = self.link.clone();
            // Whatever it came to, the next command will say it.
            drop(time::timeout(patience, link.wait_for(|link| *link != Link::Connecting)).await);
        }
    }

    /// Adds `hits` to a counter, or looks at it where they are 0. The counter afterwards.
    pub(super) async fn count(&self, key: Bytes, hits: u64) -> Result<i64, StoreError> {
        let commands = self.commands.load_full();
        let counted = match i64::try_from(hits) {
            Ok(0) => commands.get(key).await.map(|used: Option<i64>| used.unwrap_or(0)),
            hits => commands.incr_by(key, hits.unwrap_or(i64::MAX)).await,
        };
        counted.map_err(|error| self.explain(&error))
    }

    /// `EXPIRE key secs`: whether there was such a key.
    pub(super) async fn expire(&self, key: Bytes, secs: i64) -> Result<bool, StoreError> {
        self.commands.load_full().expire(key, secs, None).await.map_err(|error| self.explain(&error))
    }

    /// Whether the server answers.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.commands.load_full().ping(None).await.map_err(|error| self.explain(&error))
    }

    /// Carries out a command that no call waits behind.
    pub(super) async fn command<T: FromValue>(
        &self,
        command: CustomCommand,
        arguments: Vec<Value>,
    ) -> Result<T, StoreError> {
        let commands = self.commands.load_full();
        send(&commands, (command, arguments)).await.map_err(|error| self.explain(&error))
    }

    /// Runs `script` by its name. A server that does not know it (a fresh one, most of all) is sent the
    /// text in a second round trip.
    pub(super) async fn run(&self, script: &Script, call: &Call) -> Result<Vec<i64>, StoreError> {
        let commands = self.commands.load_full();
        if call.asking {
            // The server forgets that it was told with the next command, which so must be ours.
            let told = send::<Value>(&commands, (CustomCommand::new_static("ASKING", None, false), vec![]));
            let (told, reply) = future::join(told, send(&commands, script.by_text(call))).await;
            return told.and(reply).map_err(|error| self.explain(&error));
        }
        match send(&commands, script.by_name(call)).await.map_err(|error| self.explain(&error)) {
            Err(StoreError::Refused(cause)) if cause.starts_with("NOSCRIPT") => {
                send(&commands, script.by_text(call)).await.map_err(|error| self.explain(&error))
            }
            reply => reply,
        }
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
            _ => StoreError::Unanswered(self.about(details)),
        }
    }

    fn unreachable(&self) -> StoreError {
        let cause = match &*self.link.borrow() {
            Link::Connecting | Link::Up => "not connected yet".into(),
            Link::Down(cause) => cause.clone(),
        };
        StoreError::Unreachable(self.about(&cause))
    }
}

/// fred passes on what Redis said and what went wrong on the way under the same kinds. Redis begins
/// with a word in capitals (`ERR`, `WRONGTYPE`, `NOAUTH`), fred with a sentence.
fn is_error_reply(details: &str) -> bool {
    let code = details.split(' ').next().unwrap_or_default();
    code.len() >= 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// A command that fred has no type for, and its arguments.
type Arguments = (CustomCommand, Vec<Value>);

fn arguments(name: &'static str, script: Bytes, call: &Call) -> Arguments {
    let count = i64::try_from(call.keys.len()).unwrap_or(i64::MAX);
    let keys = call.keys.iter().map(|key| Value::from(key.clone()));
    let now = call.now.map(|now| now.as_micros().to_string()).unwrap_or_default();
    let mut arguments = Vec::with_capacity(call.keys.len() + 4);
    arguments.extend([Value::from(script), Value::from(count)]);
    arguments.extend(keys);
    arguments.extend([Value::from(Bytes::copy_from_slice(&call.requests)), Value::from(now)]);
    (CustomCommand::new_static(name, None, false), arguments)
}

async fn send<T: FromValue>(commands: &Commands, (command, arguments): Arguments) -> FredResult<T> {
    commands.custom(command, arguments).await
}

/// Keeps a client connected and tells how it is. Never ends.
async fn supervise(
    server: Endpoint,
    access: Arc<Access>,
    commands: Arc<ArcSwap<Commands>>,
    link: watch::Sender<Link>,
) {
    let drive_for_ever = async {
        loop {
            let cause = drive(&commands.load_full(), &link).await;
            set(&link, Link::Down(cause));
            time::sleep(Duration::from_millis(MAX_RECONNECT_DELAY_MS.into())).await;
            commands.store(Arc::new(new_client(&server, &access)));
        }
    };
    tokio::join!(drive_for_ever, log_changes(link.subscribe(), &server));
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

async fn log_changes(mut link: watch::Receiver<Link>, server: &Endpoint) {
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
    use crate::store::redis::settings::ServerClock;
    use crate::store::redis::{Credentials, Deployment, RedisSettings};

    /// Ending the client by hand stands for the errors that make it end by itself.
    #[tokio::test]
    async fn a_client_that_gave_up_is_started_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port };
        let settings = RedisSettings {
            deployment: Deployment::Single(server.clone()),
            credentials: Credentials::default(),
            database: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(5),
            expiration_jitter_max_secs: 0,
        };
        let connection = Connection::connect(&server, &Access::new(settings, ServerClock::Own).unwrap());
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
            assert!(!connection.commands.load().is_connected());
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
