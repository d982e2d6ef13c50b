//! Compilation of budgets.

use std::sync::Arc;

use super::NamedLimit;
use super::diagnostics::{Diagnostics, shortened};
use super::quota::parse_window;
use super::source::{self, Descriptor, ReserveAmount};
use super::span::Located;
use crate::engine::reserve::{Amount, MAX_TTL_SECS, Reserve, Terms};
use crate::engine::usage::Count;
use crate::engine::{Algorithm, ChargeMode, StoreCapabilities};

/// Default TTL of a hold.
const TTL_SECS: u32 = 60;
/// Default time for which a ticket is known to be settled.
const MEMORY_SECS: u32 = 600;
/// Upper bound on it.
const MAX_MEMORY_SECS: u32 = 86_400;

/// Compiles `reserve` of a rule with these limits.
///
/// # Errors
/// Every error in it, and every field of the rule that it cannot be combined with.
pub(super) fn reserve(
    descriptor: &Descriptor,
    written: &source::Reserve,
    limits: &[NamedLimit],
    has_prices: bool,
    stores: StoreCapabilities,
) -> Result<Reserve, Diagnostics> {
    let mut errors = Diagnostics::default();
    if !stores.lockouts {
        errors.push(written.span, format!("{} keeps no holds: leave 'reserve' out", stores.name));
    }
    refuse_beside(descriptor, written, limits, &mut errors);
    if written.amount.is_none() && !written.unreadable.has("amount") {
        let message =
            "'reserve' has no 'amount': write what a request holds if it names no amount itself, or auto";
        errors.push(written.span, message);
    }
    if let (Some(Located { value: Count::Cost, span }), false) = (&written.count, has_prices) {
        errors
            .push(*span, "'count: cost' without prices: write 'prices' at the top of a file of this domain");
    }
    if let Some(Located { value: ReserveAmount::Fixed(0), span }) = written.amount {
        errors.push(span, "'amount: 0' holds nothing: write at least 1");
    }
    let ttl_secs = secs(("ttl", &written.ttl), TTL_SECS, &mut errors);
    if let (Some(written), true) = (&written.ttl, ttl_secs > MAX_TTL_SECS) {
        errors.push(written.span, "'ttl' is at most 1h: extend a hold that is needed for longer");
    }
    let memory_secs = secs(("memory", &written.memory), MEMORY_SECS.max(ttl_secs), &mut errors);
    if let Some(Located { span, .. }) = &written.memory {
        if memory_secs < ttl_secs {
            let message = "'memory' is shorter than 'ttl': a settlement that is repeated would count twice";
            errors.push(*span, message);
        }
        if memory_secs > MAX_MEMORY_SECS {
            errors.push(*span, "'memory' is at most a day: every ticket that is remembered takes memory");
        }
    }
    let max_percent = percent(written, &mut errors);
    match (&written.amount, errors.is_empty() && written.unreadable.is_empty()) {
        (Some(amount), true) => Ok(Reserve {
            amount: match amount.value {
                ReserveAmount::Fixed(amount) => Amount::Fixed(amount),
                ReserveAmount::Auto => Amount::Auto(Arc::default()),
            },
            max_percent,
            ttl_secs,
            count: written.count.as_ref().map_or_else(Count::default, |count| count.value),
            on_look: written.on_look,
            terms: Terms { on_expiry: written.on_expiry, memory_secs },
        }),
        _ => Err(errors),
    }
}

fn secs((field, text): (&str, &Option<Located<String>>), default: u32, errors: &mut Diagnostics) -> u32 {
    let Some(Located { value, span }) = text else { return default };
    match parse_window(value) {
        Ok(window) => window.secs(),
        Err(expected) => {
            errors.push(*span, format!("invalid {field} '{}': {expected}", shortened(value)));
            default
        }
    }
}

/// Percent of `max`.
fn percent(written: &source::Reserve, errors: &mut Diagnostics) -> u32 {
    let Some(Located { value, span }) = &written.max else { return 100 };
    let percent = value.strip_suffix('%').and_then(|percent| percent.parse().ok());
    percent.filter(|percent| (1..=100).contains(percent)).unwrap_or_else(|| {
        let message = format!("invalid max '{}': write a part of the limit such as 25%", shortened(value));
        errors.push(*span, message);
        100
    })
}

fn refuse_beside(
    descriptor: &Descriptor,
    written: &source::Reserve,
    limits: &[NamedLimit],
    errors: &mut Diagnostics,
) {
    let mut refuse = |message: &str| errors.push(written.span, message.to_owned());
    if descriptor.rate_limits.is_empty() || descriptor.rate_limits.iter().any(|limit| limit.unlimited) {
        refuse("'reserve' without a limit has no effect: write it beside 'rate_limit'");
    }
    if descriptor.rate_limits.iter().any(|limit| limit.concurrency.is_some()) {
        refuse(
            "'reserve' beside 'concurrency': write a rule for each, and name both descriptors in the request",
        );
    }
    if limits.iter().any(|limit| limit.limit.algorithm == Algorithm::SlidingLog) {
        refuse("'reserve' with sliding_log: use fixed_window, sliding_window or token_bucket");
    }
    if limits.iter().any(|limit| limit.lease.is_some()) {
        refuse("'reserve' with 'lease': what is held must be known to every replica; leave 'lease' out");
    }
    if let Some(mode @ (ChargeMode::Always | ChargeMode::IfAllowed)) = descriptor.charge {
        let message = format!(
            "'charge: {}' beside 'reserve': a real amount always counts in full; leave 'charge' out",
            mode.name()
        );
        refuse(&message);
    }
    if descriptor.penalty.is_some() {
        refuse("'reserve' beside 'penalty': write the penalty on a rule of its own");
    }
    if descriptor.quota_mode {
        refuse("'reserve' beside 'quota_mode': a request would pass without a hold; leave it out");
    }
    if descriptor.max_hits.is_some() {
        refuse("'reserve' beside 'max_hits': a real amount always counts in full; leave 'max_hits' out");
    }
}
