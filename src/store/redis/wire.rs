//! One connection to one node: commands go in, replies come out in the same order.
//!
//! Production speaks through fred, with one client for each connection. fred 10.1 needs care:
//!
//! - A client has no reconnect policy, so it ends with its connection. fred then fails every command in
//!   flight, and can send none of them again. The next connection is a new client, which resolves the name
//!   anew.
//! - After `CLUSTERDOWN` fred ends the connection, and gives its text to all commands in flight. Only the oldest
//!   of them was rejected; the others may have been carried out. No other reply ends a connection.
//! - `ErrorKind::Canceled` means that a command never left the client's queue.
//! - fred sends a command when its future is first polled.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, FredResult, KeysInterface as _, MetricsInterface as _};
use fred::types::{ConnectHandle, CustomCommand, Expiration, SetOptions, Value};
use tokio_util::task::AbortOnDropHandle;

use super::reply::Reply;
use crate::tls::{CA_AS_END_ENTITY, CA_AS_END_ENTITY_IN_WORDS};

/// A command.
#[derive(Debug)]
pub(super) enum Command {
    /// `INCRBY key hits`
    Increment { key: Bytes, hits: i64 },
    /// `GET key`
    Read(Bytes),
    /// `SET key 0 EX secs NX`
    Create { key: Bytes, secs: i64 },
    /// `EXPIRE key secs`
    Expire { key: Bytes, secs: i64 },
    /// Any other command. fred flushes after each of these, so what is sent in numbers has a kind of its own.
    Other { name: CustomCommand, arguments: Vec<Value> },
}

impl Command {
    /// `name` with `arguments`.
    pub(super) fn new(name: &'static str, arguments: Vec<Value>) -> Self {
        Self::Other { name: CustomCommand::new_static(name, None, false), arguments }
    }

    /// The command that `words` spell, its name first.
    pub(super) fn from_slices(words: &[&[u8]]) -> Self {
        let mut words = words.iter();
        let name = String::from_utf8_lossy(words.next().copied().unwrap_or_default());
        let name = CustomCommand::new(name.into_owned(), None, false);
        Self::Other { name, arguments: words.map(|word| Value::from(*word)).collect() }
    }
}

/// A connection.
pub(super) trait Wire: Send {
    /// Sends a command. Its reply follows those of all commands before it.
    fn send(&mut self, command: Command);

    /// The next reply, or the cause of the connection's end. From then on [`Wire::next_lost`] goes through the
    /// commands in flight; none of them gets a reply.
    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply, Arc<str>>>;

    /// For the oldest command in flight on a connection that has ended: whether it may have been written. If not,
    /// it was not carried out. `None` if there are no more.
    fn next_lost(&mut self) -> Option<bool>;

    /// True if sent commands have not been written to the socket yet.
    fn has_unwritten(&self) -> bool;
}

impl dyn Wire {
    /// Result of [`Wire::poll_reply`], if it is ready now.
    pub(super) fn reply_now(&mut self) -> Option<Result<Reply, Arc<str>>> {
        match self.poll_reply(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => Some(reply),
            Poll::Pending => None,
        }
    }
}

type InFlight = Pin<Box<dyn Future<Output = FredResult<Reply>> + Send>>;

/// A connection that fred keeps.
pub(super) struct FredWire {
    client: Arc<WithOptions<Client>>,
    driver: AbortOnDropHandle<FredResult<()>>,
    in_flight: VecDeque<InFlight>,
    /// Why the connection ended, if it has.
    ended: Option<Arc<str>>,
}

impl FredWire {
    /// A client that is connected, and the task that drives it.
    pub(super) fn new(client: WithOptions<Client>, driver: ConnectHandle) -> Self {
        let driver = AbortOnDropHandle::new(driver);
        Self { client: Arc::new(client), driver, in_flight: VecDeque::new(), ended: None }
    }
}

impl Wire for FredWire {
    fn send(&mut self, command: Command) {
        let client = Arc::clone(&self.client);
        let mut reply: InFlight = match command {
            Command::Increment { key, hits } => {
                Box::pin(async move { client.incr_by::<Value, _>(key, hits).await.map(Reply::from) })
            }
            Command::Read(key) => Box::pin(async move { client.get::<Value, _>(key).await.map(Reply::from) }),
            Command::Create { key, secs } => Box::pin(async move {
                let created = client.set::<Value, _, _>(
                    key,
                    0,
                    Some(Expiration::EX(secs)),
                    Some(SetOptions::NX),
                    false,
                );
                created.await.map(Reply::from)
            }),
            Command::Expire { key, secs } => {
                Box::pin(async move { client.expire::<Value, _>(key, secs, None).await.map(Reply::from) })
            }
            Command::Other { name, arguments } => {
                Box::pin(async move { client.custom_raw(name, arguments).await.map(Reply::from) })
            }
        };
        // Replies come in order, so only the oldest command needs to wake anything. This poll sends.
        let ready = match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => Box::pin(std::future::ready(reply)),
            Poll::Pending => reply,
        };
        self.in_flight.push_back(ready);
    }

    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply, Arc<str>>> {
        if let Some(cause) = &self.ended {
            return Poll::Ready(Err(Arc::clone(cause)));
        }
        let Some(oldest) = self.in_flight.front_mut() else {
            return Pin::new(&mut self.driver).poll(context).map(|ended| {
                let cause = match ended {
                    Ok(Err(error)) => in_words(&error),
                    Ok(Ok(())) | Err(_) => CLOSED.to_owned(),
                };
                Err(cause.into())
            });
        };
        let error = match std::task::ready!(oldest.as_mut().poll(context)) {
            Ok(reply) => {
                self.in_flight.pop_front();
                return Poll::Ready(Ok(reply));
            }
            Err(error) => error,
        };
        if is_error_reply(&error) {
            let reply = Reply::error(error.details().as_bytes());
            self.ended = error.details().starts_with("CLUSTERDOWN").then(|| in_words(&error).into());
            self.in_flight.pop_front();
            return Poll::Ready(Ok(reply));
        }
        let cause: Arc<str> = in_words(&error).into();
        self.ended = Some(Arc::clone(&cause));
        // Kept for `next_lost`.
        *oldest = Box::pin(std::future::ready(Err(error)));
        Poll::Ready(Err(cause))
    }

    fn next_lost(&mut self) -> Option<bool> {
        let mut lost = self.in_flight.pop_front()?;
        let is_unwritten = |error: Error| *error.kind() == ErrorKind::Canceled;
        match lost.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Some(!is_unwritten(error)),
            Poll::Ready(Ok(_)) | Poll::Pending => Some(true),
        }
    }

    fn has_unwritten(&self) -> bool {
        self.client.command_queue_len() > 0
    }
}

/// True if the error is a reply of Redis. fred gives replies the kinds below, and `Unknown` to every code that it
/// does not know. Its own errors of that kind are sentences; replies begin with a code in capitals.
fn is_error_reply(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Auth | ErrorKind::Cluster | ErrorKind::Config | ErrorKind::InvalidArgument => true,
        ErrorKind::Unknown => {
            let code = error.details().split(' ').next().unwrap_or_default();
            code.len() >= 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())
        }
        _ => false,
    }
}

const CLOSED: &str = "connection closed by the server";

/// The cause in words. fred keeps no error of other libraries, only their debug output, so the message is cut out
/// of it.
pub(super) fn in_words(error: &Error) -> String {
    let details = error.details();
    let quoted = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    if let Some((message, _)) = quoted {
        return message.to_owned();
    }
    if details.contains(CA_AS_END_ENTITY) {
        return format!("invalid peer certificate: {CA_AS_END_ENTITY_IN_WORDS}");
    }
    if let Some((_, cause)) = details.split_once("InvalidCertificate(") {
        let name = |byte: char| byte.is_ascii_alphanumeric();
        let cause: String = cause.chars().take_while(|byte| name(*byte)).collect();
        return format!("invalid peer certificate: {}", cause.trim_end_matches("Context"));
    }
    match error.kind() {
        ErrorKind::Canceled => CLOSED.to_owned(),
        ErrorKind::Timeout => "connection timed out".to_owned(),
        _ if details.starts_with("Connection closed") => CLOSED.to_owned(),
        _ => details.split_once(" (os error").map_or(details, |(words, _)| words).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_are_distinguished_from_errors_of_the_client() {
        for (kind, details, expected) in [
            (ErrorKind::Auth, "NOAUTH Authentication required.", true),
            (ErrorKind::Cluster, "CLUSTERDOWN Hash slot not served", true),
            (ErrorKind::Config, "ERR This instance has cluster support disabled", true),
            (ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key", true),
            (ErrorKind::Unknown, "READONLY You can't write against a read only replica.", true),
            (ErrorKind::Unknown, "channel closed", false),
            (ErrorKind::IO, "READONLY is no reply here", false),
            (ErrorKind::Canceled, "Canceled.", false),
            (ErrorKind::Timeout, "Request timed out.", false),
            (ErrorKind::Protocol, "OOM while decoding", false),
        ] {
            assert_eq!(is_error_reply(&Error::new(kind, details)), expected, "{details}");
        }
    }

    #[test]
    fn causes_are_words() {
        let refused = "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }";
        let certificate =
            "Custom { kind: InvalidData, error: InvalidCertificate(NotValidForNameContext { expected: x }) }";
        for (kind, details, expected) in [
            (ErrorKind::IO, refused, "Connection refused"),
            (ErrorKind::IO, certificate, "invalid peer certificate: NotValidForName"),
            (
                ErrorKind::IO,
                "InvalidCertificate(Other(OtherError(CaUsedAsEndEntity)))",
                "invalid peer certificate: it is the certificate of an authority (CA:TRUE); present one that the \
                 authority signed",
            ),
            (ErrorKind::IO, "Connection closed.", CLOSED),
            (ErrorKind::Canceled, "Canceled.", CLOSED),
            (ErrorKind::Timeout, "Request timed out.", "connection timed out"),
            (
                ErrorKind::Auth,
                "WRONGPASS invalid username-password pair",
                "WRONGPASS invalid username-password pair",
            ),
            (ErrorKind::IO, "failed to lookup address (os error 1)", "failed to lookup address"),
        ] {
            assert_eq!(in_words(&Error::new(kind, details)), expected, "{details}");
        }
    }
}
