//! Loads of the rules since the start, with their errors.

use std::collections::VecDeque;
use std::future;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Admin;
use crate::engine::text::one_line_of_bytes;
use crate::provider;
use crate::server::schema::replies;

/// Loads that are kept.
const MAX_LOADS: usize = 100;
/// Errors of a load that are kept.
const MAX_ERRORS: usize = 10;
/// Upper bound on an error, in characters.
const MAX_TEXT: usize = 2_000;

replies! {
    /// A load of the rules.
    struct ConfigLoad {
        /// Seconds since the epoch.
        at: u64,
        /// Domains in force after it.
        domains: usize,
        /// Rules in force after it.
        rules: usize,
        /// Hash of these rules: the same on replicas with the same rules.
        rules_hash: String,
        /// True if the rules in force were changed by it.
        changed: bool,
        /// Number of errors that keep rules as written out of force.
        error_count: usize,
        /// The first of these errors.
        errors: Vec<String>,
    }
}

/// Loads, newest last.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<VecDeque<ConfigLoad>>);

impl Loads {
    /// The newest `limit` loads, newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<ConfigLoad> {
        self.0.lock().iter().rev().take(limit).cloned().collect()
    }

    fn record(&self, status: &provider::Status, at: u64) {
        let rules_hash = hash_text(status.rules_hash);
        let errors = status.error.iter().flat_map(|errors| &errors.reported);
        let text = |error: &dyn ToString| one_line_of_bytes(error.to_string().as_bytes(), MAX_TEXT);
        let mut loads = self.0.lock();
        let before = loads.back().map(|load| load.rules_hash.as_str());
        let load = ConfigLoad {
            at,
            domains: status.domains,
            rules: status.rules,
            changed: status.loaded_at.is_some() && before != Some(&rules_hash),
            rules_hash,
            error_count: status.error.as_ref().map_or(0, |errors| errors.count()),
            errors: errors.take(MAX_ERRORS).map(|error| text(error)).collect(),
        };
        if loads.len() == MAX_LOADS {
            loads.pop_front();
        }
        loads.push_back(load);
    }
}

/// Hash of rules as text: 12 hexadecimal digits.
pub(super) fn hash_text(hash: u64) -> String {
    format!("{hash:012x}")
}

impl Admin {
    /// Records the load at the start and every later one. Never returns.
    pub(in crate::server) async fn record_loads(self: Arc<Self>) {
        let mut status = self.rules_status.clone();
        loop {
            let loaded = status.borrow_and_update().clone();
            self.loads.record(&loaded, self.clock.now().as_secs());
            if status.changed().await.is_err() {
                // The provider has ended, which its supervisor reports.
                future::pending::<()>().await;
            }
        }
    }
}
