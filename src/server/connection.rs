//! One connection, from its first byte to its last, on one core.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::connections::{Closing, Connection, OpenRequest};
use super::grpc::Grpc;
use super::listen::Stream;

/// Calls under way on one connection, at the most. A worker of Envoy has one connection, and 10,000
/// calls a second of 20 ms each are two hundred at a time.
const MAX_CONCURRENT_STREAMS: u32 = 2048;
/// Calls that a caller may take back before they were looked at. Envoy takes back every call that is 20
/// ms old; the default of 20 would close its connection after one moment of hesitation here.
const MAX_PENDING_RESETS: usize = 2048;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Time without an open request after which a peer that was asked to leave is not waited for any longer. One
/// that acknowledges the request leaves within a round trip.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// The same while a newcomer waits for its place.
const DISPLACED_TIMEOUT: Duration = Duration::from_millis(100);

/// Bounds on the lifetime of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Age at which a gRPC connection is asked to go, give or take a tenth, so that the connections of
    /// one moment do not all go in one; `None` for never.
    pub max_age: Option<Duration>,
    /// How long it may then finish its calls.
    pub max_age_grace: Duration,
    /// Time from accept to the first request that has arrived in full, on every port.
    pub first_request_timeout: Duration,
    /// Time that a gRPC connection may be without a request; `None` for no bound.
    pub grpc_idle_timeout: Option<Duration>,
    /// Time that an HTTP connection may be without a request; `None` for no bound.
    pub http_idle_timeout: Option<Duration>,
}

/// Ends the service, and with it its connections, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Accept no new calls; those in flight finish.
    pub drain: CancellationToken,
    /// End at once.
    pub now: CancellationToken,
}

/// Serves gRPC on `stream`.
pub(super) async fn serve_grpc(
    stream: Stream,
    connection: Arc<Connection>,
    grpc: Arc<Grpc>,
    settings: ConnectionSettings,
    shutdown: Shutdown,
) {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEADER_BYTES)
        // Nobody reads it, and it would be written for each answer.
        .auto_date_header(false);
    let service = grpc.on(Arc::clone(&connection));
    let max_age = settings.max_age.map(|age| (jittered(age), settings.max_age_grace));
    match open(stream, &connection, &shutdown).await {
        Some(Io::Tcp(io)) => {
            finish(http.serve_connection(io, service), &connection, max_age, shutdown).await;
        }
        Some(Io::Unix(io)) => {
            finish(http.serve_connection(io, service), &connection, max_age, shutdown).await;
        }
        None => {}
    }
}

/// Serves HTTP on `stream`, version 1 or 2, whichever the caller speaks.
pub(super) async fn serve_http(
    stream: Stream,
    connection: Arc<Connection>,
    router: axum::Router,
    shutdown: Shutdown,
) {
    let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Also what a request's head may have, and what is read of a body at a time.
    http.http1().max_buf_size(MAX_HEADER_BYTES as usize);
    http.http2().max_header_list_size(MAX_HEADER_BYTES);
    let service = Http { router, connection: Arc::clone(&connection) };
    match open(stream, &connection, &shutdown).await {
        Some(Io::Tcp(io)) => finish(http.serve_connection(io, service), &connection, None, shutdown).await,
        Some(Io::Unix(io)) => finish(http.serve_connection(io, service), &connection, None, shutdown).await,
        None => {}
    }
}

enum Io {
    Tcp(TokioIo<tokio::net::TcpStream>),
    Unix(TokioIo<tokio::net::UnixStream>),
}

/// Hands `stream` to the runtime of this core, once there is something to read: a connection without requests
/// takes no buffers. `None` if the connection ends before.
async fn open(stream: Stream, connection: &Connection, shutdown: &Shutdown) -> Option<Io> {
    let io = async {
        Ok::<_, io::Error>(match stream {
            Stream::Tcp(stream, _) => {
                let stream = tokio::net::TcpStream::from_std(stream)?;
                stream.readable().await?;
                Io::Tcp(TokioIo::new(stream))
            }
            Stream::Unix(stream) => {
                let stream = tokio::net::UnixStream::from_std(stream)?;
                stream.readable().await?;
                Io::Unix(TokioIo::new(stream))
            }
        })
    };
    tokio::select! {
        io = io => match io {
            Ok(io) => Some(io),
            Err(error) => {
                tracing::debug!(%error, "connection lost before its first byte");
                None
            }
        },
        _ = connection.closing(Closing::No) => None,
        () = shutdown.drain.cancelled() => None,
    }
}

/// Drives `http` until it ends by itself, or was asked to and has. `max_age` has its grace beside it.
async fn finish<C>(
    http: C,
    connection: &Connection,
    max_age: Option<(Duration, Duration)>,
    shutdown: Shutdown,
) where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut http = pin!(http);
    let mut grace = None;
    let mut closing = tokio::select! {
        outcome = http.as_mut() => return report(outcome),
        () = sleep_or_for_ever(max_age.map(|(age, _)| age)) => {
            grace = max_age.map(|(_, grace)| grace);
            Closing::Idle
        }
        closing = connection.closing(Closing::No) => closing,
        () = shutdown.drain.cancelled() => Closing::Idle,
        () = shutdown.now.cancelled() => Closing::Cut,
    };
    let deadline = grace.map(|grace| Instant::now() + grace);
    while closing < Closing::Cut {
        // GOAWAY, and over HTTP/1 the end of keep-alive.
        http.as_mut().graceful_shutdown();
        let grace = if closing == Closing::Displaced { DISPLACED_TIMEOUT } else { LEAVE_TIMEOUT };
        closing = tokio::select! {
            outcome = http.as_mut() => return report(outcome),
            () = connection.wait_until_quiet(grace) => Closing::Cut,
            closing = connection.closing(closing) => closing,
            () = sleep_until_or_for_ever(deadline) => {
                tracing::debug!("connection cut at the end of its grace");
                Closing::Cut
            }
            () = shutdown.now.cancelled() => Closing::Cut,
        };
    }
}

/// Errors of a connection are its peer's or its network's.
fn report(outcome: Result<(), impl std::fmt::Display>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection failed");
    }
}

async fn sleep_or_for_ever(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_or_for_ever(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The routes of an HTTP connection, with an account of its requests.
struct Http {
    router: axum::Router,
    connection: Arc<Connection>,
}

impl hyper::service::Service<http::Request<Incoming>> for Http {
    type Response = http::Response<Counted<AxumBody>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let mut open = self.connection.open(Instant::now());
        let request = request.map(|body| Received { body, connection: Arc::clone(&self.connection) });
        // A router is always ready.
        let response = self.router.clone().call(request);
        Box::pin(async move {
            let response = response.await?;
            open.received();
            open.answered();
            Ok(response.map(|body| Counted { body, _open: open }))
        })
    }
}

/// A request's body; notes when it has arrived.
struct Received {
    body: Incoming,
    connection: Arc<Connection>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.connection.received();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let is_end = self.body.is_end_stream();
        if is_end {
            self.connection.received();
        }
        is_end
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; its request is open until it was sent.
pub(super) struct Counted<B> {
    body: B,
    _open: OpenRequest,
}

impl<B> Counted<B> {
    pub(super) const fn new(body: B, open: OpenRequest) -> Self {
        Self { body, _open: open }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
