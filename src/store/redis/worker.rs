//! The task that speaks to one node for one core: it connects, writes what waits in batches, and hands out
//! replies as they arrive.
//!
//! One batch is on its way at a time, so that the next one takes all that arrived meanwhile. There is no
//! timer that collects: a call that finds nothing on its way is sent at once. Nothing is carried over from
//! one connection to the next: a command is written once, and never after its caller was answered.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Endpoint;
use super::connect::{ConnectConfig, Connected, connect};
use super::exchange::{Context, Exchange, Pending, Pipeline, lost};
use super::queue::{Call, CallQueue};
use super::reply::{self, Reply};
use super::script::Scripts;
use super::session::Session;
use super::status::Link;
use super::ttl::{KnownKeys, MissingTtls, Orphans};
use super::wire::Wire;
use crate::store::line::{Breaker, Closed, Due, overslept};

/// Upper bound on the cost of a batch, and on the bound while the server is slow: Redis carries out all of a
/// batch before it replies to others. A charge by command costs 1.
const MAX_COST: usize = 512;
const MIN_COST: usize = 16;
/// Call timeouts without any reply after which the circuit breaker opens.
const MAX_SILENCE: u32 = 3;
/// Delays between attempts to connect, in milliseconds.
const MIN_RECONNECT_DELAY_MS: u64 = 5;
const MAX_RECONNECT_DELAY_MS: u64 = 500;
/// A connection that lived this long was a success: the next attempt comes at once.
const STABLE: Duration = Duration::from_secs(1);

/// Turns of the runtime before a deadline is judged: one for the socket, one for fred's task, one to spare.
const YIELDS: usize = 3;

/// State of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// The first attempt is under way.
    Connecting,
    Up,
    /// Lost or never made, and why. The next attempt is under way.
    Down(Arc<str>),
}

pub(super) struct Worker {
    server: Endpoint,
    config: Arc<ConnectConfig>,
    queue: Arc<CallQueue>,
    link: Arc<Link>,
    connection: watch::Sender<Connection>,
    scripts: Scripts,
    /// Upper bound on the cost of the next batch.
    max_cost: usize,
    known: KnownKeys,
    missing: MissingTtls,
    /// True if the server may evict counters.
    may_evict: bool,
    orphans: Orphans,
    taken: Vec<Call>,
}

impl Worker {
    pub(super) fn new(
        server: Endpoint,
        config: Arc<ConnectConfig>,
        link: Arc<Link>,
        connection: watch::Sender<Connection>,
        orphans: Orphans,
    ) -> Self {
        Self {
            server,
            config,
            queue: Arc::clone(&link.queue),
            link,
            connection,
            scripts: Scripts::new(),
            max_cost: MAX_COST,
            known: KnownKeys::default(),
            missing: MissingTtls::default(),
            may_evict: false,
            orphans,
            taken: Vec::new(),
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut delay_ms = 0;
        loop {
            if delay_ms > 0 {
                sleep(Duration::from_millis(delay_ms + fastrand::u64(0..=delay_ms / 4))).await;
            }
            delay_ms = (delay_ms * 2).clamp(MIN_RECONNECT_DELAY_MS, MAX_RECONNECT_DELAY_MS);
            let cause = match self.connect().await {
                Ok(Connected { wire, denied, may_evict }) => {
                    self.link.set_denied(&denied);
                    self.may_evict = may_evict;
                    let since = Instant::now();
                    let cause = self.serve(wire).await;
                    if since.elapsed() >= STABLE {
                        delay_ms = 0;
                    }
                    cause
                }
                Err(cause) => cause.into(),
            };
            if delay_ms > 0 {
                self.queue.close(Closed::Disconnected(Arc::clone(&cause)));
            }
            self.link.down(&cause);
            self.connection.send_replace(Connection::Down(cause));
        }
    }

    /// Connects, while calls wait. Where that takes longer than a call may, they are rejected.
    async fn connect(&self) -> Result<Connected, String> {
        let mut connecting = pin!(connect(&self.config, &self.server));
        let begun = Instant::now();
        let max_wait = begun + self.config.settings.call_timeout;
        let is_first = *self.connection.borrow() == Connection::Connecting;
        loop {
            let due = self.queue.earliest_deadline().unwrap_or(max_wait).min(max_wait);
            tokio::select! {
                biased;
                connected = &mut connecting => return connected,
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            self.queue.expire(now);
            if now >= max_wait && !is_first {
                let cause = Arc::from("not connected yet");
                self.queue.close(Closed::Disconnected(cause));
                return connecting.await;
            }
            if now >= max_wait {
                // Until the first attempt to connect has succeeded or failed, every call may wait for it.
                tokio::select! {
                    biased;
                    connected = &mut connecting => return connected,
                    () = sleep(self.config.settings.call_timeout.min(Duration::from_millis(10))) => {}
                }
            }
        }
    }

    /// Serves calls until the connection ends. Returns why it did.
    async fn serve(&mut self, wire: Box<dyn Wire>) -> Arc<str> {
        self.known.clear();
        let now = Instant::now();
        let call_timeout = self.config.settings.call_timeout;
        let mut session = Session {
            pipeline: Pipeline::new(wire),
            exchange: Exchange::new(self.config.clock),
            orphans: self.orphans.clone(),
            begun: now,
            breaker: Breaker::new(call_timeout * MAX_SILENCE),
            since: now,
            stale: None,
            is_graced: false,
        };
        self.queue.open();
        self.link.up();
        self.connection.send_replace(Connection::Up);
        let cause = self.run_session(&mut session).await;
        self.end(session, &cause);
        cause
    }

    async fn run_session(&mut self, session: &mut Session) -> Arc<str> {
        let mut timer = pin!(sleep(Duration::from_secs(86_400)));
        // When the calls that wait have waited for nothing but this task.
        let mut was_idle = true;
        loop {
            let is_idle = session.pipeline.is_idle();
            if is_idle {
                if let Some((_, cause)) = session.stale.take_if(|(at, _)| *at <= Instant::now()) {
                    return cause;
                }
                if !session.breaker.is_open() {
                    self.send(session, was_idle);
                }
            }
            was_idle = session.pipeline.is_idle();
            let due = self.due(session);
            arm(timer.as_mut(), due);
            let mut first = None;
            tokio::select! {
                biased;
                reply = poll_fn(|context| session.pipeline.wire.poll_reply(context)) => first = Some(reply),
                () = self.queue.arrival(), if was_idle && !session.breaker.is_open() => {}
                () = &mut timer, if due.is_some() => {}
            }
            let now = Instant::now();
            if let Some(late) = due.and_then(|due| overslept(due, now)) {
                // This process was paused, not Redis.
                let pause = late + session.grace(self.config.settings.call_timeout);
                session.exchange.extend(pause);
                session.breaker.extend(pause);
                self.queue.extend(pause);
            }
            if let Err(cause) = self.read(session, first, now) {
                return cause;
            }
            if due.is_some_and(|due| due <= now) {
                // What has arrived must be read before a deadline is judged. While this task yields, the
                // runtime looks at its sockets, and fred hands out what it reads.
                for _ in 0..YIELDS {
                    yield_now().await;
                }
                let judged = self.read(session, None, now).and_then(|()| self.judge(session, Instant::now()));
                if let Err(cause) = judged {
                    return cause;
                }
            }
        }
    }

    /// When there is something to do though nothing arrives.
    fn due(&self, session: &Session) -> Option<Instant> {
        let queued = if session.pipeline.is_idle() { None } else { self.queue.earliest_deadline() };
        let idle = session.pipeline.is_idle();
        let ttls = self.missing.next(session.begun).filter(|_| idle);
        let stale = session.stale.as_ref().map(|(at, _)| *at).filter(|_| idle);
        let all = [session.exchange.earliest_deadline(), queued, session.breaker.next(), ttls, stale];
        all.into_iter().flatten().min()
    }

    /// Sends what waits, if anything does.
    fn send(&mut self, session: &mut Session, was_idle: bool) {
        let now = Instant::now();
        let late_deadline = was_idle.then(|| now + self.config.settings.call_timeout);
        self.queue.take(self.max_cost, now, late_deadline, &mut self.taken);
        let ttls = self.missing.take(now);
        if self.taken.is_empty() && ttls.is_empty() {
            return;
        }
        let Session { pipeline, exchange, .. } = session;
        ttls.into_iter().for_each(|ttl| pipeline.expire(ttl));
        *exchange = Exchange::new(self.config.clock);
        let mut commands = Vec::new();
        for call in self.taken.drain(..) {
            match call {
                Call::Charge { request, deadline, answer } => exchange.add(request, deadline, answer),
                Call::Command(call) => commands.push(call),
            }
        }
        exchange.write(pipeline, &self.known, &self.scripts);
        commands.into_iter().for_each(|call| pipeline.command(call.command, call.asking, call.reply));
        session.begun = now;
        session.is_graced = false;
        session.breaker.awaits(now);
        self.link.in_flight.store(exchange.len(), Ordering::Relaxed);
        self.link.batch_size.store(exchange.len(), Ordering::Relaxed);
    }

    /// Takes `first` and every other reply that has arrived.
    fn read(
        &mut self,
        session: &mut Session,
        first: Option<Result<Reply, Arc<str>>>,
        now: Instant,
    ) -> Result<(), Arc<str>> {
        let Session { pipeline, exchange, .. } = session;
        let mut replied = false;
        let mut ended = Ok(());
        let mut next = first.or_else(|| pipeline.wire.reply_now());
        while let Some(reply) = next {
            let reply = match reply {
                Ok(reply) => reply,
                Err(cause) => {
                    ended = Err(cause);
                    break;
                }
            };
            let Some(command) = pipeline.next() else { return Err("a reply that nothing asked for".into()) };
            replied = true;
            match &reply {
                Reply::Error(text) => {
                    if session.stale.is_none() && reply::calls_for_reconnect(text) {
                        // A server that stays a replica is not reconnected to at once, again and again.
                        session.stale = Some((now.max(session.since + STABLE), text.as_str().into()));
                    }
                    if matches!(command, Pending::Count(_) | Pending::Script { .. })
                        && reply::is_about_server(text)
                    {
                        self.link.rejected(text);
                    }
                }
                _ if matches!(command, Pending::Count(_) | Pending::Script { .. }) => self.link.accepted(),
                _ => {}
            }
            match command {
                Pending::Expire(ttl) => {
                    if let Reply::Error(text) = reply {
                        if reply::is_redirection(&text) {
                            // The slot of the counter has moved, and the counter with it.
                            self.orphans.send(ttl);
                            next = if pipeline.is_idle() { None } else { pipeline.wire.reply_now() };
                            continue;
                        }
                        self.link.ttl_rejected(&text);
                        if !self.missing.push_rejected(ttl, now) {
                            self.link.ttl_lost();
                        }
                    }
                }
                Pending::Probe => {}
                // The caller may have gone.
                Pending::Other(caller) => drop(caller.send(Ok(reply))),
                command => {
                    let mut context = Context {
                        known: &mut self.known,
                        missing: &mut self.missing,
                        may_evict: self.may_evict,
                        scripts: &self.scripts,
                        link: &self.link,
                    };
                    exchange.reply(&command, reply, pipeline, &mut context);
                }
            }
            next = if pipeline.is_idle() { None } else { pipeline.wire.reply_now() };
        }
        if replied {
            self.replied(session, now);
        }
        ended
    }

    /// Hands out the replies that have arrived, and measures the round trip if they were the last.
    fn replied(&mut self, session: &mut Session, now: Instant) {
        let Session { pipeline, exchange, breaker, begun, .. } = session;
        if breaker.answered(!pipeline.is_idle(), now) {
            self.queue.open();
            self.link.breaker_closed();
        }
        exchange.hand_out(&self.link);
        if pipeline.is_idle() {
            let took = now.saturating_duration_since(*begun);
            // A search for lockouts says nothing about the time of charges.
            if self.link.batch_size.load(Ordering::Relaxed) > 0 {
                self.link.round_trips.record(took, now);
            }
            self.adapt(took);
            self.link.in_flight.store(0, Ordering::Relaxed);
            self.link.ttls_pending.store(self.missing.len(), Ordering::Relaxed);
        }
    }

    /// Sees to every deadline that has passed.
    fn judge(&self, session: &mut Session, now: Instant) -> Result<(), Arc<str>> {
        if session.exchange.expire(now, &self.link) > 0 && session.pipeline.wire.has_unwritten() {
            // The rest must not be written any more.
            return Err("the server does not read".into());
        }
        if !session.pipeline.is_idle() {
            self.queue.expire(now);
        }
        match session.breaker.due(now) {
            None => {}
            Some(Due::Open) => {
                self.queue.close(Closed::BreakerOpen);
                self.link.breaker_opened();
            }
            Some(Due::Probe) => session.pipeline.probe(),
            Some(Due::Replace) => return Err("the server does not answer".into()),
        }
        Ok(())
    }

    /// Adapts the batch to the server's speed: a charge that is answered too late was counted in vain.
    fn adapt(&mut self, took: Duration) {
        self.max_cost = match took * 2 > self.config.settings.call_timeout {
            true => (self.max_cost / 2).max(MIN_COST),
            false => (self.max_cost + self.max_cost / 8 + 1).min(MAX_COST),
        };
    }

    /// Answers every call that is still on its way.
    fn end(&mut self, mut session: Session, cause: &Arc<str>) {
        let mut context = Context {
            known: &mut self.known,
            missing: &mut self.missing,
            may_evict: self.may_evict,
            scripts: &self.scripts,
            link: &self.link,
        };
        while let Some((command, written)) = session.pipeline.next_lost() {
            match command {
                Pending::Expire(ttl) => {
                    if !context.missing.push(ttl) {
                        self.link.ttl_lost();
                    }
                }
                Pending::Probe => {}
                Pending::Other(caller) => drop(caller.send(Err(lost(written, cause)))),
                command => session.exchange.lose(&command, written, cause, &mut context),
            }
        }
        session.exchange.hand_out(&self.link);
        self.link.in_flight.store(0, Ordering::Relaxed);
        self.link.ttls_pending.store(self.missing.len(), Ordering::Relaxed);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.queue.close(Closed::Ended);
        self.missing.leave(&self.orphans);
    }
}

/// Arms the timer for `due`. It may fire earlier: each arming takes a lock, and most deadlines never pass.
fn arm(timer: Pin<&mut Sleep>, due: Option<Instant>) {
    if let Some(due) = due
        && (timer.is_elapsed() || due < timer.deadline())
    {
        timer.reset(due);
    }
}
