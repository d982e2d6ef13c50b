//! Connection with gRPC over plain HTTP/2, which reconnects when it is lost.
//!
//! It never sends a request twice: the service may have counted the first one.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::{Buf as _, Bytes};
use h2::client::SendRequest;
use h2::{Ping, RecvStream};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::summary::{CallOutcome, Failure};
use super::target::Target;
use crate::pb;
use crate::tls::TlsClient;

/// Upper bound on connecting, the HTTP/2 preface included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before reconnecting.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// Flow-control window, in bytes. Large, so that window updates are rare.
const WINDOW_BYTES: u32 = 16 << 20;
/// Upper bound, in bytes, on an answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Part of an answer that is decoded.
#[derive(Clone, PartialEq, prost::Message)]
struct OverallCode {
    #[prost(int32, tag = "1")]
    overall_code: i32,
}

/// Connection that sends as many concurrent requests as the service allows.
pub(super) struct Connection {
    target: Target,
    /// `None` for plain text.
    tls: Option<TlsClient>,
    /// Start of every request: method, path and headers.
    head: Request<()>,
    /// Sender while the connection is up.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Number of the current connection, so that late errors of an earlier one are ignored.
    generation: Cell<u64>,
    lost: Cell<u64>,
    /// Requests in flight.
    in_flight: Cell<usize>,
    /// Notified when a permit may be available.
    permit_released: Notify,
    /// Notified when the connection is lost.
    down: Notify,
}

impl Connection {
    /// Connects, and reconnects from then on. Must run in a `LocalSet`.
    pub(super) async fn open(
        target: Target,
        tls: Option<TlsClient>,
        timeout: Duration,
    ) -> anyhow::Result<Rc<Self>> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", target.authority(), pb::SHOULD_RATE_LIMIT);
        let head = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .version(Version::HTTP_2)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", format!("{}m", timeout.as_millis()))
            .header("user-agent", concat!("tollgate-bench/", env!("CARGO_PKG_VERSION")))
            .body(())?;
        let connection = Rc::new(Self {
            target,
            tls,
            head,
            sender: RefCell::new(None),
            generation: Cell::new(0),
            lost: Cell::new(0),
            in_flight: Cell::new(0),
            permit_released: Notify::new(),
            down: Notify::new(),
        });
        connection.connect().await?;
        spawn_local(Rc::clone(&connection).reconnect());
        Ok(connection)
    }

    async fn connect(self: &Rc<Self>) -> anyhow::Result<()> {
        let target = &self.target;
        let no_answer = || format!("no connection to {target} within {CONNECT_TIMEOUT:?}");
        let socket = timeout(CONNECT_TIMEOUT, target.connect(self.tls.as_ref()))
            .await
            .with_context(no_answer)?
            .map_err(|error| {
                anyhow!(
                    "cannot reach a rate-limit service at {target}: {error}\nDoes one run there? `tollgate` \
                 starts one, and --address says where it listens for gRPC."
                )
            })?;
        let (sender, mut http) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(socket)
            .await?;
        let ping = http.ping_pong();
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let this = Rc::clone(self);
        spawn_local(async move {
            // The requests in flight report the cause.
            drop(http.await);
            this.mark_lost(generation);
        });
        // The client's handshake does not wait for the server, which may speak HTTP/1: send a ping.
        if let Some(mut ping) = ping {
            let silent = || {
                format!(
                    "what listens at {target} accepted the connection and did not answer within {CONNECT_TIMEOUT:?}\n\
                     Is it stopped, or overloaded? --address says where the service listens for gRPC."
                )
            };
            let pong = timeout(CONNECT_TIMEOUT, ping.ping(Ping::opaque())).await.with_context(silent)?;
            pong.map_err(|_| {
                anyhow!(
                    "what listens at {target} does not speak gRPC\n--address says where the service listens \
                     for gRPC; its port for HTTP is another one. A port with TLS needs --tls."
                )
            })?;
        }
        *self.sender.borrow_mut() = Some(sender);
        self.permit_released.notify_waiters();
        Ok(())
    }

    /// Reconnects whenever the connection is lost. Never returns.
    async fn reconnect(self: Rc<Self>) {
        loop {
            self.down.notified().await;
            while self.connect().await.is_err() {
                sleep(RECONNECT_DELAY).await;
            }
        }
    }

    /// Records that the connection with this number is lost.
    fn mark_lost(&self, generation: u64) {
        if self.generation.get() == generation && self.sender.borrow_mut().take().is_some() {
            self.lost.set(self.lost.get() + 1);
            self.down.notify_one();
        }
    }

    /// Permit for one request, if it can be sent now.
    pub(super) fn try_acquire(self: &Rc<Self>) -> Result<StreamPermit, NoPermit> {
        let sender = self.sender.borrow();
        let most = sender.as_ref().ok_or(NoPermit::Down)?.current_max_send_streams();
        if self.in_flight.get() >= most {
            return Err(NoPermit::Full { most });
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Ok(StreamPermit(Rc::clone(self)))
    }

    /// Waits until a permit may be available.
    pub(super) async fn wait_for_permit(&self) {
        self.permit_released.notified().await;
    }

    /// Fails if the server is not a rate-limit service. Sends an empty request, which counts nothing; any error
    /// of a rate-limit service is accepted.
    pub(super) async fn probe(&self, limit: Duration) -> anyhow::Result<()> {
        let nothing = Bytes::from_static(&[0; 5]);
        match timeout(limit, self.ask(nothing)).await {
            Ok(CallOutcome::Failed(Failure { code: Code::Unimplemented, message })) => Err(anyhow!(
                "what listens at {} is no rate-limit service: {message}\n--address says where the service \
                 listens for gRPC; its port for HTTP is another one.",
                self.target
            )),
            // Other errors appear in the report.
            Ok(CallOutcome::Admitted | CallOutcome::Denied | CallOutcome::Failed(_)) | Err(_) => Ok(()),
        }
    }

    /// Number of lost connections.
    pub(super) fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Sends a framed request and reads the answer.
    async fn ask(&self, request: Bytes) -> CallOutcome {
        match self.exchange(request).await {
            Ok(overall_code) if overall_code == pb::Code::Ok as i32 => CallOutcome::Admitted,
            Ok(overall_code) if overall_code == pb::Code::OverLimit as i32 => CallOutcome::Denied,
            Ok(_) => CallOutcome::Failed(Failure::new(Code::Unknown, "the answer has no overall code")),
            Err(failure) => CallOutcome::Failed(failure),
        }
    }

    async fn exchange(&self, request: Bytes) -> Result<i32, Failure> {
        let sender = self.sender.borrow().clone();
        let mut sender = sender.ok_or_else(|| Failure::new(Code::Unavailable, "no connection"))?;
        let generation = self.generation.get();
        let broken = |error: h2::Error| self.broken(&error, generation);
        let (answer, mut body) = sender.send_request(self.head.clone(), false).map_err(broken)?;
        body.send_data(request, true).map_err(broken)?;
        let (head, body) = answer.await.map_err(broken)?.into_parts();
        if let Some(failed) = status(&head.headers) {
            failed?;
        }
        if head.status != StatusCode::OK {
            return Err(Failure::new(of_http(head.status), format!("HTTP status {}", head.status)));
        }
        let (message, trailers) = read(body).await.map_err(broken)?;
        let no_status = || Err(Failure::new(Code::Internal, "the answer has no grpc-status"));
        trailers.as_ref().and_then(status).unwrap_or_else(no_status)?;
        decode(message).ok_or_else(|| Failure::new(Code::Internal, "the answer cannot be read"))
    }

    /// Failure of a request by an HTTP/2 error. Reconnects if the connection is closed.
    fn broken(&self, error: &h2::Error, generation: u64) -> Failure {
        // A reset stream does not close the connection.
        if !error.is_reset() {
            self.mark_lost(generation);
        }
        let message = match error.get_io() {
            Some(io) if io.kind() == io::ErrorKind::BrokenPipe => "the connection was closed".to_owned(),
            Some(io) => format!("the connection was lost: {io}"),
            None => error.to_string(),
        };
        Failure::new(Code::Unavailable, message)
    }
}

/// Permit for one request. The service bounds the requests in flight on a connection, and the HTTP/2 library
/// would queue further ones silently: their waiting time would count as latency of the service.
pub(super) struct StreamPermit(Rc<Connection>);

/// Reason for having no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPermit {
    /// The connection is down.
    Down,
    /// As many requests are in flight as the service allows on one connection.
    Full {
        /// Bound of the service on requests in flight.
        most: usize,
    },
}

impl StreamPermit {
    /// Sends a framed request and reads the answer.
    pub(super) async fn ask(self, request: Bytes) -> CallOutcome {
        self.0.ask(request).await
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.permit_released.notify_one();
    }
}

/// Reads a body, up to its bound, and its trailers.
async fn read(mut body: RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut message = Bytes::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if message.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(h2::Reason::CANCEL.into());
        }
        message = if message.is_empty() { data } else { [message, data].concat().into() };
    }
    Ok((message, body.trailers().await?))
}

/// Overall code of an answer; `None` unless the body is one uncompressed message.
fn decode(mut message: Bytes) -> Option<i32> {
    let is_plain = message.len() >= 5 && message.get_u8() == 0;
    let is_whole = is_plain && message.get_u32() as usize == message.len();
    if is_whole { Some(OverallCode::decode(message).ok()?.overall_code) } else { None }
}

/// The gRPC status in headers or trailers, if there is one.
fn status(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let status = headers.get("grpc-status")?;
    if status == "0" {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map_or(&[][..], |message| message.as_bytes());
    let message = percent_decode_str(std::str::from_utf8(message).unwrap_or_default()).decode_utf8_lossy();
    Some(Err(Failure::new(Code::from_bytes(status.as_bytes()), message)))
}

/// gRPC code for an HTTP status without a gRPC status.
fn of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests;
