//! Compilation of patterns and of normalization.

use std::collections::HashMap;

use super::cidr;
use super::diagnostics::{Diagnostics, shortened};
use super::glob::Glob;
use super::normalize::{HashKey, Normalize, NormalizeStep};
use super::pattern::{Cidr, Expressions, OneOf};
use super::source::Descriptor;
use super::span::{Located, SourceSpan};
use super::tree::{Children, Pattern};

/// Pattern of `descriptor`.
///
/// # Errors
/// Every error in it.
pub(super) fn pattern(
    descriptor: &Descriptor,
    expressions: &mut Expressions,
) -> Result<Pattern, Diagnostics> {
    let mut errors = check_alone(descriptor);
    let matching = &descriptor.matching;
    let mut patterns = Vec::new();
    if let Some(value) = &descriptor.value {
        patterns.push(if value.contains('*') {
            Pattern::Glob(Glob::new(value))
        } else {
            Pattern::Exact(value.as_str().into())
        });
    }
    if let Some(written) = &matching.one_of {
        let values = one_of(written, &mut errors);
        patterns.push(Pattern::OneOf(Box::new(OneOf::new(values))));
    }
    if let Some(written) = &matching.cidr {
        let networks = networks(written, &mut errors);
        patterns.push(Pattern::Cidr(Box::new(Cidr::new(networks))));
    }
    if let Some(Located { value, span }) = &matching.regex {
        match expressions.get(value) {
            Ok(Some(expression)) => patterns.push(Pattern::Regex(Box::new(expression))),
            Ok(None) => return Err(errors),
            Err(reason) => errors.push(*span, format!("regex '{}' {reason}", shortened(value))),
        }
    }
    errors.or(patterns.pop().unwrap_or(Pattern::Any))
}

/// True if a field of the pattern of `descriptor` could not be parsed, which is reported.
pub(super) fn is_unreadable(descriptor: &Descriptor) -> bool {
    ["value", "one_of", "cidr", "regex"].iter().any(|field| descriptor.unreadable.has(field))
}

/// Checks that a level has at most one field that sets its pattern.
fn check_alone(descriptor: &Descriptor) -> Diagnostics {
    let matching = &descriptor.matching;
    let ways = [
        ("value", descriptor.value.as_ref().map(|_| descriptor.span)),
        ("one_of", matching.one_of.as_ref().map(|written| written.span)),
        ("cidr", matching.cidr.as_ref().map(|written| written.span)),
        ("regex", matching.regex.as_ref().map(|written| written.span)),
    ];
    let written: Vec<(&str, SourceSpan)> =
        ways.into_iter().filter_map(|(name, span)| Some((name, span?))).collect();
    let mut errors = Diagnostics::default();
    if let Some(((first, _), others)) = written.split_first() {
        for (other, span) in others {
            let message =
                format!("'{first}' and '{other}' both set which values the rule matches: write one of them");
            errors.push(*span, message);
        }
    }
    if descriptor.key.contains('*') {
        let normalize = matching.normalize.as_ref().map(|written| ("normalize", written.span));
        for (name, span) in written.into_iter().filter(|(name, _)| *name != "value").chain(normalize) {
            let message =
                format!("'{name}' is for one key, and '{}' has a '*': write the key in full", descriptor.key);
            errors.push(span, message);
        }
    }
    errors
}

fn one_of(written: &Located<Vec<Located<String>>>, errors: &mut Diagnostics) -> Vec<Box<str>> {
    if written.value.is_empty() {
        errors.push(written.span, "'one_of' is empty: write at least one value".to_owned());
    }
    let mut seen = HashMap::new();
    for Located { value, span } in &written.value {
        if value.contains('*') {
            let message = format!(
                "'one_of' lists exact values: for the pattern '{}' write a rule with 'value'",
                shortened(value)
            );
            errors.push(*span, message);
        } else if let Some(first) = seen.insert(value, *span) {
            errors.push(*span, twice(value, first));
        }
    }
    written.value.iter().map(|value| value.value.as_str().into()).collect()
}

fn networks(written: &Located<Vec<Located<String>>>, errors: &mut Diagnostics) -> Vec<ipnet::IpNet> {
    if written.value.is_empty() {
        errors.push(written.span, "'cidr' is empty: write at least one network".to_owned());
    }
    let mut networks = HashMap::with_capacity(written.value.len());
    for Located { value, span } in &written.value {
        match cidr::parse(value) {
            Ok(network) => {
                if let Some(first) = networks.insert(network, *span) {
                    errors.push(*span, twice(&network.to_string(), first));
                }
            }
            Err(message) => errors.push(*span, message),
        }
    }
    networks.into_keys().collect()
}

fn twice(value: &str, first: SourceSpan) -> String {
    let value = shortened(value);
    format!("'{value}' is there twice, first at line {}: write it once", first.line)
}

/// Errors for items that other rules for the same key have; each comes with the order of the other node.
pub(super) fn taken_values(items: Vec<(String, u32)>, descriptor: &Descriptor) -> Vec<TakenValue> {
    let Descriptor { key, matching, span, .. } = descriptor;
    let (field, list) = match (&matching.one_of, &matching.cidr) {
        (Some(one_of), _) => ("one_of", Some(one_of)),
        (None, cidr) => ("cidr", cidr.as_ref()),
    };
    let written = list.iter().flat_map(|list| &list.value);
    let canonical = |text: &str| match field {
        "cidr" => cidr::parse(text).map_or_else(|_| text.to_owned(), |network| network.to_string()),
        _ => text.to_owned(),
    };
    let spans: HashMap<_, _> = written.map(|item| (canonical(&item.value), item.span)).collect();
    let problem = |(item, other): (String, u32)| TakenValue {
        span: spans.get(&item).copied().unwrap_or(*span),
        message: format!("'{}' is in another '{field}' for '{key}'", shortened(&item)),
        other,
    };
    items.into_iter().map(problem).collect()
}

/// Item that another rule has.
pub(super) struct TakenValue {
    pub(super) span: SourceSpan,
    pub(super) message: String,
    /// Order of the other rule's node.
    pub(super) other: u32,
}

/// Sets the normalization of each key in `siblings`, as `descriptors` write it. Returns warnings for values
/// that no normalized value can equal.
///
/// # Errors
/// Every error in the steps.
pub(super) fn normalize(
    descriptors: &[Descriptor],
    siblings: &mut Children,
    hash_key: Option<&HashKey>,
) -> Result<Diagnostics, Diagnostics> {
    let mut errors = Diagnostics::default();
    let mut known: HashMap<String, (Vec<NormalizeStep>, SourceSpan)> = HashMap::new();
    for descriptor in descriptors.iter().filter(|descriptor| !descriptor.key.contains('*')) {
        let Some(written) = &descriptor.matching.normalize else { continue };
        let key = &descriptor.key;
        let steps: Vec<_> = written.value.iter().map(|step| step.value).collect();
        if !descriptor.enabled {
            // Disabled rules are checked, but not compiled.
            errors.append(Normalize::new(&written.value, hash_key).err().unwrap_or_default());
            continue;
        }
        let before = siblings.normalize(key).map(|normalize| normalize.steps.to_vec());
        let here = known.get(key);
        match before.as_ref().or(here.map(|(steps, _)| steps)) {
            Some(before) if *before != steps => {
                let at = here.map(|(_, first)| format!(" at line {}", first.line)).unwrap_or_default();
                let message = format!(
                    "another rule for '{key}' at this level has a different 'normalize'{at}: write it in one \
                     of them, and it holds for both"
                );
                errors.push(written.span, message);
                continue;
            }
            _ => {}
        }
        known.insert(key.clone(), (steps, written.span));
        match Normalize::new(&written.value, hash_key) {
            Ok(normalize) => siblings.of_key(key).set_normalize(normalize),
            Err(wrong) => errors.append(wrong),
        }
    }
    if errors.is_empty() { Ok(unreachable_values(descriptors, siblings)) } else { Err(errors) }
}

/// Anchors in expressions, which match whole values anyway: with one at the start alone, a prefix was probably meant.
pub(super) fn needless_anchors(descriptors: &[Descriptor]) -> Diagnostics {
    let mut found = Diagnostics::default();
    for Located { value, span } in
        descriptors.iter().filter_map(|descriptor| descriptor.matching.regex.as_ref())
    {
        let is_escaped =
            value.trim_end_matches('$').bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        let (start, end) = (value.starts_with('^'), value.ends_with('$') && !is_escaped);
        // With (?m) they are about lines.
        if !(start || end) || value.contains("(?") {
            continue;
        }
        let hint = match (start, end) {
            (true, false) => "; if values may go on, write '.*' at the end",
            (false, true) => "; if something may come before, write '.*' at the start",
            _ => "",
        };
        let message = format!(
            "'^' and '$' have no effect in '{}': a regex is matched against the whole value; leave them out{hint}",
            shortened(value)
        );
        found.push(*span, message);
    }
    found
}

/// Warnings for values in rules that no normalized value can equal, and networks that contain none.
fn unreachable_values(descriptors: &[Descriptor], siblings: &Children) -> Diagnostics {
    let mut found = Diagnostics::default();
    for descriptor in descriptors {
        let Some(normalize) = siblings.normalize(&descriptor.key) else { continue };
        let alone = descriptor.value.iter().filter(|value| !value.contains('*'));
        let alone = alone.map(|value| (value, descriptor.span));
        let listed = descriptor.matching.one_of.iter().flat_map(|list| &list.value);
        for (value, span) in alone.chain(listed.map(|listed| (&listed.value, listed.span))) {
            let normalized = normalize.matched(value.as_bytes());
            if *normalized != *value.as_bytes() {
                let normalized = String::from_utf8_lossy(&normalized);
                let message = format!(
                    "'{value}' matches nothing: 'normalize' turns it into '{normalized}' before it is matched; write \
                     that"
                );
                found.push(span, message);
            }
        }
        for Located { value, span } in descriptor.matching.cidr.iter().flat_map(|list| &list.value) {
            let Ok(network) = cidr::parse(value) else { continue };
            let address = network.addr().to_string();
            let normalized = normalize.matched(address.as_bytes());
            if !cidr::matches(&network, &normalized) {
                let normalized = String::from_utf8_lossy(&normalized);
                let message = format!(
                    "'{value}' matches nothing: 'normalize' turns its addresses into '{normalized}' before they \
                     are matched; write a network that contains that"
                );
                found.push(*span, message);
            }
        }
    }
    found
}
