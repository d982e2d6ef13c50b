//! Time in a test that compares stores.

use std::time::Duration;

use tokio::time::Instant;
use tollgate::engine::Timestamp;

/// Time of one case, which is passed in. It is never behind real time, by which Redis expires keys.
pub(crate) struct CaseClock {
    start: Timestamp,
    began: Instant,
    now: Timestamp,
}

impl CaseClock {
    pub(crate) fn starting_at(start: Timestamp) -> Self {
        Self { start, began: Instant::now(), now: start }
    }

    /// The time this much later, or more.
    pub(crate) fn advance(&mut self, micros: u64) -> Timestamp {
        let later = self.now.after(Duration::from_micros(micros));
        self.now = later.max(self.start.after(self.began.elapsed()));
        self.now
    }
}
