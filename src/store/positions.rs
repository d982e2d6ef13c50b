//! Positions of distinct keys, in linear time for a request with thousands of charges and without an allocation for
//! an ordinary one.

use std::hash::Hash;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Number of keys that are compared one by one. Further keys go into a hash table.
const FEW: usize = 8;

/// Distinct keys, numbered by their first appearance.
#[derive(Debug)]
pub(super) struct Positions<K> {
    first: SmallVec<[K; FEW]>,
    rest: HashMap<K, usize, RandomState>,
}

impl<K> Default for Positions<K> {
    fn default() -> Self {
        Self { first: SmallVec::new(), rest: HashMap::default() }
    }
}

impl<K: Eq + Hash> Positions<K> {
    /// Position of `key`, and true if it is new.
    pub(super) fn of(&mut self, key: K) -> (usize, bool) {
        if let Some(known) = self.first.iter().position(|known| *known == key) {
            return (known, false);
        }
        let next = self.first.len() + self.rest.len();
        if next < FEW {
            self.first.push(key);
            return (next, true);
        }
        let position = *self.rest.entry(key).or_insert(next);
        (position, position == next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_the_first_appearance_whether_keys_are_few_or_many() {
        let (mut positions, mut seen) = (Positions::default(), Vec::new());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let key = random.u32(0..100);
            let expected = seen.iter().position(|known| *known == key).unwrap_or_else(|| {
                seen.push(key);
                seen.len() - 1
            });
            let len = seen.len();
            let (position, is_new) = positions.of(key);
            assert_eq!(position, expected);
            assert!(!is_new || position == len - 1);
        }
        assert_eq!((seen.len(), positions.of(100)), (100, (100, true)));
    }
}
