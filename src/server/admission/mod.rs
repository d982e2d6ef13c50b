//! Admission of requests: how many are in flight on a core, and how much memory their bodies take while they
//! arrive.
//!
//! A body takes memory as its bytes arrive, not by its declared length. Nearly all bodies are complete when
//! they are first polled; these are not copied and touch no shared state. The others are listed here by age. At
//! a bound, the oldest unfinished body is ended: a normal body is unfinished for milliseconds, a withheld one
//! until it is ended.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crossbeam_utils::CachePadded;
use futures_util::task::AtomicWaker;
use hyper::body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bounds on request bodies that have not arrived in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodySettings {
    /// Time from a request's headers to the last byte of its body.
    pub timeout: Duration,
    /// Bytes buffered for unfinished bodies, of the whole process.
    pub max_unfinished_bytes: usize,
}

impl Default for BodySettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), max_unfinished_bytes: 64 * 1024 * 1024 }
    }
}

/// A body that was not received.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than this many bytes.
    #[error("request body is larger than {0} bytes")]
    TooLarge(usize),
    /// It took longer than [`BodySettings::timeout`].
    #[error("request body was not received in time")]
    TimedOut,
    /// It gave way to other requests.
    #[error("request dropped for newer ones: too many request bodies are incomplete")]
    Displaced,
    /// The connection failed, or the peer broke the protocol.
    #[error("request body cannot be read")]
    Unreadable,
}

/// As many requests as allowed are in flight, and all of them have arrived in full.
#[derive(Debug)]
pub(super) struct Overloaded;

/// The unfinished bodies of every core.
#[derive(Debug)]
pub(super) struct UnfinishedBodies {
    settings: BodySettings,
    bytes: CachePadded<AtomicUsize>,
    cores: Box<[CachePadded<Mutex<BodyList>>]>,
    displaced: AtomicU64,
    timed_out: AtomicU64,
}

/// Unfinished bodies of one core, by age.
#[derive(Debug, Default)]
struct BodyList {
    next_id: u64,
    bodies: BTreeMap<u64, ListedBody>,
}

#[derive(Debug)]
struct ListedBody {
    since: Instant,
    bytes: usize,
    end: Arc<BodyEnd>,
}

/// Ends the wait for a body.
#[derive(Debug, Default)]
struct BodyEnd {
    reason: AtomicU8,
    waker: AtomicWaker,
}

const WAITING: u8 = 0;
const TIMED_OUT: u8 = 1;
const DISPLACED: u8 = 2;

impl UnfinishedBodies {
    /// Bodies of `cores` cores.
    pub(super) fn new(cores: usize, settings: BodySettings) -> Self {
        Self {
            settings,
            bytes: CachePadded::default(),
            cores: (0..cores).map(|_| CachePadded::default()).collect(),
            displaced: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
        }
    }

    /// Number of bodies that gave way so far.
    pub(super) fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Number of bodies that did not arrive in time so far.
    pub(super) fn timed_out(&self) -> u64 {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// Ends the bodies that have taken longer than [`BodySettings::timeout`].
    pub(super) fn expire(&self, now: Instant) {
        for core in &self.cores {
            while self
                .end_oldest(core, TIMED_OUT, |body| now.duration_since(body.since) >= self.settings.timeout)
            {
            }
        }
    }

    /// Ends the oldest body of one core; `false` if there is none.
    fn displace_on(&self, core: usize) -> bool {
        self.cores.get(core).is_some_and(|core| self.end_oldest(core, DISPLACED, |_| true))
    }

    /// Ends the oldest body that has bytes, of all cores; `false` if there is none.
    fn displace(&self) -> bool {
        let oldest = self.cores.iter().filter_map(|core| Some((core.lock().oldest_buffered()?, core)));
        let Some(((since, id), core)) = oldest.min_by_key(|((since, _), _)| *since) else { return false };
        tracing::debug!(age = ?since.elapsed(), "unfinished request body gives way");
        // It may have been finished since, which frees its bytes as well.
        self.end(core, id, DISPLACED);
        true
    }

    fn end_oldest(
        &self,
        core: &Mutex<BodyList>,
        reason: u8,
        applies: impl FnOnce(&ListedBody) -> bool,
    ) -> bool {
        let oldest = {
            let listed = core.lock();
            listed.bodies.iter().next().filter(|(_, body)| applies(body)).map(|(id, _)| *id)
        };
        oldest.is_some_and(|id| {
            self.end(core, id, reason);
            true
        })
    }

    fn end(&self, core: &Mutex<BodyList>, id: u64, reason: u8) {
        let Some(body) = core.lock().bodies.remove(&id) else { return };
        self.bytes.fetch_sub(body.bytes, Ordering::Relaxed);
        let count = if reason == TIMED_OUT { &self.timed_out } else { &self.displaced };
        count.fetch_add(1, Ordering::Relaxed);
        body.end.reason.store(reason, Ordering::Release);
        body.end.waker.wake();
    }

    fn list(&self, core: usize) -> Option<Unfinished<'_>> {
        let core = self.cores.get(core)?;
        let end = Arc::<BodyEnd>::default();
        let mut listed = core.lock();
        let id = listed.next_id;
        listed.next_id += 1;
        let body = ListedBody { since: Instant::now(), bytes: 0, end: Arc::clone(&end) };
        listed.bodies.insert(id, body);
        drop(listed);
        Some(Unfinished { bodies: self, core, id, end })
    }
}

impl BodyList {
    fn oldest_buffered(&self) -> Option<(Instant, u64)> {
        let buffered = self.bodies.iter().find(|(_, body)| body.bytes > 0);
        buffered.map(|(id, body)| (body.since, *id))
    }
}

/// A body on the list, for as long as it is awaited.
struct Unfinished<'a> {
    bodies: &'a UnfinishedBodies,
    core: &'a Mutex<BodyList>,
    id: u64,
    end: Arc<BodyEnd>,
}

impl Unfinished<'_> {
    /// Accounts for `bytes` buffered so far. Other bodies give way, or this one, if that is too much.
    fn account(&self, bytes: usize) {
        {
            let mut listed = self.core.lock();
            let Some(body) = listed.bodies.get_mut(&self.id) else { return };
            let more = bytes.saturating_sub(body.bytes);
            body.bytes += more;
            self.bodies.bytes.fetch_add(more, Ordering::Relaxed);
        }
        let max = self.bodies.settings.max_unfinished_bytes;
        while self.bodies.bytes.load(Ordering::Relaxed) > max && self.bodies.displace() {}
    }

    /// Why the wait has ended, or `None`, and then `cx` is woken when it ends.
    fn poll_end(&self, cx: &Context<'_>) -> Option<BodyError> {
        self.end.waker.register(cx.waker());
        match self.end.reason.load(Ordering::Acquire) {
            WAITING => None,
            TIMED_OUT => Some(BodyError::TimedOut),
            _ => Some(BodyError::Displaced),
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(body) = self.core.lock().bodies.remove(&self.id) {
            self.bodies.bytes.fetch_sub(body.bytes, Ordering::Relaxed);
        }
    }
}

/// Requests in flight on one core.
#[derive(Debug)]
pub(super) struct Admission {
    bodies: Arc<UnfinishedBodies>,
    core: usize,
    in_flight: AtomicUsize,
    max_in_flight: usize,
}

/// Counts a request from its headers to its answer.
#[derive(Debug)]
pub(super) struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Admits at most `max_in_flight` requests at a time to `core`.
    pub(super) const fn new(bodies: Arc<UnfinishedBodies>, core: usize, max_in_flight: usize) -> Self {
        Self { bodies, core, in_flight: AtomicUsize::new(0), max_in_flight }
    }

    /// Admits to the core of this index; its bodies count among `bodies`.
    pub(super) fn on_core(self, core: usize, bodies: Arc<UnfinishedBodies>) -> Self {
        Self { bodies, core, ..self }
    }

    /// Admits a request whose headers have arrived. At the bound, the oldest request whose body is unfinished
    /// gives way.
    ///
    /// # Errors
    /// [`Overloaded`] if every request in flight has arrived in full.
    pub(super) fn admit(&self) -> Result<InFlight<'_>, Overloaded> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let admitted = InFlight(&self.in_flight);
        if before >= self.max_in_flight && !self.bodies.displace_on(self.core) {
            return Err(Overloaded);
        }
        Ok(admitted)
    }

    /// Receives `body`, of at most `max` bytes. `fits` is asked after each chunk whether the bytes received so
    /// far can belong to a body that is small enough.
    ///
    /// # Errors
    /// [`BodyError`]
    pub(super) async fn receive<B>(
        &self,
        body: &mut B,
        max: usize,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Result<Bytes, BodyError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        if body.size_hint().lower() > max as u64 {
            return Err(BodyError::TooLarge(max));
        }
        let mut received = Received::default();
        let mut unfinished = None;
        while !body.is_end_stream() {
            let next = poll_fn(|cx| {
                if let Some(error) =
                    unfinished.as_ref().and_then(|waiting: &Unfinished<'_>| waiting.poll_end(cx))
                {
                    return Poll::Ready(Err(error));
                }
                if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                    return Poll::Ready(Ok(frame));
                }
                if unfinished.is_none() {
                    unfinished = self.bodies.list(self.core);
                }
                let Some(waiting) = &unfinished else { return Poll::Pending };
                waiting.account(received.detach());
                waiting.poll_end(cx).map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
            });
            let Some(frame) = next.await? else { break };
            let frame = frame.map_err(|error| {
                tracing::debug!(error = %error.into(), "request body cannot be read");
                BodyError::Unreadable
            })?;
            // Trailers are the end of a body.
            let Ok(data) = frame.into_data() else { break };
            received.push(data);
            if received.as_slice().len() > max || !fits(received.as_slice()) {
                return Err(BodyError::TooLarge(max));
            }
        }
        Ok(received.into_bytes())
    }
}

/// The part of a body that has arrived.
enum Received {
    /// One chunk, where the connection read it.
    Chunk(Bytes),
    /// Several, or one that was waited on.
    Buffer(BytesMut),
}

impl Default for Received {
    fn default() -> Self {
        Self::Chunk(Bytes::new())
    }
}

impl Received {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Buffer(buffer) => buffer,
        }
    }

    fn push(&mut self, data: Bytes) {
        match self {
            Self::Chunk(chunk) if chunk.is_empty() => *chunk = data,
            Self::Chunk(chunk) => {
                let mut buffer = BytesMut::with_capacity(chunk.len() + data.len());
                buffer.extend_from_slice(chunk);
                buffer.extend_from_slice(&data);
                *self = Self::Buffer(buffer);
            }
            Self::Buffer(buffer) => buffer.extend_from_slice(&data),
        }
    }

    /// Moves the bytes out of the connection's read buffer, which a small chunk would keep alive as a whole.
    /// Returns the bytes allocated.
    fn detach(&mut self) -> usize {
        match self {
            Self::Chunk(chunk) if chunk.is_empty() => 0,
            Self::Chunk(chunk) => {
                let buffer = BytesMut::from(&chunk[..]);
                let capacity = buffer.capacity();
                *self = Self::Buffer(buffer);
                capacity
            }
            Self::Buffer(buffer) => buffer.capacity(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Buffer(buffer) => buffer.freeze(),
        }
    }
}

#[cfg(test)]
mod tests;
