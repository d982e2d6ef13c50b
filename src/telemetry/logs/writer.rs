//! Log writer: a thread that writes lines to stderr from a bounded queue.
//!
//! A line is dropped and counted if the queue is full. So logging never waits for the reader of stderr, and a
//! peer that causes log lines cannot stall the service.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

/// Upper bound on queued lines.
const MAX_LINES: usize = 8_192;
/// Upper bound on the bytes of queued lines.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Upper bound on writing the last lines at exit.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Answered when every line before it is written.
    Flush(SyncSender<()>),
}

/// Queues lines. Clones share the queue.
#[derive(Clone)]
pub(super) struct LogQueue {
    messages: SyncSender<Message>,
    counts: Arc<Counts>,
}

/// Sizes of the queue, and the number of lines that were not written.
#[derive(Debug, Default)]
struct Counts {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Counts {
    fn add(&self, line: &[u8]) -> bool {
        let lines = self.lines.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        lines < MAX_LINES && bytes.saturating_add(line.len()) <= MAX_BYTES
    }

    fn remove(&self, line: &[u8]) {
        self.lines.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn is_half_empty(&self) -> bool {
        self.lines.load(Ordering::Relaxed) <= MAX_LINES / 2
            && self.bytes.load(Ordering::Relaxed) <= MAX_BYTES / 2
    }
}

/// The thread behind the queue. Dropping it waits up to a second for the lines that are queued.
pub struct LogWriter {
    queue: LogQueue,
    ended: Option<oneshot::Receiver<()>>,
}

impl LogWriter {
    /// Starts the thread, which writes to `out`.
    ///
    /// # Errors
    /// Error of the operating system if the thread cannot be started.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        // One more than the bound on lines, for the message at exit.
        let (messages, queued) = mpsc::sync_channel(MAX_LINES + 1);
        let queue = LogQueue { messages, counts: Arc::default() };
        let counts = Arc::clone(&queue.counts);
        let (done, ended) = oneshot::channel();
        thread::Builder::new().name("tollgate-log".to_owned()).spawn(move || {
            write(&queued, &counts, out);
            drop(done);
        })?;
        Ok(Self { queue, ended: Some(ended) })
    }

    pub(super) fn queue(&self) -> LogQueue {
        self.queue.clone()
    }

    /// Counter of lines that were not written, because the queue was full or stderr failed.
    pub fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let counts = Arc::clone(&self.queue.counts);
        move || counts.dropped()
    }

    /// Waits for the end of the thread, which is unexpected: it writes for as long as the process lives.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.ended.take();
        async move {
            match ended {
                Some(ended) => ended.await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        }
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

fn write(queued: &Receiver<Message>, counts: &Counts, mut out: impl Write) {
    let mut reported = 0;
    while let Ok(message) = queued.recv() {
        match message {
            Message::Line(line) => {
                if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                    counts.drop_one();
                }
                counts.remove(&line);
            }
            Message::Flush(done) => done.try_send(()).unwrap_or_default(),
        }
        let dropped = counts.dropped();
        if dropped > reported && counts.is_half_empty() {
            tracing::warn!(lines = dropped - reported, "log lines dropped");
            reported = dropped;
        }
    }
}

impl Write for LogQueue {
    /// Queues a whole line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let fits = self.counts.add(line);
        if !fits || self.messages.try_send(Message::Line(line.to_vec())).is_err() {
            self.counts.remove(line);
            self.counts.drop_one();
        }
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
    fn lines_past_the_bound_are_dropped_and_counted_and_nobody_waits() {
        let (go, stuck) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let writer = LogWriter::start(Stuck(stuck, written)).unwrap();
        let line = vec![b'x'; MAX_BYTES / 64];
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
    fn the_number_of_short_lines_is_bounded_too() {
        let (_go, stuck) = mpsc::channel();
        let (written, _lines) = mpsc::channel();
        let writer = LogWriter::start(Stuck(stuck, written)).unwrap();
        for _ in 0..MAX_LINES + 100 {
            writer.queue().write_all(b"x").unwrap();
        }
        assert!(writer.dropped()() >= 99);
    }
}
