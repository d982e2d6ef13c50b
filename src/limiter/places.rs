//! Places of concurrency limits and holds of budgets: acquired under a ticket that is made here, and given back whatever
//! becomes of the request.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use smallvec::SmallVec;

use super::{Limiter, Purpose};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::reserve::{Action, Opening, Reservation};
use crate::engine::{Decision, Enforcement, Hits, Hold, Ticket, Timestamp};
use crate::store::{Charge, Reading, Readings, Store, StoreError};
use crate::telemetry::metrics::{Metrics, TicketEvent};

/// Places and holds that a request may have under its ticket.
pub(super) struct Acquisition<'l> {
    metrics: &'l Metrics,
    hold: Hold,
    releases: Releases<'l>,
    /// True once the store has charged one.
    is_held: bool,
    /// True if the caller has named the ticket.
    is_named: bool,
    /// True once the store has taken places that the ticket did not have before.
    has_taken_places: bool,
}

impl<'l> Acquisition<'l> {
    /// Gives the charges that hold something a ticket, made anew unless the caller has named one. `None` if none does.
    pub(super) fn begin(
        limiter: &'l Limiter,
        charges: &mut [Charge],
        purpose: Purpose<'_>,
        now: Timestamp,
    ) -> Option<Box<Self>> {
        if !charges.iter().any(holds_something) {
            return None;
        }
        let (named, max_ttl_secs) = match purpose {
            Purpose::Decide { max_ttl_secs } => (None, max_ttl_secs),
            Purpose::Reserve(holding) => (holding.named, u32::MAX),
            Purpose::DecideByHits | Purpose::Check | Purpose::Report => (None, u32::MAX),
        };
        let is_named = named.is_some();
        let ticket = named.or_else(new_ticket)?;
        let mut hold = Hold { ticket, ttl_secs: max_ttl_secs, is_named };
        let mut releases = Releases { store: &limiter.store, charges: SmallVec::new(), now };
        for charge in charges.iter_mut().filter(|charge| holds_something(charge)) {
            hold.ttl_secs = hold.ttl_secs.min(hold_under(charge, Hold { ttl_secs: max_ttl_secs, ..hold }));
            if is_given_back(charge, is_named) {
                releases.charges.push(Charge {
                    hits: Hits::Refund(0),
                    enforcement: Enforcement::Shadow,
                    ..charge.clone()
                });
            }
        }
        Some(Box::new(Self {
            metrics: &limiter.metrics,
            hold,
            releases,
            is_held: false,
            is_named,
            has_taken_places: false,
        }))
    }

    /// Keeps what the store has charged. A place of which nothing is known is given back at once, since the caller
    /// may get no ticket for it.
    pub(super) fn charged(&mut self, charges: &[Charge], readings: &Readings) {
        let is_charged = |reading: &Result<Reading, _>| matches!(reading, Ok(reading) if reading.outcome == ChargeOutcome::Charged);
        let held = || charges.iter().zip(readings).filter(|(charge, _)| holds_something(charge));
        self.is_held = held().any(|(_, reading)| is_charged(reading));
        let is_new =
            |reading: &Reading| reading.outcome == ChargeOutcome::Charged && !reading.places.is_known;
        let mut of_places = held().filter(|(charge, _)| takes_places(charge));
        self.has_taken_places = of_places.any(|(_, reading)| reading.as_ref().is_ok_and(is_new));
        let is_named = self.is_named;
        if is_named {
            // A repeated call gets the hold of the first one, which ends earlier.
            let ends_in = held().filter_map(|(charge, reading)| ends_in(charge, reading.as_ref().ok()?));
            self.hold.ttl_secs = ends_in.map(whole_secs).fold(self.hold.ttl_secs, u32::min);
        }
        let acquired = charges.iter().zip(readings).filter(|(charge, _)| is_given_back(charge, is_named));
        let mut unknown = Releases { charges: SmallVec::new(), ..self.releases };
        for (release, (_, reading)) in std::mem::take(&mut self.releases.charges).into_iter().zip(acquired) {
            match reading {
                reading if is_charged(reading) => self.releases.charges.push(release),
                Err(StoreError::Unanswered(_)) => unknown.charges.push(release),
                Ok(_) | Err(StoreError::Unreachable(_) | StoreError::Rejected(_)) => {}
            }
        }
    }

    /// Hands what a request that passes holds over to its caller. That of any other is given back.
    pub(super) fn hand_over(mut self, decision: &mut Decision<'_>) {
        let denial = decision.denial();
        if denial.is_some_and(|status| status.limit.is_some_and(|limit| limit.is_concurrency())) {
            self.metrics.record_ticket(TicketEvent::Denied);
        }
        if denial.is_none() && self.is_held {
            self.releases.charges.clear();
            if self.has_taken_places {
                self.metrics.record_ticket(TicketEvent::Acquired);
            }
            decision.hold = Some(self.hold);
        }
    }
}

/// Releases of what may be held. Dropping it carries them out, again and again for a while if the store fails: a caller
/// that has gone never will.
pub(super) struct Releases<'l> {
    store: &'l Arc<dyn Store>,
    charges: SmallVec<[Charge; 1]>,
    now: Timestamp,
}

impl<'l> Releases<'l> {
    /// Those among `charges`. `None` if there are none.
    pub(super) fn among(limiter: &'l Limiter, charges: &[Charge], now: Timestamp) -> Option<Box<Self>> {
        let releases: SmallVec<_> = charges.iter().filter(|charge| charge.is_repeatable()).cloned().collect();
        (!releases.is_empty()).then(|| Box::new(Self { store: &limiter.store, charges: releases, now }))
    }

    /// Forgets those that the store has carried out.
    pub(super) fn charged(&mut self, charges: &[Charge], readings: &Readings) {
        let of_releases = charges.iter().zip(readings).filter(|(charge, _)| charge.is_repeatable());
        let mut is_open = of_releases.map(|(_, reading)| reading.is_err());
        self.charges.retain(|_| is_open.next().unwrap_or(true));
    }
}

impl Drop for Releases<'_> {
    fn drop(&mut self) {
        if !self.charges.is_empty() {
            self.store.refund(&self.charges, self.now);
        }
    }
}

pub(super) fn takes_places(charge: &Charge) -> bool {
    charge.limit.is_concurrency() && matches!(charge.hits, Hits::Add(1..))
}

/// The hold that a charge opens.
fn opening(charge: &Charge) -> Option<Opening> {
    match charge.reservation()?.0.action {
        Action::Open(opening) => Some(opening),
        _ => None,
    }
}

fn holds_something(charge: &Charge) -> bool {
    takes_places(charge) || opening(charge).is_some()
}

/// True if what a charge holds is given back when its caller has gone. A caller that has named the ticket may ask again.
fn is_given_back(charge: &Charge, is_named: bool) -> bool {
    !is_named && holds_something(charge)
}

/// Lets a charge hold what it takes under the ticket of `hold`. Returns for how long, in seconds.
fn hold_under(charge: &mut Charge, hold: Hold) -> u32 {
    if let Some(Reservation { action: Action::Open(opening), .. }) = charge.reserve.as_deref_mut() {
        opening.ticket = Some(hold.ticket);
        return opening.ttl_secs;
    }
    let ttl_secs = charge.limit.window.secs().min(hold.ttl_secs);
    charge.hold = Some(Box::new(Hold { ttl_secs, ..hold }));
    ttl_secs
}

/// Time until what `charge` holds under its ticket ends, by its `reading`; `None` if it holds nothing.
pub(super) fn ends_in(charge: &Charge, reading: &Reading) -> Option<Duration> {
    if reading.outcome != ChargeOutcome::Charged {
        return None;
    }
    match charge.reserve {
        Some(_) => reading.budget.map(|report| report.ends_in),
        None => charge.hold.as_ref().map(|_| reading.reset),
    }
}

/// Whole seconds, rounded down: a caller must not rely on more.
pub(super) fn whole_secs(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// A ticket that nobody can guess.
fn new_ticket() -> Option<Ticket> {
    let mut bits = [0; 16];
    match SystemRandom::new().fill(&mut bits) {
        Ok(()) => Some(Ticket::from_bits(bits)),
        Err(_) => {
            tracing::error!("system has no random bits for a ticket; the request holds nothing");
            None
        }
    }
}
