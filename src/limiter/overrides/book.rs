//! Keeps the overrides of this replica up to date with the store, and changes those in the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::{self, MissedTickBehavior};

use super::record::{Document, OverrideRecord, Subject};
use super::version;
use crate::clock::Clock;
use crate::engine::text::one_line;
use crate::engine::{KeyWriter, Overrides, Timestamp};
use crate::store::StoreError;
use crate::store::overrides::{DocumentStore, Replacement, StoredDocument};
use crate::telemetry::logs::AUDIT;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::definitions::{OVERRIDE_READ_ERRORS, OVERRIDES};

/// Interval of polls. A change is in force on every replica after at most an interval and a round trip.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Upper bound on the overrides of one domain.
pub const MAX_IN_DOMAIN: usize = 1_000;
/// Upper bound on all overrides, which bounds the document that replicas read.
pub const MAX_OVERRIDES: usize = 4_000;
/// Upper bound on the document, in bytes: room for some 4,000 overrides with short texts.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Upper bound on the time that an override lasts.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);
/// Time for which a store keeps the document, longer than any override lasts. So a store without a document that a
/// replica knows has lost it, and a replica that was cut off never takes a deleted override for a lost one.
const KEPT_FOR: Duration = Duration::from_secs(31 * 86_400);
/// Attempts to change the document while others change it too.
const MAX_ATTEMPTS: usize = 16;
/// Upper bound on a text in the log, in bytes.
const MAX_LOGGED: usize = 200;

/// Overrides of a replica, and access to those in the store.
pub struct OverrideBook {
    store: Arc<dyn DocumentStore>,
    keys: KeyWriter,
    clock: Arc<dyn Clock>,
    live: Arc<ArcSwapOption<Overrides>>,
    /// Locked during calls to the store, so that a replica reads and writes one after the other.
    known: Mutex<Known>,
    shown: RwLock<Shown>,
}

/// Document as this replica last read it.
#[derive(Default)]
struct Known {
    version: Bytes,
    /// The whole document, to write it back if the store loses it.
    document: Document,
    overrides: Vec<ActiveOverride>,
    is_failing: bool,
}

/// State for operators, readable during a call to the store.
#[derive(Default)]
struct Shown {
    overrides: Arc<[ActiveOverride]>,
    error: Option<String>,
    failed_reads: u64,
}

/// An override in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveOverride {
    /// The override.
    pub record: OverrideRecord,
    /// Time of its end, by the clock of this replica.
    pub ends_at: Timestamp,
}

/// An override to set.
#[derive(Clone, Debug)]
pub struct NewOverride {
    /// Domain.
    pub domain: String,
    /// Subject and effect.
    pub subject: Subject,
    /// Time until its end.
    pub ttl: Duration,
    /// Operator who sets it.
    pub actor: String,
    /// Reason that the operator gave.
    pub reason: String,
}

/// Failure to change overrides.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    /// The store failed. If it did not answer, the change may have been made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The maximum number of overrides exists already.
    #[error("{0}; delete some first")]
    TooMany(String),
    /// The document would be too large.
    #[error(
        "the overrides would take {bytes} bytes of at most {MAX_DOCUMENT_BYTES}; delete some first, or shorten reasons"
    )]
    TooLarge {
        /// Size of the document.
        bytes: usize,
    },
    /// Each of 16 attempts met a change by another operator.
    #[error("other operators change the overrides at the same time; try again")]
    Contended,
    /// The document has an unknown form.
    #[error("the document with the overrides in the store cannot be read; delete its key, {0}")]
    Unreadable(String),
}

impl OverrideBook {
    /// Overrides in `store`, under keys that `keys` writes, put in force in `live`.
    pub fn new(
        store: Arc<dyn DocumentStore>,
        keys: KeyWriter,
        clock: Arc<dyn Clock>,
        live: Arc<ArcSwapOption<Overrides>>,
    ) -> Self {
        Self { store, keys, clock, live, known: Mutex::default(), shown: RwLock::default() }
    }

    /// Shows the overrides in `metrics`.
    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        let book = Arc::clone(self);
        metrics.register(move |snapshot| {
            let overrides = book.active();
            for kind in ["block", "exempt", "limit", "shadow"] {
                let count = overrides.iter().filter(|active| active.record.subject.kind() == kind).count();
                snapshot.add(&OVERRIDES, [kind], count);
            }
            snapshot.add(&OVERRIDE_READ_ERRORS, [], book.shown.read().failed_reads);
        });
    }

    /// Polls the store every [`POLL_INTERVAL`]. Never returns.
    pub async fn follow(self: Arc<Self>) {
        let mut turn = time::interval(POLL_INTERVAL);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            self.refresh().await;
        }
    }

    /// Puts the overrides in the store in force if they have changed. While the store fails, the last known ones stay
    /// in force until they end.
    pub async fn refresh(&self) {
        let mut known = self.known.lock().await;
        self.drop_ended(&mut known);
        let outcome = self.read_if_changed(&mut known).await;
        let error = outcome.err().map(|error| error.to_string());
        match (&error, known.is_failing) {
            (Some(error), false) => {
                tracing::warn!(%error, "overrides cannot be read; keeping the last known ones");
            }
            (None, true) => tracing::info!("overrides can be read again"),
            _ => {}
        }
        known.is_failing = error.is_some();
        let mut shown = self.shown.write();
        shown.failed_reads += u64::from(error.is_some());
        shown.error = error;
    }

    async fn read_if_changed(&self, known: &mut Known) -> Result<(), OverrideError> {
        let version = self.store.version(&self.keys).await?;
        if version == known.version {
            return Ok(());
        }
        if version < known.version {
            return self.write_back(known, version).await;
        }
        let (stored, document) = self.read().await?;
        // If not greater, the store lost the document since: the next poll writes it back.
        if stored.version > known.version {
            self.adopt(known, stored.version, stored.now, document);
        }
        Ok(())
    }

    /// Writes the known document over an older one, or none: Redis was flushed, evicted it, or failed over to a
    /// replica that lagged behind. Every change has a greater version, a deletion too, so none is undone.
    async fn write_back(&self, known: &Known, found: Bytes) -> Result<(), OverrideError> {
        let replacement = Replacement {
            expected: found,
            version: known.version.clone(),
            content: known.document.write().into(),
            ttl: KEPT_FOR,
        };
        let is_written = self.store.replace(&self.keys, replacement).await?;
        if is_written && !known.overrides.is_empty() {
            let overrides = known.overrides.len();
            tracing::warn!(target: AUDIT, overrides, "the store had lost overrides; written back");
        }
        Ok(())
    }

    async fn read(&self) -> Result<(StoredDocument, Document), OverrideError> {
        let stored = self.store.read(&self.keys, self.clock.now()).await?;
        let prefix = String::from_utf8_lossy(self.keys.prefix());
        let unreadable = || OverrideError::Unreadable(format!("{prefix}tgo1/overrides"));
        let document = Document::parse(&stored.content).ok_or_else(unreadable)?;
        Ok((stored, document))
    }

    /// Puts the overrides of a document in force.
    fn adopt(&self, known: &mut Known, version: Bytes, store_now: Timestamp, document: Document) {
        let (now, unreadable) = (self.clock.now(), document.unreadable());
        if unreadable > 0 {
            tracing::warn!(unreadable, "overrides of another version are not in force");
        }
        let active = |record: OverrideRecord| {
            let left = Timestamp::from_micros(record.ends_us).since(store_now);
            let is_countable = record.subject.descriptor().is_none() || record.subject.compile(now).is_some();
            (!left.is_zero() && is_countable).then(|| ActiveOverride { record, ends_at: now.after(left) })
        };
        let overrides: Vec<_> = document.records().filter_map(active).collect();
        log_changes(&known.overrides, &overrides, now);
        (known.version, known.document, known.overrides) = (version, document, overrides);
        self.put_in_force(known);
    }

    /// Drops overrides that have ended, which decisions ignore already.
    fn drop_ended(&self, known: &mut Known) {
        let now = self.clock.now();
        if known.overrides.iter().all(|active| active.ends_at > now) {
            return;
        }
        let (left, ended) = known.overrides.drain(..).partition(|active| active.ends_at > now);
        known.overrides = left;
        log_changes(&ended, &[], now);
        self.put_in_force(known);
    }

    fn put_in_force(&self, known: &Known) {
        let mut overrides = Overrides::default();
        for ActiveOverride { record, ends_at } in &known.overrides {
            match &record.subject {
                Subject::Shadow { rule, .. } => overrides.shadow(rule, *ends_at),
                subject => {
                    if let Some(compiled) = subject.compile(*ends_at) {
                        overrides.insert(record.domain.as_bytes(), compiled);
                    }
                }
            }
        }
        self.live.store((!overrides.is_empty()).then(|| Arc::new(overrides)));
        self.shown.write().overrides = known.overrides.clone().into();
    }

    /// Overrides in force, by their end.
    pub fn active(&self) -> Vec<ActiveOverride> {
        let (now, shown) = (self.clock.now(), Arc::clone(&self.shown.read().overrides));
        let mut active: Vec<_> = shown.iter().filter(|active| active.ends_at > now).cloned().collect();
        active.sort_by(|one, other| (one.ends_at, &one.record.id).cmp(&(other.ends_at, &other.record.id)));
        active
    }

    /// Error of the last poll; `None` if it succeeded.
    pub fn error(&self) -> Option<String> {
        self.shown.read().error.clone()
    }

    /// Sets an override, in place of one for the same descriptor or rule. It is in force here when this returns, and
    /// on every replica within [`POLL_INTERVAL`] and a round trip.
    ///
    /// # Errors
    /// [`OverrideError`]
    pub async fn set(&self, new: NewOverride) -> Result<ActiveOverride, OverrideError> {
        let NewOverride { domain, subject, ttl, actor, reason } = new;
        let id = subject.id(&domain);
        let (set_id, domain_of) = (id.clone(), domain.clone());
        self.change(move |document, now| {
            check_room(document, &set_id, &domain_of)?;
            document.put(&OverrideRecord {
                id: set_id.clone(),
                domain: domain_of.clone(),
                subject: subject.clone(),
                ends_us: now.after(ttl).as_micros(),
                set_us: now.as_micros(),
                actor: actor.clone(),
                reason: reason.clone(),
            });
            Ok(true)
        })
        .await?;
        let active = self.active().into_iter().find(|active| active.record.id == id);
        active.ok_or(OverrideError::Contended)
    }

    /// Deletes an override. Returns whether there was one.
    ///
    /// # Errors
    /// [`OverrideError`]
    pub async fn delete(&self, id: &str) -> Result<bool, OverrideError> {
        self.change(|document, _| Ok(document.remove(id))).await
    }

    /// Changes the document, unless `change` returns false. Returns what it returned.
    async fn change(
        &self,
        change: impl Fn(&mut Document, Timestamp) -> Result<bool, OverrideError>,
    ) -> Result<bool, OverrideError> {
        let mut known = self.known.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let (stored, found) = self.read().await?;
            // If the store has lost the document, the change is made to the one that this replica knows.
            let is_lost = stored.version < known.version;
            let mut document = if is_lost { known.document.clone() } else { found };
            document.drop_ended(stored.now);
            if !change(&mut document, stored.now)? {
                if !is_lost {
                    self.adopt(&mut known, stored.version, stored.now, document);
                }
                return Ok(false);
            }
            let version = version::after((&stored.version).max(&known.version), stored.now);
            let content = Bytes::from(document.write());
            // A document that is too large already may get smaller.
            if content.len() > MAX_DOCUMENT_BYTES && content.len() > stored.content.len() {
                return Err(OverrideError::TooLarge { bytes: content.len() });
            }
            let replacement =
                Replacement { expected: stored.version, version: version.clone(), content, ttl: KEPT_FOR };
            if self.store.replace(&self.keys, replacement).await? {
                self.adopt(&mut known, version, stored.now, document);
                return Ok(true);
            }
        }
        Err(OverrideError::Contended)
    }
}

/// Checks that there is room for an override of `domain` with this id.
fn check_room(document: &Document, id: &str, domain: &str) -> Result<(), OverrideError> {
    let others: Vec<_> = document.records().filter(|record| record.id != id).collect();
    let in_domain = others.iter().filter(|record| record.domain == domain).count();
    if in_domain >= MAX_IN_DOMAIN {
        let domain = one_line(domain, MAX_LOGGED);
        return Err(OverrideError::TooMany(format!(
            "domain {domain} has {MAX_IN_DOMAIN} overrides, the maximum"
        )));
    }
    if others.len() + document.unreadable() >= MAX_OVERRIDES {
        return Err(OverrideError::TooMany(format!("there are {MAX_OVERRIDES} overrides, the maximum")));
    }
    Ok(())
}

/// Logs overrides that were set, deleted, or have ended, whatever the level of the log is.
fn log_changes(before: &[ActiveOverride], after: &[ActiveOverride], now: Timestamp) {
    let known: HashMap<&str, &ActiveOverride> =
        before.iter().map(|active| (&*active.record.id, active)).collect();
    let kept: HashMap<&str, &ActiveOverride> =
        after.iter().map(|active| (&*active.record.id, active)).collect();
    for active in after
        .iter()
        .filter(|active| known.get(&*active.record.id).is_none_or(|known| known.record != active.record))
    {
        let ActiveOverride { record, ends_at } = active;
        let (id, kind, on) = (&record.id, record.subject.kind(), record.subject.description());
        let (domain, actor) = (one_line(&record.domain, MAX_LOGGED), one_line(&record.actor, MAX_LOGGED));
        let (reason, ends_in_secs) = (one_line(&record.reason, MAX_LOGGED), ends_at.since(now).as_secs());
        tracing::info!(target: AUDIT, id, kind, %domain, on, ends_in_secs, %actor, %reason, "override set");
    }
    for ActiveOverride { record, ends_at } in
        before.iter().filter(|active| !kept.contains_key(&*active.record.id))
    {
        let (id, kind, on) = (&record.id, record.subject.kind(), record.subject.description());
        let domain = one_line(&record.domain, MAX_LOGGED);
        match *ends_at > now {
            true => tracing::info!(target: AUDIT, id, kind, %domain, on, "override deleted"),
            false => tracing::info!(target: AUDIT, id, kind, %domain, on, "override ended"),
        }
    }
}
