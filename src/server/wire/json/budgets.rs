//! Requests and answers of `/v1/reserve`, `/v1/settle` and `/v1/usage`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::decode::InvalidRequest;
use super::super::names::{layer, rule};
use super::super::whole_secs;
use super::check::{Descriptors, Pairs, encode_layer, held_amount, request};
use super::members::{self, Ttl, TtlOf, check_own_amounts, ttl_secs};
use super::places::{AcquireRequest, NamedHolds};
use super::request::JsonRequest;
use super::values::{Object, Text, Uint};
use crate::engine::reserve::{BudgetStatus, HoldEvent};
use crate::engine::ticket::{MAX_ID_BYTES, Ticket, TicketEntry};
use crate::engine::usage::{TokenKind, Usage};
use crate::engine::{Decision, Status};

/// Request that settles a ticket.
pub(in crate::server) struct SettleRequest<'b> {
    /// Descriptors with which it was reserved.
    pub(in crate::server) request: JsonRequest<'b>,
    /// The ticket.
    pub(in crate::server) ticket: TicketEntry,
    /// Amount of the descriptors without one of their own.
    pub(in crate::server) amount: u32,
    /// Usage, in place of amounts.
    pub(in crate::server) usage: Option<Usage>,
    /// False for a part of the amount.
    pub(in crate::server) is_final: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReserveMembers<'b> {
    #[serde(default, borrow)]
    domain: Text<'b>,
    #[serde(borrow)]
    entries: Option<Pairs<'b>>,
    #[serde(borrow)]
    descriptors: Option<Descriptors<'b>>,
    #[serde(default)]
    amount: Uint,
    #[serde(borrow)]
    ttl: Option<Ttl<'b>>,
    #[serde(borrow)]
    id: Option<Text<'b>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleMembers<'b> {
    #[serde(default, borrow)]
    domain: Text<'b>,
    #[serde(borrow)]
    entries: Option<Pairs<'b>>,
    #[serde(borrow)]
    descriptors: Option<Descriptors<'b>>,
    #[serde(borrow)]
    ticket: Option<Text<'b>>,
    #[serde(default)]
    amount: Uint,
    #[serde(borrow)]
    usage: Option<Object<UsageMembers<'b>>>,
    #[serde(default, rename = "final")]
    is_final: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageMembers<'b> {
    #[serde(default, borrow)]
    model: Text<'b>,
    #[serde(default)]
    input: Uint,
    #[serde(default)]
    cached: Uint,
    #[serde(default)]
    cache_write: Uint,
    #[serde(default)]
    output: Uint,
    #[serde(default)]
    reasoning: Uint,
}

impl UsageMembers<'_> {
    fn usage(self) -> Result<Usage, InvalidRequest> {
        let Self { model, input, cached, cache_write, output, reasoning } = self;
        let written = [input, cached, cache_write, output, reasoning];
        let mut usage = Usage { model: model.0.into_owned(), ..Usage::default() };
        for ((tokens, written), kind) in usage.tokens.iter_mut().zip(written).zip(TokenKind::ALL) {
            *tokens = members::amount(&format!("usage.{}", kind.name()), written)?;
        }
        Ok(usage)
    }
}

/// Parses the body of `/v1/reserve`: that of `/v1/check` with `amount` in place of `hitsAddend`, a `ttl` and an `id`.
///
/// # Errors
/// First syntax error, with line and column, or an invalid TTL or id.
pub(in crate::server) fn decode_reserve(body: &[u8]) -> Result<AcquireRequest<'_>, InvalidRequest> {
    let Object(ReserveMembers { domain, entries, descriptors, amount, ttl, id }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    let (amount, ttl_secs) = (members::amount("amount", amount)?, ttl_secs(ttl, TtlOf::Hold)?);
    let request = request(domain, entries, descriptors, Uint::default())?;
    check_own_amounts(&request)?;
    let named = id.map(|Text(id)| ticket_of(&request, id.as_bytes())).transpose()?;
    let holds = NamedHolds::Budgets { amount, ttl_secs, named };
    Ok(AcquireRequest { request, holds })
}

/// Parses the body of `/v1/settle`: that of `/v1/check` with the `ticket`, the `amount`, and `final`.
///
/// # Errors
/// First syntax error, with line and column, no ticket or no amount.
pub(in crate::server) fn decode_settle(body: &[u8]) -> Result<SettleRequest<'_>, InvalidRequest> {
    let Object(SettleMembers { domain, entries, descriptors, ticket, amount, usage, is_final }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    let ticket = members::ticket(ticket)?;
    if usage.is_some() && amount.0.is_some() {
        return Err(InvalidRequest::new("'amount' and 'usage': send one of them"));
    }
    let is_missing = amount.0.is_none() && usage.is_none();
    let usage = usage.map(|Object(members)| members.usage()).transpose()?;
    let amount = members::amount("amount", amount)?;
    let request = request(domain, entries, descriptors, Uint::default())?;
    check_own_amounts(&request)?;
    if usage.is_some() && request.descriptors.iter().any(|descriptor| descriptor.hits_addend.is_some()) {
        return Err(InvalidRequest::new("'hitsAddend' of a descriptor and 'usage': send one of them"));
    }
    if is_missing && request.descriptors.iter().any(|descriptor| descriptor.hits_addend.is_none()) {
        return Err(InvalidRequest::new(
            "missing 'amount': send the real amount or the 'usage', or use /v1/release",
        ));
    }
    Ok(SettleRequest { request, ticket, amount, usage, is_final: is_final.unwrap_or(true) })
}

/// Ticket of a request that its caller has named.
fn ticket_of(request: &JsonRequest<'_>, id: &[u8]) -> Result<Ticket, InvalidRequest> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(InvalidRequest::new(format_args!("'id' must have 1 to {MAX_ID_BYTES} bytes")));
    }
    let descriptors = request.descriptors.iter().map(|descriptor| {
        descriptor.entries.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()])
    });
    Ok(Ticket::named(id, request.domain.as_bytes(), descriptors))
}

/// Body of an answer to a settlement; `None` if no budget applied.
pub(in crate::server) fn encode_settled(decision: &Decision<'_>, is_final: bool) -> Option<String> {
    let budgets = || decision.statuses.iter().filter_map(|status| Some((status, status.budget?)));
    let (_, first) = budgets().next()?;
    let any = |event| budgets().any(|(_, budget)| budget.report.event == event);
    let mut answer = json!({ "settled": true });
    if is_final {
        answer["first"] = (!any(HoldEvent::Repeated)).into();
        answer["charged"] = first.report.amount.into();
        answer["returned"] = first.report.returned.into();
    } else {
        answer["continue"] = budgets().all(|(status, budget)| !is_over(status, budget)).into();
    }
    if any(HoldEvent::Late) {
        answer["late"] = true.into();
    }
    answer["layers"] = decision.statuses.iter().map(encode_budget).collect();
    Some(answer.to_string())
}

fn is_over(status: &Status<'_>, BudgetStatus { used, report, .. }: BudgetStatus) -> bool {
    let capacity = status.limit.map_or(0, |limit| limit.capacity());
    used.saturating_add(report.held.into()) > capacity.into()
}

/// Body of an answer to an extension, by the word for it: with amounts if the call named some.
pub(in crate::server) fn encode_extended(
    word: &str,
    ttl_secs: u32,
    decision: Option<&Decision<'_>>,
) -> String {
    let mut answer = json!({ word: true, "expiresIn": ttl_secs });
    if let Some(decision) = decision {
        answer["amount"] = decision.statuses.iter().find_map(held_amount).into();
        answer["layers"] = decision.statuses.iter().map(encode_layer).collect();
    }
    answer.to_string()
}

/// Body of an answer about the use of budgets.
pub(in crate::server) fn encode_usage(decision: &Decision<'_>) -> String {
    let binding = decision.binding.and_then(|index| decision.statuses.get(index));
    let mut answer = binding.map_or_else(|| json!({}), numbers);
    answer["layers"] = decision.statuses.iter().map(encode_budget).collect();
    answer.to_string()
}

fn encode_budget(status: &Status<'_>) -> Value {
    let mut answer = numbers(status);
    answer["layer"] = layer(status).into();
    answer["rule"] = rule(status).into();
    if let Some(budget) = status.budget.filter(|budget| budget.report.event != HoldEvent::None) {
        answer["charged"] = budget.report.amount.into();
        answer["returned"] = budget.report.returned.into();
    }
    answer
}

/// Numbers of a descriptor; `null` for what does not apply.
fn numbers(status: &Status<'_>) -> Value {
    let limit = status.limit;
    let left = limit.map(|limit| limit.capacity().saturating_sub(status.remaining).into());
    let used: Option<u64> = status.budget.map(|budget| budget.used).or(left);
    json!({
        "used": used,
        "held": status.budget.map(|budget| budget.report.held),
        "holds": status.budget.map(|budget| budget.report.holds),
        "limit": limit.map(|limit| limit.requests_per_unit),
        "remaining": limit.map(|_| status.remaining),
        "resetIn": status.reset.map(whole_secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_one_ticket_in_its_domain() {
        let named = |body: &str| match decode_reserve(body.as_bytes()).expect("a request").holds {
            NamedHolds::Budgets { named, .. } => named,
            other => panic!("{other:?}"),
        };
        let body = |domain: &str, id: &str| {
            format!(r#"{{"domain": "{domain}", "entries": {{"user": "a"}}, "id": "{id}", "amount": 5}}"#)
        };
        let ticket = named(&body("ai", "req-1"));
        assert!(ticket.is_some());
        assert_eq!(named(&body("ai", "req-1")), ticket);
        assert_ne!(named(&body("ai", "req-2")), ticket);
        assert_ne!(named(&body("shop", "req-1")), ticket);
        assert_eq!(named(r#"{"domain": "ai", "entries": {"user": "a"}}"#), None);
        let too_long = "x".repeat(MAX_ID_BYTES + 1);
        for id in ["", &too_long] {
            assert!(decode_reserve(body("ai", id).as_bytes()).is_err());
        }
    }

    #[test]
    fn a_settlement_needs_a_ticket_and_an_amount() {
        for (members, expected) in [
            (r#""amount": 5"#, "missing 'ticket'"),
            (r#""ticket": "-""#, "missing 'amount'"),
            (r#""ticket": "-", "amount": 5, "usage": {"output": 5}"#, "send one of them"),
            (r#""ticket": "-", "usage": {"outputs": 5}"#, "unknown field `outputs`"),
            (
                r#""ticket": "-", "usage": {"output": 5}, "descriptors": [{"entries": [], "hitsAddend": 5}]"#,
                "'hitsAddend' of a descriptor and 'usage': send one of them",
            ),
            (r#""ticket": "-", "amount": -5"#, "expected a whole number"),
            (r#""ticket": "-", "amount": 5, "finally": true"#, "unknown field `finally`"),
        ] {
            let entries = if members.contains("descriptors") { "" } else { r#""entries": {"user": "a"}, "# };
            let body = format!(r#"{{"domain": "ai", {entries}{members}}}"#);
            let error = decode_settle(body.as_bytes()).map(drop).expect_err(members);
            assert!(error.to_string().contains(expected), "{members}: {error}");
        }
    }
}
