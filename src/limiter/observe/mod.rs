//! Observations of recent decisions: the keys with the most hits and denials, and the last denials.
//!
//! Each core observes through its own [`Tap`] and shares nothing with the others; [`Observer`] reads all of them when
//! an operator asks. A tap observes one in 16 requests that pass, chosen at random, and the first 1,000 denials of
//! each second; later denials of the second are sampled too. While its core is read, a tap skips observations instead
//! of waiting. Each core keeps at most 13 periods, with two sketches of 512 keys each, and 1,000 denials.

mod denial;
mod recent;
mod space_saving;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

pub(super) use self::denial::denying_status;
pub use self::denial::{Denial, DenialReason};
use self::recent::{Observed, Recent};
use self::space_saving::{Counted, merge};
use super::redact;
use crate::engine::algorithm::Reading;
use crate::engine::algorithm::group::is_over;
use crate::engine::{Decision, Hits, Limit, Request, Rules, Timestamp};
use crate::store::Charge;

/// Mean number of requests per sampled request.
const SAMPLE: u32 = 16;
/// Denials of one core in one second that are all observed; later ones are sampled.
const MAX_DENIALS_PER_SEC: u32 = 1_000;
/// Upper bound on the denials that one core keeps.
const KEPT_DENIALS: usize = 1_000;
/// Upper bound on the denials of one second that one core keeps.
const MAX_KEPT_PER_SEC: u32 = 200;

/// Longest window of [`Observer::top`], in seconds.
pub const MAX_WINDOW_SECS: u64 = 3_600;

/// Reader of the observations of all cores.
#[derive(Debug, Default)]
pub struct Observer {
    cores: Mutex<Vec<Arc<Mutex<Core>>>>,
}

/// Observer of the decisions of one core.
#[derive(Debug)]
pub struct Tap {
    core: Arc<Mutex<Core>>,
    /// Requests until the next sampled one. Written by its core alone.
    until_sample: AtomicU32,
}

#[derive(Debug, Default)]
struct Core {
    recent: Recent,
    denials: VecDeque<Denial>,
    second: Second,
}

/// Denials of the current second.
#[derive(Debug, Default)]
struct Second {
    secs: u64,
    denials: u32,
}

/// A decision and its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation<'o, 'q, 'r> {
    pub(super) request: &'o Request<'q>,
    pub(super) rules: &'o Rules,
    pub(super) charges: &'o [Charge],
    /// One for each charge.
    pub(super) readings: &'o [Reading],
    pub(super) decision: &'o Decision<'r>,
}

/// Order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopBy {
    /// By hits.
    Hits,
    /// By hits over the limit.
    Denied,
    /// By the share of the limit used.
    Use,
}

/// A counter that was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopKey {
    /// Key of the counter.
    pub key: Bytes,
    /// [`crate::engine::rules::Rule::id`]; 0 for a limit in the request.
    pub rule: u32,
    /// Limit of the counter.
    pub limit: Limit,
    /// Estimated hits in the window; estimated denied hits if the keys are sorted by denials.
    pub count: u64,
    /// Upper bound on the error of `count`, which is never too low but for sampling.
    pub error: u64,
    /// Hits used at the last observation.
    pub used: u64,
    /// True if the counter was over its limit then.
    pub is_over: bool,
    /// Time at which the key passes again if it was over its limit; else time of its reset.
    pub resets_at: Timestamp,
    /// Time of the last observation.
    pub at: Timestamp,
}

impl Observer {
    /// A tap for one more core.
    pub fn tap(&self) -> Tap {
        let core = Arc::default();
        self.cores.lock().push(Arc::clone(&core));
        Tap { core, until_sample: AtomicU32::new(1) }
    }

    /// The first `limit` keys of the last `window_secs`, at most [`MAX_WINDOW_SECS`], in the order of `by`, and the
    /// time in seconds since the epoch at which their window begins.
    pub fn top(&self, by: TopBy, window_secs: u64, limit: usize, now: Timestamp) -> (Vec<TopKey>, u64) {
        let cores = self.cores.lock().clone();
        let (mut sketches, mut from) = (Vec::new(), now.as_secs());
        for core in cores {
            // The core observes nothing while it is locked: only copy here, and merge later.
            let core = core.lock();
            for period in core.recent.periods(window_secs, now) {
                from = from.min(period.start_secs);
                sketches.push(period.sketch(by).copy());
            }
        }
        let newer = |kept: &mut Observed, other: &Observed| {
            if other.at > kept.at {
                *kept = *other;
            }
        };
        let mut top = merge(&sketches, newer);
        if by == TopBy::Use {
            top.retain(|counted| counted.value.resets_at > now);
            top.sort_by(|one, other| used_share(&other.value).total_cmp(&used_share(&one.value)));
        }
        top.truncate(limit);
        (top.into_iter().map(TopKey::from).collect(), from)
    }

    /// The last denials after `after` for which `is_wanted` returns true, newest first, at most `limit`.
    pub fn denials(
        &self,
        after: Timestamp,
        is_wanted: impl Fn(&Denial) -> bool,
        limit: usize,
    ) -> Vec<Denial> {
        let cores = self.cores.lock().clone();
        let mut all = Vec::new();
        for core in cores {
            let core = core.lock();
            let newer = core.denials.iter().rev().take_while(|denial| denial.at > after);
            all.extend(newer.filter(|denial| is_wanted(denial)).take(limit).cloned());
        }
        all.sort_by_key(|denial| std::cmp::Reverse(denial.at));
        all.truncate(limit);
        all
    }
}

fn used_share(observed: &Observed) -> f64 {
    observed.used as f64 / f64::from(observed.limit.capacity().max(1))
}

impl From<Counted<Observed>> for TopKey {
    fn from(Counted { key, weight, error, value }: Counted<Observed>) -> Self {
        let Observed { rule, limit, used, is_over, resets_at, at } = value;
        Self { key, rule, limit, count: weight, error, used, is_over, resets_at, at }
    }
}

impl Tap {
    /// Observes a decision at `now`, or skips it.
    pub(super) fn observe(&self, observation: Observation<'_, '_, '_>, now: Timestamp) {
        // One core writes it: a plain load and store suffice.
        let until_sample = self.until_sample.load(Ordering::Relaxed).saturating_sub(1);
        let is_sampled = until_sample == 0;
        // Random, with a mean of `SAMPLE`: a fixed interval could always miss the same requests of periodic traffic.
        let next = if is_sampled { fastrand::u32(1..2 * SAMPLE) } else { until_sample };
        self.until_sample.store(next, Ordering::Relaxed);
        let denied = denying_status(observation.decision);
        if denied.is_none() && !is_sampled {
            return;
        }
        let Some(mut core) = self.core.try_lock() else { return };
        let weight = match denied {
            None => SAMPLE,
            Some(_) => match core.second.count(now) {
                count if count <= MAX_DENIALS_PER_SEC => 1,
                _ if is_sampled => SAMPLE,
                _ => return,
            },
        };
        core.observe_keys(observation, u64::from(weight), now);
        if let Some((status, enforced)) = denied
            && core.second.denials <= MAX_KEPT_PER_SEC
        {
            let denial = Denial::of(observation, status, enforced, now);
            core.keep(denial);
        }
    }
}

impl Second {
    /// Counts a denial, and returns the number of denials in this second.
    fn count(&mut self, now: Timestamp) -> u32 {
        if self.secs != now.as_secs() {
            *self = Self { secs: now.as_secs(), denials: 0 };
        }
        self.denials = self.denials.saturating_add(1);
        self.denials
    }
}

impl Core {
    fn observe_keys(&mut self, observation: Observation<'_, '_, '_>, weight: u64, now: Timestamp) {
        for (charge, reading) in observation.charges.iter().zip(observation.readings) {
            let Hits::Add(hits @ 1..) = charge.hits else { continue };
            let capacity = charge.limit.capacity();
            let is_over = is_over(charge.mode, charge.hits, reading.used, capacity, reading.outcome);
            let observed = Observed {
                rule: charge.rule,
                limit: charge.limit,
                used: reading.used,
                is_over,
                resets_at: now.after(reading.reset),
                at: now,
            };
            self.recent.add(&charge.key, hits.into(), weight, observed);
        }
    }

    fn keep(&mut self, denial: Denial) {
        if self.denials.len() == KEPT_DENIALS {
            self.denials.pop_front();
        }
        self.denials.push_back(denial);
    }
}

#[cfg(test)]
mod tests;
