//! Progress on stderr.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::options::BenchArgs;
use super::worker::ThreadProgress;

/// Progress lines on stderr.
pub(super) struct Progress {
    threads: Vec<Arc<CachePadded<ThreadProgress>>>,
    warmup: Duration,
    whole: Duration,
    requests_before: u64,
    is_terminal: bool,
    is_wanted: bool,
}

impl Progress {
    /// Interval between two lines.
    pub(super) const EVERY: Duration = Duration::from_secs(1);

    /// Progress of each thread.
    pub(super) fn new(args: &BenchArgs, threads: Vec<Arc<CachePadded<ThreadProgress>>>) -> Self {
        let is_terminal = stderr().is_terminal();
        Self {
            threads,
            warmup: args.warmup,
            whole: args.warmup + args.duration,
            requests_before: 0,
            is_terminal,
            is_wanted: args.progress || is_terminal,
        }
    }

    /// Shows for how long the threads have been connecting.
    pub(super) fn show_connecting(&self, elapsed: Duration) {
        self.write_line(&format!("connecting for {:.0} s", elapsed.as_secs_f64()));
    }

    /// Shows the progress at this time after the start. Must be called every [`Self::EVERY`].
    pub(super) fn show(&mut self, elapsed: Duration) {
        let sum =
            |count: fn(&ThreadProgress) -> u64| self.threads.iter().map(|thread| count(thread)).sum::<u64>();
        let requests = sum(|progress| progress.requests.load(Ordering::Relaxed));
        let errors = sum(|progress| progress.errors.load(Ordering::Relaxed));
        let lately = requests.saturating_sub(self.requests_before);
        self.requests_before = requests;
        let what = if elapsed < self.warmup {
            "warming up".to_owned()
        } else {
            format!("{lately} requests in the last second, {errors} errors so far")
        };
        self.write_line(&format!(
            "{:.0} s of {:.0} s: {what}",
            elapsed.as_secs_f64(),
            self.whole.as_secs_f64()
        ));
    }

    /// Ends the line, so that the report starts on a new one.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write_line(&self, line: &str) {
        if self.is_wanted {
            self.write(&if self.is_terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
        }
    }

    fn write(&self, text: &str) {
        // A closed stderr does not stop the load.
        let mut stderr = stderr().lock();
        drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
    }
}
