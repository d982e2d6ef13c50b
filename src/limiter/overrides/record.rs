//! Overrides as a store keeps them: a JSON document with an item for each.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::calendar::Zone;
use crate::engine::overrides::{Effect, Override};
use crate::engine::rules::limit_of;
use crate::engine::text::one_line;
use crate::engine::{Algorithm, Calendar, Limit, Period, Timestamp, Window};

/// Upper bound on a text in a description, in bytes.
const MAX_TEXT: usize = 128;

/// An entry of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryText {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// An override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideRecord {
    /// Identifies the domain with the descriptor or the rule: a second override for the same replaces the first.
    pub id: String,
    /// Domain.
    pub domain: String,
    /// Subject and effect.
    #[serde(flatten)]
    pub subject: Subject,
    /// Time of its end, in microseconds since the epoch, by the clock of the store.
    pub ends_us: u64,
    /// Time at which it was set.
    pub set_us: u64,
    /// Actor.
    pub actor: String,
    /// Reason that the actor gave.
    pub reason: String,
}

/// Subject and effect of an override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// A descriptor is over its limit.
    Block {
        /// Entries, as the rules count them.
        descriptor: Vec<EntryText>,
    },
    /// No limit applies to a descriptor.
    Exempt {
        /// Entries, as the rules count them.
        descriptor: Vec<EntryText>,
    },
    /// Another limit applies to a descriptor.
    Limit {
        /// Entries, as the rules count them.
        descriptor: Vec<EntryText>,
        /// The limit.
        limit: LimitRecord,
    },
    /// A rule is counted and reported, and not enforced.
    Shadow {
        /// Path of the rule: `shop.user`.
        rule: String,
        /// Its position when the override was set: `shop.yaml:14`.
        source: String,
    },
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRecord {
    /// Requests in a window.
    pub requests: u32,
    /// Length of the window, in seconds; 30 days for a month and 365 for a year of a calendar.
    pub window_secs: u32,
    /// Name of the algorithm.
    pub algorithm: String,
    /// Requests that a token bucket holds; `None` for a window.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Time zone of the calendar whose day, week, month or year the window is.
    #[serde(default)]
    pub timezone: Option<String>,
}

impl From<Limit> for LimitRecord {
    fn from(limit: Limit) -> Self {
        Self {
            requests: limit.requests_per_unit,
            window_secs: limit.nominal_secs(),
            algorithm: limit.algorithm.name().to_owned(),
            burst: match limit.algorithm {
                Algorithm::TokenBucket { burst } => Some(burst),
                Algorithm::FixedWindow
                | Algorithm::SlidingWindow
                | Algorithm::SlidingLog
                | Algorithm::Concurrency => None,
            },
            timezone: limit.window.calendar().map(|calendar| calendar.zone.name().to_owned()),
        }
    }
}

impl LimitRecord {
    fn limit(&self) -> Option<Limit> {
        let algorithm = match Algorithm::from_name(&self.algorithm)? {
            Algorithm::TokenBucket { .. } => {
                Algorithm::TokenBucket { burst: self.burst.unwrap_or(self.requests) }
            }
            algorithm => algorithm,
        };
        let window = match &self.timezone {
            Some(timezone) => {
                let mut periods = Period::ALL.into_iter();
                let period = periods.find(|period| period.unit().window().secs() == self.window_secs)?;
                Window::of_calendar(Calendar { period, zone: Zone::from_name(timezone)? })
            }
            None => Window::of_secs(self.window_secs),
        };
        limit_of(self.requests, window, algorithm).ok()
    }
}

impl Subject {
    /// Kind: `block`, `exempt`, `limit` or `shadow`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Block { .. } => "block",
            Self::Exempt { .. } => "exempt",
            Self::Limit { .. } => "limit",
            Self::Shadow { .. } => "shadow",
        }
    }

    /// Descriptor; `None` for a rule.
    pub fn descriptor(&self) -> Option<&[EntryText]> {
        match self {
            Self::Block { descriptor } | Self::Exempt { descriptor } | Self::Limit { descriptor, .. } => {
                Some(descriptor)
            }
            Self::Shadow { .. } => None,
        }
    }

    /// Descriptor or rule, on one line.
    pub fn description(&self) -> String {
        let text = |text: &str| one_line(text, MAX_TEXT).into_owned();
        match self {
            Self::Shadow { rule, .. } => text(rule),
            Self::Block { descriptor } | Self::Exempt { descriptor } | Self::Limit { descriptor, .. } => {
                describe(descriptor)
            }
        }
    }

    /// Identity of the subject in `domain`.
    pub fn id(&self, domain: &str) -> String {
        let name = match self {
            Self::Shadow { rule, .. } => serde_json::json!([domain, rule]),
            Self::Block { descriptor } | Self::Exempt { descriptor } | Self::Limit { descriptor, .. } => {
                let entries = descriptor.iter().map(|EntryText { key, value }| [key, value]);
                serde_json::json!([domain, entries.collect::<Vec<_>>()])
            }
        };
        format!("{:016x}", xxh3_64(name.to_string().as_bytes()))
    }

    /// The override of a descriptor until `ends_at`; `None` for a rule, and for a limit that cannot be counted.
    pub(super) fn compile(&self, ends_at: Timestamp) -> Option<Override> {
        let (descriptor, effect) = match self {
            Self::Block { descriptor } => (descriptor, Effect::Block),
            Self::Exempt { descriptor } => (descriptor, Effect::Exempt),
            Self::Limit { descriptor, limit } => (descriptor, Effect::Limit(limit.limit()?)),
            Self::Shadow { .. } => return None,
        };
        let entry = |EntryText { key, value }: &EntryText| (key.as_bytes().into(), value.as_bytes().into());
        Some(Override { entries: descriptor.iter().map(entry).collect(), effect, ends_at })
    }
}

/// `user=alice,path=/login`, on one line.
pub fn describe(descriptor: &[EntryText]) -> String {
    let text = |text: &str| one_line(text, MAX_TEXT).into_owned();
    let entries = descriptor.iter().map(|EntryText { key, value }| format!("{}={}", text(key), text(value)));
    entries.collect::<Vec<_>>().join(",")
}

/// The document. Items of a newer version, which cannot be read, are kept as they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Document(Vec<Value>);

impl Document {
    /// Parses a document; `None` if it is not valid. An empty text is a document without items.
    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        match content {
            [] => Some(Self::default()),
            content => serde_json::from_slice(content).ok().map(Self),
        }
    }

    /// Text of the document.
    pub(super) fn write(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Overrides that can be read.
    pub(super) fn records(&self) -> impl Iterator<Item = OverrideRecord> {
        self.0.iter().filter_map(|item| OverrideRecord::deserialize(item).ok())
    }

    /// Number of items that cannot be read.
    pub(super) fn unreadable(&self) -> usize {
        self.0.len() - self.records().count()
    }

    /// Drops overrides that have ended at `now`.
    pub(super) fn drop_ended(&mut self, now: Timestamp) {
        self.0.retain(|item| item["ends_us"].as_u64().is_some_and(|ends_us| ends_us > now.as_micros()));
    }

    /// Removes an override. Returns true if there was one.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|item| item["id"] != id);
        self.0.len() < before
    }

    /// Adds an override in place of one with the same id.
    pub(super) fn put(&mut self, record: &OverrideRecord) {
        self.remove(&record.id);
        self.0.push(serde_json::to_value(record).unwrap_or_default());
    }
}
