//! What a level takes in place of a value, and what is done to values first, as written.

use std::ops::RangeInclusive;

use super::Parser;
use super::fields::nearest;
use crate::engine::rules::normalize::NormalizeStep;
use crate::engine::rules::source::Located;
use crate::engine::rules::yaml::{self, Raw, Yaml};

const STEPS: &[&str] = &["lowercase", "trim", "ip_prefix", "forwarded_for", "hash"];

impl Parser<'_> {
    /// Texts, each with its place. Nothing at all is no list.
    pub(super) fn listed_texts(&mut self, name: &str, yaml: &Yaml) -> Option<Located<Vec<Located<String>>>> {
        let Raw::List(items) = &yaml.value else {
            self.wrong_kind(name, "a list of values", yaml);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match yaml::text(&self.file.text, item) {
                Some(text) => texts.push(Located { value: text.into_owned(), span: yaml::span(item) }),
                None => self.wrong_kind(&format!("an entry of {name}"), "text", item),
            }
        }
        let is_sound = texts.len() == items.len();
        is_sound.then(|| Located { value: texts, span: yaml::span(yaml) })
    }

    /// As [`Self::listed_texts`]; one text stands for a list of it.
    pub(super) fn text_or_texts(&mut self, name: &str, yaml: &Yaml) -> Option<Located<Vec<Located<String>>>> {
        let span = yaml::span(yaml);
        match yaml::text(&self.file.text, yaml) {
            Some(text) => Some(Located { value: vec![Located { value: text.into_owned(), span }], span }),
            None => self.listed_texts(name, yaml),
        }
    }

    /// Steps. `None` where one of them is wrong.
    pub(super) fn normalize(
        &mut self,
        name: &str,
        yaml: &Yaml,
    ) -> Option<Located<Vec<Located<NormalizeStep>>>> {
        let Raw::List(items) = &yaml.value else {
            self.wrong_kind(name, "a list of steps such as [trim, lowercase]", yaml);
            return None;
        };
        let steps: Vec<_> = items.iter().filter_map(|item| self.step(item)).collect();
        (steps.len() == items.len()).then(|| Located { value: steps, span: yaml::span(yaml) })
    }

    fn step(&mut self, yaml: &Yaml) -> Option<Located<NormalizeStep>> {
        let (name, options) = match &yaml.value {
            Raw::Map(entries) => match &entries[..] {
                [(name, options)] => {
                    (name, Some(options).filter(|options| !matches!(options.value, Raw::Null)))
                }
                _ => {
                    let expected = "one step with its options, such as ip_prefix: {v4: 24}";
                    self.wrong_kind("an entry of normalize", expected, yaml);
                    return None;
                }
            },
            _ => (yaml, None),
        };
        let Some(text) = yaml::text(&self.file.text, name) else {
            self.wrong_kind("an entry of normalize", "a step such as lowercase", name);
            return None;
        };
        let step = match (&*text, options) {
            ("lowercase", None) => NormalizeStep::Lowercase,
            ("trim", None) => NormalizeStep::Trim,
            ("hash", None) => NormalizeStep::Hash,
            ("lowercase" | "trim" | "hash", Some(options)) => {
                self.error(yaml::span(options), format!("'{text}' has no options: write '- {text}'"));
                return None;
            }
            ("ip_prefix", options) => self.ip_prefix(options)?,
            ("forwarded_for", options) => self.forwarded_for(options)?,
            (unknown, _) => {
                let message = match nearest(unknown, STEPS) {
                    Some(nearest) => format!("unknown step '{unknown}': did you mean '{nearest}'?"),
                    None => format!("unknown step '{unknown}': known here are {}", STEPS.join(", ")),
                };
                self.error(yaml::span(name), message);
                return None;
            }
        };
        Some(Located { value: step, span: yaml::span(yaml) })
    }

    fn ip_prefix(&mut self, options: Option<&Yaml>) -> Option<NormalizeStep> {
        let (mut v4, mut v6) = (Some(32), Some(64));
        if let Some(options) = options {
            for (name, value) in self.fields(options, "'ip_prefix'", &["v4", "v6"])? {
                match name {
                    "v4" => v4 = self.small(name, value, 1..=32),
                    "v6" => v6 = self.small(name, value, 1..=128),
                    _ => {}
                }
            }
        }
        Some(NormalizeStep::IpPrefix { v4: v4?, v6: v6? })
    }

    fn forwarded_for(&mut self, options: Option<&Yaml>) -> Option<NormalizeStep> {
        let mut trusted_hops = Some(1);
        if let Some(options) = options {
            for (name, value) in self.fields(options, "'forwarded_for'", &["trusted_hops"])? {
                trusted_hops = self.small(name, value, 1..=100);
            }
        }
        Some(NormalizeStep::ForwardedFor { trusted_hops: trusted_hops? })
    }

    fn small(&mut self, name: &str, yaml: &Yaml, range: RangeInclusive<u8>) -> Option<u8> {
        let number = match &yaml.value {
            Raw::Number(number) => number.as_u64().and_then(|number| u8::try_from(number).ok()),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong_kind(name, &expected, yaml);
        }
        number
    }
}
