//! Protocol of `reserve.lua`: the effect of charges on holds.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::SlotCharge;
use crate::engine::reserve::{
    Action, Extension, HoldEvent, OnExpiry, Opening, Report, Reservation, Settled, Settlement,
};
use crate::engine::ticket::TEXT_LEN;
use crate::engine::{Hits, Ticket};

/// Keys of a counter with holds, besides its own.
pub(in crate::store::redis) const KEYS: usize = 3;
/// Numbers of the reply to a charge.
pub(super) const NUMBERS: usize = 10;

/// True if the keys of a request with so many charges have room beside `keys`: their indexes have sixteen bits.
pub(super) const fn fits(keys: usize, charges: usize) -> bool {
    keys + (KEYS + 1) * charges <= u16::MAX as usize
}

/// Effect of a charge on the holds of its counter.
#[derive(Clone, Debug)]
pub(in crate::store::redis) struct SlotReservation {
    pub(in crate::store::redis) reservation: Reservation,
    /// Key of the counter without its window: holds outlive it.
    pub(in crate::store::redis) counter: Bytes,
}

/// Reply about the holds of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::redis) struct RawBudget {
    pub(in crate::store::redis) report: Report,
    /// Time until the first hold ends, if there is one.
    pub(in crate::store::redis) first_in: Option<Duration>,
}

impl SlotCharge {
    /// True if the same charge finds what this one did, and does not do it again: the raise of a hold, or what is held under
    /// a ticket that its caller names.
    pub(in crate::store::redis) fn finds_what_it_did(&self) -> bool {
        let of_holds = self.reserve.as_ref().is_some_and(|of| match of.reservation.action {
            Action::Open(Opening { is_named, .. }) => is_named,
            Action::Extend(_) => true,
            Action::Look | Action::Settle(_) | Action::Lower(..) | Action::Cancel(_) => false,
        });
        of_holds || self.hold.as_ref().is_some_and(|hold| hold.is_named)
    }

    /// Refund of `hits` that it counted, or of the hold that it opened.
    pub(in crate::store::redis) fn refund(self, hits: u32) -> Self {
        let Self { mut reserve, .. } = self;
        let mut hits = Hits::Refund(hits);
        if let Some(of) = &mut reserve {
            (of.reservation, hits) = of.reservation.in_charge(hits);
        }
        Self { hits, reserve, ..self }
    }
}

impl SlotReservation {
    /// Keys of the holds and of their amounts, and of the mark, which are in the slot of the counter.
    pub(in crate::store::redis) fn keys(&self) -> ([Bytes; 2], Option<Bytes>) {
        let with = |suffix: &[u8]| Bytes::from([&*self.counter, suffix].concat());
        let mark = self.reservation.action.marked_ticket();
        ([with(b"h"), with(b"a")], mark.map(|ticket| with(format!("s{ticket}").as_bytes())))
    }

    /// Keys of the script in one list, in the order of `reserve.lua`.
    pub(super) fn all_keys(&self) -> [Option<Bytes>; KEYS] {
        let ([holds, amounts], mark) = self.keys();
        [Some(holds), Some(amounts), mark]
    }

    /// Appends it as `reserve.lua` reads it; its keys by their indexes.
    pub(super) fn pack(&self, requests: &mut BytesMut, [holds, amounts, mark]: [u16; KEYS]) {
        let Reservation { action, terms } = self.reservation;
        let settled = |of| match of {
            Settled::Whole(ticket) => (2, Some(ticket)),
            Settled::Part(ticket) => (3, Some(ticket)),
            Settled::Rest(ticket) => (4, Some(ticket)),
            Settled::Oldest => (5, None),
            Settled::Nothing => (8, None),
        };
        let (number, ticket) = match action {
            Action::Look => (0, None),
            Action::Open(Opening { ticket, .. }) => (1, ticket),
            Action::Settle(Settlement { of, .. }) => settled(of),
            Action::Extend(Extension { ticket, .. }) => (6, Some(ticket)),
            Action::Cancel(ticket) => (7, Some(ticket)),
            Action::Lower(ticket, _) => (9, Some(ticket)),
        };
        let (ttl_secs, flags) = match action {
            Action::Open(Opening { ttl_secs, is_anonymous, is_named, .. }) => {
                (ttl_secs, u8::from(is_anonymous) << 1 | u8::from(is_named) << 2)
            }
            Action::Extend(Extension { ttl_secs, .. }) => (ttl_secs, 0),
            Action::Look | Action::Settle(_) | Action::Cancel(_) | Action::Lower(..) => (0, 0),
        };
        requests.put_slice(&[number, flags | u8::from(terms.on_expiry == OnExpiry::Charge)]);
        [holds, amounts, mark].into_iter().for_each(|key| requests.put_u16(key));
        requests.put_slice(ticket_text(ticket).as_bytes());
        requests.put_u32(ttl_secs);
        requests.put_u32(terms.memory_secs);
        requests.put_u32(match action {
            Action::Extend(Extension { amount, .. }) | Action::Lower(_, amount) => amount,
            Action::Look | Action::Open(_) | Action::Settle(_) | Action::Cancel(_) => 0,
        });
    }
}

fn ticket_text(ticket: Option<Ticket>) -> String {
    ticket.map_or_else(|| "0".repeat(TEXT_LEN), |ticket| ticket.to_string())
}

/// Reply in the numbers that `reserve.lua` returns; `None` if they are not such a reply.
pub(super) fn seen(numbers: &[i64]) -> Option<RawBudget> {
    let [event, held, holds, first_in, amount, more, ends_in, returned, counted, expired] = *numbers else {
        return None;
    };
    let event = *HoldEvent::ALL.get(usize::try_from(event).ok()?)?;
    let hits = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    let micros = |number: i64| u64::try_from(number).ok().map(Duration::from_micros);
    let report = Report {
        held: hits(held),
        holds: u16::try_from(holds).ok()?,
        amount: hits(amount),
        more: hits(more),
        ends_in: micros(ends_in).unwrap_or_default(),
        returned: hits(returned),
        counted: hits(counted),
        expired: u16::try_from(expired).ok()?,
        ..Report::of(event)
    };
    Some(RawBudget { report, first_in: micros(first_in) })
}
