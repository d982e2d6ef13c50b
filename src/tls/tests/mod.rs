mod files;
mod handshakes;
mod reload;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::engine::Timestamp;

/// An authority, and its certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = dir.join(format!("{name}.pem"));
        fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for the DNS name `host` and its key, in files.
    fn sign(&self, dir: &Path, host: &str) -> Identity {
        self.sign_with(dir, host, |params| params.subject_alt_names = vec![dns(host)])
    }

    fn sign_with(&self, dir: &Path, file: &str, set: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        set(&mut params);
        let files =
            Identity { certificate: dir.join(format!("{file}.crt")), key: dir.join(format!("{file}.key")) };
        fs::write(&files.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A client that trusts this authority alone.
    fn client(&self, identity: Option<Identity>) -> ClientTls {
        ClientTls { ca: Some(self.certificate.clone()), identity, verify_hostname: true }
    }

    /// A listener with `identity` to which the clients of this authority may connect.
    fn server(&self, identity: Identity, names: &[&str]) -> ServerTls {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        ServerTls {
            identity,
            clients: Some(ClientAuth { ca: self.certificate.clone(), names, is_optional: false }),
        }
    }
}

fn dns(name: &str) -> rcgen::SanType {
    rcgen::SanType::DnsName(name.try_into().unwrap())
}

fn uri(uri: &str) -> rcgen::SanType {
    rcgen::SanType::URI(uri.try_into().unwrap())
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A reloader to which it is 2026.
fn reloader() -> Arc<Reloader> {
    Reloader::new(|| Timestamp::from_secs(1_795_000_000))
}

/// Has `client` connect to `localhost`, which is `server`. The errors of the client and of the server's log.
async fn shake_hands(client: &LiveClient, server: &LiveServer) -> Result<(), (String, u64)> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async {
        if let Some(mut stream) = server.accept(far).await {
            stream.write_all(b"!").await.unwrap();
            stream.shutdown().await.ok();
        }
    };
    let connector = TlsConnector::from(client.config());
    let connect = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, near).await?;
        // With TLS 1.3, a server rejects the client's certificate after the client's handshake.
        stream.read_u8().await
    };
    let ((), connected) = tokio::join!(serve, connect);
    connected.map(drop).map_err(|error| (error.to_string(), server.handshake_failures()))
}

fn plain(identity: Identity) -> ServerTls {
    ServerTls { identity, clients: None }
}

fn live(reloader: &Reloader, client: &ClientTls, server: &ServerTls) -> (LiveClient, LiveServer) {
    (reloader.client("xds", client, &[b"h2"]).unwrap(), reloader.server("grpc", server, &[b"h2"]).unwrap())
}
