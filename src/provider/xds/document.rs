//! `RateLimitConfig` to document trees, which the compiler of rules reads as it reads YAML.

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::Number;

use super::merge::merge;
use crate::engine::rules::{Documents, NodePaths, SourceNode, SourceSpan, SourceValue};
use crate::pb::ratelimit::config::ratelimit::v3::{
    RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
};

/// Fields that positions name.
const FIELDS: &[&str] = &[
    "name",
    "domain",
    "key",
    "value",
    "rate_limit",
    "rate_limit.unit",
    "rate_limit.replaces",
    "descriptors",
    "metadata",
];
/// Characters of a key that a position shows.
const KEY_CHARS_MAX: usize = 100;

/// The document of `config`, with the path of each descriptor.
pub(super) fn document(config: RateLimitConfig) -> Documents {
    let mut writer = Writer { paths: NodePaths::new(FIELDS), documents: Documents::default() };
    let whole = SourceSpan::default();
    let RateLimitConfig { name: _, domain, descriptors } = config;
    let descriptors = writer.descriptors(descriptors, whole);
    let fields = vec![
        field("domain", text(domain, writer.paths.field(whole, "domain"))),
        field("descriptors", descriptors),
    ];
    let Writer { paths, mut documents } = writer;
    documents.nodes.push(SourceNode::new(SourceValue::Map(fields), whole));
    documents.paths = Some(paths);
    documents
}

struct Writer {
    paths: NodePaths,
    documents: Documents,
}

type Field = (SourceNode, SourceNode);

impl Writer {
    fn descriptors(&mut self, descriptors: Vec<RateLimitDescriptor>, parent: SourceSpan) -> SourceNode {
        let merged = merge(descriptors);
        let items = merged.into_iter().map(|(index, descriptor)| self.descriptor(descriptor, index, parent));
        let items = items.collect();
        SourceNode::new(SourceValue::List(items), self.paths.field(parent, "descriptors"))
    }

    fn descriptor(&mut self, from: RateLimitDescriptor, index: usize, parent: SourceSpan) -> SourceNode {
        let key: String = from.key.chars().take(KEY_CHARS_MAX).collect();
        let span = self.paths.add(parent, format!("descriptors[{index} {key:?}]"));
        let RateLimitDescriptor { key, value, rate_limit, descriptors, .. } = from;
        let mut fields = vec![field("key", text(key, self.paths.field(span, "key")))];
        if !value.is_empty() {
            fields.push(field("value", text(value, self.paths.field(span, "value"))));
        }
        fields.extend(rate_limit.map(|policy| field("rate_limit", self.policy(policy, span))));
        for (name, is_set) in [
            ("shadow_mode", from.shadow_mode),
            ("detailed_metric", from.detailed_metric),
            ("quota_mode", from.quota_mode),
        ] {
            if is_set {
                fields.push(field(name, SourceNode::new(SourceValue::Bool(true), span)));
            }
        }
        if let Some(metadata) = from.metadata {
            let at = self.paths.field(span, "metadata");
            fields.push(field("metadata", self.structure(metadata, at)));
        }
        if !descriptors.is_empty() {
            fields.push(field("descriptors", self.descriptors(descriptors, span)));
        }
        SourceNode::new(SourceValue::Map(fields), span)
    }

    fn policy(&self, policy: RateLimitPolicy, descriptor: SourceSpan) -> SourceNode {
        let span = self.paths.field(descriptor, "rate_limit");
        let RateLimitPolicy { unit, requests_per_unit, unlimited, name, replaces } = policy;
        let mut fields = Vec::with_capacity(4);
        let is_unknown = unit == i32::from(RateLimitUnit::Unknown);
        if !(unlimited && is_unknown) {
            // A number without a name is reported as an unknown unit.
            let unit = RateLimitUnit::try_from(unit)
                .map_or_else(|_| unit.to_string(), |unit| unit.as_str_name().to_owned());
            fields.push(field("unit", text(unit, self.paths.field(descriptor, "rate_limit.unit"))));
        }
        if unlimited {
            fields.push(field("unlimited", SourceNode::new(SourceValue::Bool(true), span)));
        }
        let requests = SourceValue::Number(requests_per_unit.into());
        fields.push(field("requests_per_unit", SourceNode::new(requests, span)));
        if !name.is_empty() {
            fields.push(field("name", text(name, span)));
        }
        if !replaces.is_empty() {
            let at = self.paths.field(descriptor, "rate_limit.replaces");
            let names =
                replaces.into_iter().map(|replaced| map(vec![field("name", text(replaced.name, at))], at));
            fields.push(field("replaces", SourceNode::new(SourceValue::List(names.collect()), at)));
        }
        map(fields, span)
    }

    /// Nesting is bounded by the decoder.
    fn structure(&mut self, from: Struct, span: SourceSpan) -> SourceNode {
        let entries =
            from.fields.into_iter().map(|(name, value)| (text(name, span), self.value(value, span)));
        map(entries.collect(), span)
    }

    fn value(&mut self, from: Value, span: SourceSpan) -> SourceNode {
        let value = match from.kind {
            None | Some(Kind::NullValue(_)) => SourceValue::Null,
            Some(Kind::BoolValue(truth)) => SourceValue::Bool(truth),
            Some(Kind::StringValue(text)) => SourceValue::Text(text),
            Some(Kind::StructValue(inner)) => return self.structure(inner, span),
            Some(Kind::ListValue(list)) => {
                SourceValue::List(list.values.into_iter().map(|value| self.value(value, span)).collect())
            }
            Some(Kind::NumberValue(number)) => match Number::from_f64(number) {
                Some(number) => SourceValue::Number(number),
                None => {
                    self.documents.errors.push(span, format!("{number} is not a JSON number"));
                    SourceValue::Null
                }
            },
        };
        SourceNode::new(value, span)
    }
}

fn field(name: &str, value: SourceNode) -> Field {
    (text(name.to_owned(), value.span), value)
}

const fn text(text: String, span: SourceSpan) -> SourceNode {
    SourceNode::new(SourceValue::Text(text), span)
}

const fn map(fields: Vec<Field>, span: SourceSpan) -> SourceNode {
    SourceNode::new(SourceValue::Map(fields), span)
}
