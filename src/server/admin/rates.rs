//! Rates: hits and denials over time, of all rules and of each.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::engine::{HitCounts, Timestamp};

/// Seconds between two points.
pub(in crate::server) const STEP_SECS: u64 = 10;
/// Points that are kept: one hour.
const MAX_POINTS: usize = 360;

/// Hits and denials of one second, averaged over [`STEP_SECS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::server) struct Rate {
    /// Hits.
    pub(in crate::server) hits: f64,
    /// Hits over a limit.
    pub(in crate::server) over: f64,
    /// Hits over a limit that passed because of shadow mode.
    pub(in crate::server) shadow: f64,
    /// Hits within the limit and past its near-limit mark.
    pub(in crate::server) near: f64,
}

/// Rates at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::server) struct Point {
    /// End of the step.
    pub(in crate::server) at: Timestamp,
    /// All rules together.
    pub(in crate::server) rate: Rate,
}

/// Rates of the last hour.
#[derive(Debug, Default)]
pub(in crate::server) struct Rates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    at: Option<Timestamp>,
    totals: HashMap<String, HitCounts>,
    rules: HashMap<String, Rate>,
    points: VecDeque<Point>,
}

impl Rates {
    /// Takes the totals of each rule at `now`. Rules whose totals are below the last ones have started anew.
    pub(in crate::server) fn tick(&self, now: Timestamp, totals: HashMap<String, HitCounts>) {
        let mut state = self.0.lock();
        let Some(before) = state.at.replace(now) else {
            state.totals = totals;
            return;
        };
        let secs = now.since(before).as_secs_f64();
        if secs <= 0.0 {
            return;
        }
        let mut all = Rate::default();
        let mut rules = HashMap::with_capacity(totals.len());
        for (path, counts) in &totals {
            let last = state.totals.get(path).copied().unwrap_or_default();
            let per_sec = |now: u64, last: u64| now.checked_sub(last).unwrap_or(now) as f64 / secs;
            let rate = Rate {
                hits: per_sec(counts.total_hits, last.total_hits),
                over: per_sec(counts.over_limit, last.over_limit),
                shadow: per_sec(counts.shadow_mode, last.shadow_mode),
                near: per_sec(counts.near_limit, last.near_limit),
            };
            all.hits += rate.hits;
            all.over += rate.over;
            all.shadow += rate.shadow;
            all.near += rate.near;
            rules.insert(path.clone(), rate);
        }
        (state.totals, state.rules) = (totals, rules);
        if state.points.len() == MAX_POINTS {
            state.points.pop_front();
        }
        state.points.push_back(Point { at: now, rate: all });
    }

    /// Latest rates of all rules.
    pub(in crate::server) fn latest(&self) -> Rate {
        self.0.lock().points.back().map(|point| point.rate).unwrap_or_default()
    }

    /// Points after `from`, oldest first.
    pub(in crate::server) fn since(&self, from: Timestamp) -> Vec<Point> {
        self.0.lock().points.iter().filter(|point| point.at > from).copied().collect()
    }

    /// `totals` of each rule with its latest rate.
    pub(in crate::server) fn with_rates(
        &self,
        totals: HashMap<String, HitCounts>,
    ) -> Vec<(String, HitCounts, Rate)> {
        let state = self.0.lock();
        let with_rate = |(path, counts): (String, HitCounts)| {
            let rate = state.rules.get(&path).copied().unwrap_or_default();
            (path, counts, rate)
        };
        totals.into_iter().map(with_rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(total_hits: u64, over_limit: u64) -> HitCounts {
        HitCounts { total_hits, over_limit, ..HitCounts::default() }
    }

    #[test]
    fn rates_are_differences_and_survive_a_rule_that_starts_anew() {
        let rates = Rates::default();
        let tick = |secs, totals: &[(&str, HitCounts)]| {
            let totals = totals.iter().map(|(path, counts)| ((*path).to_owned(), *counts)).collect();
            rates.tick(Timestamp::from_secs(secs), totals);
        };
        tick(100, &[("a", counts(50, 0))]);
        assert!(rates.since(Timestamp::from_secs(0)).is_empty());
        tick(110, &[("a", counts(150, 20)), ("b", counts(30, 0))]);
        let latest = rates.latest();
        assert_eq!((latest.hits, latest.over), (13.0, 2.0));
        tick(120, &[("a", counts(10, 0))]);
        assert_eq!(rates.latest().hits, 1.0);
        tick(120, &[("a", counts(500, 0))]);
        let points = rates.since(Timestamp::from_secs(110));
        assert_eq!(points.len(), 1, "a clock that stands still adds no point");
        let totals = HashMap::from([("a".to_owned(), counts(510, 0))]);
        let shown = rates.with_rates(totals);
        let [(_, totals, rate)] = &shown[..] else { panic!("{shown:?}") };
        assert_eq!((totals.total_hits, rate.hits), (510, 1.0), "totals of now, and the latest rate");
    }
}
