//! Parser of `reserve`.

use super::Parser;
use super::tables::RESERVE;
use crate::engine::reserve::OnExpiry;
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::source::Reserve;
use crate::engine::rules::span::Located;

impl Parser {
    pub(super) fn reserve(&mut self, node: &SourceNode) -> Option<Reserve> {
        if matches!(node.value, SourceValue::Null) {
            return None;
        }
        let mut reserve = Reserve { span: node.span, on_look: true, ..Reserve::default() };
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "amount" => {
                let span = value.span;
                reserve.amount = parser.count(name, value).map(|value| Located { value, span });
            }
            "ttl" => reserve.ttl = parser.text(name, value),
            "max" => reserve.max = parser.text(name, value),
            "on_expiry" => {
                let effect = parser.choice(name, value, "release or charge", OnExpiry::from_name);
                reserve.on_expiry = effect.unwrap_or_default();
            }
            "memory" => reserve.memory = parser.text(name, value),
            "on_look" => reserve.on_look = parser.truth(name, value),
            _ => {}
        };
        reserve.unreadable = self.fields(node, "'reserve'", &RESERVE, read)?;
        Some(reserve)
    }
}
