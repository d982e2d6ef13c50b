//! YAML to document trees. Parsing continues after most problems, so that all are reported at once;
//! deserializing into types would stop at the first one.

use std::borrow::Cow;
use std::fmt;

use hashbrown::HashMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_yaml::Spanned;
use serde_yaml::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};

use super::diagnostics::shortened;
use super::document::{Documents, RuleSource, SourceNode, SourceValue};
use super::span::SourceSpan;

/// Maps up to this size are searched, larger ones are hashed.
const SMALL_MAP: usize = 8;

/// YAML file of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path as the operator knows it.
    pub name: String,
    /// YAML, one document or several.
    pub text: String,
}

impl RuleSource for SourceFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn documents(&self) -> Documents {
        documents(&self.text)
    }

    fn text(&self) -> Option<&str> {
        Some(&self.text)
    }
}

/// Value as the YAML parser delivers it.
type Parsed = Spanned<Raw>;

#[derive(Debug)]
enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    /// Infinite or not a number, which JSON cannot hold: `1e400` is text in every field of a rule.
    NonFinite,
    Text(String),
    List(Vec<Parsed>),
    /// Entries including duplicate keys and `<<`.
    Map(Vec<(Parsed, Parsed)>),
}

fn documents(text: &str) -> Documents {
    let options = serde_yaml::options! {
        // A flat file spends eleven nodes on a rule; 100,000 rules are a large file, not an attack.
        budget: serde_yaml::budget! {
            max_nodes: 10_000_000,
            max_events: 20_000_000,
            max_total_scalar_bytes: 256 * 1024 * 1024,
            // Sixteen levels of rules are forty levels of YAML; the rest is for metadata.
            max_depth: 64,
        },
        // Both are done here, where both positions of a duplicate and the order around `<<` are known.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    let mut composer = Composer { text, documents: Documents::default() };
    match serde_yaml::from_multiple_with_options::<Parsed>(text, options) {
        Ok(parsed) => {
            for document in parsed {
                let node = composer.node(document);
                if !matches!(node.value, SourceValue::Null) {
                    composer.documents.nodes.push(node);
                }
            }
        }
        Err(error) => {
            let span = error.location().map(|at| span_of(&at)).unwrap_or_default();
            let message = format!("error loading config file: {}", first_line(&error));
            composer.documents.errors.push(span, message);
        }
    }
    composer.documents
}

/// Message without the position, which is reported separately.
fn first_line(error: &serde_yaml::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let message =
        line.split_once(": ").filter(|(prefix, _)| prefix.contains("line ")).map_or(line, |(_, m)| m);
    message.trim_start_matches("error: ").to_owned()
}

fn span_of(at: &serde_yaml::Location) -> SourceSpan {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    SourceSpan { line: number(at.line()), column: number(at.column()) }
}

struct Composer<'t> {
    text: &'t str,
    documents: Documents,
}

impl<'t> Composer<'t> {
    fn node(&mut self, parsed: Parsed) -> SourceNode {
        let span = span_of(&parsed.referenced);
        let scalar = |value| match self.literal(&parsed.defined) {
            Some(literal) => SourceNode::with_literal(value, span, literal),
            None => SourceNode::new(value, span),
        };
        match parsed.value {
            Raw::Null => SourceNode::new(SourceValue::Null, span),
            Raw::Bool(truth) => scalar(SourceValue::Bool(truth)),
            Raw::Number(number) => scalar(SourceValue::Number(number)),
            Raw::NonFinite => {
                let literal = self.literal(&parsed.defined).unwrap_or_default().to_owned();
                SourceNode::new(SourceValue::Text(literal), span)
            }
            Raw::Text(text) => SourceNode::new(SourceValue::Text(text), span),
            Raw::List(items) => {
                let items = items.into_iter().map(|item| self.node(item)).collect();
                SourceNode::new(SourceValue::List(items), span)
            }
            Raw::Map(entries) => SourceNode::new(SourceValue::Map(self.map(entries)), span),
        }
    }

    /// Spelling of a scalar in the source.
    fn literal(&self, at: &serde_yaml::Location) -> Option<&'t str> {
        let span = at.span();
        let index = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
        let (start, len) = index(span.byte_offset()).zip(index(span.byte_len()))?;
        let written = self.text.get(start..start.checked_add(len)?)?.trim_end();
        (!written.is_empty()).then_some(written)
    }

    fn map(&mut self, entries: Vec<(Parsed, Parsed)>) -> Vec<(SourceNode, SourceNode)> {
        let mut map = UniqueMap { entries: Vec::with_capacity(entries.len()), by_key: None };
        let mut merges = Vec::new();
        for (key, value) in entries {
            let (key, value) = (self.node(key), self.node(value));
            if matches!(&key.value, SourceValue::Text(text) if text == "<<") {
                merges.push((map.entries.len(), key.span, value));
                continue;
            }
            if let Some(first) = map.position(&key) {
                let at = map.entries[first].0.span;
                let name = key.text().unwrap_or_default();
                let message = format!(
                    "duplicate key '{}': the first one is at line {}, column {}; write it once",
                    shortened(&name),
                    at.line,
                    at.column
                );
                self.documents.errors.push(key.span, message);
            } else {
                map.push(key, value);
            }
        }
        for (before, span, value) in merges {
            self.merge(&mut map, before, span, value);
        }
        map.entries
    }

    /// Adds the entries of `<<: value` that the map does not have. `before` entries stand above the `<<`.
    fn merge(&mut self, map: &mut UniqueMap, before: usize, span: SourceSpan, value: SourceNode) {
        let merged = match value.value {
            SourceValue::Map(entries) => entries,
            SourceValue::List(items)
                if items.iter().all(|item| matches!(item.value, SourceValue::Map(_))) =>
            {
                let maps = items.into_iter().filter_map(|item| match item.value {
                    SourceValue::Map(entries) => Some(entries),
                    _ => None,
                });
                maps.flatten().collect()
            }
            _ => {
                let message = "'<<' takes a map, or a list of maps: write '<<: *anchor'";
                return self.documents.errors.push(span, message);
            }
        };
        let mut overridden = None;
        for (key, value) in merged {
            match map.position(&key) {
                Some(position) if position < before => overridden = overridden.or(Some(key)),
                Some(_) => {}
                None => map.push(key, value),
            }
        }
        if let Some(key) = overridden {
            let message = format!(
                "'{}' above '<<' takes precedence here, as YAML defines it; envoyproxy/ratelimit takes the \
                 anchor's value: write '<<' first",
                shortened(&key.text().unwrap_or_default())
            );
            self.documents.warnings.push(span, message);
        }
    }
}

/// Map under construction. Keys that are not scalars are not compared.
struct UniqueMap {
    entries: Vec<(SourceNode, SourceNode)>,
    by_key: Option<HashMap<Box<str>, usize>>,
}

impl UniqueMap {
    fn position(&self, key: &SourceNode) -> Option<usize> {
        let text = key.text()?;
        match &self.by_key {
            Some(by_key) => by_key.get(&*text).copied(),
            None => {
                self.entries.iter().position(|(known, _)| known.text().is_some_and(|known| known == text))
            }
        }
    }

    fn push(&mut self, key: SourceNode, value: SourceNode) {
        if let (Some(by_key), Some(text)) = (&mut self.by_key, key.text()) {
            by_key.insert(text.into(), self.entries.len());
        }
        self.entries.push((key, value));
        if self.by_key.is_none() && self.entries.len() > SMALL_MAP {
            let keys = self.entries.iter().enumerate();
            let by_key =
                keys.filter_map(|(index, (key, _))| Some((Cow::into_owned(key.text()?).into(), index)));
            self.by_key = Some(by_key.collect());
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The parser recurses for each level, and takes up to 40 KiB of stack for it.
        stacker::maybe_grow(256 * 1024, 1024 * 1024, || deserializer.deserialize_any(RawVisitor))
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Raw, E> {
        Ok(Number::from_f64(number).map_or(Raw::NonFinite, Raw::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}
