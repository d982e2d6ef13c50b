//! Response headers: what the limit is, in the style that is asked for, and what a denial adds.

use std::fmt::Write as _;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::denial::{Denial, layer};
use super::{AnswerSettings, HeaderNames, HeaderStyle, whole_secs};
use crate::engine::{Decision, Status};

/// What policies without a name of their own are called.
const UNNAMED_POLICY: &str = "default";

const FAILED_LAYER: HeaderName = HeaderName::from_static("x-ratelimit-failed-layer");
const TYPE: HeaderName = HeaderName::from_static("x-ratelimit-type");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `RateLimit-Limit` and so on: what drafts 00 to 06 of the IETF had, and the reference's default names.
const DRAFT06: HeaderNames = HeaderNames {
    limit: HeaderName::from_static("ratelimit-limit"),
    remaining: HeaderName::from_static("ratelimit-remaining"),
    reset: HeaderName::from_static("ratelimit-reset"),
};
const X: HeaderNames = HeaderNames {
    limit: HeaderName::from_static("x-ratelimit-limit"),
    remaining: HeaderName::from_static("x-ratelimit-remaining"),
    reset: HeaderName::from_static("x-ratelimit-reset"),
};

pub(super) type Headers = Vec<(HeaderName, HeaderValue)>;

/// The headers that tell of `decision`: the limit, as `settings` say, then what a denial adds. A header
/// that a rule has told stands in place of ours of the same name.
pub(super) fn headers(decision: &Decision<'_>, settings: &AnswerSettings) -> Headers {
    let mut headers = match (&settings.custom_names, settings.style) {
        (Some(names), _) => three(names, decision),
        (None, HeaderStyle::None) => Headers::new(),
        (None, HeaderStyle::Draft06) => three(&DRAFT06, decision),
        (None, HeaderStyle::X) => three(&X, decision),
        (None, HeaderStyle::Ietf) => ietf(decision),
    };
    let Some(denial) = Denial::of(decision) else { return headers };
    if settings.style != HeaderStyle::None {
        headers.push((RETRY_AFTER, denial.retry_after_secs().into()));
        let layer = denial.layer().and_then(|layer| HeaderValue::from_str(layer).ok());
        headers.extend(layer.map(|layer| (FAILED_LAYER, layer)));
        headers.extend(denial.kind().map(|kind| (TYPE, HeaderValue::from_static(kind))));
    }
    if let Some(on_deny) = denial.on_deny() {
        headers.retain(|(ours, _)| on_deny.headers.iter().all(|(name, _)| name != ours));
        headers.extend_from_slice(&on_deny.headers);
    }
    headers
}

/// Limit, what is left and seconds, of the status that binds; none where no limit applied.
fn three(names: &HeaderNames, decision: &Decision<'_>) -> Headers {
    let binding = decision.binding.and_then(|index| decision.statuses.get(index));
    let Some(Status { limit: Some(limit), remaining, reset: Some(reset), .. }) = binding else {
        return Headers::new();
    };
    vec![
        (names.limit.clone(), limit.requests_per_unit.into()),
        (names.remaining.clone(), (*remaining).into()),
        (names.reset.clone(), whole_secs(*reset).into()),
    ]
}

/// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers, lists of structured fields
/// (RFC 9651): an item for each descriptor that a limit applied to. None where none did.
fn ietf(decision: &Decision<'_>) -> Headers {
    let (mut policies, mut limits) = (String::new(), String::new());
    for (status, name) in decision.statuses.iter().zip(policy_names(decision)) {
        let (Some(limit), Some(reset), Some(name)) = (status.limit, status.reset, name) else { continue };
        let separator = if policies.is_empty() { "" } else { ", " };
        let name = quoted(&name);
        let (quota, window) = (limit.requests_per_unit, limit.nominal_secs());
        let (left, secs) = (status.remaining, whole_secs(reset));
        // Writing to a string does not fail.
        let written = write!(policies, "{separator}{name};q={quota};w={window}")
            .and_then(|()| write!(limits, "{separator}{name};r={left};t={secs}"));
        debug_assert!(written.is_ok(), "{name}");
    }
    let header =
        |name, list: &str| Some((name, HeaderValue::from_str(list).ok().filter(|_| !list.is_empty())?));
    [header(RATELIMIT_POLICY, &policies), header(RATELIMIT, &limits)].into_iter().flatten().collect()
}

/// What the policies of a decision are called, one for each status: `None` where no limit applied. A limit
/// has its own name, else its layer's, else `default`; of several that are called the same the second one is
/// `name-2`, since a list tells its items apart by their names alone. All of it is printable ASCII.
pub(super) fn policy_names(decision: &Decision<'_>) -> Vec<Option<String>> {
    let written = |status: &Status<'_>| {
        let name = || status.name.or(layer(status)).unwrap_or(UNNAMED_POLICY);
        status.limit.map(|_| printable(name()))
    };
    let mut seen = HashMap::<String, u32, RandomState>::default();
    let mut numbered = |status| {
        let name = written(status)?;
        let count = seen.entry_ref(name.as_str()).or_insert(0);
        *count += 1;
        Some(if *count == 1 { name } else { format!("{name}-{count}") })
    };
    decision.statuses.iter().map(&mut numbered).collect()
}

/// `text` with `_` for everything that is no printable ASCII.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '_' }).collect()
}

/// A string of structured fields, of printable ASCII.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
