//! One set of rules, and what it decides: the path of a request in the service, with the time of the log.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::stats::{LimitKey, LimitStats, Stats, Touch};
use crate::engine::algorithm::group::is_over;
use crate::engine::judge::judge;
use crate::engine::plan::{Plan, plan};
use crate::engine::rules::Rule;
use crate::engine::text::one_line_of_bytes;
use crate::engine::{Code, Descriptor, Hits, KeyFormat, KeyWriter, Limit, Modes, Request, Rules, Timestamp};
use crate::limiter::charges;
use crate::store::Charge;
use crate::store::memory::{MemorySettings, MemoryStore};

/// Upper bound on the counters of one set of rules.
const MAX_COUNTERS: usize = 50_000_000;
/// Least number of requests from one sweep of the store to the next.
const MIN_SWEEP_INTERVAL: u64 = 4_096;
/// Longest name of a key in reports, in bytes.
const MAX_LABEL_BYTES: usize = 200;
/// Name of the limits that requests bring, where there are too many for rows of their own.
const OTHER_BROUGHT: &str = "(other limits in requests)";

/// Rules under evaluation.
pub(super) struct Evaluation {
    pub(super) rules: Arc<Rules>,
    store: MemoryStore,
    keys: KeyWriter,
    modes: Modes,
    pub(super) stats: Stats,
    pub(super) requests: u64,
    /// Number of requests at which the store is swept.
    sweep_at: u64,
    pub(super) denied: u64,
    /// Requests that no limit applied to.
    pub(super) unmatched: u64,
}

/// Position of a charge: its descriptor, and the limit among those of the rule.
#[derive(Clone, Copy)]
struct Spot {
    item: usize,
    limit: usize,
}

impl Evaluation {
    pub(super) fn new(rules: Arc<Rules>, modes: Modes, max_bytes: usize) -> Self {
        Self {
            rules,
            store: MemoryStore::new(MemorySettings { max_counters: MAX_COUNTERS, max_bytes }),
            keys: KeyWriter::new(KeyFormat::Native, ""),
            modes,
            stats: Stats::default(),
            requests: 0,
            sweep_at: MIN_SWEEP_INTERVAL,
            denied: 0,
            unmatched: 0,
        }
    }

    /// Decides `request` at `now`, and returns whether it is denied.
    pub(super) fn decide(&mut self, request: &Request<'_>, now: Timestamp) -> bool {
        self.requests += 1;
        if self.requests >= self.sweep_at {
            self.sweep(now);
        }
        let Self { rules, store, keys, modes, stats, .. } = self;
        let plan = plan(rules, request, keys);
        let charges = charges(&plan, modes);
        let spots = spots(&plan);
        let readings = store.carry_out(&charges, now);
        let readings: SmallVec<[_; 2]> = readings.into_iter().flatten().collect();
        let decision = judge(plan, readings.iter().copied(), modes);
        for ((charge, reading), spot) in charges.iter().zip(&readings).zip(&spots) {
            let (Hits::Add(hits @ 1..), Some(status)) = (charge.hits, decision.statuses.get(spot.item))
            else {
                continue;
            };
            let is_over = status.larger_than_limit
                || is_over(charge.mode, charge.hits, reading.used, charge.limit.capacity(), reading.outcome);
            let is_denied = status.code == Code::OverLimit;
            let touch = Touch {
                key: xxh3_64(&charge.key),
                hits: hits.into(),
                denied: is_denied && is_over,
                rule_denied: is_denied,
                shadowed: status.shadowed && is_over,
            };
            let key = match (status.rule, request.descriptors.get(spot.item)) {
                (None, Some(descriptor)) => limit_of_request(request.domain, descriptor, charge.limit),
                (Some(_), _) | (None, None) => LimitKey::OfRule(charge.rule, spot.limit),
            };
            let index = stats.limit(key, |key| {
                let limit = status.rule.and_then(|rule| rule.limits().get(spot.limit));
                let name = limit.and_then(|limit| limit.name.as_deref());
                let row = row_name(key, status.rule, request, spot.item);
                LimitStats::new(&row, name, charge.limit, spot.limit)
            });
            stats.count(index, touch, now, || label(keys, charge));
        }
        self.unmatched += u64::from(charges.is_empty());
        let is_denied = decision.code == Code::OverLimit;
        self.denied += u64::from(is_denied);
        is_denied
    }

    /// Drops the counters that are over at `now`, so that memory is proportional to those that are not. A sweep looks at each
    /// counter: the more are left, the more requests pass until the next one.
    fn sweep(&mut self, now: Timestamp) {
        self.store.sweep_all(now);
        self.sweep_at = self.requests + MIN_SWEEP_INTERVAL.max(self.store.len() as u64);
    }

    /// Counters that gave way to others because the memory was full.
    pub(super) fn evicted(&self) -> u64 {
        self.store.figures().evicted
    }
}

/// Positions of the charges of `plan`, in their order.
fn spots(plan: &Plan<'_>) -> SmallVec<[Spot; 4]> {
    let mut spots = SmallVec::new();
    for (item, planned) in plan.items.iter().enumerate() {
        let counters = planned.limited().map_or(0, |limited| limited.counters.len());
        for limit in 0..counters {
            spots.push(Spot { item, limit });
        }
    }
    spots
}

/// A limit that `descriptor` brings. Its row is that of all descriptors with the same keys and the same limit.
fn limit_of_request(domain: &[u8], descriptor: &Descriptor<'_>, limit: Limit) -> LimitKey {
    let mut hash = Xxh3::new();
    let keys = descriptor.entries.iter().map(|entry| entry.key);
    for text in [domain].into_iter().chain(keys) {
        hash.update(&text.len().to_le_bytes());
        hash.update(text);
    }
    hash.update(&limit.requests_per_unit.to_le_bytes());
    hash.update(&limit.nominal_secs().to_le_bytes());
    LimitKey::OfRequest(hash.digest())
}

/// Name of the row of a limit: the path of its rule, or the domain and the keys of a descriptor that brings it.
fn row_name<'n>(key: LimitKey, rule: Option<&'n Rule>, request: &Request<'_>, item: usize) -> Cow<'n, str> {
    match (key, rule, request.descriptors.get(item)) {
        (_, Some(rule), _) => Cow::Borrowed(&rule.path),
        (LimitKey::OfRequest(_), None, Some(descriptor)) => {
            let keys = descriptor.entries.iter().map(|entry| entry.key);
            let path: Vec<_> = [request.domain].into_iter().chain(keys).collect();
            let path = one_line_of_bytes(&path.join(&b'.'), MAX_LABEL_BYTES);
            Cow::Owned(format!("{path} (limit in requests)"))
        }
        (LimitKey::OfRequest(_) | LimitKey::OfRule(..) | LimitKey::Other, None, _) => {
            Cow::Borrowed(OTHER_BROUGHT)
        }
    }
}

/// Name of a counter: the entries that it counts, as they are counted.
fn label(keys: &KeyWriter, charge: &Charge) -> Box<str> {
    let Some(parts) = keys.parse_counter_key(&charge.key) else {
        return one_line_of_bytes(&charge.key, MAX_LABEL_BYTES).into();
    };
    let entries = parts.entries.iter().map(|(key, value)| [&key[..], b"=", value].concat());
    one_line_of_bytes(&entries.collect::<Vec<_>>().join(&b','), MAX_LABEL_BYTES).into()
}
