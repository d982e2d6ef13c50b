//! Purposes of a request for a decision.

use crate::engine::plan::{Holding, Plan};
use crate::engine::reserve::{Action, Settled, Settlement};
use crate::engine::{ChargeMode, Hits, Request};

/// Use that a request makes of its counters.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// To decide whether it passes, and to count it. It holds what its rules say.
    Decide {
        /// Upper bound on the time for which places are held, in seconds.
        max_ttl_secs: u32,
    },
    /// The same, but for budgets a look opens no hold, and hits end none.
    DecideByHits,
    /// The same, with these amounts of budgets.
    Reserve(Holding<'a>),
    /// To decide whether one more hit would pass, without counting. The request has no hits.
    Check,
    /// To count what has passed already.
    Report,
}

impl Purpose<'_> {
    /// Changes a plan of `request` that is to decide it.
    pub(super) fn adapt(self, plan: &mut Plan<'_>, request: &Request<'_>) {
        match self {
            Self::Decide { .. } => {}
            Self::DecideByHits => plan.hold_nothing(),
            Self::Reserve(holding) => plan.hold(&holding, request),
            Self::Check => check(plan),
            Self::Report => report(plan),
        }
    }
}

/// Of limits that count denied hits, a look would otherwise ask whether the last hit was one too many.
fn check(plan: &mut Plan<'_>) {
    plan.look_only();
    for limited in plan.limited_mut().filter(|limited| limited.mode == ChargeMode::Always) {
        limited.mode = ChargeMode::IfAllowed;
    }
}

/// It denies no request and locks out no client; holds of others stay.
fn report(plan: &mut Plan<'_>) {
    for limited in plan.limited_mut() {
        (limited.mode, limited.lockout, limited.enforced) = (ChargeMode::Always, None, false);
        if let Hits::Add(amount) = limited.hits {
            let action = Action::Settle(Settlement { of: Settled::Nothing, amount });
            limited
                .counters
                .iter_mut()
                .filter_map(|counter| counter.reserve.as_mut())
                .for_each(|of| of.action = action);
        }
    }
}
