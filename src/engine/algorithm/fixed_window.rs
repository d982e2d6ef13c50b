//! Fixed windows: hits are counted from zero in every window.
//!
//! Exact within a window. Across the boundary of two windows twice the limit can pass in an instant;
//! that is the algorithm's nature, and envoyproxy/ratelimit's.

use std::time::Duration;

use super::{MAX_SKEW_US, Meter};
use crate::engine::{Limit, Timestamp};

/// A counter: the window it counts in and the hits counted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Beginning of the window, in seconds since the epoch.
    pub window_start_secs: u64,
    /// Hits counted in that window, denied ones included.
    pub used: u64,
}

impl State {
    /// A window that begins later than now goes on as the one that now lies in, with its hits.
    pub(super) fn correct(&mut self, limit: Limit, now: Timestamp) -> bool {
        let latest = now.after(Duration::from_micros(MAX_SKEW_US));
        let is_ahead = Timestamp::from_secs(self.window_start_secs) > latest;
        if is_ahead {
            self.window_start_secs = limit.window.start_secs(now);
        }
        is_ahead
    }

    pub(super) fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        let window_start_secs = limit.window.start_secs(now).max(self.window_start_secs);
        if self.window_start_secs != window_start_secs {
            *self = Self { window_start_secs, used: 0 };
        }
        meter(self.used)
    }
}

/// A count of `used` hits.
pub const fn meter(used: u64) -> Meter {
    // Counts are told however far they go.
    Meter { base: 0, level: used, lowest: used, parts: 1, max_level: u64::MAX, stale_refund: 0 }
}
