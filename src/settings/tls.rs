//! TLS of the listeners.

use super::raw::RawTls;
use super::reader::Reader;
use crate::tls::{ClientAuth, Identity, PeerName, ServerTls, TlsError, TlsFile};

/// TLS of each listener; `None` for plain text.
pub(super) struct ListenerTls {
    pub(super) grpc: Option<ServerTls>,
    pub(super) http: Option<ServerTls>,
}

/// Reads the settings and checks the files. A setting that asks for more protection than the listener would have is
/// an error.
pub(super) fn read(raw: &RawTls, reader: &mut Reader) -> ListenerTls {
    let use_grpc = reader.boolean("GRPC_SERVER_USE_TLS", &raw.grpc_server_use_tls);
    let use_http = reader.boolean("HTTP_SERVER_USE_TLS", &raw.http_server_use_tls);
    let clients = clients(raw, use_grpc, reader);
    let identity = if use_grpc || use_http { identity(raw, use_grpc, reader) } else { None };
    let tls = identity.map(|identity| ServerTls { identity, clients });
    if let Some(error) = tls.as_ref().and_then(|tls| tls.check().err()) {
        report(error, reader);
    }
    ListenerTls {
        grpc: tls.clone().filter(|_| use_grpc),
        // Probes of Kubernetes have no certificate.
        http: tls.filter(|_| use_http).map(|tls| ServerTls { clients: None, ..tls }),
    }
}

fn identity(raw: &RawTls, use_grpc: bool, reader: &mut Reader) -> Option<Identity> {
    let asks = if use_grpc { "GRPC_SERVER_USE_TLS" } else { "HTTP_SERVER_USE_TLS" };
    let mut path = |name, path: &Option<String>, what| {
        if path.is_none() {
            reader.error(name, format!("the file of the {what}, since {asks} is true"), None);
        }
        path.as_ref().map(Into::into)
    };
    let certificate = path("GRPC_SERVER_TLS_CERT", &raw.grpc_server_tls_cert, "certificate");
    let key = path("GRPC_SERVER_TLS_KEY", &raw.grpc_server_tls_key, "certificate's private key");
    Some(Identity { certificate: certificate?, key: key? })
}

fn clients(raw: &RawTls, use_grpc: bool, reader: &mut Reader) -> Option<ClientAuth> {
    let names = raw.grpc_client_tls_san.as_deref().map(|text| names(text, reader)).unwrap_or_default();
    match (&raw.grpc_client_tls_cacert, &raw.grpc_client_tls_san) {
        (Some(path), _) if !use_grpc => {
            let expected =
                "nothing, since GRPC_SERVER_USE_TLS is false and no client would be asked for a certificate";
            reader.error("GRPC_CLIENT_TLS_CACERT", expected, Some(path));
            None
        }
        (Some(path), _) => Some(ClientAuth { ca: path.into(), names }),
        (None, Some(text)) => {
            let expected = "nothing, since GRPC_CLIENT_TLS_CACERT is not set and no client would be asked for a certificate";
            reader.error("GRPC_CLIENT_TLS_SAN", expected, Some(text));
            None
        }
        (None, None) => None,
    }
}

fn names(text: &str, reader: &mut Reader) -> Vec<PeerName> {
    let expected = "DNS names, IP addresses or URIs, separated by commas";
    let parse = |text: &str| {
        let names = text.split(',').map(|name| name.trim().parse().ok());
        names.collect::<Option<Vec<PeerName>>>()
    };
    reader.read("GRPC_CLIENT_TLS_SAN", text, expected, parse).unwrap_or_default()
}

fn report(error: TlsError, reader: &mut Reader) {
    match error {
        TlsError::File { file, path, fault } => {
            let (name, expected) = match file {
                TlsFile::Ca => ("GRPC_CLIENT_TLS_CACERT", "a file of CA certificates"),
                TlsFile::Certificate => ("GRPC_SERVER_TLS_CERT", "a file of a certificate"),
                TlsFile::Key => ("GRPC_SERVER_TLS_KEY", "a file of the certificate's private key"),
            };
            reader.error(name, format!("{expected} ({fault})"), Some(&path.display().to_string()));
        }
        error @ (TlsError::NoAuthorities | TlsError::Unsupported(_)) => {
            reader.error("GRPC_SERVER_USE_TLS", format!("false ({error})"), None);
        }
    }
}
