//! The requests that wait for one server.

use std::collections::VecDeque;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::batch::{Asks, Way};
use crate::store::{Reading, StoreError};

/// Requests that wait. More are turned away: this bounds memory and the time that anybody waits.
const MAX_WAITING: usize = 10_000;
/// What a charge costs that needs the script. One by command costs 1.
const SCRIPT_COST: usize = 4;

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

/// A request that waits.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    /// When it is of no use any more.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Job {
    fn cost(&self) -> usize {
        self.request.asks.iter().map(|ask| if ask.needs_script() { SCRIPT_COST } else { 1 }).sum()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Queue {
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
    /// Puts a request at the end of the line. Whoever asks waits for the receiver.
    ///
    /// # Errors
    /// Its charges and why nobody may join the line, where that is so.
    pub(super) fn join(
        &self,
        request: Request,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Answer>, Box<(Asks, &'static str)>> {
        let mut line = self.line.lock();
        if let Some(cause) = line.is_shut() {
            return Err(Box::new((request.asks, cause)));
        }
        let (answer, wait) = oneshot::channel();
        line.jobs.push_back(Job { request, deadline, answer });
        if line.jobs.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(wait)
    }

    /// Waits for requests, and takes those that go out together: one, and more as long as all of them
    /// cost `max_cost` at the most.
    pub(super) async fn take(&self, jobs: &mut Vec<Job>, max_cost: usize) {
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
    pub(super) fn turn_away(&self, closed: bool, error: &StoreError) {
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

    /// Lets requests join again.
    pub(super) fn open(&self) {
        self.line.lock().closed = false;
    }
}

/// The same error for every charge.
pub(super) fn failing(len: usize, error: &StoreError) -> Outcomes {
    (0..len).map(|_| Err(error.clone())).collect()
}
