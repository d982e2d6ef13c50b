//! Rules from a management server, over Envoy's discovery protocol (xDS).
//!
//! [`XdsProvider`] keeps a stream open, publishes the rules that arrive, and accepts (ACK) or refuses (NACK) each
//! response. Rules stay in force while the server is away. Modules without I/O: the two variants of the protocol
//! (`sotw`, `delta`), the snapshot of resources, and bounds on the size and the rate of responses (`wire`, `pace`).

mod backoff;
mod cache;
mod client;
mod connect;
mod delta;
mod document;
mod merge;
mod pace;
mod protocol;
mod resource;
mod snapshot;
mod sotw;
mod status;
mod stream;
mod wire;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use self::backoff::Backoff;
use self::client::{Client, End};
use super::publish::Publisher;
use crate::clock::Clock;
use crate::tls::{ClientTls, Reloader, TlsError};

pub use self::backoff::BackoffSettings;
use self::connect::ConnectTls;
pub use self::connect::ServerAddress;
pub use self::protocol::Variant;
pub use self::resource::Resource;
pub use self::status::XdsStatus;

/// Life of a stream with a response after which the back-off is reset.
const LIFE_WITH_RESPONSE: Duration = Duration::from_secs(10);
/// Life of a stream without a response after which the back-off is reset.
const LIFE: Duration = Duration::from_secs(60);

/// Connection to a management server.
#[derive(Clone, Debug, PartialEq)]
pub struct XdsSettings {
    /// Variant of the protocol.
    pub variant: Variant,
    /// Address of the server.
    pub server: ServerAddress,
    /// Name of this client, by which the server selects its rules.
    pub node_id: String,
    /// Names and values of further properties of the client.
    pub node_metadata: Vec<(String, String)>,
    /// Headers of the stream's request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// TLS; `None` for plain text.
    pub tls: Option<XdsTls>,
    /// Waits between attempts to connect.
    pub backoff: BackoffSettings,
    /// Upper bound on a response, in bytes.
    pub max_message_bytes: usize,
    /// Interval of HTTP/2 pings; `None` for none.
    pub ping_interval: Option<Duration>,
    /// Time for which resources that are missing from a new stream stay in force.
    pub removal_grace: Duration,
    /// File in which the rules in force are kept for the next start; `None` for none.
    pub cache_file: Option<PathBuf>,
}

/// TLS to a management server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdsTls {
    /// Authorities and identity.
    pub client: ClientTls,
    /// Name that the server's certificate must have; `None` for the host of the address.
    pub server_name: Option<String>,
}

/// Failure that ends the reception of rules.
#[derive(Debug, thiserror::Error)]
#[error("loading rules from the management server failed: {0}")]
pub struct XdsProviderError(#[from] tokio::task::JoinError);

/// Provider that keeps the rules in force up to date with a management server.
pub struct XdsProvider {
    client: Client,
    backoff: Backoff,
    wake: Arc<Notify>,
}

impl XdsProvider {
    /// Publishes the rules in the cache file, if there is one. Blocks the thread. A notification of `wake` ends a wait
    /// between attempts to connect. Each connection uses the certificates and keys that `certificates` read last.
    ///
    /// # Errors
    /// [`TlsError`] for the first file that cannot be used.
    pub fn load(
        settings: XdsSettings,
        publisher: Publisher,
        clock: Arc<dyn Clock>,
        wake: Arc<Notify>,
        certificates: &Reloader,
    ) -> Result<Self, TlsError> {
        let tls = settings.tls.as_ref().map(|XdsTls { client, server_name }| {
            let client = certificates.client("xds", client, &[b"h2"])?;
            Ok(ConnectTls { client, server_name: server_name.clone() })
        });
        let tls = tls.transpose()?;
        let backoff = Backoff::new(settings.backoff);
        let mut client = Client::new(settings, publisher, clock, tls);
        client.load_cache();
        Ok(Self { client, backoff, wake })
    }

    /// State of the connection.
    pub fn status(&self) -> Arc<XdsStatus> {
        self.client.status()
    }

    /// Receives rules for ever.
    ///
    /// # Errors
    /// [`XdsProviderError`] if a load panics. The rules in force stay.
    pub async fn run(self) -> Result<Infallible, XdsProviderError> {
        let Self { mut client, mut backoff, wake } = self;
        let mut logged = None;
        loop {
            let begun = Instant::now();
            let End { reason, has_connected, has_delivered, retry } = client.stream().await?;
            client.status().set_disconnected(&reason);
            let life = if has_delivered { LIFE_WITH_RESPONSE } else { LIFE };
            if has_connected && begun.elapsed() >= life {
                backoff.reset();
                logged = None;
            }
            let wait = match retry {
                client::Retry::AtOnce => Duration::ZERO,
                client::Retry::Soon => backoff.next(has_connected, fastrand::f64()),
                client::Retry::Later => backoff.longest(fastrand::f64()),
            };
            let server = client.server();
            if retry == client::Retry::AtOnce {
                tracing::info!(%server, reason, "xDS stream renewed");
            } else if logged.as_ref() == Some(&reason) {
                tracing::debug!(%server, error = reason, retry_in = ?wait, "xDS stream ended");
            } else {
                tracing::warn!(%server, error = reason, retry_in = ?wait, "xDS stream ended; the rules stay in force");
                logged = Some(reason);
            }
            // After the wait or a notification, it is time to connect.
            timeout(wait, wake.notified()).await.ok();
        }
    }
}
