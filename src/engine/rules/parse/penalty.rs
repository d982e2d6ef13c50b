//! A lockout as written.

use super::Parser;
use crate::engine::rules::source::{Located, Penalty};
use crate::engine::rules::yaml::{self, Raw, Yaml};

pub(super) const PENALTY_FIELDS: &[&str] = &["after", "within", "block", "forget", "extend", "scope", "name"];

impl Parser<'_> {
    pub(super) fn penalty(&mut self, yaml: &Yaml) -> Option<Penalty> {
        if matches!(yaml.value, Raw::Null) {
            return None;
        }
        let mut penalty = Penalty { span: yaml::span(yaml), ..Penalty::default() };
        for (name, value) in self.fields(yaml, "a penalty", PENALTY_FIELDS)? {
            match name {
                "after" => {
                    let span = yaml::span(value);
                    penalty.after = self.count(name, value).map(|value| Located { value, span });
                }
                "within" => penalty.within = self.text(name, value),
                "block" => penalty.block = self.texts(name, value),
                "forget" => penalty.forget = self.text(name, value),
                "extend" => penalty.extend = self.truth(name, value),
                "scope" => {
                    let keys = self.texts(name, value).into_iter().map(|key| key.value).collect();
                    penalty.scope = Some(Located { value: keys, span: yaml::span(value) });
                }
                "name" => penalty.name = self.name(name, value),
                _ => {}
            }
        }
        Some(penalty)
    }

    /// A list of texts, or one of them by itself.
    fn texts(&mut self, name: &str, yaml: &Yaml) -> Vec<Located<String>> {
        match &yaml.value {
            Raw::List(items) => items.iter().filter_map(|item| self.text(name, item)).collect(),
            _ => self.text(name, yaml).into_iter().collect(),
        }
    }
}
