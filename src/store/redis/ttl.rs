//! TTLs: every counter in Redis has one.
//!
//! A counter is created together with its TTL: `SET key 0 EX secs NX`, in the same write in front of
//! `INCRBY`. Since most hits are on counters that exist, `SET` is left out where this connection has seen the
//! counter before. A counter may be gone when `INCRBY` comes: evicted, expired, flushed, or deleted by hand. The
//! reply then equals the hits, and the TTL is set by an `EXPIRE` in the next write. Where `SET` has just created the
//! counter, the reply does not show whether it was evicted in between, so it gets an `EXPIRE` whenever the server may
//! evict ([`super::connect::Connected`]). An `EXPIRE` that is still to come when the node is no longer used, or that is
//! answered MOVED or ASK, is left to the cluster, which sends it to the node that has the counter now. One that nothing is
//! going to send any more is counted ([`super::status::Losses`]).
//!
//! The gaps: a counter that is deleted by hand between the `SET` and the `INCRBY` of one write, a server that begins
//! to evict while the connection stands, and a counter on which an operator runs PERSIST: the general script sets its
//! TTL again, and those of sliding windows and token buckets do so when they charge it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::quality::RandomState;
use hashbrown::HashSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::status::Losses;

/// Keys in one generation of [`KnownKeys`]. Two of them take at most some 5 MB.
const GENERATION: usize = 131_072;
/// Upper bound on keys that wait for their `EXPIRE`, and on their bytes.
const MAX_PENDING: usize = 65_536;
const MAX_PENDING_BYTES: usize = 16 << 20;
/// `EXPIRE` commands in one write.
const MAX_BATCH: usize = 256;
/// Delay before an `EXPIRE` that Redis rejected is sent again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Counters that are known to exist and to have a TTL: their hashes, in two generations. The older one is
/// dropped when the younger one is full.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    /// Seeded, so that no client can choose two keys of one hash.
    hasher: RandomState,
    young: Generation,
    old: Generation,
}

type Generation = HashSet<u64, BuildHasherDefault<IsHash>>;

/// A number that is a hash already.
#[derive(Debug, Default)]
pub(super) struct IsHash(u64);

impl Hasher for IsHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl KnownKeys {
    pub(super) fn hash(&self, key: &Bytes) -> u64 {
        self.hasher.hash_one(&key[..])
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.young.contains(&hash) || self.old.contains(&hash)
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
    }

    /// Forgets all: another connection may lead to another server.
    pub(super) fn clear(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
    }
}

/// A counter, and the seconds that it is to live from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ttl {
    pub(super) key: Bytes,
    pub(super) secs: u32,
}

/// A TTL that its worker can no longer set: its node is no longer used, or another one has the counter. Counted as
/// lost if it is dropped before it was set.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) ttl: Ttl,
    is_set: bool,
    open: Arc<AtomicUsize>,
    lost: Arc<Losses>,
}

impl Orphan {
    /// The counter has its TTL.
    pub(super) fn set(mut self) {
        self.is_set = true;
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.lost.add(usize::from(!self.is_set));
    }
}

/// Channel for the orphans of all workers of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Orphans {
    sender: mpsc::Sender<Orphan>,
    open: Arc<AtomicUsize>,
    lost: Arc<Losses>,
}

impl Orphans {
    /// A channel, and its receiver. `lost` counts what is not set in the end.
    pub(super) fn channel(lost: &Arc<Losses>) -> (Self, mpsc::Receiver<Orphan>) {
        let (sender, receiver) = mpsc::channel(MAX_PENDING);
        (Self { sender, open: Arc::default(), lost: Arc::clone(lost) }, receiver)
    }

    pub(super) fn send(&self, ttl: Ttl) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let (open, lost) = (Arc::clone(&self.open), Arc::clone(&self.lost));
        // If the channel is full or closed, the orphan is dropped here, and counted as lost.
        drop(self.sender.try_send(Orphan { ttl, is_set: false, open, lost }));
    }

    /// Orphans that are neither set nor lost.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Counters that may have no TTL yet.
#[derive(Debug, Default)]
pub(super) struct MissingTtls {
    pending: VecDeque<Ttl>,
    bytes: usize,
    /// When the next may be sent; `None` for at once.
    not_before: Option<Instant>,
}

impl MissingTtls {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Adds a TTL to set; `false` if there is no room for it.
    #[must_use]
    pub(super) fn push(&mut self, ttl: Ttl) -> bool {
        if self.pending.len() >= MAX_PENDING || self.bytes + ttl.key.len() > MAX_PENDING_BYTES {
            return false;
        }
        self.bytes += ttl.key.len();
        self.pending.push_back(ttl);
        true
    }

    /// Adds a TTL that Redis rejected, as [`Self::push`]; no TTL is sent before [`RETRY_DELAY`] has passed.
    #[must_use]
    pub(super) fn push_rejected(&mut self, ttl: Ttl, now: Instant) -> bool {
        self.not_before = Some(now + RETRY_DELAY);
        self.push(ttl)
    }

    /// When [`MissingTtls::take`] next returns some.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        (!self.pending.is_empty()).then(|| self.not_before.unwrap_or(now))
    }

    /// Leaves all of them to `orphans`.
    pub(super) fn leave(&mut self, orphans: &Orphans) {
        for ttl in std::mem::take(&mut self.pending) {
            orphans.send(ttl);
        }
        self.bytes = 0;
    }

    /// Those that may be sent now, up to the size of a batch.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Ttl> {
        if self.pending.is_empty() || self.not_before.is_some_and(|not_before| now < not_before) {
            return Vec::new();
        }
        self.not_before = None;
        let len = self.pending.len().min(MAX_BATCH);
        let taken: Vec<Ttl> = self.pending.drain(..len).collect();
        self.bytes -= taken.iter().map(|ttl| ttl.key.len()).sum::<usize>();
        if self.pending.is_empty() {
            // Gives back what an outage grew.
            self.pending = VecDeque::new();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(number: usize) -> Ttl {
        Ttl { key: Bytes::from(format!("{number:01000}")), secs: 60 }
    }

    #[test]
    fn keys_are_known_until_two_generations_are_full() {
        let mut known = KnownKeys::default();
        let hashes: Vec<u64> =
            (0..2 * GENERATION + 1).map(|key| known.hash(&Bytes::from(key.to_string()))).collect();
        for hash in &hashes {
            assert!(!known.contains(*hash));
            known.insert(*hash);
            assert!(known.contains(*hash));
        }
        assert!(!known.contains(hashes[0]), "the oldest are forgotten");
        assert!(hashes[GENERATION..].iter().all(|hash| known.contains(*hash)));
        known.clear();
        assert!(!hashes.iter().any(|hash| known.contains(*hash)));
    }

    #[test]
    fn missing_ttls_are_bounded_in_bytes_and_leave_in_batches() {
        let mut missing = MissingTtls::default();
        let room = MAX_PENDING_BYTES / 1000;
        assert!((0..room).all(|number| missing.push(ttl(number))));
        assert!(!missing.push(ttl(room)), "full");
        let now = Instant::now();
        assert_eq!(missing.take(now).len(), MAX_BATCH);
        assert!(missing.push(ttl(room)), "room again");
        let mut left = 0;
        while missing.next(now).is_some() {
            left += missing.take(now).len();
        }
        assert_eq!((left, missing.bytes), (room + 1 - MAX_BATCH, 0));
    }

    #[test]
    fn an_orphan_that_is_not_set_is_counted_wherever_it_ends() {
        let nodes = super::super::status::Nodes::default();
        let (orphans, mut receiver) = Orphans::channel(nodes.lost_ttls());
        let mut missing = MissingTtls::default();
        for number in 0..3 {
            assert!(missing.push(ttl(number)));
        }
        missing.leave(&orphans);
        assert_eq!((missing.len(), orphans.open(), nodes.ttls_lost()), (0, 3, 0));
        receiver.try_recv().unwrap().set();
        assert_eq!((orphans.open(), nodes.ttls_lost()), (2, 0));
        // Given up, still in the channel at its end, and too late for it.
        drop(receiver.try_recv());
        assert_eq!((orphans.open(), nodes.ttls_lost()), (1, 1));
        drop(receiver);
        assert_eq!((orphans.open(), nodes.ttls_lost()), (0, 2));
        orphans.send(ttl(4));
        assert_eq!((orphans.open(), nodes.ttls_lost()), (0, 3));
        // More than there is room for.
        let (orphans, _receiver) = Orphans::channel(nodes.lost_ttls());
        for _ in 0..MAX_PENDING + 5 {
            orphans.send(Ttl { key: Bytes::new(), secs: 1 });
        }
        assert_eq!((orphans.open(), nodes.ttls_lost()), (MAX_PENDING, 8));
    }

    #[test]
    fn a_rejected_one_is_tried_again_after_a_delay() {
        let (mut missing, now) = (MissingTtls::default(), Instant::now());
        assert!(missing.push_rejected(ttl(1), now));
        assert_eq!((missing.take(now), missing.next(now)), (vec![], Some(now + RETRY_DELAY)));
        assert_eq!(missing.take(now + RETRY_DELAY), [ttl(1)]);
        assert_eq!(missing.next(now), None);
    }
}
