//! Example request: a descriptor that the rules limit, for the banner of the service.

use super::tree::{Children, Node, Pattern};
use super::{Domain, Rules};
use crate::engine::Entry;

/// Domain and entries of one descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleRequest {
    /// The domain.
    pub domain: String,
    /// Keys and values of the descriptor's entries.
    pub entries: Vec<(String, String)>,
}

impl Rules {
    /// Example for the first rule, in the order of the files, that has a limit and whose values can be
    /// invented; `None` without such a rule.
    pub fn example_request(&self) -> Option<ExampleRequest> {
        let mut found = Vec::new();
        for domain in self.domains() {
            collect(domain, &[], &domain.children, &mut found);
        }
        found.into_iter().min_by_key(|(order, _)| *order).map(|(_, example)| example)
    }
}

fn collect(
    domain: &Domain,
    above: &[(String, String)],
    children: &Children,
    found: &mut Vec<(u32, ExampleRequest)>,
) {
    for node in children.nodes() {
        let Some(value) = value(node) else { continue };
        let entries = [above, &[(node.key.to_string(), value)]].concat();
        if is_limited(domain, node, &entries) {
            let domain = domain.name().to_owned();
            found.push((node.order, ExampleRequest { domain, entries: entries.clone() }));
        }
        collect(domain, &entries, &node.children, found);
    }
}

/// True if the rule of `node` limits a request with these entries: another pattern may match first.
fn is_limited(domain: &Domain, node: &Node, entries: &[(String, String)]) -> bool {
    let Some(rule) = node.rule.as_deref().filter(|rule| !rule.limits().is_empty()) else { return false };
    let as_entry = |(key, value): &(String, String)| (key.clone().into_bytes(), value.clone().into_bytes());
    let bytes: Vec<_> = entries.iter().map(as_entry).collect();
    let entries: Vec<_> = bytes.iter().map(|(key, value)| Entry { key, value }).collect();
    domain.find(&entries).is_some_and(|matched| std::ptr::eq(matched.rule, rule))
}

/// Value that the node matches.
fn value(node: &Node) -> Option<String> {
    if node.key.contains('*') {
        return None;
    }
    match &node.pattern {
        Pattern::Any if node.key.contains("address") || node.key.ends_with("ip") => {
            Some("192.0.2.1".to_owned())
        }
        Pattern::Any if node.key.contains("path") => Some("/".to_owned()),
        Pattern::Any => Some("alice".to_owned()),
        Pattern::Exact(value) => Some(value.to_string()),
        Pattern::Glob(glob) => Some(glob.text().replace('*', "x")),
        Pattern::OneOf(one_of) => one_of.values.first().map(ToString::to_string),
        Pattern::Cidr(cidr) => cidr.networks.first().map(|network| network.addr().to_string()),
        Pattern::Regex(expression) => expression.matches(b"1").then(|| "1".to_owned()),
    }
}
