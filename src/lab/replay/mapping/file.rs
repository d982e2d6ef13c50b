//! Map files: the format of a log, and the requests of its lines.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Condition, DescriptorMap, EntryMap, Expression, Filter, Mapping, Matcher, RequestMap};
use crate::engine::rules::Glob;
use crate::lab::replay::format::Format;

/// A map file as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::lab::replay) struct MapFile {
    /// Name of a format, a format string, or a `json_format`.
    pub(in crate::lab::replay) format: Option<FormatSpec>,
    /// Names of the columns of CSV without a header line.
    pub(in crate::lab::replay) columns: Option<Vec<String>>,
    /// The field that has the time.
    pub(in crate::lab::replay) time: Option<String>,
    /// Its format.
    pub(in crate::lab::replay) time_format: Option<String>,
    /// The requests.
    #[serde(default)]
    requests: Vec<RequestSpec>,
}

/// A format as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(in crate::lab::replay) enum FormatSpec {
    Text(String),
    Json(Map<String, Value>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestSpec {
    domain: String,
    #[serde(default, rename = "where")]
    condition: Map<String, Value>,
    descriptors: Vec<Map<String, Value>>,
    hits: Option<Value>,
    denied: Option<Map<String, Value>>,
}

impl MapFile {
    /// Reads `text`.
    ///
    /// # Errors
    /// The mistake, with line and column.
    pub(in crate::lab::replay) fn parse(text: &str) -> Result<Self, String> {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    /// The mapping for lines of `format`.
    ///
    /// # Errors
    /// The mistake.
    pub(in crate::lab::replay) fn mapping(&self, format: &mut Format) -> Result<Mapping, String> {
        if self.requests.is_empty() {
            return Err(
                "it has no requests: write requests: [{domain: …, descriptors: [{key: \"%FIELD%\"}]}]".into(),
            );
        }
        let mut missing = Vec::new();
        let requests = self.requests.iter().enumerate().map(|(index, request)| {
            let request = request.compile(format, &mut missing);
            request.map_err(|error| format!("requests[{index}]: {error}"))
        });
        let requests = requests.collect::<Result<_, _>>()?;
        if let Some(name) = missing.first() {
            return Err(format!("the format of the log has no field '{name}'"));
        }
        Ok(Mapping { lists: vec![requests], is_exclusive: false })
    }
}

impl RequestSpec {
    fn compile(&self, format: &mut Format, missing: &mut Vec<String>) -> Result<RequestMap, String> {
        if self.domain.is_empty() || self.descriptors.is_empty() {
            return Err("it needs a domain and descriptors".to_owned());
        }
        let hits = self.hits.as_ref().map(|hits| {
            let text = scalar(hits).ok_or("hits must be a number or a text")?;
            Expression::parse(&text, format, missing)
        });
        let hits = hits.transpose()?;
        let descriptors = self.descriptors.iter().map(|entries| {
            let entries = entries.iter().map(|(key, value)| {
                let value = scalar(value).ok_or_else(|| format!("the value of '{key}' must be a text"))?;
                Ok(EntryMap {
                    key: key.as_bytes().into(),
                    value: Expression::parse(&value, format, missing)?,
                    condition: Condition::default(),
                    is_optional: false,
                })
            });
            let entries: Vec<_> = entries.collect::<Result<_, String>>()?;
            Ok(DescriptorMap { condition: Condition::default(), entries, hits: hits.clone() })
        });
        let descriptors = descriptors.collect::<Result<_, String>>()?;
        let condition = condition(&self.condition, format, missing)?;
        let denied = match &self.denied {
            Some(denied) => Some(any(denied, format, missing)?),
            None => default_denied(format),
        };
        Ok(RequestMap { domain: self.domain.as_bytes().into(), condition, descriptors, denied })
    }
}

/// Lines with Envoy's flag for rate limits, or if flags are not logged, with status 429.
pub(in crate::lab::replay) fn default_denied(format: &mut Format) -> Option<Condition> {
    // Any name is a field of JSON, so that nothing shows whether lines have it.
    if format.is_by_name() {
        return None;
    }
    let source = |format: &mut Format, name: &str| format.source(name).map(Expression::of_source);
    if let Some(flags) = source(format, "flags") {
        return Some(Condition::Is(flags, Matcher::ListItem(b"RL"[..].into())));
    }
    source(format, "status").map(|status| Condition::Is(status, Matcher::Exact(b"429"[..].into(), false)))
}

fn condition(
    wanted: &Map<String, Value>,
    format: &mut Format,
    missing: &mut Vec<String>,
) -> Result<Condition, String> {
    let conditions = wanted.iter().map(|(name, wanted)| match (name.as_str(), wanted) {
        ("not", Value::Object(wanted)) => Ok(Condition::Not(Box::new(any(wanted, format, missing)?))),
        ("not", _) => Err("'not' must be a map".to_owned()),
        (name, wanted) => is(name, wanted, format, missing),
    });
    Ok(Condition::All(conditions.collect::<Result<_, _>>()?))
}

/// One of the values is as wanted.
fn any(
    wanted: &Map<String, Value>,
    format: &mut Format,
    missing: &mut Vec<String>,
) -> Result<Condition, String> {
    let conditions = wanted.iter().map(|(name, wanted)| is(name, wanted, format, missing));
    Ok(Condition::Any(conditions.collect::<Result<_, _>>()?))
}

fn is(
    name: &str,
    wanted: &Value,
    format: &mut Format,
    missing: &mut Vec<String>,
) -> Result<Condition, String> {
    let written = if name.contains('%') { name.to_owned() } else { format!("%{name}%") };
    let value = Expression::parse(&written, format, missing)?;
    // The path of a rule has no query, and neither has that of a condition.
    let value = if name == "path" { value.with(Filter::Before(b"?"[..].into())) } else { value };
    let one = |wanted: &Value| {
        let text = scalar(wanted).ok_or_else(|| format!("'{name}' must be a text or a list of texts"))?;
        let matcher = match name {
            "flags" => Matcher::ListItem(text.as_bytes().into()),
            _ => Matcher::Glob(Glob::new(&text)),
        };
        Ok(Condition::Is(value.clone(), matcher))
    };
    match wanted {
        Value::Array(list) => Ok(Condition::Any(list.iter().map(one).collect::<Result<_, String>>()?)),
        wanted => one(wanted),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
