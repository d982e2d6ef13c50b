//! The name of a Redis server leads to another one while the service runs.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;
use crate::support::load::{Caller, request};
use crate::support::proxy::{Passage, Proxy};
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1000000}}
";

/// Has connections to `address` reach the server at `target` of 127.0.0.1.
async fn forward(address: (&str, u16), target: u16) -> AbortOnDropHandle<()> {
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

/// The service alone has this file in the place of the machine's `/etc/hosts`. `cache.example` leads to 127.0.0.1.
struct Hosts(TempDir);

impl Hosts {
    fn new() -> Self {
        let hosts = Self(tempfile::tempdir().expect("a directory"));
        hosts.lead_to("127.0.0.1");
        hosts
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("hosts")
    }

    fn lead_to(&self, address: &str) {
        fs::write(self.path(), format!("{address} cache.example\n")).expect("a file");
    }

    /// A service that counts at this port of the name, and a caller.
    async fn start(&self, port: u16) -> (Tollgate, Caller) {
        let sandbox = format!(
            "exec bwrap --unshare-user --die-with-parent --dev-bind / / --ro-bind '{}' /etc/hosts \"$0\"",
            self.path().display()
        );
        let url = format!("redis://cache.example:{port}");
        let environment = [("REDIS_URL", url.as_str())];
        let service = Tollgate::start_limited(&sandbox, &[("rules.yaml", RULES)], &environment).await;
        let caller = Caller::connect(service.grpc).await;
        (service, caller)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_resolved_again_for_each_connection() {
    let (mut first, second) = (Redis::start().await, Redis::start().await);
    let _forwarding = forward(("127.0.0.2", first.port()), second.port()).await;
    let hosts = Hosts::new();
    let (_service, caller) = hosts.start(first.port()).await;
    let ask = async || caller.ask(0, request("shop", &[("user", "a")])).await;
    eventually("the first server counts", async || ask().await == "OK").await;
    assert_eq!((first.len(), second.len()), (1, 0));

    hosts.lead_to("127.0.0.2");
    first.kill();
    eventually("the second server counts", async || ask().await == "OK").await;
    assert_eq!(second.len(), 1);
}

/// The old server still takes connections and bytes, and answers nothing, as a frozen machine does behind a balancer.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_left_for_the_one_that_its_name_leads_to_now() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let proxy = Proxy::start(first.port()).await;
    let _forwarding = forward(("127.0.0.2", proxy.port()), second.port()).await;
    let hosts = Hosts::new();
    let (_service, caller) = hosts.start(proxy.port()).await;
    let ask = async |turn| caller.ask(turn, request("shop", &[("user", "a")])).await;
    eventually("the first server counts", async || ask(0).await == "OK").await;

    proxy.set(Passage::Shut);
    eventually("calls fail", async || ask(0).await != "OK").await;
    let counted = first.command(["GET", first.command(["KEYS", "*user*"]).as_str()]);
    hosts.lead_to("127.0.0.2");
    for turn in 0..4 {
        eventually("the second server counts", async || ask(turn).await == "OK").await;
    }
    assert_eq!(second.len(), 1);
    let still = first.command(["GET", first.command(["KEYS", "*user*"]).as_str()]);
    assert_eq!(still, counted, "nothing is counted at the old one any more");
}
