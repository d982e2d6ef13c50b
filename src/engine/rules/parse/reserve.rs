//! Parser of `reserve`.

use super::Parser;
use super::tables::{RESERVE, TOKEN_WEIGHTS};
use crate::engine::reserve::OnExpiry;
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::source::{Reserve, ReserveAmount};
use crate::engine::rules::span::Located;
use crate::engine::usage::{Count, Weights};

impl Parser {
    pub(super) fn reserve(&mut self, node: &SourceNode) -> Option<Reserve> {
        if matches!(node.value, SourceValue::Null) {
            return None;
        }
        if let SourceValue::Number(_) | SourceValue::Text(_) = node.value {
            let amount = node.to_string();
            let amount = amount.trim_matches('\'');
            let message = format!("'reserve' must be a map: write 'reserve: {{amount: {amount}}}'");
            self.error(node.span, message);
            return None;
        }
        let mut reserve = Reserve { span: node.span, on_look: true, ..Reserve::default() };
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "amount" => {
                let span = value.span;
                reserve.amount = parser.reserve_amount(name, value).map(|value| Located { value, span });
            }
            "ttl" => reserve.ttl = parser.text(name, value),
            "max" => reserve.max = parser.text(name, value),
            "on_expiry" => {
                let effect = parser.choice(name, value, "release or charge", OnExpiry::from_name);
                reserve.on_expiry = effect.unwrap_or_default();
            }
            "memory" => reserve.memory = parser.text(name, value),
            "count" => reserve.count = parser.token_count(name, value),
            "on_look" => reserve.on_look = parser.truth(name, value),
            _ => {}
        };
        reserve.unreadable = self.fields(node, "'reserve'", &RESERVE, read)?;
        Some(reserve)
    }

    fn reserve_amount(&mut self, name: &str, node: &SourceNode) -> Option<ReserveAmount> {
        match &node.value {
            SourceValue::Text(text) if text == "auto" => Some(ReserveAmount::Auto),
            SourceValue::Text(text) if text.parse::<f64>().is_err() => {
                self.wrong_kind(name, "auto or a whole number from 1 to 4294967295", node);
                None
            }
            _ => self.count(name, node).map(ReserveAmount::Fixed),
        }
    }

    fn token_count(&mut self, name: &str, node: &SourceNode) -> Option<Located<Count>> {
        let count = match &node.value {
            SourceValue::Text(text) if text == "tokens" => Count::default(),
            SourceValue::Text(text) if text == "cost" => Count::Cost,
            SourceValue::Map(_) => {
                let weights = self.weights(node, "'count'", &TOKEN_WEIGHTS)?;
                Count::Tokens(Weights::of_weights(|kind| weights[kind as usize]))
            }
            _ => {
                self.wrong_kind(name, "tokens, cost or a map such as {input: 1, output: 4}", node);
                return None;
            }
        };
        Some(Located { value: count, span: node.span })
    }
}
