//! A limit as written.

use super::Parser;
use crate::engine::Unit;
use crate::engine::rules::quota::parse_window;
use crate::engine::rules::source::{Located, RateLimit};
use crate::engine::rules::yaml::{self, Raw, Yaml};

pub(super) const RATE_LIMIT_FIELDS: &[&str] = &[
    "unit",
    "window",
    "timezone",
    "requests_per_unit",
    "algorithm",
    "burst",
    "unlimited",
    "name",
    "replaces",
];
/// Limits of one rule, at the most.
const MAX_LIMITS: usize = 8;
const REPLACES_FIELDS: &[&str] = &["name"];

impl Parser<'_> {
    /// The limits of a rule that has several.
    pub(super) fn rate_limits(&mut self, name: &str, yaml: &Yaml) -> Vec<RateLimit> {
        let items = self.list(name, yaml).unwrap_or_default();
        let limits: Vec<_> = items.iter().filter_map(|item| self.rate_limit(name, item)).collect();
        if limits.is_empty() && items.iter().all(|item| matches!(item.value, Raw::Null)) {
            let message = "'rate_limits' without a limit lets everything pass: write one, or leave it out";
            self.error(yaml::span(yaml), message.to_owned());
        }
        if let Some(one) = limits.get(MAX_LIMITS) {
            self.error(one.span, format!("a rule has {MAX_LIMITS} limits at the most"));
        }
        for unlimited in limits.iter().filter(|limit| limit.unlimited) {
            let message = "'unlimited' in 'rate_limits' would say that the other limits mean nothing: write it \
                           in 'rate_limit'";
            self.error(unlimited.span, message.to_owned());
        }
        limits
    }

    pub(super) fn rate_limit(&mut self, name: &str, yaml: &Yaml) -> Option<RateLimit> {
        if matches!(yaml.value, Raw::Null) {
            return None;
        }
        let span = yaml::span(yaml);
        let mut rate_limit = RateLimit { span, ..RateLimit::default() };
        if !matches!(yaml.value, Raw::Map(_)) {
            let Some((requests, unit, window)) =
                yaml::text(&self.file.text, yaml).and_then(|text| short(&text))
            else {
                self.wrong_kind(name, "a map, or short such as 60/minute or 100/15m", yaml);
                return None;
            };
            rate_limit.requests_per_unit = Some(requests);
            rate_limit.unit = unit.map(|value| Located { value, span });
            rate_limit.window = window.map(|value| Located { value, span });
            return Some(rate_limit);
        }
        for (name, value) in self.fields(yaml, "a rate_limit", RATE_LIMIT_FIELDS)? {
            match name {
                "unit" => rate_limit.unit = self.text(name, value).filter(|unit| !unit.value.is_empty()),
                "window" => rate_limit.window = self.text(name, value),
                "timezone" => rate_limit.timezone = self.text(name, value),
                "requests_per_unit" => rate_limit.requests_per_unit = self.count(name, value),
                "algorithm" => {
                    let span = yaml::span(value);
                    rate_limit.algorithm = self.algorithm(name, value).map(|value| Located { value, span });
                }
                "burst" => {
                    let span = yaml::span(value);
                    rate_limit.burst = self.count(name, value).map(|value| Located { value, span });
                }
                "unlimited" => rate_limit.unlimited = self.truth(name, value),
                "name" => rate_limit.name = self.name(name, value),
                "replaces" => rate_limit.replaces = self.replaces(value),
                _ => {}
            }
        }
        Some(rate_limit)
    }

    fn replaces(&mut self, yaml: &Yaml) -> Vec<Located<String>> {
        let mut names = Vec::new();
        for item in self.list("replaces", yaml).unwrap_or_default() {
            let Some(fields) = self.fields(item, "an entry of 'replaces'", REPLACES_FIELDS) else { continue };
            let name = fields.into_iter().find_map(|(name, value)| self.text(name, value));
            match name.filter(|name| !name.value.is_empty()) {
                Some(name) => names.push(name),
                None => {
                    let message = "should not have an empty replaces entry: write '- name: NAME'";
                    self.error(yaml::span(item), message.to_owned());
                }
            }
        }
        names
    }
}

/// `60/minute` or `100/15m`: requests, and the unit or the window.
fn short(text: &str) -> Option<(u32, Option<String>, Option<String>)> {
    let (requests, time) = text.split_once('/')?;
    let requests = requests.parse().ok().filter(|_| !requests.starts_with('+'))?;
    match (Unit::from_name(time), parse_window(time)) {
        (Some(_), _) => Some((requests, Some(time.to_owned()), None)),
        (None, Ok(_)) => Some((requests, None, Some(time.to_owned()))),
        (None, Err(_)) => None,
    }
}
