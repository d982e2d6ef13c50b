//! Compilation of limits on requests in flight.

use super::NamedLimit;
use super::diagnostics::{Diagnostics, shortened};
use super::quota::parse_window;
use super::source::{Concurrency, Descriptor, RateLimit};
use crate::engine::algorithm::places::{MAX_PLACES, MAX_WEIGHT};
use crate::engine::{Algorithm, ChargeMode, FailurePolicy, Limit, StoreCapabilities, Window};

/// Upper bound on the TTL of a place: a day.
pub const MAX_TTL_SECS: u32 = 86_400;

/// Compiles `concurrency`.
///
/// # Errors
/// Every error in it, except for consequences of fields that could not be parsed.
pub(super) fn concurrency(
    rate_limit: &RateLimit,
    written: &Concurrency,
    stores: StoreCapabilities,
) -> Result<Option<Limit>, Diagnostics> {
    let mut errors = Diagnostics::default();
    let limit = limit(rate_limit, written, &mut errors);
    if let Some(Err(reason)) = limit.map(|limit| stores.can_count(limit)) {
        errors.push(written.span, reason);
    }
    match limit.filter(|_| errors.is_empty()) {
        Some(limit) => Ok(Some(limit)),
        None => Err(errors),
    }
}

fn limit(rate_limit: &RateLimit, written: &Concurrency, errors: &mut Diagnostics) -> Option<Limit> {
    refuse_beside(rate_limit, errors);
    let is_missing = |field, is_there: bool| !is_there && !written.unreadable.has(field);
    if is_missing("max", written.max.is_some()) {
        errors.push(written.span, "'concurrency' has no 'max': write the number of requests in flight");
    }
    if is_missing("ttl", written.ttl.is_some()) {
        let message = "'concurrency' has no 'ttl': write a time that no request takes, such as 2m; a place that is \
                       never given back is free after it";
        errors.push(written.span, message);
    }
    if let Some(max) = written.max.as_ref().filter(|max| max.value > MAX_PLACES) {
        errors.push(max.span, format!("'max' is at most {MAX_PLACES}: every request in flight takes memory"));
    }
    let ttl = written.ttl.as_ref().and_then(|ttl| match parse_window(&ttl.value) {
        Ok(window) if window.secs() <= MAX_TTL_SECS => Some(window),
        Ok(_) => {
            errors.push(ttl.span, "'ttl' is at most a day: renew a place that is held for longer");
            None
        }
        Err(expected) => {
            errors.push(ttl.span, format!("invalid ttl '{}': {expected}", shortened(&ttl.value)));
            None
        }
    });
    let (Some(max), Some(ttl), true) = (&written.max, ttl, errors.is_empty()) else { return None };
    Some(Limit {
        requests_per_unit: max.value,
        window: Window::of_secs(ttl.secs()),
        algorithm: Algorithm::Concurrency,
    })
}

/// Refuses fields of a limit over time beside `concurrency`.
fn refuse_beside(rate_limit: &RateLimit, errors: &mut Diagnostics) {
    let of_time = [
        ("unit", rate_limit.unit.as_ref().map(|unit| unit.span)),
        ("window", rate_limit.window.as_ref().map(|window| window.span)),
        ("timezone", rate_limit.timezone.as_ref().map(|timezone| timezone.span)),
        ("algorithm", rate_limit.algorithm.as_ref().map(|algorithm| algorithm.span)),
        ("burst", rate_limit.burst.as_ref().map(|burst| burst.span)),
        ("requests_per_unit", rate_limit.requests_per_unit.map(|_| rate_limit.span)),
        ("unlimited", rate_limit.unlimited.then_some(rate_limit.span)),
    ];
    for (name, span) in of_time {
        if let Some(span) = span {
            let message = format!(
                "'{name}' and 'concurrency' in one limit: requests in flight have no window; write two limits in \
                 'rate_limits'"
            );
            errors.push(span, message);
        }
    }
}

/// Checks the fields of a rule with a limit on requests in flight against each other.
pub(super) fn check_concurrency(descriptor: &Descriptor, limits: &[NamedLimit]) -> Diagnostics {
    let mut errors = Diagnostics::default();
    let Some(written) = descriptor.rate_limits.iter().find_map(|limit| limit.concurrency.as_ref()) else {
        return errors;
    };
    if let Some(penalty) = &descriptor.penalty {
        let message = "'penalty' beside 'concurrency': a client would be locked out because others have all the \
                       places; write the penalty on a rule of its own";
        errors.push(penalty.span, message);
    }
    if descriptor.quota_mode {
        let message = "'quota_mode' beside 'concurrency': a request would pass without a place; leave it out";
        errors.push(written.span, message);
    }
    if let Some(max_hits) = descriptor.max_hits.as_ref().filter(|max_hits| max_hits.value > MAX_WEIGHT) {
        let message = format!(
            "'max_hits' is at most {MAX_WEIGHT} beside 'concurrency': no request takes more places; lower it or leave \
             it out"
        );
        errors.push(max_hits.span, message);
    }
    let is_alone = limits.iter().all(|limit| limit.limit.is_concurrency());
    if let (Some(mode @ (ChargeMode::Always | ChargeMode::Overdraft)), true) = (descriptor.charge, is_alone) {
        let message = format!(
            "'charge: {}' beside 'concurrency': a place is taken only by a request that passes; leave it out",
            mode.name()
        );
        errors.push(written.span, message);
    }
    errors
}

/// Checks the failure policy of a rule with these limits, which it may have inherited.
///
/// # Errors
/// Reason and remedy.
pub(super) fn check_failure_policy(
    limits: &[NamedLimit],
    has_reserve: bool,
    policy: FailurePolicy,
) -> Result<(), &'static str> {
    if policy == FailurePolicy::Local && has_reserve {
        return Err(
            "'on_backend_failure: local' with 'reserve': a hold that one replica counts alone is settled \
                    with another; write allow, deny or error on this rule",
        );
    }
    match policy == FailurePolicy::Local && limits.iter().any(|limit| limit.limit.is_concurrency()) {
        true => Err(
            "'on_backend_failure: local' with 'concurrency': a place that one replica counts alone is given \
                     back to another; write allow, deny or error on this rule",
        ),
        false => Ok(()),
    }
}

/// Upper bound on the hits of one request of a rule with these limits.
pub(super) fn max_hits(limits: &[NamedLimit], written: Option<u32>) -> Option<u32> {
    match limits.iter().any(|limit| limit.limit.is_concurrency()) {
        true => Some(written.unwrap_or(MAX_WEIGHT)),
        false => written,
    }
}
