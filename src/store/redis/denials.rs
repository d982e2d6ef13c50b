//! Cache of denials: counters known to be over their limit, which Redis need not be asked about.
//!
//! Other replicas can only put off the moment at which a charge fits again, unless they refund. Refunds of this
//! process drop the entry at once; those of others take effect within [`MAX_KNOWN`]. An entry holds for one limit:
//! a changed rule does not find it.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::quality::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::time::Instant;

use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::algorithm::places::PlaceReport;
use crate::engine::per_core::CoreCount;
use crate::engine::{Algorithm, ChargeMode, Enforcement, Hits, Lease, Limit, Timestamp};
use crate::store::{Charge, Reading};

/// Bytes of an entry besides its key, about.
const OVERHEAD_BYTES: u64 = 112;
/// Keys are about so long, which sizes the cache's own tables.
const USUAL_KEY_BYTES: u64 = 64;

/// Upper bound on the age of an entry.
const MAX_KNOWN: Duration = Duration::from_secs(1);

/// Slots that show which keys may be denied.
const SLOTS: usize = 4_096;

/// The denials of every core, bounded in bytes: those that were of use stay.
#[derive(Debug)]
pub struct Denials {
    cache: Cache<Bytes, Denial, Weight, RandomState>,
    hasher: RandomState,
    begun: Instant,
    /// Ends of the latest denials by a hash of their keys, in microseconds since `begun`. The cache takes a lock, which
    /// cores would write to for every key: a key whose slot is over is not looked up.
    ends: Box<[AtomicI64]>,
    hits: CoreCount,
    misses: CoreCount,
}

#[derive(Clone, Copy, Debug)]
struct Denial {
    limit: Limit,
    /// The least number of hits that does not fit.
    min_hits: u32,
    /// Time at which they might fit, unless hits are returned before, by the clock that counts.
    fits: Timestamp,
    /// Time from the charge until then.
    reset: Duration,
    /// End of this entry, by a clock that cannot be set.
    until: Instant,
}

#[derive(Clone, Debug)]
struct Weight;

impl quick_cache::Weighter<Bytes, Denial> for Weight {
    fn weight(&self, key: &Bytes, _: &Denial) -> u64 {
        key.len() as u64 + OVERHEAD_BYTES
    }
}

impl Denials {
    /// Room for about `max_bytes` of them.
    pub fn new(max_bytes: u64) -> Self {
        let len = max_bytes / (USUAL_KEY_BYTES + OVERHEAD_BYTES);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let lifecycle = DefaultLifecycle::default();
        Self {
            cache: Cache::with(len, max_bytes, Weight, RandomState::default(), lifecycle),
            hasher: RandomState::default(),
            begun: Instant::now(),
            ends: (0..SLOTS).map(|_| AtomicI64::new(i64::MIN)).collect(),
            hits: CoreCount::new(),
            misses: CoreCount::new(),
        }
    }

    /// Hits and misses of the cache.
    pub fn lookups(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }

    /// Denials held.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// True if none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if `charge` is known to be denied at `now`, and denies its request.
    pub(super) fn know(&self, charge: &Charge, now: Timestamp, instant: Instant) -> bool {
        let Hits::Add(hits) = charge.hits else { return false };
        if charge.enforcement != Enforcement::Enforced || is_unsure(charge) {
            return false;
        }
        let may_be_denied = self.micros(instant) < self.end(&charge.key).load(Ordering::Relaxed);
        let denial = may_be_denied.then(|| self.cache.get(&charge.key)).flatten();
        let known = denial.is_some_and(|denial| {
            denial.limit == charge.limit
                && instant < denial.until
                && now < denial.fits
                && hits >= denial.min_hits
        });
        let lookups = if known { &self.hits } else { &self.misses };
        lookups.add(1);
        known
    }

    /// End of the latest denial among the keys that share a slot with `key`.
    fn end(&self, key: &Bytes) -> &AtomicI64 {
        let hash = self.hasher.hash_one(key);
        &self.ends[usize::try_from(hash % SLOTS as u64).unwrap_or_default()]
    }

    /// Microseconds from the beginning to `instant`, rounded down; negative before it.
    fn micros(&self, instant: Instant) -> i64 {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        match instant.checked_duration_since(self.begun) {
            Some(since) => micros(since),
            None => -micros(self.begun.duration_since(instant)) - 1,
        }
    }

    /// Reading of a charge that is known to be denied.
    pub(super) fn reading(&self, charge: &Charge, now: Timestamp) -> Reading {
        let wait = |denial: Denial| denial.fits.since(now).min(denial.reset);
        let reset = self.cache.get(&charge.key).map_or(Duration::ZERO, wait);
        let (used, places) = (charge.limit.capacity().into(), PlaceReport::NONE);
        Reading { used, outcome: ChargeOutcome::Known, reset, budget: None, places }
    }

    /// Records the reading at `now` of a charge that was sent at `sent`.
    pub(super) fn learn(&self, charge: &Charge, reading: &Reading, now: Timestamp, sent: Instant) {
        let capacity = u64::from(charge.limit.capacity());
        let min_hits = match (charge.hits, charge.mode, reading.outcome) {
            (Hits::Refund(_), ..) => {
                self.forget(&charge.key);
                return;
            }
            // It is past its limit whatever is added, and so is a look. Where time is weighed, denied hits
            // count for longer than they are denied, and must be counted.
            (Hits::Add(_), ChargeMode::Always, ChargeOutcome::Charged)
                if reading.used > capacity && charge.limit.algorithm == Algorithm::FixedWindow =>
            {
                0
            }
            // It may have been denied only because of another charge of its request.
            (Hits::Add(hits), mode, ChargeOutcome::Denied)
                if reading.used.saturating_add(mode.hits_to_fit(hits).into()) > capacity =>
            {
                mode.hits_to_fit(hits)
            }
            (Hits::Add(_), ..) => return,
        };
        if charge.enforcement == Enforcement::Enforced && !is_unsure(charge) {
            let Reading { reset, .. } = *reading;
            // Another replica may give leased hits back within their hold.
            let known = match charge.lease {
                Some(Lease::Spend(terms)) => terms.hold().min(MAX_KNOWN),
                _ => MAX_KNOWN,
            };
            let (fits, until) = (now.after(reset), sent + reset.min(known));
            // One more: both moments are rounded.
            self.end(&charge.key).fetch_max(self.micros(until) + 1, Ordering::Relaxed);
            self.cache
                .insert(charge.key.clone(), Denial { limit: charge.limit, min_hits, fits, reset, until });
        }
    }

    /// Forgets a key: something is given back to it.
    pub(super) fn forget(&self, key: &Bytes) {
        self.cache.remove(key);
    }
}

/// True if a denial of `charge` says nothing about later ones. A client that may be locked out strikes with every
/// denied request, and may be let in at any time. A place or a hold may come back at any time too.
const fn is_unsure(charge: &Charge) -> bool {
    charge.lockout.is_some() || charge.limit.is_concurrency() || charge.reserve.is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::engine::{FailurePolicy, Unit};

    const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);

    fn charge(mode: ChargeMode, hits: Hits) -> Charge {
        Charge {
            key: Bytes::from_static(b"key"),
            limit: Limit::per(10, Unit::Minute),
            rule: 0,
            hits,
            mode,
            enforcement: Enforcement::Enforced,
            lockout: None,
            on_failure: FailurePolicy::Error,
            hold: None,
            lease: None,
            reserve: None,
        }
    }

    /// The moment that is noon.
    fn begun() -> Instant {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        *BEGUN
    }

    /// As of noon, when a minute begins.
    const fn reading(used: u64, outcome: ChargeOutcome) -> Reading {
        let places = PlaceReport::NONE;
        Reading { used, outcome, reset: Duration::from_secs(60), budget: None, places }
    }

    const fn later(millis: u64) -> Timestamp {
        Timestamp::from_micros(NOON.as_micros() + millis * 1_000)
    }

    #[test]
    fn unconditional_charges_are_denied_for_a_second_peeks_included() {
        let denials = Denials::new(1 << 20);
        let hit = charge(ChargeMode::Always, Hits::Add(1));
        denials.learn(&hit, &reading(10, ChargeOutcome::Charged), NOON, begun());
        assert!(!denials.know(&hit, NOON, begun()), "the last hit passed");
        denials.learn(&hit, &reading(11, ChargeOutcome::Charged), NOON, begun());
        for hits in [0, 1, 100] {
            let charge = charge(ChargeMode::Always, Hits::Add(hits));
            assert!(denials.know(&charge, later(999), begun() + Duration::from_millis(999)), "{hits}");
            assert!(
                !denials.know(&charge, later(1_000), begun() + Duration::from_millis(1_000)),
                "{hits}: somebody may have given back"
            );
        }
        assert_eq!(denials.reading(&hit, later(999)).reset, Duration::from_millis(59_001));
        let short = Reading { reset: Duration::from_millis(300), ..reading(11, ChargeOutcome::Charged) };
        denials.learn(&hit, &short, NOON, begun());
        assert!(
            denials.know(&hit, later(299), begun() + Duration::from_millis(299))
                && !denials.know(&hit, later(300), begun() + Duration::from_millis(300)),
            "in the next window"
        );
    }

    #[test]
    fn sliding_windows_count_denied_hits_and_refunds_reopen_them() {
        let denials = Denials::new(1 << 20);
        for algorithm in
            [Algorithm::SlidingWindow, Algorithm::SlidingLog, Algorithm::TokenBucket { burst: 10 }]
        {
            let limit = Limit { algorithm, ..Limit::per(10, Unit::Minute) };
            let hit = Charge { limit, ..charge(ChargeMode::Always, Hits::Add(1)) };
            denials.learn(&hit, &reading(11, ChargeOutcome::Charged), NOON, begun());
            assert!(!denials.know(&hit, NOON, begun()), "{algorithm:?}");
        }
        let twice = charge(ChargeMode::IfAllowed, Hits::Add(6));
        denials.learn(&twice, &reading(0, ChargeOutcome::Denied), NOON, begun());
        assert!(!denials.know(&twice, NOON, begun()), "six fit, though not twice");
    }

    #[test]
    fn conditional_charges_are_denied_for_as_many_hits_or_more() {
        let denials = Denials::new(1 << 20);
        let ask = |hits| charge(ChargeMode::IfAllowed, Hits::Add(hits));
        denials.learn(&ask(5), &reading(6, ChargeOutcome::Denied), NOON, begun());
        let known = [0, 1, 4, 5, 6].map(|hits| denials.know(&ask(hits), NOON, begun()));
        assert_eq!(known, [false, false, false, true, true]);
        denials.learn(&ask(0), &reading(10, ChargeOutcome::Denied), NOON, begun());
        assert_eq!([0, 1].map(|hits| denials.know(&ask(hits), NOON, begun())), [false, true]);
    }

    #[test]
    fn only_the_same_denied_question_is_answered_from_the_cache() {
        let denials = Denials::new(1 << 20);
        let hit = charge(ChargeMode::Always, Hits::Add(1));
        let over = reading(11, ChargeOutcome::Charged);
        denials.learn(&hit, &over, NOON, begun());
        let raised = Limit { requests_per_unit: 20, ..hit.limit };
        let longer = Limit { window: Unit::Hour.window(), ..hit.limit };
        for other in [
            Charge { limit: raised, ..hit.clone() },
            Charge { limit: longer, ..hit.clone() },
            Charge { hits: Hits::Refund(1), ..hit.clone() },
            Charge { enforcement: Enforcement::Quota, ..hit.clone() },
        ] {
            assert!(!denials.know(&other, NOON, begun()), "{other:?}");
        }
        assert!(denials.know(&hit, NOON, begun()));
        denials.learn(&Charge { hits: Hits::Refund(1), ..hit.clone() }, &over, NOON, begun());
        assert!(!denials.know(&hit, NOON, begun()), "something was given back");
        for enforcement in [Enforcement::Shadow, Enforcement::Quota, Enforcement::ShadowQuota] {
            denials.learn(&Charge { enforcement, ..hit.clone() }, &over, NOON, begun());
        }
        assert!(!denials.know(&hit, NOON, begun()), "what does not deny is not known to");
    }

    #[test]
    fn they_take_no_more_room_than_they_are_given() {
        let denials = Denials::new(100_000);
        let over = reading(11, ChargeOutcome::Charged);
        for number in 0..10_000 {
            let key = Bytes::from(format!("{number:0100}"));
            denials.learn(&Charge { key, ..charge(ChargeMode::Always, Hits::Add(1)) }, &over, NOON, begun());
        }
        let room = 100_000 / (100 + OVERHEAD_BYTES);
        assert!((room / 2..=room).contains(&(denials.len() as u64)), "{} of {room}", denials.len());
    }

    #[test]
    fn a_clock_that_is_set_prolongs_no_denial_and_no_wait() {
        let denials = Denials::new(1 << 20);
        let hit = charge(ChargeMode::Always, Hits::Add(1));
        let over = reading(11, ChargeOutcome::Charged);
        for days in [1, 365, 36_500] {
            let ahead = NOON.after(Duration::from_secs(days * 86_400));
            denials.learn(&hit, &over, ahead, begun());
            assert!(denials.know(&hit, NOON, begun() + Duration::from_millis(999)));
            assert!(!denials.know(&hit, NOON, begun() + Duration::from_secs(1)), "{days} days ahead");
            assert_eq!(denials.reading(&hit, NOON).reset, over.reset);
            assert!(!denials.know(&hit, ahead.after(over.reset), begun()), "its window is over");
        }
    }
}
