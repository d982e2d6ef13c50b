//! Parser of `rate_limit` and `rate_limits`.

use super::Parser;
use super::tables::{CONCURRENCY, LEASE, RATE_LIMIT, REPLACES};
use crate::engine::rules::document::{SourceNode, SourceValue};
use crate::engine::rules::quota::parse_window;
use crate::engine::rules::source::{Concurrency, Lease, Leasing, RateLimit};
use crate::engine::rules::span::Located;

/// Upper bound on the limits of one rule.
const MAX_LIMITS: usize = 8;

impl Parser {
    /// Limits of a rule that has several.
    pub(super) fn rate_limits(&mut self, name: &str, node: &SourceNode) -> Vec<RateLimit> {
        let items = match &node.value {
            SourceValue::List(items) => &items[..],
            SourceValue::Null => &[],
            _ => {
                let expected = "a list of limits (for one limit write 'rate_limit')";
                self.wrong_kind(name, expected, node);
                return Vec::new();
            }
        };
        let limits: Vec<_> = items.iter().filter_map(|item| self.rate_limit(name, item)).collect();
        if limits.is_empty() && items.iter().all(|item| matches!(item.value, SourceValue::Null)) {
            let message = "'rate_limits' without a limit has no effect: write a limit, or leave it out";
            self.error(node.span, message);
        }
        if let Some(one) = limits.get(MAX_LIMITS) {
            self.error(one.span, format!("a rule has at most {MAX_LIMITS} limits"));
        }
        for unlimited in limits.iter().filter(|limit| limit.unlimited) {
            let message = "'unlimited' in 'rate_limits' would make the other limits ineffective: write it \
                           in 'rate_limit'";
            self.error(unlimited.span, message.to_owned());
        }
        limits
    }

    pub(super) fn rate_limit(&mut self, name: &str, node: &SourceNode) -> Option<RateLimit> {
        if matches!(node.value, SourceValue::Null) {
            return None;
        }
        let span = node.span;
        let mut rate_limit = RateLimit { span, ..RateLimit::default() };
        if let SourceValue::List(_) = &node.value {
            let message =
                "error checking config: 'rate_limit' takes one limit: write 'rate_limits' for a list";
            self.error(span, message);
            return None;
        }
        if !matches!(node.value, SourceValue::Map(_)) {
            match node.text().map(|text| parse_short_form(&text)) {
                Some(Ok((requests, window))) => {
                    rate_limit.requests_per_unit = Some(requests);
                    rate_limit.window = Some(Located { value: window, span });
                    return Some(rate_limit);
                }
                Some(Err(expected)) => {
                    self.error(span, format!("error checking config: invalid {name} {node}: {expected}"));
                }
                None => self.wrong_kind(name, "a map, or short such as 60/minute or 100/15m", node),
            }
            return None;
        }
        let mut concurrency = None;
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "unit" => rate_limit.unit = parser.text(name, value).filter(|unit| !unit.value.is_empty()),
            "window" => rate_limit.window = parser.text(name, value),
            "timezone" => rate_limit.timezone = parser.text(name, value),
            "requests_per_unit" => rate_limit.requests_per_unit = parser.count(name, value),
            "algorithm" => {
                let span = value.span;
                rate_limit.algorithm = parser.algorithm(name, value).map(|value| Located { value, span });
            }
            "burst" => {
                let span = value.span;
                rate_limit.burst = parser.count(name, value).map(|value| Located { value, span });
            }
            "unlimited" => rate_limit.unlimited = parser.truth(name, value),
            "name" => rate_limit.name = parser.name(name, value),
            "concurrency" => concurrency = parser.concurrency(value),
            "lease" => rate_limit.lease = parser.lease(name, value),
            "replaces" => rate_limit.replaces = parser.replaces(value),
            _ => {}
        };
        rate_limit.unreadable = self.fields(node, "a rate_limit", &RATE_LIMIT, read)?;
        if let Some(concurrency) = concurrency {
            set_concurrency(&mut rate_limit, concurrency);
        }
        Some(rate_limit)
    }

    /// The limit of a rule with `concurrency` in place of `rate_limit`.
    pub(super) fn concurrency_limit(&mut self, node: &SourceNode) -> Option<RateLimit> {
        let concurrency = self.concurrency(node)?;
        let mut rate_limit = RateLimit { span: node.span, ..RateLimit::default() };
        set_concurrency(&mut rate_limit, concurrency);
        Some(rate_limit)
    }

    pub(super) fn lease(&mut self, name: &str, node: &SourceNode) -> Leasing {
        let mut lease = Lease { span: node.span, ..Lease::default() };
        match &node.value {
            SourceValue::Null => return Leasing::Unset,
            SourceValue::Bool(false) => return Leasing::Never,
            SourceValue::Bool(true) => return Leasing::Leased(lease),
            SourceValue::Map(_) => {}
            _ => {
                self.wrong_kind(
                    name,
                    "true, false, or a map such as {hold: 100ms, tail: 10%, max: 10000}",
                    node,
                );
                return Leasing::Unset;
            }
        }
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "hold" => lease.hold = parser.text(name, value),
            "tail" => lease.tail = parser.text(name, value),
            "max" => {
                let span = value.span;
                lease.max = parser.count(name, value).map(|value| Located { value, span });
            }
            _ => {}
        };
        match self.fields(node, "a lease", &LEASE, read) {
            Some(unreadable) => Leasing::Leased(Lease { unreadable, ..lease }),
            None => Leasing::Unset,
        }
    }

    fn concurrency(&mut self, node: &SourceNode) -> Option<Concurrency> {
        if matches!(node.value, SourceValue::Null) {
            return None;
        }
        let mut concurrency = Concurrency { span: node.span, ..Concurrency::default() };
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "max" => {
                let span = value.span;
                concurrency.max = parser.count(name, value).map(|value| Located { value, span });
            }
            "ttl" => concurrency.ttl = parser.text(name, value),
            "name" => concurrency.name = parser.name(name, value),
            _ => {}
        };
        concurrency.unreadable = self.fields(node, "a concurrency", &CONCURRENCY, read)?;
        Some(concurrency)
    }

    fn replaces(&mut self, node: &SourceNode) -> Vec<Located<String>> {
        let mut names = Vec::new();
        for item in self.list("replaces", node).unwrap_or_default() {
            let mut name = None;
            let read = |parser: &mut Self, field, value: &SourceNode| name = parser.text(field, value);
            let Some(unreadable) = self.fields(item, "an entry of 'replaces'", &REPLACES, read) else {
                continue;
            };
            match name.filter(|name| !name.value.is_empty()) {
                Some(name) => names.push(name),
                None if unreadable.has("name") => {}
                None => {
                    self.error(item.span, "should not have an empty replaces entry: write '- name: NAME'");
                }
            }
        }
        names
    }
}

fn set_concurrency(rate_limit: &mut RateLimit, concurrency: Concurrency) {
    rate_limit.name = rate_limit.name.take().or(concurrency.name.clone());
    rate_limit.concurrency = Some(concurrency);
}

/// Parses `60/minute`, `10/s` or `100/15m` into requests and the window as written.
///
/// # Errors
/// Expected form.
pub(in crate::engine::rules) fn parse_short_form(text: &str) -> Result<(u32, String), String> {
    let expected = || "write REQUESTS/TIME such as 10/s, 60/minute or 100/15m".to_owned();
    let (requests, window) = text.split_once('/').ok_or_else(expected)?;
    let (requests, window) = (requests.trim(), window.trim());
    if requests.is_empty() || !requests.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let requests = requests.parse().map_err(|_| "at most 4294967295 requests".to_owned())?;
    match parse_window(window) {
        Ok(_) => Ok((requests, window.to_owned())),
        Err(reason) => Err(reason.to_owned()),
    }
}
