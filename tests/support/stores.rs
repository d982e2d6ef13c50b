//! Every store there is, for tests that hold on each of them.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tollgate::store::fallback::Fallback;
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::redis::{RedisSettings, RedisStore};
use tollgate::store::{Reading, Readings, Store, StoreError};
use tollgate::telemetry::metrics::{Metrics, MetricsSettings};
use tollgate::tls::TlsError;

use super::PATIENCE;
use super::redis::Redis;

/// A store, and the server behind it where there is one.
pub(crate) struct StoreUnderTest {
    pub(crate) store: Arc<dyn Store>,
    _server: Option<Redis>,
}

/// A fresh store of each kind, with its name. Redis uses the clock of its server, as in production.
pub(crate) async fn all() -> Vec<(&'static str, StoreUnderTest)> {
    each(RedisStore::connect).await
}

/// A fresh store of each kind, which uses the time of the caller: for tests over hours, and of clocks that are set.
pub(crate) async fn all_by_callers_clock() -> Vec<(&'static str, StoreUnderTest)> {
    each(RedisStore::connect_by_callers_clock).await
}

/// The stores for a script that may pass the time in (`@1200`) or read it off (`in 26`): by the clock of the caller
/// only then, or if the rules have counters that drain while the test runs.
pub(crate) async fn all_for(script: &str, rules: &str) -> Vec<(&'static str, StoreUnderTest)> {
    let passes_time = script.lines().any(|line| line.trim().starts_with('@') || line.contains(" in "));
    match passes_time || rules.contains("algorithm") {
        true => all_by_callers_clock().await,
        false => all().await,
    }
}

async fn each(
    connect: fn(&RedisSettings) -> Result<RedisStore, TlsError>,
) -> Vec<(&'static str, StoreUnderTest)> {
    let server = Redis::start().await;
    let redis = connect(&server.settings()).expect("settings of use");
    redis.ready(PATIENCE).await.expect("it was started just now");
    vec![
        ("memory", StoreUnderTest { store: memory(), _server: None }),
        ("redis", StoreUnderTest { store: Arc::new(redis), _server: Some(server) }),
    ]
}

/// Every reading, or the first failure.
pub(crate) fn complete(readings: Readings) -> Result<Vec<Reading>, StoreError> {
    readings.into_iter().collect()
}

/// Nothing that fails goes on.
pub(crate) fn fallback() -> Arc<Fallback> {
    Arc::new(Fallback::new(MemorySettings::of_counters(1_000), 1))
}

pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(MemorySettings::of_counters(100_000)))
}

/// Instruments that are not read.
pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(MetricsSettings::default(), Arc::new(ArcSwapOption::empty())))
}
