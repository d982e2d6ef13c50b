//! Decoder: from Envoy's request to a request of the engine, which borrows from the message.

use std::fmt::Display;
use std::ops::Deref;

use smallvec::SmallVec;

use super::fields::{Fields, Malformed, Value};
use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES, MAX_HITS};
use crate::engine::text::{MAX_MESSAGE_BYTES, one_line};
use crate::engine::{Descriptor, Entry, Hits, Limit, Request, Unit};
use crate::pb;

/// Invalid request, caused by the configuration of the caller. Nothing was counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(Box<str>);

impl InvalidRequest {
    /// Error with `message`, which may contain text of the request.
    pub(super) fn new(message: impl Display) -> Self {
        Self(one_line(&message.to_string(), MAX_MESSAGE_BYTES).into())
    }
}

impl From<Malformed> for InvalidRequest {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed)
    }
}

/// Received request: that of the engine, and parts that only answers repeat.
#[derive(Clone, Debug)]
pub struct ReceivedRequest<'a> {
    request: Request<'a>,
    /// `hits_addend` of the request, the default of its descriptors.
    pub(super) hits_addend: u32,
    /// True if each descriptor has a `hits_addend` of its own.
    pub(super) own_hits: SmallVec<[bool; 4]>,
}

impl<'a> Deref for ReceivedRequest<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        &self.request
    }
}

/// Limit in a request, as received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Override {
    pub(super) requests_per_unit: u64,
    pub(super) unit: i64,
}

impl<'a> ReceivedRequest<'a> {
    /// True for each descriptor with hits of its own.
    pub(in crate::server) fn own_hits(&self) -> &[bool] {
        &self.own_hits
    }

    /// Request without its descriptors, of which `count` will follow.
    ///
    /// # Errors
    /// Invalid domain or `count`.
    pub(super) fn new(domain: &'a [u8], count: usize, hits_addend: u32) -> Result<Self, InvalidRequest> {
        if domain.is_empty() {
            return invalid("rate limit domain must not be empty");
        }
        if count == 0 {
            return invalid("rate limit descriptor list must not be empty");
        }
        if count > MAX_DESCRIPTORS {
            return invalid(format_args!(
                "descriptors must not be more than {MAX_DESCRIPTORS}, found {count}"
            ));
        }
        let request = Request { domain, descriptors: SmallVec::with_capacity(count) };
        Ok(Self { request, hits_addend, own_hits: SmallVec::with_capacity(count) })
    }

    /// Adds the next descriptor. Its own addend overrides that of the request. 0 of a descriptor is a peek; 0
    /// of the request means 1.
    ///
    /// # Errors
    /// Its limit is invalid.
    pub(super) fn push(
        &mut self,
        entries: SmallVec<[Entry<'a>; 4]>,
        own_hits: Option<u64>,
        is_negative: bool,
        limit: Option<Override>,
    ) -> Result<(), InvalidRequest> {
        let index = self.request.descriptors.len();
        let hits = match own_hits {
            Some(own) => u32::try_from(own).unwrap_or(MAX_HITS),
            None => self.hits_addend.max(1),
        };
        let hits = if is_negative { Hits::Refund(hits) } else { Hits::Add(hits) };
        let limit_override = limit.map(|limit| decode_override(index, limit)).transpose()?;
        self.request.descriptors.push(Descriptor { entries, hits, limit_override });
        self.own_hits.push(own_hits.is_some());
        Ok(())
    }
}

/// Decodes `message`, a `RateLimitRequest` in protobuf. Like every decoder of protobuf, it skips unknown fields
/// and takes the last value of a repeated singular field.
///
/// # Errors
/// [`InvalidRequest`] if the message is malformed or has more descriptors or entries than the engine accepts.
pub fn decode(message: &[u8]) -> Result<ReceivedRequest<'_>, InvalidRequest> {
    let mut hits = 0;
    let head = decode_head(message, |field| match field {
        (3, Value::Varint(value)) => {
            hits = uint32(value);
            Ok(())
        }
        (3, _) => Err(Malformed),
        _ => Ok(()),
    })?;
    decode_descriptors(message, head, hits)
}

/// Domain of a message, and the number of its descriptors. `other` reads every field but these two.
pub(super) fn decode_head<'a>(
    message: &'a [u8],
    mut other: impl FnMut((u32, Value<'a>)) -> Result<(), Malformed>,
) -> Result<(&'a [u8], usize), InvalidRequest> {
    let (mut domain, mut count) = (&[][..], 0);
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(bytes)) => domain = decode_domain(bytes)?,
            (2, Value::Bytes(_)) => count += 1,
            (1 | 2, _) => return Err(Malformed.into()),
            field => other(field)?,
        }
    }
    Ok((domain, count))
}

/// The request of a message with this head.
pub(super) fn decode_descriptors<'a>(
    message: &'a [u8],
    (domain, count): (&'a [u8], usize),
    hits: u32,
) -> Result<ReceivedRequest<'a>, InvalidRequest> {
    let mut request = ReceivedRequest::new(domain, count, hits)?;
    for field in Fields(message) {
        if let (2, Value::Bytes(descriptor)) = field? {
            decode_descriptor(&mut request, descriptor)?;
        }
    }
    Ok(request)
}

fn decode_domain(bytes: &[u8]) -> Result<&[u8], InvalidRequest> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => invalid("domain must be UTF-8"),
    }
}

fn decode_descriptor<'a>(request: &mut ReceivedRequest<'a>, message: &'a [u8]) -> Result<(), InvalidRequest> {
    let mut entries = SmallVec::new();
    let (mut own_hits, mut is_negative, mut limit) = (None, false, None);
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(entry)) if entries.len() < MAX_ENTRIES => entries.push(decode_entry(entry)?),
            (1, Value::Bytes(_)) => return too_many_entries(request.descriptors.len(), message),
            (2, Value::Bytes(bytes)) => limit = Some(merge_override(limit.unwrap_or_default(), bytes)?),
            (3, Value::Bytes(bytes)) => own_hits = Some(merge_value(own_hits.unwrap_or_default(), bytes)?),
            (4, Value::Varint(value)) => is_negative = value != 0,
            (1..=4, _) => return Err(Malformed.into()),
            _ => {}
        }
    }
    request.push(entries, own_hits, is_negative, limit)
}

fn too_many_entries<T>(index: usize, message: &[u8]) -> Result<T, InvalidRequest> {
    let found = Fields(message).filter(|field| matches!(field, Ok((1, _)))).count();
    invalid(format_args!("descriptors[{index}].entries must not be more than {MAX_ENTRIES}, found {found}"))
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

/// Merges a message field that occurs twice: values of the second occurrence replace those of the first.
fn merge_override(mut limit: Override, message: &[u8]) -> Result<Override, Malformed> {
    for field in Fields(message) {
        match field? {
            (1, Value::Varint(value)) => limit.requests_per_unit = uint32(value).into(),
            (2, Value::Varint(value)) => limit.unit = uint32(value).into(),
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(limit)
}

/// Merges a `UInt64Value` that occurs twice.
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
        Some(Wire::Week) => Unit::Week,
        Some(Wire::Month) => Unit::Month,
        Some(Wire::Year) => Unit::Year,
        Some(Wire::Unknown) | None => {
            return invalid(format_args!(
                "descriptors[{index}].limit.unit must be SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR"
            ));
        }
    };
    match u32::try_from(limit.requests_per_unit) {
        Ok(requests_per_unit) => Ok(Limit::per(requests_per_unit, unit)),
        Err(_) => invalid(format_args!(
            "descriptors[{index}].limit.requests_per_unit must not be more than {}",
            u32::MAX
        )),
    }
}

/// Value of a 32-bit field. Higher bits are truncated
/// (<https://protobuf.dev/programming-guides/proto3/#updating>).
#[expect(clippy::cast_possible_truncation, reason = "that is the rule")]
const fn uint32(varint: u64) -> u32 {
    varint as u32
}

fn invalid<T>(message: impl Display) -> Result<T, InvalidRequest> {
    Err(InvalidRequest::new(message))
}
