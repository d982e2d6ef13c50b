//! Requests of `POST /v1/acquire`, `/v1/renew` and `/v1/release`.

use std::time::Duration;

use serde::Deserialize;

use super::super::decode::{InvalidRequest, ReceivedRequest};
use super::check::{Descriptors, Pairs, request};
use super::request::JsonRequest;
use super::values::{Object, Text, Uint};
use crate::engine::duration;
use crate::engine::plan::Holding;
use crate::engine::plan::tickets::Amounts;
use crate::engine::ticket::{Ticket, TicketEntry};
use crate::limiter::Purpose;

/// Request for a decision, which may take places.
pub(in crate::server) struct AcquireRequest<'b> {
    /// Descriptors. Their hits are the number of places.
    pub(in crate::server) request: JsonRequest<'b>,
    /// Holds.
    pub(in crate::server) holds: NamedHolds,
}

/// Holds as a request names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum NamedHolds {
    /// Nothing, but that places are held for so many seconds at most; [`u32::MAX`] for the time of the rules.
    Places {
        /// Upper bound.
        max_ttl_secs: u32,
    },
    /// No hits are a look.
    NoLooks,
    /// Holds of budgets.
    Budgets {
        /// Amount of each descriptor that has none of its own; 0 for that of its rule.
        amount: u32,
        /// TTL in seconds; [`u32::MAX`] for that of the rules.
        ttl_secs: u32,
        /// Ticket that the caller has named.
        named: Option<Ticket>,
    },
}

impl NamedHolds {
    /// Purpose of `request`.
    pub(in crate::server) fn of<'r>(&self, request: &'r ReceivedRequest<'_>) -> Purpose<'r> {
        match *self {
            Self::Places { max_ttl_secs } => Purpose::Decide { max_ttl_secs },
            Self::NoLooks => Purpose::DecideByHits,
            Self::Budgets { amount, ttl_secs, named } => {
                let amounts = Amounts { of_request: amount, own: request.own_hits(), usage: None };
                Purpose::Reserve(Holding { amounts, ttl_secs, named })
            }
        }
    }
}

/// With the holds of the rules.
impl<'b> From<JsonRequest<'b>> for AcquireRequest<'b> {
    fn from(request: JsonRequest<'b>) -> Self {
        Self { request, holds: NamedHolds::Places { max_ttl_secs: u32::MAX } }
    }
}

impl<'b> AcquireRequest<'b> {
    /// A request for which no hits are a look.
    pub(in crate::server) fn without_looks(request: JsonRequest<'b>) -> Self {
        Self { request, holds: NamedHolds::NoLooks }
    }
}

/// Request about places that are held.
pub(in crate::server) struct TicketRequest<'b> {
    /// Descriptors with which they were acquired.
    pub(in crate::server) request: JsonRequest<'b>,
    /// Ticket under which they are held.
    pub(in crate::server) ticket: TicketEntry,
    /// Upper bound on the time for which they are held, in seconds; [`u32::MAX`] for that of the rules.
    pub(in crate::server) max_ttl_secs: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcquireMembers<'b> {
    #[serde(default, borrow)]
    domain: Text<'b>,
    #[serde(borrow)]
    entries: Option<Pairs<'b>>,
    #[serde(borrow)]
    descriptors: Option<Descriptors<'b>>,
    #[serde(default)]
    weight: Uint,
    #[serde(borrow)]
    ttl: Option<Text<'b>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketMembers<'b> {
    #[serde(default, borrow)]
    domain: Text<'b>,
    #[serde(borrow)]
    entries: Option<Pairs<'b>>,
    #[serde(borrow)]
    descriptors: Option<Descriptors<'b>>,
    #[serde(borrow)]
    ticket: Option<Text<'b>>,
    #[serde(borrow)]
    ttl: Option<Text<'b>>,
}

/// Parses the body of `/v1/acquire`: that of `/v1/check` with `weight` in place of `hitsAddend`, and a `ttl`.
///
/// # Errors
/// First syntax error, with line and column, or an invalid TTL.
pub(in crate::server) fn decode_acquire(body: &[u8]) -> Result<AcquireRequest<'_>, InvalidRequest> {
    let Object(AcquireMembers { domain, entries, descriptors, weight, ttl }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    let request = request(domain, entries, descriptors, weight)?;
    Ok(AcquireRequest { request, holds: NamedHolds::Places { max_ttl_secs: max_ttl_secs(ttl)? } })
}

/// Parses the body of `/v1/renew` or `/v1/release`: that of `/v1/check` with the `ticket` in place of `hitsAddend`.
///
/// # Errors
/// First syntax error, with line and column, no ticket, or an invalid TTL.
pub(in crate::server) fn decode_ticket(body: &[u8]) -> Result<TicketRequest<'_>, InvalidRequest> {
    let Object(TicketMembers { domain, entries, descriptors, ticket, ttl }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    let Some(ticket) = ticket else {
        return Err(InvalidRequest::new("missing 'ticket': send the one that /v1/acquire returned"));
    };
    let request = request(domain, entries, descriptors, Uint::default())?;
    Ok(TicketRequest {
        request,
        ticket: TicketEntry::of(ticket.0.as_bytes()),
        max_ttl_secs: max_ttl_secs(ttl)?,
    })
}

/// Whole seconds of a TTL such as `90s` or `2m`, at least one.
pub(super) fn max_ttl_secs(ttl: Option<Text<'_>>) -> Result<u32, InvalidRequest> {
    let Some(Text(ttl)) = ttl else { return Ok(u32::MAX) };
    let whole = |ttl: &Duration| ttl.as_secs() >= 1 && ttl.subsec_nanos() == 0;
    match duration::parse(&ttl).filter(whole) {
        Some(ttl) => Ok(u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
        None => Err(InvalidRequest::new("invalid 'ttl': write whole seconds such as 90s or 2m, at least 1s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Hits;

    #[test]
    fn requests_for_places_have_a_weight_and_a_ttl() {
        let body =
            br#"{"domain": "shop", "entries": {"tenant": "a", "host": "b"}, "weight": 3, "ttl": "1m30s"}"#;
        let AcquireRequest { request, holds } = decode_acquire(body).expect("a request");
        let received = request.received().expect("a request");
        let hits: Vec<_> = received.descriptors.iter().map(|descriptor| descriptor.hits).collect();
        let expected = NamedHolds::Places { max_ttl_secs: 90 };
        assert_eq!((hits, holds), (vec![Hits::Add(3), Hits::Add(3)], expected));
    }

    #[test]
    fn tickets_are_needed_and_times_are_whole_seconds() {
        let of_ticket = |members: &str| {
            let body = format!(r#"{{"domain": "shop", "entries": {{"tenant": "a"}}, {members}}}"#);
            decode_ticket(body.as_bytes()).map(|request| request.ticket).map_err(|error| error.to_string())
        };
        assert_eq!(of_ticket(r#""ticket": "-""#), Ok(TicketEntry::Unknown));
        for (members, expected) in [
            (r#""ticket": null"#, "missing 'ticket'"),
            (r#""ttl": "1m""#, "missing 'ticket'"),
            (r#""ticket": "-", "ttl": "1.5s""#, "invalid 'ttl'"),
            (r#""ticket": "-", "ttl": "0""#, "invalid 'ttl'"),
            (r#""ticket": "-", "ttl": "soon""#, "invalid 'ttl'"),
            (r#""ticket": "-", "weight": 1"#, "unknown field `weight`"),
        ] {
            let error = of_ticket(members).expect_err(members);
            assert!(error.contains(expected), "{members}: {error}");
        }
    }
}
