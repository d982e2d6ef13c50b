//! Compilation of leases: `lease` of a limit to its terms.

use std::time::Duration;

use super::NamedLimit;
use super::diagnostics::{Diagnostics, shortened};
use super::source::{Defaults, Descriptor, Lease, Leasing, RateLimit};
use super::span::Located;
use crate::engine::duration::{self, GoForm};
use crate::engine::lease::burst_tax;
use crate::engine::{Algorithm, LeaseTerms, Limit, Unit};

/// Defaults: time for which a replica keeps hits, part of a limit that is never leased, and hits of one lease.
const HOLD: Duration = Duration::from_millis(100);
const TAIL_PERCENT: u32 = 10;
const MAX: u32 = 10_000;
/// Bounds on the hold: below it a lease saves nothing, and above it replicas miss what others keep.
const MIN_HOLD: Duration = Duration::from_millis(10);
const MAX_HOLD: Duration = Duration::from_secs(10);

/// Compiles the lease of `limit`, if it is leased. A leased token bucket is smaller: see [`burst_tax`]. `defaults`
/// lease a limit that says nothing of it, if it can be leased.
///
/// # Errors
/// Every error in the lease of the limit itself.
pub(super) fn lease(
    rate_limit: &RateLimit,
    limit: Limit,
    defaults: Option<&Lease>,
) -> Result<(Limit, Option<LeaseTerms>), Diagnostics> {
    match (&rate_limit.lease, defaults) {
        (Leasing::Leased(written), _) => compile(written, limit, Source::Limit),
        (Leasing::Unset, Some(defaults)) => {
            Ok(compile(defaults, limit, Source::Defaults).unwrap_or((limit, None)))
        }
        (Leasing::Unset, None) | (Leasing::Never, _) => Ok((limit, None)),
    }
}

/// Checks the lease of `defaults` by itself.
pub(super) fn check_default_lease(defaults: &Defaults) -> Diagnostics {
    let roomy = Limit::per(u32::MAX, Unit::Year);
    let compiled = defaults.lease.lease().map(|lease| compile(lease, roomy, Source::Limit));
    compiled.and_then(Result::err).unwrap_or_default()
}

/// The lease that the limits of `descriptor` inherit: none where a written one would be an error.
pub(super) fn inherited_lease<'d>(descriptor: &Descriptor, defaults: Option<&'d Lease>) -> Option<&'d Lease> {
    let excludes =
        descriptor.reserve.is_some() || beside(descriptor).iter().any(|(_, is_there, _)| *is_there);
    defaults.filter(|_| !excludes)
}

/// Place in which a lease is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The limit itself.
    Limit,
    /// `defaults` of the file. A hold that is too long for a limit is as long as it may be.
    Defaults,
}

fn compile(
    written: &Lease,
    limit: Limit,
    source: Source,
) -> Result<(Limit, Option<LeaseTerms>), Diagnostics> {
    let mut errors = Diagnostics::default();
    if let Err(reason) = can_lease(limit) {
        errors.push(written.span, reason);
        return Err(errors);
    }
    let hold_us = hold_us(written, limit, source, &mut errors);
    let tail = tail_percent(written, &mut errors);
    let max = written.max.as_ref().map_or(MAX, |max| max.value);
    if let (0, Some(written)) = (max, &written.max) {
        errors.push(written.span, "'max: 0' leases nothing: write at least 1, or leave 'lease' out");
    }
    let limit = taxed(limit, hold_us, written, &mut errors);
    if !(errors.is_empty() && written.unreadable.is_empty()) {
        return Err(errors);
    }
    let capacity = u64::from(limit.capacity());
    let kept = u32::try_from((capacity * u64::from(tail)).div_ceil(100)).unwrap_or(u32::MAX);
    let ceiling = limit.capacity().saturating_sub(kept);
    Ok((limit, Some(LeaseTerms { hold_us, ceiling, max })))
}

fn can_lease(limit: Limit) -> Result<(), &'static str> {
    match limit.algorithm {
        _ if limit.requests_per_unit == 0 => {
            Err("a limit of 0 lets nothing pass, so there is nothing to lease: leave 'lease' out")
        }
        Algorithm::FixedWindow | Algorithm::SlidingWindow | Algorithm::TokenBucket { .. } => Ok(()),
        Algorithm::SlidingLog => {
            Err("a sliding_log cannot be leased: it counts each hit at its own time, and a \
                                      lease counts hits before they come; use sliding_window")
        }
        Algorithm::Concurrency => {
            Err("'lease' beside 'concurrency': places are released one by one; leave 'lease' out")
        }
    }
}

/// Longest hold that keeps the limit useful.
fn longest_hold(limit: Limit) -> Duration {
    let window = Duration::from_secs(u64::from(limit.nominal_secs()));
    let longest = match limit.algorithm {
        // A hold takes half of the burst at most.
        Algorithm::TokenBucket { burst } => {
            let micros =
                window.as_micros() * u128::from(burst) / u128::from(2 * limit.requests_per_unit.max(1));
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        }
        _ => window / 10,
    };
    longest.min(MAX_HOLD)
}

fn hold_us(written: &Lease, limit: Limit, source: Source, errors: &mut Diagnostics) -> u32 {
    let longest = longest_hold(limit);
    let hold = match &written.hold {
        None => HOLD.min(longest),
        Some(Located { value, span }) => match duration::parse(value) {
            Some(hold) if hold > longest && source == Source::Defaults => longest,
            Some(hold) if hold > longest => {
                let of = match limit.algorithm {
                    Algorithm::TokenBucket { .. } => "the time in which half of the burst refills",
                    _ => "a tenth of the window",
                };
                let longest = Duration::from_millis(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
                let message = format!(
                    "'hold: {}' is too long for this limit: at most {}, {of}",
                    shortened(value),
                    GoForm(longest)
                );
                errors.push(*span, message);
                longest
            }
            Some(hold) if hold >= MIN_HOLD => hold,
            Some(_) => {
                errors.push(*span, format!("'hold' is at least {}", GoForm(MIN_HOLD)));
                HOLD
            }
            None => {
                let message =
                    format!("invalid hold '{}': write a time such as 100ms or 1s", shortened(value));
                errors.push(*span, message);
                HOLD
            }
        },
    };
    u32::try_from(hold.as_micros()).unwrap_or(u32::MAX)
}

fn tail_percent(written: &Lease, errors: &mut Diagnostics) -> u32 {
    let Some(Located { value, span }) = &written.tail else { return TAIL_PERCENT };
    let percent = value.strip_suffix('%').and_then(|number| number.trim().parse::<u32>().ok());
    match percent {
        Some(percent @ 0..=90) => percent,
        Some(_) | None => {
            let message = format!("invalid tail '{}': write 0% to 90% of the limit", shortened(value));
            errors.push(*span, message);
            TAIL_PERCENT
        }
    }
}

/// The limit, less what a hold takes from the burst of a token bucket.
fn taxed(limit: Limit, hold_us: u32, written: &Lease, errors: &mut Diagnostics) -> Limit {
    let Algorithm::TokenBucket { burst } = limit.algorithm else { return limit };
    let left = burst.saturating_sub(burst_tax(limit, hold_us));
    if left == 0 {
        let message = "a token_bucket with this 'burst' cannot be leased: a lease takes the refill of its hold off \
                       the burst, and nothing would be left; write a larger 'burst', or leave 'lease' out";
        errors.push(written.span, message);
    }
    Limit { algorithm: Algorithm::TokenBucket { burst: left.max(1) }, ..limit }
}

/// Checks the fields of a rule with a leased limit against each other.
pub(super) fn check_lease(descriptor: &Descriptor, limits: &[NamedLimit]) -> Diagnostics {
    let mut errors = Diagnostics::default();
    if limits.iter().all(|limit| limit.lease.is_none()) {
        return errors;
    }
    let Some(written) = descriptor.rate_limits.iter().find_map(|limit| limit.lease.lease()) else {
        return errors;
    };
    for (name, _, reason) in beside(descriptor).iter().filter(|(_, is_there, _)| *is_there) {
        errors.push(written.span, format!("'lease' beside '{name}': {reason}; leave one of them out"));
    }
    errors
}

/// Fields beside which a limit cannot be leased, whether they are there, and why.
const fn beside(descriptor: &Descriptor) -> [(&'static str, bool, &'static str); 4] {
    [
        ("penalty", descriptor.penalty.is_some(), "a lockout must see every denial in its order"),
        (
            "quota_mode",
            descriptor.quota_mode,
            "whether a quota denies depends on the other limits of the request",
        ),
        ("shadow_mode", descriptor.shadow_mode, "a limit that denies nothing must not hold back hits"),
        (
            "enforce_percent",
            descriptor.enforce_percent.is_some(),
            "a limit that is not enforced for all must not withhold hits",
        ),
    ]
}
