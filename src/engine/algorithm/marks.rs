//! Memory of the tickets of a counter whose holds have ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{Ticket, Timestamp};

/// Upper bound on the tickets that one call forgets, so that none is slow after a pause. The others count as forgotten.
const MAX_FORGOTTEN: usize = 64;

/// Tickets without a hold, each until it may be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    by_ticket: BTreeMap<Ticket, Mark>,
    /// Every ticket by the end of its mark, in microseconds since the epoch.
    by_end: BTreeSet<(u64, Ticket)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    end_us: u64,
    of: Marked,
}

/// Fate of a hold that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// It is settled. The answer that was given.
    Settled { amount: u64, returned: u64 },
    /// It has expired, with so much counted.
    Expired { counted: u64 },
}

impl Marks {
    pub(super) const fn new() -> Self {
        Self { by_ticket: BTreeMap::new(), by_end: BTreeSet::new() }
    }

    /// Number of marks, with those that have ended and are not forgotten yet.
    pub(super) fn len(&self) -> usize {
        self.by_ticket.len()
    }

    pub(super) fn get(&self, ticket: Ticket, now: Timestamp) -> Option<Marked> {
        let mark = self.by_ticket.get(&ticket).filter(|mark| mark.end_us > now.as_micros());
        mark.map(|mark| mark.of)
    }

    pub(super) fn insert(&mut self, ticket: Ticket, of: Marked, end_us: u64) {
        if let Some(before) = self.by_ticket.insert(ticket, Mark { end_us, of }) {
            self.by_end.remove(&(before.end_us, ticket));
        }
        self.by_end.insert((end_us, ticket));
    }

    /// Drops marks that have ended.
    pub(super) fn forget(&mut self, now: Timestamp) {
        for _ in 0..MAX_FORGOTTEN {
            let Some((end_us, ticket)) = self.by_end.first().copied() else { return };
            if end_us > now.as_micros() {
                return;
            }
            self.by_end.remove(&(end_us, ticket));
            self.by_ticket.remove(&ticket);
        }
    }

    /// End of the last mark, in microseconds since the epoch.
    pub(super) fn last_end_us(&self) -> Option<u64> {
        self.by_end.last().map(|(end_us, _)| *end_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(number: u32) -> Ticket {
        let mut bits = [0; 16];
        bits[12..].copy_from_slice(&number.to_be_bytes());
        Ticket::from_bits(bits)
    }

    #[test]
    fn a_call_forgets_few_marks_and_reads_none_that_has_ended() {
        let at = Timestamp::from_micros;
        let mut marks = Marks::new();
        for number in 0..10_000 {
            marks.insert(ticket(number), Marked::Expired { counted: 1 }, 1_000);
        }
        marks.insert(ticket(10_000), Marked::Expired { counted: 2 }, 2_000);
        assert_eq!(marks.get(ticket(9_999), at(999)), Some(Marked::Expired { counted: 1 }));
        marks.forget(at(1_000));
        assert_eq!(marks.len(), 10_001 - MAX_FORGOTTEN);
        assert_eq!(marks.get(ticket(9_999), at(1_000)), None);
        assert_eq!(marks.get(ticket(10_000), at(1_000)), Some(Marked::Expired { counted: 2 }));
        (0..10_000 / MAX_FORGOTTEN).for_each(|_| marks.forget(at(1_000)));
        assert_eq!((marks.len(), marks.last_end_us()), (1, Some(2_000)));
    }
}
