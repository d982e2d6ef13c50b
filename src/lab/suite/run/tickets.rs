//! Calls about what earlier requests hold.

use std::time::Duration;

use super::super::action::{HeldBy, HeldCall, Pace, Rendered, TicketStep};
use super::super::expect::Mark;
use super::super::facts::{Called, Mismatch, Observed};
use super::super::in_flight::Labelled;
use super::super::seen::Seen;
use super::super::step::Step;
use super::{Look, Run, Stepped};
use crate::engine::plan::tickets::{Amounts, TicketUse};
use crate::engine::{Decision, Hits, Request, Ticket, TicketEntry};
use crate::limiter::{DecideError, Snapshot, TicketCall, TicketResult};

impl<'r> Run<'r> {
    /// Settles, extends or releases what earlier requests hold.
    pub(super) async fn use_tickets(&mut self, index: usize, step: &Step, calls: &'r TicketStep) -> Stepped {
        self.note(step, calls.text(), Duration::ZERO);
        let mut seen = Seen::default();
        let pace = Pace { times: calls.times, every: Duration::ZERO };
        for number in 1..=calls.times {
            let (rendered, ticket) = match self.held(calls, number) {
                Ok(held) => held,
                Err(mismatch) => {
                    self.mark(&seen);
                    return Err(self.failure(index, step, vec![mismatch], (Some(number), None)));
                }
            };
            let mut request = rendered.request();
            for (descriptor, amount) in request.descriptors.iter_mut().zip(calls.call.own()) {
                descriptor.hits = Hits::Add(*amount);
            }
            let look = self.use_ticket(step, calls, (&request, ticket), seen.marks.len()).await;
            self.accept((index, step), (number, pace), (&request, look), &mut seen).await?;
        }
        self.finish(index, step, pace, seen)
    }

    /// The request that call `number` is about, and its ticket.
    fn held(&mut self, calls: &'r TicketStep, number: u32) -> Result<(Rendered<'r>, Ticket), Mismatch> {
        let mismatch = |expected: &str, actual: String| Mismatch {
            field: calls.call.name(),
            expected: expected.to_owned(),
            actual,
        };
        match &calls.of {
            HeldBy::Oldest(ask) => {
                let rendered = ask.render(number);
                let ticket = self.in_flight.take(&rendered);
                let expected = "a request with these entries that holds something";
                ticket
                    .map(|ticket| (rendered, ticket))
                    .ok_or_else(|| mismatch(expected, "none is in flight".to_owned()))
            }
            HeldBy::Label(label) => {
                let label = label.render(number);
                match self.in_flight.labelled(&label) {
                    Some(Labelled { request, ticket: Some(ticket) }) => Ok((request.clone(), *ticket)),
                    _ => {
                        let actual = format!(
                            "'{label}' holds nothing: it was denied, or no limit of it holds anything"
                        );
                        Err(mismatch("a request that holds something", actual))
                    }
                }
            }
        }
    }

    /// Carries out one call, which comes after `before` others of its step.
    async fn use_ticket(
        &self,
        step: &Step,
        calls: &TicketStep,
        (request, ticket): (&Request<'_>, Ticket),
        before: usize,
    ) -> Look {
        let snapshot = self.world.limiter.snapshot();
        let Some(rules) = snapshot.rules() else { return Look::without_rules() };
        let own: Vec<bool> = calls.call.own().iter().map(|_| true).collect();
        let called = match &calls.call {
            HeldCall::Settle(settling) => {
                let amounts =
                    Amounts { of_request: settling.amount, own: &own, usage: settling.usage.as_ref() };
                let is_final = settling.is_final;
                let ticket_use =
                    if is_final { TicketUse::Settle(amounts) } else { TicketUse::Continue(amounts) };
                let ticket = TicketEntry::Named(ticket);
                let decision = snapshot.settle(request, ticket, ticket_use, None).await;
                decision.map(|decision| (Called::Settled { is_final }, decision))
            }
            HeldCall::Extend { max_ttl_secs, amount, .. } => {
                let amounts = Amounts { of_request: *amount, own: &own, usage: None };
                let call = TicketCall::Renew { max_ttl_secs: *max_ttl_secs, amounts };
                use_and_look(&snapshot, request, ticket, call).await
            }
            HeldCall::Release => use_and_look(&snapshot, request, ticket, TicketCall::Release).await,
        };
        let observed = match &called {
            Ok((called, decision)) => self.observe(rules, request, Some(decision), *called),
            // In the service, a release or settlement that the store fails is repeated for a while.
            Err(_) => self.observe(rules, request, None, Called::Looked),
        };
        let mut look = self.compare(step, &observed, before, calls.times == 1);
        if step.expect.is_none() && look.mark != Mark::Allowed {
            look.mismatches.push(without_effect(calls, &observed));
        }
        look
    }
}

/// Mismatch of a call that did nothing, where the test does not say what to expect of it.
fn without_effect(calls: &TicketStep, observed: &Observed<'_, '_, '_>) -> Mismatch {
    let (actual, mark) = match (observed.decision, observed.called) {
        (None, _) => ("no answer of the store", Mark::Failed),
        (_, Called::Settled { .. }) => ("no rule with 'reserve' for it", Mark::Denied),
        (Some(decision), Called::Raised { .. }) if decision.denial().is_some() => {
            ("an amount that does not fit", Mark::Denied)
        }
        _ => ("nothing that is still held", Mark::Denied),
    };
    Mismatch {
        field: calls.call.name(),
        expected: "success".to_owned(),
        actual: format!("{actual}; if that is meant, write expect: \"{}\"", mark.symbol()),
    }
}

/// Carries out `call`. Without a decision on amounts, looks at the limits of the request afterwards.
async fn use_and_look<'s>(
    snapshot: &'s Snapshot<'_>,
    request: &Request<'_>,
    ticket: Ticket,
    call: TicketCall<'_>,
) -> Result<(Called, Decision<'s>), DecideError> {
    let result = snapshot.use_ticket(request, ticket, call, None).await?;
    let TicketResult { was_held, ttl_secs, decision } = result;
    match decision {
        Some(decision) => Ok((Called::Raised { was_held, ttl_secs }, decision)),
        None => Ok((Called::Ticket { was_held, ttl_secs }, snapshot.usage(request).await?)),
    }
}
