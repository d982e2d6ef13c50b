//! Every store there is, for tests that hold on each of them.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tollgate::store::fallback::Fallback;
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::redis::RedisStore;
use tollgate::store::{Reading, Readings, Store, StoreError};
use tollgate::telemetry::metrics::{Metrics, MetricsSettings};

use super::PATIENCE;
use super::redis::Redis;

/// A store, and the server behind it where there is one.
pub(crate) struct StoreUnderTest {
    pub(crate) store: Arc<dyn Store>,
    _server: Option<Redis>,
}

/// A fresh one of each, by name.
pub(crate) async fn all() -> Vec<(&'static str, StoreUnderTest)> {
    let server = Redis::start().await;
    let redis = RedisStore::connect_by_callers_clock(&server.settings()).expect("settings of use");
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

/// Instruments that nobody reads.
pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(MetricsSettings::default(), Arc::new(ArcSwapOption::empty())))
}
