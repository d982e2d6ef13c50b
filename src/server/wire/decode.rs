//! From Envoy's request to the engine's, which holds its bounds.

use smallvec::SmallVec;

use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES, MAX_HITS, MAX_TEXT_BYTES};
use crate::engine::{Descriptor, Entry, Hits, Limit, Request, Unit};
use crate::pb;

/// A request that makes no sense. The message names the field; nothing was counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(pub(super) String);

/// The request that `message` is.
///
/// # Errors
/// [`InvalidRequest`] where it is none, or holds more than the engine's bounds allow.
pub fn decode(message: &pb::RateLimitRequest) -> Result<Request<'_>, InvalidRequest> {
    if message.domain.is_empty() {
        return invalid("rate limit domain must not be empty".to_owned());
    }
    if message.domain.len() > MAX_TEXT_BYTES {
        return invalid(format!("domain must not be longer than {MAX_TEXT_BYTES} bytes"));
    }
    if message.descriptors.is_empty() {
        return invalid("rate limit descriptor list must not be empty".to_owned());
    }
    if message.descriptors.len() > MAX_DESCRIPTORS {
        let found = message.descriptors.len();
        return invalid(format!("descriptors must not be more than {MAX_DESCRIPTORS}, found {found}"));
    }
    if message.hits_addend > MAX_HITS {
        return invalid(format!("hits_addend must not be more than {MAX_HITS}"));
    }
    let descriptors = message
        .descriptors
        .iter()
        .enumerate()
        .map(|(index, descriptor)| decode_descriptor(index, descriptor, message.hits_addend))
        .collect::<Result<_, _>>()?;
    Ok(Request { domain: message.domain.as_bytes(), descriptors })
}

fn decode_descriptor(
    index: usize,
    message: &pb::RateLimitDescriptor,
    request_hits: u32,
) -> Result<Descriptor<'_>, InvalidRequest> {
    if message.entries.len() > MAX_ENTRIES {
        let found = message.entries.len();
        return invalid(format!(
            "descriptors[{index}].entries must not be more than {MAX_ENTRIES}, found {found}"
        ));
    }
    let mut entries = SmallVec::with_capacity(message.entries.len());
    for (at, pb::Entry { key, value }) in message.entries.iter().enumerate() {
        if key.is_empty() {
            return invalid(format!("descriptors[{index}].entries[{at}].key must not be empty"));
        }
        for (name, text) in [("key", key), ("value", value)] {
            if text.len() > MAX_TEXT_BYTES {
                return invalid(format!(
                    "descriptors[{index}].entries[{at}].{name} must not be longer than {MAX_TEXT_BYTES} bytes"
                ));
            }
        }
        entries.push(Entry { key, value });
    }
    let limit_override = message.limit.as_ref().map(|limit| decode_override(index, limit)).transpose()?;
    Ok(Descriptor { entries, hits: decode_hits(index, message, request_hits)?, limit_override })
}

/// The descriptor's own addend takes the place of the request's, and may be 0; the request's 0 is 1.
fn decode_hits(
    index: usize,
    message: &pb::RateLimitDescriptor,
    request_hits: u32,
) -> Result<Hits, InvalidRequest> {
    let hits = match &message.hits_addend {
        Some(own) => u32::try_from(own.value).ok().filter(|hits| *hits <= MAX_HITS),
        None => Some(request_hits.max(1)),
    };
    match hits {
        None => invalid(format!("descriptors[{index}].hits_addend must not be more than {MAX_HITS}")),
        Some(hits) if message.is_negative_hits => Ok(Hits::Refund(hits)),
        Some(hits) => Ok(Hits::Add(hits)),
    }
}

fn decode_override(index: usize, message: &pb::RateLimitOverride) -> Result<Limit, InvalidRequest> {
    use pb::RateLimitUnit as Wire;
    let unit = match Wire::try_from(message.unit) {
        Ok(Wire::Second) => Unit::Second,
        Ok(Wire::Minute) => Unit::Minute,
        Ok(Wire::Hour) => Unit::Hour,
        Ok(Wire::Day) => Unit::Day,
        Ok(Wire::Month) => Unit::Month,
        Ok(Wire::Year) => Unit::Year,
        Ok(Wire::Unknown) | Err(_) => {
            return invalid(format!(
                "descriptors[{index}].limit.unit must be SECOND, MINUTE, HOUR, DAY, MONTH or YEAR"
            ));
        }
    };
    Ok(Limit::per(message.requests_per_unit, unit))
}

fn invalid<T>(message: String) -> Result<T, InvalidRequest> {
    Err(InvalidRequest(message))
}
