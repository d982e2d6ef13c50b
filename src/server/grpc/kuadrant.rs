//! `Reserve` and `Commit` of Kuadrant's service.

use bytes::Bytes;

use crate::engine::plan::Holding;
use crate::engine::plan::tickets::{Amounts, TicketUse};
use crate::engine::reserve::HoldEvent;
use crate::limiter::{Purpose, Snapshot};
use crate::server::service::{Call, CallError};
use crate::server::wire::{
    CommitRequest, ReserveRequest, decode_commit, decode_reservation, encode_committed, encode_reserved,
};

/// Holds an amount, and answers with its ticket.
pub(super) async fn reserve(
    call: &Call<'_>,
    rules: &Snapshot<'_>,
    message: &[u8],
) -> Result<Bytes, CallError> {
    let ReserveRequest { request, amount, ttl_secs } = call.accept(decode_reservation(message))?;
    let amounts = Amounts { of_request: amount, own: request.own_hits(), usage: None };
    let holding = Holding { amounts, ttl_secs, named: None };
    let decision = call.acquire(rules, &request, Purpose::Reserve(holding)).await?;
    Ok(encode_reserved(&decision).into())
}

/// Counts the real amount. Without a ticket of ours it is counted too.
pub(super) async fn commit(
    call: &Call<'_>,
    rules: &Snapshot<'_>,
    message: &[u8],
) -> Result<Bytes, CallError> {
    let CommitRequest { request, ticket, amount } = call.accept(decode_commit(message))?;
    let amounts = Amounts { of_request: amount, own: request.own_hits(), usage: None };
    let decision = call.settle(rules, &request, ticket, TicketUse::Settle(amounts)).await?;
    let mut budgets = decision.statuses.iter().filter_map(|status| status.budget);
    let was_released = budgets.any(|budget| budget.report.event == HoldEvent::Settled);
    Ok(encode_committed(was_released).into())
}
