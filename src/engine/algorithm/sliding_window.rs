//! Sliding windows from two counters: the hits of the current window, and a share of the previous one, as if
//! its hits were evenly distributed.
//!
//! The method is Cloudflare's (<https://blog.cloudflare.com/counting-things-a-lot-of-different-things/>), in
//! integers: a request passes if `previous × left + (current + hits) × window ≤ limit × window`, where `left`
//! is the remaining time of the current window.

use std::time::Duration;

use super::{Meter, Ticks, max_level};
use crate::engine::{Limit, Timestamp};

/// Hits of the current and the previous window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Number of the current window, counted from the epoch.
    pub window: u64,
    /// Hits in the current window.
    pub current: u64,
    /// Hits in the previous window.
    pub previous: u64,
}

impl State {
    /// A window that starts in the future becomes the current one and keeps its hits.
    pub(super) fn correct(&mut self, limit: Limit, now: Timestamp) -> bool {
        let ticks = Ticks::of(limit, now);
        let is_ahead = self.window.saturating_mul(ticks.window) > ticks.now.saturating_add(ticks.skew());
        if is_ahead {
            self.window = ticks.now / ticks.window;
        }
        is_ahead
    }

    pub(super) fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        let ticks = Ticks::of(limit, now);
        // Never go back: another charge may be slightly ahead.
        let window = (ticks.now / ticks.window).max(self.window);
        *self = match window - self.window {
            0 => *self,
            1 => Self { window, current: 0, previous: self.current },
            _ => Self { window, current: 0, previous: 0 },
        };
        self.meter(limit, now)
    }

    /// Meter of the state, without advancing it.
    pub fn meter(&self, limit: Limit, now: Timestamp) -> Meter {
        let ticks = Ticks::of(limit, now);
        Meter {
            base: self.previous.saturating_mul(self.left(ticks)),
            level: self.current.saturating_mul(ticks.window),
            lowest: self.current.saturating_mul(ticks.window),
            parts: ticks.window,
            max_level: max_level(limit, ticks.window),
            stale_refund: if ticks.now / ticks.window < self.window { u64::MAX } else { 0 },
        }
    }

    /// Remaining ticks of the window; all of them if the window has not started yet.
    const fn left(&self, ticks: Ticks) -> u64 {
        let end = self.window.saturating_add(1).saturating_mul(ticks.window);
        let left = end.saturating_sub(ticks.now);
        if left < ticks.window { left } else { ticks.window }
    }

    /// See [`super::CounterState::wait`].
    pub fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        let ticks = Ticks::of(limit, now);
        let (quota, hits) = (u64::from(limit.requests_per_unit), u64::from(hits.max(1)));
        let end = self.window.saturating_add(1).saturating_mul(ticks.window);
        let left = end.saturating_sub(ticks.now);
        // Overlap, in ticks, at which the share of `held` leaves room for `hits` beside `beside`.
        let may_be_left = |held: u64, beside: u64| {
            let room = quota.checked_sub(beside + hits)?;
            Some((room * ticks.window).checked_div(held).unwrap_or(ticks.window).min(ticks.window))
        };
        let in_this = may_be_left(self.previous, self.current).map(|may| left.saturating_sub(may));
        let in_next = || may_be_left(self.current, 0).map(|may| left + ticks.window - may);
        ticks.until(in_this.or_else(in_next).unwrap_or(left + ticks.window), now)
    }

    pub(super) fn end_secs(&self, limit: Limit) -> u64 {
        self.window.saturating_add(2).saturating_mul(u64::from(limit.window.secs()))
    }
}
