//! Eviction from a store that is full.
//!
//! Refusing new counters would let every new client pass unlimited, so a counter is evicted instead: its client
//! starts with a new counter, which admits at most what its limit allows once more. The choice is made among a few
//! counters of one stripe, as Redis chooses keys, so that a flood costs the same per request however full the store
//! is. A rule that is flooded with new keys soon holds most of the store, and gives way first.

use super::stripe::{Counter, LockoutCounter, Stripe};
use crate::engine::Timestamp;

/// Good candidates to choose among.
const SAMPLE: usize = 8;
/// Upper bound on the buckets looked at for them.
const MAX_VISITED: usize = 96;

/// Bound that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Counters,
    Bytes,
}

/// Order of eviction: counters of the first class go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// It says nothing any more.
    Expired,
    /// Of the rule that holds most, and not at its limit.
    OfLargestRule,
    /// Of a rule that holds more than its share, and not at its limit.
    OfLargeRule,
    /// Of the rule that holds most, and at its limit: its client is let in again. A client that can have so
    /// many keys gains nothing by that, since a new key would let it in just the same.
    AtLimitOfLargestRule,
    /// Of a rule that holds no more than its share, and not at its limit.
    OfSmallRule,
    /// Of another rule, and at its limit.
    AtLimit,
}

/// Its class; its share of the limit used, in 65,536ths; when it ends.
type Rank = (Class, u64, u64);

impl Stripe {
    /// Evicts a counter that is not to be kept; a small rule's, or one that is at its limit, only as a last resort.
    /// Returns whether there was one.
    pub(super) fn evict(
        &mut self,
        by: Measure,
        now: Timestamp,
        is_last_resort: bool,
        keep: impl Fn(&Counter) -> bool,
    ) -> bool {
        let amount = |len: usize, bytes: usize| if by == Measure::Counters { len } else { bytes };
        let largest = self.held.iter().max_by_key(|(_, held)| amount(held.len, held.bytes));
        let Some(largest) = largest.map(|(rule, _)| *rule) else { return false };
        let all = amount(self.usage.counters.len, self.usage.counters.bytes);
        let share = all / self.held.len();
        let class = |counter: &Counter, is_at_limit: bool| {
            let is_large =
                || self.held.get(&counter.rule).is_some_and(|held| amount(held.len, held.bytes) > share);
            match (counter.rule == largest, is_at_limit) {
                (true, false) => Class::OfLargestRule,
                (true, true) => Class::AtLimitOfLargestRule,
                (false, false) if is_large() => Class::OfLargeRule,
                (false, false) => Class::OfSmallRule,
                (false, true) => Class::AtLimit,
            }
        };
        let rank = |counter: &Counter| -> Rank {
            let end_secs = counter.end_secs();
            if end_secs <= now.as_secs() {
                return (Class::Expired, 0, end_secs);
            }
            let (used, capacity) = (counter.state.used(counter.limit, now), counter.limit.capacity().into());
            let used_share = used.saturating_mul(1 << 16).checked_div(capacity).unwrap_or(u64::MAX);
            // A place that is forgotten lets one more in, whatever the others hold.
            let is_at_limit = used >= capacity || (used > 0 && counter.limit.is_concurrency());
            (class(counter, is_at_limit), used_share, end_secs)
        };
        let (mut best, mut good) = (None::<(Rank, usize)>, 0);
        for index in visited(self.counters.num_buckets()) {
            let Some(counter) = self.counters.get_bucket(index).filter(|counter| !keep(counter)) else {
                continue;
            };
            let rank = rank(counter);
            good += usize::from(rank.0 <= Class::OfLargestRule);
            if best.is_none_or(|(best, _)| rank < best) {
                best = Some((rank, index));
            }
            if good == SAMPLE {
                break;
            }
        }
        let may_go = |class| is_last_resort || class <= Class::AtLimitOfLargestRule;
        let Some((_, index)) = best.filter(|((class, ..), _)| may_go(*class)) else { return false };
        self.remove_bucket(index);
        true
    }

    /// Evicts a lockout other than that of `key`: one that blocks no request, else one that ends soon. Returns
    /// whether there was one.
    pub(super) fn evict_lockout(&mut self, now: Timestamp, key: &[u8]) -> bool {
        let rank = |counter: &LockoutCounter| (counter.state.is_blocked(now), counter.end_secs);
        let candidates = visited(self.lockouts.num_buckets()).filter_map(|index| {
            let counter = self.lockouts.get_bucket(index).filter(|counter| *counter.key != *key)?;
            Some((rank(counter), index))
        });
        let Some((_, index)) = candidates.take(SAMPLE).min() else { return false };
        self.remove_lockout_bucket(index);
        true
    }
}

/// Buckets from a random one on: where a key lies is random itself.
fn visited(buckets: usize) -> impl Iterator<Item = usize> {
    let first = if buckets == 0 { 0 } else { fastrand::usize(..buckets) };
    (0..buckets.min(MAX_VISITED)).map(move |step| (first + step) % buckets)
}
