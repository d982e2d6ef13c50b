//! Places of a concurrency limit: requests in flight, each under a ticket, until it is released or its time runs out.
//!
//! Unlike a rate, a place comes back when its request ends, and only its own ticket gives it back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{MAX_SKEW_US, Meter, max_level};
use crate::engine::ticket::{Hold, Ticket};
use crate::engine::{Limit, Timestamp};

/// Upper bound on the places of one limit, since every place takes memory.
pub const MAX_PLACES: u32 = 10_000;
/// Upper bound on the places that one request takes.
pub const MAX_WEIGHT: u32 = 64;
/// Upper bound on the tickets that have ended and that one acquisition drops, so that none is slow. `charge.lua` has the
/// same.
pub const MAX_DROPPED: usize = 32;

/// Places of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    places: BTreeMap<Ticket, Place>,
    /// Places of every ticket by the time at which they end, in microseconds since the epoch.
    by_end: BTreeMap<(u64, Ticket), u32>,
    /// Places of all tickets, with those that have ended.
    total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    end_us: u64,
    weight: u32,
}

impl State {
    /// State of `held` places, the first of which ends at `first_end_us`, or those of the ticket that a decision is
    /// about. It names no ticket.
    pub fn summary(held: u64, first_end_us: Option<u64>) -> Self {
        let first = first_end_us.map(|end_us| ((end_us, FIRST_TICKET), 0));
        Self { places: BTreeMap::new(), by_end: first.into_iter().collect(), total: held }
    }

    /// Summary of the places that are held at `now`.
    pub(super) fn summarize(&self, now: Timestamp) -> Self {
        Self::summary(self.held(now), self.first_end_us(now))
    }

    /// Shortens places that end later than any can that begins now: a clock that has since been set back wrote them,
    /// or an older version of the rule.
    pub(super) fn correct(&mut self, limit: Limit, now: Timestamp) -> bool {
        let latest = end_us(limit.window.secs(), now);
        let is_ahead = |end_us: u64| end_us > latest.saturating_add(MAX_SKEW_US);
        let mut has_changed = false;
        while let Some((&(end_us, ticket), _)) = self.by_end.last_key_value()
            && is_ahead(end_us)
        {
            self.set_end(ticket, latest);
            has_changed = true;
        }
        has_changed
    }

    pub(super) fn load(&self, limit: Limit, now: Timestamp) -> Meter {
        meter(limit, self.held(now))
    }

    /// Places held at `now`.
    pub fn held(&self, now: Timestamp) -> u64 {
        let ended = self.by_end.range(..after(now)).map(|(_, weight)| u64::from(*weight));
        self.total.saturating_sub(ended.sum())
    }

    /// True if no ticket holds a place, and none did that has ended since.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Number of tickets, with those that have ended.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// End of the places that `ticket` holds at `now`.
    pub fn end_of(&self, ticket: Ticket, now: Timestamp) -> Option<u64> {
        let end_us = self.places.get(&ticket).map(|place| place.end_us);
        end_us.filter(|end_us| *end_us > now.as_micros())
    }

    /// Adds `weight` places. Returns the number of tickets that had ended by themselves, and are dropped now.
    pub fn acquire(&mut self, hold: Hold, weight: u32, now: Timestamp) -> u64 {
        let mut expired = self.drop_ended(now);
        if self.end_of(hold.ticket, now).is_none() && self.release(hold.ticket, now).is_some() {
            expired += 1;
        }
        let end_us = end_us(hold.ttl_secs, now);
        let place = self.places.entry(hold.ticket).or_insert(Place { end_us, weight: 0 });
        place.weight = place.weight.saturating_add(weight);
        self.total = self.total.saturating_add(weight.into());
        self.by_end.insert((place.end_us, hold.ticket), place.weight);
        expired
    }

    /// Gives back the places of `ticket`. Returns whether it held any at `now`; `None` if it is not known.
    pub fn release(&mut self, ticket: Ticket, now: Timestamp) -> Option<bool> {
        let Place { end_us, weight } = self.places.remove(&ticket)?;
        self.by_end.remove(&(end_us, ticket));
        self.total = self.total.saturating_sub(weight.into());
        Some(end_us > now.as_micros())
    }

    /// Lets the places of a ticket end no earlier than one that begins now. Returns whether it holds any.
    pub fn renew(&mut self, hold: Hold, now: Timestamp) -> bool {
        match self.places.get(&hold.ticket) {
            Some(place) if place.end_us > now.as_micros() => {
                self.set_end(hold.ticket, end_us(hold.ttl_secs, now).max(place.end_us));
                true
            }
            Some(_) | None => false,
        }
    }

    fn set_end(&mut self, ticket: Ticket, end_us: u64) {
        if let Some(place) = self.places.get_mut(&ticket) {
            self.by_end.remove(&(place.end_us, ticket));
            place.end_us = end_us;
            self.by_end.insert((end_us, ticket), place.weight);
        }
    }

    fn drop_ended(&mut self, now: Timestamp) -> u64 {
        let ended = self.by_end.range(..after(now)).map(|((_, ticket), _)| *ticket);
        let ended: Vec<Ticket> = ended.take(MAX_DROPPED).collect();
        ended.iter().filter_map(|ticket| self.release(*ticket, now)).count() as u64
    }

    fn first_end_us(&self, now: Timestamp) -> Option<u64> {
        self.by_end.range(after(now)..).next().map(|((end_us, _), _)| *end_us)
    }

    pub(super) fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        match hits > limit.capacity() {
            true => Duration::from_secs(limit.window.secs().into()),
            false => self.reset(now),
        }
    }

    /// Time until the first place ends by itself. It may come back at any time before.
    pub(super) fn reset(&self, now: Timestamp) -> Duration {
        let first = self.first_end_us(now);
        first.map_or(Duration::ZERO, |end_us| Duration::from_micros(end_us - now.as_micros()))
    }

    pub(super) fn end_secs(&self) -> u64 {
        self.by_end.last_key_value().map_or(0, |((end_us, _), _)| end_us.div_ceil(1_000_000))
    }
}

/// Effect of a charge on the tickets of its key, beside its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceReport {
    /// Tickets that were found to have ended by themselves.
    pub expired: u16,
    /// True if the caller had named the ticket, and it held its places already: the call was repeated.
    pub is_known: bool,
}

impl PlaceReport {
    /// No effect.
    pub const NONE: Self = Self { expired: 0, is_known: false };

    /// Report of `expired` tickets.
    pub fn of(expired: u64, is_known: bool) -> Self {
        Self { expired: u16::try_from(expired).unwrap_or(u16::MAX), is_known }
    }
}

/// Lower bound of the tickets.
const FIRST_TICKET: Ticket = Ticket::from_bits([0; 16]);

/// Lower bound of what has not ended at `now`.
const fn after(now: Timestamp) -> (u64, Ticket) {
    (now.as_micros().saturating_add(1), FIRST_TICKET)
}

/// End of a place that begins now, in microseconds since the epoch.
const fn end_us(ttl_secs: u32, now: Timestamp) -> u64 {
    now.as_micros().saturating_add(ttl_secs as u64 * 1_000_000)
}

/// Meter of `held` places. Hits without a ticket give none back.
const fn meter(limit: Limit, held: u64) -> Meter {
    let max_level = max_level(limit, 1);
    Meter { base: 0, level: held, lowest: held, parts: 1, max_level, stale_refund: u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Algorithm, Window};

    #[test]
    fn an_acquisition_after_ten_thousand_places_have_ended_drops_few_of_them() {
        let at = Timestamp::from_secs;
        let hold = |number: u32| {
            let mut bits = [1; 16];
            bits[12..].copy_from_slice(&number.to_be_bytes());
            Hold { ticket: Ticket::from_bits(bits), ttl_secs: 60, is_named: false }
        };
        let mut state = State::default();
        for number in 0..10_000 {
            state.acquire(hold(number), 2, at(1_000));
        }
        assert_eq!((state.held(at(1_059)), state.held(at(1_060))), (20_000, 0));
        assert_eq!(state.acquire(hold(10_000), 1, at(1_100)), MAX_DROPPED as u64);
        assert_eq!((state.held(at(1_100)), state.len()), (1, 10_001 - MAX_DROPPED));
        let limit =
            Limit { requests_per_unit: 3, window: Window::of_secs(60), algorithm: Algorithm::Concurrency };
        assert_eq!(
            state.wait(3, limit, at(1_100)),
            Duration::from_secs(60),
            "until the one that is held ends"
        );
        for number in 10_001..10_400 {
            state.acquire(hold(number), 1, at(1_100));
        }
        assert_eq!((state.held(at(1_100)), state.len()), (400, 400));
    }
}
