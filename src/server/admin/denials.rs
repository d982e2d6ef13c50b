//! The last denials, as the API and the console show them.

use super::Admin;
use super::views::{LimitView, RuleName, RuleNames, is_named};
use crate::engine::Timestamp;
use crate::engine::rules::Rule;
use crate::limiter::observe::Denial;
use crate::limiter::overrides::EntryText;
use crate::server::schema::{replies, requests};

replies! {
    /// A denial.
    struct DenialView {
        /// Milliseconds since the epoch.
        at_ms: u64,
        /// Domain.
        domain: String,
        /// Descriptors of the request as text: `user=alice; path=/login,remote_address=10.0.0.1`.
        descriptors: String,
        /// Descriptors in the form that `POST /api/v1/explain` takes; `null` if a text was cut, hashed or is not UTF-8.
        request: Option<Vec<DescriptorView>>,
        /// Path of the rule that denied; `null` for a limit that the caller set.
        rule: Option<String>,
        /// Position of the rule, such as `shop.yaml:14`; `null` if the rule is no longer in force.
        source: Option<String>,
        /// Name of the limit, or of the lockout; `null` if it has none.
        name: Option<String>,
        /// Layer of that rule.
        layer: Option<String>,
        /// Limit that was exceeded.
        limit: Option<LimitView>,
        /// Hits that counted towards the limit; for a budget, holds included.
        used: Option<u64>,
        /// Seconds until the request would pass.
        wait_secs: Option<u64>,
        /// Reason.
        reason: &'static str = { "enum": [
            "over_limit", "deny_cache", "locked_out", "larger_than_limit", "held", "too_many_holds",
            "blocked_by_override", "store_failed",
        ] },
        /// False if the request passed, because of shadow mode.
        enforced: bool,
    }
    /// A descriptor of a request.
    struct DescriptorView {
        /// Entries, outermost first.
        entries: Vec<EntryText>,
    }
}

requests! {
    /// Parameters of the denials.
    struct DenialQuery {
        /// Path of a rule, its position, or the name of a limit: `shop.user`, `shop.yaml:14`, `per-minute`.
        rule: Option<String>,
        /// Layer.
        layer: Option<String>,
        /// Text within the descriptors.
        q: Option<String>,
        /// Upper bound on the items; 100 by default, at most 1,000.
        limit: Option<u32>,
    }
}

impl DenialView {
    fn of(denial: Denial, names: &RuleNames) -> Self {
        let entry = |(key, value)| EntryText { key, value };
        let descriptor =
            |entries: Vec<_>| DescriptorView { entries: entries.into_iter().map(entry).collect() };
        Self {
            at_ms: denial.at.as_micros() / 1_000,
            domain: denial.domain,
            descriptors: denial.descriptors,
            request: denial.entries.map(|of| of.into_iter().map(descriptor).collect()),
            source: source(denial.rule.as_deref(), names).map(str::to_owned),
            rule: denial.rule,
            name: denial.name,
            layer: denial.layer,
            limit: denial.limit.map(LimitView::from),
            used: denial.used,
            wait_secs: denial.wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            reason: denial.reason.name(),
            enforced: denial.enforced,
        }
    }
}

/// Position of the rule with this path, if it is in force.
fn source<'n>(rule: Option<&str>, names: &'n RuleNames) -> Option<&'n str> {
    names.get(&Rule::id_of(rule?)).map(RuleName::source)
}

impl DenialQuery {
    /// One for the denials of the rule or limit of this name.
    pub(in crate::server) const fn of_rule(rule: String) -> Self {
        Self { rule: Some(rule), layer: None, q: None, limit: None }
    }

    fn is_wanted(&self, denial: &Denial, names: &RuleNames) -> bool {
        let is_of_rule = |rule: &str| {
            let path = denial.rule.as_deref();
            denial.name.as_deref() == Some(rule) || is_named(rule, path, source(path, names))
        };
        written(self.rule.as_deref()).is_none_or(is_of_rule)
            && written(self.layer.as_deref()).is_none_or(|layer| denial.layer.as_deref() == Some(layer))
            && self.q.as_ref().is_none_or(|q| denial.descriptors.contains(q.as_str()))
    }
}

/// Text of a field; an empty field of a form is none.
fn written(field: Option<&str>) -> Option<&str> {
    field.filter(|text| !text.is_empty())
}

impl Admin {
    /// The last denials that `query` asks for, newest first, at most `limit`.
    pub(in crate::server) fn denials(&self, query: &DenialQuery, limit: usize) -> Vec<DenialView> {
        self.denials_after(Timestamp::from_secs(0), Some(query), limit)
    }

    /// The last denials after `after`, newest first, at most `limit`.
    pub(super) fn denials_after(
        &self,
        after: Timestamp,
        query: Option<&DenialQuery>,
        limit: usize,
    ) -> Vec<DenialView> {
        let names = self.rule_names();
        let is_wanted = |denial: &Denial| query.is_none_or(|query| query.is_wanted(denial, &names));
        let denials = self.observer.denials(after, is_wanted, limit).into_iter();
        denials.map(|denial| DenialView::of(denial, &names)).collect()
    }
}
