//! Format of an access log.

use serde_json::{Map, Value};

use super::{field, list, text};
use crate::lab::replay::format::Format;

/// Paths and format strings of a `json_format`.
pub(in crate::lab::replay) fn json_fields(fields: &Map<String, Value>) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    collect(fields, &mut Vec::new(), &mut found);
    found
}

fn collect(fields: &Map<String, Value>, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
    for (name, value) in fields {
        path.push(name.clone());
        match value {
            Value::String(text) => found.push((path.clone(), text.clone())),
            Value::Object(inside) if path.len() < super::MAX_DEPTH => collect(inside, path, found),
            _ => {}
        }
        path.pop();
    }
}

/// Format of the first access log of a connection manager.
pub(super) fn format(manager: &Value, notes: &mut Vec<String>) -> Result<Format, String> {
    let logs = list(manager, "access_log");
    let log = logs
        .first()
        .ok_or("its connection manager has no access_log: add one, or give the format with --format")?;
    if logs.len() > 1 {
        notes.push("there are several access logs: the format of the first one is used".to_owned());
    }
    if field(log, "filter").is_some() {
        notes.push("the access log has a filter, so that not all requests are in it".to_owned());
    }
    let config = field(log, "typed_config").ok_or("its access log has no typed_config")?;
    // Fields of older versions are beside `log_format`.
    let format = field(config, "log_format").unwrap_or(config);
    let json = field(format, "json_format").or_else(|| field(format, "typed_json_format"));
    if let Some(Value::Object(json)) = json {
        return Ok(Format::envoy_json(&json_fields(json)));
    }
    let source = field(format, "text_format_source").map(|source| text(source, "inline_string"));
    let written = source.unwrap_or_else(|| {
        ["text_format", "format"]
            .into_iter()
            .map(|name| text(format, name))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    });
    if written.is_empty() {
        if field(format, "text_format_source").is_some() {
            return Err("the format of its access log is in another file: give it with --format".to_owned());
        }
        return Format::envoy_default();
    }
    Format::envoy(written).map_err(|error| format!("its access log: {error}"))
}
