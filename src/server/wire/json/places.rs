//! Requests of `POST /v1/acquire`, `/v1/renew` and `/v1/release`.

use serde::Deserialize;

use super::super::decode::{InvalidRequest, ReceivedRequest};
use super::check::{Descriptors, Pairs, request};
use super::members::{self, Ttl, TtlOf, check_own_amounts, ttl_secs};
use super::request::JsonRequest;
use super::values::{Object, Text, Uint};
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

/// Request about what a ticket holds.
pub(in crate::server) struct TicketRequest<'b> {
    /// Descriptors with which it was acquired.
    pub(in crate::server) request: JsonRequest<'b>,
    /// Ticket under which it is held.
    pub(in crate::server) ticket: TicketEntry,
    /// Upper bound on the time for which it is held, in seconds; [`u32::MAX`] for that of the rules.
    pub(in crate::server) max_ttl_secs: u32,
    /// Amount that budgets are to hold in all; 0 to leave them as they are.
    pub(in crate::server) amount: u32,
}

/// Call about what a ticket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum TicketEndpoint {
    /// `/v1/renew`, for places.
    Renew,
    /// `/v1/extend`, for budgets.
    Extend,
    /// `/v1/release`, for both.
    Release,
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
    ttl: Option<Ttl<'b>>,
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
    ttl: Option<Ttl<'b>>,
    #[serde(default)]
    amount: Uint,
}

/// Parses the body of `/v1/acquire`: that of `/v1/check` with `weight` in place of `hitsAddend`, and a `ttl`.
///
/// # Errors
/// First syntax error, with line and column, or an invalid TTL.
pub(in crate::server) fn decode_acquire(body: &[u8]) -> Result<AcquireRequest<'_>, InvalidRequest> {
    let Object(AcquireMembers { domain, entries, descriptors, weight, ttl }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    let request = request(domain, entries, descriptors, weight)?;
    Ok(AcquireRequest { request, holds: NamedHolds::Places { max_ttl_secs: ttl_secs(ttl, TtlOf::Place)? } })
}

/// Parses the body of `endpoint`: that of `/v1/check` with the `ticket` in place of `hitsAddend`. To renew, it may have a
/// `ttl`, and to extend an `amount` too.
///
/// # Errors
/// First syntax error, with line and column, no ticket, or an invalid member.
pub(in crate::server) fn decode_ticket(
    body: &[u8],
    endpoint: TicketEndpoint,
) -> Result<TicketRequest<'_>, InvalidRequest> {
    let Object(TicketMembers { domain, entries, descriptors, ticket, ttl, amount }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    let ticket = members::ticket(ticket)?;
    if amount.0.is_some() && endpoint != TicketEndpoint::Extend {
        return Err(InvalidRequest::new("'amount': send it to /v1/extend, to hold more, or to /v1/settle"));
    }
    if ttl.is_some() && endpoint == TicketEndpoint::Release {
        return Err(InvalidRequest::new("'ttl': send it to /v1/extend or /v1/renew, to hold for longer"));
    }
    let of = if endpoint == TicketEndpoint::Extend { TtlOf::Hold } else { TtlOf::Place };
    let (max_ttl_secs, amount) = (ttl_secs(ttl, of)?, members::amount("amount", amount)?);
    let request = request(domain, entries, descriptors, Uint::default())?;
    if endpoint == TicketEndpoint::Extend {
        check_own_amounts(&request)?;
    }
    Ok(TicketRequest { request, ticket, max_ttl_secs, amount })
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
    fn tickets_are_needed_and_members_are_refused_by_their_names() {
        let of_ticket = |endpoint, members: &str| {
            let body = format!(r#"{{"domain": "shop", "entries": {{"tenant": "a"}}, {members}}}"#);
            let decoded = decode_ticket(body.as_bytes(), endpoint);
            decoded.map(|request| request.ticket).map_err(|error| error.to_string())
        };
        let (renew, extend, release) =
            (TicketEndpoint::Renew, TicketEndpoint::Extend, TicketEndpoint::Release);
        for endpoint in [renew, extend, release] {
            assert_eq!(of_ticket(endpoint, r#""ticket": "-""#), Ok(TicketEntry::Unknown));
        }
        assert!(of_ticket(renew, r#""ticket": "-", "ttl": "1d""#).is_ok());
        assert!(of_ticket(extend, r#""ticket": "-", "ttl": "1 hour", "amount": 4294967295"#).is_ok());
        for (endpoint, members, expected) in [
            (release, r#""ticket": null"#, "missing 'ticket': send the one that /v1/reserve or /v1/acquire"),
            (renew, r#""ttl": "1m""#, "missing 'ticket'"),
            (release, r#""ticket": "x""#, "invalid 'ticket'"),
            (extend, r#""ticket": "00112233445566778899AABBCCDDEEFF""#, "invalid 'ticket'"),
            (renew, r#""ticket": "-", "ttl": "1.5s""#, "invalid 'ttl': write a time from 1s to 1d"),
            (renew, r#""ticket": "-", "ttl": "2d""#, "invalid 'ttl': write a time from 1s to 1d"),
            (extend, r#""ticket": "-", "ttl": "61m""#, "invalid 'ttl': write a time from 1s to 1h"),
            (renew, r#""ticket": "-", "ttl": "0s""#, "invalid 'ttl'"),
            (renew, r#""ticket": "-", "ttl": "soon""#, "invalid 'ttl'"),
            (renew, r#""ticket": "-", "ttl": 90"#, "expected a 'ttl' such as \"90s\""),
            (release, r#""ticket": "-", "ttl": "1m""#, "'ttl': send it to /v1/extend"),
            (renew, r#""ticket": "-", "amount": 5"#, "'amount': send it to /v1/extend"),
            (extend, r#""ticket": "-", "amount": 4294967296"#, "'amount' is at most 4294967295"),
            (release, r#""ticket": "-", "weight": 1"#, "unknown field `weight`"),
        ] {
            let error = of_ticket(endpoint, members).expect_err(members);
            assert!(error.contains(expected), "{members}: {error}");
        }
    }
}
