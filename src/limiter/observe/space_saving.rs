//! The Space-Saving algorithm: the most frequent keys of a stream, in bounded memory.
//!
//! Source: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
//! Streams", 2005. A sketch of `capacity` entries over a stream of total weight `n` overestimates a key by at
//! most `n / capacity`, and holds every key whose weight is larger than that.

use std::hash::BuildHasher as _;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Keys with the largest weights.
#[derive(Debug)]
pub(super) struct SpaceSaving<V> {
    capacity: usize,
    hasher: RandomState,
    /// Entry of each key.
    index: HashTable<usize>,
    entries: Vec<Entry<V>>,
    /// Entries as a binary heap, lightest first.
    heap: Vec<usize>,
}

#[derive(Debug)]
struct Entry<V> {
    key: Bytes,
    weight: u64,
    error: u64,
    value: V,
    /// Position in the heap.
    position: usize,
}

/// A key of a sketch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted<V> {
    pub(super) key: Bytes,
    /// Upper bound on the weight of the key.
    pub(super) weight: u64,
    /// Upper bound on how much of that belongs to other keys.
    pub(super) error: u64,
    pub(super) value: V,
}

impl<V> SpaceSaving<V> {
    /// A sketch of at most `capacity` keys, at least 1. It allocates as it fills.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            hasher: RandomState::default(),
            index: HashTable::new(),
            entries: Vec::new(),
            heap: Vec::new(),
        }
    }

    /// Adds `weight` to `key`, and replaces its value. A new key takes the place of the lightest one when the
    /// sketch is full.
    pub(super) fn add(&mut self, key: &Bytes, weight: u64, value: V) {
        let hash = self.hasher.hash_one(&**key);
        let entries = &self.entries;
        if let Some(&at) = self.index.find(hash, |&at| entries[at].key == *key) {
            let entry = &mut self.entries[at];
            entry.weight = entry.weight.saturating_add(weight);
            entry.value = value;
            let position = entry.position;
            self.sink(position);
            return;
        }
        let at = if self.entries.len() < self.capacity {
            let (at, position) = (self.entries.len(), self.heap.len());
            self.entries.push(Entry { key: key.clone(), weight, error: 0, value, position });
            self.heap.push(at);
            self.rise(position);
            at
        } else {
            self.replace_lightest(key, weight, value)
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hash, at, |&at| hasher.hash_one(&*entries[at].key));
    }

    fn replace_lightest(&mut self, key: &Bytes, weight: u64, value: V) -> usize {
        let at = self.heap[0];
        let old = self.hasher.hash_one(&*self.entries[at].key);
        if let Ok(found) = self.index.find_entry(old, |&other| other == at) {
            found.remove();
        }
        let error = self.entries[at].weight;
        self.entries[at] =
            Entry { key: key.clone(), weight: error.saturating_add(weight), error, value, position: 0 };
        self.sink(0);
        at
    }

    /// Weight of the lightest key, which bounds that of every key the sketch does not hold.
    fn missing_weight(&self) -> u64 {
        match self.heap.first() {
            Some(&at) if self.entries.len() == self.capacity => self.entries[at].weight,
            _ => 0,
        }
    }

    /// The keys and weights, without the index.
    pub(super) fn copy(&self) -> SketchCopy<V>
    where
        V: Clone,
    {
        let entries = self.entries.iter().map(|Entry { key, weight, error, value, .. }| Counted {
            key: key.clone(),
            weight: *weight,
            error: *error,
            value: value.clone(),
        });
        SketchCopy { entries: entries.collect(), missing_weight: self.missing_weight() }
    }

    fn sink(&mut self, mut position: usize) {
        loop {
            let children = [2 * position + 1, 2 * position + 2];
            let children = children.into_iter().filter(|&child| child < self.heap.len());
            let Some(lightest) = children.min_by_key(|&child| self.weight_at(child)) else { return };
            if self.weight_at(position) <= self.weight_at(lightest) {
                return;
            }
            self.swap(position, lightest);
            position = lightest;
        }
    }

    fn rise(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.weight_at(parent) <= self.weight_at(position) {
                return;
            }
            self.swap(position, parent);
            position = parent;
        }
    }

    fn weight_at(&self, position: usize) -> u64 {
        self.entries[self.heap[position]].weight
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for position in [one, other] {
            let at = self.heap[position];
            self.entries[at].position = position;
        }
    }
}

/// Keys and weights of a sketch at one time.
#[derive(Debug)]
pub(super) struct SketchCopy<V> {
    entries: Vec<Counted<V>>,
    /// [`SpaceSaving::missing_weight`]
    missing_weight: u64,
}

/// Union of `sketches`, heaviest key first. A key that a full sketch does not hold may have had as much there
/// as its lightest key: that much is added to its weight and to its error.
pub(super) fn merge<V: Clone>(
    sketches: &[SketchCopy<V>],
    mut newer: impl FnMut(&mut V, &V),
) -> Vec<Counted<V>> {
    let missing: u64 = sketches.iter().map(|sketch| sketch.missing_weight).fold(0, u64::saturating_add);
    let mut merged: hashbrown::HashMap<&Bytes, Counted<V>, RandomState> = hashbrown::HashMap::default();
    for SketchCopy { entries, missing_weight } in sketches {
        for Counted { key, weight, error, value } in entries {
            let counted = merged.entry(key).or_insert_with(|| Counted {
                key: key.clone(),
                weight: missing,
                error: missing,
                value: value.clone(),
            });
            counted.weight = counted.weight.saturating_add(*weight).saturating_sub(*missing_weight);
            counted.error = counted.error.saturating_add(*error).saturating_sub(*missing_weight);
            newer(&mut counted.value, value);
        }
    }
    let mut all: Vec<_> = merged.into_values().collect();
    all.sort_by(|one, other| other.weight.cmp(&one.weight).then_with(|| one.key.cmp(&other.key)));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[number])
    }

    fn sketch(capacity: usize, stream: &[(u8, u64)]) -> SpaceSaving<()> {
        let mut sketch = SpaceSaving::new(capacity);
        for &(number, weight) in stream {
            sketch.add(&key(number), weight, ());
        }
        sketch
    }

    #[test]
    fn a_stream_of_fewer_keys_than_entries_is_counted_exactly() {
        let sketch = sketch(3, &[(1, 5), (2, 1), (1, 1), (3, 9)]);
        let merged = merge(&[sketch.copy()], |(), ()| {});
        let weights: Vec<_> = merged.iter().map(|counted| (counted.key[0], counted.weight)).collect();
        assert_eq!(weights, [(3, 9), (1, 6), (2, 1)]);
        assert!(merged.iter().all(|counted| counted.error == 0));
    }

    /// As on the cores of a service: a few keys have most of the traffic, and there are far more keys than entries.
    #[test]
    fn zipf_traffic_of_several_cores_is_counted_within_the_bound() {
        const KEYS: f64 = 100_000.0;
        const CAPACITY: usize = 512;
        let mut random = fastrand::Rng::with_seed(7);
        let mut truth: HashMap<Bytes, u64> = HashMap::new();
        let mut sketches = Vec::new();
        let mut bound = 0;
        for hits in [100_000, 50_000, 150_000_u64] {
            let mut sketch = SpaceSaving::new(CAPACITY);
            for _ in 0..hits {
                // The inverse of a distribution whose density falls with the rank.
                let rank = KEYS.powf(random.f64()).floor();
                let key = Bytes::from(format!("{rank}"));
                sketch.add(&key, 1, ());
                *truth.entry(key).or_default() += 1;
            }
            bound += hits / CAPACITY as u64;
            sketches.push(sketch.copy());
        }
        assert!(truth.len() > 20 * CAPACITY, "{}", truth.len());
        let merged = merge(&sketches, |(), ()| {});
        for Counted { key, weight, error, .. } in &merged {
            let truth = truth.get(key).copied().unwrap_or(0);
            assert!(
                truth <= *weight && weight - error <= truth && *error <= bound,
                "{truth} {weight} {error}"
            );
        }
        for (key, weight) in truth.iter().filter(|(_, weight)| **weight > bound) {
            assert!(merged.iter().any(|counted| counted.key == *key), "{key:?}: {weight}");
        }
        let first: Vec<_> = merged.iter().take(3).map(|counted| &counted.key[..]).collect();
        assert_eq!(first, [b"1", b"2", b"3"]);
    }

    proptest! {
        /// The bounds of the paper hold for one sketch and for the union of several.
        #[test]
        fn a_key_is_overestimated_by_at_most_its_error_and_no_heavy_key_is_missed(
            streams in vec(vec((0..40_u8, 1..20_u64), 0..300), 1..4),
            capacity in 1..16_usize,
        ) {
            let sketches: Vec<_> = streams.iter().map(|stream| sketch(capacity, stream).copy()).collect();
            let mut truth: HashMap<u8, u64> = HashMap::new();
            for (number, weight) in streams.iter().flatten() {
                *truth.entry(*number).or_default() += weight;
            }
            let total: u64 = truth.values().sum();
            let bound = total / capacity as u64;
            let merged = merge(&sketches, |(), ()| {});
            for Counted { key, weight, error, .. } in &merged {
                let truth = truth.get(&key[0]).copied().unwrap_or(0);
                prop_assert!(truth <= *weight && weight - error <= truth, "{truth} {weight} {error}");
                prop_assert!(*error <= bound);
            }
            for (number, weight) in truth.iter().filter(|(_, weight)| **weight > bound) {
                prop_assert!(merged.iter().any(|counted| counted.key[0] == *number), "{number}: {weight}");
            }
            prop_assert!(merged.is_sorted_by(|one, other| one.weight >= other.weight));
        }
    }
}
