//! Places of concurrency limits: acquired under a ticket that is made here, and given back whatever becomes of the
//! request.

use std::sync::Arc;

use ring::rand::{SecureRandom as _, SystemRandom};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{DecideError, Limiter, Snapshot, charges};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::plan::tickets::plan_tickets;
use crate::engine::ticket::TicketEntry;
use crate::engine::{Decision, Enforcement, Hits, Hold, Request, Ticket, Timestamp};
use crate::store::{Charge, Readings, Store, StoreError};
use crate::telemetry::metrics::{Metrics, TicketEvent};

/// Places that a request may hold under its ticket.
pub(super) struct Acquisition<'l> {
    metrics: &'l Metrics,
    hold: Hold,
    releases: Releases<'l>,
}

impl<'l> Acquisition<'l> {
    /// Gives the charges that take places a ticket, made anew, for at most `max_ttl_secs`. `None` if none does.
    pub(super) fn begin(
        limiter: &'l Limiter,
        charges: &mut [Charge],
        max_ttl_secs: u32,
        now: Timestamp,
    ) -> Option<Box<Self>> {
        if !charges.iter().any(takes_places) {
            return None;
        }
        let ticket = new_ticket()?;
        let mut hold = Hold { ticket, ttl_secs: max_ttl_secs };
        let mut releases = Releases { store: &limiter.store, charges: SmallVec::new(), now };
        for charge in charges.iter_mut().filter(|charge| takes_places(charge)) {
            let ttl_secs = charge.limit.window.secs().min(max_ttl_secs);
            hold.ttl_secs = hold.ttl_secs.min(ttl_secs);
            charge.hold = Some(Box::new(Hold { ticket, ttl_secs }));
            releases.charges.push(Charge {
                hits: Hits::Refund(0),
                enforcement: Enforcement::Shadow,
                ..charge.clone()
            });
        }
        Some(Box::new(Self { metrics: &limiter.metrics, hold, releases }))
    }

    /// Keeps what the store has charged. A place of which nothing is known is given back at once, since the caller
    /// may get no ticket for it.
    pub(super) fn charged(&mut self, charges: &[Charge], readings: &Readings) {
        let acquired = charges.iter().zip(readings).filter(|(charge, _)| takes_places(charge));
        let mut unknown = Releases { charges: SmallVec::new(), ..self.releases };
        for (release, (_, reading)) in std::mem::take(&mut self.releases.charges).into_iter().zip(acquired) {
            match reading {
                Ok(reading) if reading.outcome == ChargeOutcome::Charged => {
                    self.releases.charges.push(release)
                }
                Err(StoreError::Unanswered(_)) => unknown.charges.push(release),
                Ok(_) | Err(StoreError::Unreachable(_) | StoreError::Rejected(_)) => {}
            }
        }
    }

    /// Hands the places of a request that passes over to its caller. Those of any other are given back.
    pub(super) fn hand_over(mut self, decision: &mut Decision<'_>) {
        let denial = decision.denial();
        if denial.is_some_and(|status| status.limit.is_some_and(|limit| limit.is_concurrency())) {
            self.metrics.record_ticket(TicketEvent::Denied);
        }
        if denial.is_none() && !self.releases.charges.is_empty() {
            self.releases.charges.clear();
            self.metrics.record_ticket(TicketEvent::Acquired);
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
        let releases: SmallVec<_> =
            charges.iter().filter(|charge| gives_places_back(charge)).cloned().collect();
        (!releases.is_empty()).then(|| Box::new(Self { store: &limiter.store, charges: releases, now }))
    }

    /// Forgets those that the store has carried out.
    pub(super) fn charged(&mut self, charges: &[Charge], readings: &Readings) {
        let of_releases = charges.iter().zip(readings).filter(|(charge, _)| gives_places_back(charge));
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

fn takes_places(charge: &Charge) -> bool {
    charge.limit.is_concurrency() && matches!(charge.hits, Hits::Add(1..))
}

fn gives_places_back(charge: &Charge) -> bool {
    charge.hold.is_some() && matches!(charge.hits, Hits::Refund(_))
}

/// A ticket that nobody can guess.
fn new_ticket() -> Option<Ticket> {
    let mut bits = [0; 16];
    match SystemRandom::new().fill(&mut bits) {
        Ok(()) => Some(Ticket::from_bits(bits)),
        Err(_) => {
            tracing::error!("system has no random bits for a ticket; the request holds no place");
            None
        }
    }
}

/// Call about places that are held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketCall {
    /// Holds them for longer: for this time at most, in seconds.
    Renew {
        /// Upper bound on the time, which is otherwise that of the rule.
        max_ttl_secs: u32,
    },
    /// Gives them back.
    Release,
}

/// Result of a [`TicketCall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketResult {
    /// True if the ticket held a place: to be renewed, under every limit that is enforced; to be released, under one.
    pub was_held: bool,
    /// Time until the places end, in seconds, if they were renewed.
    pub ttl_secs: u32,
}

impl Snapshot<'_> {
    /// Renews or releases what `ticket` holds under the descriptors of `request`.
    ///
    /// # Errors
    /// [`DecideError`]. A call may be repeated after one: it does nothing twice.
    pub async fn use_ticket(
        &self,
        request: &Request<'_>,
        ticket: Ticket,
        call: TicketCall,
        deadline: Option<Instant>,
    ) -> Result<TicketResult, DecideError> {
        let rules = self.rules_for(request)?;
        let limiter = self.limiter;
        let plan = plan_tickets(rules, request, &limiter.keys, TicketEntry::Named(ticket));
        let mut charges = charges(&plan, &limiter.modes);
        let is_enforced = charges.iter().map(|charge| charge.enforcement == Enforcement::Enforced);
        let is_enforced: SmallVec<[bool; 4]> = is_enforced.collect();
        let mut shortest_secs = u32::MAX;
        for charge in &mut charges {
            charge.enforcement = Enforcement::Shadow;
            if let (TicketCall::Renew { max_ttl_secs }, Some(hold)) = (call, &mut charge.hold) {
                charge.hits = Hits::Add(0);
                hold.ttl_secs = hold.ttl_secs.min(max_ttl_secs);
                shortest_secs = shortest_secs.min(hold.ttl_secs);
            }
        }
        let now = limiter.clock.now();
        let mut releases = Releases::among(limiter, &charges, now);
        let readings = limiter.charge(&charges, now, deadline).await;
        releases.iter_mut().for_each(|releases| releases.charged(&charges, &readings));
        limiter.record_tickets(&charges, &readings);
        let (mut any, mut all) = (false, true);
        for (reading, is_enforced) in readings.into_iter().zip(is_enforced) {
            let was_held = reading?.outcome == ChargeOutcome::Charged;
            any |= was_held;
            all &= was_held || !is_enforced;
        }
        // What is renewed is held everywhere, or the caller must stop. One of two equal descriptors gives back for both.
        let was_held = any && (all || call == TicketCall::Release);
        Ok(TicketResult { was_held, ttl_secs: shortest_secs })
    }
}

impl Limiter {
    /// Counts what tickets gave back or renewed.
    pub(super) fn record_tickets(&self, charges: &[Charge], readings: &Readings) {
        for (charge, reading) in charges.iter().zip(readings).filter(|(charge, _)| charge.hold.is_some()) {
            let event = match (charge.hits, reading) {
                (Hits::Add(1..), _) | (_, Err(_)) => continue,
                (Hits::Add(0), Ok(reading)) if reading.outcome == ChargeOutcome::Charged => {
                    TicketEvent::Renewed
                }
                (Hits::Refund(_), Ok(reading)) if reading.outcome == ChargeOutcome::Charged => {
                    TicketEvent::Released
                }
                (_, Ok(_)) => TicketEvent::Unknown,
            };
            self.metrics.record_ticket(event);
        }
    }
}

/// Makes peeks of the places that candidate rules would take: nobody would give them back.
pub(super) fn take_none(charges: &mut [Charge]) {
    for charge in charges.iter_mut().filter(|charge| charge.limit.is_concurrency()) {
        (charge.hits, charge.hold) = (Hits::Add(0), None);
    }
}
