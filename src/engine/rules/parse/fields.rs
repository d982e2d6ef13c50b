//! Parsers of field values by type.

use super::{PLACES, Parser};
use crate::engine::rules::diagnostics::shortened;
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::source::Unreadable;
use crate::engine::rules::span::Located;
use crate::engine::rules::{EnforcePercent, Layer};
use crate::engine::schema::Object;
use crate::engine::text::nearest;

impl Parser {
    /// Calls `read` for each field of a map. Returns the fields that could not be parsed, so that later checks
    /// do not treat them as absent. Unknown fields are errors, except for `x-…`, which hold anchors. `None` if
    /// `node` is not a map, which is an error too.
    pub(super) fn fields(
        &mut self,
        node: &SourceNode,
        what: &str,
        known: &'static Object,
        mut read: impl FnMut(&mut Self, &'static str, &SourceNode),
    ) -> Option<Unreadable> {
        let SourceValue::Map(entries) = &node.value else {
            let found = node.to_string();
            let message = match &node.value {
                SourceValue::List(_) => format!("config error, {what} must be a map, not a list"),
                _ => format!(
                    "config error, yaml file contains list of type other than map: {}; {what} must be a map",
                    found.trim_matches('\'')
                ),
            };
            self.error(node.span, message);
            return None;
        };
        let mut unreadable = Unreadable::default();
        for (key, value) in entries {
            let SourceValue::Text(name) = &key.value else {
                let found = key.to_string();
                let found = found.trim_matches('\'');
                self.error(key.span, format!("config error, key is not of type string: {found}"));
                continue;
            };
            match known.field(name) {
                Some(field) => {
                    let before = self.errors.count();
                    read(self, field.name, value);
                    if self.errors.count() > before {
                        unreadable.push(field.name);
                    }
                }
                None if name.starts_with("x-") => {}
                None => {
                    self.error(key.span, unknown_field(name, known));
                    // Treat a misspelt field as present but unreadable.
                    nearest(name, &known.names()).into_iter().for_each(|meant| unreadable.push(meant));
                }
            }
        }
        Some(unreadable)
    }

    pub(super) fn text(&mut self, name: &str, node: &SourceNode) -> Option<Located<String>> {
        let span = node.span;
        if matches!(node.value, SourceValue::Null) {
            return Some(Located { value: String::new(), span });
        }
        let text = node.text();
        if text.is_none() {
            self.wrong_kind(name, "text", node);
        }
        text.map(|text| Located { value: text.into_owned(), span })
    }

    /// Text; `None` if it is empty.
    pub(super) fn name(&mut self, name: &str, node: &SourceNode) -> Option<String> {
        self.text(name, node).map(|text| text.value).filter(|text| !text.is_empty())
    }

    /// Name of a layer, which headers contain unescaped; `None` if it is empty.
    pub(super) fn layer(&mut self, name: &str, node: &SourceNode) -> Option<String> {
        let layer = self.name(name, node)?;
        let is_printable = layer.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !is_printable || layer.len() > Layer::MAX_NAME_BYTES {
            let expected = format!("printable ASCII of at most {} characters", Layer::MAX_NAME_BYTES);
            self.wrong_kind(name, &expected, node);
            return None;
        }
        Some(layer)
    }

    /// Share in percent, with at most two decimals.
    pub(super) fn percent(&mut self, name: &str, node: &SourceNode) -> Option<Located<EnforcePercent>> {
        let percent = match &node.value {
            SourceValue::Number(number) => number.as_f64().and_then(EnforcePercent::new),
            _ => None,
        };
        if percent.is_none() {
            self.wrong_number(name, "a number from 0 to 100, with two decimals at most", node);
        }
        percent.map(|value| Located { value, span: node.span })
    }

    pub(super) fn truth(&mut self, name: &str, node: &SourceNode) -> bool {
        if let SourceValue::Bool(truth) = node.value {
            return truth;
        }
        self.wrong_kind(name, "true or false", node);
        false
    }

    /// One of several names; `expected` lists them.
    pub(super) fn choice<T>(
        &mut self,
        name: &str,
        node: &SourceNode,
        expected: &str,
        from_name: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let choice = match &node.value {
            SourceValue::Text(text) => from_name(text),
            _ => None,
        };
        if choice.is_none() {
            self.wrong_kind(name, expected, node);
        }
        choice
    }

    pub(super) fn count(&mut self, name: &str, node: &SourceNode) -> Option<u32> {
        let count = match &node.value {
            SourceValue::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
            _ => None,
        };
        if count.is_none() {
            self.wrong_number(name, "a whole number from 0 to 4294967295", node);
        }
        count
    }

    /// Reports a value that should be a number. Quotation marks around one are easily overlooked.
    pub(super) fn wrong_number(&mut self, name: &str, expected: &str, node: &SourceNode) {
        match &node.value {
            SourceValue::Text(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
                let message = format!(
                    "error checking config: '{name}' must be {expected}, not text: write {name}: {text}, \
                     without quotation marks"
                );
                self.error(node.span, message);
            }
            _ => self.wrong_kind(name, expected, node),
        }
    }

    pub(super) fn list<'y>(&mut self, name: &str, node: &'y SourceNode) -> Option<&'y [SourceNode]> {
        match &node.value {
            SourceValue::List(items) => Some(items),
            SourceValue::Null => None,
            _ => {
                self.wrong_kind(name, "a list", node);
                None
            }
        }
    }

    pub(super) fn map<'y>(
        &mut self,
        name: &str,
        node: &'y SourceNode,
    ) -> Option<&'y [(SourceNode, SourceNode)]> {
        match &node.value {
            SourceValue::Map(entries) => Some(entries),
            SourceValue::Null => None,
            _ => {
                self.wrong_kind(name, "a map", node);
                None
            }
        }
    }

    pub(super) fn wrong_kind(&mut self, name: &str, expected: &str, node: &SourceNode) {
        let message = format!("error checking config: '{name}' must be {expected}, not {node}");
        self.error(node.span, message);
    }
}

fn unknown_field(name: &str, known: &'static Object) -> String {
    let known_here = || known.names().join(", ");
    if let Some((place, _)) = PLACES.iter().find(|(_, object)| object.field(name).is_some()) {
        return format!("config error, '{name}' does not belong here: write it {place}");
    }
    let meant = nearest(name, &known.names());
    let name = shortened(name);
    match meant {
        Some(meant) => format!("config error, unknown key '{name}': did you mean '{meant}'?"),
        None => format!("config error, unknown key '{name}': known here are {}", known_here()),
    }
}
