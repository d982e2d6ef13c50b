//! Rules as written, checked for form only. Names are those of envoyproxy/ratelimit's YAML.

use std::sync::Arc;

use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::normalize::NormalizeStep;
use super::span::{Located, SourceSpan};
use super::{EnforcePercent, OnDeny, Prices, RateLimitHeaders};
use crate::engine::reserve::OnExpiry;
use crate::engine::usage::Count;
use crate::engine::{Algorithm, ChargeMode, FailurePolicy};

/// Fields that are present but could not be parsed, which is reported. Later checks must not treat them as
/// absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Unreadable(SmallVec<[&'static str; 2]>);

impl Unreadable {
    pub(super) fn push(&mut self, field: &'static str) {
        self.0.push(field);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains(&field)
    }
}

/// Document: the rules of a domain, or a part of them.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) domain: Located<String>,
    pub(super) hash_tag: bool,
    pub(super) prices: Option<Located<Prices>>,
    pub(super) defaults: Defaults,
    /// True if its rules are in force.
    pub(super) enabled: bool,
    pub(super) descriptors: Vec<Descriptor>,
    /// True if it has `descriptors: []`.
    pub(super) says_none: bool,
}

/// Values for rules of a document that do not set them.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) charge: Option<ChargeMode>,
    pub(super) on_backend_failure: Option<FailurePolicy>,
    pub(super) lease: Leasing,
    pub(super) unreadable: Unreadable,
}

/// One level of the rule tree.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) span: SourceSpan,
    pub(super) key: String,
    /// Not empty.
    pub(super) value: Option<String>,
    pub(super) matching: Matching,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) descriptors: Vec<Self>,
    pub(super) layer: Option<String>,
    pub(super) penalty: Option<Penalty>,
    pub(super) reserve: Option<Reserve>,
    pub(super) on_deny: Option<Arc<OnDeny>>,
    /// True if the rule and those below it are in force.
    pub(super) enabled: bool,
    pub(super) enforce_percent: Option<Located<EnforcePercent>>,
    pub(super) charge: Option<ChargeMode>,
    pub(super) max_hits: Option<Located<u32>>,
    pub(super) headers: Option<RateLimitHeaders>,
    pub(super) on_backend_failure: Option<FailurePolicy>,
    pub(super) shadow_mode: bool,
    pub(super) quota_mode: bool,
    pub(super) detailed_metric: bool,
    pub(super) value_to_metric: bool,
    pub(super) share_threshold: bool,
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) unreadable: Unreadable,
}

/// Fields that replace `value`, and normalization.
#[derive(Debug, Default)]
pub(super) struct Matching {
    pub(super) one_of: Option<Located<Vec<Located<String>>>>,
    /// As written.
    pub(super) cidr: Option<Located<Vec<Located<String>>>>,
    /// As written.
    pub(super) regex: Option<Located<String>>,
    pub(super) normalize: Option<Located<Vec<Located<NormalizeStep>>>>,
}

/// A lockout as written; times are those of [`super::quota::parse_window`].
#[derive(Debug, Default)]
pub(super) struct Penalty {
    pub(super) span: SourceSpan,
    pub(super) after: Option<Located<u32>>,
    pub(super) within: Option<Located<String>>,
    pub(super) block: Vec<Located<String>>,
    pub(super) forget: Option<Located<String>>,
    pub(super) extend: bool,
    /// The keys of entries.
    pub(super) scope: Option<Located<Vec<String>>>,
    pub(super) name: Option<String>,
    pub(super) unreadable: Unreadable,
}

/// A budget as written; times are those of [`super::quota::parse_window`].
#[derive(Debug, Default)]
pub(super) struct Reserve {
    pub(super) span: SourceSpan,
    pub(super) amount: Option<Located<ReserveAmount>>,
    pub(super) ttl: Option<Located<String>>,
    /// As written: `25%`.
    pub(super) max: Option<Located<String>>,
    pub(super) on_expiry: OnExpiry,
    pub(super) memory: Option<Located<String>>,
    pub(super) count: Option<Located<Count>>,
    pub(super) on_look: bool,
    pub(super) unreadable: Unreadable,
}

/// Amount of a budget as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReserveAmount {
    Auto,
    Fixed(u32),
}

/// Limit as written.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    pub(super) span: SourceSpan,
    pub(super) unit: Option<Located<String>>,
    /// As written: `15m`.
    pub(super) window: Option<Located<String>>,
    /// As written: `Europe/Berlin`.
    pub(super) timezone: Option<Located<String>>,
    /// Of a concurrency limit, the requests in flight.
    pub(super) requests_per_unit: Option<u32>,
    /// The size of a token bucket is in `burst`.
    pub(super) algorithm: Option<Located<Algorithm>>,
    pub(super) burst: Option<Located<u32>>,
    pub(super) unlimited: bool,
    pub(super) concurrency: Option<Concurrency>,
    pub(super) lease: Leasing,
    /// Not empty.
    pub(super) name: Option<String>,
    pub(super) replaces: Vec<Located<String>>,
    pub(super) unreadable: Unreadable,
}

/// Limit on requests in flight as written.
#[derive(Debug, Default)]
pub(super) struct Concurrency {
    pub(super) span: SourceSpan,
    pub(super) max: Option<Located<u32>>,
    /// As written: `2m`.
    pub(super) ttl: Option<Located<String>>,
    /// Not empty.
    pub(super) name: Option<String>,
    pub(super) unreadable: Unreadable,
}

/// `lease` as written.
#[derive(Debug, Default)]
pub(super) enum Leasing {
    /// Not written: `defaults` decide.
    #[default]
    Unset,
    /// `false`.
    Never,
    /// `true`, or a map.
    Leased(Lease),
}

impl Leasing {
    /// Its lease, if it has one.
    pub(super) const fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Leased(lease) => Some(lease),
            Self::Unset | Self::Never => None,
        }
    }
}

/// Lease of a limit as written.
#[derive(Debug, Default)]
pub(super) struct Lease {
    pub(super) span: SourceSpan,
    /// As written: `100ms`.
    pub(super) hold: Option<Located<String>>,
    /// As written: `10%`.
    pub(super) tail: Option<Located<String>>,
    pub(super) max: Option<Located<u32>>,
    pub(super) unreadable: Unreadable,
}

impl Document {
    /// Number of rules, in force or not.
    pub(super) fn rules(&self) -> usize {
        self.descriptors.iter().map(Descriptor::rules).sum()
    }
}

impl Descriptor {
    fn rules(&self) -> usize {
        usize::from(!self.rate_limits.is_empty()) + self.descriptors.iter().map(Self::rules).sum::<usize>()
    }
}
