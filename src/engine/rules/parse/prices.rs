//! Parser of `prices`, and of the weights of tokens.

use super::Parser;
use super::tables::PRICES_OF_MODEL;
use crate::engine::rules::Prices;
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::glob::Glob;
use crate::engine::rules::span::Located;
use crate::engine::schema::Object;
use crate::engine::usage::{TokenKind, Weight, Weights};

impl Parser {
    pub(super) fn prices(&mut self, name: &str, node: &SourceNode) -> Option<Located<Prices>> {
        let SourceValue::Map(entries) = &node.value else {
            self.wrong_kind(name, "a map such as {gpt-5-mini: {input: 0.25, output: 2}}", node);
            return None;
        };
        if entries.is_empty() {
            return None;
        }
        let mut models: Vec<(Glob, Weights)> = Vec::with_capacity(entries.len());
        for (model, prices) in entries {
            let Some(model) = self.text("name of a model", model) else { continue };
            if models.iter().any(|(known, _)| known.text() == model.value) {
                self.error(model.span, format!("model '{}' has prices already", model.value));
            }
            let Some(written) = self.weights(prices, "prices of a model", &PRICES_OF_MODEL) else { continue };
            if written[TokenKind::Input as usize].is_none() || written[TokenKind::Output as usize].is_none() {
                self.error(
                    prices.span,
                    "prices of a model have 'input' and 'output': write both, per million tokens",
                );
            }
            models.push((Glob::new(&model.value), Weights::of_prices(|kind| written[kind as usize])));
        }
        Some(Located { value: Prices::new(models), span: node.span })
    }

    /// Weight of each kind of token in a map.
    pub(super) fn weights(
        &mut self,
        node: &SourceNode,
        what: &str,
        known: &'static Object,
    ) -> Option<[Option<Weight>; TokenKind::ALL.len()]> {
        let mut weights = [None; TokenKind::ALL.len()];
        self.fields(node, what, known, |parser, name, value| {
            let weight = value.text().and_then(|text| Weight::parse(&text));
            if weight.is_none() {
                let expected =
                    format!("a decimal number from 0 to {}, with six decimals at most", Weight::MAX);
                parser.wrong_number(name, &expected, value);
            }
            if let Some(kind) = TokenKind::from_name(name) {
                weights[kind as usize] = weight;
            }
        })?;
        Some(weights)
    }
}
