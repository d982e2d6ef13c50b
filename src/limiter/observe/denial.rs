//! Denials, as operators see them.

use std::time::Duration;

use super::{Observation, redact};
use crate::engine::algorithm::group::{ChargeOutcome, is_over};
use crate::engine::reserve::HoldEvent;
use crate::engine::{Decision, Limit, OverrideKind, Status, Timestamp};

/// A request that was denied, or would have been if its rule were enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Time of the decision.
    pub at: Timestamp,
    /// Domain of the request, on one line.
    pub domain: String,
    /// Descriptors of the request as `key=value,key=value; …`, on one line and cut at about 1 KiB. Values that
    /// the rules hash are hashed.
    pub descriptors: String,
    /// Keys and values of the descriptors; `None` if a text was cut, hashed or is not UTF-8.
    pub entries: Option<Vec<Vec<(String, String)>>>,
    /// Path of the rule; `None` for a limit that the caller set.
    pub rule: Option<String>,
    /// Name of the limit or of the lockout, if it has one.
    pub name: Option<String>,
    /// Layer of the rule.
    pub layer: Option<String>,
    /// The limit.
    pub limit: Option<Limit>,
    /// Hits used, this request included if it was counted.
    pub used: Option<u64>,
    /// Time until the request could pass.
    pub wait: Option<Duration>,
    /// Cause of the denial.
    pub reason: DenialReason,
    /// False if the request passed, because the rule or the whole service is in shadow mode.
    pub enforced: bool,
}

/// Cause of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    /// The counter is over its limit.
    OverLimit,
    /// The counter is over its limit, by a recent answer of the store: this charge was not sent.
    DenyCache,
    /// The client is locked out.
    LockedOut,
    /// The request has more hits than the limit ever lets pass.
    LargerThanLimit,
    /// It would fit without what other requests hold.
    Held,
    /// The budget has as many open holds as it can have.
    TooManyHolds,
    /// An operator has blocked the descriptor.
    Blocked,
    /// The store failed, and the rule denies in that case.
    StoreFailed,
}

impl DenialReason {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OverLimit => "over_limit",
            Self::DenyCache => "deny_cache",
            Self::LockedOut => "locked_out",
            Self::LargerThanLimit => "larger_than_limit",
            Self::Held => "held",
            Self::TooManyHolds => "too_many_holds",
            Self::Blocked => "blocked_by_override",
            Self::StoreFailed => "store_failed",
        }
    }
}

/// The status that denies the request of `decision`, or would if it were enforced, and whether it is.
pub(in super::super) fn denying_status<'d, 'r>(decision: &'d Decision<'r>) -> Option<(&'d Status<'r>, bool)> {
    if let Some(status) = decision.denial() {
        return Some((status, true));
    }
    let shadowed = || decision.statuses.iter().find(|status| status.shadowed);
    let status = decision.reported_status().filter(|_| decision.shadowed).or_else(shadowed)?;
    Some((status, false))
}

impl Denial {
    /// The denial of `observation` by `status`, which is among its decision's.
    pub(super) fn of(
        observation: Observation<'_, '_, '_>,
        status: &Status<'_>,
        enforced: bool,
        at: Timestamp,
    ) -> Self {
        let Observation { request, rules, charges, readings, .. } = observation;
        let domain = rules.domain(request.domain);
        let id = status.rule.map_or(0, |rule| rule.id);
        let over = charges.iter().zip(readings).find(|(charge, reading)| {
            charge.rule == id
                && is_over(charge.mode, charge.hits, reading.used, charge.limit.capacity(), reading.outcome)
        });
        let reason = match over.map(|(_, reading)| reading.outcome) {
            _ if status.overridden == Some(OverrideKind::Block) => DenialReason::Blocked,
            _ if status.locked_out => DenialReason::LockedOut,
            _ if status.larger_than_limit => DenialReason::LargerThanLimit,
            _ if status.budget.is_some_and(|budget| budget.report.event == HoldEvent::TooMany) => {
                DenialReason::TooManyHolds
            }
            _ if status.budget.is_some_and(|budget| budget.is_held) => DenialReason::Held,
            Some(ChargeOutcome::FailClosed) => DenialReason::StoreFailed,
            Some(ChargeOutcome::Known) => DenialReason::DenyCache,
            _ => DenialReason::OverLimit,
        };
        Self {
            at,
            domain: redact::lossy(request.domain),
            descriptors: redact::descriptors(request, domain.as_slice()),
            entries: redact::entries(request, domain.as_slice()),
            rule: status.rule.map(|rule| rule.path.to_string()),
            name: status.name.map(str::to_owned),
            layer: status.rule.and_then(|rule| rule.layer.as_deref()).map(|layer| layer.name().to_owned()),
            limit: status.limit,
            used: over.map(|(_, reading)| reading.used),
            wait: status.reset,
            reason,
            enforced,
        }
    }
}
