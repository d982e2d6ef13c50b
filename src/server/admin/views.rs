//! Data that the API and the console show.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Admin;
use super::latency::LatencyView;
use super::loads::hash_text;
use super::rates::Rate;
use crate::engine::rules::{PlacedRule, Rule};
use crate::engine::text::one_line_of_bytes;
use crate::engine::{HitCounts, Limit, Reserve, Timestamp};
use crate::limiter::observe::{TopBy, TopKey};
use crate::limiter::overrides::{ActiveOverride, EntryText, Subject};
use crate::provider;
use crate::server::schema::replies;

/// Upper bound on a key or value from a request, in characters.
const MAX_TEXT: usize = 128;

replies! {
    /// State of the replica at one glance.
    struct Summary {
        /// Version of the program.
        version: &'static str,
        /// Seconds since the epoch.
        now: u64,
        /// Seconds since the start of the replica.
        uptime_secs: u64,
        /// Hits per second, over the last 10 seconds.
        hits_per_sec: f64,
        /// Hits over a limit per second.
        over_limit_per_sec: f64,
        /// Hits over a limit per second that passed because of shadow mode.
        shadow_per_sec: f64,
        /// Hits per second within their limit, but above its near-limit mark.
        near_limit_per_sec: f64,
        /// Time from a call to its answer; `null` if there were no calls.
        response_time: Option<LatencyView>,
        /// Time from a charge to the store's answer; `null` if there were no charges.
        store_latency: Option<LatencyView>,
        /// Replicas that share the store.
        replicas: usize,
        /// True if all of them have the same rules in force.
        same_rules: bool,
        /// Rules in force, and errors of the latest load.
        config: Config,
    }
    /// Rules in force, and errors of the latest load.
    struct Config {
        /// Domains in force.
        domains: usize,
        /// Rules in force.
        rules: usize,
        /// Hash of these rules: the same on replicas with the same rules.
        rules_hash: String,
        /// Seconds since the epoch; `null` before the first rules.
        loaded_at: Option<u64>,
        /// Errors in rules, of which an earlier version is in force.
        errors: Vec<String>,
    }
    /// A rule with its totals since it was loaded, and its latest rates.
    struct RuleView {
        /// Path of the rule, such as `shop.user`.
        rule: String,
        /// Position of the rule, such as `shop.yaml:14`; `null` for a name that is not a rule in force, such as one
        /// with values of a request.
        source: Option<String>,
        /// Hits since the rule was loaded.
        hits: u64,
        /// Hits over the limit.
        over_limit: u64,
        /// Hits within the limit, but above its near-limit mark.
        near_limit: u64,
        /// Hits over the limit that passed because of shadow mode.
        shadow: u64,
        /// Hits per second, over the last 10 seconds.
        hits_per_sec: f64,
        /// Hits over the limit per second.
        over_limit_per_sec: f64,
        /// Limits of the rule; none if the rule is not in force, or has no limit.
        limits: Vec<RuleLimitView>,
        /// True if the rule is counted and not enforced.
        shadow_mode: bool,
        /// End of the shadow mode that an operator has set, in seconds since the epoch; `null` if none is set.
        shadow_ends_at: Option<u64>,
        /// Largest share of its limit that one counter has used. Only counters that were observed in the last 5 minutes
        /// and have not reset since are considered.
        highest_use: Option<f64>,
    }
    /// A counter.
    struct TopView {
        /// Domain; empty for keys in the format of envoyproxy/ratelimit.
        domain: String,
        /// Entries as counted: `user=alice,path=/login`.
        key: String,
        /// Entries in the form that other calls take; `null` if they are not known exactly, or not UTF-8.
        descriptor: Option<Vec<EntryText>>,
        /// Path of the rule; `null` for a limit in the request, or a rule that is no longer in force.
        rule: Option<String>,
        /// Position of the rule, such as `shop.yaml:14`.
        source: Option<String>,
        /// Limit of the counter.
        limit: LimitView,
        /// Estimate for the window.
        count: u64,
        /// Upper bound on the amount by which `count` is too high.
        error: u64,
        /// Hits that counted towards the limit at the last observation; for a budget, holds included.
        used: u64,
        /// True while the counter is over its limit.
        over_limit: bool,
        /// Seconds until the counter passes again if it is over its limit, else until its reset; 0 if that is past.
        resets_in_secs: u64,
    }
    /// A limit of a rule.
    struct RuleLimitView {
        /// Requests per window; in flight, of a concurrency limit.
        requests: u32,
        /// Length of the window in seconds; TTL of a place, of a concurrency limit.
        window_secs: u32,
        /// Algorithm.
        algorithm: &'static str,
        /// Amount that a request holds, if the limit is a budget; `null` for other limits.
        reserve: Option<ReserveView>,
    }
    /// Amount that a request holds of a budget.
    struct ReserveView {
        /// Amount that a request holds if it names none: that of the rule, or less where the limit has less.
        reserve: u32,
        /// TTL of a hold in seconds.
        ttl_secs: u32,
    }
    /// A limit.
    struct LimitView {
        /// Requests per window; in flight, of a concurrency limit.
        requests: u32,
        /// Length of the window in seconds; TTL of a place, of a concurrency limit.
        window_secs: u32,
        /// Algorithm.
        algorithm: &'static str,
    }
    /// Rates at one time.
    struct PointView {
        /// Seconds since the epoch.
        at: u64,
        /// Hits per second.
        hits_per_sec: f64,
        /// Hits over a limit per second.
        over_limit_per_sec: f64,
        /// Hits over a limit per second that passed because of shadow mode.
        shadow_per_sec: f64,
    }
}

impl From<Limit> for LimitView {
    fn from(limit: Limit) -> Self {
        Self {
            requests: limit.requests_per_unit,
            window_secs: limit.nominal_secs(),
            algorithm: limit.algorithm.name(),
        }
    }
}

impl RuleLimitView {
    fn of(limit: Limit, reserve: Option<&Reserve>) -> Self {
        let LimitView { requests, window_secs, algorithm } = limit.into();
        let reserve = reserve
            .map(|reserve| ReserveView { reserve: reserve.amount_of(limit), ttl_secs: reserve.ttl_secs });
        Self { requests, window_secs, algorithm, reserve }
    }
}

/// Prefix of a digest, which replaces a long text in a counter's key.
const DIGEST: &str = "sha256:";

/// Window of the highest use, in seconds.
const USE_WINDOW_SECS: u64 = 300;

/// Largest share of its limit that a counter of each rule has used, by [`Rule::id`].
type HighestUse = HashMap<u32, f64>;

/// Names of rules by [`Rule::id`].
pub(super) type RuleNames = HashMap<u32, RuleName>;

/// Names of a rule.
#[derive(Debug)]
pub(super) struct RuleName {
    path: String,
    source: String,
    limits: Vec<RuleLimitView>,
    shadow_mode: bool,
}

/// Position of a rule: `shop.yaml:14`, or its path within a source that is not text.
pub(super) fn position(placed: &PlacedRule<'_>) -> String {
    match &placed.path {
        Some(path) => format!("{}: {path}", placed.source),
        None => format!("{}:{}", placed.source, placed.span.line),
    }
}

/// True if `wanted` names the rule with this path at this position: by the path, or by the position whatever the folder.
pub(super) fn is_named(wanted: &str, path: Option<&str>, position: Option<&str>) -> bool {
    let is_at = |position: &str| {
        let folder = position.strip_suffix(wanted);
        folder.is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    };
    path == Some(wanted) || position.is_some_and(is_at)
}

impl RuleName {
    /// Position of the rule, such as `shop.yaml:14`.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Path of the rule: `shop.user`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn of(placed: &PlacedRule<'_>) -> Self {
        let reserve = placed.rule.reserve.as_ref();
        let limits =
            placed.rule.limits().iter().map(|limit| RuleLimitView::of(limit.limit, reserve)).collect();
        let (path, source) = (placed.rule.path.to_string(), position(placed));
        Self { path, source, limits, shadow_mode: placed.rule.shadow_mode }
    }
}

/// Entries of a counter; `None` if they are not UTF-8, or if a long text is represented by its digest.
fn descriptor(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Vec<EntryText>> {
    let text = |bytes| String::from_utf8(bytes).ok().filter(|text| !text.starts_with(DIGEST));
    entries.into_iter().map(|(key, value)| Some(EntryText { key: text(key)?, value: text(value)? })).collect()
}

impl RuleView {
    fn of(
        (rule, counts, rate): (String, HitCounts, Rate),
        names: &RuleNames,
        highest_use: &HighestUse,
        shadows: &HashMap<String, Timestamp>,
    ) -> Self {
        let id = Rule::id_of(&rule);
        let name = names.get(&id);
        let shadow_ends_at = shadows.get(&rule).filter(|_| name.is_some()).map(|ends_at| ends_at.as_secs());
        Self {
            source: name.map(|name| name.source.clone()),
            limits: name.map(|name| name.limits.clone()).unwrap_or_default(),
            shadow_mode: name.is_some_and(|name| name.shadow_mode) || shadow_ends_at.is_some(),
            shadow_ends_at,
            highest_use: highest_use.get(&id).copied(),
            rule,
            hits: counts.total_hits,
            over_limit: counts.over_limit,
            near_limit: counts.near_limit,
            shadow: counts.shadow_mode,
            hits_per_sec: rate.hits,
            over_limit_per_sec: rate.over,
        }
    }
}

impl Config {
    pub(super) fn of(status: &provider::Status) -> Self {
        let errors = status.error.iter().flat_map(|errors| errors.reported.iter().map(ToString::to_string));
        Self {
            domains: status.domains,
            rules: status.rules,
            rules_hash: hash_text(status.rules_hash),
            loaded_at: status.loaded_at.map(Timestamp::as_secs),
            errors: errors.collect(),
        }
    }
}

impl Admin {
    pub(in crate::server) fn summary(&self) -> Summary {
        let rate = self.rates.latest();
        let (now, fleet) = (self.clock.now(), self.fleet());
        Summary {
            version: env!("CARGO_PKG_VERSION"),
            now: now.as_secs(),
            uptime_secs: now.since(self.started_at).as_secs(),
            hits_per_sec: rate.hits,
            over_limit_per_sec: rate.over,
            shadow_per_sec: rate.shadow,
            near_limit_per_sec: rate.near,
            response_time: self.response_time.latest(),
            store_latency: self.store_latency.latest(),
            replicas: fleet.replicas.len(),
            same_rules: fleet.same_rules,
            config: self.config(),
        }
    }

    pub(in crate::server) fn config(&self) -> Config {
        Config::of(&self.rules_status.borrow())
    }

    /// Rules in the order of their denials, then of their hits.
    pub(in crate::server) fn rules(&self) -> Vec<RuleView> {
        let names = self.rule_names();
        let rules = self.rates.with_rates(self.rule_totals()).into_iter();
        let (highest_use, shadows) = (self.highest_use(), self.shadow_ends());
        let mut rules: Vec<_> =
            rules.map(|rule| RuleView::of(rule, &names, &highest_use, &shadows)).collect();
        rules.sort_by(|one, other| {
            let weight = |rule: &RuleView| (rule.over_limit_per_sec, rule.hits_per_sec);
            let ((over, hits), (other_over, other_hits)) = (weight(one), weight(other));
            other_over
                .total_cmp(&over)
                .then(other_hits.total_cmp(&hits))
                .then_with(|| one.rule.cmp(&other.rule))
        });
        rules
    }

    /// Ends of the shadow modes that operators have set, by the path of the rule.
    fn shadow_ends(&self) -> HashMap<String, Timestamp> {
        let ends = |active: ActiveOverride| match active.record.subject {
            Subject::Shadow { rule, .. } => Some((rule, active.ends_at)),
            Subject::Block { .. } | Subject::Exempt { .. } | Subject::Limit { .. } => None,
        };
        self.overrides.active().into_iter().filter_map(ends).collect()
    }

    fn highest_use(&self) -> HighestUse {
        let (used, _) = self.observer.top(TopBy::Use, USE_WINDOW_SECS, usize::MAX, self.clock.now());
        let mut highest = HighestUse::new();
        for key in used {
            // Highest first.
            highest.entry(key.rule).or_insert(key.used as f64 / f64::from(key.limit.capacity().max(1)));
        }
        highest
    }

    /// The first `limit` counters of the last `window_secs`, only of the rule `rule` if it is given; and the time at
    /// which their window begins.
    pub(in crate::server) fn top(
        &self,
        by: TopBy,
        window_secs: u64,
        rule: Option<&str>,
        limit: usize,
    ) -> (Vec<TopView>, u64) {
        let now = self.clock.now();
        let wanted = if rule.is_some() { usize::MAX } else { limit };
        let (top, from) = self.observer.top(by, window_secs, wanted, now);
        let names = self.rule_names();
        let views = top.into_iter().map(|key| self.top_view(&key, &names, now));
        let is_wanted = |view: &TopView| {
            rule.is_none_or(|rule| is_named(rule, view.rule.as_deref(), view.source.as_deref()))
        };
        let views = views.filter(is_wanted);
        (views.take(limit).collect(), from)
    }

    /// Names of the rules in force. They are collected once for each set of rules.
    pub(super) fn rule_names(&self) -> Arc<RuleNames> {
        let rules = self.rules.load_full();
        let current = rules.as_ref().map(Arc::downgrade).unwrap_or_default();
        let mut known = self.rule_names.lock();
        if !Weak::ptr_eq(&known.0, &current) {
            let placed = rules.iter().flat_map(|rules| rules.placed());
            let names = placed.map(|placed| (placed.rule.id, RuleName::of(&placed))).collect();
            *known = (current, Arc::new(names));
        }
        Arc::clone(&known.1)
    }

    fn top_view(&self, top: &TopKey, names: &RuleNames, now: Timestamp) -> TopView {
        let name = names.get(&top.rule);
        let text = |bytes: &[u8]| one_line_of_bytes(bytes, MAX_TEXT);
        let (domain, key, descriptor) = match self.keys.parse_counter_key(&top.key) {
            Some(parts) => {
                let entry = |(key, value): &(Vec<u8>, Vec<u8>)| format!("{}={}", text(key), text(value));
                let entries: Vec<_> = parts.entries.iter().map(entry).collect();
                (text(&parts.domain), entries.join(","), descriptor(parts.entries))
            }
            None => (String::new(), one_line_of_bytes(&top.key, 4 * MAX_TEXT), None),
        };
        TopView {
            domain,
            key,
            descriptor,
            rule: name.map(|name| name.path.clone()),
            source: name.map(|name| name.source.clone()),
            limit: top.limit.into(),
            count: top.count,
            error: top.error,
            used: top.used,
            over_limit: top.is_over && top.resets_at > now,
            resets_in_secs: top.resets_at.since(now).as_secs(),
        }
    }

    /// Path of the rule that `wanted` names, by its path or its position; `None` if there is none.
    pub(super) fn rule_path(&self, wanted: &str) -> Option<String> {
        let names = self.rule_names();
        let named = names.values().find(|name| is_named(wanted, Some(&name.path), Some(&name.source)));
        let path = named.map(|name| name.path.clone());
        path.or_else(|| self.rates.knows(wanted).then(|| wanted.to_owned()))
    }

    /// Rates of the last `secs`, of all rules or of the one with this path.
    pub(in crate::server) fn series(&self, secs: u64, rule: Option<&str>) -> Vec<PointView> {
        let now = self.clock.now().as_secs();
        let points = self.rates.since(Timestamp::from_secs(now.saturating_sub(secs)), rule);
        let view = |point: super::rates::Point| PointView {
            at: point.at.as_secs(),
            hits_per_sec: point.rate.hits,
            over_limit_per_sec: point.rate.over,
            shadow_per_sec: point.rate.shadow,
        };
        points.into_iter().map(view).collect()
    }
}
