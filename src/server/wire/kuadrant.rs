//! Messages of Kuadrant's service that Envoy's has not: `proto/kuadrant`.

use super::decode::{InvalidRequest, ReceivedRequest, decode_descriptors, decode_head};
use super::fields::{Fields, Malformed, Value, bytes_len, put_bytes, put_uint, uint_len};
use crate::engine::ticket::TicketEntry;
use crate::engine::{Code, Decision};

/// Request to hold an amount.
pub(in crate::server) struct ReserveRequest<'a> {
    /// Domain and descriptors.
    pub(in crate::server) request: ReceivedRequest<'a>,
    /// Amount; 0 for that of the rules.
    pub(in crate::server) amount: u32,
    /// TTL in seconds; [`u32::MAX`] for that of the rules.
    pub(in crate::server) ttl_secs: u32,
}

/// Request to count an amount, and to end a hold.
pub(in crate::server) struct CommitRequest<'a> {
    /// Domain and descriptors.
    pub(in crate::server) request: ReceivedRequest<'a>,
    /// The hold.
    pub(in crate::server) ticket: TicketEntry,
    /// Real amount.
    pub(in crate::server) amount: u32,
}

/// Decodes a `ReserveRequest`.
///
/// # Errors
/// As with [`super::decode()`].
pub(in crate::server) fn decode_reserve(message: &[u8]) -> Result<ReserveRequest<'_>, InvalidRequest> {
    let (mut amount, mut ttl_secs) = (0, u32::MAX);
    let head = decode_head(message, |field| match field {
        (3, Value::Varint(value)) => {
            amount = saturated(value);
            Ok(())
        }
        (4, Value::Bytes(duration)) => {
            ttl_secs = secs(duration)?;
            Ok(())
        }
        (3 | 4, _) => Err(Malformed),
        _ => Ok(()),
    })?;
    Ok(ReserveRequest { request: decode_descriptors(message, head, 0)?, amount, ttl_secs })
}

/// Decodes a `CommitRequest`.
///
/// # Errors
/// As with [`super::decode()`].
pub(in crate::server) fn decode_commit(message: &[u8]) -> Result<CommitRequest<'_>, InvalidRequest> {
    let (mut id, mut amount) = (&[][..], 0);
    let head = decode_head(message, |field| match field {
        (3, Value::Bytes(bytes)) => {
            id = bytes;
            Ok(())
        }
        (4, Value::Varint(value)) => {
            amount = saturated(value);
            Ok(())
        }
        (3 | 4, _) => Err(Malformed),
        _ => Ok(()),
    })?;
    let request = decode_descriptors(message, head, 0)?;
    Ok(CommitRequest { request, ticket: TicketEntry::of(id), amount })
}

/// `ReserveResponse` to a decision.
pub(in crate::server) fn encode_reserved(decision: &Decision<'_>) -> Vec<u8> {
    let (code, id) = match decision.code {
        Code::Ok => (1, decision.hold.map(|hold| hold.ticket.to_string())),
        Code::OverLimit => (2, None),
    };
    let id = id.unwrap_or_default();
    let mut message = Vec::with_capacity(uint_len(1, code) + bytes_len(2, id.len()));
    put_uint(&mut message, 1, code);
    if !id.is_empty() {
        put_bytes(&mut message, 2, id.as_bytes());
    }
    message
}

/// `CommitResponse`.
pub(in crate::server) fn encode_committed(was_released: bool) -> Vec<u8> {
    let mut message = Vec::new();
    put_uint(&mut message, 1, was_released.into());
    message
}

fn saturated(amount: u64) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}

/// Seconds of a `Duration`, rounded up: at least 1.
fn secs(message: &[u8]) -> Result<u32, Malformed> {
    let (mut secs, mut nanos) = (0, 0);
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(value)) => secs = value,
            (2, Value::Varint(value)) => nanos = value,
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    // Negative numbers are large ones here.
    let secs = if i64::try_from(secs).is_err() { 0 } else { secs };
    let secs = secs.saturating_add(u64::from(nanos > 0 && i64::try_from(nanos).is_ok()));
    Ok(saturated(secs).clamp(1, u32::MAX - 1))
}
