//! Siblings that Envoy Gateway writes twice.
//!
//! Two rules of a route with one network, one of them per address, come as two descriptors with the same key
//! and value, of which one has the limit and the other the levels below. Together they are what was meant.
//! Two limits in one place stay an error.

use std::collections::HashMap;

use crate::pb::ratelimit::config::ratelimit::v3::RateLimitDescriptor;

/// `descriptors`, each with its index, where those with one key and value are one if at most one of them has a
/// limit. It has the index of the one with the limit, or of the first.
pub(super) fn merge(descriptors: Vec<RateLimitDescriptor>) -> Vec<(usize, RateLimitDescriptor)> {
    let mut limits: HashMap<(&str, &str), usize> = HashMap::with_capacity(descriptors.len());
    for descriptor in &descriptors {
        let key = (&*descriptor.key, &*descriptor.value);
        *limits.entry(key).or_default() += usize::from(descriptor.rate_limit.is_some());
    }
    if limits.len() == descriptors.len() {
        return descriptors.into_iter().enumerate().collect();
    }
    let are_mergeable: Vec<bool> = descriptors
        .iter()
        .map(|descriptor| {
            limits.get(&(&*descriptor.key, &*descriptor.value)).is_some_and(|limits| *limits < 2)
        })
        .collect();
    let mut merged: Vec<(usize, RateLimitDescriptor)> = Vec::with_capacity(descriptors.len());
    let mut positions: HashMap<(String, String), usize> = HashMap::new();
    for ((index, mut descriptor), is_mergeable) in descriptors.into_iter().enumerate().zip(are_mergeable) {
        let key = (descriptor.key.clone(), descriptor.value.clone());
        let known = positions.get(&key).and_then(|position| merged.get_mut(*position));
        match known.filter(|_| is_mergeable) {
            None => {
                positions.insert(key, merged.len());
                merged.push((index, descriptor));
            }
            Some((first, known)) => {
                // Flags belong to the limit beside them.
                if descriptor.rate_limit.is_some() {
                    std::mem::swap(known, &mut descriptor);
                    *first = index;
                    std::mem::swap(&mut known.descriptors, &mut descriptor.descriptors);
                }
                known.descriptors.append(&mut descriptor.descriptors);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::ratelimit::config::ratelimit::v3::RateLimitPolicy;

    fn node(key: &str, requests: Option<u32>, below: &[&str]) -> RateLimitDescriptor {
        RateLimitDescriptor {
            key: key.to_owned(),
            rate_limit: requests
                .map(|requests_per_unit| RateLimitPolicy { requests_per_unit, ..RateLimitPolicy::default() }),
            shadow_mode: requests.is_some(),
            descriptors: below.iter().map(|key| node(key, None, &[])).collect(),
            ..RateLimitDescriptor::default()
        }
    }

    #[test]
    fn siblings_with_one_limit_among_them_are_one() {
        let merged = merge(vec![node("a", None, &["x"]), node("b", None, &[]), node("a", Some(7), &["y"])]);
        assert_eq!(
            merged.iter().map(|(index, node)| (*index, &*node.key)).collect::<Vec<_>>(),
            [(2, "a"), (1, "b")]
        );
        let (_, first) = &merged[0];
        assert_eq!(first.rate_limit.as_ref().map(|limit| limit.requests_per_unit), Some(7));
        assert!(first.shadow_mode);
        assert_eq!(first.descriptors.iter().map(|node| &*node.key).collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn two_limits_in_one_place_stay_two() {
        let both = vec![node("a", Some(1), &[]), node("a", Some(2), &[])];
        assert_eq!(merge(both.clone()), both.into_iter().enumerate().collect::<Vec<_>>());
    }
}
