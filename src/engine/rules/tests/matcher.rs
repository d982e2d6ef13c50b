//! The matcher against a naive one that tries every rule in the order they are written.

use proptest::prelude::*;

use super::{entries, load};

#[derive(Clone, Debug)]
struct Level {
    key: String,
    value: String,
    /// Names the rule; 0 where there is none.
    count: u32,
    below: Vec<Self>,
}

/// Few keys and values, many of them patterns, so that random requests often match.
fn levels(depth: u32) -> BoxedStrategy<Vec<Level>> {
    let key = prop::sample::select(&["a", "b", "a_b", "a*"][..]);
    let value = prop::sample::select(&["", "x", "y", "x_y", "*", "x*", "*y", "x*y", "**"][..]);
    let below = if depth == 0 { Just(Vec::new()).boxed() } else { levels(depth - 1) };
    prop::collection::vec((key, value, any::<bool>(), below), 0..6)
        .prop_map(|levels| {
            let mut kept: Vec<Level> = Vec::new();
            for (key, value, limited, below) in levels {
                if !kept.iter().any(|other| other.key == key && other.value == value) {
                    let (key, value) = (key.to_owned(), value.to_owned());
                    kept.push(Level { key, value, count: u32::from(limited), below });
                }
            }
            kept
        })
        .boxed()
}

fn number(levels: &mut [Level], next: &mut u32) {
    for level in levels {
        if level.count > 0 {
            *next += 1;
            level.count = *next;
        }
        number(&mut level.below, next);
    }
}

fn yaml(levels: &[Level], indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut text = String::new();
    for Level { key, value, count, below } in levels {
        text += &format!("{pad}- key: '{key}'\n{pad}  value: '{value}'\n");
        if *count > 0 {
            text += &format!("{pad}  rate_limit: {{unit: day, requests_per_unit: {count}}}\n");
        }
        if !below.is_empty() {
            text += &format!("{pad}  descriptors:\n{}", yaml(below, indent + 2));
        }
    }
    text
}

fn takes(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            takes(rest, text) || text.split_first().is_some_and(|(_, later)| takes(pattern, later))
        }
        (Some((p, pattern)), Some((t, text))) => p == t && takes(pattern, text),
        _ => false,
    }
}

/// One level: exact, then the first pattern, then the bare key.
fn naive<'l>(levels: &'l [Level], key: &str, value: &str) -> Option<&'l Level> {
    let is_pattern = |level: &Level| level.key.contains('*') || level.value.contains('*');
    let written = |level: &Level| match level.value.as_str() {
        "" => level.key.clone(),
        value => format!("{}_{value}", level.key),
    };
    let exact =
        |level: &&Level| !is_pattern(level) && !value.is_empty() && level.key == key && level.value == value;
    let pattern = |level: &&Level| {
        let same_key = level.key.contains('*') || level.key == key;
        is_pattern(level) && same_key && takes(written(level).as_bytes(), format!("{key}_{value}").as_bytes())
    };
    let bare = |level: &&Level| !is_pattern(level) && level.key == key && level.value.is_empty();
    let mut found = levels.iter().filter(exact);
    found.next().or_else(|| levels.iter().find(pattern)).or_else(|| levels.iter().find(bare))
}

fn naive_walk(levels: &[Level], request: &[(&str, &str)]) -> u32 {
    let Some(((key, value), rest)) = request.split_first() else { return 0 };
    let Some(level) = naive(levels, key, value) else { return 0 };
    if rest.is_empty() { level.count } else { naive_walk(&level.below, rest) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_random_tree_matches_as_a_naive_matcher_does(
        mut levels in levels(2),
        requests in prop::collection::vec(
            prop::collection::vec(
                (prop::sample::select(&["a", "b", "a_b", "ab", "c"][..]), prop::sample::select(&["", "x", "y", "x_y", "xzy", "z"][..])),
                1..4,
            ),
            1..20,
        ),
    ) {
        number(&mut levels, &mut 0);
        let below = if levels.is_empty() { String::new() } else { format!("descriptors:\n{}", yaml(&levels, 2)) };
        let rules = load(&format!("domain: d\n{below}"));
        let domain = rules.domain(b"d").expect("the domain is known");
        for request in requests {
            let text: Vec<_> = request.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let text = text.join(",");
            let found = domain.find(&entries(&text)).map_or(0, |found| {
                found.rule.limits().first().map_or(0, |limit| limit.limit.requests_per_unit)
            });
            prop_assert_eq!(found, naive_walk(&levels, &request), "{} in\n{}", text, below);
        }
    }
}
