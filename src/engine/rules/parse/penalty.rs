//! Parser of `penalty`.

use super::Parser;
use super::tables::PENALTY;
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::source::Penalty;
use crate::engine::rules::span::Located;

impl Parser {
    pub(super) fn penalty(&mut self, node: &SourceNode) -> Option<Penalty> {
        if matches!(node.value, SourceValue::Null) {
            return None;
        }
        let mut penalty = Penalty { span: node.span, ..Penalty::default() };
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "after" => {
                let span = value.span;
                penalty.after = parser.count(name, value).map(|value| Located { value, span });
            }
            "within" => penalty.within = parser.text(name, value),
            "block" => penalty.block = parser.texts(name, value),
            "forget" => penalty.forget = parser.text(name, value),
            "extend" => penalty.extend = parser.truth(name, value),
            "scope" => {
                let keys = parser.texts(name, value).into_iter().map(|key| key.value).collect();
                penalty.scope = Some(Located { value: keys, span: value.span });
            }
            "name" => penalty.name = parser.name(name, value),
            _ => {}
        };
        penalty.unreadable = self.fields(node, "a penalty", &PENALTY, read)?;
        Some(penalty)
    }

    /// List of texts, or a single one.
    fn texts(&mut self, name: &str, node: &SourceNode) -> Vec<Located<String>> {
        match &node.value {
            SourceValue::List(items) => items.iter().filter_map(|item| self.text(name, item)).collect(),
            _ => self.text(name, node).into_iter().collect(),
        }
    }
}
