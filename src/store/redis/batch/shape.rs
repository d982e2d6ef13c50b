//! Shapes of requests, each with a script of its own that costs Redis less than the general one.

use super::{SlotCharge, SlotCharges};
use crate::engine::{Algorithm, ChargeMode, Enforcement, Hits, Lease};

/// Upper bound on the charges of a request that has a script of its own.
const MAX_CHARGES: usize = 32;

/// Script that carries out a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::store::redis) enum Shape {
    /// `charge.lua`: requests of any kind, but for those of budgets.
    #[default]
    General,
    /// `fixed_windows.lua`: fixed windows that count only if all of them pass.
    FixedWindows,
    /// `sliding_window.lua`: one sliding window that counts only what passes.
    SlidingWindow,
    /// `token_bucket.lua`: the same for a token bucket.
    TokenBucket,
    /// `reserve.lua`, then `charge.lua`: requests of any kind, with a budget among them.
    Reserve,
}

impl Shape {
    /// Every shape.
    pub(in crate::store::redis) const ALL: [Self; 5] =
        [Self::General, Self::FixedWindows, Self::SlidingWindow, Self::TokenBucket, Self::Reserve];

    /// Text of the script.
    pub(in crate::store::redis) const fn script(self) -> &'static str {
        match self {
            Self::General => include_str!("charge.lua"),
            Self::FixedWindows => include_str!("fixed_windows.lua"),
            Self::SlidingWindow => include_str!("sliding_window.lua"),
            Self::TokenBucket => include_str!("token_bucket.lua"),
            Self::Reserve => concat!(include_str!("reserve.lua"), include_str!("charge.lua")),
        }
    }

    /// Shape with which any request like this one can be carried out.
    pub(super) fn general(charges: &SlotCharges) -> Self {
        match charges.iter().any(|charge| charge.reserve.is_some()) {
            true => Self::Reserve,
            false => Self::General,
        }
    }

    /// Shape of a request that needs a script.
    pub(super) fn of(charges: &SlotCharges) -> Self {
        let counts_if_allowed = |charge: &SlotCharge| {
            let SlotCharge { hits, mode, lockout, hold, reserve, lease, .. } = charge;
            matches!((hits, mode), (Hits::Add(_), ChargeMode::IfAllowed))
                && lockout.is_none()
                && hold.is_none()
                && reserve.is_none()
                && !matches!(lease, Some(Lease::Ask { .. }))
        };
        if charges.len() > MAX_CHARGES || !charges.iter().all(counts_if_allowed) {
            return Self::general(charges);
        }
        match &**charges {
            // Of a request with one charge, nothing depends on its effect on the others.
            [charge] => match charge.limit.algorithm {
                Algorithm::FixedWindow => Self::FixedWindows,
                Algorithm::SlidingWindow if !charge.denied => Self::SlidingWindow,
                Algorithm::TokenBucket { .. } if !charge.denied => Self::TokenBucket,
                _ => Self::General,
            },
            charges => {
                let of_group = |(index, charge): (usize, &SlotCharge)| {
                    charge.limit.algorithm == Algorithm::FixedWindow
                        && charge.enforcement == Enforcement::Enforced
                        && charges.iter().take(index).all(|earlier| earlier.key != charge.key)
                };
                if charges.iter().enumerate().all(of_group) { Self::FixedWindows } else { Self::General }
            }
        }
    }
}
