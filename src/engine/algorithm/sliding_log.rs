//! Sliding logs: the time of every hit in the last window. Exact; memory grows with the limit.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Meter, Ticks, max_level};
use crate::engine::{Limit, Timestamp};

/// Upper bound on limits, since every hit takes memory.
pub const MAX_REQUESTS: u32 = 1_000;

/// Hits of the last window, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Times in ticks, with the number of hits.
    hits: VecDeque<(u64, u32)>,
    /// Total number of hits.
    len: u64,
    /// Number of oldest hits that had expired at the last load. Saving removes them; until then a clock that is
    /// set back finds them again, as in Redis.
    stale: u64,
}

impl State {
    /// Moves hits in the future to `now`.
    pub(super) fn correct(&mut self, limit: Limit, now: Timestamp) -> bool {
        let ticks = Ticks::of(limit, now);
        if self.newest() <= ticks.now.saturating_add(ticks.skew()) {
            return false;
        }
        let mut moved = 0_u32;
        while let Some((_, hits)) = self.hits.back().copied().filter(|(at, _)| *at >= ticks.now) {
            self.hits.pop_back();
            moved = moved.saturating_add(hits);
        }
        self.hits.push_back((ticks.now, moved));
        true
    }

    pub(super) fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        let ticks = Ticks::of(limit, now);
        self.stale = self.stale_at(ticks.now.max(self.newest()), ticks.window);
        meter(limit, self.len - self.stale)
    }

    /// Hits that have expired at `now`. A hit counts for one window, excluding its end.
    fn stale_at(&self, now: u64, window: u64) -> u64 {
        let stale = self.hits.iter().take_while(|(at, _)| at.saturating_add(window) <= now);
        stale.map(|(_, hits)| u64::from(*hits)).sum()
    }

    pub(super) fn save(&mut self, meter: Meter, limit: Limit, now: Timestamp) {
        while self.stale > 0
            && let Some((_, hits)) = self.hits.pop_front()
        {
            self.stale = self.stale.saturating_sub(hits.into());
            self.len = self.len.saturating_sub(hits.into());
        }
        // Refunds remove the newest hits.
        let mut less = self.len.saturating_sub(meter.lowest);
        while less > 0
            && let Some((_, hits)) = self.hits.back_mut()
        {
            let taken = u32::try_from(less).unwrap_or(u32::MAX).min(*hits);
            *hits -= taken;
            less -= u64::from(taken);
            if *hits == 0 {
                self.hits.pop_back();
            }
        }
        let at = Ticks::of(limit, now).now.max(self.newest());
        let more = u32::try_from(meter.level - meter.lowest.min(meter.level)).unwrap_or(u32::MAX);
        match self.hits.back_mut() {
            _ if more == 0 => {}
            Some((last, hits)) if *last == at => *hits = hits.saturating_add(more),
            Some(_) | None => self.hits.push_back((at, more)),
        }
        self.len = meter.level;
    }

    /// Hits that count at `now`.
    pub(super) fn used(&self, limit: Limit, now: Timestamp) -> u64 {
        let ticks = Ticks::of(limit, now);
        let is_ahead = self.newest() > ticks.now.saturating_add(ticks.skew());
        let now = if is_ahead { ticks.now } else { ticks.now.max(self.newest()) };
        self.len - self.stale_at(now, ticks.window)
    }

    /// Allocated entries.
    pub fn capacity(&self) -> usize {
        self.hits.capacity()
    }

    fn newest(&self) -> u64 {
        self.hits.back().map_or(0, |(at, _)| *at)
    }

    /// Time of the hit at this index.
    fn time_of(&self, mut before: u64) -> Option<u64> {
        let holds = |(_, hits): &&(u64, u32)| match before.checked_sub(u64::from(*hits)) {
            Some(rest) => {
                before = rest;
                false
            }
            None => true,
        };
        self.hits.iter().find(holds).map(|(at, _)| *at)
    }

    pub(super) fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        if hits > limit.capacity() {
            return Duration::from_secs(limit.window.secs().into());
        }
        // Number of oldest hits that must expire first.
        let live = self.len - self.stale;
        let leaving = (live + u64::from(hits.max(1))).saturating_sub(u64::from(limit.capacity()));
        let last = match leaving {
            0 => None,
            leaving if leaving <= live => self.time_of(self.stale + leaving - 1),
            _ => Some(self.newest()),
        };
        last.map_or(Duration::ZERO, |at| until_it_leaves(at, limit, now))
    }

    pub(super) fn reset(&self, limit: Limit, now: Timestamp) -> Duration {
        let newest = self.hits.back().filter(|_| self.len > self.stale);
        newest.map_or(Duration::ZERO, |(at, _)| until_it_leaves(*at, limit, now))
    }

    pub(super) fn end_secs(&self, limit: Limit) -> u64 {
        let ticks = Ticks::of(limit, Timestamp::default());
        let end_us = self.newest().saturating_add(ticks.window).saturating_mul(ticks.tick_us);
        end_us.div_ceil(1_000_000)
    }
}

/// Time from `now` until a hit at tick `at` expires.
pub fn until_it_leaves(at: u64, limit: Limit, now: Timestamp) -> Duration {
    let ticks = Ticks::of(limit, now);
    ticks.until(at.saturating_add(ticks.window).saturating_sub(ticks.now), now)
}

/// Meter of `len` hits.
pub const fn meter(limit: Limit, len: u64) -> Meter {
    Meter { base: 0, level: len, lowest: len, parts: 1, max_level: max_level(limit, 1), stale_refund: 0 }
}
