//! From Envoy's request to the engine's, which holds its bounds and borrows from the message's bytes.

use smallvec::SmallVec;

use super::fields::{Fields, Malformed, Value};
use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES, MAX_HITS};
use crate::engine::{Descriptor, Entry, Hits, Limit, Request, Unit};
use crate::pb;

/// A request that makes no sense: the message names the field, or says that it is no protobuf message at
/// all. Nothing was counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(pub(super) String);

impl From<Malformed> for InvalidRequest {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.to_string())
    }
}

/// The request that `message` is, a `RateLimitRequest` as protobuf writes it. As every reader of protobuf
/// does, it passes over fields it does not know, and of a field that should be there once takes the last.
///
/// # Errors
/// [`InvalidRequest`] where it is none, or holds more than the engine's bounds allow.
pub fn decode(message: &[u8]) -> Result<Request<'_>, InvalidRequest> {
    let (mut domain, mut hits, mut count) = (&[][..], 0, 0);
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(bytes)) => domain = decode_domain(bytes)?,
            (2, Value::Bytes(_)) => count += 1,
            (3, Value::Varint(value)) => hits = uint32(value),
            (1..=3, _) => return Err(Malformed.into()),
            _ => {}
        }
    }
    if domain.is_empty() {
        return invalid("rate limit domain must not be empty".to_owned());
    }
    if count == 0 {
        return invalid("rate limit descriptor list must not be empty".to_owned());
    }
    if count > MAX_DESCRIPTORS {
        return invalid(format!("descriptors must not be more than {MAX_DESCRIPTORS}, found {count}"));
    }
    let mut descriptors = SmallVec::with_capacity(count);
    for field in Fields(message) {
        if let (2, Value::Bytes(descriptor)) = field? {
            descriptors.push(decode_descriptor(descriptors.len(), descriptor, hits)?);
        }
    }
    Ok(Request { domain, descriptors })
}

fn decode_domain(bytes: &[u8]) -> Result<&[u8], InvalidRequest> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => invalid("domain must be UTF-8".to_owned()),
    }
}

fn decode_descriptor(
    index: usize,
    message: &[u8],
    request_hits: u32,
) -> Result<Descriptor<'_>, InvalidRequest> {
    let mut entries = SmallVec::new();
    let (mut own_hits, mut is_negative, mut limit) = (None, false, None);
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(entry)) if entries.len() < MAX_ENTRIES => {
                entries.push(decode_entry(entry)?);
            }
            (1, Value::Bytes(_)) => return too_many_entries(index, message),
            (2, Value::Bytes(bytes)) => limit = Some(merge_override(limit.unwrap_or_default(), bytes)?),
            (3, Value::Bytes(bytes)) => own_hits = Some(merge_value(own_hits.unwrap_or_default(), bytes)?),
            (4, Value::Varint(value)) => is_negative = value != 0,
            (1..=4, _) => return Err(Malformed.into()),
            _ => {}
        }
    }
    // The descriptor's own addend takes the place of the request's, and may be 0; the request's 0 is 1.
    let hits = match own_hits {
        Some(own) => u32::try_from(own).unwrap_or(MAX_HITS),
        None => request_hits.max(1),
    };
    let hits = if is_negative { Hits::Refund(hits) } else { Hits::Add(hits) };
    let limit_override = limit.map(|limit| decode_override(index, limit)).transpose()?;
    Ok(Descriptor { entries, hits, limit_override })
}

fn too_many_entries<T>(index: usize, message: &[u8]) -> Result<T, InvalidRequest> {
    let found = Fields(message).filter(|field| matches!(field, Ok((1, _)))).count();
    invalid(format!("descriptors[{index}].entries must not be more than {MAX_ENTRIES}, found {found}"))
}

fn decode_entry(message: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut entry = Entry { key: &[], value: &[] };
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(key)) => entry.key = key,
            (2, Value::Bytes(value)) => entry.value = value,
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(entry)
}

/// A limit that the caller brings, as it stands in the message.
#[derive(Clone, Copy, Default)]
struct Override {
    requests_per_unit: u32,
    unit: u32,
}

/// A message that is there twice is one: what stands in the second replaces what stood in the first.
fn merge_override(mut limit: Override, message: &[u8]) -> Result<Override, Malformed> {
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(value)) => limit.requests_per_unit = uint32(value),
            (2, Value::Varint(value)) => limit.unit = uint32(value),
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(limit)
}

/// The same of a `UInt64Value`.
fn merge_value(mut own: u64, message: &[u8]) -> Result<u64, Malformed> {
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(value)) => own = value,
            (1, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(own)
}

fn decode_override(index: usize, limit: Override) -> Result<Limit, InvalidRequest> {
    use pb::RateLimitUnit as Wire;
    let unit = match i32::try_from(limit.unit).ok().and_then(|unit| Wire::try_from(unit).ok()) {
        Some(Wire::Second) => Unit::Second,
        Some(Wire::Minute) => Unit::Minute,
        Some(Wire::Hour) => Unit::Hour,
        Some(Wire::Day) => Unit::Day,
        Some(Wire::Month) => Unit::Month,
        Some(Wire::Year) => Unit::Year,
        Some(Wire::Week) => Unit::Week,
        Some(Wire::Unknown) | None => {
            return invalid(format!(
                "descriptors[{index}].limit.unit must be SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR"
            ));
        }
    };
    Ok(Limit::per(limit.requests_per_unit, unit))
}

/// What a field of 32 bits holds: more than that is cut off
/// (<https://protobuf.dev/programming-guides/proto3/#updating>).
#[expect(clippy::cast_possible_truncation, reason = "that is the rule")]
const fn uint32(varint: u64) -> u32 {
    varint as u32
}

fn invalid<T>(message: String) -> Result<T, InvalidRequest> {
    Err(InvalidRequest(message))
}
