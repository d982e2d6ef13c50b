//! From a limit as written to a limit that makes sense: how much, in how long, counted how.

use super::NamedLimit;
use super::error::SourceSpan;
use super::source::{Descriptor, Located, RateLimit};
use super::timezone::in_zone;
use crate::engine::algorithm::{sliding_log, tick_us};
use crate::engine::{Algorithm, Limit, Unit, Window};

/// Ten years, the longest window there may be.
const MAX_WINDOW_SECS: u64 = 10 * 365 * 86_400;

/// What is wrong, and where.
pub(super) type Mistake = (SourceSpan, String);

/// The limit that `rate_limit` is, counted as `default` says where it does not say it itself; `None` where
/// everything passes.
///
/// # Errors
/// Every mistake in it.
pub(super) fn quota(rate_limit: &RateLimit, default: Algorithm) -> Result<Option<Limit>, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    if rate_limit.unlimited {
        refuse_beside_unlimited(rate_limit, &mut mistakes);
        return if mistakes.is_empty() { Ok(None) } else { Err(mistakes) };
    }
    let window = window(rate_limit, &mut mistakes);
    let requests_per_unit = rate_limit.requests_per_unit.unwrap_or_default();
    let algorithm = algorithm(rate_limit, requests_per_unit, default, &mut mistakes);
    let window = in_zone(window, rate_limit, algorithm, &mut mistakes);
    let (Some(window), true) = (window, mistakes.is_empty()) else { return Err(mistakes) };
    let limit = Limit { requests_per_unit, window, algorithm };
    match check_size(rate_limit, limit) {
        Some(mistake) => Err(vec![mistake]),
        None => Ok(Some(limit)),
    }
}

/// What is wrong with the fields of a rule beside one another.
pub(super) fn check_rule(descriptor: &Descriptor, limits: &[NamedLimit]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if let (Some(share), true) = (&descriptor.enforce_percent, descriptor.rate_limits.is_empty()) {
        let message = "'enforce_percent' without a limit means nothing: write it beside 'rate_limit'";
        mistakes.push((share.span, message.to_owned()));
    }
    if let ([_, second, ..], true) = (&*descriptor.rate_limits, descriptor.quota_mode) {
        let message = "'quota_mode' is for a rule with one limit: write a rule for each quota";
        mistakes.push((second.span, message.to_owned()));
    }
    for (index, limit) in limits.iter().enumerate() {
        let same = |other: &NamedLimit| other.limit.has_counter_of(limit.limit);
        if let (true, Some(written)) = (limits[..index].iter().any(same), descriptor.rate_limits.get(index)) {
            let message = "two limits that count alike over the same time: one of them never matters; leave it \
                           out, or give it another window";
            mistakes.push((written.span, message.to_owned()));
        }
    }
    mistakes
}

fn refuse_beside_unlimited(rate_limit: &RateLimit, mistakes: &mut Vec<Mistake>) {
    if let Some(unit) = &rate_limit.unit {
        let message = "should not specify rate limit unit when unlimited: leave it out";
        mistakes.push((unit.span, message.to_owned()));
    }
    let spans = [
        ("window", rate_limit.window.as_ref().map(|window| window.span)),
        ("timezone", rate_limit.timezone.as_ref().map(|timezone| timezone.span)),
        ("algorithm", rate_limit.algorithm.as_ref().map(|algorithm| algorithm.span)),
        ("burst", rate_limit.burst.as_ref().map(|burst| burst.span)),
    ];
    for (name, span) in spans {
        if let Some(span) = span {
            mistakes.push((span, format!("'{name}' means nothing when unlimited: leave it out")));
        }
    }
}

fn window(rate_limit: &RateLimit, mistakes: &mut Vec<Mistake>) -> Option<Window> {
    match (&rate_limit.unit, &rate_limit.window) {
        (Some(_), Some(window)) => {
            let message = "'unit' and 'window' say the same thing: write one of them";
            mistakes.push((window.span, message.to_owned()));
            None
        }
        (None, Some(Located { value, span })) => match parse_window(value) {
            Ok(window) => Some(window),
            Err(expected) => {
                mistakes.push((*span, format!("invalid window '{value}': {expected}")));
                None
            }
        },
        (unit, None) => {
            let (span, name) =
                unit.as_ref().map_or((rate_limit.span, ""), |unit| (unit.span, unit.value.as_str()));
            let unit = Unit::from_name(name);
            if unit.is_none() {
                let units = Unit::ALL.map(|unit| unit.name().to_lowercase()).join(", ");
                let message = format!(
                    "invalid rate limit unit '{name}': use one of {units}, or 'window' for any other time"
                );
                mistakes.push((span, message));
            }
            unit.map(Unit::window)
        }
    }
}

/// `15m`, `1h30m`, `2d`: whole numbers with `s`, `m`, `h`, `d` or `w`.
///
/// # Errors
/// What was expected.
pub(super) fn parse_window(text: &str) -> Result<Window, &'static str> {
    const EXPECTED: &str = "write a time such as 90s, 15m, 12h, 2d or 1w";
    let (mut secs, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
        let (number, after) = rest.split_at(digits);
        let unit_secs = match after.as_bytes().first() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3_600,
            Some(b'd') => 86_400,
            Some(b'w') => 604_800,
            _ => return Err(EXPECTED),
        };
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        secs = secs.saturating_add(number.saturating_mul(unit_secs));
        rest = after.get(1..).unwrap_or_default();
    }
    match u32::try_from(secs) {
        Ok(secs @ 1..) if u64::from(secs) <= MAX_WINDOW_SECS => Ok(Window::of_secs(secs)),
        Ok(0) if text.is_empty() => Err(EXPECTED),
        Ok(0) => Err("it must be at least a second long"),
        Ok(_) | Err(_) => Err("it must be at most ten years long"),
    }
}

fn algorithm(
    rate_limit: &RateLimit,
    requests_per_unit: u32,
    default: Algorithm,
    mistakes: &mut Vec<Mistake>,
) -> Algorithm {
    let named = rate_limit.algorithm.as_ref().map_or(default, |algorithm| algorithm.value);
    match (named, &rate_limit.burst) {
        (Algorithm::TokenBucket { .. }, None) => Algorithm::TokenBucket { burst: requests_per_unit },
        (Algorithm::TokenBucket { .. }, Some(burst)) => {
            if burst.value == 0 && requests_per_unit > 0 {
                let message = "a 'burst' of 0 lets nothing pass: write at least 1";
                mistakes.push((burst.span, message.to_owned()));
            }
            Algorithm::TokenBucket { burst: burst.value }
        }
        (named, None) => named,
        (named, Some(burst)) => {
            let message = format!(
                "'burst' is for a token_bucket, and this is a {}: write 'algorithm: token_bucket', or leave \
                 it out",
                named.name()
            );
            mistakes.push((burst.span, message));
            named
        }
    }
}

/// What is wrong with a limit that is too large for its algorithm.
fn check_size(rate_limit: &RateLimit, limit: Limit) -> Option<Mistake> {
    let Limit { requests_per_unit, algorithm, .. } = limit;
    match algorithm {
        Algorithm::SlidingLog if requests_per_unit > sliding_log::MAX_REQUESTS => {
            let message = format!(
                "a sliding_log remembers every request, and so takes up to {}: use sliding_window",
                sliding_log::MAX_REQUESTS
            );
            Some((rate_limit.span, message))
        }
        Algorithm::SlidingWindow | Algorithm::SlidingLog | Algorithm::TokenBucket { .. }
            if tick_us(limit).is_none() =>
        {
            let message = format!(
                "{} requests in so long a window are too many for a {} to be exact: use a shorter window or \
                 a fixed_window",
                limit.capacity().max(requests_per_unit),
                algorithm.name()
            );
            Some((rate_limit.span, message))
        }
        _ => None,
    }
}
