//! Every order of events of a few replicas that lease one small counter, breadth first: asks, answers, returns, and the
//! loss of each, ends of windows, crashes, refunds, reloads and a failover. No order lets more hits pass than the limit.

use std::collections::{HashSet, VecDeque};

use crate::engine::Unit;
use crate::engine::algorithm::Meter;
use crate::engine::algorithm::fixed_window::meter;
use crate::engine::lease::cell::*;

/// Bounds of a run, and the number of rare events in it.
#[derive(Clone, Copy)]
struct Bounds {
    replicas: usize,
    limit: u32,
    batch: u32,
    windows: usize,
    crashes: u8,
    user_refunds: u8,
    /// Limits that the rule gets in turn.
    reloads: &'static [u32],
    /// Charges that a failover loses.
    losses: u8,
    /// A mutant: credits outlive their window.
    ignores_windows: bool,
}

const ONE_WINDOW: Bounds = Bounds {
    replicas: 2,
    limit: 6,
    batch: 3,
    windows: 1,
    crashes: 0,
    user_refunds: 0,
    reloads: &[],
    losses: 0,
    ignores_windows: false,
};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Seen(Vec<u64>);

#[derive(Clone)]
struct Replica {
    cell: Cell,
    /// Hits that an ask on its way wants, and its window and limit.
    ask: Option<(u32, usize, u32)>,
    /// An answer on its way.
    answer: Option<(u32, u32, usize, u32)>,
}

#[derive(Clone)]
struct World {
    bounds: Bounds,
    limit: u32,
    reloads: usize,
    window: usize,
    used: [u32; 2],
    admitted: [u32; 2],
    refunded: [u32; 2],
    lost: [u32; 2],
    replicas: Vec<Replica>,
    /// Returns on their way: hits and window.
    returns: Vec<(u32, usize)>,
    crashes: u8,
    user_refunds: u8,
    losses: u8,
}

fn limit(requests: u32) -> Limit {
    Limit::per(requests, Unit::Second)
}

fn terms(requests: u32, batch: u32) -> LeaseTerms {
    LeaseTerms { hold_us: 100_000, ceiling: requests, max: batch }
}

fn moment(window: usize) -> Moment {
    Moment { now: Timestamp::from_secs(1_000 + window as u64), mono_us: 0, generation: 0 }
}

fn window_of(lot: &Lot) -> usize {
    usize::try_from(lot.window_start_secs - 1_000).expect("a small number")
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let cell = Cell::new(limit(bounds.limit), terms(bounds.limit, bounds.batch), 1_000_000, moment(0));
        let replica = Replica { cell, ask: None, answer: None };
        Self {
            bounds,
            limit: bounds.limit,
            reloads: 0,
            window: 0,
            used: [0; 2],
            admitted: [0; 2],
            refunded: [0; 2],
            lost: [0; 2],
            replicas: vec![replica; bounds.replicas],
            returns: Vec::new(),
            crashes: 0,
            user_refunds: 0,
            losses: 0,
        }
    }

    /// Everything that later events depend on.
    fn seen(&self) -> Seen {
        let mut all: Vec<u64> = vec![
            self.window as u64,
            self.reloads as u64,
            self.crashes.into(),
            self.user_refunds.into(),
            self.losses.into(),
        ];
        for counts in [self.used, self.admitted, self.refunded, self.lost] {
            all.extend(counts.map(u64::from));
        }
        // Replicas are alike: their order does not matter.
        let mut replicas: Vec<Vec<u64>> = self.replicas.iter().map(Replica::seen).collect();
        replicas.sort_unstable();
        all.extend(replicas.into_iter().flatten());
        let mut returns: Vec<u64> =
            self.returns.iter().map(|(hits, window)| u64::from(*hits) * 2 + *window as u64).collect();
        returns.sort_unstable();
        all.extend(returns);
        Seen(all)
    }

    fn meter(&self, window: usize) -> Meter {
        meter(self.used[window].into())
    }

    fn save(&mut self, window: usize, meter: Meter) {
        self.used[window] = u32::try_from(meter.used()).expect("a small number");
    }

    /// One hit at a replica.
    fn hit(&mut self, index: usize) {
        let (window, requests, batch) = (self.window, self.limit, self.bounds.batch);
        let at = moment(if self.bounds.ignores_windows { 0 } else { window });
        let replica = &mut self.replicas[index];
        if !replica.cell.is_for(limit(requests), terms(requests, batch)) {
            let outdated = replica.cell.change_limit(limit(requests), terms(requests, batch));
            self.returns.extend(outdated.iter().map(|lot| (lot.credits, window_of(lot))));
        }
        let spend = replica.cell.spend(at, 1);
        if let Some(want) = spend.want {
            replica.ask = Some((want, window, requests));
        }
        if spend.spent.is_some() {
            self.admitted[window] += 1;
            return;
        }
        let mut meter = self.meter(window);
        if meter.fits(1, requests) {
            meter.add(1);
            self.save(window, meter);
            self.admitted[window] += 1;
        }
        self.replicas[index].cell.observe(meter.used());
    }

    fn carry_out_ask(&mut self, index: usize) {
        let Some((want, window, requests)) = self.replicas[index].ask.take() else { return };
        let mut meter = self.meter(window);
        let credits = meter.lease(want, requests, requests, 1);
        self.save(window, meter);
        let used = self.used[window];
        self.replicas[index].answer = Some((credits, used, window, requests));
    }

    fn answer(&mut self, index: usize) {
        let (batch, at) = (self.bounds.batch, moment(self.window));
        let replica = &mut self.replicas[index];
        let Some((credits, used, window, requests)) = replica.answer.take() else { return };
        let is_current = replica.cell.is_for(limit(requests), terms(requests, batch));
        let sent = moment(window);
        let grant = Grant { credits, used: used.into(), charged: sent.now, sent };
        let lot = replica.cell.granted(grant, at);
        if let Some(lot) = lot.filter(|lot| !is_current || !replica.cell.holds(*lot)) {
            replica.cell.expire(lot.id);
            self.returns.push((lot.credits, window));
        }
    }

    fn expire(&mut self, index: usize) -> bool {
        let cell = &mut self.replicas[index].cell;
        let id = cell.lots.first().map(|lot| lot.id);
        let Some(lot) = id.and_then(|id| cell.expire(id)) else { return false };
        self.returns.push((lot.credits, window_of(&lot)));
        true
    }

    /// Worlds after one more event.
    fn next(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self) -> bool| {
            let mut world = self.clone();
            if change(&mut world) {
                worlds.push(world);
            }
        };
        for index in 0..self.replicas.len() {
            add(&|world| {
                world.hit(index);
                true
            });
            if self.replicas[index].ask.is_some() {
                add(&|world| {
                    world.carry_out_ask(index);
                    true
                });
            }
            if self.replicas[index].answer.is_some() {
                add(&|world| {
                    world.answer(index);
                    true
                });
            }
            if self.replicas[index].ask.is_some() || self.replicas[index].answer.is_some() {
                add(&|world| {
                    let replica = &mut world.replicas[index];
                    (replica.ask, replica.answer) = (None, None);
                    replica.cell.lost(moment(world.window));
                    true
                });
            }
            add(&|world| world.expire(index));
            if self.replicas[index].cell.quiet_until_us > 0 {
                add(&|world| {
                    world.replicas[index].cell.refunded();
                    true
                });
            }
            if self.crashes < self.bounds.crashes {
                add(&|world| {
                    let fresh = Self::new(Bounds { limit: world.limit, ..world.bounds });
                    world.replicas[index] = fresh.replicas[index].clone();
                    world.crashes += 1;
                    true
                });
            }
        }
        for index in 0..self.returns.len() {
            for is_lost in [true, false] {
                add(&|world| {
                    let (hits, window) = world.returns.swap_remove(index);
                    if !is_lost && window == world.window {
                        let mut meter = world.meter(window);
                        meter.refund(hits);
                        world.save(window, meter);
                    }
                    true
                });
            }
        }
        self.rare_events(&mut worlds);
        worlds
    }

    fn rare_events(&self, worlds: &mut Vec<Self>) {
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        let window = self.window;
        if window + 1 < self.bounds.windows {
            add(&|world| {
                world.window += 1;
            });
        }
        if self.user_refunds < self.bounds.user_refunds && self.used[window] > 0 {
            add(&|world| {
                world.used[window] -= 1;
                world.refunded[window] += 1;
                world.user_refunds += 1;
            });
        }
        if let Some(requests) = self.bounds.reloads.get(self.reloads) {
            add(&|world| {
                world.limit = *requests;
                world.reloads += 1;
            });
        }
        if self.losses < self.bounds.losses && self.used[window] > 0 {
            add(&|world| {
                world.used[window] -= 1;
                world.lost[window] += 1;
                world.losses += 1;
            });
        }
    }

    /// The first promise that is broken.
    fn broken(&self) -> Option<String> {
        for window in 0..self.bounds.windows {
            let largest = self.bounds.reloads.iter().copied().chain([self.bounds.limit]).max().unwrap_or(0);
            let excused = self.refunded[window] + self.lost[window];
            let held: u32 = self.replicas.iter().map(|replica| replica.held(window)).sum();
            let returning: u32 =
                self.returns.iter().filter(|(_, of)| *of == window).map(|(hits, _)| *hits).sum();
            let admitted = self.admitted[window];
            if admitted > largest + excused {
                return Some(format!("{admitted} of {largest} admitted, {excused} excused"));
            }
            // A window that is over counts no more.
            let is_current = window == self.window;
            if is_current && self.used[window] + excused < admitted + held + returning {
                return Some(format!("{} used, {admitted} admitted, {held} held", self.used[window]));
            }
        }
        None
    }
}

impl Replica {
    fn held(&self, window: usize) -> u32 {
        let lots =
            self.cell.lots.iter().filter(|lot| window_of(lot) == window).map(|lot| lot.credits).sum::<u32>();
        let answer = self.answer.filter(|(_, _, of, _)| *of == window).map_or(0, |(credits, ..)| credits);
        lots + answer
    }

    fn seen(&self) -> Vec<u64> {
        let Cell { limit, window_start_secs, lots, used_seen, is_asking, quiet_until_us, .. } = &self.cell;
        let (asks, quiet) = (u64::from(*is_asking), u64::from(*quiet_until_us > 0));
        let mut seen = vec![limit.requests_per_unit.into(), *window_start_secs, *used_seen, asks, quiet];
        let ask = self.ask.map(|(want, window, limit)| (want, 0, window, limit));
        for (one, other, window, limit) in [ask, self.answer].into_iter().map(Option::unwrap_or_default) {
            seen.extend([u64::from(one), other.into(), window as u64, limit.into()]);
        }
        seen.extend(lots.iter().flat_map(|lot| [u64::from(lot.credits), lot.window_start_secs]));
        seen.push(u64::MAX);
        seen
    }
}

/// Visits every state. Returns their number, or the first promise that is broken.
fn explore(bounds: Bounds) -> Result<usize, String> {
    let first = World::new(bounds);
    let mut visited = HashSet::from([first.seen()]);
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        if let Some(broken) = world.broken() {
            return Err(broken);
        }
        // Returns that nobody waits for may pile up.
        for next in world.next().into_iter().filter(|next| next.returns.len() <= 2) {
            if visited.insert(next.seen()) {
                open.push_back(next);
            }
        }
    }
    Ok(visited.len())
}

#[test]
fn no_order_of_events_lets_more_pass_than_the_limit() {
    for (name, bounds) in [
        ("two windows", Bounds { windows: 2, limit: 4, batch: 2, ..ONE_WINDOW }),
        ("three replicas", Bounds { replicas: 3, limit: 4, ..ONE_WINDOW }),
        ("crash", Bounds { crashes: 1, ..ONE_WINDOW }),
        ("refund by a user", Bounds { user_refunds: 1, limit: 4, ..ONE_WINDOW }),
        ("limit lowered, then raised", Bounds { limit: 4, reloads: &[2, 5], batch: 2, ..ONE_WINDOW }),
        ("failover that loses charges", Bounds { limit: 4, losses: 2, ..ONE_WINDOW }),
    ] {
        let states = explore(bounds).unwrap_or_else(|broken| panic!("{name}: {broken}"));
        assert!(states > 1_000, "{name}: only {states} states");
    }
}

#[test]
fn credits_that_outlived_their_window_would_let_more_pass() {
    let mutant = Bounds { windows: 2, limit: 4, batch: 2, ignores_windows: true, ..ONE_WINDOW };
    explore(mutant).expect_err("the search finds the order");
}
