//! Members that calls about tickets have in common: amounts, times and tickets. An invalid value is rejected with
//! the name of its member.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::super::decode::InvalidRequest;
use super::request::JsonRequest;
use super::values::{Text, Uint};
use crate::engine::reserve::MAX_TTL_SECS;
use crate::engine::rules::{MAX_PLACE_TTL_SECS, parse_window};
use crate::engine::ticket::TicketEntry;

/// Text in place of a ticket for a request that has none, as Envoy sends it too.
const NO_TICKET: &str = "-";

/// Time as written, such as `90s`.
pub(super) struct Ttl<'b>(Cow<'b, str>);

/// Bounds of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TtlOf {
    /// Of the hold of a budget.
    Hold,
    /// Of a place, or of whatever a ticket holds.
    Place,
}

impl TtlOf {
    const fn max_secs(self) -> u32 {
        match self {
            Self::Hold => MAX_TTL_SECS,
            Self::Place => MAX_PLACE_TTL_SECS,
        }
    }

    const fn refusal(self) -> &'static str {
        match self {
            Self::Hold => "invalid 'ttl': write a time from 1s to 1h, such as 90s or 15m",
            Self::Place => "invalid 'ttl': write a time from 1s to 1d, such as 90s or 15m",
        }
    }
}

impl<'de: 'b, 'b> Deserialize<'de> for Ttl<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TtlVisitor)
    }
}

struct TtlVisitor;

impl<'de> Visitor<'de> for TtlVisitor {
    type Value = Ttl<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 'ttl' such as \"90s\"")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Ttl<'de>, E> {
        Ok(Ttl(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ttl<'de>, E> {
        Ok(Ttl(Cow::Owned(text.to_owned())))
    }
}

/// Seconds of a time in the format of rules; [`u32::MAX`] without one.
pub(super) fn ttl_secs(ttl: Option<Ttl<'_>>, of: TtlOf) -> Result<u32, InvalidRequest> {
    let Some(Ttl(ttl)) = ttl else { return Ok(u32::MAX) };
    match parse_window(&ttl) {
        Ok(window) if window.secs() <= of.max_secs() => Ok(window.secs()),
        Ok(_) | Err(_) => Err(InvalidRequest::new(of.refusal())),
    }
}

/// Amount of the member `name`; 0 without one.
pub(super) fn amount(name: &str, Uint(amount): Uint) -> Result<u32, InvalidRequest> {
    u32::try_from(amount.unwrap_or_default())
        .map_err(|_| InvalidRequest::new(format_args!("'{name}' is at most {}", u32::MAX)))
}

/// Checks the amounts of descriptors that have their own.
pub(super) fn check_own_amounts(request: &JsonRequest<'_>) -> Result<(), InvalidRequest> {
    let own = |hits| amount("hitsAddend", Uint(hits)).map(drop);
    request.descriptors.iter().try_for_each(|descriptor| own(descriptor.hits_addend))
}

/// The ticket of a call.
pub(super) fn ticket(ticket: Option<Text<'_>>) -> Result<TicketEntry, InvalidRequest> {
    let Some(Text(text)) = ticket else {
        let message = "missing 'ticket': send the one that /v1/reserve or /v1/acquire returned";
        return Err(InvalidRequest::new(message));
    };
    match TicketEntry::of(text.as_bytes()) {
        TicketEntry::Named(ticket) => Ok(TicketEntry::Named(ticket)),
        TicketEntry::Absent | TicketEntry::Unknown if text == NO_TICKET => Ok(TicketEntry::Unknown),
        TicketEntry::Absent | TicketEntry::Unknown => Err(InvalidRequest::new(
            "invalid 'ticket': send the 32 digits that /v1/reserve or /v1/acquire returned, or '-' if there are none",
        )),
    }
}
