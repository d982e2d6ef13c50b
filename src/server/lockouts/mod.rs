//! Lockouts: listed on the debug port and the admin listener, and lifted on the latter.

mod search;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::search::Searches;
use super::http::json_response;
use super::schema::{replies, requests};
use crate::clock::Clock;
use crate::engine::key::LockoutParts;
use crate::engine::text::one_line_of_bytes;
use crate::engine::{KeyWriter, Timestamp, lockout};
use crate::store::StoreError;
use crate::store::lockouts::{ActiveLockout, Lockouts, MAX_LISTED};

/// Default number of lockouts on a page.
const PAGE: usize = 1_000;
/// Upper bound on a text that the console shows, in bytes.
const MAX_TEXT: usize = 128;

/// Form of a cursor: base64 of 8 bytes or more, without bits that mean nothing.
const CURSOR: &str = "^([A-Za-z0-9_-]{4}){2}([A-Za-z0-9_-]{2}[AEIMQUYcgkosw048]|([A-Za-z0-9_-]{4})+([A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?)$";

/// Access to lockouts. Clones share their searches.
#[derive(Clone)]
pub struct LockoutAdmin {
    stores: Arc<[Arc<dyn Lockouts>]>,
    keys: KeyWriter,
    clock: Arc<dyn Clock>,
    searches: Arc<Searches>,
}

requests! {
    /// Parameters of a page of lockouts.
    struct Page {
        /// Upper bound on the lockouts; 1,000 by default.
        limit: Option<u32>,
        /// `next_cursor` of the page before this one.
        cursor: Option<String> = { "pattern": CURSOR },
        /// Text within the entries, which are `user=alice,remote_address=10.0.0.1`.
        q: Option<String>,
    }
}

replies! {
    /// A page of lockouts.
    struct LockoutPage {
        /// Lockouts: those that end first come first.
        lockouts: Vec<LockoutItem>,
        /// Cursor of the next page; `null` on the last one.
        next_cursor: Option<String>,
        /// True if a store has more lockouts than it lists.
        truncated: bool,
        /// False if the lockouts of a store are missing, or if the first search has not ended yet.
        complete: bool,
        /// True while a search is under way: the lockouts are those that it has found so far, or those of the search
        /// before it. A large Redis takes a while.
        searching: bool,
        /// Seconds since the begin of the search that found the lockouts.
        age_secs: u64,
        /// Cause of missing lockouts.
        error: Option<String>,
    }
    /// A lockout.
    struct LockoutItem {
        /// Id, for lifting it.
        id: String,
        /// Domain.
        domain: String,
        /// Name of the penalty.
        name: String,
        /// Entries of the descriptor: key and value.
        entries: Map<String, Value>,
        /// Blocks so far.
        blocks: u8,
        /// True if it lasts until it is lifted.
        permanent: bool,
        /// End of the block, in seconds since the epoch; `null` if it is permanent.
        ends_at: Option<u64>,
        /// Seconds until the end of the block; `null` if it is permanent.
        ends_in_secs: Option<u64>,
    }
}

impl LockoutAdmin {
    /// Access to the lockouts of `stores`, the main store and the local fallback, with keys written by `keys`.
    pub fn new(stores: Vec<Arc<dyn Lockouts>>, keys: KeyWriter, clock: Arc<dyn Clock>) -> Self {
        Self { stores: stores.into(), keys, clock, searches: Arc::default() }
    }

    /// Lifts the lockout of `key` in every store.
    ///
    /// # Errors
    /// Error of a store, if no other store had the lockout.
    async fn lift(&self, key: &Bytes) -> Result<Lift, StoreError> {
        let (mut lifted, mut failed) = (false, None);
        for store in &*self.stores {
            match store.lift(key).await {
                Ok(had_it) => lifted |= had_it,
                Err(error) => failed = Some(error),
            }
        }
        self.searches.lifted(key);
        match (lifted, failed) {
            (true, None) => Ok(Lift::Done),
            (true, Some(error)) => Ok(Lift::Partial(error)),
            (false, None) => Ok(Lift::NotFound),
            (false, Some(error)) => Err(error),
        }
    }
}

/// Result of lifting a lockout.
#[derive(Debug)]
pub(super) enum Lift {
    /// The client was locked out, and is not any more.
    Done,
    /// One store had it; another, which failed, may have it still.
    Partial(StoreError),
    /// The client was not locked out.
    NotFound,
}

impl Lift {
    /// Error of a store that may still have the lockout.
    pub(super) fn error(&self) -> Option<String> {
        match self {
            Self::Partial(error) => {
                Some(format!("{error}; the lockout may be in force there: lift it again"))
            }
            Self::Done | Self::NotFound => None,
        }
    }
}

/// Lockouts as the console shows them.
pub(super) struct FirstLockouts {
    /// Those that end first.
    pub(super) items: Vec<LockoutView>,
    /// Number of others.
    pub(super) omitted: usize,
    /// True if a store has more lockouts than it lists.
    pub(super) truncated: bool,
    /// Cause of lockouts that are missing.
    pub(super) missing: Option<String>,
}

/// A lockout as the console shows it.
pub(super) struct LockoutView {
    pub(super) id: String,
    pub(super) domain: String,
    pub(super) name: String,
    /// Entries: `user=alice,remote_address=10.0.0.1`.
    pub(super) client: String,
    pub(super) blocks: u8,
    /// `None` for a permanent one.
    pub(super) ends_in_secs: Option<u64>,
}

/// A lockout that a client names by its id.
pub(super) struct NamedLockout {
    admin: LockoutAdmin,
    key: Bytes,
    parts: LockoutParts,
}

impl LockoutAdmin {
    /// The first `limit` lockouts to end, of those whose entries contain `text`.
    pub(super) async fn first(&self, limit: usize, text: &str) -> FirstLockouts {
        let listing = self.listing().await;
        let now = self.clock.now();
        let blocked = listing.lockouts.iter().filter(|blocked| blocked.state.is_blocked(now));
        let mut blocked = blocked.filter(|blocked| has_text(blocked, text));
        let items = blocked.by_ref().take(limit).map(|blocked| LockoutView::of(blocked, now)).collect();
        let searching = || "the store is still being searched".to_owned();
        FirstLockouts {
            items,
            omitted: blocked.count(),
            truncated: listing.truncated,
            missing: listing.error.or_else(|| (!listing.is_whole).then(searching)),
        }
    }

    /// The lockout that `id` names, which may not exist; `None` for an invalid id.
    pub(super) fn named(&self, id: &str) -> Option<NamedLockout> {
        let key = URL_SAFE_NO_PAD.decode(id).ok().map(Bytes::from)?;
        let parts = self.keys.parse_lockout_key(&key)?;
        Some(NamedLockout { admin: self.clone(), key, parts })
    }
}

impl NamedLockout {
    /// Lifts it in every store.
    ///
    /// # Errors
    /// That of a store, where no other one had it.
    pub(super) async fn lift(&self) -> Result<Lift, StoreError> {
        self.admin.lift(&self.key).await
    }

    /// True if it is in force in a store.
    ///
    /// # Errors
    /// That of a store, where it is in force in no other.
    pub(super) async fn is_blocked(&self) -> Result<bool, StoreError> {
        let now = self.admin.clock.now();
        let mut failed = None;
        for store in &*self.admin.stores {
            match store.is_blocked(&self.key, now).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Domain, name and client, on one line.
    pub(super) fn description(&self) -> String {
        let text = |bytes: &[u8]| one_line_of_bytes(bytes, MAX_TEXT);
        format!("{} {} {}", text(&self.parts.domain), text(&self.parts.name), client(&self.parts))
    }
}

impl LockoutView {
    fn of(ActiveLockout { key, parts, state }: &ActiveLockout, now: Timestamp) -> Self {
        let is_permanent = lockout::is_permanent(state.ends_us);
        Self {
            id: URL_SAFE_NO_PAD.encode(key),
            domain: one_line_of_bytes(&parts.domain, MAX_TEXT),
            name: one_line_of_bytes(&parts.name, MAX_TEXT),
            client: client(parts),
            blocks: state.level,
            ends_in_secs: (!is_permanent).then(|| lockout::remaining(state.ends_us, now).as_secs()),
        }
    }
}

fn client(parts: &LockoutParts) -> String {
    let text = |bytes: &[u8]| one_line_of_bytes(bytes, MAX_TEXT);
    let entries: Vec<_> =
        parts.entries.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect();
    entries.join(",")
}

/// True if the entries contain `text`, as [`client`] shows them.
fn has_text(blocked: &ActiveLockout, text: &str) -> bool {
    text.is_empty() || client(&blocked.parts).contains(text)
}

/// Place of a lockout in listings.
fn position(blocked: &ActiveLockout) -> (u64, &[u8]) {
    (blocked.state.ends_us, &blocked.key)
}

/// `/lockouts`
pub(super) fn router(admin: LockoutAdmin) -> Router {
    Router::new().route("/lockouts", get(list)).with_state(admin)
}

impl LockoutAdmin {
    /// A page of the lockouts.
    ///
    /// # Errors
    /// A message if the cursor is not one of ours.
    pub(super) async fn page(&self, page: &Page) -> Result<LockoutPage, &'static str> {
        let after = match page.cursor.as_deref() {
            None => None,
            Some(cursor) => Some(read_cursor(cursor).ok_or("cursor: expected next_cursor of another page")?),
        };
        let limit = page.limit.map_or(PAGE, |limit| limit as usize).clamp(1, MAX_LISTED);
        let listing = self.listing().await;
        let now = self.clock.now();
        let is_after = |blocked: &&ActiveLockout| {
            after.as_ref().is_none_or(|(ends_us, key)| position(blocked) > (*ends_us, &**key))
        };
        let text = page.q.as_deref().unwrap_or_default();
        let blocked = listing.lockouts.iter().filter(|blocked| blocked.state.is_blocked(now));
        let mut rest = blocked.filter(is_after).filter(|blocked| has_text(blocked, text));
        let shown: Vec<_> = rest.by_ref().take(limit).collect();
        let next_cursor = rest.next().and(shown.last()).map(|last| write_cursor(last));
        Ok(LockoutPage {
            lockouts: shown.iter().map(|blocked| describe(blocked, now)).collect(),
            next_cursor,
            truncated: listing.truncated,
            complete: listing.error.is_none() && listing.is_whole,
            searching: listing.is_searching,
            age_secs: listing.begun.elapsed().as_secs(),
            error: listing.error,
        })
    }
}

async fn list(State(admin): State<LockoutAdmin>, Query(page): Query<Page>) -> Response {
    match admin.page(&page).await {
        Ok(page) => json_response(StatusCode::OK, json!(page).to_string()),
        Err(message) => error(StatusCode::BAD_REQUEST, message),
    }
}

fn write_cursor(blocked: &ActiveLockout) -> String {
    let (ends_us, key) = position(blocked);
    URL_SAFE_NO_PAD.encode([&ends_us.to_be_bytes(), key].concat())
}

fn read_cursor(cursor: &str) -> Option<(u64, Vec<u8>)> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (ends_us, key) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*ends_us), key.to_vec()))
}

fn describe(ActiveLockout { key, parts, state }: &ActiveLockout, now: Timestamp) -> LockoutItem {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_permanent = lockout::is_permanent(state.ends_us);
    let entries: Map<_, _> =
        parts.entries.iter().map(|(key, value)| (text(key), Value::String(text(value)))).collect();
    LockoutItem {
        id: URL_SAFE_NO_PAD.encode(key),
        domain: text(&parts.domain),
        name: text(&parts.name),
        entries,
        blocks: state.level,
        permanent: is_permanent,
        ends_at: (!is_permanent).then_some(state.ends_us / 1_000_000),
        ends_in_secs: (!is_permanent).then(|| lockout::remaining(state.ends_us, now).as_secs()),
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    json_response(status, json!({ "error": message }).to_string())
}

#[cfg(test)]
mod tests;
