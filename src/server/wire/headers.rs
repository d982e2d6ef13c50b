//! Response headers: the limit, in the configured style, and those of a denial.

use std::fmt::Write as _;

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::denial::Denial;
use super::names::policy_names;
use super::{AnswerSettings, HeaderNames, HeaderStyle, whole_secs};
use crate::engine::rules::{RateLimitHeaders, Rule};
use crate::engine::{Decision, Limit, Status};

const FAILED_LAYER: HeaderName = HeaderName::from_static("x-ratelimit-failed-layer");
const TYPE: HeaderName = HeaderName::from_static("x-ratelimit-type");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `RateLimit-Limit` and so on: names of the IETF drafts 00 to 06, and defaults of envoyproxy/ratelimit.
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

/// Headers of `decision`: the limit in the style of `settings`, then those of a denial. A header of `on_deny`
/// replaces one of the same name.
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
    }
    if settings.style != HeaderStyle::None && denial.is_shown() {
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

/// Limit of a status, unless its rule keeps it out of headers.
pub(super) fn shown_limit(status: &Status<'_>) -> Option<Limit> {
    let is_shown = |rule: &Rule| rule.headers == RateLimitHeaders::All;
    status.limit.filter(|_| status.rule.is_none_or(is_shown))
}

/// Limit, remaining hits and seconds of the binding status; empty if no limit applied.
fn three(names: &HeaderNames, decision: &Decision<'_>) -> Headers {
    let binding = decision.binding.and_then(|index| decision.statuses.get(index));
    let is_shown = |status: &&Status<'_>| shown_limit(status).is_some();
    let others = || decision.statuses.iter().filter(is_shown).min_by_key(|status| status.remaining);
    let Some(Status { limit: Some(limit), remaining, reset: Some(reset), .. }) =
        binding.filter(is_shown).or_else(others)
    else {
        return Headers::new();
    };
    vec![
        (names.limit.clone(), limit.requests_per_unit.into()),
        (names.remaining.clone(), (*remaining).into()),
        (names.reset.clone(), whole_secs(*reset).into()),
    ]
}

/// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers, lists of structured fields (RFC
/// 9651) with an item for each descriptor with a limit.
fn ietf(decision: &Decision<'_>) -> Headers {
    let (mut policies, mut limits) = (String::new(), String::new());
    for (status, name) in decision.statuses.iter().zip(policy_names(decision)) {
        let (Some(limit), Some(reset), Some(name)) = (shown_limit(status), status.reset, name) else {
            continue;
        };
        let separator = if policies.is_empty() { "" } else { ", " };
        let name = quoted(&name);
        let quota = limit.requests_per_unit;
        let scope = match limit.is_concurrency() {
            true => "qu=\"concurrent-requests\"".to_owned(),
            false => format!("w={}", limit.nominal_secs()),
        };
        let (left, secs) = (status.remaining, whole_secs(reset));
        // Writing to a string cannot fail.
        let written = write!(policies, "{separator}{name};q={quota};{scope}")
            .and_then(|()| write!(limits, "{separator}{name};r={left};t={secs}"));
        debug_assert!(written.is_ok(), "{name}");
    }
    let header =
        |name, list: &str| Some((name, HeaderValue::from_str(list).ok().filter(|_| !list.is_empty())?));
    [header(RATELIMIT_POLICY, &policies), header(RATELIMIT, &limits)].into_iter().flatten().collect()
}

/// String of structured fields, for printable ASCII.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
