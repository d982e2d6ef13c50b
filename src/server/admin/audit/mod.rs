//! The audit log: every write on the admin listener, in the log and in memory.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;

use super::access::{Actor, Role};
use super::{Admin, IDEMPOTENCY_KEY};
use crate::engine::Timestamp;
use crate::engine::text::one_line_of_bytes;
use crate::server::local::Peer;
use crate::server::schema::replies;
use crate::telemetry::logs::AUDIT;
use crate::telemetry::metrics::definitions::{ADMIN_ACTIONS, AUDIT_SUPPRESSED};
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
/// Action of writes that were not carried out, and their result in metrics.
const REJECTED: &str = "rejected";
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
    /// Numbers of actions since the start, by action and result.
    counts: BTreeMap<(&'static str, &'static str), u64>,
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
        /// Address of the peer: of the proxy, if there is one in front; `null` for a Unix socket.
        from: Option<String>,
        /// `Idempotency-Key` of the write.
        idempotency_key: Option<String>,
    }
}

/// Text of an error, kept with its answer for the audit log.
#[derive(Clone, Debug)]
pub(super) struct ProblemText(pub(super) String);

/// Progress of a write: its origin, its actor, once it is known, and whether a handler has recorded it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    origin: Arc<Origin>,
    traced: Arc<Mutex<Traced>>,
}

/// Origin of a write.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// Address of the peer.
    from: Option<IpAddr>,
    idempotency_key: Option<String>,
}

impl Origin {
    /// That of a peer at this address.
    pub(super) const fn at(from: Option<IpAddr>) -> Self {
        Self { from, idempotency_key: None }
    }
}

#[derive(Debug, Default)]
struct Traced {
    actor: Option<Actor>,
    is_recorded: bool,
}

impl Trace {
    fn of(request: &Request) -> Self {
        let key =
            request.headers().get(IDEMPOTENCY_KEY).map(|key| one_line_of_bytes(key.as_bytes(), MAX_TEXT));
        let from = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        let origin = Origin { idempotency_key: key, ..Origin::at(from) };
        Self { origin: Arc::new(origin), traced: Arc::default() }
    }

    /// Origin of the write.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Sets the actor.
    pub(super) fn authenticated(&self, actor: &Actor) {
        self.traced.lock().actor = Some(actor.clone());
    }

    /// Notes that a handler has recorded the write.
    pub(super) fn recorded(&self) {
        self.traced.lock().is_recorded = true;
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
    let trace = Trace::of(&request);
    request.extensions_mut().insert(trace.clone());
    let answer = next.run(request).await;
    let Traced { actor, is_recorded } = &*trace.traced.lock();
    if !is_recorded && !answer.status().is_success() {
        let message = answer.extensions().get::<ProblemText>().map_or("", |ProblemText(message)| message);
        let result = format!("{}: {message}", answer.status().as_u16());
        // If no authentication is configured, the actor is any client on this machine.
        let is_known = admin.access.is_configured();
        let actor = actor.as_ref().map(|actor| (actor, is_known));
        admin.audit.reject(actor, (&target, trace.origin()), &result, admin.clock.now());
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
    pub(super) origin: &'e Origin,
}

impl Entry<'_> {
    /// Result in metrics: one of a few.
    fn outcome(&self) -> &'static str {
        match self.result {
            _ if self.dry_run => "dry_run",
            "done" => "done",
            "not_found" => "not_found",
            _ => "failed",
        }
    }
}

impl Audit {
    /// An empty audit log of the replica with this id.
    pub(super) fn new(replica: &str) -> Self {
        Self { replica: replica.to_owned(), entries: Mutex::default() }
    }

    /// An entry without its number.
    fn entry(&self, write: Entry<'_>, now: Timestamp) -> AuditEntry {
        let Entry { actor, action, target, reason, dry_run, result, origin } = write;
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
            from: origin.from.map(|from| from.to_string()),
            idempotency_key: origin.idempotency_key.clone(),
        }
    }

    /// Records `entry`, and logs it under the target `audit`.
    pub(super) fn record(&self, entry: Entry<'_>, now: Timestamp) {
        let kind = (entry.action, entry.outcome());
        let entry = self.entry(entry, now);
        entry.log();
        let mut entries = self.entries.lock();
        *entries.counts.entry(kind).or_default() += 1;
        let entry = entries.numbered(entry);
        push(&mut entries.handled, entry, MAX_ENTRIES);
    }

    /// Records and logs a rejected write, unless there were too many in this second. `actor` is the actor, and true
    /// if it is authenticated.
    fn reject(
        &self,
        actor: Option<(&Actor, bool)>,
        (target, origin): (&str, &Origin),
        result: &str,
        now: Timestamp,
    ) {
        let is_known = actor.is_some_and(|(_, is_known)| is_known);
        let stranger = Actor { name: "unknown".to_owned(), role: Role::View, csrf: None };
        let write = Entry {
            actor: actor.map_or(&stranger, |(actor, _)| actor),
            action: REJECTED,
            target,
            reason: "",
            dry_run: false,
            result,
            origin,
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
        for ((action, result), count) in &self.entries.lock().counts {
            snapshot.add(&ADMIN_ACTIONS, [*action, *result], *count);
        }
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
        *self.counts.entry((REJECTED, REJECTED)).or_default() += 1;
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
        let Self { actor, role, action, target, reason, dry_run, result, from, idempotency_key, .. } = self;
        tracing::info!(
            target: AUDIT,
            actor,
            role,
            from,
            action,
            on = target,
            reason,
            dry_run,
            result,
            idempotency_key,
            "admin action"
        );
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
mod tests;
