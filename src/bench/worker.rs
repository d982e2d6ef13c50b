//! A sending thread: one runtime, its connections and its counts. Requests share nothing with other threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, interval, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::connection::{Connection, NoPermit, StreamPermit};
use super::keys::Keys;
use super::options::{BenchArgs, Loop};
use super::pacer::Pacer;
use super::plan::Plan;
use super::schedule::Schedule;
use super::summary::{CallOutcome, Failure, Summary};
use super::window::Window;

/// Interval between two progress reports of a thread.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Upper bound on connections that a thread opens concurrently.
const CONNECTING: usize = 32;
/// Number of overdue requests that are sent before answers are read again.
const BURST: u32 = 64;

/// Progress of a thread while it runs.
#[derive(Debug, Default)]
pub(super) struct ThreadProgress {
    /// Requests that have ended after the warm-up.
    pub(super) requests: AtomicU64,
    /// Requests that have ended after the warm-up without a decision.
    pub(super) errors: AtomicU64,
}

/// Input of a thread.
pub(super) struct Job {
    /// The options of the run.
    pub(super) args: Arc<BenchArgs>,
    /// The requests to send.
    pub(super) plan: Plan,
    /// Index of the thread.
    pub(super) index: usize,
    /// Receives the result of connecting.
    pub(super) ready: oneshot::Sender<anyhow::Result<()>>,
    /// Signals the start.
    pub(super) begin: oneshot::Receiver<Instant>,
    /// Ends the run early.
    pub(super) stop: CancellationToken,
    /// Progress that the thread reports.
    pub(super) progress: Arc<CachePadded<ThreadProgress>>,
}

/// Result of a thread.
#[derive(Debug)]
pub(super) struct ThreadResult {
    /// Counted outcomes.
    pub(super) summary: Summary,
    /// Measured time: shorter than requested if the run was stopped.
    pub(super) length: Duration,
    /// Busy part of that time.
    pub(super) busy: Duration,
}

struct Worker {
    summary: RefCell<Summary>,
    /// Requests and their keys.
    requests: RefCell<(Plan, Keys)>,
    timeout: Duration,
    /// The measured window.
    window: Cell<Window>,
    in_flight: Cell<usize>,
    /// Notified when a request has ended.
    ended: Notify,
}

/// Runs the job. Must run in a `LocalSet`. `None` if the run was cancelled before its start.
pub(super) async fn run(job: Job) -> anyhow::Result<Option<ThreadResult>> {
    let Job { args, plan, index, ready, begin, stop, progress } = job;
    let threads = args.threads();
    let connected = tokio::select! {
        connected = connect(&args, index) => connected,
        () = stop.cancelled() => return Ok(None),
    };
    let connections = match connected {
        Ok(connections) => connections,
        Err(error) => {
            // The receiver is gone if another thread failed first.
            drop(ready.send(Err(error)));
            return Ok(None);
        }
    };
    drop(ready.send(Ok(())));
    let Ok(begin) = begin.await else { return Ok(None) };
    let keys = Keys::new(args.keys, args.distribution, seed_of(args.seed, index));
    let worker = Rc::new(Worker {
        summary: RefCell::new(Summary::new()),
        requests: RefCell::new((plan, keys)),
        timeout: args.timeout,
        window: Cell::new(Window::new(begin + args.warmup, args.duration)),
        in_flight: Cell::new(0),
        ended: Notify::new(),
    });
    spawn_local(Rc::clone(&worker).publish(progress));
    let (length, busy) = match args.loop_kind() {
        Loop::Closed { concurrency } => {
            let mine = (index..args.connections()).step_by(threads);
            for (number, connection) in mine.zip(&connections) {
                for _ in (number..concurrency).step_by(args.connections()) {
                    spawn_local(Rc::clone(&worker).closed_loop(Rc::clone(connection)));
                }
            }
            worker.measure(&stop).await
        }
        Loop::Open { per_second, max_in_flight } => {
            let schedule = Schedule::new(per_second, index, threads, args.warmup + args.duration);
            let most = (index..max_in_flight).step_by(threads).len();
            let pace = worker.open_loop(schedule, begin, &connections, most);
            let pace = async {
                tokio::select! { paced = pace => paced, () = stop.cancelled() => Ok(()) }
            };
            let (measured, paced) = tokio::join!(worker.measure(&stop), pace);
            paced?;
            measured
        }
    };
    worker.finish().await;
    let mut summary = worker.summary.replace(Summary::new());
    summary.lost_connections = connections.iter().map(|connection| connection.lost()).sum();
    Ok(Some(ThreadResult { summary, length, busy }))
}

/// Opens the connections of this thread.
async fn connect(args: &BenchArgs, index: usize) -> anyhow::Result<Vec<Rc<Connection>>> {
    let tls = args.tls.client("")?;
    let open = async |number| {
        let connection = Connection::open(args.address.clone(), tls.clone(), args.timeout).await?;
        // Probe once: all connections lead to the same service.
        if number == 0 {
            connection.probe(args.timeout).await?;
        }
        anyhow::Ok(connection)
    };
    let mine = (index..args.connections()).step_by(args.threads());
    stream::iter(mine).map(open).buffer_unordered(CONNECTING).try_collect().await
}

/// Seed of a thread: different for each thread, and reproducible.
fn seed_of(seed: u64, index: usize) -> u64 {
    seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Worker {
    /// Waits for the end of the window. Returns the measured time and the busy part of it.
    async fn measure(&self, stop: &CancellationToken) -> (Duration, Duration) {
        let busy = || Handle::current().metrics().worker_total_busy_duration(0);
        let end = async |moment| {
            tokio::select! {
                () = sleep_until(moment) => {}
                () = stop.cancelled() => {}
            }
        };
        let window = self.window.get();
        end(window.from()).await;
        let busy_before = busy();
        end(window.until()).await;
        let window = window.cut(Instant::now());
        self.window.set(window);
        (window.length(), busy().saturating_sub(busy_before))
    }

    /// Waits for requests in flight, for at most one timeout.
    async fn finish(&self) {
        while self.in_flight.get() > 0 {
            self.ended.notified().await;
        }
    }

    /// Closed loop: sends the next request when the last one has ended.
    async fn closed_loop(self: Rc<Self>, connection: Rc<Connection>) {
        loop {
            let permit = self.acquire_permit(&connection).await;
            let now = Instant::now();
            if self.window.get().is_over(now) {
                return;
            }
            self.in_flight.set(self.in_flight.get() + 1);
            self.ask(permit, now).await;
        }
    }

    async fn acquire_permit(&self, connection: &Rc<Connection>) -> StreamPermit {
        loop {
            match connection.try_acquire() {
                Ok(permit) => return permit,
                Err(NoPermit::Full { most }) => self.record_wait(Instant::now(), most),
                Err(NoPermit::Down) => {}
            }
            connection.wait_for_permit().await;
        }
    }

    /// Open loop: sends requests when they are due.
    async fn open_loop(
        self: &Rc<Self>,
        mut schedule: Schedule,
        begin: Instant,
        connections: &[Rc<Connection>],
        most: usize,
    ) -> anyhow::Result<()> {
        let pacer = Pacer::new()?;
        let mut turns = connections.iter().cycle();
        let mut burst = 0;
        while let Some(due) = schedule.peek() {
            let due = begin + due;
            let late = Instant::now().checked_duration_since(due);
            burst += 1;
            if late.is_none() {
                pacer.wait_until(due).await?;
                burst = 0;
            } else if burst % BURST == 0 {
                yield_now().await;
            }
            schedule.advance();
            let permit = || any_permit(turns.by_ref().take(connections.len()));
            match self.acquire_before_deadline(due, most, permit).await {
                Some(permit) => {
                    self.in_flight.set(self.in_flight.get() + 1);
                    let this = Rc::clone(self);
                    spawn_local(async move {
                        if this.window.get().counts(due) {
                            this.summary.borrow_mut().lag.record(due.elapsed());
                        }
                        this.ask(permit, due).await;
                    });
                }
                None if self.window.get().counts(due) => self.summary.borrow_mut().unsent += 1,
                None => {}
            }
        }
        Ok(())
    }

    /// Permit for a request that was due at `due`, now or when another request has ended. `None` if too many
    /// are in flight, if no connection is up, or after the request's deadline.
    async fn acquire_before_deadline(
        &self,
        due: Instant,
        most: usize,
        mut permit: impl FnMut() -> Result<StreamPermit, NoPermit>,
    ) -> Option<StreamPermit> {
        let given_up = due + self.timeout;
        while self.in_flight.get() < most && Instant::now() <= given_up {
            match permit() {
                Ok(permit) => return Some(permit),
                Err(NoPermit::Down) => return None,
                Err(NoPermit::Full { most: bound }) => self.record_wait(due, bound),
            }
            // The loop condition checks the deadline.
            timeout_at(given_up, self.ended.notified()).await.ok();
        }
        None
    }

    /// Records that a request that was due at `due` waits for a permit.
    fn record_wait(&self, due: Instant, most: usize) {
        if self.window.get().counts(due) {
            self.summary.borrow_mut().record_wait(most);
        }
    }

    /// Sends one request and counts its outcome. `since` is the start of its latency. The caller has counted it as in
    /// flight.
    async fn ask(&self, permit: StreamPermit, since: Instant) {
        let request = {
            let (plan, keys) = &mut *self.requests.borrow_mut();
            plan.next(keys)
        };
        let late = |_| {
            let message = format!("no answer within {:?}", self.timeout);
            CallOutcome::Failed(Failure::new(Code::DeadlineExceeded, message))
        };
        let outcome = timeout(self.timeout, permit.ask(request)).await.unwrap_or_else(late);
        self.summary.borrow_mut().end(self.window.get(), since, Instant::now(), outcome);
        self.in_flight.set(self.in_flight.get() - 1);
        self.ended.notify_one();
    }

    /// Reports progress at most once per interval.
    async fn publish(self: Rc<Self>, progress: Arc<CachePadded<ThreadProgress>>) {
        let mut ticks = interval(PROGRESS_INTERVAL);
        loop {
            ticks.tick().await;
            let summary = self.summary.borrow();
            progress.requests.store(summary.requests(), Ordering::Relaxed);
            progress.errors.store(summary.errors(), Ordering::Relaxed);
        }
    }
}

/// Permit of the first connection that has one.
fn any_permit<'a>(connections: impl Iterator<Item = &'a Rc<Connection>>) -> Result<StreamPermit, NoPermit> {
    let mut busy = NoPermit::Down;
    for connection in connections {
        match connection.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(full @ NoPermit::Full { .. }) => busy = full,
            Err(NoPermit::Down) => {}
        }
    }
    Err(busy)
}
