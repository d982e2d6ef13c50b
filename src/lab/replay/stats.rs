//! Figures of each rule and key. Their memory is that of the live counters, and of a bounded number of others.

use hashbrown::{HashMap, HashTable};

use super::demand::Demand;
use super::distinct::Distinct;
use crate::engine::{Limit, Timestamp};

/// Keys that are kept although their window is over, so that the figures of small logs are exact.
const MIN_KEPT_KEYS: usize = 1 << 18;
/// Limits of requests that have rows of their own. Clients may choose both their keys and their numbers.
const MAX_BROUGHT: usize = 200;
/// Denied keys that are remembered when they are no longer kept.
const MAX_RETIRED: usize = 20_000;

/// Figures of all rules.
#[derive(Debug, Default)]
pub(super) struct Stats {
    limits: Vec<LimitStats>,
    /// Index in `limits`.
    indexes: HashMap<LimitKey, usize, foldhash::fast::RandomState>,
    /// Limits of requests among them.
    brought: usize,
    keys: HashTable<Key>,
    /// Number of keys at which those whose window is over are dropped.
    sweep_at: usize,
    retired: HashMap<u64, Offender, foldhash::fast::RandomState>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LimitKey {
    /// By the id of its rule, and its index in the rule.
    OfRule(u32, usize),
    /// Of requests: the hash of the domain, the keys of the descriptor, and the limit.
    OfRequest(u64),
    /// All limits of requests beyond [`MAX_BROUGHT`].
    Other,
}

/// Figures of one limit of a rule.
#[derive(Debug)]
pub(super) struct LimitStats {
    /// Path of the rule.
    pub(super) rule: Box<str>,
    /// Name of the limit.
    pub(super) name: Option<Box<str>>,
    pub(super) limit: Limit,
    /// Index of the limit in its rule.
    pub(super) index: usize,
    pub(super) hits: u64,
    /// Hits of descriptors that the limit denied, and that the rule denied.
    pub(super) denied: u64,
    pub(super) rule_denied: u64,
    /// Hits of requests that it would have denied, if it were enforced.
    pub(super) shadowed: u64,
    pub(super) keys: Distinct,
    pub(super) denied_keys: Distinct,
    pub(super) demand: Demand,
    /// Busiest second and minute.
    pub(super) busiest: [Busiest; 2],
    /// Window of the last request, in seconds since the epoch.
    window: (u64, u64),
}

/// The interval with the most hits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busiest {
    /// Current interval: its number and its hits.
    current: (u64, u64),
    /// Start of the busiest one in seconds since the epoch, and its hits.
    pub(super) most: (u64, u64),
}

/// A key of a limit.
#[derive(Debug)]
struct Key {
    hash: u64,
    limit: u32,
    /// Start of the window that `demand` is of.
    window_start: u64,
    demand: u64,
    hits: u64,
    denied: u64,
    /// Its name, once it was denied.
    label: Option<Box<str>>,
}

/// A key with denials.
#[derive(Clone, Debug)]
pub(super) struct Offender {
    /// Index of its limit.
    pub(super) limit: usize,
    pub(super) label: Box<str>,
    pub(super) hits: u64,
    pub(super) denied: u64,
}

/// A charge and its result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    /// Hash of the counter's key.
    pub(super) key: u64,
    pub(super) hits: u64,
    /// True if this limit denied the descriptor.
    pub(super) denied: bool,
    /// True if a limit of the rule did.
    pub(super) rule_denied: bool,
    pub(super) shadowed: bool,
}

impl Stats {
    /// Index of the limit `key`, which `new` makes from the key of its row if it is not there yet.
    pub(super) fn limit(&mut self, key: LimitKey, new: impl FnOnce(LimitKey) -> LimitStats) -> usize {
        let Self { limits, indexes, brought, .. } = self;
        let is_new_of_request = matches!(key, LimitKey::OfRequest(_)) && !indexes.contains_key(&key);
        let key = if is_new_of_request && *brought == MAX_BROUGHT { LimitKey::Other } else { key };
        *indexes.entry(key).or_insert_with(|| {
            *brought += usize::from(matches!(key, LimitKey::OfRequest(_)));
            limits.push(new(key));
            limits.len() - 1
        })
    }

    /// Limits that were reached.
    pub(super) fn limits(&self) -> &[LimitStats] {
        &self.limits
    }

    /// Counts a charge to the limit at `index`.
    pub(super) fn count(
        &mut self,
        index: usize,
        touch: Touch,
        now: Timestamp,
        label: impl FnOnce() -> Box<str>,
    ) {
        if self.keys.len() >= self.sweep_at {
            self.sweep(now);
        }
        let Some(limit) = self.limits.get_mut(index) else { return };
        limit.add(touch, now);
        let window_start = limit.window.0;
        // The tables take their bits from different ends.
        let found = self.keys.find_mut(touch.key, |key| key.hash == touch.key);
        let key = match found {
            Some(key) => key,
            None => {
                limit.keys.add(touch.key);
                let key = revived(&mut self.retired, touch.key, index, window_start);
                self.keys.insert_unique(touch.key, key, |key| key.hash).into_mut()
            }
        };
        if key.window_start != window_start {
            limit.demand.add(key.demand);
            (key.window_start, key.demand) = (window_start, 0);
        }
        key.demand += touch.hits;
        key.hits += touch.hits;
        // A rule's first limit stands for its keys.
        if touch.rule_denied && limit.index == 0 {
            key.denied += touch.hits;
            if key.label.is_none() {
                limit.denied_keys.add(touch.key);
                key.label = Some(label());
            }
        }
    }

    /// Drops keys whose window is over.
    fn sweep(&mut self, now: Timestamp) {
        let Self { keys, limits, retired, .. } = self;
        keys.retain(|key| {
            let Some(limit) = limits.get_mut(key.limit as usize) else { return false };
            if limit.limit.window.end_secs(key.window_start) > now.as_secs() {
                return true;
            }
            limit.demand.add(key.demand);
            retire(retired, key);
            false
        });
        prune(retired);
        self.sweep_at = MIN_KEPT_KEYS.max(self.keys.len() * 2);
    }

    /// Ends the windows that are open. To be called once.
    pub(super) fn finish(&mut self) {
        let Self { keys, limits, retired, .. } = self;
        for key in keys.drain() {
            if let Some(limit) = limits.get_mut(key.limit as usize) {
                limit.demand.add(key.demand);
            }
            retire(retired, &key);
        }
    }

    /// The keys with the most denied hits, at most `count`.
    pub(super) fn offenders(&self, count: usize) -> Vec<Offender> {
        let mut offenders: Vec<_> = self.retired.values().cloned().collect();
        offenders.sort_by(|one, other| (other.denied, &*one.label).cmp(&(one.denied, &*other.label)));
        offenders.truncate(count);
        offenders
    }
}

fn revived(
    retired: &mut HashMap<u64, Offender, foldhash::fast::RandomState>,
    hash: u64,
    limit: usize,
    window_start: u64,
) -> Key {
    let (hits, denied, label) = match retired.remove(&hash) {
        Some(Offender { hits, denied, label, .. }) => (hits, denied, Some(label)),
        None => (0, 0, None),
    };
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    Key { hash, limit, window_start, demand: 0, hits, denied, label }
}

fn retire(retired: &mut HashMap<u64, Offender, foldhash::fast::RandomState>, key: &Key) {
    if let Some(label) = &key.label {
        let Key { limit, hits, denied, .. } = *key;
        retired.insert(key.hash, Offender { limit: limit as usize, label: label.clone(), hits, denied });
    }
}

/// Forgets those with the fewest denials, if there are too many.
fn prune(retired: &mut HashMap<u64, Offender, foldhash::fast::RandomState>) {
    if retired.len() > MAX_RETIRED {
        let mut denied: Vec<u64> = retired.values().map(|offender| offender.denied).collect();
        let (_, least, _) = denied.select_nth_unstable_by(MAX_RETIRED / 2, |one, other| other.cmp(one));
        let least = *least;
        retired.retain(|_, offender| offender.denied > least);
    }
}

impl LimitStats {
    pub(super) fn new(rule: &str, name: Option<&str>, limit: Limit, index: usize) -> Self {
        Self {
            rule: rule.into(),
            name: name.map(Box::from),
            limit,
            index,
            hits: 0,
            denied: 0,
            rule_denied: 0,
            shadowed: 0,
            keys: Distinct::default(),
            denied_keys: Distinct::default(),
            demand: Demand::default(),
            busiest: [Busiest::default(); 2],
            window: (0, 0),
        }
    }

    fn add(&mut self, touch: Touch, now: Timestamp) {
        let secs = now.as_secs();
        if secs >= self.window.1 || secs < self.window.0 {
            let start = self.limit.window.start_secs(now);
            self.window = (start, self.limit.window.end_secs(start));
        }
        self.hits += touch.hits;
        self.denied += if touch.denied { touch.hits } else { 0 };
        self.rule_denied += if touch.rule_denied { touch.hits } else { 0 };
        self.shadowed += if touch.shadowed { touch.hits } else { 0 };
        for (busiest, length) in self.busiest.iter_mut().zip([1, 60]) {
            busiest.add(secs / length, length, touch.hits);
        }
    }
}

impl Busiest {
    fn add(&mut self, number: u64, length: u64, hits: u64) {
        if self.current.0 != number {
            self.current = (number, 0);
        }
        self.current.1 += hits;
        if self.current.1 > self.most.1 {
            self.most = (number * length, self.current.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Unit;

    fn count(stats: &mut Stats, key: u64, denied: bool, secs: u64) {
        let limit = || LimitStats::new("shop.user", None, Limit::per(5, Unit::Minute), 0);
        let index = stats.limit(LimitKey::OfRule(1, 0), |_| limit());
        let hash = xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes());
        let touch = Touch { key: hash, hits: 1, denied, rule_denied: denied, shadowed: false };
        stats.count(index, touch, Timestamp::from_secs(secs), || key.to_string().into());
    }

    #[test]
    fn a_key_is_counted_over_all_of_its_windows() {
        let mut stats = Stats::default();
        for (secs, denied) in [(0, false), (1, true), (59, false), (60, false), (200, true)] {
            count(&mut stats, 7, denied, secs);
        }
        stats.finish();
        let [offender] = &stats.offenders(10)[..] else { panic!("one offender") };
        assert_eq!((&*offender.label, offender.hits, offender.denied), ("7", 5, 2));
        let limit = &stats.limits()[0];
        assert_eq!((limit.hits, limit.denied, limit.keys.count(), limit.denied_keys.count()), (5, 2, 1, 1));
        assert_eq!((limit.demand.quantile(1.0), limit.demand.quantile(0.1)), (3, 1));
        assert_eq!(limit.busiest.map(|busiest| busiest.most), [(0, 1), (0, 3)]);
    }

    #[test]
    fn limits_of_requests_have_rows_of_their_own_up_to_a_bound() {
        let mut stats = Stats::default();
        let mut row = |key| {
            stats.limit(key, |key| LimitStats::new(&format!("{key:?}"), None, Limit::per(5, Unit::Minute), 0))
        };
        let rows: Vec<_> = (0..MAX_BROUGHT as u64 + 50).map(|hash| row(LimitKey::OfRequest(hash))).collect();
        assert_eq!(rows[..MAX_BROUGHT], (0..MAX_BROUGHT).collect::<Vec<_>>());
        assert!(rows[MAX_BROUGHT..].iter().all(|row| *row == MAX_BROUGHT));
        assert_eq!((row(LimitKey::OfRequest(7)), row(LimitKey::OfRule(0, 0))), (7, MAX_BROUGHT + 1));
        assert_eq!(&*stats.limits()[MAX_BROUGHT].rule, "Other");
    }

    #[test]
    fn keys_whose_window_is_over_take_no_memory() {
        let mut stats = Stats::default();
        for key in 0..3 * MIN_KEPT_KEYS as u64 {
            count(&mut stats, key, key % 10 == 0, key / 1_000);
            assert!(stats.keys.len() <= MIN_KEPT_KEYS + 1);
        }
        count(&mut stats, 0, true, 100_000);
        stats.finish();
        assert!(stats.limits()[0].denied == 3 * MIN_KEPT_KEYS as u64 / 10 + 2);
        assert_eq!((&*stats.offenders(1)[0].label, stats.offenders(1)[0].denied), ("0", 1));
    }
}
