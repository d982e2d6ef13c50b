//! Decision log: one JSON object a line for each decision, or for those of some keys. `tollgate replay` reads it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::observe::Observation;
use crate::engine::rules::Domain;
use crate::engine::{Code, Decision, Descriptor, Hits, Timestamp};
use crate::telemetry::logs::LogQueue;

/// Longest line that is logged. `tollgate replay` reads no longer ones.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Logs decisions. Clones write to the same log.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    queue: LogQueue,
    /// Hashes of keys up to this one are logged; `None` for all.
    max_hash: Option<u64>,
    /// Share of keys that are logged; `None` for all.
    sample: Option<f64>,
}

/// A line.
#[derive(Serialize)]
struct Line<'l> {
    t: String,
    domain: Text<'l>,
    descriptors: Vec<DescriptorLine<'l>>,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<f64>,
}

#[derive(Serialize)]
struct DescriptorLine<'l> {
    entries: Vec<(Text<'l>, Value<'l>)>,
    hits: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<LimitLine>,
}

#[derive(Serialize)]
struct LimitLine {
    requests_per_unit: u32,
    unit: &'static str,
}

/// Bytes of a request: a text, or an object with their base64 if they are not UTF-8.
struct Text<'l>(&'l [u8]);

/// Value of an entry, or its hash.
enum Value<'l> {
    Plain(Text<'l>),
    Hashed(Vec<u8>),
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", STANDARD.encode(self.0))]),
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(text) => text.serialize(serializer),
            Self::Hashed(hash) => Text(hash).serialize(serializer),
        }
    }
}

impl DecisionLog {
    /// A log of the decisions of a share of the keys, from 0 to 1.
    pub fn new(queue: LogQueue, sample: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from float saturates"
        )]
        let max_hash = (sample < 1.0).then_some((sample * u64::MAX as f64) as u64);
        Self { queue, max_hash, sample: max_hash.map(|_| sample) }
    }

    /// Logs a decision, unless its key is not among those that are logged. Never waits: a line that the writer has no
    /// room for is dropped and counted.
    pub(super) fn log(&self, observation: Observation<'_, '_, '_>, now: Timestamp) {
        if !self.is_logged(&observation) {
            return;
        }
        let Observation { request, rules, decision, .. } = observation;
        let domain = rules.domain(request.domain);
        let line = Line {
            t: now.to_string(),
            domain: Text(request.domain),
            descriptors: request
                .descriptors
                .iter()
                .map(|descriptor| DescriptorLine::of(descriptor, domain))
                .collect(),
            verdict: verdict(decision),
            rule: rule(decision),
            sample: self.sample,
        };
        let Ok(mut line) = serde_json::to_vec(&line) else { return };
        line.push(b'\n');
        if line.len() <= MAX_LINE_BYTES {
            self.queue.push(line);
        } else {
            self.queue.drop_line();
        }
    }

    /// True if the key of the first descriptor is sampled: its counter, or if no limit applies its entries. Requests
    /// whose first descriptor counts in it are logged all or none. Counters of other descriptors are logged in part.
    fn is_logged(&self, Observation { request, charges, decision, .. }: &Observation<'_, '_, '_>) -> bool {
        let Some(max_hash) = self.max_hash else { return true };
        let is_limited = decision.statuses.first().is_some_and(|first| first.limit.is_some());
        let hash = match charges.first().filter(|_| is_limited) {
            Some(charge) => xxh3_64(&charge.key),
            None => {
                let mut hash = Xxh3::new();
                hash.update(request.domain);
                let entries = request.descriptors.first().into_iter().flat_map(|first| &first.entries);
                entries.for_each(|entry| {
                    hash.update(entry.key);
                    hash.update(entry.value);
                });
                hash.digest()
            }
        };
        hash < max_hash
    }
}

impl<'l> DescriptorLine<'l> {
    fn of(descriptor: &'l Descriptor<'_>, domain: Option<&Domain>) -> Self {
        let entries = descriptor.entries.iter().map(|entry| {
            let value = match domain.and_then(|domain| domain.hashed(entry.key)) {
                Some(normalize) => Value::Hashed(normalize.counted(normalize.matched(entry.value)).to_vec()),
                None => Value::Plain(Text(entry.value)),
            };
            (Text(entry.key), value)
        });
        let hits = match descriptor.hits {
            Hits::Add(hits) => i64::from(hits),
            Hits::Refund(hits) => -i64::from(hits),
        };
        let limit = descriptor.limit_override.and_then(|limit| {
            Some(LimitLine { requests_per_unit: limit.requests_per_unit, unit: limit.unit()?.name() })
        });
        Self { entries: entries.collect(), hits, limit }
    }
}

/// `shadow` for a request that only the global shadow mode lets pass.
fn verdict(decision: &Decision<'_>) -> &'static str {
    match (decision.code, decision.shadowed) {
        (Code::OverLimit, _) => "over_limit",
        (Code::Ok, true) => "shadow",
        (Code::Ok, false) => "ok",
    }
}

/// The rule that denies, or whose limit has the least left.
fn rule<'l>(decision: &'l Decision<'_>) -> Option<&'l str> {
    Some(&*decision.reported_status()?.rule?.path)
}
