//! `enforce_percent`: share of a rule's keys that is enforced during a rollout.

/// Share in percent. The hash of a key decides whether it is included: the same on every replica and after a
/// restart, and permanently while the share grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnforcePercent {
    hundredths: u32,
}

impl EnforcePercent {
    /// All keys.
    pub const ALL: Self = Self { hundredths: 10_000 };

    /// Share of `percent`, 0 to 100, with at most two decimals.
    pub fn new(percent: f64) -> Option<Self> {
        let hundredths = percent * 100.0;
        let whole = hundredths.round();
        let is_exact = (hundredths - whole).abs() < 1e-6;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10,000")]
        let share = || Self { hundredths: whole as u32 };
        (is_exact && (0.0..=10_000.0).contains(&whole)).then(share)
    }

    /// Share in percent.
    pub fn percent(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }

    /// True if all keys are enforced.
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }

    /// True if the key with this hash is enforced.
    pub const fn includes(self, hash: u64) -> bool {
        hash % 10_000 < self.hundredths as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_100_with_two_decimals() {
        for (percent, included) in [(0.0, 0), (0.01, 1), (25.0, 2_500), (33.33, 3_333), (100.0, 10_000)] {
            let share = EnforcePercent::new(percent).expect("a share");
            assert_eq!((0..10_000).filter(|hash| share.includes(*hash)).count(), included, "{percent}");
        }
        for percent in [-0.01, 100.01, 0.001, f64::NAN, f64::INFINITY] {
            assert_eq!(EnforcePercent::new(percent), None, "{percent}");
        }
    }

    #[test]
    fn enforced_values_stay_enforced_while_the_share_grows() {
        for hash in 0..20_000 {
            let shares =
                [1.0, 10.0, 50.0, 100.0].map(|percent| EnforcePercent::new(percent).expect("a share"));
            let taken = shares.map(|share| share.includes(hash));
            assert!(taken.is_sorted(), "{hash}: {taken:?}");
        }
    }
}
