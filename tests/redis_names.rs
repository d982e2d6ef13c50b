//! The name of a Redis server begins to resolve to another server while the service runs.

use crate::support::eventually;
use crate::support::hosts::{self, Hosts, forward};
use crate::support::load::{Caller, request};
use crate::support::proxy::{Passage, Proxy};
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1000000}}
";

/// A service whose Redis is at this port of [`hosts::NAME`], and a caller.
async fn start(hosts: &Hosts, port: u16) -> (Tollgate, Caller) {
    let url = format!("redis://{}:{port}", hosts::NAME);
    let environment = [("REDIS_URL", url.as_str())];
    let service = Tollgate::start_limited(&hosts.sandbox(), &[("rules.yaml", RULES)], &environment).await;
    let caller = Caller::connect(service.grpc).await;
    (service, caller)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_resolved_again_for_each_connection() {
    let (mut first, second) = (Redis::start().await, Redis::start().await);
    let _forwarding = forward(("127.0.0.2", first.port()), second.port()).await;
    let hosts = Hosts::new();
    let (_service, caller) = start(&hosts, first.port()).await;
    let ask = async || caller.ask(0, request("shop", &[("user", "a")])).await;
    eventually("the first server counts", async || ask().await == "OK").await;
    assert_eq!((first.len(), second.len()), (1, 0));

    hosts.resolve_to("127.0.0.2");
    first.kill();
    eventually("the second server counts", async || ask().await == "OK").await;
    assert_eq!(second.len(), 1);
}

/// The old server still accepts connections and bytes, but never answers, like a frozen machine behind a load balancer.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_replaced_by_the_one_that_its_name_resolves_to_now() {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let proxy = Proxy::start(first.port()).await;
    let _forwarding = forward(("127.0.0.2", proxy.port()), second.port()).await;
    let hosts = Hosts::new();
    let (_service, caller) = start(&hosts, proxy.port()).await;
    let ask = async |turn| caller.ask(turn, request("shop", &[("user", "a")])).await;
    eventually("the first server counts", async || ask(0).await == "OK").await;

    proxy.set(Passage::Shut);
    eventually("calls fail", async || ask(0).await != "OK").await;
    let counted = first.command(["GET", first.command(["KEYS", "*user*"]).as_str()]);
    hosts.resolve_to("127.0.0.2");
    for turn in 0..4 {
        eventually("the second server counts", async || ask(turn).await == "OK").await;
    }
    assert_eq!(second.len(), 1);
    let still = first.command(["GET", first.command(["KEYS", "*user*"]).as_str()]);
    assert_eq!(still, counted, "the old server counts no more");
}
