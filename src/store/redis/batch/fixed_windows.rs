//! Protocol of `fixed_windows.lua`.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::msgpack::{array, digits, number};
use super::protocol::{RawReading, level_of};
use super::{SlotCharge, SlotCharges};
use crate::engine::algorithm::group::ChargeOutcome;

/// Requests of one call of the script.
#[derive(Debug, Default)]
pub(super) struct FixedWindows {
    counters: Vec<Total>,
    /// Requests in MessagePack, without the head of their array.
    requests: BytesMut,
    len: usize,
    charges: usize,
}

/// Sum of the hits of a call on one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Total {
    hits: u64,
    /// Upper bound on the used hits, with those of the call, at which every request passes; `None` if not every request
    /// can.
    room: Option<u64>,
    ttl_secs: u32,
    /// The TTL without jitter.
    nominal_ttl_secs: u32,
}

/// Index of the reply to a charge.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowIndex {
    counter: usize,
    /// Hits of the call on the counter, up to those of this charge.
    hits: u64,
    /// Position among the charges of the call.
    charge: usize,
    /// Used hits at which the charge is denied.
    ceiling: u64,
    was_denied: bool,
}

impl FixedWindows {
    /// Adds a request whose counters have these positions in `KEYS`. Returns the index of the reply to each charge.
    pub(super) fn add(
        &mut self,
        charges: &SlotCharges,
        positions: &[usize],
    ) -> impl Iterator<Item = WindowIndex> {
        let was_denied = charges.iter().any(|charge| charge.denied);
        array(&mut self.requests, 1 + 3 * charges.len());
        number(&mut self.requests, was_denied.into());
        self.len += 1;
        charges
            .iter()
            .zip(positions)
            .map(move |(charge, counter)| self.add_charge(charge, *counter, was_denied))
    }

    fn add_charge(&mut self, charge: &SlotCharge, counter: usize, was_denied: bool) -> WindowIndex {
        let Self { counters, requests, charges, .. } = self;
        if counter >= counters.len() {
            counters.push(Total {
                hits: 0,
                room: Some(u64::MAX),
                ttl_secs: charge.ttl_secs,
                nominal_ttl_secs: charge.limit.ttl_secs(),
            });
        }
        let (hits, ceiling) = (charge.added_hits(), charge.ceiling());
        let mut sum = 0;
        if let Some(total) = counters.get_mut(counter) {
            if !was_denied {
                // A peek passes if one more hit would.
                let room = u64::from(charge.limit.capacity()).checked_sub(u64::from(hits == 0));
                total.room = total.room.min(room);
                total.hits += hits;
            }
            sum = total.hits;
        }
        number(requests, counter as u64 + 1);
        number(requests, hits);
        number(requests, ceiling);
        *charges += 1;
        WindowIndex { counter, hits: sum, charge: *charges - 1, ceiling, was_denied }
    }

    /// Arguments of the script.
    pub(super) fn arguments(&self) -> [Bytes; 3] {
        let mut forms: Vec<Total> = Vec::new();
        let mut of_counters = BytesMut::with_capacity(self.counters.len());
        for total in &self.counters {
            let key = |total: &Total| (total.hits, total.room, total.nominal_ttl_secs);
            // The counters of a form share the TTL, with the jitter of the first.
            let same = |form: &Total| key(form) == key(total);
            let form = forms.iter().position(same).unwrap_or_else(|| {
                forms.push(*total);
                forms.len() - 1
            });
            of_counters.put_u8(u8::try_from(form + 1).unwrap_or_default());
        }
        let mut packed = BytesMut::new();
        array(&mut packed, forms.len());
        for Total { hits, room, ttl_secs, .. } in forms {
            array(&mut packed, 4);
            digits(&mut packed, hits);
            number(&mut packed, hits);
            match room {
                Some(room) => number(&mut packed, room),
                None => packed.put_slice(&[0xff]),
            }
            digits(&mut packed, ttl_secs.into());
        }
        let mut requests = BytesMut::with_capacity(5 + self.requests.len());
        array(&mut requests, self.len);
        requests.put_slice(&self.requests);
        [of_counters.freeze(), packed.freeze(), requests.freeze()]
    }

    /// The reading at `index`; `None` if the reply has none.
    pub(super) fn seen(&self, index: WindowIndex, reply: &[i64]) -> Option<RawReading> {
        let WindowIndex { counter, hits, charge, ceiling, was_denied } = index;
        let (passed, level) = match reply.split_first()? {
            (0, used) => {
                let later = self.counters.get(counter)?.hits - hits;
                let used = u64::try_from(*used.get(counter)?).unwrap_or(0).saturating_sub(later);
                (!was_denied, used)
            }
            (_, numbers) => level_of(*numbers.get(charge)?)?,
        };
        let outcome = match passed {
            true => ChargeOutcome::Charged,
            false if level >= ceiling => ChargeOutcome::Denied,
            false => ChargeOutcome::Withheld,
        };
        Some(RawReading { outcome: Some(outcome), level, ..RawReading::UNREADABLE })
    }
}
