//! Sliding windows out of two counters: the hits of this window, and of the one before as many as would
//! lie less than a window ago if they had come evenly.
//!
//! As Cloudflare counts (<https://blog.cloudflare.com/counting-things-a-lot-of-different-things/>), with
//! whole numbers: `previous × left + (current + hits) × window ≤ limit × window`, where `left` is what of
//! this window is still to come.

use std::time::Duration;

use super::{Meter, Ticks, max_level};
use crate::engine::{Limit, Timestamp};

/// Two windows that meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Number of this window, counted from the epoch.
    pub window: u64,
    /// Hits counted in it.
    pub current: u64,
    /// Hits counted in the one before.
    pub previous: u64,
}

impl State {
    /// A window that begins later than now goes on as the one that now lies in, with its hits.
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
        // Not before the window that is open: another charge may be a moment ahead.
        let window = (ticks.now / ticks.window).max(self.window);
        *self = match window - self.window {
            0 => *self,
            1 => Self { window, current: 0, previous: self.current },
            _ => Self { window, current: 0, previous: 0 },
        };
        self.meter(limit, now)
    }

    /// The state as a meter, as of the window it is in.
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

    /// What is to come of its window: a whole one, where its window is still to come.
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
        // As much of `held` as may be left so that `hits` fit beside `beside`, in ticks.
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
