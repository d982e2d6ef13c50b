//! Map with text keys that needs few memory accesses when it is not in the cache: short keys are stored inline,
//! and small maps are searched linearly instead of hashed. Rule trees have many small maps.

use hashbrown::HashMap;
use smallvec::SmallVec;

/// Largest map that is searched linearly.
const FEW: usize = 8;

/// Key; up to 24 bytes are inline.
type Text = SmallVec<[u8; 24]>;

/// Map with text keys.
#[derive(Debug)]
pub(super) enum TextMap<V> {
    /// At most [`FEW`] entries, in the order of insertion.
    Few(Vec<(Text, V)>),
    /// More.
    Many(Box<HashMap<Text, V, foldhash::fast::RandomState>>),
}

impl<V> Default for TextMap<V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<V: Default> TextMap<V> {
    #[inline]
    pub(super) fn get(&self, text: &[u8]) -> Option<&V> {
        match self {
            Self::Few(few) => few.iter().find(|(known, _)| known.as_slice() == text).map(|(_, value)| value),
            Self::Many(many) => many.get(text),
        }
    }

    /// Value for `text`, inserted if it is missing.
    pub(super) fn entry(&mut self, text: &[u8]) -> &mut V {
        if let Self::Few(few) = self
            && few.len() == FEW
            && few.iter().all(|(known, _)| known.as_slice() != text)
        {
            *self = Self::Many(Box::new(few.drain(..).collect()));
        }
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|(known, _)| known.as_slice() == text).unwrap_or_else(|| {
                    few.push((text.into(), V::default()));
                    few.len() - 1
                });
                &mut few[at].1
            }
            Self::Many(many) => many.entry(text.into()).or_default(),
        }
    }

    /// The values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few), None),
            Self::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten().map(|(_, value)| value);
        few.chain(many.into_iter().flat_map(|many| many.values()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_however_many_texts_there_are(
            texts in prop::collection::vec("[ab]{0,3}|a{22,26}", 0..40),
            asked in "[ab]{0,3}|a{22,26}",
        ) {
            let (mut map, mut model) = (TextMap::<usize>::default(), BTreeMap::new());
            for (number, text) in texts.iter().enumerate() {
                *map.entry(text.as_bytes()) += number;
                *model.entry(text.as_str()).or_insert(0) += number;
            }
            prop_assert_eq!(map.get(asked.as_bytes()), model.get(asked.as_str()));
            let (mut values, mut expected): (Vec<_>, Vec<_>) =
                (map.values().copied().collect(), model.values().copied().collect());
            values.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(values, expected);
        }
    }
}
