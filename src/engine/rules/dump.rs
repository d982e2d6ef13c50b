//! Listings of compiled rules, as text and as JSON.

use std::fmt::{self, Display};

use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::normalize::{Normalize, NormalizeStep};
use super::on_deny::DenialBody;
use super::tree::{Children, Node, Pattern};
use super::{NamedLimit, OnDeny, Penalty, Rule, RuleError, RuleErrors, Rules, SourceSpan};
use crate::engine::duration::GoForm;
use crate::engine::lockout::{Block, LockoutSchedule};
use crate::engine::reserve::Amount;
use crate::engine::usage::{Count, TokenKind, Weights};
use crate::engine::{Algorithm, Reserve, Unit};

/// Rule and its position in the tree.
struct Listed<'r> {
    rules: &'r Rules,
    domain: &'r str,
    /// Its name in full: `domain.key_value.key`.
    path: String,
    /// Levels as in rules, outermost first.
    levels: Vec<Value>,
    node: &'r Node,
    rule: &'r Rule,
}

/// A rule and its position.
#[derive(Clone, Debug)]
pub struct PlacedRule<'r> {
    /// Domain of the rule.
    pub domain: &'r str,
    /// The rule.
    pub rule: &'r Rule,
    /// Source of the rule.
    pub source: &'r str,
    /// Position in its source.
    pub span: SourceSpan,
    /// The position as a path, in a source that is not text.
    pub path: Option<String>,
}

impl Rules {
    /// Text with a line for each limit, in the order of the files. A line begins in the format of
    /// envoyproxy/ratelimit; tollgate's own fields follow.
    pub fn dump_text(&self) -> String {
        self.listed().iter().map(Listed::lines).collect()
    }

    /// Rules with all their fields, in the order of the files.
    pub fn dump_json(&self) -> Value {
        json!({ "rules": self.listed().iter().map(Listed::json).collect::<Vec<_>>() })
    }

    /// Notes on fixed windows of a week, a month or a year, which differ from those of the calendar.
    pub fn notes(&self) -> RuleErrors {
        let mut notes = RuleErrors::default();
        for listed in self.listed() {
            for NamedLimit { limit, .. } in listed.rule.limits() {
                let is_fixed = limit.algorithm == Algorithm::FixedWindow && limit.window.calendar().is_none();
                let (begins, unit) = match limit.unit().filter(|_| is_fixed) {
                    Some(Unit::Week) => ("begins on a Thursday", "week"),
                    Some(Unit::Month) => {
                        ("is 30 days, counted from 1970, not a month of the calendar", "month")
                    }
                    Some(Unit::Year) => {
                        ("is 365 days, counted from 1970, not a year of the calendar", "year")
                    }
                    _ => continue,
                };
                let message = format!(
                    "the {unit} of '{}' {begins}: write 'timezone: UTC', or another time zone, for the calendar's",
                    listed.path
                );
                notes.push(listed.error(message));
            }
        }
        notes
    }

    /// Every rule with its position, in the order of the files.
    pub fn placed(&self) -> Vec<PlacedRule<'_>> {
        self.listed()
            .into_iter()
            .filter_map(|listed| {
                let (source, span) = self.origin(listed.node)?;
                let path = self.path_of(listed.node);
                Some(PlacedRule { domain: listed.domain, rule: listed.rule, source, span, path })
            })
            .collect()
    }

    fn listed(&self) -> Vec<Listed<'_>> {
        let mut listed = Vec::new();
        for domain in self.domains() {
            list((self, domain.name()), (domain.name(), &[]), &domain.children, &mut listed);
        }
        listed.sort_by_key(|listed| listed.node.order);
        listed
    }
}

fn list<'r>(
    of: (&'r Rules, &'r str),
    above: (&str, &[Value]),
    children: &'r Children,
    listed: &mut Vec<Listed<'r>>,
) {
    for node in children.nodes() {
        let path = format!("{}.{}", above.0, node.composite());
        let levels = [above.1, &[level(node, children.normalize(&node.key))]].concat();
        list(of, (&path, &levels), &node.children, listed);
        if let Some(rule) = &node.rule {
            let (rules, domain) = of;
            listed.push(Listed { rules, domain, path, levels, node, rule });
        }
    }
}

/// Level in the format of rules; `normalize` is that of its key.
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
    fn lines(&self) -> String {
        let limits = self.rule.limits();
        let lines: Vec<_> = limits.iter().enumerate().map(|(index, limit)| self.line(limit, index)).collect();
        if lines.is_empty() { self.reference("UNKNOWN", 0) + ", unlimited: true\n" } else { lines.concat() }
    }

    /// Beginning of a line: what envoyproxy/ratelimit shows.
    fn reference(&self, unit: &str, requests_per_unit: u32) -> String {
        let Rule { shadow_mode, quota_mode, .. } = self.rule;
        format!(
            "{}: unit={unit} requests_per_unit={requests_per_unit}, shadow_mode: {shadow_mode}, quota_mode: \
             {quota_mode}",
            self.path
        )
    }

    fn line(&self, NamedLimit { limit, name, lease }: &NamedLimit, index: usize) -> String {
        let unit = limit.unit();
        let window = if limit.is_concurrency() { "ttl" } else { "window" };
        let mut line = self.reference(unit.map_or("UNKNOWN", Unit::name), limit.requests_per_unit);
        let mut add = |field: &str, value: &dyn Display| line += &format!(", {field}: {value}");
        if unit.is_none() {
            add(window, &Secs(limit.window.secs()));
        }
        if let Some(calendar) = limit.window.calendar() {
            add("timezone", &calendar.zone.name());
        }
        if limit.algorithm != Algorithm::FixedWindow {
            add("algorithm", &limit.algorithm.name());
        }
        if let Algorithm::TokenBucket { burst } = limit.algorithm {
            add("burst", &burst);
        }
        if let Some(terms) = lease {
            let hold = GoForm(terms.hold());
            add("lease", &format!("up to {} for {hold} below {}", terms.max, terms.ceiling));
        }
        let limits = self.rule.limits().len();
        if limits > 1 {
            add("limit", &format!("{} of {limits}", index + 1));
            name.iter().for_each(|name| add("name", name));
        }
        if let Some(max_hits) = self.rule.max_hits {
            add("max_hits", &max_hits);
        }
        if let Some(reserve) = &self.rule.reserve {
            let (amount, ttl) = (reserve.amount_of(*limit), Secs(reserve.ttl_secs));
            add(
                "reserve",
                &match reserve.amount {
                    Amount::Fixed(_) => format!("{amount} for {ttl}"),
                    Amount::Auto(_) => format!("auto ({amount} now) for {ttl}"),
                },
            );
        }
        if let Some(penalty) = self.rule.penalty.as_ref().filter(|_| index == 0) {
            let LockoutSchedule { after, within_secs, steps, .. } = &*penalty.schedule;
            let blocks: Vec<_> = steps.iter().map(block_text).collect();
            let within = Secs(*within_secs);
            add("penalty", &format!("after {after} within {within} block {}", blocks.join(" ")));
        }
        line + "\n"
    }

    fn error(&self, message: String) -> RuleError {
        let mut error = RuleError::of_source("", message);
        if let Some((source, span)) = self.rules.origin(self.node) {
            (error.source, error.span) = (source.to_owned(), span);
            error.path = self.rules.path_of(self.node);
        }
        error
    }

    fn json(&self) -> Value {
        let Rule { replaces, charge, on_backend_failure, shadow_mode, quota_mode, metadata, .. } = self.rule;
        let origin = self.rules.origin(self.node);
        let position = self.rules.path_of(self.node);
        let mut rule = json!({
            "domain": self.domain,
            "path": self.path,
            "file": origin.map(|(source, _)| source),
            "line": origin.filter(|_| position.is_none()).map(|(_, span)| span.line),
            "position": position,
            "levels": self.levels,
            "name": self.rule.limits().first().and_then(|limit| limit.name.as_deref()),
            "replaces": replaces,
            "layer": self.rule.layer.as_ref().map(|layer| layer.name()),
            "penalty": self.rule.penalty.as_ref().map(|penalty| self.penalty_json(penalty)),
            "reserve": self.rule.reserve.as_ref().map(|reserve| reserve_json(reserve, self.rule.limits())),
            "on_deny": self.rule.on_deny.as_deref().map(on_deny_json),
            "charge": charge.name(),
            "max_hits": self.rule.max_hits,
            "headers": self.rule.headers.name(),
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
        let LockoutSchedule { after, within_secs, steps, forget_secs, extend } = &*penalty.schedule;
        let scope = penalty.scope.iter().filter_map(|level| self.levels.get(*level)?.get("key"));
        json!({
            "name": penalty.name,
            "after": after,
            "within_secs": within_secs,
            "block_secs": steps.iter().map(block_json).collect::<Vec<_>>(),
            "forget_secs": forget_secs,
            "extend": extend,
            "scope": scope.collect::<Vec<_>>(),
        })
    }
}

fn count_json(count: &Count) -> Value {
    match count {
        Count::Cost => "cost".into(),
        Count::Tokens(Weights::TOKENS) => "tokens".into(),
        Count::Tokens(weights) => {
            TokenKind::ALL.iter().map(|kind| (kind.name(), weights.of(*kind).to_string())).collect()
        }
    }
}

fn reserve_json(reserve: &Reserve, limits: &[NamedLimit]) -> Value {
    let Reserve { amount, max_percent, ttl_secs, count, on_look, terms } = reserve;
    let mut json = json!({
        "amount": match amount {
            Amount::Fixed(amount) => json!(amount),
            Amount::Auto(_) => json!("auto"),
        },
        "max_percent": max_percent,
        "ttl_secs": ttl_secs,
        "on_expiry": terms.on_expiry.name(),
        "memory_secs": terms.memory_secs,
        "count": count_json(count),
        "on_look": on_look,
    });
    if matches!(amount, Amount::Auto(_)) {
        json["estimates"] = limits.iter().map(|limit| reserve.amount_of(limit.limit)).collect();
    }
    json
}

fn limit_json(NamedLimit { limit, name, lease }: &NamedLimit) -> Value {
    if limit.is_concurrency() {
        let (max, ttl_secs) = (limit.requests_per_unit, limit.window.secs());
        return json!({ "concurrency": { "name": name, "max": max, "ttl_secs": ttl_secs } });
    }
    let calendar = limit.window.calendar();
    json!({
        "name": name,
        "requests_per_unit": limit.requests_per_unit,
        "unit": limit.unit().map(Unit::name),
        // Calendar windows differ in length.
        "window_secs": calendar.is_none().then(|| limit.window.secs()),
        "timezone": calendar.map(|calendar| calendar.zone.name()),
        "algorithm": limit.algorithm.name(),
        "burst": match limit.algorithm {
            Algorithm::TokenBucket { burst } => Some(burst),
            _ => None,
        },
        "lease": lease.map(|terms| {
            json!({ "hold_ms": terms.hold_us / 1_000, "ceiling": terms.ceiling, "max": terms.max })
        }),
    })
}

fn block_json(block: &Block) -> Value {
    match block {
        Block::Secs(secs) => json!(secs),
        Block::Permanent => json!("permanent"),
    }
}

fn block_text(block: &Block) -> String {
    match block {
        Block::Secs(secs) => Secs(*secs).to_string(),
        Block::Permanent => "permanent".to_owned(),
    }
}

/// Time as rules write it: `1h30m`.
struct Secs(u32);

impl Display for Secs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (name, secs) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if rest >= secs {
                write!(f, "{}{name}", rest / secs)?;
                rest %= secs;
            }
        }
        Ok(())
    }
}
