//! Where rules come from.
//!
//! A provider reads rules as written, has `engine::rules` compile them, and swaps what is in force as a
//! whole. It knows nothing of requests, stores or metrics: whoever starts it is told of each load. A
//! bad update never takes good rules out of force.

pub mod files;
pub mod sources;
mod watches;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::engine::Timestamp;

/// What is in force, and what is wrong with the latest update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Domains that have rules in force.
    pub domains: usize,
    /// Rules in force.
    pub rules: usize,
    /// When they came into force; `None` before the first ones.
    pub loaded_at: Option<Timestamp>,
    /// Why the rules as written now are not all in force: every mistake, a line or more for each.
    /// `None` where they are.
    pub error: Option<String>,
}

/// A running provider, seen from outside.
#[derive(Clone, Debug)]
pub struct Handle {
    status: watch::Receiver<Status>,
    wake: Arc<Notify>,
}

impl Handle {
    /// What is in force, and every change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Has the rules read again soon. Where they are as they were, nothing comes of it.
    pub fn reload(&self) {
        self.wake.notify_one();
    }
}
