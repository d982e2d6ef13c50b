//! Address of the service: parsing and connecting.

use std::fmt;
use std::io;
use std::str::FromStr;

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::tls::TlsClient;

/// Address in the format of `query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Host and port; the host is resolved for each connection.
    Tcp(Authority),
    /// The path of a unix socket.
    Unix(String),
}

/// The port of `http://host`.
const DEFAULT_PORT: u16 = 80;

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected host:port, http://host:port or unix:/path/of/a.sock";
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.is_empty() { Err(expected.into()) } else { Ok(Self::Unix(path.to_owned())) };
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let authority: Authority = authority.parse().map_err(|_| expected)?;
        // A port that is not a number is treated as missing.
        let is_whole = authority.as_str() == authority.host() || authority.port_u16().is_some();
        let is_plain = is_whole && !authority.host().is_empty() && !authority.as_str().contains('@');
        if is_plain { Ok(Self::Tcp(authority)) } else { Err(expected.into()) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => authority.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A connected socket.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket for T {}

impl Target {
    /// Connects, over `tls` if there is one.
    pub(super) async fn connect(&self, tls: Option<&TlsClient>) -> io::Result<Box<dyn Socket>> {
        match self {
            Self::Tcp(authority) => {
                let host = authority.host().trim_start_matches('[').trim_end_matches(']');
                let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
                let stream = TcpStream::connect((host, port)).await?;
                // Delayed sending would be measured as latency.
                stream.set_nodelay(true)?;
                over(tls, host, stream).await
            }
            Self::Unix(path) => over(tls, "localhost", UnixStream::connect(path).await?).await,
        }
    }

    /// The `:authority` of requests.
    pub(super) fn authority(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority.as_str(),
            Self::Unix(_) => "localhost",
        }
    }
}

async fn over(
    tls: Option<&TlsClient>,
    host: &str,
    stream: impl Socket + 'static,
) -> io::Result<Box<dyn Socket>> {
    Ok(match tls {
        Some(tls) => Box::new(tls.connect(host, stream).await?),
        None => Box::new(stream),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_in_every_form_of_query_s() {
        for (text, expected) in [
            ("127.0.0.1:8081", Some("127.0.0.1:8081")),
            ("http://limits.example:1", Some("limits.example:1")),
            ("http://limits.example:1/", Some("limits.example:1")),
            ("[::1]:8081", Some("[::1]:8081")),
            ("localhost", Some("localhost")),
            ("unix:/run/a.sock", Some("unix:/run/a.sock")),
            ("unix:///run/a.sock", Some("unix:/run/a.sock")),
            ("unix:", None),
            ("https://limits.example", None),
            ("limits.example:99999", None),
            ("user@limits.example:1", None),
            ("not an address", None),
            (":8081", None),
            ("", None),
        ] {
            let read = text.parse::<Target>().ok().map(|target| target.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
