//! Counts under names with values of requests: for rules with `detailed_metric` or `value_to_metric`, and for limits in
//! requests. Their number is bounded, since callers choose the values.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::engine::StatsPath;
use crate::engine::hit_counts::{Counts, HitCounts};

/// Name of the series that the names of a domain share beyond the bound.
const OTHER: &str = "other";

/// Counts by name. A name is never removed.
#[derive(Debug, Default)]
pub(super) struct NamedCounts {
    max_series: usize,
    /// Locked, since new names are added while others count. Nearly every call only reads. The lock is held for one
    /// lookup, and never across an await.
    by_path: RwLock<HashMap<StatsPath, Arc<Counts>>>,
}

impl NamedCounts {
    /// Counts for up to `max_series` names, and for one more series of each domain, which the other names share.
    pub(super) fn new(max_series: usize) -> Self {
        Self { max_series, by_path: RwLock::default() }
    }

    /// Adds `hit_counts` under `path`.
    pub(super) fn add(&self, path: &StatsPath, hit_counts: &HitCounts) {
        self.known_place(path).unwrap_or_else(|| self.new_place(path)).add(hit_counts);
    }

    /// Every name and its counts.
    pub(super) fn all(&self) -> Vec<(StatsPath, HitCounts)> {
        self.by_path.read().iter().map(|(path, counts)| (path.clone(), counts.sum())).collect()
    }

    /// The counts of `path`, if it has any. Beyond the bound, those of the series that it shares.
    fn known_place(&self, path: &StatsPath) -> Option<Arc<Counts>> {
        let by_path = self.by_path.read();
        let own = by_path.get(path);
        let place =
            if self.has_room(by_path.len(), path) { own } else { own.or(by_path.get(&overflow(path))) };
        place.cloned()
    }

    fn new_place(&self, path: &StatsPath) -> Arc<Counts> {
        let mut by_path = self.by_path.write();
        let place = if self.has_room(by_path.len(), path) { path.clone() } else { overflow(path) };
        Arc::clone(by_path.entry(place).or_default())
    }

    /// True if a new name may have its own counts beside `series` others.
    fn has_room(&self, series: usize, path: &StatsPath) -> bool {
        let name_bytes = path.domain.len() + path.parts.iter().map(|part| part.len() + 1).sum::<usize>();
        series < self.max_series && name_bytes <= StatsPath::MAX_BYTES
    }
}

/// Name of the shared series. There is one for each domain of the rules, so requests cannot create more.
fn overflow(path: &StatsPath) -> StatsPath {
    StatsPath { domain: path.domain.clone(), parts: vec![OTHER.into()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(domain: &str, part: &str) -> StatsPath {
        StatsPath { domain: domain.into(), parts: vec![part.into()] }
    }

    fn hits(total_hits: u64) -> HitCounts {
        HitCounts { total_hits, ..HitCounts::default() }
    }

    fn totals(counts: &NamedCounts) -> Vec<(String, u64)> {
        let all = counts.all().into_iter();
        let mut totals: Vec<_> =
            all.map(|(path, hit_counts)| (path.to_string(), hit_counts.total_hits)).collect();
        totals.sort();
        totals
    }

    #[test]
    fn names_beyond_the_bound_share_a_series_and_no_hit_is_lost() {
        let counts = NamedCounts::new(2);
        for name in ["a", "b", "c", "d", "a", "c"] {
            counts.add(&path("shop", name), &hits(1));
        }
        counts.add(&path("bank", "x"), &hits(5));
        let expected = [("bank.other", 5), ("shop.a", 2), ("shop.b", 1), ("shop.other", 3)];
        assert_eq!(totals(&counts), expected.map(|(name, hits)| (name.to_owned(), hits)));
    }

    #[test]
    fn a_name_that_is_too_long_counts_in_the_shared_series() {
        let counts = NamedCounts::new(10);
        counts.add(&path("shop", &"x".repeat(StatsPath::MAX_BYTES)), &hits(7));
        assert_eq!(totals(&counts), [("shop.other".to_owned(), 7)]);
    }

    #[test]
    fn no_hit_is_lost_when_cores_meet_at_a_new_name() {
        let counts = NamedCounts::new(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| counts.add(&path("shop", "a"), &hits(1))));
            }
        });
        assert_eq!(totals(&counts), [("shop.a".to_owned(), 4_000)]);
    }
}
