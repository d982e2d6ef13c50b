//! The audit log: every write on the admin listener, in the log and in memory.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;

use super::Admin;
use super::access::{Actor, Role};
use crate::engine::Timestamp;
use crate::engine::text::one_line_of_bytes;
use crate::server::schema::replies;
use crate::telemetry::logs::AUDIT;
use crate::telemetry::metrics::definitions::AUDIT_SUPPRESSED;
use crate::telemetry::metrics::snapshot::Snapshot;

/// Upper bound on entries in memory of writes that were carried out or failed.
const MAX_ENTRIES: usize = 1_000;
/// Upper bound on entries in memory of rejected writes of authenticated actors, and again of all others: clients
/// without authentication can cause any number.
const MAX_REJECTED: usize = 200;
/// Upper bound on rejected writes of authenticated actors that are recorded and logged in one second, and again on
/// those of all others.
const MAX_REJECTED_PER_SEC: u32 = 10;
/// Path of the API.
const API: &str = "/api/v1/";
/// Path of the only POST that changes nothing.
const EXPLAIN: &str = "/api/v1/explain";
/// Upper bound on a text from a request, in bytes.
const MAX_TEXT: usize = 200;

/// Writes on the admin listener.
#[derive(Debug)]
pub(super) struct Audit {
    /// Id of this replica.
    replica: String,
    entries: Mutex<Entries>,
}

/// Entries, newest last.
#[derive(Debug, Default)]
struct Entries {
    /// Number of the latest entry.
    seq: u64,
    handled: VecDeque<AuditEntry>,
    /// Rejected writes of authenticated actors.
    known: RejectedWrites,
    /// Rejected writes of all others.
    unknown: RejectedWrites,
}

/// Rejected writes, newest last.
#[derive(Debug, Default)]
struct RejectedWrites {
    entries: VecDeque<AuditEntry>,
    /// Second of the latest one.
    second: u64,
    /// Number of them in that second.
    in_second: u32,
    suppressed: u64,
}

replies! {
    /// Numbers of rejected writes since the start of the replica that were neither recorded nor logged, because there
    /// were more than ten in one second.
    struct Suppressed {
        /// Rejected writes of authenticated actors.
        known: u64,
        /// Rejected writes of all others.
        unknown: u64,
    }
    /// An admin action.
    struct AuditEntry {
        /// Seconds since the epoch.
        at: u64,
        /// Milliseconds since the epoch.
        at_ms: u64,
        /// Id of the replica, as in the list of the fleet.
        replica: String,
        /// Number of the action since the start of the replica, from 1. It gives the order of actions, also within one
        /// millisecond or after the clock was set.
        seq: u64,
        /// Name of the actor: `loopback`, `token` and its name, the role and line of a token without one, `user` and
        /// the user that a proxy names, or a name in a certificate; `unknown` without authentication.
        actor: String,
        /// Role of the actor; `none` without authentication.
        role: &'static str = { "enum": ["view", "operate", "admin", "none"] },
        /// Action, such as `lockouts:lift`; `rejected` for a write that was not carried out: its `target` is the
        /// method and the path.
        action: &'static str,
        /// Object of the action.
        target: String,
        /// Reason that the actor gave.
        reason: String,
        /// True if the request was a dry run, which changed nothing.
        dry_run: bool,
        /// `done`, `not_found` or the error.
        result: String,
    }
}

/// Text of an error, kept with its answer for the audit log.
#[derive(Clone, Debug)]
pub(super) struct ProblemText(pub(super) String);

/// Progress of a write: its actor, once it is known, and whether a handler has recorded it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(Arc<Mutex<Traced>>);

#[derive(Debug, Default)]
struct Traced {
    actor: Option<Actor>,
    is_recorded: bool,
}

impl Trace {
    /// Sets the actor.
    pub(super) fn authenticated(&self, actor: &Actor) {
        self.0.lock().actor = Some(actor.clone());
    }

    /// Notes that a handler has recorded the write.
    pub(super) fn recorded(&self) {
        self.0.lock().is_recorded = true;
    }
}

/// Records writes that were rejected before a handler could record them: without the role, malformed, or sent twice at
/// once.
pub(super) async fn rejected(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if request.method().is_safe() || !path.starts_with(API) || path == EXPLAIN {
        return next.run(request).await;
    }
    let target = format!("{} {path}", request.method());
    let trace = Trace::default();
    request.extensions_mut().insert(trace.clone());
    let answer = next.run(request).await;
    let Traced { actor, is_recorded } = &*trace.0.lock();
    if !is_recorded && !answer.status().is_success() {
        let message = answer.extensions().get::<ProblemText>().map_or("", |ProblemText(message)| message);
        let result = format!("{}: {message}", answer.status().as_u16());
        // If no authentication is configured, the actor is any client on this machine.
        let is_known = admin.access.is_configured();
        let actor = actor.as_ref().map(|actor| (actor, is_known));
        admin.audit.reject(actor, &target, &result, admin.clock.now());
    }
    answer
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
    /// An empty audit log of the replica with this id.
    pub(super) fn new(replica: &str) -> Self {
        Self { replica: replica.to_owned(), entries: Mutex::default() }
    }

    /// An entry without its number.
    fn entry(&self, write: Entry<'_>, now: Timestamp) -> AuditEntry {
        let Entry { actor, action, target, reason, dry_run, result } = write;
        AuditEntry {
            at: now.as_secs(),
            at_ms: now.as_micros() / 1_000,
            replica: self.replica.clone(),
            seq: 0,
            actor: actor.name.clone(),
            role: actor.role.name(),
            action,
            target: text(target),
            reason: text(reason),
            dry_run,
            result: text(result),
        }
    }

    /// Records `entry`, and logs it under the target `audit`.
    pub(super) fn record(&self, entry: Entry<'_>, now: Timestamp) {
        let entry = self.entry(entry, now);
        entry.log();
        let mut entries = self.entries.lock();
        let entry = entries.numbered(entry);
        push(&mut entries.handled, entry, MAX_ENTRIES);
    }

    /// Records and logs a rejected write, unless there were too many in this second. `actor` is the actor, and true
    /// if it is authenticated.
    fn reject(&self, actor: Option<(&Actor, bool)>, target: &str, result: &str, now: Timestamp) {
        let is_known = actor.is_some_and(|(_, is_known)| is_known);
        let stranger = Actor { name: "unknown".to_owned(), role: Role::View, csrf: None };
        let write = Entry {
            actor: actor.map_or(&stranger, |(actor, _)| actor),
            action: "rejected",
            target,
            reason: "",
            dry_run: false,
            result,
        };
        let role = actor.map_or("none", |(actor, _)| actor.role.name());
        let entry = AuditEntry { role, ..self.entry(write, now) };
        let outcome = self.entries.lock().reject(&entry, is_known);
        match outcome {
            Recorded::Yes => entry.log(),
            Recorded::FirstSuppressed => {
                let actors = if is_known { "known" } else { "unknown" };
                tracing::warn!(target: AUDIT, actors, "too many rejected admin actions in this second, not recorded");
            }
            Recorded::Suppressed => {}
        }
    }

    /// Numbers of rejected writes that were not recorded.
    pub(super) fn suppressed(&self) -> Suppressed {
        let entries = self.entries.lock();
        Suppressed { known: entries.known.suppressed, unknown: entries.unknown.suppressed }
    }

    /// Adds the numbers of rejected writes that were not recorded to `snapshot`.
    pub(super) fn add_to(&self, snapshot: &mut Snapshot) {
        let Suppressed { known, unknown } = self.suppressed();
        snapshot.add(&AUDIT_SUPPRESSED, ["known"], known);
        snapshot.add(&AUDIT_SUPPRESSED, ["unknown"], unknown);
    }

    /// The newest `limit` entries, newest first.
    pub(super) fn newest(&self, limit: usize) -> Vec<AuditEntry> {
        let entries = self.entries.lock();
        let rejected = entries.unknown.entries.iter().chain(&entries.known.entries);
        let mut newest: Vec<_> = rejected.chain(&entries.handled).cloned().collect();
        newest.sort_unstable_by_key(|entry| Reverse(entry.seq));
        newest.truncate(limit);
        newest
    }
}

impl Entries {
    /// `entry` with the next number.
    fn numbered(&mut self, entry: AuditEntry) -> AuditEntry {
        self.seq += 1;
        AuditEntry { seq: self.seq, ..entry }
    }

    /// Records a rejected write, unless there were too many in its second.
    fn reject(&mut self, entry: &AuditEntry, is_known: bool) -> Recorded {
        let rejected = if is_known { &mut self.known } else { &mut self.unknown };
        let outcome = rejected.count(entry.at);
        if matches!(outcome, Recorded::Yes) {
            let entry = self.numbered(entry.clone());
            let rejected = if is_known { &mut self.known } else { &mut self.unknown };
            push(&mut rejected.entries, entry, MAX_REJECTED);
        }
        outcome
    }
}

/// Outcome of recording a rejected write.
enum Recorded {
    Yes,
    /// Not recorded; the first such write of its second.
    FirstSuppressed,
    /// Not recorded; a later one.
    Suppressed,
}

impl RejectedWrites {
    /// Counts a rejected write in this second.
    fn count(&mut self, second: u64) -> Recorded {
        if self.second != second {
            (self.second, self.in_second) = (second, 0);
        }
        self.in_second = self.in_second.saturating_add(1);
        if self.in_second > MAX_REJECTED_PER_SEC {
            self.suppressed += 1;
            let is_first = self.in_second == MAX_REJECTED_PER_SEC + 1;
            return if is_first { Recorded::FirstSuppressed } else { Recorded::Suppressed };
        }
        Recorded::Yes
    }
}

impl AuditEntry {
    fn log(&self) {
        let Self { actor, role, action, target, reason, dry_run, result, .. } = self;
        tracing::info!(target: AUDIT, actor, role, action, on = target, reason, dry_run, result, "admin action");
    }
}

/// A text from a request, on one line.
fn text(text: &str) -> String {
    one_line_of_bytes(text.as_bytes(), MAX_TEXT)
}

fn push(entries: &mut VecDeque<AuditEntry>, entry: AuditEntry, max: usize) {
    if entries.len() == max {
        entries.pop_front();
    }
    entries.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(name: &str) -> Actor {
        Actor { name: name.to_owned(), role: Role::Operate, csrf: None }
    }

    #[test]
    fn rejected_writes_are_bounded_and_displace_no_others() {
        let audit = Audit::new("a");
        let at = Timestamp::from_secs;
        let ann = actor("token ann");
        let entry = Entry {
            actor: &ann,
            action: "keys:reset",
            target: "shop user=42",
            reason: "a test",
            dry_run: false,
            result: "done",
        };
        audit.record(entry, at(1_000));
        for secs in 1_000..1_100 {
            for _ in 0..100 {
                audit.reject(None, "PUT /api/v1/overrides", "401: no token", at(secs));
            }
        }
        audit.record(entry, at(1_050));
        let newest = audit.newest(usize::MAX);
        assert_eq!(newest.len(), 2 + MAX_REJECTED);
        assert!(newest.is_sorted_by_key(|entry| Reverse(entry.seq)));
        let handled = newest.iter().filter(|entry| entry.actor == "token ann").count();
        let latest = &newest[0];
        assert_eq!((handled, &*latest.actor, latest.role, latest.at), (2, "token ann", "operate", 1_050));
        assert_eq!(audit.newest(1).len(), 1);
    }

    #[test]
    fn strangers_cannot_crowd_out_rejected_writes_of_known_actors() {
        let audit = Audit::new("a");
        let (bob, loopback) = (actor("token bob"), actor("loopback"));
        for secs in 1_000..1_100 {
            let at = Timestamp::from_secs(secs);
            for _ in 0..100 {
                audit.reject(None, "PUT /api/v1/overrides", "401: no token", at);
                audit.reject(Some((&loopback, false)), "PUT /api/v1/overrides", "403: no role", at);
            }
            if secs % 10 == 0 {
                (0..13)
                    .for_each(|_| audit.reject(Some((&bob, true)), "PUT /api/v1/overrides", "403: no", at));
            }
        }
        let newest = audit.newest(usize::MAX);
        let of_bob = newest.iter().filter(|entry| entry.actor == "token bob").count();
        assert_eq!((of_bob, newest.len()), (10 * 10, 10 * 10 + MAX_REJECTED));
        let Suppressed { known, unknown } = audit.suppressed();
        // Ten of 13 in each of 10 seconds, and ten of 200 in each of 100, were recorded.
        assert_eq!((known, unknown), (10 * 3, 100 * 190));
        let mut snapshot = Snapshot::default();
        audit.add_to(&mut snapshot);
        let counts = snapshot.integers(&AUDIT_SUPPRESSED);
        assert_eq!(counts, [(&["known".to_owned()][..], 30), (&["unknown".to_owned()], 19_000)]);
    }

    #[test]
    fn actions_of_one_moment_are_listed_in_their_order_on_every_replica() {
        let (ann, replicas) = (actor("token ann"), ["a", "b"].map(Audit::new));
        let write = |target| Entry {
            actor: &ann,
            action: "keys:reset",
            target,
            reason: "a test",
            dry_run: false,
            result: "done",
        };
        for audit in &replicas {
            let at = Timestamp::from_micros(1_000_000_500);
            audit.reject(None, "1", "401: no token", at);
            audit.record(write("2"), at);
            audit.reject(Some((&ann, true)), "3", "403: no", at);
            audit.record(write("4"), at);
            audit.reject(None, "5", "401: no token", at);
            // The clock is set back.
            audit.record(write("6"), Timestamp::from_secs(900));
        }
        let listed = replicas.each_ref().map(|audit| audit.newest(usize::MAX));
        for (list, replica) in listed.iter().zip(["a", "b"]) {
            let targets: Vec<_> = list.iter().map(|entry| &*entry.target).collect();
            assert_eq!(targets, ["6", "5", "4", "3", "2", "1"]);
            let seqs: Vec<_> = list.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, [6, 5, 4, 3, 2, 1]);
            assert!(list.iter().all(|entry| entry.replica == replica));
            assert_eq!((list[0].at_ms, list[1].at_ms, list[1].at), (900_000, 1_000_000, 1_000));
        }
        assert_eq!(replicas[0].newest(2).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [6, 5]);
    }
}
