//! What requests that wait together ask of one server, in as few commands as will do.
//!
//! Hits on one counter become one `INCRBY`, and the answer is handed out in the order in which they
//! came: the same that each would have got by itself. What must be decided together, and what gives
//! back, goes into one script call for each slot, and with it whatever comes later to its counters. The
//! commands for counts are sent first, so that every counter sees its requests in their order.

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::engine::algorithm::group::{Outcome, is_over};
use crate::engine::algorithm::{
    Asked, MAX_EXACT, Reading, State, Ticks, fixed_window, sliding_log, sliding_window, token_bucket,
};
use crate::engine::{Algorithm, ChargeMode, Hits, Limit, Timestamp, Vote};

/// A charge, and the counter it is for in Redis.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: Bytes,
    pub(super) limit: Limit,
    pub(super) hits: Hits,
    pub(super) mode: ChargeMode,
    pub(super) vote: Vote,
    /// How long the counter is to live, in seconds: a fixed window's from its first hit on.
    pub(super) secs: u32,
    pub(super) now: Timestamp,
}

/// What a server says of a charge. What the numbers mean depends on its algorithm: see `charge.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    outcome: Outcome,
    level: u64,
    more: [i64; 2],
}

impl Ask {
    /// What `seen` means.
    pub(super) fn reading(&self, seen: Seen) -> Reading {
        let Self { limit, hits, mode, now, .. } = *self;
        let Seen { outcome, level, more: [one, other] } = seen;
        let whole = |number: i64| u64::try_from(number).unwrap_or(0);
        let state = match limit.algorithm {
            Algorithm::FixedWindow => {
                let window_start_secs = limit.window.start_secs(now);
                State::FixedWindow(fixed_window::State { window_start_secs, used: level })
            }
            Algorithm::SlidingWindow => State::SlidingWindow(sliding_window::State {
                window: whole(other),
                current: level,
                previous: whole(one),
            }),
            Algorithm::TokenBucket { .. } => {
                State::TokenBucket(token_bucket::State { at: whole(one), level })
            }
            Algorithm::SlidingLog => {
                let over = is_over(mode, hits, level, limit.capacity(), outcome);
                let last = if over { one } else { other };
                let reset = u64::try_from(last).map(|at| sliding_log::until_it_leaves(at, limit, now));
                return Reading { outcome, used: level, reset: reset.unwrap_or_default() };
            }
        };
        let used = match &state {
            State::SlidingWindow(state) => state.meter(limit, now).used(),
            State::TokenBucket(state) => state.meter(limit, now).used(),
            State::FixedWindow(_) | State::SlidingLog(_) => level,
        };
        Reading::of(Asked { limit, hits, mode, now }, &state, used, outcome)
    }
}

/// The charges of one request that one server carries out.
pub(super) type Asks = SmallVec<[Ask; 2]>;

/// Hits on one counter: `INCRBY`, or `GET` where there are none.
#[derive(Debug)]
pub(super) struct Count {
    pub(super) key: Bytes,
    pub(super) hits: u64,
    pub(super) secs: u32,
}

/// One call of `charge.lua`.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) keys: Vec<Bytes>,
    /// As the script reads them.
    pub(super) requests: BytesMut,
    /// How many charges there are in `requests`.
    charges: usize,
    /// Whether the server must be told that the slot is on its way to it.
    pub(super) asking: bool,
}

/// Requests, and the commands that carry them out.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) counts: Vec<Count>,
    pub(super) calls: Vec<Call>,
    /// Where the answers are, for each ask of each request.
    places: Vec<Place>,
    owners: HashMap<Bytes, Owner, RandomState>,
    call_of_slot: HashMap<u16, usize, RandomState>,
}

/// What became of the commands; `None` for one that was not answered.
#[derive(Debug)]
pub(super) struct Replies<E> {
    pub(super) counts: Vec<Option<Result<i64, E>>>,
    pub(super) calls: Vec<Option<Result<Vec<i64>, E>>>,
}

/// The command that a counter belongs to.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Count(usize),
    Call { call: usize, counter: u16 },
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// So many hits into this count.
    Count {
        count: usize,
        hits: u64,
    },
    Call {
        call: usize,
        charge: usize,
    },
}

impl Batch {
    /// Adds a request whose counters lie in `slot`; its answers come after those of the requests before.
    pub(super) fn add(&mut self, asks: &Asks, slot: u16, asking: bool) {
        if asking {
            self.calls.push(Call { asking, ..Call::default() });
            let call = self.calls.len() - 1;
            return self.add_to_call(asks, call, false);
        }
        let owned = |ask: &Ask| matches!(self.owners.get(&ask.key), Some(Owner::Call { .. }));
        if asks.iter().any(|ask| needs_script(ask) || owned(ask)) {
            let calls = &mut self.calls;
            let call = *self.call_of_slot.entry(slot).or_insert_with(|| {
                calls.push(Call::default());
                calls.len() - 1
            });
            return self.add_to_call(asks, call, true);
        }
        for ask in asks {
            self.count(ask);
        }
    }

    fn count(&mut self, ask: &Ask) {
        let hits = match ask.hits {
            Hits::Add(hits) => hits,
            Hits::Refund(_) => 0,
        };
        let counts = &mut self.counts;
        let owner = self.owners.entry_ref(&ask.key).or_insert_with(|| {
            counts.push(Count { key: ask.key.clone(), hits: 0, secs: ask.secs });
            Owner::Count(counts.len() - 1)
        });
        let Owner::Count(index) = *owner else { return };
        if let Some(count) = self.counts.get_mut(index) {
            count.hits += u64::from(hits);
            self.places.push(Place::Count { count: index, hits: count.hits });
        }
    }

    /// With `keep`, what comes later to these counters comes after this.
    fn add_to_call(&mut self, asks: &Asks, index: usize, keep: bool) {
        let Some(call) = self.calls.get_mut(index) else { return };
        call.requests.put_u8(u8::try_from(asks.len()).unwrap_or(u8::MAX));
        for ask in asks {
            let known = match self.owners.get(&ask.key) {
                Some(Owner::Call { call, counter }) if keep && *call == index => Some(*counter),
                _ if keep => None,
                _ => call.keys.iter().position(|key| *key == ask.key).map(number),
            };
            let counter = known.unwrap_or_else(|| {
                call.keys.push(ask.key.clone());
                number(call.keys.len() - 1)
            });
            if keep {
                self.owners.insert(ask.key.clone(), Owner::Call { call: index, counter });
            }
            pack(&mut call.requests, ask, counter);
            self.places.push(Place::Call { call: index, charge: call.charges });
            call.charges += 1;
        }
    }

    /// What is said of each ask, in the order in which they were added.
    pub(super) fn seen<'a, E>(
        &'a self,
        replies: &'a Replies<E>,
    ) -> impl Iterator<Item = Option<Result<Seen, &'a E>>> {
        self.places.iter().map(|place| match *place {
            Place::Count { count, hits } => {
                let all = self.counts.get(count)?.hits;
                let reply = replies.counts.get(count)?.as_ref()?;
                // A counter below zero is not ours; it has been tampered with, and counts as empty.
                let used = |after: &i64| u64::try_from(*after).unwrap_or(0).saturating_sub(all - hits);
                let seen = |after| Seen { outcome: Outcome::Charged, level: used(after), more: [0; 2] };
                Some(reply.as_ref().map(seen))
            }
            Place::Call { call, charge } => {
                let reply = replies.calls.get(call)?.as_ref()?;
                match reply {
                    Ok(numbers) => seen(numbers.get(4 * charge..4 * charge + 4)?).map(Ok),
                    Err(error) => Some(Err(error)),
                }
            }
        })
    }
}

/// Redis counts from 1 in `KEYS`.
fn number(index: usize) -> u16 {
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}

fn needs_script(ask: &Ask) -> bool {
    ask.limit.algorithm != Algorithm::FixedWindow
        || match ask.hits {
            Hits::Refund(hits) => hits > 0,
            Hits::Add(_) => ask.mode == ChargeMode::IfAllowed,
        }
}

fn pack(requests: &mut BytesMut, ask: &Ask, counter: u16) {
    let algorithm = match ask.limit.algorithm {
        Algorithm::FixedWindow => 0,
        Algorithm::SlidingWindow => 1,
        Algorithm::SlidingLog => 2,
        Algorithm::TokenBucket { .. } => 3,
    };
    let (kind, hits) = match (ask.hits, ask.mode) {
        (Hits::Add(hits), ChargeMode::Always) => (0, hits),
        (Hits::Add(hits), ChargeMode::IfAllowed) => (1, hits),
        (Hits::Refund(hits), _) => (2, hits),
    };
    let vote = match ask.vote {
        Vote::Enforced => 0,
        Vote::Quota => 1,
        Vote::Shadow => 2,
        Vote::ShadowQuota => 3,
    };
    requests.put_u16(counter);
    requests.put_slice(&[algorithm, kind, vote]);
    requests.put_u32(hits);
    requests.put_u32(ask.limit.capacity());
    requests.put_u32(ask.secs);
    if ask.limit.algorithm != Algorithm::FixedWindow {
        let ticks = Ticks::of(ask.limit, ask.now);
        requests.put_u32(ask.limit.requests_per_unit);
        requests.put_f64(exact(ticks.window));
        requests.put_f64(exact(ticks.now));
    }
}

/// Numbers that Lua counts with are exact as far as they go here.
#[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
fn exact(number: u64) -> f64 {
    number.min(MAX_EXACT) as f64
}

fn seen(numbers: &[i64]) -> Option<Seen> {
    let [outcome, level, one, other] = *numbers else { return None };
    let outcome = match outcome {
        0 => Outcome::Charged,
        1 => Outcome::Denied,
        2 => Outcome::Withheld,
        _ => return None,
    };
    Some(Seen { outcome, level: u64::try_from(level).ok()?, more: [one, other] })
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

    use super::*;
    use crate::engine::Unit;
    use crate::engine::algorithm::{Meter, group};

    type Counters = HashMap<Bytes, u64>;

    /// What one request alone would come to.
    fn serve(asks: &[Ask], counters: &mut Counters) -> Vec<Seen> {
        let mut keys: Vec<&Bytes> = asks.iter().map(|ask| &ask.key).collect();
        keys.sort();
        keys.dedup();
        let meter = |key: &&Bytes| fixed_window::meter(counters.get(*key).copied().unwrap_or(0));
        let mut meters: Vec<Meter> = keys.iter().map(meter).collect();
        let place = |ask: &Ask| keys.iter().position(|key| *key == &ask.key).expect("its key");
        let of_group = |ask: &Ask| group::Ask {
            counter: place(ask),
            capacity: ask.limit.capacity(),
            hits: ask.hits,
            mode: ask.mode,
            vote: ask.vote,
        };
        let group: Vec<group::Ask> = asks.iter().map(of_group).collect();
        let outcomes = group::charge(&group, &mut meters);
        for (key, meter) in keys.iter().zip(meters) {
            counters.insert((*key).clone(), meter.level);
        }
        outcomes
            .into_iter()
            .map(|(meter, outcome)| Seen { outcome, level: meter.level, more: [0; 2] })
            .collect()
    }

    /// What `charge.lua` does with a call.
    fn run(call: &Call, counters: &mut Counters) -> Vec<i64> {
        let mut requests = call.requests.clone().freeze();
        let mut reply = Vec::new();
        while requests.has_remaining() {
            let len = requests.get_u8();
            let asks: Vec<Ask> = (0..len).map(|_| unpack(&mut requests, &call.keys)).collect();
            for Seen { outcome, level, .. } in serve(&asks, counters) {
                let outcome = match outcome {
                    Outcome::Charged => 0,
                    Outcome::Denied => 1,
                    _ => 2,
                };
                reply.extend([outcome, i64::try_from(level).expect("few"), 0, 0]);
            }
        }
        reply
    }

    fn unpack(requests: &mut Bytes, keys: &[Bytes]) -> Ask {
        let key = keys[usize::from(requests.get_u16()) - 1].clone();
        assert_eq!(requests.get_u8(), 0, "a fixed window");
        let (kind, vote) = (requests.get_u8(), requests.get_u8());
        let hits = requests.get_u32();
        Ask {
            key,
            now: Timestamp::default(),
            hits: if kind == 2 { Hits::Refund(hits) } else { Hits::Add(hits) },
            mode: if kind == 1 { ChargeMode::IfAllowed } else { ChargeMode::Always },
            vote: [Vote::Enforced, Vote::Quota, Vote::Shadow, Vote::ShadowQuota][usize::from(vote)],
            limit: Limit::per(requests.get_u32(), Unit::Minute),
            secs: requests.get_u32(),
        }
    }

    fn some_ask() -> impl Strategy<Value = Ask> {
        let hits = prop_oneof![
            4 => (1..6_u32).prop_map(Hits::Add),
            1 => Just(Hits::Add(0)),
            1 => (0..9_u32).prop_map(Hits::Refund),
        ];
        let mode = prop_oneof![3 => Just(ChargeMode::Always), 1 => Just(ChargeMode::IfAllowed)];
        let vote = prop_oneof![
            4 => Just(Vote::Enforced),
            1 => Just(Vote::Quota),
            1 => Just(Vote::Shadow),
            1 => Just(Vote::ShadowQuota)
        ];
        (0..6_u8, hits, 0..20_u32, mode, vote).prop_map(|(key, hits, quota, mode, vote)| Ask {
            key: Bytes::from(vec![key]),
            limit: Limit::per(quota, Unit::Minute),
            now: Timestamp::default(),
            hits,
            mode,
            vote,
            secs: 60,
        })
    }

    /// The slot of a key: three of them, with two keys each.
    fn slot(ask: &Ask) -> u16 {
        u16::from(ask.key[0] / 2)
    }

    fn check(requests: &[Vec<Ask>]) -> Result<(), TestCaseError> {
        // What one server is asked for one request lies in one slot.
        let requests: Vec<Asks> = requests
            .iter()
            .map(|asks| asks.iter().filter(|ask| slot(ask) == slot(&asks[0])).cloned().collect())
            .collect();
        let mut serial = Counters::new();
        let expected: Vec<Seen> = requests.iter().flat_map(|asks| serve(asks, &mut serial)).collect();

        let mut batch = Batch::default();
        for asks in &requests {
            batch.add(asks, slot(&asks[0]), false);
        }
        let mut counters = Counters::new();
        let mut replies = Replies::<()> { counts: Vec::new(), calls: Vec::new() };
        for Count { key, hits, .. } in &batch.counts {
            let counter = counters.entry(key.clone()).or_default();
            *counter += hits;
            replies.counts.push(Some(Ok(i64::try_from(*counter).expect("few"))));
        }
        for call in &batch.calls {
            replies.calls.push(Some(Ok(run(call, &mut counters))));
        }
        let seen: Vec<Seen> =
            batch.seen(&replies).map(|seen| seen.expect("a reply").expect("an answer")).collect();
        prop_assert_eq!(seen, expected);
        serial.retain(|_, used| *used > 0);
        counters.retain(|_, used| *used > 0);
        prop_assert_eq!(counters, serial);
        let mut counted: Vec<&Bytes> = batch.counts.iter().map(|count| &count.key).collect();
        counted.sort();
        counted.dedup();
        prop_assert_eq!(counted.len(), batch.counts.len(), "one command for each counter");
        prop_assert!(batch.calls.len() <= 3, "one call for each slot");
        Ok(())
    }

    proptest! {
        #[test]
        fn each_is_told_what_it_would_have_been_told_alone_in_the_order_of_arrival(
            requests in proptest::collection::vec(proptest::collection::vec(some_ask(), 1..5), 1..30),
        ) {
            check(&requests)?;
        }
    }

    #[test]
    fn hits_on_one_counter_are_one_command() {
        let ask = Ask {
            key: Bytes::from_static(b"hot"),
            limit: Limit::per(10, Unit::Minute),
            now: Timestamp::default(),
            hits: Hits::Add(2),
            mode: ChargeMode::Always,
            vote: Vote::Enforced,
            secs: 60,
        };
        let mut batch = Batch::default();
        for _ in 0..256 {
            batch.add(&[ask.clone()].into_iter().collect(), 0, false);
        }
        assert_eq!((batch.counts.len(), batch.counts[0].hits, batch.calls.len()), (1, 512, 0));
        let replies = Replies::<()> { counts: vec![Some(Ok(1_512))], calls: Vec::new() };
        let used: Vec<u64> = batch.seen(&replies).map(|seen| seen.unwrap().unwrap().level).collect();
        assert_eq!(used, (0..256).map(|turn| 1_002 + 2 * turn).collect::<Vec<u64>>());
    }
}
