//! Keys by hits and by denials over the last minutes and the last hour, on one core.

use bytes::Bytes;

use super::space_saving::SpaceSaving;
use super::{MAX_WINDOW_SECS, TopBy};
use crate::engine::{Limit, Timestamp};

/// Number of keys in a sketch. The count of a key is too high by at most 1/512 of all hits in its window.
pub(super) const SKETCH_KEYS: usize = 512;

const MINUTE_SECS: u64 = 60;
const TEN_MINUTES_SECS: u64 = 600;

/// Last observation of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// [`crate::engine::rules::Rule::id`]; 0 for a limit in the request.
    pub(super) rule: u32,
    pub(super) limit: Limit,
    pub(super) used: u64,
    pub(super) is_over: bool,
    /// Time at which the key passes again if it is over its limit; else time of its reset.
    pub(super) resets_at: Timestamp,
    pub(super) at: Timestamp,
}

/// A sketch by hits and one by denials, for each of the last six minutes and the last seven times ten minutes.
#[derive(Debug)]
pub(super) struct Recent {
    minutes: Ring,
    tens: Ring,
}

#[derive(Debug)]
struct Ring {
    unit_secs: u64,
    periods: Box<[Period]>,
}

/// Observations from one multiple of the unit to the next.
#[derive(Debug)]
pub(super) struct Period {
    pub(super) start_secs: u64,
    hits: SpaceSaving<Observed>,
    denied: SpaceSaving<Observed>,
}

impl Default for Recent {
    fn default() -> Self {
        // One period more than the longest window fills: a window may begin within a period.
        Self { minutes: Ring::new(MINUTE_SECS, 6), tens: Ring::new(TEN_MINUTES_SECS, 7) }
    }
}

impl Recent {
    /// Adds `hits` of `key`, times `weight`: a sampled request stands for that many requests.
    pub(super) fn add(&mut self, key: &Bytes, hits: u64, weight: u64, observed: Observed) {
        let hits = hits.saturating_mul(weight);
        for ring in [&mut self.minutes, &mut self.tens] {
            let period = ring.period(observed.at);
            period.hits.add(key, hits, observed);
            if observed.is_over {
                period.denied.add(key, hits, observed);
            }
        }
    }

    /// Periods that cover the last `window_secs`, at most an hour. The first one begins up to a minute earlier; up to
    /// ten minutes earlier if the window is longer than five minutes.
    pub(super) fn periods(&self, window_secs: u64, now: Timestamp) -> impl Iterator<Item = &Period> {
        let ring = if window_secs <= 5 * MINUTE_SECS { &self.minutes } else { &self.tens };
        let from = now.as_secs().saturating_sub(window_secs.min(MAX_WINDOW_SECS));
        let covers = move |period: &&Period| {
            period.start_secs <= now.as_secs() && period.start_secs + ring.unit_secs > from
        };
        ring.periods.iter().filter(covers)
    }
}

impl Ring {
    fn new(unit_secs: u64, len: usize) -> Self {
        Self { unit_secs, periods: (0..len).map(|_| Period::new(0)).collect() }
    }

    fn period(&mut self, now: Timestamp) -> &mut Period {
        let number = now.as_secs() / self.unit_secs;
        let len = self.periods.len() as u64;
        // The remainder is less than the length.
        let index = usize::try_from(number % len).unwrap_or(0);
        let period = &mut self.periods[index];
        let start_secs = number * self.unit_secs;
        if period.start_secs != start_secs {
            *period = Period::new(start_secs);
        }
        period
    }
}

impl Period {
    /// The sketch to sort by `by`.
    pub(super) const fn sketch(&self, by: TopBy) -> &SpaceSaving<Observed> {
        match by {
            TopBy::Denied => &self.denied,
            TopBy::Hits | TopBy::Use => &self.hits,
        }
    }

    fn new(start_secs: u64) -> Self {
        Self { start_secs, hits: SpaceSaving::new(SKETCH_KEYS), denied: SpaceSaving::new(SKETCH_KEYS) }
    }
}
