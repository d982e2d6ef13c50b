//! A name of a server that leads elsewhere while the service runs.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The name that [`Hosts`] has.
pub(crate) const NAME: &str = "server.example";

/// Has connections to `address` reach the server at `target` of 127.0.0.1.
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

/// A file in the place of the machine's `/etc/hosts`. [`NAME`] leads to 127.0.0.1 at first.
pub(crate) struct Hosts(TempDir);

impl Hosts {
    pub(crate) fn new() -> Self {
        let hosts = Self(tempfile::tempdir().expect("a directory"));
        hosts.lead_to("127.0.0.1");
        hosts
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("hosts")
    }

    pub(crate) fn lead_to(&self, address: &str) {
        fs::write(self.path(), format!("{address} {NAME}\n")).expect("a file");
    }

    /// A line for the shell before it starts a service, which alone has this file.
    pub(crate) fn sandbox(&self) -> String {
        format!(
            "exec bwrap --unshare-user --die-with-parent --dev-bind / / --ro-bind '{}' /etc/hosts \"$0\"",
            self.path().display()
        )
    }
}
