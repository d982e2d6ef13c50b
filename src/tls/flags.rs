//! Flags of commands that call a service over TLS.

use std::io;
use std::path::PathBuf;

use clap::Args;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{ClientTls, LiveClient};
use super::files::{Identity, TlsError};

/// TLS of a command that calls a service.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsFlags {
    /// Connect over TLS. Implied by the other flags of TLS.
    #[arg(long)]
    tls: bool,
    /// File of trusted CA certificates, in PEM. Unset: those of the system.
    #[arg(long, value_name = "PATH")]
    tls_cacert: Option<PathBuf>,
    /// File of the client certificate, in PEM. Needs the key.
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// File of the client certificate's private key, in PEM.
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Name that the certificate of the service must have. Unset: the host of the address.
    #[arg(long, value_name = "HOST", value_parser = server_name)]
    tls_server_name: Option<ServerName<'static>>,
    /// Accept a certificate for another host name. Its signature is still checked.
    #[arg(long)]
    tls_skip_hostname_verification: bool,
}

fn server_name(text: &str) -> Result<ServerName<'static>, &'static str> {
    ServerName::try_from(text.to_owned()).map_err(|_| "expected a DNS name or an IP address")
}

/// TLS of such a command, with its files read.
#[derive(Clone, Debug)]
pub struct TlsClient {
    client: LiveClient,
    server_name: Option<ServerName<'static>>,
}

impl TlsFlags {
    /// Reads the files; `None` for plain text, unless `address` begins with `https`.
    ///
    /// # Errors
    /// [`TlsError`] with the first file that cannot be used, and why.
    pub fn client(&self, address: &str) -> Result<Option<TlsClient>, TlsError> {
        self.client_speaking(address, b"h2")
    }

    /// Client for a server of HTTP/1.1 at `address`; `None` without TLS.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn http_client(&self, address: &str) -> Result<Option<TlsClient>, TlsError> {
        self.client_speaking(address, b"http/1.1")
    }

    fn client_speaking(&self, address: &str, protocol: &[u8]) -> Result<Option<TlsClient>, TlsError> {
        if !self.is_used(address) {
            return Ok(None);
        }
        let pair = self.tls_cert.clone().zip(self.tls_key.clone());
        let settings = ClientTls {
            ca: self.tls_cacert.clone(),
            identity: pair.map(|(certificate, key)| Identity { certificate, key }),
            verify_hostname: !self.tls_skip_hostname_verification,
        };
        let client = LiveClient::read_once(&settings, &[protocol])?;
        Ok(Some(TlsClient { client, server_name: self.tls_server_name.clone() }))
    }

    /// Flags that may be missing if the service at `address` closes the connection without an answer: a line
    /// break and a sentence, or empty.
    pub fn advice_on_lost_connection(&self, address: &str) -> &'static str {
        if !self.is_used(address) {
            "\nIf the service uses TLS, set --tls."
        } else if self.tls_cert.is_none() {
            "\nIf the service asks for a client certificate, set --tls-cert and --tls-key."
        } else {
            ""
        }
    }

    fn is_used(&self, address: &str) -> bool {
        self.tls
            || address.starts_with("https://")
            || self.tls_cacert.is_some()
            || self.tls_cert.is_some()
            || self.tls_server_name.is_some()
            || self.tls_skip_hostname_verification
    }
}

impl TlsClient {
    /// Completes the handshake on `stream`, which is connected to `host`.
    ///
    /// # Errors
    /// The reason why the handshake failed.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(self.client.config());
        let explain = |error: io::Error| io::Error::new(error.kind(), self.client.explain(error.to_string()));
        connector.connect(name, stream).await.map_err(explain)
    }
}
