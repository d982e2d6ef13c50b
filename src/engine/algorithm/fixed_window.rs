//! Fixed windows: the count starts at zero in every window.
//!
//! Exact within a window. Around the boundary of two windows, up to twice the limit can pass at once, as in
//! envoyproxy/ratelimit.

use std::time::Duration;

use super::{MAX_SKEW_US, Meter};
use crate::engine::{Limit, Timestamp};

/// Window and hits of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Start of the window, in seconds since the epoch.
    pub window_start_secs: u64,
    /// Hits counted in that window, denied ones included.
    pub used: u64,
}

impl State {
    /// A window that starts in the future becomes the current one and keeps its hits.
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

/// Meter of `used` hits.
pub const fn meter(used: u64) -> Meter {
    // Fixed windows report counts beyond the limit, as envoyproxy/ratelimit does: there is no upper bound.
    Meter { base: 0, level: used, lowest: used, parts: 1, max_level: u64::MAX, stale_refund: 0 }
}
