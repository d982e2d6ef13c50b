//! Parser of patterns and of `normalize`.

use std::ops::RangeInclusive;

use super::Parser;
use super::tables::{FORWARDED_FOR, IP_PREFIX};
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::normalize::NormalizeStep;
use crate::engine::rules::span::Located;
use crate::engine::text::nearest;

const STEPS: &[&str] = &["lowercase", "trim", "ip_prefix", "forwarded_for", "hash"];

impl Parser {
    /// List of texts with their positions. Null is not a list.
    pub(super) fn listed_texts(
        &mut self,
        name: &str,
        node: &SourceNode,
    ) -> Option<Located<Vec<Located<String>>>> {
        let SourceValue::List(items) = &node.value else {
            self.wrong_kind(name, "a list of values", node);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.text() {
                Some(text) => texts.push(Located { value: text.into_owned(), span: item.span }),
                None => self.wrong_kind(&format!("an entry of {name}"), "text", item),
            }
        }
        let is_sound = texts.len() == items.len();
        is_sound.then_some(Located { value: texts, span: node.span })
    }

    /// Like [`Self::listed_texts`], but also accepts a single text.
    pub(super) fn text_or_texts(
        &mut self,
        name: &str,
        node: &SourceNode,
    ) -> Option<Located<Vec<Located<String>>>> {
        let span = node.span;
        match node.text() {
            Some(text) => Some(Located { value: vec![Located { value: text.into_owned(), span }], span }),
            None => self.listed_texts(name, node),
        }
    }

    /// Steps; `None` if one of them is invalid.
    pub(super) fn normalize(
        &mut self,
        name: &str,
        node: &SourceNode,
    ) -> Option<Located<Vec<Located<NormalizeStep>>>> {
        let SourceValue::List(items) = &node.value else {
            self.wrong_kind(name, "a list of steps such as [trim, lowercase]", node);
            return None;
        };
        let steps: Vec<_> = items.iter().filter_map(|item| self.step(item)).collect();
        (steps.len() == items.len()).then_some(Located { value: steps, span: node.span })
    }

    fn step(&mut self, node: &SourceNode) -> Option<Located<NormalizeStep>> {
        let (name, options) = match &node.value {
            SourceValue::Map(entries) => match &entries[..] {
                [(name, options)] => {
                    (name, Some(options).filter(|options| !matches!(options.value, SourceValue::Null)))
                }
                _ => {
                    let expected = "one step with its options, such as ip_prefix: {v4: 24}";
                    self.wrong_kind("an entry of normalize", expected, node);
                    return None;
                }
            },
            _ => (node, None),
        };
        let Some(text) = name.text() else {
            self.wrong_kind("an entry of normalize", "a step such as lowercase", name);
            return None;
        };
        let step = match (&*text, options) {
            ("lowercase", None) => NormalizeStep::Lowercase,
            ("trim", None) => NormalizeStep::Trim,
            ("hash", None) => NormalizeStep::Hash,
            ("lowercase" | "trim" | "hash", Some(options)) => {
                self.error(options.span, format!("'{text}' has no options: write '- {text}'"));
                return None;
            }
            ("ip_prefix", options) => self.ip_prefix(options)?,
            ("forwarded_for", options) => self.forwarded_for(options)?,
            (unknown, _) => {
                let message = match nearest(unknown, STEPS) {
                    Some(nearest) => format!("unknown step '{unknown}': did you mean '{nearest}'?"),
                    None => format!("unknown step '{unknown}': known here are {}", STEPS.join(", ")),
                };
                self.error(name.span, message);
                return None;
            }
        };
        Some(Located { value: step, span: node.span })
    }

    fn ip_prefix(&mut self, options: Option<&SourceNode>) -> Option<NormalizeStep> {
        let (mut v4, mut v6) = (Some(32), Some(64));
        if let Some(options) = options {
            self.fields(options, "'ip_prefix'", &IP_PREFIX, |parser, name, value| match name {
                "v4" => v4 = parser.small(name, value, 1..=32),
                "v6" => v6 = parser.small(name, value, 1..=128),
                _ => {}
            })?;
        }
        Some(NormalizeStep::IpPrefix { v4: v4?, v6: v6? })
    }

    fn forwarded_for(&mut self, options: Option<&SourceNode>) -> Option<NormalizeStep> {
        let mut trusted_hops = Some(1);
        if let Some(options) = options {
            self.fields(options, "'forwarded_for'", &FORWARDED_FOR, |parser, name, value| {
                trusted_hops = parser.small(name, value, 1..=100);
            })?;
        }
        Some(NormalizeStep::ForwardedFor { trusted_hops: trusted_hops? })
    }

    fn small(&mut self, name: &str, node: &SourceNode, range: RangeInclusive<u8>) -> Option<u8> {
        let number = match &node.value {
            SourceValue::Number(number) => number.as_u64().and_then(|number| u8::try_from(number).ok()),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong_number(name, &expected, node);
        }
        number
    }
}
