//! Log writer: a thread that writes lines to stderr, or to another output, from a bounded queue.
//!
//! A line is dropped and counted if the queue is full. So logging never waits for the reader of stderr or for a disk,
//! and a peer that causes log lines cannot stall the service.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

use crate::clock::{Clock as _, SystemClock};
use crate::engine::Timestamp;
use crate::supervisor;

/// Bounds of the queue of the process' own log.
pub(super) const LOG_BOUNDS: QueueBounds = QueueBounds { lines: 8_192, bytes: 4 << 20 };
/// Upper bound on writing the last lines at exit.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two warnings about lines that were dropped.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

enum Message {
    Line(Vec<u8>),
    /// Answered when every line before it is written.
    Flush(SyncSender<()>),
}

/// Failure of an output that has a buffer of its own.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct LostLines {
    /// Lines that are lost. Others wait in the buffer.
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl LostLines {
    /// Lines that a failure costs: one, unless the output says otherwise.
    pub(super) fn count(error: &io::Error) -> u64 {
        error.get_ref().and_then(|error| error.downcast_ref::<Self>()).map_or(1, |lost| lost.lines)
    }
}

impl From<LostLines> for io::Error {
    fn from(lost: LostLines) -> Self {
        Self::new(lost.error.kind(), lost)
    }
}

/// Upper bounds on the lines that are queued.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueBounds {
    /// Number of lines.
    pub(super) lines: usize,
    /// Bytes of lines.
    pub(super) bytes: usize,
}

/// Queues lines. Clones share the queue.
#[derive(Clone)]
pub struct LogQueue {
    messages: SyncSender<Message>,
    counts: Arc<Counts>,
}

/// Sizes of the queue, and the number of lines that were not written.
#[derive(Debug, Default)]
struct Counts {
    bounds: QueueBounds,
    lines: AtomicUsize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Counts {
    fn add(&self, line: &[u8]) -> bool {
        let lines = self.lines.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        lines < self.bounds.lines && bytes.saturating_add(line.len()) <= self.bounds.bytes
    }

    fn remove(&self, line: &[u8]) {
        self.lines.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
    }

    fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn is_half_empty(&self) -> bool {
        self.lines.load(Ordering::Relaxed) <= self.bounds.lines / 2
            && self.bytes.load(Ordering::Relaxed) <= self.bounds.bytes / 2
    }
}

/// The thread behind the queue. Dropping it waits up to a second for the lines that are queued.
pub struct LogWriter {
    queue: LogQueue,
    ended: Option<oneshot::Receiver<()>>,
}

impl LogWriter {
    /// Starts the thread, which writes the log called `name` to `out` and flushes it whenever the queue is empty.
    ///
    /// # Errors
    /// Error of the operating system if the thread cannot be started.
    pub(super) fn start(
        name: &'static str,
        out: impl Write + Send + 'static,
        bounds: QueueBounds,
    ) -> io::Result<Self> {
        // One more than the bound on lines, for the message at exit.
        let (messages, queued) = mpsc::sync_channel(bounds.lines + 1);
        let counts = Arc::new(Counts { bounds, ..Counts::default() });
        let queue = LogQueue { messages, counts };
        let counts = Arc::clone(&queue.counts);
        let (done, ended) = oneshot::channel();
        thread::Builder::new().name("tollgate-log".to_owned()).spawn(move || {
            write(name, &queued, &counts, out);
            drop(done);
        })?;
        Ok(Self { queue, ended: Some(ended) })
    }

    /// The queue of the lines.
    pub fn queue(&self) -> LogQueue {
        self.queue.clone()
    }

    /// Counter of lines that were not written, because the queue was full or stderr failed.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let counts = Arc::clone(&self.queue.counts);
        move || counts.dropped()
    }

    /// Waits for the end of the thread, which is unexpected: it writes for as long as the process lives.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        supervisor::wait_for_drop(self.ended.take())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.queue.messages.try_send(Message::Flush(done)).is_ok() {
            flushed.recv_timeout(FLUSH_TIMEOUT).unwrap_or_default();
        }
    }
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").finish_non_exhaustive()
    }
}

fn write(name: &'static str, queued: &Receiver<Message>, counts: &Counts, mut out: impl Write) {
    let mut warning = Warning::default();
    let mut failure = None;
    let mut next = queued.recv().ok();
    while let Some(message) = next {
        let mut outcome = Ok(());
        let mut flushed = None;
        match message {
            Message::Line(line) => {
                outcome = out.write_all(&line);
                counts.remove(&line);
            }
            Message::Flush(done) => flushed = Some(done),
        }
        next = queued.try_recv().ok();
        if next.is_none() || flushed.is_some() {
            let flushed = out.flush();
            outcome = outcome.and(flushed);
        }
        if let Err(error) = outcome {
            counts.drop_lines(LostLines::count(&error));
            failure = Some(error);
        }
        if let Some(done) = flushed {
            done.try_send(()).unwrap_or_default();
        }
        if counts.is_half_empty()
            && let Some(lines) = warning.due(counts.dropped(), || SystemClock.now())
        {
            let error =
                failure.take().map_or_else(|| "the queue was full".to_owned(), |error| error.to_string());
            tracing::warn!(log = name, lines, error, "log lines dropped");
        }
        next = next.or_else(|| queued.recv().ok());
    }
}

/// Warnings about lines that were dropped.
#[derive(Default)]
struct Warning {
    /// Lines that were reported.
    reported: u64,
    last: Option<Timestamp>,
}

impl Warning {
    /// Lines to report, if any were dropped since the last warning and that is long enough ago.
    fn due(&mut self, dropped: u64, now: impl Fn() -> Timestamp) -> Option<u64> {
        if dropped <= self.reported {
            return None;
        }
        let now = now();
        if self.last.is_some_and(|last| now.since(last) < WARNING_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(dropped - std::mem::replace(&mut self.reported, dropped))
    }
}

impl LogQueue {
    /// Queues a whole line with its end, or drops it.
    pub fn push(&self, line: Vec<u8>) {
        let fits = self.counts.add(&line);
        if fits {
            match self.messages.try_send(Message::Line(line)) {
                Ok(()) => return,
                Err(
                    TrySendError::Full(Message::Line(line)) | TrySendError::Disconnected(Message::Line(line)),
                ) => {
                    self.counts.remove(&line);
                }
                Err(_) => {}
            }
        } else {
            self.counts.remove(&line);
        }
        self.counts.drop_lines(1);
    }

    /// Counts a line that was dropped elsewhere.
    pub fn drop_line(&self) {
        self.counts.drop_lines(1);
    }
}

impl std::fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogQueue").finish_non_exhaustive()
    }
}

impl Write for LogQueue {
    /// Queues a whole line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for LogQueue {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    /// Output that blocks until it may write.
    struct Stuck(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().ok();
            self.1.send(line.to_vec()).ok();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted_and_no_caller_waits() {
        let (go, stuck) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let writer = LogWriter::start("log", Stuck(stuck, written), LOG_BOUNDS).unwrap();
        let line = vec![b'x'; LOG_BOUNDS.bytes / 64];
        for _ in 0..200 {
            writer.queue().write_all(&line).unwrap();
        }
        // The writer may hold one line already.
        let dropped = writer.dropped()();
        assert!((135..=136).contains(&dropped), "{dropped}");
        drop(go);
        drop(writer);
        assert_eq!(lines.iter().count() as u64, 200 - dropped);
    }

    #[test]
    fn dropped_lines_are_reported_once_a_minute() {
        let mut warning = Warning::default();
        let found = [(0, 0), (1, 3), (2, 5), (60, 5), (61, 7), (200, 7)]
            .map(|(secs, dropped)| warning.due(dropped, || Timestamp::from_secs(1_000 + secs)));
        assert_eq!(found, [None, Some(3), None, None, Some(4), None]);
    }

    #[test]
    fn the_number_of_short_lines_is_bounded_too() {
        let (_go, stuck) = mpsc::channel();
        let (written, _lines) = mpsc::channel();
        let writer = LogWriter::start("log", Stuck(stuck, written), LOG_BOUNDS).unwrap();
        for _ in 0..LOG_BOUNDS.lines + 100 {
            writer.queue().write_all(b"x").unwrap();
        }
        assert!(writer.dropped()() >= 99);
    }
}
