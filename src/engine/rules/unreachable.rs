//! Rules that can never match, because others for the same key have precedence over all of their values.

use super::glob::Glob;
use super::tree::{Children, Node, Pattern, Siblings};

/// Upper bound on the patterns of one key that are compared with each other: the comparison takes quadratic time.
const MAX_COMPARED: usize = 300;

/// A rule that can never match.
pub(super) struct Unreachable<'n> {
    pub(super) node: &'n Node,
    /// The node that takes its values.
    pub(super) other: &'n Node,
    pub(super) reason: &'static str,
}

/// Rules below `children` that can never match.
pub(super) fn unreachable<'n>(children: &'n Children, found: &mut Vec<Unreachable<'n>>) {
    for siblings in children.siblings() {
        of_siblings(siblings, found);
    }
    let (_, key_patterns) = children.candidates(&[]);
    for (index, (glob, node)) in key_patterns.iter().enumerate().take(MAX_COMPARED) {
        let earlier = key_patterns[..index].iter().find(|(earlier, _)| takes_all(earlier, glob));
        found.extend(earlier.map(|(_, other)| Unreachable { node, other, reason: EARLIER }));
    }
    for node in children.nodes() {
        unreachable(&node.children, found);
    }
}

const EARLIER: &str = "that pattern matches all of its values, and comes first";

fn of_siblings<'n>(siblings: &'n Siblings, found: &mut Vec<Unreachable<'n>>) {
    let is_pattern = |node: &&Node| !matches!(node.pattern, Pattern::Exact(_));
    let patterns: Vec<&Node> = siblings.nodes().iter().filter(is_pattern).take(MAX_COMPARED + 1).collect();
    for node in &patterns {
        let others = patterns.iter().filter(|_| patterns.len() <= MAX_COMPARED);
        let by_pattern = others
            .filter(|other| other.order != node.order)
            .find_map(|other| reason(node, other).map(|reason| Unreachable { node, other, reason }));
        found.extend(by_pattern.or_else(|| listed_one_by_one(node, siblings)));
    }
}

/// Reason that `other` takes every value that `node` would match.
fn reason(node: &Node, other: &Node) -> Option<&'static str> {
    let is_earlier = other.order < node.order;
    match (&other.pattern, &node.pattern) {
        (Pattern::Glob(earlier), Pattern::Glob(later)) if is_earlier && takes_all(earlier, later) => {
            Some(EARLIER)
        }
        (Pattern::Glob(glob), Pattern::Cidr(_) | Pattern::Regex(_) | Pattern::Any) if is_universal(glob) => {
            Some("that pattern matches every value, and patterns with '*' have precedence")
        }
        (Pattern::Regex(regex), Pattern::Any) if regex.is_universal() => {
            Some("that regex matches every value, and has precedence")
        }
        (Pattern::Regex(earlier), Pattern::Regex(later)) if is_earlier => {
            let literal = later.literal().is_some_and(|literal| earlier.matches(literal.as_bytes()));
            (literal || earlier.is_universal())
                .then_some("that regex matches all of its values, and comes first")
        }
        _ => None,
    }
}

/// A star in `later` can be matched only by one in `earlier`, so the text of the one decides for all of its values.
fn takes_all(earlier: &Glob, later: &Glob) -> bool {
    earlier.matches(later.text().as_bytes())
}

fn is_universal(glob: &Glob) -> bool {
    glob.text().bytes().all(|byte| byte == b'*')
}

/// The list of `node`, if each of its values has a rule for it alone.
fn listed_one_by_one<'n>(node: &'n Node, siblings: &'n Siblings) -> Option<Unreachable<'n>> {
    let Pattern::OneOf(one_of) = &node.pattern else { return None };
    let alone = |value: &str| siblings.exact(value.as_bytes()).filter(|found| found.order != node.order);
    let alone: Option<Vec<&Node>> = one_of.values.iter().map(|value| alone(value)).collect();
    let other = *alone?.last()?;
    let reason = "each value of the list has its own rule, which has precedence";
    Some(Unreachable { node, other, reason })
}
