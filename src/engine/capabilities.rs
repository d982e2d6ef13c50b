//! Capabilities of a store. Rules that need more do not compile.

use super::algorithm::sliding_log;
use super::{Algorithm, Limit};

/// Features of rules that a store supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreCapabilities {
    /// Name in errors: `Redis`.
    pub name: &'static str,
    /// Largest limit of a sliding log; 0 for a store without sliding logs.
    pub sliding_log_max: u32,
    /// True if it counts sliding windows and token buckets.
    pub meters: bool,
    /// True if it keeps lockouts.
    pub lockouts: bool,
}

impl Default for StoreCapabilities {
    /// Store that supports everything.
    fn default() -> Self {
        Self { name: "the store", sliding_log_max: sliding_log::MAX_REQUESTS, meters: true, lockouts: true }
    }
}

impl StoreCapabilities {
    /// Checks that the store can count `limit`.
    ///
    /// # Errors
    /// Reason and remedy.
    pub fn can_count(self, limit: Limit) -> Result<(), String> {
        let name = self.name;
        match limit.algorithm {
            Algorithm::FixedWindow => Ok(()),
            Algorithm::SlidingLog if self.sliding_log_max == 0 => {
                Err(format!("{name} keeps no sliding_log: use sliding_window or fixed_window"))
            }
            Algorithm::SlidingLog if limit.requests_per_unit > self.sliding_log_max => Err(format!(
                "a sliding_log remembers every request: at most {} in {name}; use sliding_window for more",
                self.sliding_log_max
            )),
            Algorithm::SlidingLog => Ok(()),
            Algorithm::SlidingWindow | Algorithm::TokenBucket { .. } if !self.meters => {
                Err(format!("{name} counts no {}: use fixed_window", limit.algorithm.name()))
            }
            Algorithm::Concurrency if !self.meters => {
                Err(format!("{name} keeps no places for requests in flight: use a rate_limit"))
            }
            Algorithm::SlidingWindow | Algorithm::TokenBucket { .. } | Algorithm::Concurrency => Ok(()),
        }
    }
}
