//! Heartbeats detect cores whose runtime no longer runs its tasks.
//!
//! Each core counts a beat every 100 ms. The monitor runs at the same interval and counts the runs without a
//! new beat. It measures no time, so that a pause of the whole process, which stops the monitor too, is not
//! held against a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::time::{self, MissedTickBehavior};

use crate::supervisor::Supervisor;

/// Time between two beats.
const INTERVAL: Duration = Duration::from_millis(100);
/// Missed beats after which a core gets no new connections: one second.
const STALLED_AFTER: u32 = 10;
/// Missed beats after which the process ends: ten seconds.
const DEAD_AFTER: u32 = 100;

/// Beats of one core. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Heartbeat(Arc<CachePadded<Beats>>);

#[derive(Debug, Default)]
struct Beats {
    count: AtomicU64,
    stalled: AtomicBool,
}

/// Missed beats of one core.
#[derive(Clone, Copy, Debug, Default)]
struct BeatWatch {
    count: u64,
    missed: u32,
}

/// Change in the state of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Stalled,
    Recovered,
    Dead,
}

/// Name of a core's thread in the system, logs and errors.
pub(super) fn core_name(index: usize) -> String {
    format!("tollgate-core-{index}")
}

impl Heartbeat {
    /// Counts beats, on the core itself. Never returns.
    pub(super) async fn beat(self) {
        let mut turn = time::interval(INTERVAL);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            self.0.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True if the core missed its beats for a second.
    pub(super) fn is_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }
}

/// Watches the beats of all cores. A core that misses them for ten seconds is reported to `supervisor`. Never
/// returns.
pub(super) async fn monitor(cores: Vec<Heartbeat>, supervisor: Supervisor) {
    let mut watched = vec![BeatWatch::default(); cores.len()];
    let mut turn = time::interval(INTERVAL);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        for (index, (core, watched)) in cores.iter().zip(&mut watched).enumerate() {
            let Some(change) = watched.observe(core.0.count.load(Ordering::Relaxed)) else { continue };
            core.0.stalled.store(change != Change::Recovered, Ordering::Relaxed);
            match change {
                Change::Stalled => tracing::warn!(core = index, "core stalled, no new connections to it"),
                Change::Recovered => tracing::warn!(core = index, "core recovered"),
                Change::Dead => supervisor.report(core_name(index), "no heartbeat for 10 seconds"),
            }
        }
    }
}

impl BeatWatch {
    /// Records the number of beats counted so far.
    fn observe(&mut self, count: u64) -> Option<Change> {
        if self.count != count {
            let was_stalled = self.missed >= STALLED_AFTER;
            *self = Self { count, missed: 0 };
            return was_stalled.then_some(Change::Recovered);
        }
        self.missed = self.missed.saturating_add(1);
        match self.missed {
            STALLED_AFTER => Some(Change::Stalled),
            DEAD_AFTER => Some(Change::Dead),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_stalled_after_one_missed_second_and_dead_after_ten() {
        let mut watched = BeatWatch::default();
        assert_eq!(watched.observe(1), None);
        let changes: Vec<_> = (1..=200).filter_map(|turn| Some((turn, watched.observe(1)?))).collect();
        assert_eq!(changes, [(10, Change::Stalled), (100, Change::Dead)]);
    }

    #[test]
    fn a_core_that_beats_again_recovers_and_one_that_is_late_was_never_stalled() {
        let mut watched = BeatWatch::default();
        watched.observe(1);
        let changes: Vec<_> = (0..9).filter_map(|_| watched.observe(1)).collect();
        assert_eq!((changes, watched.observe(2)), (vec![], None));
        let changes: Vec<_> = (0..10).filter_map(|_| watched.observe(2)).collect();
        assert_eq!((changes, watched.observe(3)), (vec![Change::Stalled], Some(Change::Recovered)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_that_never_beats_is_reported_while_others_are_not() {
        let (supervisor, mut ends) = Supervisor::new();
        let cores = [Heartbeat::default(), Heartbeat::default()];
        tokio::spawn(cores[0].clone().beat());
        tokio::spawn(monitor(cores.to_vec(), supervisor));
        let end = ends.first().await;
        assert_eq!(end.task, "tollgate-core-1");
        assert_eq!(cores.each_ref().map(Heartbeat::is_stalled), [false, true]);
    }
}
