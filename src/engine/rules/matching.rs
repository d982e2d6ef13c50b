//! From what a level takes as written to a pattern, and from what is done to values to their steps.

use std::collections::{HashMap, HashSet};

use super::cidr;
use super::error::SourceSpan;
use super::glob::Glob;
use super::normalize::{HashKey, Normalize, NormalizeStep};
use super::pattern::{Cidr, Expression, OneOf};
use super::quota::Mistake;
use super::siblings::Clash;
use super::source::{Descriptor, Located};
use super::tree::{Children, Pattern};

/// Which values `descriptor` takes.
///
/// # Errors
/// Every mistake in it.
pub(super) fn pattern(descriptor: &Descriptor) -> Result<Pattern, Vec<Mistake>> {
    let mut mistakes = check_alone(descriptor);
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
        let values = one_of(written, &mut mistakes);
        patterns.push(Pattern::OneOf(Box::new(OneOf::new(values))));
    }
    if let Some(written) = &matching.cidr {
        let networks = networks(written, &mut mistakes);
        patterns.push(Pattern::Cidr(Box::new(Cidr::new(networks))));
    }
    if let Some(Located { value, span }) = &matching.regex {
        match Expression::new(value) {
            Ok(expression) => patterns.push(Pattern::Regex(Box::new(expression))),
            Err(reason) => mistakes.push((*span, format!("regex '{}' {reason}", shortened(value)))),
        }
    }
    if mistakes.is_empty() { Ok(patterns.pop().unwrap_or(Pattern::Any)) } else { Err(mistakes) }
}

/// The start of a text that may be long.
fn shortened(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

/// A level says in one way which values it takes.
fn check_alone(descriptor: &Descriptor) -> Vec<Mistake> {
    let matching = &descriptor.matching;
    let ways = [
        ("value", descriptor.value.as_ref().map(|_| descriptor.span)),
        ("one_of", matching.one_of.as_ref().map(|written| written.span)),
        ("cidr", matching.cidr.as_ref().map(|written| written.span)),
        ("regex", matching.regex.as_ref().map(|written| written.span)),
    ];
    let written: Vec<(&str, SourceSpan)> =
        ways.into_iter().filter_map(|(name, span)| Some((name, span?))).collect();
    let mut mistakes = Vec::new();
    if let Some(((first, _), others)) = written.split_first() {
        for (other, span) in others {
            let message =
                format!("'{first}' and '{other}' both say which values the rule takes: write one of them");
            mistakes.push((*span, message));
        }
    }
    if descriptor.key.contains('*') {
        let normalize = matching.normalize.as_ref().map(|written| ("normalize", written.span));
        for (name, span) in written.into_iter().filter(|(name, _)| *name != "value").chain(normalize) {
            let message =
                format!("'{name}' is for one key, and '{}' has a '*': write the key in full", descriptor.key);
            mistakes.push((span, message));
        }
    }
    mistakes
}

fn one_of(written: &Located<Vec<Located<String>>>, mistakes: &mut Vec<Mistake>) -> Vec<Box<str>> {
    if written.value.is_empty() {
        mistakes.push((written.span, "'one_of' is empty: write at least one value".to_owned()));
    }
    let mut seen = HashSet::new();
    for Located { value, span } in &written.value {
        if value.contains('*') {
            let message =
                format!("'one_of' takes exact values: for the pattern '{value}' write a rule with 'value'");
            mistakes.push((*span, message));
        } else if !seen.insert(value) {
            mistakes.push((*span, format!("'{value}' stands here twice: write it once")));
        }
    }
    written.value.iter().map(|value| value.value.as_str().into()).collect()
}

fn networks(written: &Located<Vec<Located<String>>>, mistakes: &mut Vec<Mistake>) -> Vec<ipnet::IpNet> {
    if written.value.is_empty() {
        mistakes.push((written.span, "'cidr' is empty: write at least one network".to_owned()));
    }
    let mut networks = HashSet::with_capacity(written.value.len());
    for Located { value, span } in &written.value {
        match cidr::parse(value) {
            Ok(network) if !networks.insert(network) => {
                mistakes.push((*span, format!("'{network}' stands here twice: write it once")));
            }
            Ok(_) => {}
            Err(message) => mistakes.push((*span, message)),
        }
    }
    networks.into_iter().collect()
}

/// What to say of a clash with other rules of the same key; `None` where it is the whole rule that
/// clashes.
pub(super) fn tell(clash: Clash, descriptor: &Descriptor) -> Option<Vec<Mistake>> {
    let Clash::Items(items) = clash else { return None };
    let Descriptor { key, matching, span, .. } = descriptor;
    let place_of = |list: &Option<Located<Vec<Located<String>>>>, is: &dyn Fn(&str) -> bool| {
        let mut items = list.iter().flat_map(|list| &list.value);
        items.find(|item| is(&item.value)).map(|item| item.span)
    };
    let tell = |item: String| {
        let listed = place_of(&matching.one_of, &|written| written == item);
        let network =
            || place_of(&matching.cidr, &|written| cidr::parse(written).is_ok_and(|n| n.to_string() == item));
        let (field, found) = match listed {
            Some(span) => ("one_of", Some(span)),
            None => ("cidr", network()),
        };
        let message = format!("'{item}' stands in another '{field}' for '{key}': write it in one of them");
        (found.unwrap_or(*span), message)
    };
    Some(items.into_iter().map(tell).collect())
}

/// Says to `siblings` what is done to the values of each key, for all `descriptors` among them.
///
/// # Errors
/// What is wrong with it. Warnings come back where there are no errors: values that no request can have.
pub(super) fn normalize(
    descriptors: &[Descriptor],
    siblings: &mut Children,
    hash_key: Option<&HashKey>,
) -> Result<Vec<Mistake>, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut known: HashMap<String, Vec<NormalizeStep>> = HashMap::new();
    for descriptor in descriptors.iter().filter(|descriptor| !descriptor.key.contains('*')) {
        let Some(written) = &descriptor.matching.normalize else { continue };
        let key = &descriptor.key;
        let steps: Vec<_> = written.value.iter().map(|step| step.value).collect();
        if !descriptor.enabled {
            // Checked like everything else, and left out.
            mistakes.extend(Normalize::new(&written.value, hash_key).err().unwrap_or_default());
            continue;
        }
        let before = siblings.normalize(key).map(|normalize| normalize.steps.to_vec());
        match before.as_ref().or(known.get(key)) {
            Some(before) if *before != steps => {
                let message = format!(
                    "another rule for '{key}' at this level has a different 'normalize': write it in one of \
                     them, and it holds for both"
                );
                mistakes.push((written.span, message));
                continue;
            }
            _ => {}
        }
        known.insert(key.clone(), steps);
        match Normalize::new(&written.value, hash_key) {
            Ok(normalize) => siblings.of_key(key).set_normalize(normalize),
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    if mistakes.is_empty() { Ok(unreachable_values(descriptors, siblings)) } else { Err(mistakes) }
}

/// Values in rules that no value is after it was normalized, and networks that none lies in.
fn unreachable_values(descriptors: &[Descriptor], siblings: &Children) -> Vec<Mistake> {
    let mut found = Vec::new();
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
                    "'{value}' takes nothing: 'normalize' makes it '{normalized}' before it is matched; write \
                     that"
                );
                found.push((span, message));
            }
        }
        for Located { value, span } in descriptor.matching.cidr.iter().flat_map(|list| &list.value) {
            let Ok(network) = cidr::parse(value) else { continue };
            let address = network.addr().to_string();
            let normalized = normalize.matched(address.as_bytes());
            if !cidr::takes(&network, &normalized) {
                let normalized = String::from_utf8_lossy(&normalized);
                let message = format!(
                    "'{value}' takes nothing: 'normalize' makes '{normalized}' of its addresses before they \
                     are matched; write a network that holds that"
                );
                found.push((*span, message));
            }
        }
    }
    found
}
