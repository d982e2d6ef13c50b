//! One server that counts, as one core reaches it: a connection, and the requests that wait for it.
//!
//! While requests are on their way, later ones wait; what waits then goes out together. There is no
//! timer: a request that finds nothing on its way is sent at once. A server that does not answer is
//! waited for a few times. From then on requests are turned away at once, while it is asked now and then
//! whether it is back.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fred::types::{CustomCommand, FromValue, Value};
use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{self, Instant};
use tokio_util::task::AbortOnDropHandle;

use super::batch::{Asks, Batch, Count, Replies, Way};
use super::client::Access;
use super::connection::{Connection, Script};
use super::expiry::{Expiries, Expiry};
use super::{Endpoint, ServerClock};
use crate::store::{Reading, StoreError};

/// Requests that wait. More are turned away: this bounds memory and the time that anybody waits.
const MAX_WAITING: usize = 10_000;
/// What goes out together may cost the server so much at the most, and where it is slow less: it carries
/// out all of it before it answers, and lets others wait meanwhile. A charge by command costs 1.
const MAX_COST: usize = 512;
const MIN_COST: usize = 16;
/// What a charge costs that needs the script.
const SCRIPT_COST: usize = 4;
/// Exchanges in a row without any answer after which nobody waits any more.
const MAX_UNANSWERED: u32 = 3;
/// The pause between questions whether the server is back, in milliseconds; by chance, so that cores
/// and replicas do not all ask at once.
const PROBE_PAUSE_MS: Range<u64> = 100..400;

/// One server.
#[derive(Debug)]
pub(super) struct Shard {
    server: Endpoint,
    connection: Arc<Connection>,
    queue: Arc<Queue>,
    expiries: Arc<Expiries>,
    _worker: AbortOnDropHandle<()>,
}

/// What one server is asked for one request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) asks: Asks,
    /// Where its counters lie in a Cluster, else 0.
    pub(super) slot: u16,
    pub(super) way: Way,
}

/// A request's charges back, and what became of each.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) asks: Asks,
    pub(super) outcomes: Outcomes,
}

/// One for each charge, in order.
pub(super) type Outcomes = SmallVec<[Result<Reading, StoreError>; 2]>;

#[derive(Debug)]
struct Job {
    request: Request,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Job {
    fn cost(&self) -> usize {
        self.request.asks.iter().map(|ask| if ask.needs_script() { SCRIPT_COST } else { 1 }).sum()
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// A lock, since any thread may hold a store. A core's own is only ever taken by that core.
    line: Mutex<Line>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// The server does not answer, and nobody is to wait for it.
    closed: bool,
}

impl Shard {
    /// A server that is connected to from now on, and for as long as this lives. Belongs to the runtime
    /// it is made in. Counters that turn out to be kept by another server are sent `elsewhere`.
    pub(super) fn connect(
        server: Endpoint,
        access: &Arc<Access>,
        elsewhere: mpsc::UnboundedSender<Expiry>,
    ) -> Self {
        let connection = Arc::new(Connection::connect(&server, access));
        let expiries = Arc::new(Expiries::new(Arc::clone(&connection), elsewhere));
        let queue = Arc::new(Queue::default());
        let worker = Worker {
            connection: Arc::clone(&connection),
            queue: Arc::clone(&queue),
            expiries: Arc::clone(&expiries),
            script: Script::new(include_str!("charge.lua")),
            clock: access.settings.clock,
            call_timeout: access.settings.call_timeout,
            max_cost: MAX_COST,
            unanswered: 0,
        };
        let worker = AbortOnDropHandle::new(tokio::spawn(worker.run()));
        Self { server, connection, queue, expiries, _worker: worker }
    }

    /// Where it listens.
    pub(super) const fn server(&self) -> &Endpoint {
        &self.server
    }

    /// See [`Connection::ready`].
    pub(super) async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        self.connection.ready(patience).await
    }

    /// Whether it answers.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.connection.ping().await
    }

    /// See [`Connection::command`].
    pub(super) async fn command<T: FromValue>(
        &self,
        command: CustomCommand,
        arguments: Vec<Value>,
    ) -> Result<T, StoreError> {
        self.connection.command(command, arguments).await
    }

    /// Gives a counter that may be new its time to live.
    pub(super) fn expire(&self, expiry: Expiry) {
        self.expiries.set_later(expiry);
    }

    /// See [`Expiries::settle`].
    pub(super) async fn settle(&self) {
        self.expiries.settle().await;
    }

    /// Carries out a request. One that is still waiting at `deadline`, or when its caller has gone, is
    /// not sent.
    pub(super) async fn charge(&self, request: Request, deadline: Instant) -> Answer {
        let len = request.asks.len();
        let (answer, wait) = oneshot::channel();
        let turned_away = {
            let mut line = self.queue.line.lock();
            match line.is_shut() {
                Some(cause) => Some((request.asks, cause)),
                None => {
                    line.jobs.push_back(Job { request, deadline, answer });
                    if line.jobs.len() == 1 {
                        self.queue.arrived.notify_one();
                    }
                    None
                }
            }
        };
        if let Some((asks, cause)) = turned_away {
            let error = StoreError::Unreachable(self.connection.about(cause));
            return Answer { asks, outcomes: failing(len, &error) };
        }
        wait.await.unwrap_or_else(|_| {
            let given_up = StoreError::Unanswered(self.connection.about("it is given up"));
            Answer { asks: Asks::new(), outcomes: failing(len, &given_up) }
        })
    }
}

impl Line {
    /// Why nobody may join it, if so.
    fn is_shut(&self) -> Option<&'static str> {
        if self.closed {
            Some("it does not answer, and is asked again soon")
        } else if self.jobs.len() >= MAX_WAITING {
            Some("too many requests wait for it")
        } else {
            None
        }
    }
}

impl Queue {
    /// Waits for requests, and takes those that go out together: one, and more as long as all of them
    /// cost `max_cost` at the most.
    async fn take(&self, jobs: &mut Vec<Job>, max_cost: usize) {
        loop {
            {
                let waiting = &mut self.line.lock().jobs;
                let mut cost = 0;
                let fits = |job: &&Job| {
                    cost += job.cost();
                    cost <= max_cost
                };
                let len = waiting.iter().take_while(fits).count().max(1).min(waiting.len());
                jobs.extend(waiting.drain(..len));
            }
            if !jobs.is_empty() {
                return;
            }
            self.arrived.notified().await;
        }
    }

    /// Turns away everything that waits, and with `closed` everything that comes.
    fn turn_away(&self, closed: bool, error: &StoreError) {
        let jobs = {
            let mut line = self.line.lock();
            line.closed = closed;
            std::mem::take(&mut line.jobs)
        };
        for job in jobs {
            let Job { request, answer, .. } = job;
            let outcomes = failing(request.asks.len(), error);
            // Whoever asked may have gone.
            drop(answer.send(Answer { asks: request.asks, outcomes }));
        }
    }
}

fn failing(len: usize, error: &StoreError) -> Outcomes {
    (0..len).map(|_| Err(error.clone())).collect()
}

/// The task that sends what waits. Nobody waits for it when it has ended.
struct Worker {
    connection: Arc<Connection>,
    queue: Arc<Queue>,
    expiries: Arc<Expiries>,
    script: Script,
    clock: ServerClock,
    call_timeout: Duration,
    /// What goes out together costs so much at the most: less while the server is slow.
    max_cost: usize,
    /// Exchanges in a row in which nothing was answered.
    unanswered: u32,
}

impl Worker {
    async fn run(mut self) {
        let mut jobs = Vec::new();
        loop {
            self.queue.take(&mut jobs, self.max_cost).await;
            let now = Instant::now();
            let overdue = self.unreachable("it took too long until there was time for it");
            let mut batch = Batch::new(self.clock);
            let mut sent = Vec::with_capacity(jobs.len());
            for job in jobs.drain(..) {
                let Job { request, answer, deadline } = job;
                // Nothing is charged for a caller that has gone.
                if answer.is_closed() {
                    continue;
                }
                if deadline <= now {
                    let outcomes = failing(request.asks.len(), &overdue);
                    drop(answer.send(Answer { asks: request.asks, outcomes }));
                    continue;
                }
                batch.add(&request.asks, request.slot, request.way);
                let len = request.asks.len();
                sent.push(Sent { asks: request.asks, len, deadline, answer: Some(answer) });
            }
            let Some(last_deadline) = sent.iter().map(|sent| sent.deadline).max() else { continue };
            self.connection.tried(last_deadline - now).await;
            let begun = Instant::now();
            let replies = self.exchange(&batch, &mut sent).await;
            self.adapt(begun.elapsed());
            self.see_to_new_counters(&batch, &replies);
            self.hand_out(&batch, &replies, sent);
            if is_silent(&replies) {
                self.not_answered().await;
            } else {
                self.unanswered = 0;
            }
        }
    }

    /// Sends the commands of `batch` in their order, and collects what is answered in time. Whose own time
    /// is over before that of the last one is told so at once.
    async fn exchange(&self, batch: &Batch, sent: &mut [Sent]) -> Replies<StoreError> {
        let mut replies = Replies {
            counts: batch.counts.iter().map(|_| None).collect(),
            calls: batch.calls.iter().map(|_| None).collect(),
        };
        // Each command is sent when it is first polled, which is in this order.
        let mut pending = FuturesUnordered::new();
        for (index, Count { key, hits, .. }) in batch.counts.iter().enumerate() {
            let reply = self.connection.count(key.clone(), *hits);
            pending.push(Either::Left(async move { Reply::Count(index, reply.await) }));
        }
        for (index, call) in batch.calls.iter().enumerate() {
            // In a box, so that counts, which are many and have a third of its size, take up their own alone.
            let reply = Box::pin(self.connection.run(&self.script, call));
            pending.push(Either::Right(async move { Reply::Call(index, reply.await) }));
        }
        while let Some(deadline) = sent.iter().filter_map(Sent::waits_until).min() {
            let collect = async {
                while let Some(reply) = pending.next().await {
                    match reply {
                        Reply::Count(index, reply) => put(&mut replies.counts, index, reply),
                        Reply::Call(index, reply) => put(&mut replies.calls, index, reply),
                    }
                }
            };
            if time::timeout_at(deadline, collect).await.is_ok() {
                break;
            }
            let given_up = self.no_answer();
            for late in sent.iter_mut().filter(|sent| sent.deadline <= deadline) {
                late.tell(|asks| failing(asks.len(), &given_up));
            }
        }
        replies
    }

    /// Sends less together to a server that takes long for it: what is answered too late is counted and of
    /// no use to anybody.
    fn adapt(&mut self, took: Duration) {
        self.max_cost = match took * 2 > self.call_timeout {
            true => (self.max_cost / 2).max(MIN_COST),
            false => (self.max_cost + self.max_cost / 8 + 1).min(MAX_COST),
        };
    }

    /// Counters that `INCRBY` made have no time to live yet.
    fn see_to_new_counters(&self, batch: &Batch, replies: &Replies<StoreError>) {
        for (Count { key, hits, secs }, reply) in batch.counts.iter().zip(&replies.counts) {
            if *hits == 0 {
                continue;
            }
            let expiry = || Expiry { key: key.clone(), secs: i64::from(*secs) };
            match reply {
                Some(Ok(after)) if u64::try_from(*after) == Ok(*hits) => self.expiries.set(expiry()),
                None | Some(Err(StoreError::Unanswered(_))) => self.expiries.set_later(expiry()),
                Some(Ok(_) | Err(_)) => {}
            }
        }
    }

    fn hand_out(&self, batch: &Batch, replies: &Replies<StoreError>, sent: Vec<Sent>) {
        let mut seen = batch.seen(replies);
        for mut sent in sent {
            let of_its: SmallVec<[_; 2]> = seen.by_ref().take(sent.len).collect();
            sent.tell(|asks| {
                let outcomes = asks.iter().zip(of_its).map(|(ask, seen)| match seen {
                    Some(Ok(seen)) => ask.reading(seen),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err(self.no_answer()),
                });
                outcomes.collect()
            });
        }
    }

    fn no_answer(&self) -> StoreError {
        StoreError::Unanswered(self.connection.about("no answer in time"))
    }

    /// Who waited meanwhile has waited long enough. If this was not the first time, nobody waits until
    /// the server answers again.
    async fn not_answered(&mut self) {
        self.unanswered += 1;
        let closed = self.unanswered >= MAX_UNANSWERED;
        self.queue.turn_away(closed, &self.unreachable("it does not answer"));
        if !closed {
            return;
        }
        tracing::warn!(
            server = self.connection.server(),
            "Redis does not answer; nobody waits until it does"
        );
        loop {
            time::sleep(Duration::from_millis(fastrand::u64(PROBE_PAUSE_MS))).await;
            if let Ok(Ok(())) = time::timeout(self.call_timeout, self.connection.ping()).await {
                break;
            }
        }
        self.unanswered = 0;
        self.queue.line.lock().closed = false;
        tracing::info!(server = self.connection.server(), "Redis answers again");
    }

    fn unreachable(&self, cause: &str) -> StoreError {
        StoreError::Unreachable(self.connection.about(cause))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.queue.turn_away(true, &self.unreachable("it is given up"));
    }
}

/// A request that is on its way.
struct Sent {
    asks: Asks,
    /// How many asks it had when it was sent.
    len: usize,
    deadline: Instant,
    /// `None` when it was answered.
    answer: Option<oneshot::Sender<Answer>>,
}

impl Sent {
    /// How long somebody waits for it.
    fn waits_until(&self) -> Option<Instant> {
        self.answer.as_ref().map(|_| self.deadline)
    }

    /// Answers it, unless it was.
    fn tell(&mut self, outcomes: impl FnOnce(&Asks) -> Outcomes) {
        if let Some(answer) = self.answer.take() {
            let outcomes = outcomes(&self.asks);
            // Whoever asked may have gone.
            drop(answer.send(Answer { asks: std::mem::take(&mut self.asks), outcomes }));
        }
    }
}

enum Reply {
    Count(usize, Result<i64, StoreError>),
    Call(usize, Result<Vec<i64>, StoreError>),
}

fn put<T>(replies: &mut [Option<T>], index: usize, reply: T) {
    if let Some(place) = replies.get_mut(index) {
        *place = Some(reply);
    }
}

/// Whether nothing was answered at all, not even that the connection is lost.
fn is_silent(replies: &Replies<StoreError>) -> bool {
    replies.counts.iter().all(Option::is_none) && replies.calls.iter().all(Option::is_none)
}
