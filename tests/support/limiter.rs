//! A limiter with counters in memory, for tests and benchmarks of single steps.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::SystemClock;
use tollgate::engine::{KeyWriter, Modes, Rules};
use tollgate::limiter::{CoreCopy, Limiter};
use tollgate::store::fallback::Fallback;
use tollgate::store::memory::{MemorySettings, MemoryStore};

/// A limiter of `rules`, alone in its process.
pub(crate) fn limiter(rules: Arc<Rules>) -> Limiter {
    let limiter = Limiter {
        overrides: CoreCopy::default(),
        rules: CoreCopy::default(),
        store: Arc::new(MemoryStore::new(MemorySettings::of_counters(1_000))),
        fallback: Arc::new(Fallback::new(MemorySettings::of_counters(1_000), 1)),
        store_timeout: Duration::ZERO,
        clock: Arc::new(SystemClock),
        metrics: Arc::default(),
        keys: KeyWriter::default(),
        modes: Modes::default(),
        candidate: None,
        tap: None,
        decision_log: None,
    };
    limiter.rules.store(Some(rules));
    limiter
}
