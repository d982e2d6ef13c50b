//! Which share of what a rule counts is enforced, while it is being rolled out.

/// A share in percent. A key is enforced or not by its own hash: on every replica, after every restart, and
/// for good while the share only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnforcePercent {
    hundredths: u32,
}

impl EnforcePercent {
    /// Everything.
    pub const ALL: Self = Self { hundredths: 10_000 };

    /// `percent` of all keys: from 0 to 100, with two decimals at the most.
    pub fn new(percent: f64) -> Option<Self> {
        let hundredths = percent * 100.0;
        let whole = hundredths.round();
        let is_exact = (hundredths - whole).abs() < 1e-6;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10,000")]
        let share = || Self { hundredths: whole as u32 };
        (is_exact && (0.0..=10_000.0).contains(&whole)).then(share)
    }

    /// The share, in percent.
    pub fn percent(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }

    /// Whether all keys are enforced.
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }

    /// Whether the key of this hash is.
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
    fn what_is_enforced_stays_so_while_the_share_grows() {
        for hash in 0..20_000 {
            let shares =
                [1.0, 10.0, 50.0, 100.0].map(|percent| EnforcePercent::new(percent).expect("a share"));
            let taken = shares.map(|share| share.includes(hash));
            assert!(taken.is_sorted(), "{hash}: {taken:?}");
        }
    }
}
