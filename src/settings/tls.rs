//! TLS of the listeners.

use super::raw::{RawAdmin, RawTls};
use super::reader::Reader;
use crate::tls::{ClientAuth, Identity, PeerName, ServerTls, TlsError, TlsFile};

/// TLS of each listener; `None` for plain text.
pub(super) struct ListenerTls {
    pub(super) grpc: Option<ServerTls>,
    pub(super) http: Option<ServerTls>,
    pub(super) admin: Option<ServerTls>,
}

/// Reads the settings and checks the files. A setting that asks for more protection than the listener would have is
/// an error.
pub(super) fn read(raw: &RawTls, admin: &RawAdmin, reader: &mut Reader) -> ListenerTls {
    let use_grpc = reader.boolean("GRPC_SERVER_USE_TLS", &raw.grpc_server_use_tls);
    let use_http = reader.boolean("HTTP_SERVER_USE_TLS", &raw.http_server_use_tls);
    let use_admin = reader.boolean("ADMIN_SERVER_USE_TLS", &admin.admin_server_use_tls);
    let grpc_clients = clients(raw, use_grpc, reader);
    let admin_clients = admin_clients(admin, use_admin, reader);
    let users = [
        (use_grpc, "GRPC_SERVER_USE_TLS"),
        (use_http, "HTTP_SERVER_USE_TLS"),
        (use_admin, "ADMIN_SERVER_USE_TLS"),
    ];
    let first_user = users.iter().find(|(is_used, _)| *is_used).map(|(_, name)| *name);
    let identity = first_user.and_then(|name| identity(raw, name, reader));
    let tls = |is_used: bool, clients| {
        identity.clone().filter(|_| is_used).map(|identity| ServerTls { identity, clients })
    };
    let grpc = tls(use_grpc, grpc_clients);
    // Probes of Kubernetes have no certificate.
    let http = tls(use_http, None);
    let admin = tls(use_admin, admin_clients);
    for (tls, ca) in [
        (&grpc, "GRPC_CLIENT_TLS_CACERT"),
        (&http, "GRPC_CLIENT_TLS_CACERT"),
        (&admin, "ADMIN_CLIENT_TLS_CACERT"),
    ] {
        if let Some(error) = tls.as_ref().and_then(|tls| tls.check().err()) {
            report(error, ca, first_user.unwrap_or("GRPC_SERVER_USE_TLS"), reader);
            // The identity is the same for all.
            break;
        }
    }
    ListenerTls { grpc, http, admin }
}

fn identity(raw: &RawTls, asks: &str, reader: &mut Reader) -> Option<Identity> {
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

fn admin_clients(raw: &RawAdmin, use_tls: bool, reader: &mut Reader) -> Option<ClientAuth> {
    let path = raw.admin_client_tls_cacert.as_ref()?;
    if !use_tls {
        let expected =
            "nothing, since ADMIN_SERVER_USE_TLS is false and no client would be asked for a certificate";
        reader.error("ADMIN_CLIENT_TLS_CACERT", expected, Some(path));
        return None;
    }
    Some(ClientAuth { ca: path.into(), names: Vec::new(), is_optional: true })
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
        (Some(path), _) => Some(ClientAuth { ca: path.into(), names, is_optional: false }),
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

fn report(error: TlsError, ca: &'static str, asks: &'static str, reader: &mut Reader) {
    match error {
        TlsError::File { file, path, fault } => {
            let (name, expected) = match file {
                TlsFile::Ca => (ca, "a file of CA certificates"),
                TlsFile::Certificate => ("GRPC_SERVER_TLS_CERT", "a file of a certificate"),
                TlsFile::Key => ("GRPC_SERVER_TLS_KEY", "a file of the certificate's private key"),
            };
            reader.error(name, format!("{expected} ({fault})"), Some(&path.display().to_string()));
        }
        error @ (TlsError::NoAuthorities | TlsError::Unsupported(_)) => {
            reader.error(asks, format!("false ({error})"), None);
        }
    }
}
