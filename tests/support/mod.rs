//! Shared by tests: servers that they start and stop, and waiting for conditions.

pub(crate) mod admin;
pub(crate) mod ads;
pub(crate) mod bench;
pub(crate) mod browser;
pub(crate) mod caller;
pub(crate) mod case_clock;
pub(crate) mod collector;
pub(crate) mod console;
pub(crate) mod envoy;
pub(crate) mod held;
pub(crate) mod hosts;
pub(crate) mod http2;
pub(crate) mod limiter;
pub(crate) mod load;
pub(crate) mod pki;
pub(crate) mod pod;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod scenario;
pub(crate) mod service;
pub(crate) mod statsd;
pub(crate) mod stores;
pub(crate) mod tollgate;
pub(crate) mod xds;

use std::time::Duration;

use tokio::time::{self, Instant};

pub(crate) use self::process::PATIENCE;

/// Number in a variable of the environment, for runs that take longer than a test may.
#[expect(clippy::disallowed_methods, reason = "a test has no settings")]
pub(crate) fn variable(name: &str) -> Option<u32> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Number of sequences that a differential test tries: `TOLLGATE_SEQUENCES`, else `default`.
pub(crate) fn cases(default: u32) -> u32 {
    variable("TOLLGATE_SEQUENCES").unwrap_or(default)
}

/// Asks until the answer is the one waited for.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}, but it does not come");
        time::sleep(Duration::from_millis(10)).await;
    }
}
