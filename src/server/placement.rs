//! Which core gets a connection: the one that is expected to have the least to do with it.
//!
//! Whoever has few connections to offer (an Envoy has one for each of its workers) may load them unevenly,
//! and a connection stays where it is put. How many connections a core has says little then; how busy it
//! was says more. A connection that is new is expected to bring as much as others do on average, so that
//! several that come at once are spread.

use std::time::Duration;

use tokio::time::Instant;

/// How long cores are watched at the least to know how busy they are.
const MIN_WATCH: Duration = Duration::from_secs(1);
/// Shares of a core's time that differ by less are the same.
const STEP: f64 = 0.1;

/// What a core has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Connections that are open.
    pub(super) open: usize,
    /// How long it was busy since it began.
    pub(super) busy: Duration,
    /// Whether it missed its heartbeats: it gets no connection while another core has not.
    pub(super) stalled: bool,
}

/// What is known of the cores.
#[derive(Debug)]
pub(super) struct Placement {
    watched_since: Instant,
    cores: Vec<Watched>,
}

/// A core as it is watched.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// How long it was busy when that was looked at last.
    busy: Duration,
    /// The share of its time that it was busy before that, 0 to 1.
    share: f64,
    /// Connections that it was given since.
    given: u32,
}

impl Placement {
    /// Of so many cores, which have done nothing yet.
    pub(super) fn new(cores: usize, now: Instant) -> Self {
        Self { watched_since: now, cores: vec![Watched::default(); cores] }
    }

    /// The core to give a connection to that comes at `now`, when there is so much for each to do. `None`
    /// where there is no core.
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

    /// Where connections go that come one after the other, where each core has so many open and was so many
    /// tenths of the last ten seconds busy.
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
    fn where_nothing_is_asked_cores_get_the_same_number() {
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
    fn a_core_is_known_by_what_it_did_lately() {
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
