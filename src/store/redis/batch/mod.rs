//! Batch: charges of queued requests to one server, in as few commands as possible.
//!
//! Hits on one counter become one `INCRBY`, and the answer is handed out in the order in which they
//! came: the same that each would have got by itself. What must be decided together, and what gives
//! back, goes into one script call for each slot, and with it whatever comes later to its counters. The
//! commands for counts are sent first, so that every counter sees its requests in their order.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::settings::ServerClock;
use crate::engine::algorithm::group::{ChargeOutcome, counts_only_if_allowed, is_over};
use crate::engine::algorithm::{
    ChargeContext, CounterState, MAX_EXACT, Reading, Ticks, fixed_window, sliding_log, sliding_window,
    token_bucket,
};
use crate::engine::lockout::Block;
use crate::engine::{Algorithm, ChargeMode, Enforcement, FailurePolicy, Hits, Limit, Timestamp};
use crate::store::positions::Positions;
use crate::store::{Lockout, StoreError};

/// Upper bound on the charges of one request: their number has fifteen bits in the script.
const MAX_CHARGES: u16 = u16::MAX >> 1;

/// A charge, and the counter it is for in Redis.
#[derive(Clone, Debug)]
pub(super) struct SlotCharge {
    pub(super) key: Bytes,
    pub(super) limit: Limit,
    pub(super) hits: Hits,
    pub(super) mode: ChargeMode,
    pub(super) enforcement: Enforcement,
    pub(super) on_failure: FailurePolicy,
    pub(super) lockout: Option<Lockout>,
    /// Its request is denied already, by what was not asked here.
    pub(super) denied: bool,
    /// TTL of the counter, in seconds: for a fixed window from its first hit on, else from the last.
    pub(super) ttl_secs: u32,
    pub(super) now: Timestamp,
}

/// Reply to one charge. The meaning of the numbers depends on its algorithm: see `charge.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawReading {
    /// `None` where a counter of its request holds what somebody else wrote.
    outcome: Option<ChargeOutcome>,
    level: u64,
    more: [i64; 2],
    /// When the lockout ends, or did, in microseconds since the epoch; 0 without one.
    ends_us: u64,
    /// When the script ran.
    now: Timestamp,
}

impl SlotCharge {
    /// True if it takes the script to carry it out.
    pub(super) fn needs_script(&self) -> bool {
        self.lockout.is_some()
            || self.limit.algorithm != Algorithm::FixedWindow
            || match self.hits {
                Hits::Refund(hits) => hits > 0,
                Hits::Add(_) => counts_only_if_allowed(self.mode, self.hits),
            }
    }

    /// Reading that `seen` stands for.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where somebody else wrote into a counter of its request.
    pub(super) fn reading(&self, seen: RawReading) -> Result<Reading, StoreError> {
        let unreadable = || StoreError::Rejected("a counter holds what tollgate did not write".to_owned());
        let outcome = seen.outcome.ok_or_else(unreadable)?;
        Ok(self.reading_of_limit(seen, outcome).locked_until(seen.ends_us, seen.now))
    }

    fn reading_of_limit(&self, seen: RawReading, outcome: ChargeOutcome) -> Reading {
        let Self { limit, hits, mode, .. } = *self;
        let RawReading { level, more: [one, other], .. } = seen;
        // Which window it is was decided here, and how much time has passed there.
        let now = if limit.algorithm == Algorithm::FixedWindow { self.now } else { seen.now };
        let whole = |number: i64| u64::try_from(number).unwrap_or(0);
        let state = match limit.algorithm {
            Algorithm::FixedWindow => {
                let window_start_secs = limit.window.start_secs(now);
                CounterState::FixedWindow(fixed_window::State { window_start_secs, used: level })
            }
            Algorithm::SlidingWindow => CounterState::SlidingWindow(sliding_window::State {
                window: whole(other),
                current: level,
                previous: whole(one),
            }),
            Algorithm::TokenBucket { .. } => {
                CounterState::TokenBucket(token_bucket::State { at: whole(one), level, tick_us: 0 })
            }
            Algorithm::SlidingLog => {
                let over = is_over(mode, hits, level, limit.capacity(), outcome);
                if let Hits::Add(hits) = hits
                    && over
                    && mode.hits_to_fit(hits) > limit.capacity()
                {
                    // It never fits: nothing that leaves would change that.
                    let reset = Duration::from_secs(limit.window.secs().into());
                    return Reading { outcome, used: level, reset };
                }
                let last = if over { one } else { other };
                let reset = u64::try_from(last).map(|at| sliding_log::until_it_leaves(at, limit, now));
                return Reading { outcome, used: level, reset: reset.unwrap_or_default() };
            }
        };
        let used = match &state {
            CounterState::SlidingWindow(state) => state.meter(limit, now).used(),
            CounterState::TokenBucket(state) => state.meter(limit, now).used(),
            CounterState::FixedWindow(_) | CounterState::SlidingLog(_) => level,
        };
        Reading::of(ChargeContext { limit, hits, mode, now }, &state, used, outcome)
    }
}

/// Form in which a request is sent to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// With whatever else is for its slot.
    Batched,
    /// By itself: what else is for its slot cannot be carried out with it.
    Alone,
    /// By itself, after `ASKING`: the server is importing the slot.
    Asking,
}

/// The charges of one request that one server carries out.
pub(super) type SlotCharges = SmallVec<[SlotCharge; 2]>;

/// Hits on one counter: `INCRBY`, or `GET` where there are none.
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
    /// It is created with its TTL, unless it exists. Its hash, to be known from then on.
    Created(u64),
    /// The command that creates it failed.
    Failed,
}

/// One call of `charge.lua`.
#[derive(Debug, Default)]
pub(super) struct ScriptCall {
    pub(super) keys: Vec<Bytes>,
    /// As the script reads them.
    pub(super) requests: BytesMut,
    /// Charges in `requests`, and those of them with a lockout.
    charges: usize,
    lockouts: usize,
    /// True if ASKING must precede the call, since its slot is being imported.
    pub(super) asking: bool,
    /// The time to go by; `None` for the server's own.
    pub(super) now: Option<Timestamp>,
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
    call_of_slot: HashMap<u16, usize, RandomState>,
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
    Count { count: usize, hits: u64 },
    Call {
        call: usize,
        charge: usize,
        /// Which of the call's charges with a lockout.
        lockout: Option<usize>,
    },
}

impl Batch {
    /// Nothing yet.
    pub(super) fn new(clock: ServerClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Adds a request whose counters lie in `slot`; its answers come after those of the requests before.
    pub(super) fn add(&mut self, charges: &SlotCharges, slot: u16, dispatch: Dispatch) {
        let asking = dispatch == Dispatch::Asking;
        if dispatch != Dispatch::Batched {
            self.calls.push(ScriptCall { asking, ..ScriptCall::default() });
            let call = self.calls.len() - 1;
            return self.add_to_call(charges, call, false);
        }
        let owned = |charge: &SlotCharge| matches!(self.owners.get(&charge.key), Some(Owner::Call { .. }));
        if charges.iter().any(|charge| charge.needs_script() || owned(charge)) {
            let calls = &mut self.calls;
            let call = *self.call_of_slot.entry(slot).or_insert_with(|| {
                calls.push(ScriptCall::default());
                calls.len() - 1
            });
            return self.add_to_call(charges, call, true);
        }
        for charge in charges {
            self.count(charge);
        }
    }

    fn count(&mut self, charge: &SlotCharge) {
        let hits = match charge.hits {
            Hits::Add(hits) => hits,
            Hits::Refund(_) => 0,
        };
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
            count.hits += u64::from(hits);
            self.reply_indexes.push(ReplyIndex::Count { count: index, hits: count.hits });
        }
    }

    /// With `keep`, what comes later to these counters comes after this.
    fn add_to_call(&mut self, charges: &SlotCharges, index: usize, keep: bool) {
        let Self { clock, calls, owners, reply_indexes, .. } = self;
        let Some(call) = calls.get_mut(index) else { return };
        let denied = charges.iter().any(|charge| charge.denied);
        let len = u16::try_from(charges.len()).unwrap_or(MAX_CHARGES).min(MAX_CHARGES);
        call.requests.put_u16(len | u16::from(denied) << 15);
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
                Some(Owner::Call { call, counter }) if *call == index => Some(*counter),
                Some(_) | None => None,
            };
            let counter = known.unwrap_or_else(|| {
                keys.push(key.clone());
                number(keys.len() - 1)
            });
            if keep {
                owners.insert(key.clone(), Owner::Call { call: index, counter });
            }
            counter
        };
        for charge in charges {
            let counter = number_of(&mut call.keys, &charge.key);
            let lockout = charge.lockout.as_ref().map(|lockout| number_of(&mut call.keys, &lockout.key));
            pack(&mut call.requests, charge, counter, lockout);
            let lockout = lockout.map(|_| call.lockouts);
            reply_indexes.push(ReplyIndex::Call { call: index, charge: call.charges, lockout });
            call.charges += 1;
            call.lockouts += usize::from(lockout.is_some());
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
        let unreadable =
            RawReading { outcome: None, level: 0, more: [0; 2], ends_us: 0, now: Timestamp::default() };
        match *self.reply_indexes.get(index)? {
            ReplyIndex::Count { count, hits } => {
                let all = self.counts.get(count)?.hits;
                let reply = replies.counts.get(count)?.as_ref()?;
                // A counter below zero is not ours; it has been tampered with, and counts as empty.
                let used = |after: &i64| u64::try_from(*after).unwrap_or(0).saturating_sub(all - hits);
                let outcome = Some(ChargeOutcome::Charged);
                Some(reply.as_ref().map(|after| RawReading { outcome, level: used(after), ..unreadable }))
            }
            ReplyIndex::Call { call, charge, lockout } => {
                let reply = replies.calls.get(call)?.as_ref()?;
                let charges = self.calls.get(call)?.charges;
                let read = |numbers: &Vec<i64>| {
                    let ends_us = match lockout {
                        None => 0,
                        Some(lockout) => *numbers.get(4 * charges + lockout)?,
                    };
                    let now = Timestamp::from_micros(u64::try_from(*numbers.last()?).ok()?);
                    seen(numbers.get(4 * charge..4 * charge + 4)?, ends_us, now)
                };
                Some(reply.as_ref().map(|numbers| read(numbers).unwrap_or(unreadable)))
            }
        }
    }
}

/// Redis counts from 1 in `KEYS`.
fn number(index: usize) -> u16 {
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}

fn pack(requests: &mut BytesMut, charge: &SlotCharge, counter: u16, lockout: Option<u16>) {
    let algorithm = match charge.limit.algorithm {
        Algorithm::FixedWindow => 0,
        Algorithm::SlidingWindow => 1,
        Algorithm::SlidingLog => 2,
        Algorithm::TokenBucket { .. } => 3,
    };
    let (kind, hits) = match (charge.hits, charge.mode) {
        (Hits::Add(hits), ChargeMode::Always) => (0, hits),
        (Hits::Add(hits), ChargeMode::IfAllowed) => (1, hits),
        (Hits::Refund(hits), _) => (2, hits),
        (Hits::Add(hits), ChargeMode::Overdraft) => (3, hits),
    };
    let enforcement = match charge.enforcement {
        Enforcement::Enforced => 0,
        Enforcement::Quota => 1,
        Enforcement::Shadow => 2,
        Enforcement::ShadowQuota => 3,
    };
    requests.put_u16(counter);
    requests.put_slice(&[algorithm, kind, enforcement]);
    requests.put_u32(hits);
    requests.put_u32(charge.limit.capacity());
    requests.put_u32(charge.ttl_secs);
    requests.put_u16(lockout.unwrap_or(0));
    if charge.limit.algorithm != Algorithm::FixedWindow {
        let ticks = Ticks::of(charge.limit, charge.now);
        requests.put_u32(charge.limit.requests_per_unit);
        requests.put_f64(exact(ticks.window));
        requests.put_u32(u32::try_from(ticks.tick_us).unwrap_or(u32::MAX));
    }
    if let Some(Lockout { schedule, .. }) = &charge.lockout {
        for secs in [schedule.within_secs, schedule.forget_secs, schedule.after] {
            requests.put_u32(secs);
        }
        requests.put_u8(schedule.extend.into());
        requests.put_u8(u8::try_from(schedule.steps.len()).unwrap_or(u8::MAX));
        for step in &schedule.steps {
            requests.put_u32(match step {
                Block::Secs(secs) => *secs,
                Block::Permanent => 0,
            });
        }
    }
}

/// Numbers that Lua counts with are exact as far as they go here.
#[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
fn exact(number: u64) -> f64 {
    number.min(MAX_EXACT) as f64
}

fn seen(numbers: &[i64], ends_us: i64, now: Timestamp) -> Option<RawReading> {
    let [outcome, level, one, other] = *numbers else { return None };
    let outcome = match outcome {
        0 => Some(ChargeOutcome::Charged),
        1 => Some(ChargeOutcome::Denied),
        2 => Some(ChargeOutcome::Withheld),
        3 => Some(ChargeOutcome::Blocked),
        4 => None,
        _ => return None,
    };
    let (level, ends_us) = (u64::try_from(level).ok()?, u64::try_from(ends_us).ok()?);
    Some(RawReading { outcome, level, more: [one, other], ends_us, now })
}

#[cfg(test)]
mod tests;
