//! The threads of a run: started, told when to begin and to stop, and heard in the end.

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
use super::worker::{self, Job, Published, Share};

/// One thread, as the main one sees it.
struct Member {
    ready: oneshot::Receiver<anyhow::Result<()>>,
    begin: oneshot::Sender<Instant>,
    share: oneshot::Receiver<anyhow::Result<Option<Share>>>,
    published: Arc<CachePadded<Published>>,
}

/// All threads.
pub(super) struct SendingThreads {
    members: Vec<Member>,
    stop: CancellationToken,
    signals: Signals,
}

/// Signals that end a run early: SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// A thread that is connected: when to begin is to be told, and what it has to say will be.
struct Ready {
    begin: oneshot::Sender<Instant>,
    share: oneshot::Receiver<anyhow::Result<Option<Share>>>,
}

impl SendingThreads {
    /// Starts them; they connect. From here on a signal ends the run with a report.
    pub(super) fn start(args: &Arc<BenchArgs>, plan: &Plan) -> anyhow::Result<Self> {
        let signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        let stop = CancellationToken::new();
        let start = |index| {
            let (tell_ready, ready) = oneshot::channel();
            let (tell_begin, begin) = oneshot::channel();
            let (tell_share, share) = oneshot::channel();
            let published = Arc::new(CachePadded::new(Published::default()));
            let job = Job {
                args: Arc::clone(args),
                plan: plan.clone(),
                index,
                ready: tell_ready,
                begin,
                stop: stop.clone(),
                published: Arc::clone(&published),
            };
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("tollgate-bench-{index}")).spawn(move || {
                let share = LocalSet::new().block_on(&runtime, worker::run(job));
                // The receiver may have been dropped.
                drop(tell_share.send(share));
            })?;
            Ok(Member { ready, begin: tell_begin, share, published })
        };
        let members = (0..args.threads()).map(start).collect::<anyhow::Result<_>>()?;
        Ok(Self { members, stop, signals })
    }

    /// Lets them work until the time is up, or until SIGINT or SIGTERM.
    pub(super) async fn work(self, args: &BenchArgs) -> anyhow::Result<Measured> {
        let Self { members, stop, mut signals } = self;
        let published = members.iter().map(|member| Arc::clone(&member.published)).collect();
        let mut progress = Progress::new(args, published);
        let connect = connect(members);
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
        let work = hear(connected?, begun);
        tokio::pin!(work);
        let mut ticks = every_second(begun);
        let shares = loop {
            tokio::select! {
                shares = &mut work => break shares,
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
        Ok(join(shares?, stop.is_cancelled()))
    }
}

impl Signals {
    /// Waits for one of them.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

const BUG: &str = "a thread ended in a bug";

/// Waits until every thread is connected.
async fn connect(members: Vec<Member>) -> anyhow::Result<Vec<Ready>> {
    let mut connected = Vec::new();
    for Member { ready, begin, share, .. } in members {
        ready.await.context(BUG)??;
        connected.push(Ready { begin, share });
    }
    Ok(connected)
}

/// Lets all begin at once, and waits for what they have to say.
async fn hear(connected: Vec<Ready>, now: Instant) -> anyhow::Result<Vec<Share>> {
    let mut ended = Vec::new();
    for Ready { begin, share } in connected {
        // One that has ended meanwhile says why below, and hands the moment back.
        begin.send(now).err();
        ended.push(share);
    }
    let mut shares = Vec::new();
    for share in ended {
        shares.extend(share.await.context(BUG)??);
    }
    Ok(shares)
}

/// Ticks that say when they were due, the first one a second from `begun`; those that are missed are left
/// out.
fn every_second(begun: Instant) -> Interval {
    let mut ticks = interval_at(begun + Progress::EVERY, Progress::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn join(shares: Vec<Share>, stopped_early: bool) -> Measured {
    let length = shares.iter().map(|share| share.length).max().unwrap_or_default();
    let busy: Duration = shares.iter().map(|share| share.busy).sum();
    let available: Duration = shares.iter().map(|share| share.length).sum();
    let busy = if available.is_zero() { 0.0 } else { busy.as_secs_f64() / available.as_secs_f64() };
    let mut summary = Summary::new();
    shares.into_iter().for_each(|share| summary.join(share.summary));
    Measured { summary, length, busy: busy.min(1.0), stopped_early }
}
