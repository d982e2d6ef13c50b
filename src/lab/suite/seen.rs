//! Results of the requests of one step, and the facts that are about all of them.

use super::action::Pace;
use super::expect::{Expect, Fact, Mark, Requests, range_of};
use super::facts::{Mismatch, time_text};
use super::numbers::range_text;
use crate::lab::explanation::Explanation;

/// Results of the requests of a step so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) marks: Vec<Mark>,
    /// Number of requests with each result, in the order of [`Mark::ALL`].
    counts: [u64; 3],
    first_denied: Option<u32>,
    /// True if a request was not as expected, where that is no failure.
    pub(super) is_wrong: bool,
    /// Expectation of the only request.
    pub(super) single: Option<String>,
    /// Explanation of a request that may turn out to be the wrong one.
    pub(super) explained: Option<(u32, Option<Explanation>)>,
}

impl Seen {
    pub(super) fn add(&mut self, turn: u32, mark: Mark) {
        if mark == Mark::Denied {
            self.first_denied = self.first_denied.or(Some(turn));
        }
        self.marks.push(mark);
        let place = Mark::ALL.iter().position(|known| *known == mark).unwrap_or_default();
        self.counts[place] += 1;
    }

    fn count(&self, mark: Mark) -> u64 {
        Mark::ALL.iter().zip(self.counts).find(|(known, _)| **known == mark).map_or(0, |(_, count)| count)
    }

    /// True if the last request is the first one that may turn out to be wrong: the first that is denied, or the one
    /// with which more have a result than are expected to.
    pub(super) fn is_suspect(&self, expect: Option<&Expect>, pace: Pace) -> bool {
        let Some(last) = self.marks.last() else { return false };
        let counts = |fact: &Fact| match fact {
            Fact::Results(mark, requests) => {
                let most = *range_of(requests, pace.times.into()).end();
                *mark == *last && self.count(*mark) == most.saturating_add(1)
            }
            _ => false,
        };
        let facts = || expect.iter().flat_map(|expect| &expect.facts);
        let is_of_all =
            |fact: &Fact| matches!(fact, Fact::Results(..) | Fact::FirstDenied(_) | Fact::NoDenyBefore(_));
        let is_first_denied = *last == Mark::Denied && self.count(Mark::Denied) == 1;
        facts().any(|fact| counts(&fact.value))
            || self.explained.is_none() && is_first_denied && facts().any(|fact| is_of_all(&fact.value))
    }

    /// Difference between a fact about all requests of a step and what was seen.
    pub(super) fn mismatch(&self, fact: &Fact, pace: Pace) -> Option<Mismatch> {
        let (expected, actual) = match fact {
            Fact::Results(mark, requests) => {
                let (range, count) = (range_of(requests, pace.times.into()), self.count(*mark));
                let of = if matches!(requests, Requests::Every(_)) { " (all)" } else { "" };
                let of = if range == (0..=0) { "" } else { of };
                (!range.contains(&count)).then(|| (range_text(&range) + of, count.to_string()))?
            }
            Fact::FirstDenied(range) => {
                let first = self.first_denied.map(u64::from);
                let holds = first.is_some_and(|first| range.contains(&first));
                let actual = first.map_or("none".to_owned(), |first| first.to_string());
                (!holds).then(|| (range_text(range), actual))?
            }
            Fact::NoDenyBefore(time) => {
                let at = pace.every.saturating_mul(self.first_denied?.saturating_sub(1));
                (at < *time).then(|| (time_text(*time), time_text(at)))?
            }
            _ => return None,
        };
        Some(Mismatch { field: fact.field(), expected, actual })
    }
}
