//! Estimates of the amounts of future requests, learned from the amounts of settled requests.
//!
//! A step up is four times as large as a step down, so an estimate approaches the amount that four of five requests do
//! not exceed. Each replica learns for itself, in memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of first amounts. Their maximum is the estimate; later amounts move it in steps.
const FIRST: u64 = 8;
/// Before the first amount, the estimate is the limit divided by this.
const UNKNOWN_DIVISOR: u32 = 16;

/// Estimate of a rule. The low 32 bits are the estimate, the high 32 bits the number of amounts seen, up to 8.
#[derive(Debug, Default)]
pub struct Estimate(AtomicU64);

impl Estimate {
    /// Estimated amount of the next request, from 1 to `most`, under a limit of `capacity`.
    pub fn amount(&self, capacity: u32, most: u32) -> u32 {
        let (seen, estimate) = unpack(self.0.load(Ordering::Relaxed));
        let estimate = if seen == 0 { capacity / UNKNOWN_DIVISOR } else { estimate };
        estimate.min(most).max(1)
    }

    /// Learns the real amount of a request. `most` is the upper bound on the estimate.
    pub fn learn(&self, amount: u32, most: u32) {
        let next = |state| {
            let (seen, estimate) = unpack(state);
            let estimate = match seen {
                FIRST.. => step(estimate, amount),
                _ => estimate.max(amount),
            };
            pack((seen + 1).min(FIRST), estimate.min(most).max(1))
        };
        let mut state = self.0.load(Ordering::Relaxed);
        while let Err(changed) =
            self.0.compare_exchange_weak(state, next(state), Ordering::Relaxed, Ordering::Relaxed)
        {
            state = changed;
        }
    }
}

fn step(estimate: u32, amount: u32) -> u32 {
    let size = (estimate >> 5).max(1);
    if amount > estimate { estimate.saturating_add(4 * size) } else { estimate.saturating_sub(size) }
}

const fn pack(seen: u64, estimate: u32) -> u64 {
    seen << 32 | estimate as u64
}

fn unpack(state: u64) -> (u64, u32) {
    (state >> 32, u32::try_from(state & u64::from(u32::MAX)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 16_000;

    fn taught(amounts: impl IntoIterator<Item = u32>) -> u32 {
        let estimate = Estimate::default();
        amounts.into_iter().for_each(|amount| estimate.learn(amount, LIMIT));
        estimate.amount(LIMIT, LIMIT)
    }

    #[test]
    fn the_estimate_is_the_largest_of_the_first_amounts() {
        assert_eq!(taught([]), 1_000, "a sixteenth of the limit");
        assert_eq!(taught([3]), 3);
        assert_eq!(taught([3, 90, 7]), 90);
        assert_eq!(taught([3, 90, 7, 1, 1, 1, 1, 1]), 90);
        assert_eq!(taught([3, 90, 7, 1, 1, 1, 1, 1, 1]), 88, "then it moves in steps");
        assert_eq!(taught([3, 90, 7, 1, 1, 1, 1, 1, 91]), 98);
    }

    #[test]
    fn an_estimate_stays_within_its_bounds() {
        assert_eq!(taught([u32::MAX; 20]), LIMIT);
        assert_eq!(taught([1; 100]), 1);
        let estimate = Estimate::default();
        assert_eq!((estimate.amount(3, 3), estimate.amount(0, 0), estimate.amount(LIMIT, 7)), (1, 1, 7));
    }

    /// Uniform amounts up to 1,000, in an order without a pattern: four of five are at most 800.
    #[test]
    fn an_estimate_approaches_the_amount_that_four_of_five_requests_do_not_exceed() {
        let mut amount = 1_u64;
        let mut next = || {
            amount = amount * 48_271 % 2_147_483_647;
            u32::try_from(amount % 1_000 + 1).expect("small")
        };
        let estimate = Estimate::default();
        (0..2_000).for_each(|_| estimate.learn(next(), LIMIT));
        let mut covered = 0;
        for _ in 0..10_000 {
            let real = next();
            covered += u32::from(real <= estimate.amount(LIMIT, LIMIT));
            estimate.learn(real, LIMIT);
        }
        assert!((7_500..=8_500).contains(&covered), "{covered} of 10,000");
    }
}
