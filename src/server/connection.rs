//! One connection, from its first byte to its last, on one core.

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;

use super::grpc::Grpc;
use super::listen::Stream;

/// Calls under way on one connection, at the most. A worker of Envoy has one connection, and 10,000
/// calls a second of 20 ms each are two hundred at a time.
const MAX_CONCURRENT_STREAMS: u32 = 2048;
/// Calls that a caller may take back before they were looked at. Envoy takes back every call that is 20
/// ms old; the default of 20 would close its connection after one moment of hesitation here.
const MAX_PENDING_RESETS: usize = 2048;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// How long a connection may be open before it says anything, and how long a request's headers may take
/// over HTTP/1.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);

/// When connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Age at which a gRPC connection is asked to go, give or take a tenth, so that the connections of
    /// one moment do not all go in one; `None` for never.
    pub max_age: Option<Duration>,
    /// How long it may then finish its calls.
    pub max_age_grace: Duration,
}

/// What ends connections, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    /// No new calls; those under way finish.
    pub(super) drain: CancellationToken,
    /// At once.
    pub(super) cut: CancellationToken,
}

/// Serves gRPC on `stream`.
pub(super) async fn serve_grpc(stream: Stream, grpc: Grpc, settings: ConnectionSettings, ending: Ending) {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEADER_BYTES)
        // Nobody reads it, and it would be written for each answer.
        .auto_date_header(false);
    let service = TowerToHyperService::new(grpc);
    match open(stream, &ending).await {
        Some(Opened::Tcp(io)) => finish(http.serve_connection(io, service), Some(settings), ending).await,
        Some(Opened::Unix(io)) => finish(http.serve_connection(io, service), Some(settings), ending).await,
        None => {}
    }
}

/// Serves HTTP on `stream`, version 1 or 2, whichever the caller speaks.
pub(super) async fn serve_http(stream: Stream, router: axum::Router, ending: Ending) {
    let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(FIRST_BYTES_TIMEOUT);
    http.http2().max_header_list_size(MAX_HEADER_BYTES);
    let service = TowerToHyperService::new(router);
    match open(stream, &ending).await {
        Some(Opened::Tcp(io)) => finish(http.serve_connection(io, service), None, ending).await,
        Some(Opened::Unix(io)) => finish(http.serve_connection(io, service), None, ending).await,
        None => {}
    }
}

enum Opened {
    Tcp(TokioIo<tokio::net::TcpStream>),
    Unix(TokioIo<tokio::net::UnixStream>),
}

/// Hands `stream` to the runtime of this core, once there is something to read. `None` where there
/// never is: who connects and says nothing takes no place for long.
async fn open(stream: Stream, ending: &Ending) -> Option<Opened> {
    let opened = async {
        Ok::<_, io::Error>(match stream {
            Stream::Tcp(stream) => {
                let stream = tokio::net::TcpStream::from_std(stream)?;
                stream.readable().await?;
                Opened::Tcp(TokioIo::new(stream))
            }
            Stream::Unix(stream) => {
                let stream = tokio::net::UnixStream::from_std(stream)?;
                stream.readable().await?;
                Opened::Unix(TokioIo::new(stream))
            }
        })
    };
    tokio::select! {
        opened = tokio::time::timeout(FIRST_BYTES_TIMEOUT, opened) => match opened {
            Ok(Ok(opened)) => Some(opened),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection was lost before it began");
                None
            }
            Err(_) => None,
        },
        () = ending.drain.cancelled() => None,
    }
}

/// Drives `connection` until it ends by itself, or is asked to and has.
async fn finish<C>(connection: C, settings: Option<ConnectionSettings>, ending: Ending)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let max_age = settings.and_then(|settings| settings.max_age);
    let grace = settings.map(|settings| settings.max_age_grace);
    let aged = tokio::select! {
        outcome = connection.as_mut() => return tell(outcome),
        () = sleep_or_for_ever(max_age.map(jittered)) => true,
        () = ending.drain.cancelled() => false,
        () = ending.cut.cancelled() => return,
    };
    // GOAWAY, and over HTTP/1 the end of keep-alive.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        outcome = connection.as_mut() => tell(outcome),
        () = sleep_or_for_ever(grace.filter(|_| aged)) => tracing::debug!("a connection outlived its grace"),
        () = ending.cut.cancelled() => {}
    }
}

/// What goes wrong on a connection is its peer's doing or its network's: no reason to alarm anybody.
fn tell(outcome: Result<(), impl std::fmt::Display>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn sleep_or_for_ever(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}
