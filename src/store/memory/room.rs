//! Room of a memory store: what it holds, and evictions when it is full.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::evict::Measure;
use super::stripe::{Counter, Held, Stripe, Usage};
use super::{MemorySettings, MemoryStore};
use crate::engine::Timestamp;

/// Upper bound on the evictions for one call. A call adds little more than it evicts, so that a store which
/// is over its bound comes back to it.
const MAX_EVICTIONS: usize = 32;
/// Stripes that are tried where a stripe has nothing to evict.
const MAX_OTHER_STRIPES: usize = 8;
/// Grains of a stripe's part of the bounds: what is not reported takes at most 1/256 of the store.
const GRAINS: usize = 256;
/// Upper bounds on a grain: a call must be able to evict more than it reports.
const MAX_GRAIN_LEN: usize = MAX_EVICTIONS / 2;
const MAX_GRAIN_BYTES: usize = 2_048;
/// At most one log line about evictions in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Content of a memory store, and its evictions since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Counters and lockouts held.
    pub counters: usize,
    /// Bytes that they take, about.
    pub bytes: usize,
    /// Counters and lockouts that gave way to others before they were over.
    pub evicted: u64,
}

/// Content of all stripes, as far as they have reported it. A stripe reports when it has changed by a *grain*: cores
/// that create counters in a large store seldom write to the sums that they share.
#[derive(Debug)]
pub(super) struct Room {
    settings: MemorySettings,
    grain: Held,
    /// Upper bound on what all stripes hold and have not reported.
    unreported: Held,
    /// Of all stripes together.
    counters: AtomicUsize,
    counter_bytes: AtomicUsize,
    lockouts: AtomicUsize,
    lockout_bytes: AtomicUsize,
    evicted: AtomicU64,
}

impl Room {
    pub(super) fn new(settings: MemorySettings, stripes: usize) -> Self {
        let grain = |bound: usize, max| (bound / (GRAINS * stripes)).clamp(1, max);
        let grain = Held {
            len: grain(settings.max_counters, MAX_GRAIN_LEN),
            bytes: grain(settings.max_bytes, MAX_GRAIN_BYTES),
        };
        let unreported = Held { len: (grain.len - 1) * stripes, bytes: (grain.bytes - 1) * stripes };
        Self {
            settings,
            grain,
            unreported,
            counters: AtomicUsize::new(0),
            counter_bytes: AtomicUsize::new(0),
            lockouts: AtomicUsize::new(0),
            lockout_bytes: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Figures as reported.
    pub(super) fn figures(&self) -> Figures {
        let read = |sum: &AtomicUsize| sum.load(Ordering::Relaxed);
        Figures {
            counters: read(&self.counters) + read(&self.lockouts),
            bytes: read(&self.counter_bytes) + read(&self.lockout_bytes),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    /// Records what `stripe` takes, if that has changed by a grain.
    pub(super) fn account(&self, stripe: &mut Stripe) {
        let has_changed = |of: fn(&Usage) -> Held| {
            let (usage, reported) = (of(&stripe.usage), of(&stripe.reported));
            usage.len.abs_diff(reported.len) >= self.grain.len
                || usage.bytes.abs_diff(reported.bytes) >= self.grain.bytes
        };
        // Both count towards one bound, and lockouts by themselves towards another.
        if has_changed(Usage::total) || has_changed(|usage| usage.lockouts) {
            self.report(stripe);
        }
    }

    /// Records what `stripe` takes.
    fn report(&self, stripe: &mut Stripe) {
        let (before, after) = (stripe.reported, stripe.usage);
        for (sum, before, after) in [
            (&self.counters, before.counters.len, after.counters.len),
            (&self.counter_bytes, before.counters.bytes, after.counters.bytes),
            (&self.lockouts, before.lockouts.len, after.lockouts.len),
            (&self.lockout_bytes, before.lockouts.bytes, after.lockouts.bytes),
        ] {
            if before != after {
                sum.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            }
        }
        stripe.reported = after;
    }

    /// Bound that is exceeded, if any.
    fn exceeded(&self) -> Option<Measure> {
        let Figures { counters, bytes, .. } = self.figures();
        if counters + self.unreported.len > self.settings.max_counters {
            Some(Measure::Counters)
        } else if bytes + self.unreported.bytes > self.settings.max_bytes {
            Some(Measure::Bytes)
        } else {
            None
        }
    }

    /// Lockouts have at most half the room, so that a new counter always finds another counter to evict.
    fn has_too_many_lockouts(&self) -> bool {
        self.lockouts.load(Ordering::Relaxed) > self.settings.max_counters / 2
            || self.lockout_bytes.load(Ordering::Relaxed) > self.settings.max_bytes / 2
    }

    /// Carries out an eviction of `stripe`. Returns whether there was one.
    fn evict(&self, stripe: &mut Stripe, evict: impl FnOnce(&mut Stripe) -> bool) -> bool {
        let has_evicted = evict(stripe);
        self.report(stripe);
        self.evicted.fetch_add(has_evicted.into(), Ordering::Relaxed);
        has_evicted
    }

    pub(super) const fn watch(&self) -> Watch {
        Watch { evicted: 0, warned: None }
    }
}

impl MemoryStore {
    /// Evicts counters while the store is over its bounds: from `locked` stripes, else from others. A stripe may
    /// have little else than a counter that is over its limit: it is evicted only if the other stripes
    /// have no better choice. Counters to `keep` are those of the call.
    pub(super) fn make_room<'s>(
        &self,
        locked: impl IntoIterator<Item = &'s mut Stripe>,
        now: Timestamp,
        keep: impl Fn(&Counter) -> bool,
    ) {
        if self.room.exceeded().is_none() {
            return;
        }
        let mut left = MAX_EVICTIONS;
        let mut locked: SmallVec<[&mut Stripe; 2]> = locked.into_iter().collect();
        let mut evict_locked = |left: &mut usize, is_last_resort| {
            for stripe in &mut locked {
                while let Some(by) = self.room.exceeded().filter(|_| *left > 0) {
                    if !self.room.evict(stripe, |stripe| stripe.evict(by, now, is_last_resort, &keep)) {
                        break;
                    }
                    *left -= 1;
                }
            }
        };
        evict_locked(&mut left, false);
        let first = fastrand::usize(..self.stripes.len());
        for other in 0..MAX_OTHER_STRIPES {
            let Some(by) = self.room.exceeded().filter(|_| left > 0) else { return };
            // Never waits: another thread may hold that one and want ours.
            let stripe = self.stripes[(first + other) % self.stripes.len()].try_lock();
            let evict = |stripe: &mut Stripe| stripe.evict(by, now, false, &keep);
            if stripe.is_some_and(|mut stripe| self.room.evict(&mut stripe, evict)) {
                left -= 1;
            }
        }
        evict_locked(&mut left, true);
    }

    /// Evicts a lockout other than that of `key` from `stripe`, if there are too many of them.
    pub(super) fn make_room_for_lockout(&self, stripe: &mut Stripe, now: Timestamp, key: &[u8]) {
        if self.room.has_too_many_lockouts() {
            self.room.evict(stripe, |stripe| stripe.evict_lockout(now, key));
        }
    }
}

/// Warns when a store starts to evict, once a minute while it evicts, and when it has stopped.
#[derive(Debug)]
pub(super) struct Watch {
    /// Evictions that were reported.
    evicted: u64,
    warned: Option<Instant>,
}

impl Watch {
    pub(super) fn check(&mut self, room: &Room, instant: Instant) {
        if self.warned.is_some_and(|warned| instant.duration_since(warned) < WARN_INTERVAL) {
            return;
        }
        let Figures { counters, bytes, evicted } = room.figures();
        let MemorySettings { max_counters, max_bytes } = room.settings;
        let evicted_since = evicted - self.evicted;
        if evicted_since > 0 {
            tracing::warn!(
                evicted = evicted_since,
                counters,
                bytes,
                max_counters,
                max_bytes,
                "memory store is full, evicting counters"
            );
            (self.evicted, self.warned) = (evicted, Some(instant));
        } else if self.warned.take().is_some() {
            tracing::warn!(counters, bytes, "memory store has room again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stripe_has_not_reported_is_less_than_a_grain() {
        const STRIPES: usize = 256;
        let room = Room::new(MemorySettings::of_counters(1 << 20), STRIPES);
        for (counters, lockouts) in
            (0..40).flat_map(|counters| (0..40).map(move |lockouts| (counters, lockouts)))
        {
            let mut stripe = Stripe::default();
            stripe.usage.counters = Held { len: counters, bytes: 200 * counters };
            stripe.usage.lockouts = Held { len: lockouts, bytes: 200 * lockouts };
            room.account(&mut stripe);
            let (usage, reported) = (stripe.usage.total(), stripe.reported.total());
            let unreported = Held { len: usage.len - reported.len, bytes: usage.bytes - reported.bytes };
            let bound = Held { len: room.unreported.len / STRIPES, bytes: room.unreported.bytes / STRIPES };
            assert!(
                unreported.len <= bound.len && unreported.bytes <= bound.bytes,
                "{counters} counters and {lockouts} lockouts: {unreported:?} of {bound:?}"
            );
        }
    }
}
