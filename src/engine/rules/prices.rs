//! Prices of language models.

use super::glob::Glob;
use crate::engine::usage::Weights;

/// Prices of models, in units of the currency per million tokens: a token costs as many millionths of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    models: Vec<(Glob, Weights)>,
}

impl Prices {
    /// Prices by name of the model, in which `*` matches any text. An exact name takes precedence over patterns, and a
    /// pattern with more letters over one with fewer.
    pub fn new(mut models: Vec<(Glob, Weights)>) -> Self {
        let letters = |glob: &Glob| (!glob.text().contains('*'), glob.text().replace('*', "").len());
        models.sort_by_key(|(glob, _)| std::cmp::Reverse(letters(glob)));
        Self { models }
    }

    /// Prices of `model`. For an unknown model, the highest price of each kind of token, so that a new name is never
    /// free.
    pub fn of(&self, model: &str) -> Weights {
        let dearest = || {
            let none = Weights::of_weights(|_| None);
            self.models.iter().fold(none, |dearest, (_, weights)| dearest.max(*weights))
        };
        self.find(model).unwrap_or_else(dearest)
    }

    /// True if the table has prices of `model`.
    pub fn has(&self, model: &str) -> bool {
        self.find(model).is_some()
    }

    fn find(&self, model: &str) -> Option<Weights> {
        let known = self.models.iter().find(|(pattern, _)| pattern.matches(model.as_bytes()));
        known.map(|(_, weights)| *weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::usage::tests::{usage, weights};

    #[test]
    fn the_closest_name_decides_and_an_unknown_model_has_the_highest_prices() {
        let table = [
            ("claude-*", "input=3 output=15"),
            ("*", "input=1 output=20"),
            ("claude-haiku-*", "input=0.8 output=4"),
            ("claude-haiku-1", "input=0.5 output=2"),
        ];
        let prices = |table: &[(&str, &str)]| {
            let models =
                table.iter().map(|(name, text)| (Glob::new(name), Weights::of_prices(weights(text))));
            Prices::new(models.collect())
        };
        let all = prices(&table);
        let input = usage("", [1_000, 0, 0, 0, 0]);
        for (model, cost) in
            [("claude-haiku-1", 500), ("claude-haiku-2", 800), ("claude-opus", 3_000), ("gpt", 1_000)]
        {
            assert_eq!((all.of(model).amount(&input), all.has(model)), (cost, true), "{model}");
        }
        let some = prices(&[table[0], table[2]]);
        assert!(!some.has("gpt"));
        assert_eq!(some.of("gpt").amount(&usage("", [1, 0, 0, 1, 0])), 18);
    }
}
