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

use crate::engine::algorithm::group::Outcome;
use crate::engine::{ChargeMode, Hits, Vote};
use crate::store::Reading;

/// A charge, and the counter it is for in Redis.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: Bytes,
    pub(super) hits: Hits,
    pub(super) quota: u32,
    pub(super) mode: ChargeMode,
    pub(super) vote: Vote,
    /// How long the counter is to live, in seconds, if it is new.
    pub(super) secs: u32,
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

    /// What each ask is told, in the order in which they were added.
    pub(super) fn readings<'a, E>(
        &'a self,
        replies: &'a Replies<E>,
    ) -> impl Iterator<Item = Option<Result<Reading, &'a E>>> {
        self.places.iter().map(|place| match *place {
            Place::Count { count, hits } => {
                let all = self.counts.get(count)?.hits;
                let reply = replies.counts.get(count)?.as_ref()?;
                // A counter below zero is not ours; it has been tampered with, and counts as empty.
                let used = |after: &i64| u64::try_from(*after).unwrap_or(0).saturating_sub(all - hits);
                let reading = |after| Reading { used: used(after), outcome: Outcome::Charged };
                Some(reply.as_ref().map(reading))
            }
            Place::Call { call, charge } => {
                let reply = replies.calls.get(call)?.as_ref()?;
                match reply {
                    Ok(numbers) => reading(numbers.get(2 * charge..2 * charge + 2)?).map(Ok),
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

const fn needs_script(ask: &Ask) -> bool {
    match ask.hits {
        Hits::Refund(hits) => hits > 0,
        Hits::Add(_) => matches!(ask.mode, ChargeMode::IfAllowed),
    }
}

fn pack(requests: &mut BytesMut, ask: &Ask, counter: u16) {
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
    requests.put_u8(kind);
    requests.put_u8(vote);
    requests.put_u32(hits);
    requests.put_u32(ask.quota);
    requests.put_u32(ask.secs);
}

fn reading(numbers: &[i64]) -> Option<Reading> {
    let [used, outcome] = *numbers else { return None };
    let outcome = match outcome {
        0 => Outcome::Charged,
        1 => Outcome::Denied,
        2 => Outcome::Withheld,
        _ => return None,
    };
    Some(Reading { used: u64::try_from(used).ok()?, outcome })
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

    use super::*;
    use crate::engine::algorithm::group;

    type Counters = HashMap<Bytes, u64>;

    /// What one request alone would come to.
    fn serve(asks: &[Ask], counters: &mut Counters) -> Vec<Reading> {
        let mut keys: Vec<&Bytes> = asks.iter().map(|ask| &ask.key).collect();
        keys.sort();
        keys.dedup();
        let mut used: Vec<u64> = keys.iter().map(|key| counters.get(*key).copied().unwrap_or(0)).collect();
        let place = |ask: &Ask| keys.iter().position(|key| *key == &ask.key).expect("its key");
        let of_group = |ask: &Ask| group::Ask {
            counter: place(ask),
            quota: ask.quota,
            hits: ask.hits,
            mode: ask.mode,
            vote: ask.vote,
        };
        let group: Vec<group::Ask> = asks.iter().map(of_group).collect();
        let outcomes = group::charge(&group, &mut used);
        for (key, used) in keys.iter().zip(used) {
            counters.insert((*key).clone(), used);
        }
        outcomes.into_iter().map(|(used, outcome)| Reading { used, outcome }).collect()
    }

    /// What `charge.lua` does with a call.
    fn run(call: &Call, counters: &mut Counters) -> Vec<i64> {
        let mut requests = call.requests.clone().freeze();
        let mut reply = Vec::new();
        while requests.has_remaining() {
            let len = requests.get_u8();
            let asks: Vec<Ask> = (0..len).map(|_| unpack(&mut requests, &call.keys)).collect();
            for Reading { used, outcome } in serve(&asks, counters) {
                let outcome = match outcome {
                    Outcome::Charged => 0,
                    Outcome::Denied => 1,
                    _ => 2,
                };
                reply.extend([i64::try_from(used).expect("few"), outcome]);
            }
        }
        reply
    }

    fn unpack(requests: &mut Bytes, keys: &[Bytes]) -> Ask {
        let key = keys[usize::from(requests.get_u16()) - 1].clone();
        let (kind, vote) = (requests.get_u8(), requests.get_u8());
        let hits = requests.get_u32();
        Ask {
            key,
            hits: if kind == 2 { Hits::Refund(hits) } else { Hits::Add(hits) },
            mode: if kind == 1 { ChargeMode::IfAllowed } else { ChargeMode::Always },
            vote: [Vote::Enforced, Vote::Quota, Vote::Shadow, Vote::ShadowQuota][usize::from(vote)],
            quota: requests.get_u32(),
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
            hits,
            quota,
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
        let expected: Vec<Reading> = requests.iter().flat_map(|asks| serve(asks, &mut serial)).collect();

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
        let readings: Vec<Reading> =
            batch.readings(&replies).map(|reading| reading.expect("a reply").expect("a reading")).collect();
        prop_assert_eq!(readings, expected);
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
            hits: Hits::Add(2),
            quota: 10,
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
        let used: Vec<u64> = batch.readings(&replies).map(|reading| reading.unwrap().unwrap().used).collect();
        assert_eq!(used, (0..256).map(|turn| 1_002 + 2 * turn).collect::<Vec<u64>>());
    }
}
