//! Outcome of the candidate rules.

use super::Admin;
use super::views::Config;
use crate::server::schema::replies;
use crate::telemetry::metrics::definitions::{CANDIDATE_DIFFERING_REQUESTS, CANDIDATE_REQUESTS};
use crate::telemetry::metrics::snapshot::Snapshot;

/// Differences that are listed.
const MAX_DIFFERENCES: usize = 1_000;

replies! {
    /// Candidate rules, compared with those in force.
    struct CandidateView {
        /// Candidate rules and errors of their latest load; `null` without CANDIDATE_CONFIG.
        config: Option<Config>,
        /// Requests that both decide in the same way, since the start.
        same: u64,
        /// Requests that only the candidate denies.
        stricter: u64,
        /// Requests that only the rules in force deny.
        looser: u64,
        /// Requests that were not compared: there are no candidate rules, or a store did not count.
        failed: u64,
        /// Differences by rule, most first.
        differences: Vec<DifferenceView>,
    }
    /// Requests that a rule decides differently.
    struct DifferenceView {
        /// Domain.
        domain: String,
        /// Rule that denies, on the side that does.
        rule: String,
        /// Direction.
        outcome: String = { "enum": ["stricter", "looser"] },
        /// Requests since the start.
        requests: u64,
    }
}

impl Admin {
    pub(in crate::server) fn candidate(&self) -> CandidateView {
        let mut snapshot = Snapshot::default();
        self.candidate_counts.iter().for_each(|counts| counts.collect(&mut snapshot));
        let outcomes = snapshot.integers(&CANDIDATE_REQUESTS);
        let count = |outcome: &str| {
            outcomes
                .iter()
                .find(|(labels, _)| labels.first().is_some_and(|label| label == outcome))
                .map_or(0, |(_, count)| *count)
        };
        let difference = |(labels, requests): (&[String], u64)| match labels {
            [domain, rule, outcome] => Some(DifferenceView {
                domain: domain.clone(),
                rule: rule.clone(),
                outcome: outcome.clone(),
                requests,
            }),
            _ => None,
        };
        let differing = snapshot.integers(&CANDIDATE_DIFFERING_REQUESTS).into_iter();
        let mut differences: Vec<_> = differing.filter_map(difference).collect();
        differences.sort_by_key(|difference| std::cmp::Reverse(difference.requests));
        differences.truncate(MAX_DIFFERENCES);
        CandidateView {
            config: self.candidate_status.as_ref().map(|status| Config::of(&status.borrow())),
            same: count("same"),
            stricter: count("stricter"),
            looser: count("looser"),
            failed: count("failed"),
            differences,
        }
    }
}
