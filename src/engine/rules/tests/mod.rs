//! Meaning of rules, with compatibility to envoyproxy/ratelimit.

mod bounds;
mod concurrency;
mod documents;
mod example;
mod hashed;
mod leases;
mod limits;
mod loading;
mod lookup;
mod matcher;
mod on_deny;
mod patterns;
mod prices;
mod reserve;
mod stats;
mod timezone;

use super::{CompileOptions, RuleErrors, Rules, SourceFile, compile};
use crate::engine::Entry;

pub(super) fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.into(), text: text.into() }
}

pub(super) fn try_load(text: &str) -> Result<Rules, RuleErrors> {
    compile(&[file("rules.yaml", text)], CompileOptions::default(), None)
}

pub(super) fn load(text: &str) -> Rules {
    try_load(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// `k=v,k2=v2`; a key without `=` has an empty value.
pub(super) fn entries(text: &str) -> Vec<Entry<'_>> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() }).collect()
}
