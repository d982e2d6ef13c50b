//! Life of one connection on its core.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioExecutor;
use hyper_util::server::graceful::GracefulConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::connections::{Closing, Connection};
use super::grpc::Grpc;
use super::tracked_body::{EventStream, SEND_BUFFER_BYTES, TrackedBody};
use super::transport::{Io, Transport, open};
use crate::tls::ClientCertificate;

/// Upper bound on concurrent calls per connection. A worker of Envoy has one connection, and 10,000 calls a
/// second of 20 ms are 200 at a time.
const MAX_CONCURRENT_STREAMS: u32 = 2048;
/// Upper bound on calls that the peer resets before they are accepted. Envoy resets every call after its
/// timeout of 20 ms; with hyper's default of 20, a short stall here would close the connection.
const MAX_PENDING_RESETS: usize = 2048;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Time without an open request after which a connection is cut that got a GOAWAY. A well-behaved peer closes
/// it within a round trip.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// [`LEAVE_TIMEOUT`] of a connection whose slot a new connection waits for.
const DISPLACED_TIMEOUT: Duration = Duration::from_millis(100);

/// Bounds on the lifetime of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Age at which a gRPC connection gets a GOAWAY, randomised by a tenth so that connections that were opened
    /// together do not close together; `None` for never.
    pub max_age: Option<Duration>,
    /// Time that it then has to finish its calls.
    pub max_age_grace: Duration,
    /// Upper bound on the time from accept to the first complete request, on every port.
    pub first_request_timeout: Duration,
    /// Upper bound on the time without a request on a gRPC connection; `None` for no bound.
    pub grpc_idle_timeout: Option<Duration>,
    /// Upper bound on the time without a request on an HTTP connection; `None` for no bound.
    pub http_idle_timeout: Option<Duration>,
}

/// Shutdown of the service and its connections, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Accept no new calls; those in flight finish.
    pub drain: CancellationToken,
    /// End at once.
    pub now: CancellationToken,
}

/// Serves gRPC on `transport`.
pub(super) async fn serve_grpc(
    transport: Transport,
    connection: Arc<Connection>,
    grpc: Arc<Grpc>,
    settings: ConnectionSettings,
    shutdown: Shutdown,
) {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        // Envoy does not use it, and it costs 1.5 % of a request.
        .auto_date_header(false);
    let service = grpc.on(Arc::clone(&connection));
    let max_age = settings.max_age.map(|age| (jittered(age), settings.max_age_grace));
    match open(transport, &connection, &shutdown.drain).await {
        Some(Io::Tcp(io)) => {
            finish(http.serve_connection(io, service), &connection, max_age, shutdown).await;
        }
        Some(Io::Unix(io)) => {
            finish(http.serve_connection(io, service), &connection, max_age, shutdown).await;
        }
        Some(Io::Tls(io)) => {
            finish(http.serve_connection(io, service), &connection, max_age, shutdown).await;
        }
        None => {}
    }
}

/// Serves HTTP/1 or HTTP/2 on `transport`.
pub(super) async fn serve_http(
    transport: Transport,
    connection: Arc<Connection>,
    router: axum::Router,
    shutdown: Shutdown,
) {
    let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Also bounds the head of a request and each read of a body.
    http.http1().max_buf_size(MAX_HEADER_BYTES as usize);
    http.http2().max_header_list_size(MAX_HEADER_BYTES).max_send_buf_size(SEND_BUFFER_BYTES);
    let service = Http { router, connection: Arc::clone(&connection) };
    match open(transport, &connection, &shutdown.drain).await {
        Some(Io::Tcp(io)) => finish(http.serve_connection(io, service), &connection, None, shutdown).await,
        Some(Io::Unix(io)) => finish(http.serve_connection(io, service), &connection, None, shutdown).await,
        Some(Io::Tls(io)) => {
            let certificate = ClientCertificate::of(io.inner());
            let service = match certificate {
                None => service,
                Some(certificate) => service.with(certificate),
            };
            finish(http.serve_connection(io, service), &connection, None, shutdown).await;
        }
        None => {}
    }
}

/// Drives `http` until it has ended, by itself or after a shutdown. `max_age` is the age and the grace period.
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
        // Sends GOAWAY, or over HTTP/1 ends keep-alive.
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

/// Logs at debug level: errors of a connection are caused by its peer or the network.
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

/// Router of an HTTP connection that records its requests.
struct Http {
    router: axum::Router,
    connection: Arc<Connection>,
}

impl Http {
    fn with(self, certificate: ClientCertificate) -> Self {
        Self { router: self.router.layer(Extension(certificate)), ..self }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Http {
    type Response = http::Response<TrackedBody<AxumBody>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let mut open = self.connection.open(Instant::now());
        if request.body().is_end_stream() {
            // A page that takes long must not look like a request that does.
            open.received();
        }
        let request = request.map(|body| Received { body, connection: Arc::clone(&self.connection) });
        // A router is always ready.
        let response = self.router.clone().call(request);
        Box::pin(async move {
            let response = response.await?;
            open.received();
            open.answered(response.body().size_hint().lower());
            let is_event_stream = response.extensions().get::<EventStream>().is_some();
            let body = if is_event_stream { TrackedBody::of_events } else { TrackedBody::new };
            Ok(response.map(|response| body(response, open)))
        })
    }
}

/// Body of a request; records when it has arrived.
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
