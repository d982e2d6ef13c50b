//! One batch on its way: the commands in the order in which they were sent, and the calls that wait for
//! their replies. No I/O of its own.
//!
//! Redis replies in order, so each reply, and each error, belongs to exactly one command. Of a connection
//! that ends, commands that never left the client were not carried out; the others may have been.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch::{Batch, CounterCommand, Creation, Replies, ScriptCall, SlotCharges};
use super::queue::{Answer, AnswerSender, CommandError, Request};
use super::reply::Reply;
use super::script::Scripts;
use super::settings::ServerClock;
use super::status::Link;
use super::ttl::{KnownKeys, MissingTtls, Ttl};
use super::wire::{Command, Wire};
use crate::store::StoreError;
use crate::store::line::Rejection;

/// A connection, and what its replies belong to.
pub(super) struct Pipeline {
    pub(super) wire: Box<dyn Wire>,
    awaited: VecDeque<Pending>,
}

/// A command whose reply is awaited.
#[derive(Debug)]
pub(super) enum Pending {
    /// `SET … NX` in front of this count.
    Create(usize),
    /// `INCRBY` or `GET` of this count.
    Count(usize),
    Asking,
    /// The script, by name or by text.
    Script {
        call: usize,
        by_name: bool,
    },
    Expire(Ttl),
    Probe,
    Other(oneshot::Sender<Result<Reply, CommandError>>),
}

impl Pipeline {
    pub(super) fn new(wire: Box<dyn Wire>) -> Self {
        Self { wire, awaited: VecDeque::new() }
    }

    /// True if no reply is awaited.
    pub(super) fn is_idle(&self) -> bool {
        self.awaited.is_empty()
    }

    fn send(&mut self, command: Pending, words: Command) {
        self.wire.send(words);
        self.awaited.push_back(command);
    }

    pub(super) fn probe(&mut self) {
        self.send(Pending::Probe, Command::new("PING", Vec::new()));
    }

    pub(super) fn command(
        &mut self,
        command: Command,
        asking: bool,
        reply: oneshot::Sender<Result<Reply, CommandError>>,
    ) {
        if asking {
            self.send(Pending::Asking, Command::new("ASKING", Vec::new()));
        }
        self.send(Pending::Other(reply), command);
    }

    pub(super) fn expire(&mut self, ttl: Ttl) {
        let words = Command::Expire { key: ttl.key.clone(), secs: i64::from(ttl.secs) };
        self.send(Pending::Expire(ttl), words);
    }

    /// The command that the next reply belongs to.
    pub(super) fn next(&mut self) -> Option<Pending> {
        self.awaited.pop_front()
    }

    /// The oldest command without a reply, on a connection that has ended, and whether it may have been
    /// written.
    pub(super) fn next_lost(&mut self) -> Option<(Pending, bool)> {
        let command = self.awaited.pop_front()?;
        Some((command, self.wire.next_lost().unwrap_or(true)))
    }
}

/// A call that was sent.
#[derive(Debug)]
struct InFlight {
    charges: SlotCharges,
    /// The indexes of its charges in the batch.
    indexes: Range<usize>,
    deadline: Instant,
    /// `None` once it is answered.
    answer: Option<AnswerSender>,
}

/// The parts of the worker that replies have an effect on.
pub(super) struct Context<'a> {
    pub(super) known: &'a mut KnownKeys,
    pub(super) missing: &'a mut MissingTtls,
    /// True if the server may evict counters.
    pub(super) may_evict: bool,
    pub(super) scripts: &'a Scripts,
    pub(super) link: &'a Link,
}

/// A batch and the calls in it.
#[derive(Debug)]
pub(super) struct Exchange {
    batch: Batch,
    replies: Replies<StoreError>,
    in_flight: Vec<InFlight>,
    /// All calls before this one are answered.
    first_open: usize,
    /// No later than the earliest deadline of those that are not answered.
    earliest: Option<Instant>,
}

impl Exchange {
    pub(super) fn new(clock: ServerClock) -> Self {
        Self {
            batch: Batch::new(clock),
            replies: Replies { counts: Vec::new(), calls: Vec::new() },
            in_flight: Vec::new(),
            first_open: 0,
            earliest: None,
        }
    }

    /// Calls in the batch.
    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn add(&mut self, request: Request, deadline: Instant, answer: AnswerSender) {
        let Request { charges, slot, dispatch } = request;
        let first = self.batch.len();
        self.batch.add(&charges, slot, dispatch);
        let indexes = first..self.batch.len();
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        self.in_flight.push(InFlight { charges, indexes, deadline, answer: Some(answer) });
    }

    /// Writes the commands: counts first, so that every counter sees its requests in their order.
    pub(super) fn write(&mut self, pipeline: &mut Pipeline, known: &KnownKeys, scripts: &Scripts) {
        let Self { batch, replies, .. } = self;
        replies.counts.resize_with(batch.counts.len(), || None);
        replies.calls.resize_with(batch.calls.len(), || None);
        for (index, CounterCommand { key, hits, ttl_secs, creation }) in batch.counts.iter_mut().enumerate() {
            if *hits == 0 {
                pipeline.send(Pending::Count(index), Command::Read(key.clone()));
                continue;
            }
            let hash = known.hash(key);
            *creation = Creation::Known;
            if !known.contains(hash) {
                *creation = Creation::Created(hash);
                let create = Command::Create { key: key.clone(), secs: i64::from(*ttl_secs) };
                pipeline.send(Pending::Create(index), create);
            }
            let hits = i64::try_from(*hits).unwrap_or(i64::MAX);
            pipeline.send(Pending::Count(index), Command::Increment { key: key.clone(), hits });
        }
        for (index, call) in batch.calls.iter().enumerate() {
            if call.asking {
                // ASKING holds for the next command only, which so must be ours.
                pipeline.send(Pending::Asking, Command::new("ASKING", Vec::new()));
            }
            run(pipeline, scripts, index, call, !call.asking);
        }
    }

    /// Takes the reply to a command of this batch.
    pub(super) fn reply(
        &mut self,
        command: &Pending,
        reply: Reply,
        pipeline: &mut Pipeline,
        context: &mut Context<'_>,
    ) {
        match *command {
            Pending::Create(index) => {
                let Some(count) = self.batch.counts.get_mut(index) else { return };
                match (reply, count.creation) {
                    (Reply::Error(_), _) => count.creation = Creation::Failed,
                    (Reply::Nil, Creation::Created(hash)) => count.creation = Creation::Existed(hash),
                    _ => {}
                }
            }
            Pending::Count(index) => self.counted(index, reply, context),
            Pending::Script { call, by_name } => {
                let forgotten = matches!(&reply, Reply::Error(text) if text.starts_with("NOSCRIPT"));
                // Otherwise those who wait are sent again, without the others: nothing was counted.
                if forgotten && by_name && self.is_awaited_by_all(call) {
                    // A server that is new to the script is sent the text in a second round trip.
                    if let Some(of) = self.batch.calls.get(call) {
                        run(pipeline, context.scripts, call, of, false);
                    }
                } else {
                    put(&mut self.replies.calls, call, numbers(reply, context.link));
                }
            }
            Pending::Asking | Pending::Expire(_) | Pending::Probe | Pending::Other(_) => {}
        }
    }

    fn counted(&mut self, index: usize, reply: Reply, context: &mut Context<'_>) {
        let Some(CounterCommand { key, hits, ttl_secs, creation }) = self.batch.counts.get(index) else {
            return;
        };
        let is_new = matches!(reply, Reply::Int(after) if u64::try_from(after) == Ok(*hits));
        if let (Reply::Int(_), Creation::Created(hash) | Creation::Existed(hash)) = (&reply, *creation) {
            context.known.insert(hash);
        }
        let may_lack_ttl = is_new
            && match *creation {
                Creation::Known | Creation::Existed(_) | Creation::Failed => true,
                // It may have been evicted between the two commands: the reply is the same.
                Creation::Created(_) => context.may_evict,
                Creation::None => false,
            };
        if may_lack_ttl && !context.missing.push(Ttl { key: key.clone(), secs: *ttl_secs }) {
            context.link.ttl_lost();
        }
        let counted = match reply {
            Reply::Int(after) => Ok(after),
            Reply::Nil if *hits == 0 => Ok(0),
            Reply::Text(_) if *hits == 0 => {
                let text = reply.text().and_then(|text| text.parse().ok());
                text.ok_or_else(|| StoreError::Rejected("the counter holds no whole number".to_owned()))
            }
            Reply::Error(text) => Err(StoreError::Rejected(text)),
            Reply::Text(_) | Reply::Nil | Reply::Array(_) => Err(unexpected(context.link)),
        };
        put(&mut self.replies.counts, index, counted);
    }

    /// True if every caller of this call waits for it still.
    fn is_awaited_by_all(&self, call: usize) -> bool {
        let is_part = |sent: &InFlight| sent.indexes.clone().any(|index| self.batch.is_of_call(index, call));
        self.in_flight.iter().all(|sent| sent.is_awaited() || !is_part(sent))
    }

    /// Takes a command of this batch that will get no reply.
    pub(super) fn lose(
        &mut self,
        command: &Pending,
        written: bool,
        cause: &Arc<str>,
        context: &mut Context<'_>,
    ) {
        let error = || {
            let cause = format!("{}: {cause}", context.link.name());
            if written { StoreError::Unanswered(cause) } else { StoreError::Unreachable(cause) }
        };
        match *command {
            Pending::Count(index) => {
                put(&mut self.replies.counts, index, Err(error()));
                // This very command may have created it again, after its `SET` was rejected.
                let unsure = self.batch.counts.get(index).filter(|_| written);
                if let Some(CounterCommand { key, ttl_secs, .. }) = unsure
                    && !context.missing.push(Ttl { key: key.clone(), secs: *ttl_secs })
                {
                    context.link.ttl_lost();
                }
            }
            Pending::Script { call, .. } => put(&mut self.replies.calls, call, Err(error())),
            Pending::Create(_)
            | Pending::Asking
            | Pending::Expire(_)
            | Pending::Probe
            | Pending::Other(_) => {}
        }
    }

    /// The TTL that may be missing if there is no reply to `command`.
    pub(super) fn unconfirmed_ttl(&self, command: Pending) -> Option<Ttl> {
        match command {
            Pending::Expire(ttl) => Some(ttl),
            Pending::Count(index) => {
                let count = self.batch.counts.get(index).filter(|count| count.hits > 0)?;
                Some(Ttl { key: count.key.clone(), secs: count.ttl_secs })
            }
            _ => None,
        }
    }

    /// Answers every call whose replies are complete.
    pub(super) fn hand_out(&mut self, link: &Link) {
        let Self { batch, replies, in_flight, .. } = self;
        for sent in in_flight.iter_mut().skip(self.first_open).filter(|sent| sent.answer.is_some()) {
            if sent.indexes.clone().all(|index| batch.is_answered(index, replies)) {
                sent.answer(batch, replies, link);
            }
        }
        self.skip_answered();
    }

    /// Answers the calls whose deadline has passed, with what there is. Returns how many there were.
    pub(super) fn expire(&mut self, now: Instant, link: &Link) -> usize {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return 0;
        }
        let Self { batch, replies, in_flight, .. } = self;
        let mut expired = 0;
        for sent in in_flight.iter_mut().filter(|sent| sent.answer.is_some() && sent.deadline <= now) {
            sent.answer(batch, replies, link);
            expired += 1;
        }
        let open = self.in_flight.iter().filter(|sent| sent.answer.is_some());
        self.earliest = open.map(|sent| sent.deadline).min();
        self.skip_answered();
        expired
    }

    fn skip_answered(&mut self) {
        let open = self.in_flight.iter().skip(self.first_open).position(|sent| sent.answer.is_some());
        self.first_open = open.map_or(self.in_flight.len(), |open| self.first_open + open);
        if self.first_open == self.in_flight.len() {
            self.earliest = None;
        }
    }

    /// Moves every deadline.
    pub(super) fn extend(&mut self, pause: std::time::Duration) {
        for sent in &mut self.in_flight {
            sent.deadline += pause;
        }
        self.earliest = self.earliest.map(|earliest| earliest + pause);
    }

    /// When [`Exchange::expire`] next has something to do; perhaps a little earlier.
    pub(super) const fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest
    }
}

impl InFlight {
    fn is_awaited(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    fn answer(&mut self, batch: &Batch, replies: &Replies<StoreError>, link: &Link) {
        let Some(answer) = self.answer.take() else { return };
        let outcomes =
            self.indexes.clone().zip(&self.charges).map(|(index, charge)| match batch.seen(index, replies) {
                Some(Ok(seen)) => charge.reading(seen),
                Some(Err(error)) => Err(error.clone()),
                None => Err(StoreError::Unanswered(format!("{}: no answer in time", link.name()))),
            });
        let outcomes = outcomes.collect();
        // The caller may have gone.
        drop(answer.send(Ok(Answer { charges: std::mem::take(&mut self.charges), outcomes })));
    }
}

fn run(pipeline: &mut Pipeline, scripts: &Scripts, index: usize, call: &ScriptCall, by_name: bool) {
    pipeline.send(Pending::Script { call: index, by_name }, scripts.command(call, by_name));
}

fn numbers(reply: Reply, link: &Link) -> Result<Vec<i64>, StoreError> {
    match reply {
        Reply::Array(items) => {
            let number = |item| match item {
                Reply::Int(number) => Ok(number),
                Reply::Text(_) | Reply::Nil | Reply::Error(_) | Reply::Array(_) => Err(unexpected(link)),
            };
            items.into_iter().map(number).collect()
        }
        Reply::Error(text) if may_have_counted(&text) => {
            Err(StoreError::Unanswered(format!("{}: the script failed: {text}", link.name())))
        }
        Reply::Error(text) => Err(StoreError::Rejected(text)),
        Reply::Int(_) | Reply::Text(_) | Reply::Nil => Err(unexpected(link)),
    }
}

/// True if a script had begun when it failed, and may have written before: Redis names the script then.
/// For some causes it lets no script begin to write.
fn may_have_counted(error: &str) -> bool {
    let before_writing = ["OOM ", "READONLY ", "MISCONF ", "NOREPLICAS ", "MASTERDOWN "];
    error.contains("script")
        && error.contains("user_script")
        && !before_writing.iter().any(|code| error.starts_with(code))
}

fn unexpected(link: &Link) -> StoreError {
    StoreError::Unanswered(format!("{}: unexpected type of reply", link.name()))
}

fn put<T>(replies: &mut [Option<T>], index: usize, reply: T) {
    if let Some(place) = replies.get_mut(index) {
        *place = Some(reply);
    }
}

/// The error for a command that was lost.
pub(super) fn lost(written: bool, cause: &Arc<str>) -> CommandError {
    match written {
        true => CommandError::Unanswered(Arc::clone(cause)),
        false => CommandError::NotSent(Rejection::Closed(crate::store::line::Closed::Disconnected(
            Arc::clone(cause),
        ))),
    }
}
