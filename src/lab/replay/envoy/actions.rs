//! Actions of `rate_limits`. Each becomes an entry of a descriptor.

use serde_json::Value;

use super::{Context, field, flag, list, matcher, text};
use crate::lab::replay::mapping::{Condition, DescriptorMap, EntryMap, Expression, Filter};

/// The descriptor of an item of `rate_limits`; `None`, with a note, if a log cannot show its values.
pub(super) fn descriptor(limit: &Value, context: &mut Context) -> Option<DescriptorMap> {
    let entries = list(limit, "actions").iter().map(|action| entry(action, context));
    let entries: Vec<_> = entries.collect::<Option<_>>()?;
    if field(limit, "limit").is_some() {
        context.notes.push("a log does not show limits in requests: those of the rules apply".to_owned());
    }
    Some(DescriptorMap { condition: Condition::default(), entries, hits: hits(limit, context) })
}

/// Hits of an item of `rate_limits`; `None` if it does not set them: one hit.
fn hits(limit: &Value, context: &mut Context) -> Option<Expression> {
    let addend = field(limit, "hits_addend")?;
    match field(addend, "format").and_then(Value::as_str) {
        Some(format) => Some(context.template(format, "hits_addend")),
        None => {
            matcher::integer(field(addend, "number")).map(|number| Expression::literal(&number.to_string()))
        }
    }
}

fn entry(action: &Value, context: &mut Context) -> Option<EntryMap> {
    let entry = |key: &str, value: Expression| EntryMap {
        key: key.as_bytes().into(),
        value,
        condition: Condition::default(),
        is_optional: false,
    };
    let key = |config: &Value, default: &'static str| match text(config, "descriptor_key") {
        "" => default.to_owned(),
        key => key.to_owned(),
    };
    let address = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT";
    if let Some(config) = field(action, "request_headers") {
        let value = context.operator(&format!("REQ({})", text(config, "header_name")), "request_headers");
        let is_optional = flag(config, "skip_if_absent", false);
        return Some(EntryMap { is_optional, ..entry(text(config, "descriptor_key"), value) });
    }
    if let Some(config) = field(action, "generic_key") {
        let value = context.template(text(config, "descriptor_value"), "generic_key");
        return Some(entry(&key(config, "generic_key"), value.or(default(config))));
    }
    if field(action, "remote_address").is_some() {
        return Some(entry("remote_address", context.operator(address, "remote_address")));
    }
    if let Some(config) = field(action, "masked_remote_address") {
        let bits = |name: &str, most: u8| {
            let bits = matcher::integer(field(config, name)).and_then(|bits| u8::try_from(bits).ok());
            bits.unwrap_or(most).min(most)
        };
        let network = Filter::Network(bits("v4_prefix_mask_len", 32), bits("v6_prefix_mask_len", 128));
        let value = context.operator(address, "masked_remote_address").with(network);
        return Some(entry("masked_remote_address", value));
    }
    if field(action, "destination_cluster").is_some() {
        return Some(entry(
            "destination_cluster",
            context.operator("UPSTREAM_CLUSTER", "destination_cluster"),
        ));
    }
    if let Some(config) = field(action, "query_parameters") {
        let value =
            matcher::query_parameter(text(config, "query_parameter_name"), "query_parameters", context);
        let is_optional = flag(config, "skip_if_absent", false);
        return Some(EntryMap { is_optional, ..entry(text(config, "descriptor_key"), value) });
    }
    if let Some(config) = field(action, "header_value_match") {
        let found = matcher::headers(list(config, "headers"), "header_value_match", context);
        let value = context.template(text(config, "descriptor_value"), "header_value_match");
        return Some(EntryMap {
            condition: expected(config, found),
            ..entry(&key(config, "header_match"), value)
        });
    }
    if let Some(config) = field(action, "query_parameter_value_match") {
        let what = "query_parameter_value_match";
        let found = matcher::query_parameters(list(config, "query_parameters"), what, context);
        let value = context.template(text(config, "descriptor_value"), what);
        return Some(EntryMap {
            condition: expected(config, found),
            ..entry(&key(config, "query_match"), value)
        });
    }
    if let Some(config) = field(action, "metadata").or_else(|| field(action, "dynamic_metadata")) {
        return metadata(config, context).map(|(value, is_optional)| EntryMap {
            is_optional,
            ..entry(text(config, "descriptor_key"), value)
        });
    }
    let name = action.as_object().and_then(|fields| fields.keys().next()).map_or("", String::as_str);
    context.notes.push(format!("a log does not show the action {name}: its descriptors are left out"));
    None
}

fn default(config: &Value) -> Option<&str> {
    Some(text(config, "default_value")).filter(|text| !text.is_empty())
}

fn expected(config: &Value, found: Condition) -> Condition {
    if flag(config, "expect_match", true) { found } else { Condition::Not(Box::new(found)) }
}

/// The value of a `metadata` action, and true if its entry is left out when the value is absent.
fn metadata(config: &Value, context: &mut Context) -> Option<(Expression, bool)> {
    if text(config, "source") == "ROUTE_ENTRY" {
        context
            .notes
            .push("a log does not show the metadata of routes: its descriptors are left out".to_owned());
        return None;
    }
    let key = field(config, "metadata_key")?;
    let path = list(key, "path").iter().map(|part| text(part, "key"));
    let name: Vec<_> = [text(key, "key")].into_iter().chain(path).collect();
    let value = context.operator(&format!("DYNAMIC_METADATA({})", name.join(":")), "metadata");
    Some((value.or(default(config)), flag(config, "skip_if_absent", false)))
}
