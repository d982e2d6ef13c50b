//! Replicas with leases beside an oracle that counts every hit at once: Poisson and bursty demand, round trips of 0.2 to
//! 2 ms, by seeds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Unit;
use crate::engine::algorithm::fixed_window::meter;
use crate::engine::lease::cell::*;

/// Windows of a second that a run takes.
const WINDOWS: usize = 3;
const SECOND_US: u64 = 1_000_000;

#[derive(Clone, Copy)]
enum Event {
    Arrival(usize),
    /// An ordinary charge reaches the store, of a request that read the clock then.
    Charge {
        of: usize,
        asked: Moment,
    },
    Seen {
        of: usize,
        used: u64,
    },
    Ask {
        of: usize,
        want: u32,
        sent: Moment,
    },
    Answer {
        of: usize,
        grant: Grant,
    },
    Expiry {
        of: usize,
        id: u64,
    },
    Return(Lot),
}

/// Demand and limit of a run.
#[derive(Clone, Copy, Debug)]
struct Demand {
    replicas: usize,
    limit: u32,
    /// Hits of all replicas in a second.
    per_sec: u32,
    /// True if each replica is silent for half of the time.
    in_bursts: bool,
}

struct Twin {
    demand: Demand,
    limit: Limit,
    terms: LeaseTerms,
    rng: fastrand::Rng,
    cells: Vec<Cell>,
    /// When each replica next begins or ends a burst, and whether it is in one.
    bursts: Vec<(u64, bool)>,
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    used: [u64; WINDOWS + 1],
    asked: [u64; WINDOWS + 1],
    admitted: [u64; WINDOWS + 1],
    calls: u64,
}

fn moment(mono_us: u64) -> Moment {
    Moment { now: Timestamp::from_micros(mono_us), mono_us, generation: 0 }
}

fn window_of(now: Timestamp) -> usize {
    usize::try_from(now.as_secs()).expect("a small number")
}

impl Twin {
    fn new(seed: u64, demand: Demand) -> Self {
        let limit = Limit::per(demand.limit, Unit::Second);
        let ceiling = demand.limit - demand.limit / 10;
        let terms = LeaseTerms { hold_us: 100_000, ceiling, max: 10_000 };
        Self {
            demand,
            limit,
            terms,
            rng: fastrand::Rng::with_seed(seed),
            cells: vec![Cell::new(limit, terms, 100, moment(0)); demand.replicas],
            bursts: vec![(0, false); demand.replicas],
            events: BTreeMap::new(),
            number: 0,
            used: [0; WINDOWS + 1],
            asked: [0; WINDOWS + 1],
            admitted: [0; WINDOWS + 1],
            calls: 0,
        }
    }

    fn at(&mut self, time_us: u64, event: Event) {
        self.number += 1;
        self.events.insert((time_us, self.number), event);
    }

    fn one_way_us(&mut self) -> u64 {
        self.rng.u64(100..1_000)
    }

    /// Time until the next hit of a replica, exponentially distributed.
    fn until_next(&mut self, of: usize, now_us: u64) -> u64 {
        let (turns_us, is_on) = self.bursts[of];
        if self.demand.in_bursts && turns_us <= now_us {
            self.bursts[of] = (now_us + self.rng.u64(20_000..300_000), !is_on);
        }
        if self.demand.in_bursts && !self.bursts[of].1 {
            return self.bursts[of].0 - now_us;
        }
        let share = if self.demand.in_bursts { 2.0 } else { 1.0 } / self.demand.replicas as f64;
        let rate = f64::from(self.demand.per_sec) * share;
        let next = Duration::from_secs_f64(-(1.0 - self.rng.f64()).ln() / rate);
        u64::try_from(next.as_micros()).unwrap_or(SECOND_US) + 1
    }

    fn arrival(&mut self, of: usize, now_us: u64) {
        let next = self.until_next(of, now_us);
        self.at(now_us + next, Event::Arrival(of));
        if self.demand.in_bursts && !self.bursts[of].1 {
            return;
        }
        let asked = moment(now_us);
        self.asked[window_of(asked.now)] += 1;
        let spend = self.cells[of].spend(asked, 1);
        let one_way = self.one_way_us();
        if let Some(want) = spend.want {
            self.at(now_us + one_way, Event::Ask { of, want, sent: asked });
        }
        match spend.spent {
            Some(_) => self.admitted[window_of(asked.now)] += 1,
            None => self.at(now_us + one_way, Event::Charge { of, asked }),
        }
    }

    fn handle(&mut self, event: Event, now_us: u64) {
        let back = now_us + self.one_way_us();
        match event {
            Event::Arrival(of) => self.arrival(of, now_us),
            Event::Charge { of, asked } => {
                let window = window_of(asked.now);
                self.calls += 1;
                if self.used[window] < self.demand.limit.into() {
                    self.used[window] += 1;
                    self.admitted[window] += 1;
                }
                self.at(back, Event::Seen { of, used: self.used[window] });
            }
            Event::Seen { of, used } => self.cells[of].observe(used),
            Event::Ask { of, want, sent } => {
                let window = window_of(sent.now);
                self.calls += 1;
                let mut meter = meter(self.used[window]);
                let shares = u16::try_from(2 * self.demand.replicas.max(4)).expect("a small number");
                let credits = meter.lease(want, self.demand.limit, self.terms.ceiling, shares);
                self.used[window] = meter.used();
                let grant = Grant { credits, used: meter.used(), charged: sent.now, sent };
                self.at(back, Event::Answer { of, grant });
            }
            Event::Answer { of, grant } => {
                if let Some(lot) = self.cells[of].granted(grant, moment(now_us)) {
                    self.at(now_us + u64::from(self.terms.hold_us), Event::Expiry { of, id: lot.id });
                }
            }
            Event::Expiry { of, id } => {
                let lot =
                    self.cells[of].expire(id).filter(|lot| lot.is_returnable(self.limit, moment(now_us)));
                if let Some(lot) = lot {
                    self.at(back, Event::Return(lot));
                }
            }
            Event::Return(lot) => {
                self.calls += 1;
                let window = window_of(lot.charged);
                self.used[window] = self.used[window].saturating_sub(lot.credits.into());
            }
        }
    }

    fn run(mut self) -> Self {
        for of in 0..self.demand.replicas {
            self.at(0, Event::Arrival(of));
        }
        while let Some(((now_us, _), event)) = self.events.pop_first() {
            if now_us >= WINDOWS as u64 * SECOND_US {
                break;
            }
            self.handle(event, now_us);
        }
        self
    }
}

#[test]
fn leases_admit_no_more_than_an_oracle_and_at_least_99_in_100_hits_of_it() {
    for (replicas, limit, tenths, in_bursts) in [
        (1, 1_000, 30, false),
        (4, 1_000, 10, false),
        (4, 1_000, 15, true),
        (16, 1_000, 30, false),
        (16, 1_000, 11, true),
        (3, 5_000, 10, false),
        (3, 5_000, 30, true),
        (16, 5_000, 5, false),
    ] {
        let demand = Demand { replicas, limit, per_sec: limit * tenths / 10, in_bursts };
        let (mut admitted, mut possible) = (0, 0);
        for seed in 0..3 {
            let twin = Twin::new(seed, demand).run();
            for window in 0..WINDOWS {
                let of_oracle = twin.asked[window].min(limit.into());
                let of_leases = twin.admitted[window];
                assert!(of_leases <= of_oracle, "{demand:?}, seed {seed}: {of_leases} of {of_oracle}");
                (admitted, possible) = (admitted + of_leases, possible + of_oracle);
            }
        }
        assert!(100 * admitted >= 99 * possible, "{demand:?}: {admitted} of {possible}");
    }
}

#[test]
fn a_hot_key_asks_the_store_a_tenth_as_often() {
    let demand = Demand { replicas: 2, limit: 20_000, per_sec: 8_000, in_bursts: false };
    let twin = Twin::new(1, demand).run();
    let asked: u64 = twin.asked.iter().sum();
    assert!(10 * twin.calls < asked, "{} calls for {asked} hits", twin.calls);
}
