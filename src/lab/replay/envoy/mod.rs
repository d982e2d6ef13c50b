//! Configurations of Envoy: the format of the access log, and the requests that `rate_limits` make.
//!
//! Reads static configurations and dumps of the admin endpoint `/config_dump`: connection managers and routes are found
//! wherever they are.

mod access_log;
mod actions;
mod matcher;
mod routes;

use std::collections::HashSet;

use serde_json::Value;

pub(super) use self::access_log::json_fields;

use self::routes::RateLimitFilter;
use super::format::Format;
use super::mapping::{Expression, Mapping};

/// Deepest part of a configuration that is searched.
const MAX_DEPTH: usize = 64;

/// Log of an Envoy, and the requests that it makes.
pub(super) struct EnvoyLog {
    pub(super) format: Format,
    pub(super) mapping: Mapping,
    /// Requests that the log does not show.
    pub(super) notes: Vec<String>,
}

/// State of a compilation.
struct Context {
    format: Format,
    /// Operators that are needed and not logged, and what for.
    missing: Vec<(String, String)>,
    notes: Vec<String>,
}

/// Reads a configuration. `format` replaces that of its access log.
pub(super) fn read(text: &str, format: Option<Format>) -> Result<EnvoyLog, String> {
    let config: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let mut managers = Vec::new();
    find_all(&config, "HttpConnectionManager", 0, &mut managers);
    let mut limited = managers.into_iter().filter_map(|manager| {
        let filters = RateLimitFilter::all(manager);
        (!filters.is_empty()).then_some((manager, filters))
    });
    let (manager, filters) = limited
        .next()
        .ok_or("it has no HTTP connection manager with the filter envoy.filters.http.ratelimit")?;
    let mut notes = Vec::new();
    let others = limited.count();
    if others > 0 {
        notes.push(format!("{others} more connection managers limit rates: the first one is replayed"));
    }
    let format = match format {
        Some(format) => format,
        None => access_log::format(manager, &mut notes)?,
    };
    let routes = routes::of(manager, &config)?;
    let mut context = Context { format, missing: Vec::new(), notes };
    let lists = filters.iter().map(|filter| routes::requests(filter, routes, &mut context)).collect();
    let Context { format, mut missing, mut notes } = context;
    missing.sort();
    missing.dedup();
    notes.extend(
        missing.into_iter().map(|(name, what)| format!("the log has no %{name}%, which {what} needs")),
    );
    let mut seen = HashSet::new();
    notes.retain(|note| seen.insert(note.clone()));
    Ok(EnvoyLog { format, mapping: Mapping { lists, is_exclusive: true }, notes })
}

/// Every message of a type, by the end of its name.
fn find_all<'v>(value: &'v Value, name: &str, depth: usize, found: &mut Vec<&'v Value>) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(fields) => {
            let is_it = is_type(value, name);
            if is_it {
                found.push(value);
            }
            fields.values().for_each(|value| find_all(value, name, depth + 1, found));
        }
        Value::Array(items) => items.iter().for_each(|value| find_all(value, name, depth + 1, found)),
        _ => {}
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    let found = value.get("@type").and_then(Value::as_str);
    found.is_some_and(|found| found.rsplit('.').next() == Some(name))
}

/// A field, in the spelling of protobuf or of JSON.
fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).or_else(|| {
        let mut camel = String::new();
        let mut is_upper = false;
        for c in name.chars() {
            if c == '_' {
                is_upper = true;
            } else {
                camel.push(if std::mem::take(&mut is_upper) { c.to_ascii_uppercase() } else { c });
            }
        }
        value.get(camel)
    })
}

/// A text field; empty if it is absent.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    field(value, name).and_then(Value::as_str).unwrap_or_default()
}

/// A flag; `default` if it is absent.
fn flag(value: &Value, name: &str, default: bool) -> bool {
    field(value, name).and_then(Value::as_bool).unwrap_or(default)
}

/// The items of a list; none if it is absent.
fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    field(value, name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl Context {
    /// The value of an operator. If it is not logged, it is absent in every line, and noted.
    fn operator(&mut self, name: &str, what: &str) -> Expression {
        let mut missing = Vec::new();
        let expression = Expression::parse(&format!("%{name}%"), &mut self.format, &mut missing);
        self.missing.extend(missing.into_iter().map(|name| (name, what.to_owned())));
        expression.unwrap_or_default()
    }

    /// A text that may contain operators.
    fn template(&mut self, text: &str, what: &str) -> Expression {
        if !text.contains('%') {
            return Expression::literal(text);
        }
        let mut missing = Vec::new();
        let parsed = Expression::parse(text, &mut self.format, &mut missing);
        self.missing.extend(missing.into_iter().map(|name| (name, what.to_owned())));
        parsed.unwrap_or_else(|_| Expression::literal(text))
    }
}
