//! The audit log: every write on the admin listener, in the log and in memory.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::access::Actor;
use crate::engine::Timestamp;
use crate::engine::text::one_line_of_bytes;
use crate::server::schema::replies;
use crate::telemetry::logs::AUDIT;

/// Entries that are kept in memory.
const MAX_ENTRIES: usize = 1_000;
/// Upper bound on a text from a request, in characters.
const MAX_TEXT: usize = 200;

/// Writes on the admin listener, newest last.
#[derive(Debug, Default)]
pub(super) struct Audit(Mutex<VecDeque<AuditEntry>>);

replies! {
    /// An admin action.
    struct AuditEntry {
        /// Seconds since the epoch.
        at: u64,
        /// Name of the actor: `loopback`, or the role and line of the token.
        actor: String,
        /// Role of the actor.
        role: &'static str = { "enum": ["view", "operate", "admin"] },
        /// Action, such as `lockouts:lift`.
        action: &'static str,
        /// Object of the action.
        target: String,
        /// Reason that the actor gave.
        reason: String,
        /// True if nothing was done, by request.
        dry_run: bool,
        /// `done`, `not_found` or the error.
        result: String,
    }
}

/// A write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'e> {
    pub(super) actor: &'e Actor,
    pub(super) action: &'static str,
    /// Object of the action.
    pub(super) target: &'e str,
    pub(super) reason: &'e str,
    pub(super) dry_run: bool,
    /// `done`, `not_found` or the error.
    pub(super) result: &'e str,
}

impl Audit {
    /// Records `entry`, and logs it under the target `audit`.
    pub(super) fn record(&self, entry: Entry<'_>, now: Timestamp) {
        let Entry { actor, action, target, reason, dry_run, result } = entry;
        let text = |text: &str| one_line_of_bytes(text.as_bytes(), MAX_TEXT);
        let (target, reason, result) = (text(target), text(reason), text(result));
        tracing::info!(
            target: AUDIT,
            actor = actor.name, role = actor.role.name(), action, on = target, reason, dry_run, result,
            "admin action"
        );
        let mut entries = self.0.lock();
        if entries.len() == MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(AuditEntry {
            at: now.as_secs(),
            actor: actor.name.clone(),
            role: actor.role.name(),
            action,
            target,
            reason,
            dry_run,
            result,
        });
    }

    /// The newest `limit` entries, newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<AuditEntry> {
        self.0.lock().iter().rev().take(limit).cloned().collect()
    }
}
