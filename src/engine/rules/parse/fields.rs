//! Reading one YAML value as what it should be, and saying what is wrong with it where it is not.

use super::{PLACES, Parser};
use crate::engine::rules::source::Located;
use crate::engine::rules::yaml::{self, Raw, Yaml};
use crate::engine::rules::{EnforcePercent, Layer};

impl Parser<'_> {
    /// The entries of a map whose names are all in `known`; the others are mistakes. `None` where it
    /// is no map, which is one too.
    pub(super) fn fields<'y>(
        &mut self,
        yaml: &'y Yaml,
        what: &str,
        known: &[&'static str],
    ) -> Option<Vec<(&'static str, &'y Yaml)>> {
        let Raw::Map(entries) = &yaml.value else {
            let found = yaml::describe(&self.file.text, yaml);
            let message = match &yaml.value {
                Raw::List(_) => format!("config error, {what} must be a map, not a list"),
                _ => format!(
                    "config error, yaml file contains list of type other than map: {}; {what} must be a map",
                    found.trim_matches('\'')
                ),
            };
            self.error(yaml::span(yaml), message);
            return None;
        };
        let mut fields = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Raw::Text(name) = &key.value else {
                let found = yaml::describe(&self.file.text, key);
                let message =
                    format!("config error, key is not of type string: {}", found.trim_matches('\''));
                self.error(yaml::span(key), message);
                continue;
            };
            match known.iter().find(|known| *known == name) {
                Some(known) => fields.push((*known, value)),
                None => self.error(yaml::span(key), unknown_field(name, known)),
            }
        }
        Some(fields)
    }

    pub(super) fn text(&mut self, name: &str, yaml: &Yaml) -> Option<Located<String>> {
        let span = yaml::span(yaml);
        if matches!(yaml.value, Raw::Null) {
            return Some(Located { value: String::new(), span });
        }
        let text = yaml::text(&self.file.text, yaml);
        if text.is_none() {
            self.wrong_kind(name, "text", yaml);
        }
        text.map(|text| Located { value: text.into_owned(), span })
    }

    /// A text that is not empty; no text where it is.
    pub(super) fn name(&mut self, name: &str, yaml: &Yaml) -> Option<String> {
        self.text(name, yaml).map(|text| text.value).filter(|text| !text.is_empty())
    }

    /// A layer's name, which is told in a header as it is; no name where it is empty.
    pub(super) fn layer(&mut self, name: &str, yaml: &Yaml) -> Option<String> {
        let layer = self.name(name, yaml)?;
        let is_printable = layer.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !is_printable || layer.len() > Layer::MAX_NAME_BYTES {
            let expected = format!("printable ASCII of at most {} characters", Layer::MAX_NAME_BYTES);
            self.wrong_kind(name, &expected, yaml);
            return None;
        }
        Some(layer)
    }

    /// A share in percent, with two decimals at the most.
    pub(super) fn percent(&mut self, name: &str, yaml: &Yaml) -> Option<Located<EnforcePercent>> {
        let percent = match &yaml.value {
            Raw::Number(number) => number.as_f64().and_then(EnforcePercent::new),
            _ => None,
        };
        if percent.is_none() {
            self.wrong_kind(name, "a number from 0 to 100, with two decimals at the most", yaml);
        }
        percent.map(|value| Located { value, span: yaml::span(yaml) })
    }

    pub(super) fn truth(&mut self, name: &str, yaml: &Yaml) -> bool {
        if let Raw::Bool(truth) = yaml.value {
            return truth;
        }
        self.wrong_kind(name, "true or false", yaml);
        false
    }

    /// One of a few names; `expected` lists them.
    pub(super) fn choice<T>(
        &mut self,
        name: &str,
        yaml: &Yaml,
        expected: &str,
        from_name: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let choice = match &yaml.value {
            Raw::Text(text) => from_name(text),
            _ => None,
        };
        if choice.is_none() {
            self.wrong_kind(name, expected, yaml);
        }
        choice
    }

    pub(super) fn count(&mut self, name: &str, yaml: &Yaml) -> Option<u32> {
        let count = match &yaml.value {
            Raw::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
            _ => None,
        };
        if count.is_none() {
            self.wrong_kind(name, "a whole number from 0 to 4294967295", yaml);
        }
        count
    }

    pub(super) fn list<'y>(&mut self, name: &str, yaml: &'y Yaml) -> Option<&'y [Yaml]> {
        match &yaml.value {
            Raw::List(items) => Some(items),
            Raw::Null => None,
            _ => {
                self.wrong_kind(name, "a list", yaml);
                None
            }
        }
    }

    pub(super) fn map<'y>(&mut self, name: &str, yaml: &'y Yaml) -> Option<&'y [(Yaml, Yaml)]> {
        match &yaml.value {
            Raw::Map(entries) => Some(entries),
            Raw::Null => None,
            _ => {
                self.wrong_kind(name, "a map", yaml);
                None
            }
        }
    }

    pub(super) fn wrong_kind(&mut self, name: &str, expected: &str, yaml: &Yaml) {
        let found = yaml::describe(&self.file.text, yaml);
        let message = format!("error checking config: '{name}' must be {expected}, not {found}");
        self.error(yaml::span(yaml), message);
    }
}

fn unknown_field(name: &str, known: &[&str]) -> String {
    if let Some((place, _)) = PLACES.iter().find(|(_, fields)| fields.contains(&name)) {
        return format!("config error, '{name}' does not belong here: it stands {place}");
    }
    match nearest(name, known) {
        Some(nearest) => format!("config error, unknown key '{name}': did you mean '{nearest}'?"),
        None => format!("config error, unknown key '{name}': known here are {}", known.join(", ")),
    }
}

/// The one of `known` that `name` is probably meant to be.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let nearest = known
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), *known))
        .filter(|(likeness, _)| *likeness > 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map(|(_, nearest)| nearest)
}
