//! Random key numbers with a uniform or Zipf distribution. No I/O, no clock; the same seed draws the same
//! numbers.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

/// Frequency of each key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Distribution {
    /// All keys are equally frequent.
    Uniform,
    /// Key `k`, counted from 0, in proportion to `1 / (k + 1)^exponent`. The exponent is above 0 and at
    /// most 10.
    Zipf {
        /// Exponent of the distribution.
        exponent: f64,
    },
}

const EXPECTED: &str = "expected uniform, zipf or zipf:EXPONENT with an exponent above 0 and at most 10";

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = match text {
            "uniform" => return Ok(Self::Uniform),
            "zipf" => 1.0,
            text => text.strip_prefix("zipf:").and_then(|text| text.parse().ok()).ok_or(EXPECTED)?,
        };
        // This also rejects NaN.
        if exponent > 0.0 && exponent <= 10.0 { Ok(Self::Zipf { exponent }) } else { Err(EXPECTED.into()) }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf { exponent } => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Draws key numbers below the number of keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    rng: Rng,
    sampler: KeySampler,
}

#[derive(Clone, Debug)]
enum KeySampler {
    Uniform { keys: u64 },
    Zipf(Zipf),
}

impl Keys {
    /// Generator for `keys` keys, 1 to 2^53, the range in which floats are exact.
    pub(super) fn new(keys: u64, distribution: Distribution, seed: u64) -> Self {
        debug_assert!((1..=1 << 53).contains(&keys));
        let sampler = match distribution {
            Distribution::Uniform => KeySampler::Uniform { keys },
            Distribution::Zipf { exponent } => KeySampler::Zipf(Zipf::new(keys, exponent)),
        };
        Self { rng: Rng::with_seed(seed), sampler }
    }

    /// Number of the next key.
    pub(super) fn draw(&mut self) -> u64 {
        match &self.sampler {
            KeySampler::Uniform { keys } => self.rng.u64(0..*keys),
            KeySampler::Zipf(zipf) => zipf.draw(&mut self.rng),
        }
    }
}

/// Zipf distribution without a table, by rejection-inversion (Hörmann and Derflinger, 1996). The steps of the
/// distribution lie below the curve `x^-exponent`, whose integral can be inverted. A point below the curve is
/// drawn and accepted if it lies below a step, which happens at least every second time.
#[derive(Clone, Debug)]
struct Zipf {
    keys: f64,
    exponent: f64,
    /// Integral of the curve at the left end of the first step, and at the right end of the last one.
    least: f64,
    most: f64,
}

impl Zipf {
    fn new(keys: u64, exponent: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
        let keys = keys as f64;
        // The first step has width 1: points above it could only be rejected.
        Self { keys, exponent, least: integral(1.5, exponent) - 1.0, most: integral(keys + 0.5, exponent) }
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let below_curve = self.most + rng.f64() * (self.least - self.most);
            let rank = inverse(below_curve, self.exponent).round().clamp(1.0, self.keys);
            let step = rank.powf(-self.exponent);
            if below_curve >= integral(rank + 0.5, self.exponent) - step {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number from 1 to 2^53"
                )]
                return rank as u64 - 1;
            }
        }
    }
}

/// The integral of `x^-exponent` from 1 to `x`.
fn integral(x: f64, exponent: f64) -> f64 {
    let log = x.ln();
    let power = (1.0 - exponent) * log;
    // At an exponent of 1 the integral is the logarithm; near 1 the closed form loses precision.
    if power.abs() < 1e-8 { log * (1.0 + power / 2.0) } else { power.exp_m1() / (1.0 - exponent) }
}

/// Inverse of [`integral`].
fn inverse(area: f64, exponent: f64) -> f64 {
    let power = (area * (1.0 - exponent)).max(-1.0);
    if power.abs() < 1e-8 {
        (area * (1.0 - power / 2.0)).exp()
    } else {
        (power.ln_1p() / (1.0 - exponent)).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frequencies(keys: u64, distribution: Distribution, draws: u32) -> Vec<f64> {
        let mut drawn = Keys::new(keys, distribution, 7);
        let mut counts = vec![0_u32; usize::try_from(keys).expect("few")];
        for _ in 0..draws {
            counts[usize::try_from(drawn.draw()).expect("few")] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(draws)).collect()
    }

    /// Every frequency is within five standard deviations of its share of `weights`.
    fn follows(weights: &[f64], distribution: Distribution) {
        const DRAWS: u32 = 40_000;
        let sum: f64 = weights.iter().sum();
        let found = frequencies(weights.len() as u64, distribution, DRAWS);
        for (key, (weight, found)) in weights.iter().zip(found).enumerate() {
            let result = weight / sum;
            let deviation = (result * (1.0 - result) / f64::from(DRAWS)).sqrt();
            let bound = 5.0 * deviation + 1.0 / f64::from(DRAWS);
            assert!((found - result).abs() <= bound, "{distribution}: key {key}: {found}, not {result}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn keys_are_drawn_as_often_as_their_law_says(keys in 1_u32..60, exponent in 0.05_f64..3.0) {
            let weights: Vec<_> = (1..=keys).map(|rank| f64::from(rank).powf(-exponent)).collect();
            follows(&weights, Distribution::Zipf { exponent });
            follows(&vec![1.0; keys as usize], Distribution::Uniform);
        }

        #[test]
        fn a_seed_repeats_itself_and_no_key_is_past_the_last(
            seed: u64,
            keys in 1_u64..1 << 53,
            exponent in prop::option::of(0.01_f64..10.0),
        ) {
            let distribution = exponent.map_or(Distribution::Uniform, |exponent| Distribution::Zipf { exponent });
            let draws = |seed| {
                let mut drawn = Keys::new(keys, distribution, seed);
                (0..50).map(|_| drawn.draw()).collect::<Vec<_>>()
            };
            let drawn = draws(seed);
            prop_assert!(drawn.iter().all(|key| *key < keys));
            prop_assert_eq!(drawn, draws(seed));
        }
    }

    #[test]
    fn the_law_has_no_seam_where_the_exponent_is_one() {
        for exponent in [1.0, 1.0 + 1e-9, 1.0 - 1e-9, 1.0 + 1e-6] {
            let weights: Vec<_> = (1..=20).map(|rank| 1.0 / f64::from(rank)).collect();
            follows(&weights, Distribution::Zipf { exponent });
        }
    }

    #[test]
    fn other_seeds_draw_other_keys() {
        let draws = |seed| {
            let mut drawn = Keys::new(1 << 40, Distribution::Uniform, seed);
            [drawn.draw(), drawn.draw()]
        };
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn a_distribution_is_read_as_it_is_written() {
        for (text, expected) in [
            ("uniform", Some(Distribution::Uniform)),
            ("zipf", Some(Distribution::Zipf { exponent: 1.0 })),
            ("zipf:0.99", Some(Distribution::Zipf { exponent: 0.99 })),
            ("zipf:10", Some(Distribution::Zipf { exponent: 10.0 })),
            ("zipf:0", None),
            ("zipf:-1", None),
            ("zipf:11", None),
            ("zipf:NaN", None),
            ("zipf:", None),
            ("normal", None),
            ("", None),
        ] {
            let read = text.parse().ok();
            assert_eq!(read, expected, "{text:?}");
            if let Some(distribution) = read {
                assert_eq!(distribution.to_string().parse(), Ok(distribution));
            }
        }
    }
}
