//! The calls that wait for one server, first in, first out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Calls that may wait. Bounds memory; how long each waits is bounded by its deadline.
const MAX_JOBS: usize = 10_000;

/// A call that waits.
pub(in crate::store) trait Job {
    /// When its caller is answered at the latest.
    fn deadline(&self) -> Instant;
    /// Moves the deadline.
    fn set_deadline(&mut self, deadline: Instant);
    /// Share of a batch that it takes up; at least 1.
    fn cost(&self) -> usize;
    /// True if its caller stopped waiting.
    fn is_abandoned(&self) -> bool;
    /// Answers the caller: it was not sent.
    fn reject(self, rejection: &Rejection);
}

/// Why a call was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Rejection {
    /// Too many calls wait.
    #[error("too many calls are queued")]
    Full,
    /// Its deadline passed before there was room for it in a batch.
    #[error("deadline exceeded while queued")]
    Overdue,
    /// Nothing is queued at the moment.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why nothing is queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Closed {
    /// The server does not answer.
    #[error("circuit breaker open")]
    BreakerOpen,
    /// There is no connection, and why.
    #[error("{0}")]
    Disconnected(Arc<str>),
    /// There will be no connection any more.
    #[error("shutting down")]
    Ended,
}

/// A bounded queue. Any thread may add to it; one task takes from it.
#[derive(Debug)]
pub(in crate::store) struct Queue<J> {
    /// Any thread may hold a store, so there is a lock; in production only one core takes it.
    waiting: Mutex<Waiting<J>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Waiting<J> {
    /// Each with the time at which it was pushed.
    jobs: VecDeque<(Instant, J)>,
    /// No later than the earliest deadline of `jobs`.
    earliest: Option<Instant>,
    closed: Option<Closed>,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let waiting = Waiting { jobs: VecDeque::new(), earliest: None, closed: None };
        Self { waiting: Mutex::new(waiting), arrived: Notify::new() }
    }
}

impl<J: Job> Queue<J> {
    /// Adds a call at the end, or returns it with the reason why not.
    pub(in crate::store) fn push(&self, job: J, now: Instant) -> Result<(), (J, Rejection)> {
        let mut waiting = self.waiting.lock();
        if let Some(closed) = &waiting.closed {
            let rejection = Rejection::Closed(closed.clone());
            return Err((job, rejection));
        }
        if waiting.jobs.len() >= MAX_JOBS {
            return Err((job, Rejection::Full));
        }
        let deadline = job.deadline();
        waiting.earliest = Some(waiting.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        waiting.jobs.push_back((now, job));
        if waiting.jobs.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until there may be something to take.
    pub(in crate::store) async fn arrival(&self) {
        if self.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes the calls that go out together: one, and more while their costs add up to at most `max_cost`.
    /// Calls whose deadline has passed are rejected, and abandoned ones dropped.
    ///
    /// With `prompt`, nothing held the calls up but this process itself, and a deadline that has passed is
    /// set to `late_deadline`.
    pub(in crate::store) fn take(
        &self,
        max_cost: usize,
        now: Instant,
        prompt: Option<Instant>,
        taken: &mut Vec<J>,
    ) {
        let mut cost = 0;
        loop {
            let mut job = {
                let mut waiting = self.waiting.lock();
                let Some((_, next)) = waiting.jobs.front() else {
                    waiting.earliest = None;
                    return;
                };
                cost += next.cost();
                if cost > max_cost && !taken.is_empty() {
                    return;
                }
                let Some((_, next)) = waiting.jobs.pop_front() else { return };
                next
            };
            if job.is_abandoned() {
                cost -= job.cost();
                continue;
            }
            if job.deadline() <= now {
                match prompt {
                    Some(late_deadline) => job.set_deadline(late_deadline),
                    None => {
                        cost -= job.cost();
                        job.reject(&Rejection::Overdue);
                        continue;
                    }
                }
            }
            taken.push(job);
        }
    }

    /// When [`Queue::expire`] next has something to do; perhaps a little earlier.
    pub(in crate::store) fn earliest_deadline(&self) -> Option<Instant> {
        self.waiting.lock().earliest
    }

    /// Rejects the calls whose deadline has passed.
    pub(in crate::store) fn expire(&self, now: Instant) {
        let overdue = {
            let mut waiting = self.waiting.lock();
            if waiting.earliest.is_none_or(|earliest| now < earliest) {
                return;
            }
            let (late, in_time): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut waiting.jobs).into_iter().partition(|(_, job)| job.deadline() <= now);
            waiting.earliest = in_time.iter().map(|(_, job)| job.deadline()).min();
            waiting.jobs = in_time;
            late
        };
        for (_, job) in overdue {
            job.reject(&Rejection::Overdue);
        }
    }

    /// Moves every deadline: this process was paused for `pause`.
    pub(in crate::store) fn extend(&self, pause: Duration) {
        let mut waiting = self.waiting.lock();
        for (_, job) in &mut waiting.jobs {
            let deadline = job.deadline() + pause;
            job.set_deadline(deadline);
        }
        waiting.earliest = waiting.earliest.map(|earliest| earliest + pause);
    }

    /// Rejects every call that waits, and all that come until [`Queue::open`].
    pub(in crate::store) fn close(&self, closed: Closed) {
        let jobs = {
            let mut waiting = self.waiting.lock();
            waiting.closed = Some(closed.clone());
            waiting.earliest = None;
            std::mem::take(&mut waiting.jobs)
        };
        let rejection = Rejection::Closed(closed);
        for (_, job) in jobs {
            job.reject(&rejection);
        }
    }

    /// Lets calls queue again.
    pub(in crate::store) fn open(&self) {
        self.waiting.lock().closed = None;
    }
}

impl<J> Queue<J> {
    /// Calls that wait.
    pub(in crate::store) fn len(&self) -> usize {
        self.waiting.lock().jobs.len()
    }

    /// When the call was pushed that has waited longest.
    pub(in crate::store) fn oldest(&self) -> Option<Instant> {
        self.waiting.lock().jobs.front().map(|(since, _)| *since)
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    struct Call {
        name: u32,
        deadline: Instant,
        cost: usize,
        abandoned: bool,
        rejected: Sender<(u32, Rejection)>,
    }

    impl Job for Call {
        fn deadline(&self) -> Instant {
            self.deadline
        }

        fn set_deadline(&mut self, deadline: Instant) {
            self.deadline = deadline;
        }

        fn cost(&self) -> usize {
            self.cost
        }

        fn is_abandoned(&self) -> bool {
            self.abandoned
        }

        fn reject(self, rejection: &Rejection) {
            self.rejected.send((self.name, rejection.clone())).expect("the test listens");
        }
    }

    struct Setup {
        queue: Queue<Call>,
        begun: Instant,
        rejected: Sender<(u32, Rejection)>,
        rejections: Receiver<(u32, Rejection)>,
    }

    impl Setup {
        fn new() -> Self {
            let (rejected, rejections) = channel();
            Self { queue: Queue::default(), begun: Instant::now(), rejected, rejections }
        }

        fn at(&self, ms: u64) -> Instant {
            self.begun + Duration::from_millis(ms)
        }

        fn call(&self, name: u32, deadline_ms: u64, cost: usize) -> Call {
            let rejected = self.rejected.clone();
            Call { name, deadline: self.at(deadline_ms), cost, abandoned: false, rejected }
        }

        fn push(&self, call: Call) {
            self.queue.push(call, self.begun).map_err(|(_, rejection)| rejection).expect("there is room");
        }

        fn take(&self, max_cost: usize, now_ms: u64) -> Vec<u32> {
            let mut taken = Vec::new();
            self.queue.take(max_cost, self.at(now_ms), None, &mut taken);
            taken.iter().map(|call| call.name).collect()
        }

        fn rejected(&self) -> Vec<(u32, Rejection)> {
            self.rejections.try_iter().collect()
        }
    }

    #[test]
    fn calls_leave_in_order_in_batches_of_bounded_cost() {
        let setup = Setup::new();
        for (name, cost) in [(1, 1), (2, 2), (3, 1), (4, 9), (5, 1)] {
            setup.push(setup.call(name, 10, cost));
        }
        let batches: Vec<_> = (0..4).map(|_| setup.take(4, 0)).collect();
        assert_eq!(batches, [vec![1, 2, 3], vec![4], vec![5], vec![]], "a batch holds at least one call");
        assert_eq!(setup.queue.earliest_deadline(), None);
    }

    #[test]
    fn overdue_calls_are_rejected_and_abandoned_ones_dropped_without_a_share_of_the_batch() {
        let setup = Setup::new();
        setup.push(setup.call(1, 5, 4));
        setup.push(Call { abandoned: true, ..setup.call(2, 10, 4) });
        setup.push(setup.call(3, 10, 4));
        assert_eq!(setup.take(4, 5), [3]);
        assert_eq!(setup.rejected(), [(1, Rejection::Overdue)]);
    }

    #[test]
    fn only_those_calls_expire_whose_own_deadline_has_passed() {
        let setup = Setup::new();
        for (name, deadline_ms) in [(1, 10), (2, 5), (3, 20)] {
            setup.push(setup.call(name, deadline_ms, 1));
        }
        assert_eq!(setup.queue.earliest_deadline(), Some(setup.at(5)));
        setup.queue.expire(setup.at(4));
        assert_eq!(setup.rejected(), []);
        setup.queue.expire(setup.at(10));
        assert_eq!(setup.rejected(), [(1, Rejection::Overdue), (2, Rejection::Overdue)]);
        assert_eq!(setup.queue.earliest_deadline(), Some(setup.at(20)));
        assert_eq!(setup.take(9, 10), [3]);
    }

    #[test]
    fn a_pause_of_this_process_moves_deadlines_and_rejects_nothing() {
        let setup = Setup::new();
        setup.push(setup.call(1, 10, 1));
        setup.queue.extend(Duration::from_millis(15));
        setup.queue.expire(setup.at(24));
        assert_eq!((setup.rejected(), setup.queue.earliest_deadline()), (vec![], Some(setup.at(25))));

        setup.push(setup.call(2, 10, 1));
        let mut taken = Vec::new();
        setup.queue.take(9, setup.at(24), Some(setup.at(34)), &mut taken);
        let deadlines: Vec<_> = taken.iter().map(|call| (call.name, call.deadline)).collect();
        assert_eq!(deadlines, [(1, setup.at(25)), (2, setup.at(34))]);
    }

    #[test]
    fn a_closed_queue_rejects_all_calls_until_it_is_opened() {
        let setup = Setup::new();
        setup.push(setup.call(1, 10, 1));
        setup.queue.close(Closed::BreakerOpen);
        let open = Rejection::Closed(Closed::BreakerOpen);
        assert_eq!(setup.rejected(), [(1, open.clone())]);
        let rejection = setup
            .queue
            .push(setup.call(2, 10, 1), setup.begun)
            .map_err(|(call, rejection)| (call.name, rejection));
        assert_eq!(rejection, Err((2, open)));
        setup.queue.open();
        setup.push(setup.call(3, 10, 1));
        assert_eq!(setup.take(9, 0), [3]);
    }

    #[test]
    fn the_number_of_calls_is_bounded() {
        let setup = Setup::new();
        for name in 0..10_000 {
            setup.push(setup.call(name, 10, 1));
        }
        let rejection =
            setup.queue.push(setup.call(10_000, 10, 1), setup.begun).map_err(|(_, rejection)| rejection);
        assert_eq!((rejection, setup.queue.len()), (Err(Rejection::Full), 10_000));
    }

    #[tokio::test(start_paused = true)]
    async fn an_arrival_wakes_the_task_that_takes() {
        let setup = Setup::new();
        for name in 1..=3 {
            let take = async {
                loop {
                    setup.queue.arrival().await;
                    let taken = setup.take(9, 0);
                    if !taken.is_empty() {
                        return taken;
                    }
                }
            };
            let push = async { setup.push(setup.call(name, 10, 1)) };
            let (taken, ()) =
                tokio::time::timeout(Duration::from_secs(1), async { tokio::join!(take, push) })
                    .await
                    .expect("it is woken");
            assert_eq!(taken, [name]);
        }
    }
}
