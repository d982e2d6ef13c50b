//! Requests in proto3 JSON (<https://protobuf.dev/programming-guides/json/>): members in lowerCamelCase or as
//! in the proto file, `null` for an absent member, integers as numbers (`1`, `1.0`, `1e2`) or strings, enums by
//! name or number.
//!
//! Bounds are enforced while parsing, so that a request cannot allocate more than they allow.

use std::borrow::Cow;

use serde::Deserialize;

use super::super::decode::{InvalidRequest, Override, ReceivedRequest};
use super::values::{Flag, List, Object, Text, Uint, Unit};
use crate::engine::Entry;
use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES};

/// Parsed request, from which a [`ReceivedRequest`] borrows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct JsonRequest<'b> {
    pub(super) domain: Cow<'b, str>,
    pub(super) descriptors: Vec<Descriptor<'b>>,
    pub(super) hits_addend: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor<'b> {
    pub(super) entries: Vec<(Cow<'b, str>, Cow<'b, str>)>,
    pub(super) limit: Option<(u64, i64)>,
    pub(super) hits_addend: Option<u64>,
    pub(super) is_negative_hits: bool,
}

/// The members of a `RateLimitRequest`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RequestMembers<'b> {
    #[serde(default, borrow)]
    domain: Text<'b>,
    #[serde(default, borrow)]
    descriptors: List<Object<DescriptorMembers<'b>>, MAX_DESCRIPTORS>,
    #[serde(default, alias = "hits_addend")]
    hits_addend: Uint,
}

/// The members of a `RateLimitDescriptor`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DescriptorMembers<'b> {
    #[serde(default, borrow)]
    entries: List<Object<EntryMembers<'b>>, MAX_ENTRIES>,
    limit: Option<Object<LimitMembers>>,
    #[serde(default, alias = "hits_addend")]
    hits_addend: Uint,
    #[serde(default, alias = "is_negative_hits")]
    is_negative_hits: Flag,
}

/// The members of an `Entry`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryMembers<'b> {
    #[serde(default, borrow)]
    key: Text<'b>,
    #[serde(default, borrow)]
    value: Text<'b>,
}

/// The members of a `RateLimitOverride`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LimitMembers {
    #[serde(default, alias = "requests_per_unit")]
    requests_per_unit: Uint,
    #[serde(default)]
    unit: Unit,
}

/// Parses the body of `POST /json`.
///
/// # Errors
/// First syntax error, with line and column.
pub fn decode_json(body: &[u8]) -> Result<JsonRequest<'_>, InvalidRequest> {
    let Object(RequestMembers { domain, descriptors, hits_addend }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    Ok(JsonRequest {
        domain: domain.0,
        descriptors: descriptors.0.into_iter().map(Descriptor::from).collect(),
        hits_addend: hits_addend.0.unwrap_or_default(),
    })
}

impl<'b> From<Object<DescriptorMembers<'b>>> for Descriptor<'b> {
    fn from(Object(members): Object<DescriptorMembers<'b>>) -> Self {
        let entry = |Object(EntryMembers { key, value })| (key.0, value.0);
        let limit = |Object(LimitMembers { requests_per_unit, unit })| {
            (requests_per_unit.0.unwrap_or_default(), unit.0)
        };
        Self {
            entries: members.entries.0.into_iter().map(entry).collect(),
            limit: members.limit.map(limit),
            hits_addend: members.hits_addend.0,
            is_negative_hits: members.is_negative_hits.0,
        }
    }
}

impl JsonRequest<'_> {
    /// A request that only looks. Each pair of the query is a descriptor, except `domain`.
    ///
    /// # Errors
    /// The query is not valid.
    pub(in crate::server) fn of_query(pairs: Option<Vec<(String, String)>>) -> Result<Self, InvalidRequest> {
        let Some(pairs) = pairs else { return Err(InvalidRequest::new("the query is not valid")) };
        let mut request = Self::default();
        for (key, value) in pairs {
            match &*key {
                "domain" => request.domain = value.into(),
                _ => request.descriptors.push(Descriptor {
                    entries: vec![(key.into(), value.into())],
                    hits_addend: Some(0),
                    ..Descriptor::default()
                }),
            }
        }
        Ok(request)
    }

    /// Request of the engine.
    ///
    /// # Errors
    /// First invalid field, as over gRPC.
    pub fn received(&self) -> Result<ReceivedRequest<'_>, InvalidRequest> {
        let of_request = u32::try_from(self.hits_addend).unwrap_or(u32::MAX);
        let mut received = ReceivedRequest::new(self.domain.as_bytes(), self.descriptors.len(), of_request)?;
        for descriptor in &self.descriptors {
            let limit =
                descriptor.limit.map(|(requests_per_unit, unit)| Override { requests_per_unit, unit });
            received.push(
                descriptor.entries.iter().map(entry).collect(),
                descriptor.hits_addend,
                descriptor.is_negative_hits,
                limit,
            )?;
        }
        Ok(received)
    }
}

fn entry<'r>((key, value): &'r (Cow<'_, str>, Cow<'_, str>)) -> Entry<'r> {
    Entry { key: key.as_bytes(), value: value.as_bytes() }
}
