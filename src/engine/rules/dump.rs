//! Rules in force, for people and for programs to read.

use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::normalize::{Normalize, NormalizeStep};
use super::on_deny::DenialBody;
use super::tree::{Children, Node, Pattern};
use super::{NamedLimit, OnDeny, Penalty, Rule, Rules};
use crate::engine::Unit;
use crate::engine::lockout::{Block, Ladder};

/// A rule and where it stands.
struct Listed<'r> {
    domain: &'r str,
    /// Its name in full: `domain.key_value.key`.
    path: String,
    /// What each level takes, outermost first.
    levels: Vec<Value>,
    node: &'r Node,
    rule: &'r Rule,
}

impl Rules {
    /// A line for each rule, as envoyproxy/ratelimit writes them, in the order of the files.
    pub fn dump_text(&self) -> String {
        self.listed().iter().map(Listed::line).collect()
    }

    /// The rules with all their fields, in the order of the files.
    pub fn dump_json(&self) -> Value {
        json!({ "rules": self.listed().iter().map(Listed::json).collect::<Vec<_>>() })
    }

    fn listed(&self) -> Vec<Listed<'_>> {
        let mut listed = Vec::new();
        for domain in self.domains() {
            list(domain.name(), (domain.name(), &[]), &domain.children, &mut listed);
        }
        listed.sort_by_key(|listed| listed.node.order);
        listed
    }
}

fn list<'r>(domain: &'r str, above: (&str, &[Value]), children: &'r Children, listed: &mut Vec<Listed<'r>>) {
    for node in children.nodes() {
        let path = format!("{}.{}", above.0, node.composite());
        let levels = [above.1, &[level(node, children.normalize(&node.key))]].concat();
        list(domain, (&path, &levels), &node.children, listed);
        if let Some(rule) = &node.rule {
            listed.push(Listed { domain, path, levels, node, rule });
        }
    }
}

/// What a level takes, in the words of rules; `normalize` is its key's.
fn level(node: &Node, normalize: Option<&Normalize>) -> Value {
    let mut level = json!({ "key": node.key });
    match &node.pattern {
        Pattern::Any => {}
        Pattern::Exact(value) => level["value"] = json!(value),
        Pattern::Glob(glob) => level["value"] = json!(glob.text()),
        Pattern::OneOf(one_of) => level["one_of"] = json!(one_of.values),
        Pattern::Cidr(cidr) => {
            level["cidr"] = cidr.networks.iter().map(ToString::to_string).collect();
        }
        Pattern::Regex(expression) => level["regex"] = json!(expression.written()),
    }
    if let Some(normalize) = normalize {
        level["normalize"] = normalize.steps.iter().map(step).collect();
    }
    level["share_threshold"] = json!(node.share_threshold);
    level
}

fn step(step: &NormalizeStep) -> Value {
    match step {
        NormalizeStep::Lowercase => json!("lowercase"),
        NormalizeStep::Trim => json!("trim"),
        NormalizeStep::IpPrefix { v4, v6 } => json!({ "ip_prefix": { "v4": v4, "v6": v6 } }),
        NormalizeStep::ForwardedFor { trusted_hops } => {
            json!({ "forwarded_for": { "trusted_hops": trusted_hops } })
        }
        NormalizeStep::Hash => json!("hash"),
    }
}

impl Listed<'_> {
    fn line(&self) -> String {
        let (unit, count) = match self.rule.limits() {
            [] => ("UNKNOWN", 0),
            [first, ..] => (first.limit.unit().map_or("UNKNOWN", Unit::name), first.limit.requests_per_unit),
        };
        let Rule { shadow_mode, quota_mode, .. } = self.rule;
        format!(
            "{}: unit={unit} requests_per_unit={count}, shadow_mode: {shadow_mode}, quota_mode: {quota_mode}\n",
            self.path
        )
    }

    fn json(&self) -> Value {
        let Rule { replaces, charge, on_backend_failure, shadow_mode, quota_mode, metadata, .. } = self.rule;
        let mut rule = json!({
            "domain": self.domain,
            "path": self.path,
            "levels": self.levels,
            "name": self.rule.limits().first().and_then(|limit| limit.name.as_deref()),
            "replaces": replaces,
            "layer": self.rule.layer.as_ref().map(|layer| layer.name()),
            "penalty": self.rule.penalty.as_ref().map(|penalty| self.penalty_json(penalty)),
            "on_deny": self.rule.on_deny.as_deref().map(on_deny_json),
            "charge": charge.name(),
            "on_backend_failure": on_backend_failure.name(),
            "shadow_mode": shadow_mode,
            "enforce_percent": self.rule.enforce_percent.percent(),
            "quota_mode": quota_mode,
            "detailed_metric": self.node.detailed_metric,
            "value_to_metric": self.node.value_to_metric,
            "share_threshold": self.node.share_threshold,
            "metadata": metadata,
        });
        match self.rule.limits() {
            [] => rule["rate_limit"] = json!({ "unlimited": true }),
            [limit] => rule["rate_limit"] = limit_json(limit),
            several => rule["rate_limits"] = several.iter().map(limit_json).collect(),
        }
        rule
    }
}

fn on_deny_json(OnDeny { body, headers }: &OnDeny) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Map<_, _> =
        headers.iter().map(|(name, value)| (name.to_string(), text(value).into())).collect();
    json!({
        "body": body.as_ref().map(|body| match body {
            DenialBody::Problem => json!("problem_json"),
            DenialBody::Text { template, content_type } => {
                json!({ "text": template.to_string(), "content_type": text(content_type) })
            }
        }),
        "headers": headers,
    })
}

impl Listed<'_> {
    fn penalty_json(&self, penalty: &Penalty) -> Value {
        let Ladder { after, within_secs, steps, forget_secs, extend } = &*penalty.ladder;
        let block = |step: &Block| match step {
            Block::Secs(secs) => json!(secs),
            Block::Permanent => json!("permanent"),
        };
        let scope = penalty.scope.iter().filter_map(|level| self.levels.get(*level)?.get("key"));
        json!({
            "name": penalty.name,
            "after": after,
            "within_secs": within_secs,
            "block_secs": steps.iter().map(block).collect::<Vec<_>>(),
            "forget_secs": forget_secs,
            "extend": extend,
            "scope": scope.collect::<Vec<_>>(),
        })
    }
}

fn limit_json(NamedLimit { limit, name }: &NamedLimit) -> Value {
    let calendar = limit.window.calendar();
    json!({
        "name": name,
        "requests_per_unit": limit.requests_per_unit,
        "unit": limit.unit().map(Unit::name),
        // A calendar's are not equally long.
        "window_secs": calendar.is_none().then(|| limit.window.secs()),
        "timezone": calendar.map(|calendar| calendar.zone.name()),
        "algorithm": limit.algorithm.name(),
        "burst": limit.capacity(),
    })
}
