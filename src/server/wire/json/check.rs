//! Request and answer of `POST /v1/check`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde_json::{Value, json};

use super::super::decode::InvalidRequest;
use super::super::denial::Denial;
use super::super::headers::headers;
use super::super::names::{layer, rule};
use super::super::{AnswerSettings, HeaderStyle, whole_secs};
use super::request::{Descriptor, DescriptorMembers, JsonRequest};
use super::values::{List, Object, Text, Uint};
use crate::engine::request::MAX_DESCRIPTORS;
use crate::engine::reserve::HoldEvent;
use crate::engine::{Code, Decision, Status};

/// Stable error code of a denial.
const RATE_LIMIT_EXCEEDED: &str = "rate_limit_exceeded";
/// Reason of a denial that no wait can change.
const LARGER_THAN_LIMIT: &str = "larger_than_limit";

/// Code of a denial by a budget that never has so much.
const LARGER_THAN_BUDGET: &str = "larger_than_budget";
/// Code of a denial by a budget with too many open holds.
const TOO_MANY_HOLDS: &str = "too_many_holds";
/// Reason of a denial by a budget that others hold.
const HELD: &str = "held";

/// Reason of a denial by an operator.
const BLOCKED: &str = "blocked_by_override";

/// Answer to an application.
pub(in crate::server) struct CheckAnswer {
    /// The request passes.
    pub(in crate::server) allowed: bool,
    /// Headers besides `content-type`.
    pub(in crate::server) headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub(in crate::server) body: String,
}

/// The members of a request, in either form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CheckMembers<'b> {
    #[serde(default, borrow)]
    domain: Text<'b>,
    #[serde(borrow)]
    entries: Option<Pairs<'b>>,
    #[serde(borrow)]
    descriptors: Option<Descriptors<'b>>,
    #[serde(default, alias = "hits_addend")]
    hits_addend: Uint,
}

/// Descriptors in the form of `/json`.
pub(super) type Descriptors<'b> = List<Object<DescriptorMembers<'b>>, MAX_DESCRIPTORS>;

/// Keys and values in the order of the text, each key once.
pub(super) struct Pairs<'b>(Vec<(Cow<'b, str>, Cow<'b, str>)>);

/// Parses the body of a request in the form of `/json`, or in the short form with `entries` in place of
/// `descriptors`. In the short form `hitsAddend` applies to each descriptor, so 0 is a peek.
///
/// # Errors
/// First syntax error, with line and column.
pub fn decode_check(body: &[u8]) -> Result<JsonRequest<'_>, InvalidRequest> {
    let Object(CheckMembers { domain, entries, descriptors, hits_addend }) =
        serde_json::from_slice(body).map_err(InvalidRequest::new)?;
    request(domain, entries, descriptors, hits_addend)
}

/// Request in one of the two forms.
pub(super) fn request<'b>(
    domain: Text<'b>,
    entries: Option<Pairs<'b>>,
    descriptors: Option<Descriptors<'b>>,
    Uint(hits): Uint,
) -> Result<JsonRequest<'b>, InvalidRequest> {
    let Some(Pairs(entries)) = entries else {
        let descriptors = descriptors.unwrap_or_default();
        return Ok(JsonRequest {
            domain: domain.0,
            descriptors: descriptors.0.into_iter().map(Descriptor::from).collect(),
            hits_addend: hits.unwrap_or_default(),
        });
    };
    if descriptors.is_some() {
        return Err(InvalidRequest::new("'entries' and 'descriptors' are two forms: send one of them"));
    }
    let descriptor = |entry| Descriptor { entries: vec![entry], hits_addend: hits, ..Descriptor::default() };
    let descriptors = entries.into_iter().map(descriptor).collect();
    Ok(JsonRequest { domain: domain.0, descriptors, hits_addend: 0 })
}

/// Answer with `decision`. It always has headers, since no Envoy adds them.
pub(in crate::server) fn encode_check(decision: &Decision<'_>, settings: &AnswerSettings) -> CheckAnswer {
    let style = match settings.style {
        HeaderStyle::None => HeaderStyle::Draft06,
        style @ (HeaderStyle::Draft06 | HeaderStyle::X | HeaderStyle::Ietf) => style,
    };
    let denial = Denial::of(decision);
    let binding = decision.binding.and_then(|index| decision.statuses.get(index));
    let Standing { limit, remaining, reset_in } = binding.map(Standing::of).unwrap_or_default();
    let mut body = json!({
        "allowed": denial.is_none(),
        "error": denial.as_ref().map(error),
        "message": denial.as_ref().map(Denial::sentence),
        "failedLayer": denial.as_ref().and_then(Denial::layer),
        "limit": limit,
        "remaining": remaining,
        "resetIn": reset_in,
        "retryAfter": denial.as_ref().filter(|denial| error(denial) != LARGER_THAN_BUDGET).map(Denial::retry_after_secs),
        "layers": decision.statuses.iter().map(encode_layer).collect::<Vec<_>>(),
    });
    if let Some(reason) = denial.as_ref().and_then(reason) {
        body["reason"] = reason.into();
    }
    let amount = || binding.and_then(held_amount).or_else(|| decision.statuses.iter().find_map(held_amount));
    if let Some(amount) = decision.hold.and_then(|_| amount()) {
        body["amount"] = amount.into();
    }
    if let Some(hold) = decision.hold {
        body["ticket"] = hold.ticket.to_string().into();
        body["expiresIn"] = hold.ttl_secs.into();
    }
    CheckAnswer {
        allowed: denial.is_none(),
        headers: headers(decision, &AnswerSettings { style, ..settings.clone() }),
        body: body.to_string(),
    }
}

/// Stable error code of a denial.
fn error(denial: &Denial<'_, '_>) -> &'static str {
    match denial.budget() {
        Some(_) if denial.is_larger_than_limit() => LARGER_THAN_BUDGET,
        Some(budget) if budget.report.event == HoldEvent::TooMany => TOO_MANY_HOLDS,
        Some(_) | None => RATE_LIMIT_EXCEEDED,
    }
}

/// Reason of a denial, if it is a particular one.
fn reason(denial: &Denial<'_, '_>) -> Option<&'static str> {
    if denial.is_blocked() {
        Some(BLOCKED)
    } else if denial.budget().is_some_and(|budget| budget.is_held) {
        Some(HELD)
    } else {
        denial.is_larger_than_limit().then_some(LARGER_THAN_LIMIT)
    }
}

/// Numbers of a descriptor; `None` if no limit applied.
#[derive(Default)]
struct Standing {
    limit: Option<u32>,
    remaining: Option<u32>,
    /// Whole seconds, rounded up.
    reset_in: Option<u64>,
}

impl Standing {
    fn of(status: &Status<'_>) -> Self {
        Self {
            limit: status.limit.map(|limit| limit.requests_per_unit),
            remaining: status.limit.map(|_| status.remaining),
            reset_in: status.reset.map(whole_secs),
        }
    }
}

/// Amount that a descriptor holds, if it was opened, found open or extended.
pub(super) fn held_amount(status: &Status<'_>) -> Option<u32> {
    let report = status.budget?.report;
    matches!(report.event, HoldEvent::Opened | HoldEvent::Known | HoldEvent::Extended)
        .then_some(report.amount)
}

pub(super) fn encode_layer(status: &Status<'_>) -> Value {
    let Standing { limit, remaining, reset_in } = Standing::of(status);
    let mut answer = json!({
        "layer": layer(status),
        "rule": rule(status),
        "allowed": status.code == Code::Ok,
        "limit": limit,
        "remaining": remaining,
        "resetIn": reset_in,
    });
    if let Some(amount) = held_amount(status) {
        answer["amount"] = amount.into();
    }
    answer
}

impl<'de: 'b, 'b> Deserialize<'de> for Pairs<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<'b>(PhantomData<&'b ()>);

impl<'de: 'b, 'b> Visitor<'de> for PairsVisitor<'b> {
    type Value = Pairs<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'b>, A::Error> {
        let mut pairs = Vec::new();
        let mut seen = HashSet::new();
        while let Some((key, value)) = map.next_entry::<Text<'b>, Option<Text<'b>>>()? {
            let Some(value) = value else {
                return Err(A::Error::invalid_type(Unexpected::Unit, &"a string"));
            };
            if pairs.len() == MAX_DESCRIPTORS {
                return Err(A::Error::custom(format_args!("more than {MAX_DESCRIPTORS} entries")));
            }
            if !seen.insert(key.0.clone()) {
                return Err(A::Error::custom(format_args!("duplicate entry `{}`", key.0)));
            }
            pairs.push((key.0, value.0));
        }
        Ok(Pairs(pairs))
    }
}
