//! Rates: hits and denials over time, of all rules and of each.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::engine::rules::Rule;
use crate::engine::{HitCounts, Timestamp};

/// Seconds between two points.
pub(in crate::server) const STEP_SECS: u64 = 10;
/// Points that are kept: one hour.
const MAX_POINTS: usize = 360;
/// Rules of one point that are kept: those with the most hits over a limit, then those with the most hits.
const MAX_RULES: usize = 256;

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
    /// All rules together, or one of them.
    pub(in crate::server) rate: Rate,
}

/// Rates of one step.
#[derive(Debug)]
struct Step {
    all: Point,
    /// Rates of single rules by [`Rule::id`], without those that had no hits.
    rules: Vec<(u32, Rate)>,
}

/// Rates of the last hour.
#[derive(Debug, Default)]
pub(in crate::server) struct Rates(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    at: Option<Timestamp>,
    totals: HashMap<String, HitCounts>,
    rules: HashMap<String, Rate>,
    steps: VecDeque<Step>,
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
        if state.steps.len() == MAX_POINTS {
            state.steps.pop_front();
        }
        state.steps.push_back(Step { all: Point { at: now, rate: all }, rules: most_active(&rules) });
        (state.totals, state.rules) = (totals, rules);
    }

    /// Latest rates of all rules.
    pub(in crate::server) fn latest(&self) -> Rate {
        self.0.lock().steps.back().map(|step| step.all.rate).unwrap_or_default()
    }

    /// Points after `from`, oldest first: of all rules, or of the one with this path.
    pub(in crate::server) fn since(&self, from: Timestamp, rule: Option<&str>) -> Vec<Point> {
        let id = rule.map(Rule::id_of);
        let point = |step: &Step| {
            let Some(id) = id else { return step.all };
            let own = step.rules.iter().find(|(rule, _)| *rule == id);
            Point { at: step.all.at, rate: own.map(|(_, rate)| *rate).unwrap_or_default() }
        };
        self.0.lock().steps.iter().filter(|step| step.all.at > from).map(point).collect()
    }

    /// True if a rule with this path has been counted.
    pub(in crate::server) fn knows(&self, rule: &str) -> bool {
        self.0.lock().totals.contains_key(rule)
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

/// The rules to keep of a step.
fn most_active(rules: &HashMap<String, Rate>) -> Vec<(u32, Rate)> {
    let with_hits = rules.iter().filter(|(_, rate)| rate.hits > 0.0);
    let mut kept: Vec<_> = with_hits.map(|(path, rate)| (Rule::id_of(path), *rate)).collect();
    if kept.len() > MAX_RULES {
        kept.sort_unstable_by(|(_, one), (_, other)| {
            other.over.total_cmp(&one.over).then(other.hits.total_cmp(&one.hits))
        });
        kept.truncate(MAX_RULES);
        kept.shrink_to_fit();
    }
    kept
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
        assert!(rates.since(Timestamp::from_secs(0), None).is_empty());
        tick(110, &[("a", counts(150, 20)), ("b", counts(30, 0))]);
        let latest = rates.latest();
        assert_eq!((latest.hits, latest.over), (13.0, 2.0));
        tick(120, &[("a", counts(10, 0))]);
        assert_eq!(rates.latest().hits, 1.0);
        tick(120, &[("a", counts(500, 0))]);
        let of_rule = |rule| {
            let points = rates.since(Timestamp::from_secs(0), Some(rule)).into_iter();
            points.map(|point| (point.at.as_secs(), point.rate.hits, point.rate.over)).collect::<Vec<_>>()
        };
        assert_eq!(of_rule("a"), [(110, 10.0, 2.0), (120, 1.0, 0.0)]);
        assert_eq!(of_rule("b"), [(110, 3.0, 0.0), (120, 0.0, 0.0)]);
        assert!(rates.knows("a") && !rates.knows("c"));
        let points = rates.since(Timestamp::from_secs(110), None);
        assert_eq!(points.len(), 1, "a clock that stands still adds no point");
        let totals = HashMap::from([("a".to_owned(), counts(510, 0))]);
        let shown = rates.with_rates(totals);
        let [(_, totals, rate)] = &shown[..] else { panic!("{shown:?}") };
        assert_eq!((totals.total_hits, rate.hits), (510, 1.0), "totals of now, and the latest rate");
    }

    #[test]
    fn of_many_rules_those_that_deny_are_kept() {
        let rates = Rates::default();
        let totals = |factor: u64| {
            let of_rule = |number: u64| counts(10 * number * factor, if number == 1 { factor } else { 0 });
            (0..1_000).map(|number| (format!("d.{number}"), of_rule(number))).collect()
        };
        rates.tick(Timestamp::from_secs(100), totals(1));
        rates.tick(Timestamp::from_secs(110), totals(2));
        let hits = |rule: &str| rates.since(Timestamp::from_secs(0), Some(rule))[0].rate.hits;
        assert_eq!([hits("d.1"), hits("d.999"), hits("d.2")], [1.0, 999.0, 0.0]);
        assert_eq!(rates.0.lock().steps[0].rules.len(), MAX_RULES);
    }
}
