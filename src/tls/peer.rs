//! Names in the certificates of clients.

use std::fmt;
use std::str::FromStr;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio_rustls::server::TlsStream;

use super::der::names;

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// A DNS name, which a wildcard in the certificate may match, or an IP address.
    Host(ServerName<'static>),
    /// A URI, such as a SPIFFE id, compared byte by byte.
    Uri(String),
}

impl FromStr for PeerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            return Ok(Self::Uri(text.to_owned()));
        }
        let name = ServerName::try_from(text.to_owned());
        name.map(Self::Host).map_err(|_| "expected a DNS name, an IP address or a URI")
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(&name.to_str()),
            Self::Uri(uri) => f.write_str(uri),
        }
    }
}

impl PeerName {
    /// True if `certificate` has this name.
    pub(super) fn is_in(&self, certificate: &CertificateDer<'_>) -> bool {
        let (Ok(parsed), Some(names)) = (ParsedCertificate::try_from(certificate), names(certificate)) else {
            return false;
        };
        match self {
            Self::Host(name) => {
                verify_server_name(&parsed, name).is_ok()
                    || names.dns.iter().any(|found| is_below_label(&name.to_str(), found))
            }
            Self::Uri(uri) => names.uris.iter().any(|found| found == uri),
        }
    }
}

/// Certificate that a client proved to own, signed by an authority of the listener.
#[derive(Clone, Debug)]
pub struct ClientCertificate(CertificateDer<'static>);

impl ClientCertificate {
    /// The certificate of the client at the other end of `stream`; `None` if it presented none.
    pub fn of<S>(stream: &TlsStream<S>) -> Option<Self> {
        let (_, connection) = stream.get_ref();
        Some(Self(connection.peer_certificates()?.first()?.clone().into_owned()))
    }

    /// True if the certificate has `name`.
    pub fn has(&self, name: &PeerName) -> bool {
        name.is_in(&self.0)
    }
}

/// True if `pattern` is a wildcard for the names below a single label, and `name` is one of them: `envoy.prod` and
/// `*.prod`. Envoy Gateway makes such certificates, for its namespace; webpki wants two labels after the wildcard, as
/// in public certificates.
fn is_below_label(name: &str, pattern: &str) -> bool {
    let parts = name.split_once('.').zip(pattern.strip_prefix("*."));
    parts.is_some_and(|((first, rest), label)| {
        !first.is_empty() && !label.contains('.') && rest.eq_ignore_ascii_case(label)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_matches_one_label() {
        for (name, pattern, expected) in [
            ("envoy.prod", "*.prod", true),
            ("Envoy.PROD", "*.prod", true),
            ("a.envoy.prod", "*.prod", false),
            ("prod", "*.prod", false),
            (".prod", "*.prod", false),
            ("envoy.prod", "prod", false),
            ("envoy.prod", "*", false),
            ("envoy.prod.example", "*.prod.example", false),
        ] {
            assert_eq!(is_below_label(name, pattern), expected, "{name} {pattern}");
        }
    }
}
