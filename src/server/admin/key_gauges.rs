//! Metrics of single keys: the extremes of each rule, since a series for each key would have no bound.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::views::RuleNames;
use crate::engine::Timestamp;
use crate::limiter::observe::{Observer, TopBy, TopKey};
use crate::telemetry::metrics::definitions::{HIGHEST_KEY_USE, MOST_DENIED_KEY};
use crate::telemetry::metrics::snapshot::Snapshot;

/// Window of the gauges, in seconds.
const WINDOW_SECS: u64 = 300;
/// Keys that are looked at for each gauge.
const MAX_KEYS: usize = 1_000;
/// Rules with gauges.
const MAX_RULES: usize = 100;

/// The latest extremes.
#[derive(Debug, Default)]
pub(super) struct KeyGauges(Mutex<Extremes>);

#[derive(Debug, Default)]
struct Extremes {
    /// Second in which they were read.
    read_at: Option<u64>,
    /// Denials of the most denied key, by rule.
    most_denied: HashMap<String, f64>,
    /// Largest share of its limit that a key has used, by rule.
    highest_use: HashMap<String, f64>,
}

impl KeyGauges {
    /// Adds the gauges to `snapshot`. The cores are read at most once a second, however many exporters ask.
    pub(super) fn add_to(
        &self,
        snapshot: &mut Snapshot,
        observer: &Observer,
        names: impl FnOnce() -> Arc<RuleNames>,
        now: Timestamp,
    ) {
        let mut extremes = self.0.lock();
        if extremes.read_at != Some(now.as_secs()) {
            *extremes = Extremes::read(observer, &names(), now);
        }
        for (metric, values) in
            [(&MOST_DENIED_KEY, &extremes.most_denied), (&HIGHEST_KEY_USE, &extremes.highest_use)]
        {
            values.iter().for_each(|(rule, value)| snapshot.add(metric, [rule], *value));
        }
    }
}

impl Extremes {
    fn read(observer: &Observer, names: &RuleNames, now: Timestamp) -> Self {
        let top = |by| observer.top(by, WINDOW_SECS, MAX_KEYS, now).0;
        let used = |key: &TopKey| key.used as f64 / f64::from(key.limit.capacity().max(1));
        Self {
            read_at: Some(now.as_secs()),
            most_denied: by_rule(&top(TopBy::Denied), names, |key| key.count as f64),
            highest_use: by_rule(&top(TopBy::Use), names, used),
        }
    }
}

/// The largest value of the keys of each rule. `keys` are in descending order.
fn by_rule(keys: &[TopKey], names: &RuleNames, value: impl Fn(&TopKey) -> f64) -> HashMap<String, f64> {
    let mut largest = HashMap::new();
    for key in keys {
        let Some(name) = names.get(&key.rule) else { continue };
        if largest.len() < MAX_RULES || largest.contains_key(name.path()) {
            let known = largest.entry(name.path().to_owned()).or_insert(0.0);
            *known = f64::max(*known, value(key));
        }
    }
    largest
}
