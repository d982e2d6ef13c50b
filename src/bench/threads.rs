//! Threads of a run: their start, the common begin, and their results.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam_utils::CachePadded;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::options::BenchArgs;
use super::plan::Plan;
use super::progress::Progress;
use super::report::Measured;
use super::summary::Summary;
use super::worker::{self, Job, ThreadProgress, ThreadResult};

/// Handle of a sending thread.
struct BenchThread {
    ready: oneshot::Receiver<anyhow::Result<()>>,
    begin: oneshot::Sender<Instant>,
    result: oneshot::Receiver<anyhow::Result<Option<ThreadResult>>>,
    progress: Arc<CachePadded<ThreadProgress>>,
}

/// Sending threads of a run.
pub(super) struct SendingThreads {
    threads: Vec<BenchThread>,
    stop: CancellationToken,
    signals: Signals,
}

/// Signals that end a run early: SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Thread that is connected and waits for the start.
struct ConnectedThread {
    begin: oneshot::Sender<Instant>,
    result: oneshot::Receiver<anyhow::Result<Option<ThreadResult>>>,
}

impl SendingThreads {
    /// Starts the threads, which connect. From here on a signal ends the run with a report.
    pub(super) fn start(args: &Arc<BenchArgs>, plan: &Plan) -> anyhow::Result<Self> {
        let signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        let stop = CancellationToken::new();
        let start = |index| {
            let (send_ready, ready) = oneshot::channel();
            let (send_begin, begin) = oneshot::channel();
            let (send_result, result) = oneshot::channel();
            let progress = Arc::new(CachePadded::new(ThreadProgress::default()));
            let job = Job {
                args: Arc::clone(args),
                plan: plan.clone(),
                index,
                ready: send_ready,
                begin,
                stop: stop.clone(),
                progress: Arc::clone(&progress),
            };
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("tollgate-bench-{index}")).spawn(move || {
                let result = LocalSet::new().block_on(&runtime, worker::run(job));
                // The receiver may have been dropped.
                drop(send_result.send(result));
            })?;
            Ok(BenchThread { ready, begin: send_begin, result, progress })
        };
        let threads = (0..args.threads()).map(start).collect::<anyhow::Result<_>>()?;
        Ok(Self { threads, stop, signals })
    }

    /// Runs the load until its end, or until SIGINT or SIGTERM.
    pub(super) async fn work(self, args: &BenchArgs) -> anyhow::Result<Measured> {
        let Self { threads, stop, mut signals } = self;
        let counters = threads.iter().map(|thread| Arc::clone(&thread.progress)).collect();
        let mut progress = Progress::new(args, counters);
        let connect = connect(threads);
        tokio::pin!(connect);
        let begun = Instant::now();
        let mut ticks = every_second(begun);
        let connected = loop {
            tokio::select! {
                connected = &mut connect => break connected,
                tick = ticks.tick() => progress.show_connecting(tick - begun),
                () = signals.any() => {
                    stop.cancel();
                    progress.clear();
                    return Ok(join(Vec::new(), true));
                }
            }
        };
        progress.clear();
        let begun = Instant::now();
        let work = run_all(connected?, begun);
        tokio::pin!(work);
        let mut ticks = every_second(begun);
        let results = loop {
            tokio::select! {
                results = &mut work => break results,
                tick = ticks.tick() => progress.show(tick - begun),
                () = signals.any() => {
                    if stop.is_cancelled() {
                        bail!("stopped while requests were still in flight");
                    }
                    stop.cancel();
                }
            }
        };
        progress.clear();
        Ok(join(results?, stop.is_cancelled()))
    }
}

impl Signals {
    /// Waits for one of the signals.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

const THREAD_PANICKED: &str = "a sending thread panicked";

/// Waits until every thread is connected.
async fn connect(threads: Vec<BenchThread>) -> anyhow::Result<Vec<ConnectedThread>> {
    let mut connected = Vec::new();
    for BenchThread { ready, begin, result, .. } in threads {
        ready.await.context(THREAD_PANICKED)??;
        connected.push(ConnectedThread { begin, result });
    }
    Ok(connected)
}

/// Starts all threads at once and waits for their results.
async fn run_all(connected: Vec<ConnectedThread>, now: Instant) -> anyhow::Result<Vec<ThreadResult>> {
    let mut ended = Vec::new();
    for ConnectedThread { begin, result } in connected {
        // A thread that has already ended reports its error below.
        begin.send(now).err();
        ended.push(result);
    }
    let mut results = Vec::new();
    for result in ended {
        results.extend(result.await.context(THREAD_PANICKED)??);
    }
    Ok(results)
}

/// Ticks every second from `begun`; missed ticks are skipped.
fn every_second(begun: Instant) -> Interval {
    let mut ticks = interval_at(begun + Progress::EVERY, Progress::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn join(results: Vec<ThreadResult>, stopped_early: bool) -> Measured {
    let length = results.iter().map(|result| result.length).max().unwrap_or_default();
    let busy: Duration = results.iter().map(|result| result.busy).sum();
    let available: Duration = results.iter().map(|result| result.length).sum();
    let busy = if available.is_zero() { 0.0 } else { busy.as_secs_f64() / available.as_secs_f64() };
    let mut summary = Summary::new();
    results.into_iter().for_each(|result| summary.join(result.summary));
    Measured { summary, length, busy: busy.min(1.0), stopped_early }
}
