//! Providers: sources of rules.
//!
//! A provider reads rules as written and hands them to [`publish::Publisher`], which has `engine::rules`
//! compile them and swaps the rules in force as a whole. It is independent of requests, stores and metrics; a
//! callback receives the outcome of each load.

pub mod files;
pub mod publish;
pub mod sources;
mod watches;

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
    /// Errors that keep rules as written out of force; `None` if all are in force.
    pub error: Option<Arc<RuleErrors>>,
}

/// Handle of a running provider.
#[derive(Clone, Debug)]
pub struct Handle {
    status: watch::Receiver<Status>,
    wake: Arc<Notify>,
}

impl Handle {
    /// Status after every load.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Requests a load. Unchanged files are not loaded again.
    pub fn reload(&self) {
        self.wake.notify_one();
    }
}
