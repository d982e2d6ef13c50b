//! Hit counts of rules. The engine returns what a decision adds; `telemetry` adds it.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Entry;
use super::per_core::PerCore;

/// Hits that one status adds to the counts of its rule. Names and meanings are envoyproxy/ratelimit's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitCounts {
    /// Hits of all requests, denied ones included.
    pub total_hits: u64,
    /// Hits over the limit.
    pub over_limit: u64,
    /// Hits over the limit that were denied without a call to the store: it was known that the counter is over its
    /// limit.
    pub over_limit_with_local_cache: u64,
    /// Hits within the limit, but above the near-limit mark.
    pub near_limit: u64,
    /// Hits of requests that passed.
    pub within_limit: u64,
    /// Hits over the limit that passed because the rule is in shadow mode.
    pub shadow_mode: u64,
    /// Hits refunded.
    pub total_negative_hits: u64,
    /// Denied requests, peeks included, for which this status was over its limit.
    pub denied_requests: u64,
}

/// Hit counts of one rule since it was first loaded. Reloads keep them for as long as a rule with the same
/// [`StatsPath`] exists.
#[derive(Debug, Default)]
pub struct Counts(PerCore<Sums>);

/// Counts of one core, in one cache line.
#[derive(Debug, Default)]
struct Sums {
    total_hits: AtomicU64,
    over_limit: AtomicU64,
    over_limit_with_local_cache: AtomicU64,
    near_limit: AtomicU64,
    within_limit: AtomicU64,
    shadow_mode: AtomicU64,
    total_negative_hits: AtomicU64,
    denied_requests: AtomicU64,
}

impl Counts {
    /// Adds the hits of one status.
    pub fn add(&self, hit_counts: &HitCounts) {
        let add = |sum: &AtomicU64, hits: u64| {
            if hits > 0 {
                sum.fetch_add(hits, Ordering::Relaxed);
            }
        };
        let own = self.0.own();
        add(&own.total_hits, hit_counts.total_hits);
        add(&own.over_limit, hit_counts.over_limit);
        add(&own.over_limit_with_local_cache, hit_counts.over_limit_with_local_cache);
        add(&own.near_limit, hit_counts.near_limit);
        add(&own.within_limit, hit_counts.within_limit);
        add(&own.shadow_mode, hit_counts.shadow_mode);
        add(&own.total_negative_hits, hit_counts.total_negative_hits);
        add(&own.denied_requests, hit_counts.denied_requests);
    }

    /// Counts so far.
    pub fn sum(&self) -> HitCounts {
        let sum = |field: fn(&Sums) -> &AtomicU64| {
            self.0.all().map(|sums| field(sums).load(Ordering::Relaxed)).sum()
        };
        HitCounts {
            total_hits: sum(|sums| &sums.total_hits),
            over_limit: sum(|sums| &sums.over_limit),
            over_limit_with_local_cache: sum(|sums| &sums.over_limit_with_local_cache),
            near_limit: sum(|sums| &sums.near_limit),
            within_limit: sum(|sums| &sums.within_limit),
            shadow_mode: sum(|sums| &sums.shadow_mode),
            total_negative_hits: sum(|sums| &sums.total_negative_hits),
            denied_requests: sum(|sums| &sums.denied_requests),
        }
    }
}

/// Name under which hits are counted: the domain, then `key` or `key_value` for each level of the rule tree.
/// Rules with the same path share their counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatsPath {
    /// The domain.
    pub domain: Box<str>,
    /// The levels, outermost first.
    pub parts: Vec<Box<str>>,
}

impl StatsPath {
    /// Upper bound, in bytes, on a name with a series of its own. Longer ones share a series, which bounds the
    /// memory for names from requests.
    pub const MAX_BYTES: usize = 512;

    /// Name of a limit in a request: every entry with its value.
    pub fn of_values(domain: &str, entries: &[Entry<'_>]) -> Self {
        Self { domain: domain.into(), parts: entries.iter().map(Self::value_part).collect() }
    }

    /// Name of a level that contains the request's value: `key_value`, or `key` if the value is empty.
    pub fn value_part(entry: &Entry<'_>) -> Box<str> {
        // A text that is cut here is still longer than `MAX_BYTES`.
        fn cut(text: &[u8]) -> Cow<'_, str> {
            String::from_utf8_lossy(text.get(..=StatsPath::MAX_BYTES).unwrap_or(text))
        }
        let (key, value) = (cut(entry.key), cut(entry.value));
        if value.is_empty() { key.into() } else { format!("{key}_{value}").into() }
    }
}

impl fmt::Display for StatsPath {
    /// `domain.part.part`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.domain)?;
        self.parts.iter().try_for_each(|part| write!(f, ".{part}"))
    }
}

/// Counts that the hits of a status are added to.
#[derive(Clone, Debug)]
pub enum StatsRef<'r> {
    /// Counts in the compiled rule, the usual case: no lookup.
    Rule(&'r Counts),
    /// Counts under a name with values of the request: for rules with `detailed_metric` or `value_to_metric`,
    /// and for limits in requests.
    Named(Box<StatsPath>),
}
