//! Calls about tickets: places and holds that are kept, given back or settled.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::places::{self, Releases};
use super::{DecideError, Limiter, Snapshot, charges, looks};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::judge::judge;
use crate::engine::plan::tickets::{Amounts, TicketUse, plan_tickets};
use crate::engine::plan::{Plan, plan_with};
use crate::engine::reserve::{Action, BudgetStatus, Extension, HoldEvent, Reservation};
use crate::engine::rules::Domain;
use crate::engine::{Decision, Enforcement, Hits, Request, Ticket, TicketEntry};
use crate::store::{Charge, Reading, Readings};
use crate::telemetry::metrics::TicketEvent;

/// Call about what a ticket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketCall<'a> {
    /// Holds them for longer: for this time at most, in seconds.
    Renew {
        /// Upper bound on the time, which is otherwise that of the rule.
        max_ttl_secs: u32,
        /// Amounts that budgets are to hold in all; 0 to leave them as they are.
        amounts: Amounts<'a>,
    },
    /// Gives them back.
    Release,
}

/// Result of a [`TicketCall`].
#[derive(Debug)]
pub struct TicketResult<'r> {
    /// True if the ticket held something: to be renewed, under every limit that is enforced; to be released, under one.
    pub was_held: bool,
    /// Time until the first of it ends, in seconds, if it was renewed.
    pub ttl_secs: u32,
    /// Decision on amounts that budgets are to hold; `None` if the call names none.
    pub decision: Option<Decision<'r>>,
}

impl TicketResult<'_> {
    /// Result of a call without a ticket.
    pub const NOTHING: Self = Self { was_held: false, ttl_secs: 0, decision: None };
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
        call: TicketCall<'_>,
        deadline: Option<Instant>,
    ) -> Result<TicketResult<'_>, DecideError> {
        let rules = self.rules_for(request)?;
        let limiter = self.limiter;
        let ticket_use = match call {
            TicketCall::Renew { max_ttl_secs, amounts } => {
                TicketUse::Extend { ttl_secs: max_ttl_secs, amounts }
            }
            TicketCall::Release => TicketUse::End,
        };
        let plan = plan_tickets(rules, request, &limiter.keys, TicketEntry::Named(ticket), ticket_use);
        let mut charges = charges(&plan, &limiter.modes);
        let is_enforced = charges.iter().map(|charge| charge.enforcement == Enforcement::Enforced);
        let is_enforced: SmallVec<[bool; 4]> = is_enforced.collect();
        for charge in &mut charges {
            if !is_raised(charge) {
                charge.enforcement = Enforcement::Shadow;
            }
            if let (TicketCall::Renew { max_ttl_secs, .. }, Some(hold)) = (call, &mut charge.hold) {
                charge.hits = Hits::Add(0);
                hold.ttl_secs = hold.ttl_secs.min(max_ttl_secs);
            }
        }
        let readings = limiter.charge_tickets(&plan, &charges, deadline).await;
        let readings: SmallVec<[Reading; 2]> = readings.into_iter().collect::<Result<_, _>>()?;
        let (mut any, mut all, mut shortest_secs) = (false, true, u32::MAX);
        for ((charge, reading), is_enforced) in charges.iter().zip(&readings).zip(is_enforced) {
            let was_held = reading.outcome == ChargeOutcome::Charged;
            any |= was_held;
            all &= was_held || !is_enforced;
            let ends_in = places::ends_in(charge, reading).map_or(u32::MAX, places::whole_secs);
            shortest_secs = shortest_secs.min(ends_in);
        }
        let decision = charges.iter().any(is_raised).then(|| judge(plan, readings, &limiter.modes));
        decision.iter().for_each(|decision| limiter.metrics.record_decision(decision));
        // A renewed ticket must hold under every limit, or its caller stops. Of two equal descriptors, one releases for both.
        let was_held = any && (all || matches!(call, TicketCall::Release));
        Ok(TicketResult { was_held, ttl_secs: shortest_secs, decision })
    }

    /// Settles what a ticket holds, in whole or in part. Without a ticket of ours, the amounts are counted.
    ///
    /// # Errors
    /// [`DecideError`]. A call with a ticket may be repeated after one: it counts nothing twice.
    pub async fn settle(
        &self,
        request: &Request<'_>,
        ticket: TicketEntry,
        ticket_use: TicketUse<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'_>, DecideError> {
        let rules = self.rules_for(request)?;
        let limiter = self.limiter;
        let prices = rules.domain(request.domain).and_then(Domain::prices);
        if let (Some(prices), Some(usage)) = (prices, ticket_use.usage())
            && !prices.has(&usage.model)
        {
            tracing::debug!(model = usage.model, "no price of this model; the dearest one counts");
            limiter.metrics.record_unknown_model();
        }
        let plan = plan_tickets(rules, request, &limiter.keys, ticket, ticket_use);
        let charges = charges(&plan, &limiter.modes);
        let readings = limiter.charge_tickets(&plan, &charges, deadline).await;
        let readings: SmallVec<[Reading; 2]> = readings.into_iter().collect::<Result<_, _>>()?;
        let decision = judge(plan, readings, &limiter.modes);
        limiter.metrics.record_decision(&decision);
        if !matches!(ticket_use, TicketUse::Continue(_)) {
            learn_amounts(&decision);
        }
        Ok(decision)
    }

    /// Use of the limits of `request`, as a decision on no hits. Nothing is counted, held or recorded.
    ///
    /// # Errors
    /// [`DecideError`]
    pub async fn usage(&self, request: &Request<'_>) -> Result<Decision<'_>, DecideError> {
        let rules = self.rules_for(request)?;
        let limiter = self.limiter;
        let now = limiter.clock.now();
        let request = looks(request);
        let mut plan = plan_with(rules, self.overrides(now), &request, &limiter.keys);
        plan.look_only();
        let mut charges = charges(&plan, &limiter.modes);
        // Of the store: neither a ticket is used, nor the credits of this replica.
        charges.iter_mut().for_each(|charge| (charge.hold, charge.lease) = (None, None));
        let readings = limiter.peek(rules, &charges).await?;
        Ok(judge(plan, readings, &limiter.modes))
    }
}

impl Limiter {
    /// Carries out charges with tickets. Releases and settlements that fail are repeated for a while.
    async fn charge_tickets(
        &self,
        plan: &Plan<'_>,
        charges: &[Charge],
        deadline: Option<Instant>,
    ) -> Readings {
        let now = self.clock.now();
        let mut releases = Releases::among(self, charges, now);
        let readings = self.charge(charges, now, deadline).await;
        releases.iter_mut().for_each(|releases| releases.charged(charges, &readings));
        self.record_holds(plan, charges, &readings);
        readings
    }

    /// Counts what happened to the holds of budgets.
    pub(super) fn record_budgets(&self, charges: &[Charge], readings: &Readings) {
        for (charge, reading) in charges.iter().zip(readings) {
            let Some((reservation, _)) = charge.reservation() else { continue };
            match (reading, reservation.action) {
                (Ok(reading), action) => self.metrics.record_budget(action, reading),
                (Err(error), Action::Settle(settlement)) if !charge.is_repeatable() => {
                    let key = String::from_utf8_lossy(&charge.key);
                    tracing::warn!(%error, %key, amount = settlement.amount, "amount of a budget is not counted");
                    self.metrics.record_unsettled();
                }
                (Err(_), _) => {}
            }
        }
    }

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

/// Takes in the amounts that were settled, for the estimates of their rules.
pub(super) fn learn_amounts(decision: &Decision<'_>) {
    for status in &decision.statuses {
        if let (Some(rule), Some(BudgetStatus { report, .. })) = (status.rule, status.budget)
            && matches!(report.event, HoldEvent::Settled | HoldEvent::Late)
        {
            rule.learn(report.amount);
        }
    }
}

/// True if a charge raises a hold, for which there must be room.
fn is_raised(charge: &Charge) -> bool {
    matches!(
        charge.reserve.as_deref(),
        Some(Reservation { action: Action::Extend(Extension { amount: 1.., .. }), .. })
    )
}

/// Makes peeks of the places that candidate rules would take: nobody would give them back.
pub(super) fn take_none(charges: &mut [Charge]) {
    for charge in charges.iter_mut().filter(|charge| charge.limit.is_concurrency()) {
        (charge.hits, charge.hold) = (Hits::Add(0), None);
    }
}
