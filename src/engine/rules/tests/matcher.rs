//! The matcher against a naive one that tries every rule in the order they are written.

use proptest::prelude::*;

use super::{entries, load};
use crate::engine::rules::{Rule, Rules, WalkEnd, explain};
use crate::engine::{Descriptor, Entry, Hits, Request};

#[derive(Clone, Debug)]
struct Level {
    key: String,
    pattern: LevelPattern,
    /// Names the rule; 0 where there is none.
    count: u32,
    below: Vec<Self>,
}

#[derive(Clone, Debug, PartialEq)]
enum LevelPattern {
    /// Nothing, a value, or a pattern with stars.
    Value(&'static str),
    OneOf(Vec<&'static str>),
    /// Networks of addresses that are four bits long, by their first bits: see `ADDRESSES`.
    Cidr(Vec<&'static str>),
    Regex(&'static str),
}

/// Addresses, each with what stands for its bits below.
const ADDRESSES: [(&str, &str); 5] = [
    ("0.0.0.0", "0000"),
    ("64.0.0.0", "0100"),
    ("112.0.0.1", "0111"),
    ("::ffff:160.0.0.0", "1010"),
    ("240.1.2.3", "1111"),
];

/// The network that the bits stand for.
fn network(bits: &str) -> String {
    let first = bits.chars().enumerate().filter(|(_, bit)| *bit == '1');
    let first: u32 = first.map(|(at, _)| 128 >> at).sum();
    format!("{first}.0.0.0/{}", bits.len())
}

/// Few keys and values, many of them patterns, so that random requests often match.
fn levels(depth: u32) -> BoxedStrategy<Vec<Level>> {
    let value = prop::sample::select(&["", "x", "y", "x_y", "*", "x*", "*y", "x*y", "**"][..]);
    let one_of = prop::sample::subsequence(vec!["", "x", "y", "z", "64.0.0.0"], 1..3);
    let cidr = prop::sample::subsequence(vec!["0", "01", "0111", "1", "10", "111"], 1..3);
    let regex = prop::sample::select(&["x", "x|y", "x.*", ".*y", "[xz]+", ".*", r"[0-9.]+"][..]);
    let pattern = prop_oneof![
        4 => value.prop_map(LevelPattern::Value),
        2 => one_of.prop_map(LevelPattern::OneOf),
        2 => cidr.prop_map(LevelPattern::Cidr),
        1 => regex.prop_map(LevelPattern::Regex),
    ];
    let below = if depth == 0 { Just(Vec::new()).boxed() } else { levels(depth - 1) };
    let key = prop::sample::select(&["a", "b", "a_b", "a*"][..]);
    prop::collection::vec((key, pattern, any::<bool>(), below), 0..7)
        .prop_map(|levels| {
            let mut kept: Vec<Level> = Vec::new();
            for (key, pattern, limited, below) in levels {
                if may_stand_beside(&kept, key, &pattern) {
                    kept.push(Level { key: key.to_owned(), pattern, count: u32::from(limited), below });
                }
            }
            kept
        })
        .boxed()
}

/// True if there is no mistake in `takes` after `kept`.
fn may_stand_beside(kept: &[Level], key: &str, pattern: &LevelPattern) -> bool {
    let overlap = |a: &[&str], b: &[&str]| a.iter().any(|item| b.contains(item));
    let clash = |level: &Level| match (&level.pattern, pattern) {
        (LevelPattern::OneOf(a), LevelPattern::OneOf(b)) | (LevelPattern::Cidr(a), LevelPattern::Cidr(b)) => {
            overlap(a, b)
        }
        (a, b) => a == b,
    };
    (matches!(pattern, LevelPattern::Value(_)) || !key.contains('*'))
        && !kept.iter().any(|level| level.key == key && clash(level))
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
    for Level { key, pattern, count, below } in levels {
        let pattern = match pattern {
            LevelPattern::Value(value) => format!("value: '{value}'"),
            LevelPattern::OneOf(values) => format!("one_of: {values:?}"),
            LevelPattern::Cidr(networks) => {
                format!("cidr: {:?}", networks.iter().map(|bits| network(bits)).collect::<Vec<_>>())
            }
            LevelPattern::Regex(written) => format!("regex: '{written}'"),
        };
        text += &format!("{pad}- key: '{key}'\n{pad}  {pattern}\n");
        if *count > 0 {
            text += &format!("{pad}  rate_limit: {{unit: day, requests_per_unit: {count}}}\n");
        }
        if !below.is_empty() {
            text += &format!("{pad}  descriptors:\n{}", yaml(below, indent + 2));
        }
    }
    text
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            matches(rest, text) || text.split_first().is_some_and(|(_, later)| matches(pattern, later))
        }
        (Some((p, pattern)), Some((t, text))) => p == t && matches(pattern, text),
        _ => false,
    }
}

/// One level: exact, then the lists, the first pattern, the longest network, the first expression, and
/// then the bare key.
fn naive<'l>(levels: &'l [Level], key: &str, value: &str) -> Option<&'l Level> {
    let of_key: Vec<_> = levels.iter().filter(|level| level.key == key).collect();
    let exact = of_key.iter().find(
        |level| matches!(level.pattern, LevelPattern::Value(taken) if taken == value && !value.is_empty()),
    );
    let listed = of_key
        .iter()
        .find(|level| matches!(&level.pattern, LevelPattern::OneOf(values) if values.contains(&value)));
    let pattern = levels.iter().find(|level| {
        let LevelPattern::Value(written) = level.pattern else { return false };
        let is_pattern = level.key.contains('*') || written.contains('*');
        let same_key = level.key.contains('*') || level.key == key;
        let written = if written.is_empty() { level.key.clone() } else { format!("{}_{written}", level.key) };
        is_pattern && same_key && matches(written.as_bytes(), format!("{key}_{value}").as_bytes())
    });
    let bits = ADDRESSES.iter().find(|(address, _)| *address == value).map(|(_, bits)| *bits);
    let longest = |level: &Level| match (&level.pattern, bits) {
        (LevelPattern::Cidr(networks), Some(bits)) => {
            networks.iter().filter(|network| bits.starts_with(**network)).map(|network| network.len()).max()
        }
        _ => None,
    };
    let network = of_key.iter().filter(|level| longest(level).is_some()).max_by_key(|level| longest(level));
    let expression = of_key.iter().find(|level| match level.pattern {
        LevelPattern::Regex(written) => {
            regex::Regex::new(&format!("^({written})$")).expect("one").is_match(value)
        }
        _ => false,
    });
    let bare =
        of_key.iter().find(|level| level.pattern == LevelPattern::Value("") && !level.key.contains('*'));
    exact.or(listed).copied().or(pattern).or(network.or(expression).or(bare).copied())
}

fn naive_walk(levels: &[Level], request: &[(&str, &str)]) -> u32 {
    let Some(((key, value), rest)) = request.split_first() else { return 0 };
    let Some(level) = naive(levels, key, value) else { return 0 };
    if rest.is_empty() { level.count } else { naive_walk(&level.below, rest) }
}

fn value() -> impl Strategy<Value = &'static str> {
    let texts = prop::sample::select(&["", "x", "y", "x_y", "xzy", "z"][..]);
    prop_oneof![texts, prop::sample::select(ADDRESSES.map(|(address, _)| address).to_vec())]
}

/// The rule at the end of the walk that explains a descriptor.
fn explained<'r>(rules: &'r Rules, entries: &[Entry<'_>]) -> Option<&'r Rule> {
    let descriptor = Descriptor { entries: entries.into(), hits: Hits::Add(1), limit_override: None };
    let walk = explain(rules, &Request { domain: b"d", descriptors: [descriptor].into_iter().collect() });
    match walk.descriptors[0].end {
        WalkEnd::Rule(rule) => Some(rule),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_random_tree_matches_as_a_naive_matcher_does(
        mut levels in levels(2),
        requests in prop::collection::vec(
            prop::collection::vec(
                (prop::sample::select(&["a", "b", "a_b", "ab", "c"][..]), value()),
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
            let entries = entries(&text);
            let matched = domain.find(&entries).map(|found| found.rule);
            let found = matched.map_or(0, |rule| {
                rule.limits().first().map_or(0, |limit| limit.limit.requests_per_unit)
            });
            prop_assert_eq!(found, naive_walk(&levels, &request), "{} in\n{}", text, below);
            let explained = explained(&rules, &entries);
            prop_assert_eq!(explained.map(|rule| &*rule.path), matched.map(|rule| &*rule.path), "{} in\n{}", text, below);
        }
    }
}
