//! Order by time. Proxies log at the end of a request, so that lines are out of order by up to the longest one.
//!
//! Requests wait in slots of a second; a slot is sorted and replayed once the log is far enough ahead of it. That
//! costs less than a heap, since lines are almost in order.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Timestamp;

/// Bytes that may wait. Beyond it, the oldest slot is replayed early.
const MAX_WAITING_BYTES: usize = 512 << 20;

/// Requests in the order of their times.
#[derive(Debug)]
pub(super) struct Reorder {
    /// Time that a request waits for earlier ones.
    delay: Duration,
    slots: BTreeMap<u64, Slot>,
    /// Slots that were replayed, for their memory.
    spare: Vec<Slot>,
    waiting_bytes: usize,
    /// Time up to which everything was replayed.
    replayed_until: Timestamp,
    late: u64,
}

/// Requests of one second.
#[derive(Debug, Default)]
struct Slot {
    bytes: Vec<u8>,
    /// Time of each request and the end of its bytes.
    requests: Vec<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    at: Timestamp,
    start: usize,
    end: usize,
}

impl Reorder {
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            delay,
            slots: BTreeMap::new(),
            spare: Vec::new(),
            waiting_bytes: 0,
            replayed_until: Timestamp::default(),
            late: 0,
        }
    }

    /// Requests that came later than the delay. They are replayed as if they had come in time to be the last.
    pub(super) const fn late(&self) -> u64 {
        self.late
    }

    /// Adds a request at `at`.
    pub(super) fn add(&mut self, at: Timestamp, request: &[u8]) {
        let is_late = at < self.replayed_until;
        self.late += u64::from(is_late);
        let at = at.max(self.replayed_until);
        let spare = &mut self.spare;
        let slot = self.slots.entry(at.as_secs()).or_insert_with(|| spare.pop().unwrap_or_default());
        let start = slot.bytes.len();
        slot.bytes.extend_from_slice(request);
        slot.requests.push(Waiting { at, start, end: slot.bytes.len() });
        self.waiting_bytes += request.len() + size_of::<Waiting>();
    }

    /// Replays what is earlier than the delay before `seen`, the time that all files have reached.
    pub(super) fn replay(&mut self, seen: Timestamp, mut each: impl FnMut(Timestamp, &[u8])) {
        let delay_us = u64::try_from(self.delay.as_micros()).unwrap_or(u64::MAX);
        let until = Timestamp::from_micros(seen.as_micros().saturating_sub(delay_us)).as_secs();
        while let Some(slot) = self.slots.first_entry() {
            if *slot.key() >= until && self.waiting_bytes <= MAX_WAITING_BYTES {
                break;
            }
            let (secs, slot) = slot.remove_entry();
            self.replay_slot(secs, slot, &mut each);
        }
    }

    /// Replays everything.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Timestamp, &[u8])) {
        while let Some((secs, slot)) = self.slots.pop_first() {
            self.replay_slot(secs, slot, &mut each);
        }
    }

    fn replay_slot(&mut self, secs: u64, mut slot: Slot, each: &mut impl FnMut(Timestamp, &[u8])) {
        // Stable: requests of one time stay in the order of the log.
        slot.requests.sort_by_key(|request| request.at);
        for Waiting { at, start, end } in &slot.requests {
            each(*at, &slot.bytes[*start..*end]);
        }
        self.waiting_bytes -= slot.bytes.len() + slot.requests.len() * size_of::<Waiting>();
        self.replayed_until = self.replayed_until.max(Timestamp::from_secs(secs.saturating_add(1)));
        slot.bytes.clear();
        slot.requests.clear();
        // Memory of a burst is not kept.
        if self.spare.len() < 4 && slot.bytes.capacity() <= 16 << 20 {
            self.spare.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_micros(1_000_000_000 + ms * 1_000)
    }

    fn replayed(delay_secs: u64, times: &[u64]) -> (Vec<u64>, u64) {
        let mut reorder = Reorder::new(Duration::from_secs(delay_secs));
        let mut found = Vec::new();
        let mut seen = Timestamp::default();
        for (index, ms) in times.iter().enumerate() {
            reorder.add(at(*ms), &u32::try_from(index).expect("few").to_le_bytes());
            seen = seen.max(at(*ms));
            reorder.replay(seen, |at, _| found.push((at.as_micros() - 1_000_000_000) / 1_000));
        }
        reorder.finish(|at, _| found.push((at.as_micros() - 1_000_000_000) / 1_000));
        assert_eq!(reorder.waiting_bytes, 0);
        (found, reorder.late())
    }

    #[test]
    fn requests_within_the_delay_are_sorted() {
        assert_eq!(
            replayed(60, &[5_000, 1_000, 61_000, 2_500, 2_400]),
            (vec![1_000, 2_400, 2_500, 5_000, 61_000], 0)
        );
    }

    #[test]
    fn later_ones_are_counted_and_replayed_at_the_time_that_was_reached() {
        let (times, late) = replayed(2, &[0, 10_000, 500, 20_000]);
        assert_eq!((times, late), (vec![0, 1_000, 10_000, 20_000], 1));
    }

    #[test]
    fn requests_of_one_time_keep_their_order() {
        let mut reorder = Reorder::new(Duration::ZERO);
        for index in 0..50_u8 {
            reorder.add(at(0), &[index]);
        }
        let mut found = Vec::new();
        reorder.finish(|_, bytes| found.extend_from_slice(bytes));
        assert_eq!(found, (0..50).collect::<Vec<_>>());
    }
}
