//! Batch: charges of queued requests to one server, in as few commands as possible.
//!
//! Hits on one counter become one `INCRBY`, and the answer is handed out in the order in which they
//! came: the same that each would have got by itself. What must be decided together, and what gives
//! back, goes into one script call for each slot and shape ([`Shape`]), and with it whatever comes later to its
//! counters. The commands for counts are sent first, so that every counter sees its requests in their order.

mod fixed_windows;
mod msgpack;
mod protocol;
mod reserve;
mod shape;
mod single;

use std::iter;

use bytes::{BufMut as _, Bytes, BytesMut};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use self::fixed_windows::{FixedWindows, WindowIndex};
#[cfg(test)]
pub(super) use self::msgpack::unpack;
pub(super) use self::protocol::RawReading;
use self::protocol::{KeyIndexes, pack, seen};
pub(super) use self::reserve::SlotReservation;
pub(super) use self::shape::Shape;
use self::single::Singles;
use super::settings::ServerClock;
use crate::engine::algorithm::group::{ChargeOutcome, counts_only_if_allowed};
use crate::engine::{Algorithm, ChargeMode, Enforcement, FailurePolicy, Hits, Hold, Lease, Limit, Timestamp};
use crate::store::Lockout;
use crate::store::positions::Positions;

/// Upper bound on the charges of one request: their number has fifteen bits in the script.
const MAX_CHARGES: u16 = u16::MAX >> 1;
/// Upper bound on the keys of a call of one shape: each has a byte for its form.
const MAX_SHAPED_KEYS: usize = 255;

/// A [`crate::store::Charge`], and the counter it is for in Redis.
#[derive(Clone, Debug)]
pub(super) struct SlotCharge {
    pub(super) key: Bytes,
    pub(super) limit: Limit,
    pub(super) hits: Hits,
    pub(super) mode: ChargeMode,
    pub(super) enforcement: Enforcement,
    pub(super) on_failure: FailurePolicy,
    pub(super) lockout: Option<Lockout>,
    pub(super) hold: Option<Box<Hold>>,
    pub(super) lease: Option<Lease>,
    pub(super) reserve: Option<Box<SlotReservation>>,
    /// True if a counter elsewhere has denied its request already.
    pub(super) denied: bool,
    /// TTL of the counter, in seconds: for a fixed window from its first hit on, else from the last.
    pub(super) ttl_secs: u32,
    pub(super) now: Timestamp,
}

impl SlotCharge {
    /// True if only the script can carry it out.
    pub(super) fn needs_script(&self) -> bool {
        self.lockout.is_some()
            || matches!(self.lease, Some(Lease::Ask { .. }))
            || self.reserve.is_some()
            || self.limit.algorithm != Algorithm::FixedWindow
            || match self.hits {
                Hits::Refund(hits) => hits > 0,
                Hits::Add(_) => counts_only_if_allowed(self.mode, self.hits),
            }
    }
}

/// Form in which a request is sent to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// Together with other requests to its slot.
    Batched,
    /// By itself: it cannot share a script call with other requests to its slot.
    Alone,
    /// By itself, after `ASKING`: the server is importing the slot.
    Asking,
}

/// The charges of one request that one server carries out.
pub(super) type SlotCharges = SmallVec<[SlotCharge; 2]>;

/// Hits on one counter: `INCRBY`, or `GET` for a peek.
#[derive(Debug)]
pub(super) struct CounterCommand {
    pub(super) key: Bytes,
    pub(super) hits: u64,
    pub(super) ttl_secs: u32,
    /// Source of its TTL. Set when it is sent.
    pub(super) creation: Creation,
}

/// Source of the TTL of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Creation {
    /// It is only read.
    #[default]
    None,
    /// It has been seen before, and is taken to have one.
    Known,
    /// It is created with its TTL, unless it exists. Has its hash, which is known from then on.
    Created(u64),
    /// It existed. Has its hash, as [`Self::Created`].
    Existed(u64),
    /// The command that creates it failed.
    Failed,
}

/// One call of a script.
#[derive(Debug)]
pub(super) struct ScriptCall {
    pub(super) shape: Shape,
    pub(super) keys: Vec<Bytes>,
    requests: CallRequests,
    /// True if ASKING must precede the call, since its slot is being imported.
    pub(super) asking: bool,
    /// The time to go by; `None` for the server's own.
    now: Option<Timestamp>,
}

/// Requests of a call, as its script reads them.
#[derive(Debug)]
enum CallRequests {
    General {
        requests: BytesMut,
        /// Charges in `requests`, and those of them with a lockout, and with holds.
        charges: usize,
        lockouts: usize,
        budgets: usize,
    },
    FixedWindows(FixedWindows),
    Singles(Singles),
}

impl ScriptCall {
    fn new(shape: Shape) -> Self {
        let requests = match shape {
            Shape::General | Shape::Reserve => {
                CallRequests::General { requests: BytesMut::new(), charges: 0, lockouts: 0, budgets: 0 }
            }
            Shape::FixedWindows => CallRequests::FixedWindows(FixedWindows::default()),
            Shape::SlidingWindow | Shape::TokenBucket => CallRequests::Singles(Singles::default()),
        };
        Self { shape, keys: Vec::new(), requests, asking: false, now: None }
    }

    /// True if there is room for one more request with so many charges.
    fn has_room(&self, charges: usize) -> bool {
        match self.shape {
            Shape::General => true,
            Shape::Reserve => reserve::fits(self.keys.len(), charges),
            _ => self.keys.len() + charges <= MAX_SHAPED_KEYS,
        }
    }

    /// Arguments of the script, after the keys.
    pub(super) fn arguments(&self) -> SmallVec<[Bytes; 3]> {
        let now = || match self.now {
            Some(now) => Bytes::from(now.as_micros().to_string()),
            None => Bytes::new(),
        };
        match &self.requests {
            CallRequests::General { requests, .. } => {
                [Bytes::copy_from_slice(requests), now()].into_iter().collect()
            }
            CallRequests::FixedWindows(requests) => requests.arguments().into(),
            CallRequests::Singles(requests) => {
                requests.arguments().into_iter().chain(iter::once_with(now)).collect()
            }
        }
    }

    /// The reading at `index` in a reply; `None` if there is none.
    fn seen(&self, index: CallIndex, numbers: &[i64]) -> Option<RawReading> {
        match (&self.requests, index) {
            (
                CallRequests::General { charges, lockouts, .. },
                CallIndex::General { charge, lockout, budget },
            ) => {
                let ends_us = match lockout {
                    None => 0,
                    Some(lockout) => *numbers.get(4 * charges + lockout)?,
                };
                let now = Timestamp::from_micros(u64::try_from(*numbers.last()?).ok()?);
                let raw = seen(numbers.get(4 * charge..4 * charge + 4)?, ends_us, now)?;
                let Some(budget) = budget else { return Some(raw) };
                let first = 4 * charges + lockouts + reserve::NUMBERS * budget;
                let budget = reserve::seen(numbers.get(first..first + reserve::NUMBERS)?)?;
                Some(RawReading { budget: Some(budget), ..raw })
            }
            (CallRequests::FixedWindows(requests), CallIndex::FixedWindows(index)) => {
                requests.seen(index, numbers)
            }
            (CallRequests::Singles(requests), CallIndex::Single(position)) => {
                requests.seen(position, numbers)
            }
            _ => None,
        }
    }
}

/// Requests, and the commands that carry them out.
#[derive(Debug, Default)]
pub(super) struct Batch {
    clock: ServerClock,
    pub(super) counts: Vec<CounterCommand>,
    pub(super) calls: Vec<ScriptCall>,
    /// Index of the reply to each charge of each request, in order.
    reply_indexes: Vec<ReplyIndex>,
    owners: HashMap<Bytes, Owner, RandomState>,
    call_of: HashMap<(u16, Shape), usize, RandomState>,
}

/// Replies to the commands; `None` for one that was not answered.
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
enum ReplyIndex {
    /// So many hits into this count.
    Count {
        count: usize,
        hits: u64,
    },
    Call {
        call: usize,
        index: CallIndex,
    },
}

/// Index of a charge in the reply to its call.
#[derive(Clone, Copy, Debug)]
enum CallIndex {
    General {
        charge: usize,
        /// Which of the call's charges with a lockout.
        lockout: Option<usize>,
        /// Which of the call's charges to a counter with holds.
        budget: Option<usize>,
    },
    FixedWindows(WindowIndex),
    Single(usize),
}

impl Batch {
    /// Nothing yet.
    pub(super) fn new(clock: ServerClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Adds a request whose counters lie in `slot`; its answers come after those of the requests before.
    pub(super) fn add(&mut self, charges: &SlotCharges, slot: u16, dispatch: Dispatch) {
        if dispatch != Dispatch::Batched {
            let asking = dispatch == Dispatch::Asking;
            self.calls.push(ScriptCall { asking, ..ScriptCall::new(Shape::general(charges)) });
            let call = self.calls.len() - 1;
            return self.add_to_call(charges, call, false);
        }
        let owned = |charge: &SlotCharge| matches!(self.owners.get(&charge.key), Some(Owner::Call { .. }));
        if charges.iter().any(|charge| charge.needs_script() || owned(charge)) {
            let call = self.call_for(charges, slot);
            return self.add_to_call(charges, call, true);
        }
        for charge in charges {
            self.count(charge);
        }
    }

    /// The call that a request joins: that of its shape, unless a later one has counters of the request, which must be
    /// charged in the order of arrival. Then it joins a general call behind that one.
    fn call_for(&mut self, charges: &SlotCharges, slot: u16) -> usize {
        let owner = |key: &Bytes| match self.owners.get(key) {
            Some(Owner::Call { call, .. }) => Some(*call),
            Some(Owner::Count(_)) | None => None,
        };
        let last_of = |charge: &SlotCharge| {
            owner(&charge.key).max(charge.lockout.as_ref().and_then(|lockout| owner(&lockout.key)))
        };
        let last = charges.iter().map(last_of).max().flatten();
        let is_in_order = |call: &usize| last.is_none_or(|last| last <= *call);
        let call_of = |shape| self.call_of.get(&(slot, shape)).copied();
        let mut shape = Shape::of(charges);
        let mut known = call_of(shape);
        if known.is_some_and(|call| !is_in_order(&call)) {
            shape = Shape::general(charges);
            known = call_of(shape).filter(is_in_order);
        }
        let has_room = |call: &usize| self.calls.get(*call).is_some_and(|call| call.has_room(charges.len()));
        known.filter(has_room).unwrap_or_else(|| {
            self.calls.push(ScriptCall::new(shape));
            self.call_of.insert((slot, shape), self.calls.len() - 1);
            self.calls.len() - 1
        })
    }

    fn count(&mut self, charge: &SlotCharge) {
        let counts = &mut self.counts;
        let owner = self.owners.entry_ref(&charge.key).or_insert_with(|| {
            counts.push(CounterCommand {
                key: charge.key.clone(),
                hits: 0,
                ttl_secs: charge.ttl_secs,
                creation: Creation::None,
            });
            Owner::Count(counts.len() - 1)
        });
        let Owner::Count(index) = *owner else { return };
        if let Some(count) = self.counts.get_mut(index) {
            count.hits += charge.added_hits();
            self.reply_indexes.push(ReplyIndex::Count { count: index, hits: count.hits });
        }
    }

    /// With `keep`, what comes later to these counters comes after this.
    fn add_to_call(&mut self, charges: &SlotCharges, call_index: usize, keep: bool) {
        let Self { clock, calls, owners, reply_indexes, .. } = self;
        let Some(call) = calls.get_mut(call_index) else { return };
        if *clock == ServerClock::Callers {
            // One time for all of the call, as it is with the server's own.
            call.now = charges.iter().map(|charge| charge.now).chain(call.now).max();
        }
        // A call that nothing is added to later has its own numbers, from the first key on.
        let mut own = Positions::default();
        let mut number_of = |keys: &mut Vec<Bytes>, key: &Bytes| {
            let known = match owners.get(key) {
                _ if !keep => {
                    let (position, is_new) = own.of(key.clone());
                    (!is_new).then(|| number(position))
                }
                Some(Owner::Call { call, counter }) if *call == call_index => Some(*counter),
                Some(_) | None => None,
            };
            let counter = known.unwrap_or_else(|| {
                keys.push(key.clone());
                number(keys.len() - 1)
            });
            if keep {
                owners.insert(key.clone(), Owner::Call { call: call_index, counter });
            }
            counter
        };
        let mut place = |index| reply_indexes.push(ReplyIndex::Call { call: call_index, index });
        match &mut call.requests {
            CallRequests::General { requests, charges: count, lockouts, budgets } => {
                let denied = charges.iter().any(|charge| charge.denied);
                let len = u16::try_from(charges.len()).unwrap_or(MAX_CHARGES).min(MAX_CHARGES);
                requests.put_u16(len | u16::from(denied) << 15);
                for charge in charges {
                    let counter = number_of(&mut call.keys, &charge.key);
                    let lockout =
                        charge.lockout.as_ref().map(|lockout| number_of(&mut call.keys, &lockout.key));
                    let mut holds_of = |reserve: &SlotReservation| {
                        reserve.all_keys().map(|key| key.map_or(0, |key| number_of(&mut call.keys, &key)))
                    };
                    let holds = charge.reserve.as_deref().map(&mut holds_of);
                    pack(requests, charge, KeyIndexes { counter, lockout, holds });
                    let (lockout, budget) = (lockout.map(|_| *lockouts), holds.map(|_| *budgets));
                    place(CallIndex::General { charge: *count, lockout, budget });
                    *count += 1;
                    *lockouts += usize::from(lockout.is_some());
                    *budgets += usize::from(budget.is_some());
                }
            }
            CallRequests::FixedWindows(requests) => {
                let position = |charge: &SlotCharge| usize::from(number_of(&mut call.keys, &charge.key)) - 1;
                let positions: SmallVec<[usize; 4]> = charges.iter().map(position).collect();
                requests.add(charges, &positions).for_each(|index| place(CallIndex::FixedWindows(index)));
            }
            CallRequests::Singles(requests) => {
                for charge in charges {
                    owners.insert(charge.key.clone(), Owner::Call { call: call_index, counter: 0 });
                    call.keys.push(charge.key.clone());
                    place(CallIndex::Single(requests.add(charge)));
                }
            }
        }
    }

    /// Number of charges that were added.
    pub(super) fn len(&self) -> usize {
        self.reply_indexes.len()
    }

    /// True if the charge at `index` is part of this call.
    pub(super) fn is_of_call(&self, index: usize, of: usize) -> bool {
        matches!(self.reply_indexes.get(index), Some(ReplyIndex::Call { call, .. }) if *call == of)
    }

    /// True if Redis has replied to the charge at `index`, in the order in which they were added.
    pub(super) fn is_answered<E>(&self, index: usize, replies: &Replies<E>) -> bool {
        match self.reply_indexes.get(index) {
            Some(ReplyIndex::Count { count, .. }) => replies.counts.get(*count).is_some_and(Option::is_some),
            Some(ReplyIndex::Call { call, .. }) => replies.calls.get(*call).is_some_and(Option::is_some),
            None => true,
        }
    }

    /// The reply to the charge at `index`; `None` while there is none.
    pub(super) fn seen<'a, E>(
        &'a self,
        index: usize,
        replies: &'a Replies<E>,
    ) -> Option<Result<RawReading, &'a E>> {
        match *self.reply_indexes.get(index)? {
            ReplyIndex::Count { count, hits } => {
                let all = self.counts.get(count)?.hits;
                let reply = replies.counts.get(count)?.as_ref()?;
                // A counter below zero is not ours; it has been tampered with, and counts as empty.
                let used = |after: &i64| u64::try_from(*after).unwrap_or(0).saturating_sub(all - hits);
                let outcome = Some(ChargeOutcome::Charged);
                Some(reply.as_ref().map(|after| RawReading {
                    outcome,
                    level: used(after),
                    ..RawReading::UNREADABLE
                }))
            }
            ReplyIndex::Call { call, index } => {
                let reply = replies.calls.get(call)?.as_ref()?;
                let call = self.calls.get(call)?;
                let read = |numbers: &Vec<i64>| call.seen(index, numbers).unwrap_or(RawReading::UNREADABLE);
                Some(reply.as_ref().map(read))
            }
        }
    }
}

/// Redis counts from 1 in `KEYS`.
fn number(index: usize) -> u16 {
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
