//! Providers: sources of rules.
//!
//! A provider reads rules as written and hands them to [`publish::Publisher`], which has `engine::rules`
//! compile them and swaps the rules in force as a whole. It is independent of requests, stores and metrics; a
//! callback receives the outcome of each load.

pub mod files;
pub mod origin;
pub mod publish;
pub mod sources;
pub mod xds;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::engine::Timestamp;
use crate::engine::rules::RuleErrors;

/// Use of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decides requests.
    Live,
    /// Only compared with the rules that decide.
    Candidate,
}

impl Role {
    /// Name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Candidate => "candidate",
        }
    }
}

/// Rules in force and errors of the latest load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Domains in force.
    pub domains: usize,
    /// Rules in force.
    pub rules: usize,
    /// Time of the latest change of the rules in force; `None` before the first ones.
    pub loaded_at: Option<Timestamp>,
    /// Hash of the rules in force, 48 bits: the same wherever the same rules are; 0 before the first ones.
    pub rules_hash: u64,
    /// True until each provider has delivered its first rules, good or bad.
    pub is_partial: bool,
    /// Errors that keep rules as written out of force; `None` if all are in force.
    pub error: Option<Arc<RuleErrors>>,
}

/// Handle of the running providers of a rule set.
#[derive(Clone, Debug)]
pub struct Handle {
    status: watch::Receiver<Status>,
    wakes: Vec<Arc<Notify>>,
}

impl Handle {
    /// Handle of the providers that each of `wakes` notifies.
    pub const fn new(status: watch::Receiver<Status>, wakes: Vec<Arc<Notify>>) -> Self {
        Self { status, wakes }
    }

    /// Status after every load.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Requests a load. Unchanged files are not loaded again. A management server that cannot be reached is tried
    /// at once.
    pub fn reload(&self) {
        self.wakes.iter().for_each(|wake| wake.notify_one());
    }
}
