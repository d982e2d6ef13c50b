//! Number of distinct keys, exact for few and estimated for many, in bounded memory.

use hashbrown::HashSet;

/// Keys that are counted exactly.
const MAX_EXACT: usize = 10_000;
/// Registers of the estimate, a power of two: its standard error is 1.04 / √16384 = 0.8 %.
const REGISTERS: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 14;

/// A set of hashes.
#[derive(Clone, Debug)]
pub(super) enum Distinct {
    Exact(HashSet<u64, foldhash::fast::RandomState>),
    /// HyperLogLog: in each register the longest run of zeros seen.
    Estimate(Box<[u8; REGISTERS]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Self::Exact(HashSet::default())
    }
}

impl Distinct {
    /// Adds a hash, all of whose bits are random.
    pub(super) fn add(&mut self, hash: u64) {
        match self {
            Self::Exact(hashes) => {
                hashes.insert(hash);
                if hashes.len() > MAX_EXACT {
                    let mut registers = Box::new([0; REGISTERS]);
                    hashes.iter().for_each(|hash| note(&mut registers, *hash));
                    *self = Self::Estimate(registers);
                }
            }
            Self::Estimate(registers) => note(registers, hash),
        }
    }

    /// Number of distinct hashes.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Exact(hashes) => hashes.len() as u64,
            Self::Estimate(registers) => estimate(registers),
        }
    }
}

fn note(registers: &mut [u8; REGISTERS], hash: u64) {
    let index = hash >> (u64::BITS - INDEX_BITS);
    let run = (hash << INDEX_BITS).leading_zeros().min(u64::BITS - INDEX_BITS) + 1;
    let register = usize::try_from(index).ok().and_then(|index| registers.get_mut(index));
    if let (Some(register), Ok(run)) = (register, u8::try_from(run)) {
        *register = (*register).max(run);
    }
}

fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let count = REGISTERS as f64;
    let sum: f64 = registers.iter().map(|run| 0.5_f64.powi(i32::from(*run))).sum();
    let raw = 0.7213 / (1.0 + 1.079 / count) * count * count / sum;
    let zeros = registers.iter().filter(|run| **run == 0).count() as f64;
    let estimate = if raw <= 2.5 * count && zeros > 0.0 { count * (count / zeros).ln() } else { raw };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count")]
    let estimate = estimate.round() as u64;
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_are_counted_and_many_estimated_within_three_percent() {
        for (keys, is_exact) in [(0, true), (1, true), (10_000, true), (20_000, false), (1_000_000, false)] {
            let mut distinct = Distinct::default();
            // Twice, since a key that is known adds nothing.
            for key in (0..keys).chain(0..keys) {
                distinct.add(xxhash_rust::xxh3::xxh3_64(&u64::to_le_bytes(key)));
            }
            let error = distinct.count().abs_diff(keys);
            assert!(error <= if is_exact { 0 } else { keys * 3 / 100 }, "{} of {keys}", distinct.count());
        }
    }
}
