//! YAML as a tree that knows where each value stands, so that every mistake in a file can be told
//! at once: deserializing into types would stop at the first one.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_yaml::Spanned;

use super::error::SourceSpan;

/// A value and where it stands.
pub(super) type Yaml = Spanned<Raw>;

/// A value.
#[derive(Debug)]
pub(super) enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    /// A number that JSON has no name for: infinite, or not a number.
    Unbounded,
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(Yaml, Yaml)>),
}

/// The documents of `text`, empty ones left out.
pub(super) fn parse(text: &str) -> Result<Vec<Yaml>, Box<serde_yaml::Error>> {
    let options = serde_yaml::options! {
        // A flat file spends eleven nodes on a rule; 100,000 rules are a large file, not an attack.
        budget: serde_yaml::budget! {
            max_nodes: 10_000_000,
            max_events: 20_000_000,
            max_total_scalar_bytes: 256 * 1024 * 1024,
            // Sixteen levels of rules are forty levels of YAML; the rest is for metadata.
            max_depth: 64,
        },
        with_snippet: false,
    };
    serde_yaml::from_multiple_with_options(text, options).map_err(Box::new)
}

/// Where `yaml` stands: where it is used, if that is not where it is defined.
pub(super) fn span(yaml: &Yaml) -> SourceSpan {
    location(&yaml.referenced)
}

/// Where something stands.
pub(super) fn location(at: &serde_yaml::Location) -> SourceSpan {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    SourceSpan { line: number(at.line()), column: number(at.column()) }
}

/// The text of a scalar, as it is written where it is a number or a truth: `007` stays `007`. `None`
/// for lists, maps and nothing at all.
pub(super) fn text<'a>(source: &'a str, yaml: &'a Yaml) -> Option<Cow<'a, str>> {
    match &yaml.value {
        Raw::Text(text) => Some(Cow::Borrowed(text)),
        Raw::Bool(_) | Raw::Number(_) | Raw::Unbounded => Some(literal(source, yaml)),
        Raw::Null | Raw::List(_) | Raw::Map(_) => None,
    }
}

/// What to call a value in an error.
pub(super) fn describe(source: &str, yaml: &Yaml) -> String {
    match &yaml.value {
        Raw::Null => "nothing".to_owned(),
        Raw::List(_) => "a list".to_owned(),
        Raw::Map(_) => "a map".to_owned(),
        Raw::Bool(_) | Raw::Number(_) | Raw::Unbounded | Raw::Text(_) => {
            format!("'{}'", text(source, yaml).unwrap_or_default())
        }
    }
}

fn literal<'a>(source: &'a str, yaml: &'a Yaml) -> Cow<'a, str> {
    let span = yaml.defined.span();
    let index = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    let range = index(span.byte_offset()).zip(index(span.byte_len()));
    let written = range.and_then(|(start, len)| source.get(start..start.checked_add(len)?));
    match (written, &yaml.value) {
        (Some(written), _) if !written.is_empty() => Cow::Borrowed(written.trim_end()),
        (_, Raw::Bool(truth)) => Cow::Owned(truth.to_string()),
        (_, Raw::Number(number)) => Cow::Owned(number.to_string()),
        _ => Cow::Borrowed(""),
    }
}

/// The value as JSON.
pub(super) fn json(source: &str, yaml: &Yaml) -> Value {
    match &yaml.value {
        Raw::Null => Value::Null,
        Raw::Bool(truth) => Value::Bool(*truth),
        Raw::Number(number) => Value::Number(number.clone()),
        Raw::Unbounded => Value::String(literal(source, yaml).into_owned()),
        Raw::Text(text) => Value::String(text.clone()),
        Raw::List(items) => items.iter().map(|item| json(source, item)).collect(),
        Raw::Map(entries) => Value::Object(json_map(source, entries)),
    }
}

/// A map as JSON; keys that are no text become text.
pub(super) fn json_map(source: &str, entries: &[(Yaml, Yaml)]) -> Map<String, Value> {
    let name = |key: &Yaml| text(source, key).map_or_else(|| describe(source, key), Cow::into_owned);
    entries.iter().map(|(key, value)| (name(key), json(source, value))).collect()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The parser calls itself for each level, and takes up to 40 KiB of stack for it.
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
        Ok(Number::from_f64(number).map_or(Raw::Unbounded, Raw::Number))
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
