//! The name of a server, whose address changes while the service runs.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The name that [`Hosts`] has.
pub(crate) const NAME: &str = "server.example";

/// Forwards connections to `address` to the port `target` of 127.0.0.1.
pub(crate) async fn forward(address: (&str, u16), target: u16) -> AbortOnDropHandle<()> {
    let listener = TcpListener::bind(address).await.expect("an address of this machine");
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await {
                    copy_bidirectional(&mut client, &mut server).await.ok();
                }
            });
        }
    }))
}

/// A file that replaces `/etc/hosts`. At first, [`NAME`] resolves to 127.0.0.1.
pub(crate) struct Hosts(TempDir);

impl Hosts {
    pub(crate) fn new() -> Self {
        let hosts = Self(tempfile::tempdir().expect("a directory"));
        hosts.resolve_to("127.0.0.1");
        hosts
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("hosts")
    }

    pub(crate) fn resolve_to(&self, address: &str) {
        fs::write(self.path(), format!("{address} {NAME}\n")).expect("a file");
    }

    /// Shell command that starts a service for which, alone, this file is `/etc/hosts`.
    pub(crate) fn sandbox(&self) -> String {
        format!(
            "exec bwrap --unshare-user --die-with-parent --dev-bind / / --ro-bind '{}' /etc/hosts \"$0\"",
            self.path().display()
        )
    }
}
