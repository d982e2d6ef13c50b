//! One server that counts, as one core reaches it: a connection, and the requests that wait for it.
//!
//! While requests are on their way, later ones wait; what waits then goes out together. There is no
//! timer: a request that finds nothing on its way is sent at once. A server that does not answer is
//! waited for a few times. From then on requests are turned away at once, while it is asked now and then
//! whether it is back.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fred::types::{CustomCommand, FromValue, Value};
use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant};
use tokio_util::task::AbortOnDropHandle;

use super::Endpoint;
use super::batch::{Asks, Batch, Count, Replies};
use super::client::Access;
use super::connection::{Connection, Script};
use super::expiry::{Expiries, Expiry};
use super::queue::{Answer, Job, Outcomes, Queue, Request, failing};
use super::settings::ServerClock;
use crate::store::StoreError;

/// What goes out together may cost the server so much at the most, and where it is slow less: it carries
/// out all of it before it answers, and lets others wait meanwhile. A charge by command costs 1.
const MAX_COST: usize = 512;
const MIN_COST: usize = 16;
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
            clock: access.clock,
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
        let wait = match self.queue.join(request, deadline) {
            Ok(wait) => wait,
            Err(turned_away) => {
                let (asks, cause) = *turned_away;
                let error = StoreError::Unreachable(self.connection.about(cause));
                return Answer { asks, outcomes: failing(len, &error) };
            }
        };
        wait.await.unwrap_or_else(|_| {
            let given_up = StoreError::Unanswered(self.connection.about("it is given up"));
            Answer { asks: Asks::new(), outcomes: failing(len, &given_up) }
        })
    }
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
            let mut batch = Batch::new(self.clock);
            let mut sent = Vec::with_capacity(jobs.len());
            for job in jobs.drain(..) {
                let Job { request, answer, deadline } = job;
                // Nothing is charged for a caller that has gone.
                if answer.is_closed() {
                    continue;
                }
                if deadline <= now {
                    let overdue = self.unreachable("it took too long until there was time for it");
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
        self.queue.open();
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
