//! Searches of the stores for lockouts, shared by all callers.
//!
//! A search of a large Redis takes longer than a caller waits, since it leaves the server most of its time. It goes on
//! without its callers: they get what it has found so far, or the result of the search before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{LockoutAdmin, position};
use crate::store::lockouts::{ActiveLockout, Found, MAX_LISTED};

/// Time for which the result of a search is used, or as long as the search took: at most half of the time is spent on
/// searches.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(1);
/// Time that a caller waits for a search, well below the timeouts of clients.
pub(super) const WAIT: Duration = Duration::from_secs(3);

/// Lockouts, as far as they are known.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// Lockouts of all stores, ordered by their end.
    pub(super) lockouts: Arc<[ActiveLockout]>,
    /// Error of a store whose lockouts are missing.
    pub(super) error: Option<String>,
    /// True if a store has more lockouts than a search finds.
    pub(super) truncated: bool,
    /// True while a search is under way.
    pub(super) is_searching: bool,
    /// False until the first search has ended.
    pub(super) is_whole: bool,
    /// Begin of the search that found them.
    pub(super) begun: Instant,
}

/// The latest searches.
#[derive(Default)]
pub(super) struct Searches(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    running: Option<Arc<Search>>,
    /// Result of the latest search that has ended, and its end.
    ended: Option<(Listing, Instant)>,
    /// Lockouts lifted since the begin of the search whose result is in use.
    lifted: HashMap<Bytes, Instant>,
}

/// A search under way.
struct Search {
    begun: Instant,
    /// Lockouts of each store.
    found: Vec<Found>,
    /// Closed when it has ended.
    ended: watch::Receiver<()>,
}

impl Searches {
    /// The lockout of `key` was lifted.
    pub(super) fn lifted(&self, key: &Bytes) {
        let mut latest = self.0.lock();
        if latest.lifted.len() >= MAX_LISTED {
            // So many that a new search is cheaper than to remember them.
            (latest.lifted, latest.ended) = (HashMap::new(), None);
        }
        latest.lifted.insert(key.clone(), Instant::now());
    }

    /// Lockouts as far as they are known now.
    fn listing(&self) -> Listing {
        let latest = self.0.lock();
        let is_searching = latest.running.is_some();
        let listing = match (&latest.ended, &latest.running) {
            (Some((ended, _)), _) => Listing { is_searching, ..ended.clone() },
            (None, Some(search)) => Listing::of(&search.found, search.begun, None),
            (None, None) => {
                let error = Some("the search has failed".to_owned());
                Listing { is_searching, ..Listing::of(&[], Instant::now(), error) }
            }
        };
        let begun = listing.begun;
        if latest.lifted.is_empty() {
            return listing;
        }
        let is_lifted = |key: &Bytes| latest.lifted.get(key).is_some_and(|at| *at >= begun);
        let left = listing.lockouts.iter().filter(|lockout| !is_lifted(&lockout.key)).cloned();
        Listing { lockouts: left.collect(), ..listing }
    }
}

impl Listing {
    fn of(found: &[Found], begun: Instant, error: Option<String>) -> Self {
        let found: Vec<_> = found.iter().map(Found::so_far).collect();
        let truncated = found.iter().any(|found| found.len() >= MAX_LISTED);
        let mut lockouts: Vec<_> = found.into_iter().flatten().collect();
        // Of a lockout in two stores, list the one that lasts longer.
        lockouts.sort_by(|a, b| (&a.key, b.state.ends_us).cmp(&(&b.key, a.state.ends_us)));
        lockouts.dedup_by(|a, b| a.key == b.key);
        lockouts.sort_by(|a, b| position(a).cmp(&position(b)));
        Self { lockouts: lockouts.into(), error, truncated, is_searching: true, is_whole: false, begun }
    }
}

impl LockoutAdmin {
    /// Result of a search that is fresh; else that of one which begins now, as far as it gets within [`WAIT`].
    pub(super) async fn listing(&self) -> Listing {
        if let Some(mut ended) = self.searching() {
            // It is an error as soon as the search has ended.
            drop(timeout(WAIT, async { while ended.changed().await.is_ok() {} }).await);
        }
        self.searches.listing()
    }

    /// End of the search that is under way or begins now; `None` if the latest result is fresh.
    fn searching(&self) -> Option<watch::Receiver<()>> {
        let mut latest = self.searches.0.lock();
        if let Some(running) = &latest.running {
            return Some(running.ended.clone());
        }
        if let Some((listing, ended)) = &latest.ended
            && ended.elapsed() < KEPT_FOR.max(*ended - listing.begun)
        {
            return None;
        }
        let (sender, ended) = watch::channel(());
        let found = self.stores.iter().map(|_| Found::default()).collect();
        let search = Arc::new(Search { begun: Instant::now(), found, ended: ended.clone() });
        latest.running = Some(Arc::clone(&search));
        let running = Running { admin: self.clone(), search, _sender: sender };
        tokio::spawn(running.run());
        Some(ended)
    }
}

/// A search that is being carried out. It ends with this value, also by a panic.
struct Running {
    admin: LockoutAdmin,
    search: Arc<Search>,
    _sender: watch::Sender<()>,
}

impl Running {
    async fn run(self) {
        let LockoutAdmin { stores, keys, clock, .. } = &self.admin;
        let now = clock.now();
        // Together, so that a store that does not answer delays no other.
        let searches =
            stores.iter().zip(&self.search.found).map(|(store, found)| store.search(keys, now, found));
        let outcomes = future::join_all(searches).await;
        let error = outcomes.into_iter().find_map(Result::err).map(|error| error.to_string());
        let begun = self.search.begun;
        let listing = Listing { is_whole: true, ..Listing::of(&self.search.found, begun, error) };
        let mut latest = self.admin.searches.0.lock();
        latest.lifted.retain(|_, at| *at >= begun);
        latest.ended = Some((listing, Instant::now()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.admin.searches.0.lock().running = None;
    }
}
