//! Searches of the stores for lockouts, shared by all callers.
//!
//! A search of a large Redis takes longer than a caller waits, since it leaves most of the server's time to others. The
//! search continues without its callers, who get the result of the previous search, or else what was found so far.

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

/// Time for which the result of a search is used; longer if the search took longer, so that searches run at most half
/// of the time.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(1);
/// Time that a caller waits for a search, well below the timeouts of clients.
pub(super) const WAIT: Duration = Duration::from_secs(3);

/// The known lockouts.
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
    /// Start of the search that found them.
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
    /// Lockouts lifted since the start of the search whose result is in use.
    lifted: HashMap<Bytes, Instant>,
}

/// A search under way.
struct Search {
    begun: Instant,
    /// Lockouts of each store.
    found: Vec<Found>,
    /// Closed when the search has ended.
    ended: watch::Receiver<()>,
}

impl Searches {
    /// Records that the lockout of `key` was lifted, to leave it out of results of older searches.
    pub(super) fn lifted(&self, key: &Bytes) {
        let mut latest = self.0.lock();
        if latest.lifted.len() >= MAX_LISTED {
            // A new search is cheaper than remembering more of them.
            (latest.lifted, latest.ended) = (HashMap::new(), None);
        }
        latest.lifted.insert(key.clone(), Instant::now());
    }

    /// The lockouts that are known now.
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
        // If two stores have a lockout, keep the one that lasts longer.
        lockouts.sort_by(|a, b| (&a.key, b.state.ends_us).cmp(&(&b.key, a.state.ends_us)));
        lockouts.dedup_by(|a, b| a.key == b.key);
        lockouts.sort_by(|a, b| position(a).cmp(&position(b)));
        Self { lockouts: lockouts.into(), error, truncated, is_searching: true, is_whole: false, begun }
    }
}

impl LockoutAdmin {
    /// The latest result if it is fresh; else the result of the running search or of a new one, complete or not after
    /// [`WAIT`].
    pub(super) async fn listing(&self) -> Listing {
        if let Some(mut ended) = self.searching() {
            // `changed` fails once the search has ended.
            drop(timeout(WAIT, async { while ended.changed().await.is_ok() {} }).await);
        }
        self.searches.listing()
    }

    /// Receiver that is closed at the end of the running search, which starts now if none runs; `None` if the latest
    /// result is fresh.
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

/// A search that is being carried out. It ends when this value is dropped, also by a panic.
struct Running {
    admin: LockoutAdmin,
    search: Arc<Search>,
    _sender: watch::Sender<()>,
}

impl Running {
    async fn run(self) {
        let LockoutAdmin { stores, keys, clock, .. } = &self.admin;
        let now = clock.now();
        // Concurrently, so that a store that does not answer does not delay the others.
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
