//! Parser of a level of the rule tree.

use super::Parser;
use super::tables::DESCRIPTOR;
use crate::engine::rules::RateLimitHeaders;
use crate::engine::rules::document::{SourceNode, json_map};
use crate::engine::rules::source::{Descriptor, Matching, Unreadable};
use crate::engine::rules::span::{Located, SourceSpan};
use crate::engine::ticket::RESERVED_KEYS;

impl Parser {
    pub(super) fn descriptor(&mut self, node: &SourceNode, depth: usize) -> Option<Descriptor> {
        let mut descriptor = empty(node.span);
        let (mut several, mut concurrency) = (None, None);
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "key" => descriptor.key = parser.text(name, value).map(|key| key.value).unwrap_or_default(),
            "value" => {
                let text = parser.text(name, value).map(|text| text.value);
                descriptor.value = text.filter(|text| !text.is_empty());
            }
            "one_of" => descriptor.matching.one_of = parser.listed_texts(name, value),
            "cidr" => descriptor.matching.cidr = parser.text_or_texts(name, value),
            "regex" => descriptor.matching.regex = parser.text(name, value),
            "normalize" => descriptor.matching.normalize = parser.normalize(name, value),
            "rate_limit" => descriptor.rate_limits.extend(parser.rate_limit(name, value)),
            "concurrency" => concurrency = parser.concurrency_limit(value).map(|limit| (value.span, limit)),
            "rate_limits" => several = Some((value.span, parser.rate_limits(name, value))),
            "layer" => descriptor.layer = parser.layer(name, value),
            "on_deny" => descriptor.on_deny = parser.on_deny(value),
            "penalty" => descriptor.penalty = parser.penalty(value),
            "reserve" => descriptor.reserve = parser.reserve(value),
            "enabled" => descriptor.enabled = parser.truth(name, value),
            "enforce_percent" => descriptor.enforce_percent = parser.percent(name, value),
            "descriptors" => descriptor.descriptors = parser.descriptors(name, value, depth + 1),
            "charge" => descriptor.charge = parser.charge_mode(name, value),
            "max_hits" => {
                let max_hits = parser.count(name, value);
                descriptor.max_hits = max_hits.map(|max| Located { value: max, span: value.span });
            }
            "headers" => {
                let expected = "all or none (headers to add belong inside 'on_deny')";
                let choice = parser.choice(name, value, expected, RateLimitHeaders::from_name);
                descriptor.headers = choice;
            }
            "on_backend_failure" => descriptor.on_backend_failure = parser.failure_policy(name, value),
            "shadow_mode" => descriptor.shadow_mode = parser.truth(name, value),
            "quota_mode" => descriptor.quota_mode = parser.truth(name, value),
            "detailed_metric" => descriptor.detailed_metric = parser.truth(name, value),
            "value_to_metric" => descriptor.value_to_metric = parser.truth(name, value),
            "share_threshold" => descriptor.share_threshold = parser.truth(name, value),
            "metadata" => {
                descriptor.metadata = parser.map(name, value).map(json_map);
            }
            _ => {}
        };
        descriptor.unreadable = self.fields(node, "a descriptor", &DESCRIPTOR, read)?;
        match several {
            Some((span, _)) if !descriptor.rate_limits.is_empty() => {
                let message =
                    "'rate_limit' and 'rate_limits' in one rule: write all its limits in 'rate_limits'";
                self.error(span, message);
            }
            Some((_, rate_limits)) => descriptor.rate_limits = rate_limits,
            None => {}
        }
        if let Some((span, limit)) = concurrency {
            if !descriptor.rate_limits.is_empty() {
                let message = "'concurrency' beside another limit of the rule: write '- concurrency: {max: …, ttl: …}' \
                               in 'rate_limits', so that a request takes a place only if all of them let it pass";
                self.error(span, message);
            }
            descriptor.rate_limits.push(limit);
        }
        self.refuse_reserved_key(&descriptor);
        if descriptor.key.is_empty() {
            if !descriptor.unreadable.has("key") {
                self.error(descriptor.span, "descriptor has empty key: write 'key: NAME'");
            }
            return None;
        }
        Some(descriptor)
    }

    fn refuse_reserved_key(&mut self, Descriptor { key, span, .. }: &Descriptor) {
        if RESERVED_KEYS.contains(&key.as_str()) {
            let message = format!(
                "'{key}' names the ticket of a request in flight: Envoy adds it to descriptors, and no rule may have it"
            );
            self.error(*span, message);
        }
    }
}

/// Descriptor without fields.
fn empty(span: SourceSpan) -> Descriptor {
    Descriptor {
        span,
        key: String::new(),
        value: None,
        matching: Matching::default(),
        rate_limits: Vec::new(),
        descriptors: Vec::new(),
        layer: None,
        penalty: None,
        reserve: None,
        on_deny: None,
        enabled: true,
        enforce_percent: None,
        charge: None,
        max_hits: None,
        headers: None,
        on_backend_failure: None,
        shadow_mode: false,
        quota_mode: false,
        detailed_metric: false,
        value_to_metric: false,
        share_threshold: false,
        metadata: None,
        unreadable: Unreadable::default(),
    }
}
