//! Compilation of limits: number of requests, window and algorithm.

use super::NamedLimit;
use super::diagnostics::{Diagnostics, shortened};
use super::source::{Descriptor, RateLimit};
use super::span::Located;
use super::timezone::in_zone;
use crate::engine::algorithm::tick_us;
use crate::engine::{Algorithm, Limit, StoreCapabilities, Unit, Window};

/// Upper bound on windows: ten years.
const MAX_WINDOW_SECS: u64 = 10 * 365 * 86_400;

/// Algorithm of limits that name none; `None` if it could not be parsed.
pub(super) type DefaultAlgorithm = Option<Algorithm>;

/// Compiles `rate_limit`; `None` for `unlimited`.
///
/// # Errors
/// All errors in it, except consequences of fields that could not be parsed.
pub(super) fn quota(
    rate_limit: &RateLimit,
    default: DefaultAlgorithm,
    stores: StoreCapabilities,
) -> Result<Option<Limit>, Diagnostics> {
    let mut errors = Diagnostics::default();
    if rate_limit.unlimited {
        refuse_beside_unlimited(rate_limit, &mut errors);
        return errors.or(None);
    }
    let window = window(rate_limit, &mut errors);
    let named = match &rate_limit.algorithm {
        Some(named) => Some(named.value),
        None => default.filter(|_| !rate_limit.unreadable.has("algorithm")),
    };
    let window = in_zone(window, rate_limit, named, &mut errors);
    let is_readable = |field| !rate_limit.unreadable.has(field);
    let (Some(named), true, true) = (named, is_readable("requests_per_unit"), is_readable("burst")) else {
        return Err(errors);
    };
    let requests_per_unit = rate_limit.requests_per_unit.unwrap_or_default();
    let algorithm = algorithm(rate_limit, requests_per_unit, named, &mut errors);
    let Some(window) = window.filter(|_| errors.is_empty()) else { return Err(errors) };
    let limit = Limit { requests_per_unit, window, algorithm };
    check_size(rate_limit, limit, stores, &mut errors);
    errors.or(Some(limit))
}

/// Checks the fields of a rule in combination.
pub(super) fn check_rule(descriptor: &Descriptor, limits: &[NamedLimit]) -> Diagnostics {
    let mut errors = Diagnostics::default();
    if let (Some(share), false) = (&descriptor.enforce_percent, has_limits(descriptor)) {
        let message = "'enforce_percent' without a limit has no effect: write it beside 'rate_limit'";
        errors.push(share.span, message);
    }
    if let Some(max_hits) = &descriptor.max_hits {
        if !has_limits(descriptor) || descriptor.rate_limits.iter().any(|limit| limit.unlimited) {
            let message = "'max_hits' without a limit has no effect: write it beside 'rate_limit'";
            errors.push(max_hits.span, message);
        }
        if max_hits.value == 0 {
            errors.push(max_hits.span, "'max_hits: 0' denies every request except peeks: write at least 1");
        }
    }
    if let ([_, second, ..], true) = (&*descriptor.rate_limits, descriptor.quota_mode) {
        errors.push(second.span, "'quota_mode' is for a rule with one limit: write a rule for each quota");
    }
    for (index, limit) in limits.iter().enumerate() {
        let same = |other: &NamedLimit| other.limit.shares_counter_with(limit.limit);
        if let (true, Some(written)) = (limits[..index].iter().any(same), descriptor.rate_limits.get(index)) {
            let message = match limit.limit.is_concurrency() {
                true => "two limits on the same requests in flight: leave one out",
                false => {
                    "two limits with the same algorithm and window: only the smaller one has an effect; \
                     leave one out, or give it another window"
                }
            };
            errors.push(written.span, message);
        }
    }
    errors
}

/// True if `descriptor` has a limit, valid or not.
pub(super) fn has_limits(descriptor: &Descriptor) -> bool {
    let is_unreadable = ["rate_limit", "rate_limits"].iter().any(|field| descriptor.unreadable.has(field));
    is_unreadable || !descriptor.rate_limits.is_empty()
}

fn refuse_beside_unlimited(rate_limit: &RateLimit, errors: &mut Diagnostics) {
    if let Some(unit) = &rate_limit.unit {
        let message = "should not specify rate limit unit when unlimited: leave it out";
        errors.push(unit.span, message);
    }
    let spans = [
        ("window", rate_limit.window.as_ref().map(|window| window.span)),
        ("timezone", rate_limit.timezone.as_ref().map(|timezone| timezone.span)),
        ("algorithm", rate_limit.algorithm.as_ref().map(|algorithm| algorithm.span)),
        ("burst", rate_limit.burst.as_ref().map(|burst| burst.span)),
        ("lease", rate_limit.lease.lease().map(|lease| lease.span)),
    ];
    for (name, span) in spans {
        if let Some(span) = span {
            errors.push(span, format!("'{name}' has no effect when unlimited: leave it out"));
        }
    }
}

fn window(rate_limit: &RateLimit, errors: &mut Diagnostics) -> Option<Window> {
    match (&rate_limit.unit, &rate_limit.window) {
        (Some(_), Some(window)) => {
            errors.push(window.span, "'unit' and 'window' both set the window: write one of them");
            None
        }
        (None, Some(Located { value, span })) => match parse_window(value) {
            Ok(window) => Some(window),
            Err(expected) => {
                errors.push(*span, format!("invalid window '{}': {expected}", shortened(value)));
                None
            }
        },
        (None, None) if ["unit", "window"].iter().any(|field| rate_limit.unreadable.has(field)) => None,
        (None, None) => {
            let message =
                "invalid rate limit unit '': write 'unit: minute', or 'window: 15m' for any other time";
            errors.push(rate_limit.span, message);
            None
        }
        (Some(Located { value: name, span }), None) => {
            let unit = Unit::from_name(name);
            if unit.is_none() {
                errors.push(*span, unknown_unit(name));
            }
            unit.map(Unit::window)
        }
    }
}

fn unknown_unit(name: &str) -> String {
    let shown = shortened(name);
    let window = parse_window(name).ok();
    let meant = window.and_then(|window| Unit::ALL.into_iter().find(|unit| unit.window() == window));
    match (meant, window) {
        (Some(unit), _) => {
            format!("invalid rate limit unit '{shown}': did you mean '{}'?", unit.name().to_lowercase())
        }
        (None, Some(_)) => format!("invalid rate limit unit '{shown}': write 'window: {shown}'"),
        (None, None) => {
            let units = Unit::ALL.map(|unit| unit.name().to_lowercase()).join(", ");
            format!("invalid rate limit unit '{shown}': use one of {units}, or 'window' for any other time")
        }
    }
}

/// Parses `15m`, `1h30m`, `2 days` or `hour`: numbers with units; a unit alone means one.
///
/// # Errors
/// A text with the expected form.
pub fn parse_window(text: &str) -> Result<Window, &'static str> {
    const EXPECTED: &str = "write a time such as 90s, 15m, 12h, 2d, 1w or month";
    let (mut secs, mut rest) = (0_u64, text.trim());
    if rest.is_empty() {
        return Err(EXPECTED);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let (name, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let unit = time_unit(name).ok_or(EXPECTED)?;
        let number: u64 = match number {
            "" if secs == 0 && after.is_empty() => 1,
            number => number.parse().map_err(|_| EXPECTED)?,
        };
        secs = secs.saturating_add(number.saturating_mul(unit.window().secs().into()));
        rest = after.trim_start();
    }
    match u32::try_from(secs) {
        Ok(secs @ 1..) if u64::from(secs) <= MAX_WINDOW_SECS => Ok(Window::of_secs(secs)),
        Ok(0) => Err("it must be at least a second long"),
        Ok(_) | Err(_) => Err("it must be at most ten years long"),
    }
}

/// Unit by name, in singular or plural, or by abbreviation. `m` is a minute; `M` is not a unit.
pub(super) fn time_unit(name: &str) -> Option<Unit> {
    let lowercase = name.to_ascii_lowercase();
    match (name, &*lowercase) {
        ("s" | "S", _) | (_, "sec" | "secs" | "second" | "seconds") => Some(Unit::Second),
        ("m", _) | (_, "min" | "mins" | "minute" | "minutes") => Some(Unit::Minute),
        ("h" | "H", _) | (_, "hr" | "hrs" | "hour" | "hours") => Some(Unit::Hour),
        ("d" | "D", _) | (_, "day" | "days") => Some(Unit::Day),
        ("w" | "W", _) | (_, "week" | "weeks") => Some(Unit::Week),
        (_, "month" | "months") => Some(Unit::Month),
        (_, "year" | "years") => Some(Unit::Year),
        _ => None,
    }
}

fn algorithm(
    rate_limit: &RateLimit,
    requests_per_unit: u32,
    named: Algorithm,
    errors: &mut Diagnostics,
) -> Algorithm {
    match (named, &rate_limit.burst) {
        (Algorithm::TokenBucket { .. }, None) => Algorithm::TokenBucket { burst: requests_per_unit },
        (Algorithm::TokenBucket { .. }, Some(Located { value: burst, span })) => {
            if *burst == 0 && requests_per_unit > 0 {
                errors.push(*span, "a 'burst' of 0 lets nothing pass: write at least 1");
            }
            if *burst > 0 && requests_per_unit == 0 {
                let message = "'burst' contradicts 'requests_per_unit: 0': the bucket would admit its burst once \
                               and never refill; leave 'burst' out to deny everything";
                errors.push(*span, message);
            }
            Algorithm::TokenBucket { burst: *burst }
        }
        (named, None) => named,
        (named, Some(burst)) => {
            let message = format!(
                "'burst' is for a token_bucket, and this is a {}: write 'algorithm: token_bucket', or leave \
                 it out",
                named.name()
            );
            errors.push(burst.span, message);
            named
        }
    }
}

/// Checks that the algorithm and the stores can count `limit` exactly.
///
/// # Errors
/// A text with the reason and the remedy.
pub(super) fn can_count(limit: Limit, stores: StoreCapabilities) -> Result<(), String> {
    stores.can_count(limit)?;
    if limit.algorithm != Algorithm::FixedWindow && tick_us(limit).is_none() {
        let (name, requests) = (limit.algorithm.name(), limit.capacity().max(limit.requests_per_unit));
        return Err(format!(
            "a {name} cannot count {requests} requests exactly in a window of this length: use a shorter window or a \
             fixed_window"
        ));
    }
    Ok(())
}

/// Checks that the algorithm and the stores can count a limit of this size.
fn check_size(rate_limit: &RateLimit, limit: Limit, stores: StoreCapabilities, errors: &mut Diagnostics) {
    if let Err(reason) = can_count(limit, stores) {
        errors.push(rate_limit.span, reason);
    }
}
