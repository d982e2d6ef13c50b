//! A level of the rule tree as written.

use super::Parser;
use crate::engine::rules::source::{Descriptor, Matching};
use crate::engine::rules::yaml::{self, Yaml};

pub(super) const DESCRIPTOR_FIELDS: &[&str] = &[
    "key",
    "value",
    "one_of",
    "cidr",
    "regex",
    "normalize",
    "rate_limit",
    "rate_limits",
    "descriptors",
    "layer",
    "penalty",
    "on_deny",
    "enabled",
    "enforce_percent",
    "charge",
    "on_backend_failure",
    "shadow_mode",
    "quota_mode",
    "detailed_metric",
    "value_to_metric",
    "share_threshold",
    "metadata",
];

impl Parser<'_> {
    pub(super) fn descriptor(&mut self, yaml: &Yaml, depth: usize) -> Option<Descriptor> {
        let mut descriptor = Descriptor {
            span: yaml::span(yaml),
            key: String::new(),
            value: None,
            matching: Matching::default(),
            rate_limits: Vec::new(),
            descriptors: Vec::new(),
            layer: None,
            penalty: None,
            on_deny: None,
            enabled: true,
            enforce_percent: None,
            charge: None,
            on_backend_failure: None,
            shadow_mode: false,
            quota_mode: false,
            detailed_metric: false,
            value_to_metric: false,
            share_threshold: false,
            metadata: None,
        };
        let mut several = None;
        for (name, value) in self.fields(yaml, "a descriptor", DESCRIPTOR_FIELDS)? {
            match name {
                "key" => descriptor.key = self.text(name, value).map(|key| key.value).unwrap_or_default(),
                "value" => {
                    let text = self.text(name, value).map(|text| text.value);
                    descriptor.value = text.filter(|text| !text.is_empty());
                }
                "one_of" => descriptor.matching.one_of = self.listed_texts(name, value),
                "cidr" => descriptor.matching.cidr = self.text_or_texts(name, value),
                "regex" => descriptor.matching.regex = self.text(name, value),
                "normalize" => descriptor.matching.normalize = self.normalize(name, value),
                "rate_limit" => descriptor.rate_limits.extend(self.rate_limit(name, value)),
                "rate_limits" => several = Some((value, self.rate_limits(name, value))),
                "layer" => descriptor.layer = self.layer(name, value),
                "on_deny" => descriptor.on_deny = self.on_deny(value),
                "penalty" => descriptor.penalty = self.penalty(value),
                "enabled" => descriptor.enabled = self.truth(name, value),
                "enforce_percent" => descriptor.enforce_percent = self.percent(name, value),
                "descriptors" => descriptor.descriptors = self.descriptors(name, value, depth + 1),
                "charge" => descriptor.charge = self.charge_mode(name, value),
                "on_backend_failure" => descriptor.on_backend_failure = self.failure_policy(name, value),
                "shadow_mode" => descriptor.shadow_mode = self.truth(name, value),
                "quota_mode" => descriptor.quota_mode = self.truth(name, value),
                "detailed_metric" => descriptor.detailed_metric = self.truth(name, value),
                "value_to_metric" => descriptor.value_to_metric = self.truth(name, value),
                "share_threshold" => descriptor.share_threshold = self.truth(name, value),
                "metadata" => {
                    let map = self.map(name, value);
                    descriptor.metadata = map.map(|map| yaml::json_map(&self.file.text, map));
                }
                _ => {}
            }
        }
        match several {
            Some((value, _)) if !descriptor.rate_limits.is_empty() => {
                let message =
                    "'rate_limit' and 'rate_limits' in one rule: write all its limits in 'rate_limits'";
                self.error(yaml::span(value), message.to_owned());
            }
            Some((_, rate_limits)) => descriptor.rate_limits = rate_limits,
            None => {}
        }
        if descriptor.key.is_empty() {
            self.error(descriptor.span, "descriptor has empty key: write 'key: NAME'".to_owned());
            return None;
        }
        Some(descriptor)
    }
}
