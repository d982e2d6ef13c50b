//! The name of a Redis server leads to another one while the service runs.

use std::fs;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;
use crate::support::load::{Caller, request};
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

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_resolved_again_for_each_connection() {
    let (mut first, second) = (Redis::start().await, Redis::start().await);
    let _forwarding = forward(("127.0.0.2", first.port()), second.port()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let hosts = dir.path().join("hosts");
    let leads_to = |address: &str| fs::write(&hosts, format!("{address} cache.example\n")).expect("a file");
    leads_to("127.0.0.1");
    // The service alone has this file in the place of the machine's.
    let sandbox = format!(
        "exec bwrap --unshare-user --die-with-parent --dev-bind / / --ro-bind '{}' /etc/hosts \"$0\"",
        hosts.display()
    );
    let url = format!("redis://cache.example:{}", first.port());
    let service =
        Tollgate::start_limited(&sandbox, &[("rules.yaml", RULES)], &[("REDIS_URL", url.as_str())]).await;
    let caller = Caller::connect(service.grpc).await;
    let ask = async || caller.ask(0, request("shop", &[("user", "a")])).await;
    eventually("the first server counts", async || ask().await == "OK").await;
    assert_eq!((first.len(), second.len()), (1, 0));

    leads_to("127.0.0.2");
    first.kill();
    eventually("the second server counts", async || ask().await == "OK").await;
    assert_eq!(second.len(), 1);
}
