//! Usage of language models: tokens by kind, and the amount that they come to, by weight or by price.
//!
//! Arithmetic is exact: weights have six decimals, and an amount is rounded up once, at the end.

use std::fmt;

/// Kinds of tokens. Each token is of one kind: `cached` ones are not part of `input`, and `reasoning` not of `output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Read by the model, at the full price.
    Input,
    /// Read from the provider's cache.
    Cached,
    /// Written to the provider's cache.
    CacheWrite,
    /// Written by the model.
    Output,
    /// Written by the model for itself.
    Reasoning,
}

impl TokenKind {
    /// Every kind, in the order of weights and counts.
    pub const ALL: [Self; 5] = [Self::Input, Self::Cached, Self::CacheWrite, Self::Output, Self::Reasoning];

    /// Name in rules and in requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Cached => "cached",
            Self::CacheWrite => "cache_write",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Kind whose price applies where a table has none for this one.
    const fn priced_as(self) -> Self {
        match self {
            Self::Input | Self::Cached | Self::CacheWrite => Self::Input,
            Self::Output | Self::Reasoning => Self::Output,
        }
    }
}

/// Tokens of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Model that gave it.
    pub model: String,
    /// Tokens of each kind, in the order of [`TokenKind::ALL`].
    pub tokens: [u32; TokenKind::ALL.len()],
}

/// Amount that a usage comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Its tokens, each with a weight.
    Tokens(Weights),
    /// Its cost by the prices of the domain, in millionths of the currency.
    Cost,
}

impl Default for Count {
    fn default() -> Self {
        Self::Tokens(Weights::TOKENS)
    }
}

/// Amount of one token, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u64);

impl Weight {
    /// A weight of one.
    pub const ONE: Self = Self(Self::SCALE);
    /// Upper bound.
    pub const MAX: u32 = 1_000_000;
    const SCALE: u64 = 1_000_000;
    const DECIMALS: usize = 6;

    /// The weight of a decimal number such as `0.025`: at most [`Self::MAX`], with six decimals at most.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(decimals) || decimals.len() > Self::DECIMALS {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let decimals: u64 = format!("{decimals:0<width$}", width = Self::DECIMALS).parse().ok()?;
        let weight = whole.checked_mul(Self::SCALE)?.checked_add(decimals)?;
        (weight <= u64::from(Self::MAX) * Self::SCALE).then_some(Self(weight))
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, millionths) = (self.0 / Self::SCALE, self.0 % Self::SCALE);
        match millionths {
            0 => write!(f, "{whole}"),
            _ => write!(f, "{whole}.{}", format!("{millionths:06}").trim_end_matches('0')),
        }
    }
}

/// Weight of each kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights([Weight; TokenKind::ALL.len()]);

impl Weights {
    /// Every token counts as one.
    pub const TOKENS: Self = Self([Weight::ONE; TokenKind::ALL.len()]);

    /// Those that `written` gives. A kind without one counts as 0.
    pub fn of_weights(written: impl Fn(TokenKind) -> Option<Weight>) -> Self {
        Self(TokenKind::ALL.map(|kind| written(kind).unwrap_or_default()))
    }

    /// Those of a price list. A kind without a price costs what other input or output costs.
    pub fn of_prices(written: impl Fn(TokenKind) -> Option<Weight>) -> Self {
        Self(
            TokenKind::ALL
                .map(|kind| written(kind).or_else(|| written(kind.priced_as())).unwrap_or_default()),
        )
    }

    /// Weight of a kind.
    pub const fn of(&self, kind: TokenKind) -> Weight {
        self.0[kind as usize]
    }

    /// Amount of `usage`, rounded up; at most [`u32::MAX`].
    pub fn amount(&self, usage: &Usage) -> u32 {
        let amount = |(weight, tokens): (&Weight, u32)| u128::from(weight.0) * u128::from(tokens);
        let sum: u128 = self.0.iter().zip(usage.tokens).map(amount).sum();
        u32::try_from(sum.div_ceil(Weight::SCALE.into())).unwrap_or(u32::MAX)
    }

    /// The larger of both for each kind.
    pub fn max(self, other: Self) -> Self {
        let mut weights = self;
        weights.0.iter_mut().zip(other.0).for_each(|(weight, other)| *weight = (*weight).max(other));
        weights
    }
}

#[cfg(test)]
pub(in crate::engine) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::engine) fn weights(text: &str) -> impl Fn(TokenKind) -> Option<Weight> {
        let text = text.to_owned();
        move |kind| {
            let mut pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == kind.name()).and_then(|(_, weight)| Weight::parse(weight))
        }
    }

    pub(in crate::engine) fn usage(model: &str, tokens: [u32; 5]) -> Usage {
        Usage { model: model.to_owned(), tokens }
    }

    #[test]
    fn weights_are_decimal_numbers_of_six_decimals() {
        for (text, millionths) in [
            ("0", 0),
            ("1", 1_000_000),
            ("0.25", 250_000),
            ("2.00", 2_000_000),
            ("0.000001", 1),
            ("007", 7_000_000),
        ] {
            assert_eq!(Weight::parse(text), Some(Weight(millionths)), "{text}");
        }
        for text in ["0", "1", "0.25", "2.000001", "1000000"] {
            assert_eq!(Weight::parse(text).map(|weight| weight.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Weight::parse("1000000"), Some(Weight(1_000_000_000_000)));
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "0.0000001",
            "1000000.000001",
            "1,5",
            " 1",
            "99999999999999",
        ] {
            assert_eq!(Weight::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_amount_is_rounded_up_once() {
        let prices = Weights::of_prices(weights("input=0.25 cached=0.025 output=2.00"));
        // 500 at 0.25, 400 at 0.025 and 250 at 2: 125 + 10 + 500 millionths of a dollar.
        assert_eq!(prices.amount(&usage("", [500, 400, 0, 250, 0])), 635);
        assert_eq!(prices.amount(&usage("", [1, 1, 0, 0, 0])), 1, "0.275");
        assert_eq!(prices.amount(&usage("", [0; 5])), 0);
        assert_eq!(
            prices.amount(&usage("", [4, 0, 4, 0, 4])),
            10,
            "written to the cache as input, reasoning as output"
        );
        assert_eq!(Weights::TOKENS.amount(&usage("", [1, 2, 3, 4, 5])), 15);
        let by_weight = Weights::of_weights(weights("input=1 output=4"));
        assert_eq!(
            by_weight.amount(&usage("", [10, 99, 99, 10, 99])),
            50,
            "what has no weight is not counted"
        );
        assert_eq!(Weights::TOKENS.amount(&usage("", [u32::MAX; 5])), u32::MAX);
    }

    proptest! {
        #[test]
        fn amounts_are_those_of_exact_fractions(
            tokens in any::<[u32; 5]>(),
            millionths in proptest::array::uniform5(0_u64..=1_000_000_000_000),
        ) {
            let exact: u128 =
                tokens.iter().zip(millionths).map(|(tokens, weight)| u128::from(*tokens) * u128::from(weight)).sum();
            let amount = u128::from(Weights(millionths.map(Weight)).amount(&usage("", tokens)));
            prop_assert_eq!(amount, exact.div_ceil(1_000_000).min(u32::MAX.into()));
        }
    }
}
