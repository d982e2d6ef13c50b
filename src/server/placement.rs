//! Placement of connections: a new one goes to the core with the lowest expected load.
//!
//! A client with few connections (Envoy has one for each worker) may load them unevenly, and a connection stays
//! on its core. The recent CPU time of a core therefore says more than its number of connections. A new
//! connection is expected to cause the average load, so that connections that arrive together are spread.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest period over which the load of a core is measured.
const MIN_WATCH: Duration = Duration::from_secs(1);
/// Difference of loads below which cores count as equal, as a share of a core's time.
const STEP: f64 = 0.1;

/// Load of a core.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Open connections.
    pub(super) open: usize,
    /// Busy time since its start.
    pub(super) busy: Duration,
    /// True if it missed its heartbeats. It gets no connection while another core is not stalled.
    pub(super) stalled: bool,
}

/// Measured loads of the cores.
#[derive(Debug)]
pub(super) struct Placement {
    watched_since: Instant,
    cores: Vec<Watched>,
}

/// Measurement of a core.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// Busy time at the last measurement.
    busy: Duration,
    /// Busy share of the measured period, 0 to 1.
    share: f64,
    /// Connections that it got since.
    given: u32,
}

impl Placement {
    /// Placement on `cores` idle cores.
    pub(super) fn new(cores: usize, now: Instant) -> Self {
        Self { watched_since: now, cores: vec![Watched::default(); cores] }
    }

    /// Core for a connection that arrives at `now`; `None` if there is no core.
    pub(super) fn place(&mut self, now: Instant, loads: &[Load]) -> Option<usize> {
        let watched = now.saturating_duration_since(self.watched_since);
        if watched >= MIN_WATCH {
            for (core, load) in self.cores.iter_mut().zip(loads) {
                let share = load.busy.saturating_sub(core.busy).as_secs_f64() / watched.as_secs_f64();
                *core = Watched { busy: load.busy, share, given: 0 };
            }
            self.watched_since = now;
        }
        let given: u32 = self.cores.iter().map(|core| core.given).sum();
        let known = loads.iter().map(|load| load.open).sum::<usize>().saturating_sub(given as usize);
        let shares: f64 = self.cores.iter().map(|core| core.share).sum();
        let usual = shares / f64::from(u32::try_from(known).unwrap_or(u32::MAX).max(1));
        let expected = |core: &Watched| core.share + f64::from(core.given) * usual;
        let (index, _) = self.cores.iter().zip(loads).enumerate().min_by_key(|(_, (core, load))| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates")]
            let steps = (expected(core) / STEP).round() as u64;
            (load.stalled, steps, load.open)
        })?;
        self.cores[index].given += 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores of consecutive connections, for cores with these numbers of open connections that were busy for so
    /// many tenths of the last ten seconds busy.
    fn places<const N: usize>(cores: [(usize, u64); N], connections: usize) -> Vec<usize> {
        let began = Instant::now();
        let mut placement = Placement::new(N, began);
        let mut loads =
            cores.map(|(open, tenths)| Load { open, busy: Duration::from_secs(tenths), stalled: false });
        let mut place = || {
            let index = placement.place(began + Duration::from_secs(10), &loads).unwrap();
            loads[index].open += 1;
            index
        };
        (0..connections).map(|_| place()).collect()
    }

    #[test]
    fn connections_even_out_among_idle_cores() {
        assert_eq!(places([(0, 0), (0, 0)], 5), [0, 1, 0, 1, 0]);
        assert_eq!(places([(3, 0), (1, 0), (2, 0)], 6), [1, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_busy_core_gets_none_however_few_connections_it_has() {
        assert_eq!(places([(1, 9), (3, 1)], 1), [1]);
        assert_eq!(places([(1, 5), (1, 5), (4, 1)], 1), [2]);
    }

    #[test]
    fn those_that_come_at_once_are_spread() {
        // Each is expected to bring a quarter of a core's time: three make up for what the first has more.
        assert_eq!(places([(2, 8), (2, 2)], 4), [1, 1, 1, 0]);
        assert_eq!(places([(1, 9), (0, 0)], 4), [1, 0, 1, 0]);
    }

    #[test]
    fn a_stalled_core_gets_no_connection_unless_all_are_stalled() {
        let began = Instant::now();
        let load = |open, stalled| Load { open, busy: Duration::ZERO, stalled };
        let place = |loads: &[Load]| Placement::new(loads.len(), began).place(began, loads);
        assert_eq!(place(&[load(0, true), load(100, false)]), Some(1));
        assert_eq!(place(&[load(2, true), load(1, true)]), Some(1));
    }

    #[test]
    fn a_core_is_ranked_by_its_recent_load() {
        let began = Instant::now();
        let mut placement = Placement::new(2, began);
        let loads = |busy: [u64; 2]| {
            busy.map(|secs| Load { open: 1, busy: Duration::from_secs(secs), stalled: false })
        };
        let mut place = |secs, busy| placement.place(began + Duration::from_secs(secs), &loads(busy));
        assert_eq!(place(10, [9, 0]), Some(1));
        assert_eq!(place(20, [9, 9]), Some(0));
        // Too little time has passed to know anything new.
        assert_eq!(placement.place(began + Duration::from_millis(20_500), &loads([9, 9])), Some(0));
        assert_eq!(Placement::new(0, began).place(began, &[]), None);
    }
}
