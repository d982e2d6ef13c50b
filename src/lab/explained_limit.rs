//! Limits in explanations: the level of a counter, with the holds of a budget and the places of a concurrency limit.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::duration::ShortForm;
use crate::engine::plan::Counter;
use crate::engine::reserve::Report;
use crate::engine::text::{cut, one_line_of_bytes};
use crate::engine::{Algorithm, Limit, Reserve};
use crate::store::Reading;

/// Upper bound, in bytes, on a text of the request that is shown.
pub(super) const MAX_TEXT_BYTES: usize = 1_024;

/// A limit that applies, and its counter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedLimit {
    /// Name of the limit.
    pub name: Option<String>,
    /// Requests in a window; in flight, of a concurrency limit.
    pub requests_per_unit: u32,
    /// Length of the window, in seconds; that of its unit for a calendar. TTL of a place, of a concurrency limit.
    pub window_secs: u32,
    /// Algorithm.
    pub algorithm: String,
    /// Hits that may pass at once.
    pub capacity: u32,
    /// True if replicas charge hits in advance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
    /// Key of the counter, without its window.
    pub counter: String,
    /// Hits that count now, without what a budget holds; places that are taken, of a concurrency limit. `None` if no
    /// store was asked.
    pub used: Option<u64>,
    /// Seconds until one more hit would pass, or else until the counter is reset; until the first place ends by itself,
    /// of a concurrency limit.
    pub reset_secs: Option<f64>,
    /// Holds, if the limit is a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ExplainedBudget>,
}

/// Holds of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedBudget {
    /// Amount that a request holds if it names none.
    pub amount: u32,
    /// TTL of a hold, in seconds.
    pub ttl_secs: u32,
    /// Holds that are open; `None` if no store was asked.
    pub holds: Option<ExplainedHolds>,
}

/// Holds that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedHolds {
    /// Number of holds.
    pub count: u16,
    /// Sum of their amounts.
    pub held: u32,
    /// Seconds until the first one ends by itself, rounded up; 0 without any.
    pub first_ends_in_secs: u32,
}

impl ExplainedLimit {
    /// The limit of `counter`, whose rule has this `reserve`, with the reading of a peek.
    pub(super) fn of(counter: &Counter<'_>, reserve: Option<&Reserve>, reading: Option<Reading>) -> Self {
        let Counter { limit, name, key, lease, .. } = counter;
        let report = reading.and_then(|reading| reading.budget);
        let held = report.map_or(0, |report| report.held);
        let reserve = reserve.filter(|_| counter.reserve.is_some());
        Self {
            name: name.map(str::to_owned),
            requests_per_unit: limit.requests_per_unit,
            window_secs: limit.nominal_secs(),
            algorithm: limit.algorithm.name().to_owned(),
            capacity: limit.capacity(),
            leased: lease.is_some(),
            counter: cut(key, MAX_TEXT_BYTES).into_owned(),
            used: reading.map(|reading| reading.used.saturating_sub(held.into())),
            reset_secs: reading.map(|reading| reading.reset.as_secs_f64()),
            budget: reserve.map(|reserve| ExplainedBudget::of(reserve, *limit, report)),
        }
    }

    /// True if it limits requests in flight.
    pub fn is_concurrency(&self) -> bool {
        self.algorithm == Algorithm::Concurrency.name()
    }

    /// Hits left: neither used nor held.
    pub fn remaining(&self) -> Option<u64> {
        let holds = self.budget.as_ref().and_then(|budget| budget.holds);
        let taken = self.used?.saturating_add(holds.map_or(0, |holds| holds.held.into()));
        Some(u64::from(self.capacity).saturating_sub(taken))
    }
}

impl ExplainedBudget {
    fn of(reserve: &Reserve, limit: Limit, report: Option<Report>) -> Self {
        let holds = report.map(|Report { holds, held, first_ends_in_secs, .. }| ExplainedHolds {
            count: holds,
            held,
            first_ends_in_secs,
        });
        Self { amount: reserve.amount_of(limit), ttl_secs: reserve.ttl_secs, holds }
    }
}

/// `5 per minute`, `100 per 15m`.
pub(super) fn limit_text(requests: u32, window_secs: u32) -> String {
    let unit = match window_secs {
        1 => "second".to_owned(),
        60 => "minute".to_owned(),
        3_600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        secs => ShortForm(secs.into()).to_string(),
    };
    format!("{requests} per {unit}")
}

/// `reserves 2000 for 5m`
pub fn reserve_text(amount: u32, ttl_secs: u32) -> String {
    format!("reserves {amount} for {}", ShortForm(ttl_secs.into()))
}

/// Note on `count` holds: ` (1 hold, ends in 4m)`, ` (2 holds, the first ends in 4m)`; empty for none.
pub fn holds_text(count: u64, first_ends_in_secs: u64) -> String {
    let first = ShortForm(first_ends_in_secs);
    match count {
        0 => String::new(),
        1 => format!(" (1 hold, ends in {first})"),
        count => format!(" ({count} holds, the first ends in {first})"),
    }
}

/// Seconds as people read them: `0.25s`, `42s`, `5m 30s`.
pub(super) fn seconds_text(secs: f64) -> String {
    if secs < 60.0 {
        let text = format!("{secs:.3}");
        return format!("{}s", text.trim_end_matches('0').trim_end_matches('.'));
    }
    ShortForm(Duration::try_from_secs_f64(secs.ceil()).unwrap_or_default().as_secs()).to_string()
}

impl fmt::Display for ExplainedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, requests_per_unit, window_secs, algorithm, capacity, leased, budget, .. } = self;
        name.iter().try_for_each(|name| write!(f, "{name}: "))?;
        match self.is_concurrency() {
            true => write!(f, "{requests_per_unit} in flight, ttl {}", ShortForm(u64::from(*window_secs)))?,
            false => write!(f, "{}, {algorithm}", limit_text(*requests_per_unit, *window_secs))?,
        }
        if algorithm == (Algorithm::TokenBucket { burst: 0 }).name() {
            write!(f, ", burst {capacity}")?;
        }
        if *leased {
            f.write_str(", leased")?;
        }
        if let Some(ExplainedBudget { amount, ttl_secs, .. }) = budget {
            write!(f, ", {}", reserve_text(*amount, *ttl_secs))?;
        }
        self.level(f)?;
        write!(f, "; counter {}", one_line_of_bytes(self.counter.as_bytes(), MAX_TEXT_BYTES))
    }
}

impl ExplainedLimit {
    /// `; 3 of 10 used, reset in 42s`, and what is held.
    fn level(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, .. } = self;
        let Some((used, reset_secs)) = self.used.zip(self.reset_secs) else { return Ok(()) };
        let is_concurrency = self.is_concurrency();
        write!(f, "; {used} of {capacity} {}", if is_concurrency { "places taken" } else { "used" })?;
        if let Some(holds) = self.budget.as_ref().and_then(|budget| budget.holds) {
            write!(f, ", {holds}, {} left", self.remaining().unwrap_or_default())?;
        }
        match (reset_secs > 0.0, is_concurrency) {
            (true, true) => write!(f, ", the first ends in {}", seconds_text(reset_secs)),
            (true, false) => write!(f, ", reset in {}", seconds_text(reset_secs)),
            // Nothing counts that could end.
            (false, _) => Ok(()),
        }
    }
}

impl fmt::Display for ExplainedHolds {
    /// `2000 held (1 hold, ends in 4m)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, held, first_ends_in_secs } = *self;
        write!(f, "{held} held{}", holds_text(count.into(), first_ends_in_secs.into()))
    }
}
