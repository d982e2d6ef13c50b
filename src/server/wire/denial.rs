//! Properties of a denial that all answers share: the rule, the kind of its limit, the wait, and the body of
//! `on_deny`.

use std::borrow::Cow;

use http::HeaderValue;
use serde_json::json;

use super::names::{layer, policy_names, rule};
use super::whole_secs;
use crate::engine::reserve::BudgetStatus;
use crate::engine::rules::RateLimitHeaders;
use crate::engine::rules::on_deny::{DenialBody, DenialFacts, OnDeny, TextKind};
use crate::engine::{Code, Decision, OverrideKind, Status, overrides};

/// Problem type for an exceeded quota, as registered with IANA (draft-ietf-httpapi-ratelimit-headers).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Denial of a request.
pub(super) struct Denial<'d, 'r> {
    decision: &'d Decision<'r>,
    /// Status that denies the request.
    status: &'d Status<'r>,
}

/// Body of a denial and its media type.
pub(super) struct Body {
    pub(super) content_type: HeaderValue,
    pub(super) text: String,
}

impl<'d, 'r> Denial<'d, 'r> {
    /// Denial in `decision`; `None` if the request passes.
    pub(super) fn of(decision: &'d Decision<'r>) -> Option<Self> {
        decision.denial().map(|status| Self { decision, status })
    }

    /// Name of the layer that denies, if it has one.
    pub(super) fn layer(&self) -> Option<&'d str> {
        layer(self.status)
    }

    /// Name of the rule that denies.
    pub(super) fn rule(&self) -> Option<Cow<'d, str>> {
        rule(self.status)
    }

    /// Kind of limit that denies: the name of its algorithm, `lockout`, or `override` for a block by an operator.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self.status.locked_out {
            true => Some("lockout"),
            false if self.is_blocked() => Some(overrides::NAME),
            false => self.status.limit.map(|limit| limit.algorithm.name()),
        }
    }

    /// True if headers may show the limit.
    pub(super) fn is_shown(&self) -> bool {
        self.status.rule.is_none_or(|rule| rule.headers == RateLimitHeaders::All)
    }

    /// True if an operator has blocked the descriptor.
    pub(super) fn is_blocked(&self) -> bool {
        self.status.overridden == Some(OverrideKind::Block)
    }

    /// True if the limit never admits a request of this size.
    pub(super) fn is_larger_than_limit(&self) -> bool {
        self.status.larger_than_limit
    }

    /// State of the budget that denies, if it is one.
    pub(super) fn budget(&self) -> Option<&'d BudgetStatus> {
        self.status.budget.as_ref()
    }

    /// Whole seconds until the request would pass, at least 1: the longest wait of all exceeded limits, so that
    /// no other limit denies the request after the wait.
    pub(super) fn retry_after_secs(&self) -> u64 {
        let over = self.decision.statuses.iter().filter(|status| status.code == Code::OverLimit);
        over.filter_map(|status| status.reset).map(whole_secs).max().unwrap_or_default().max(1)
    }

    /// `on_deny` of the rule that denies.
    pub(super) fn on_deny(&self) -> Option<&'d OnDeny> {
        self.status.rule?.on_deny.as_deref()
    }

    /// Body of `on_deny`.
    pub(super) fn body(&self) -> Option<Body> {
        match self.on_deny()?.body.as_ref()? {
            DenialBody::Problem => {
                let content_type = HeaderValue::from_static("application/problem+json");
                Some(Body { content_type, text: self.problem() })
            }
            DenialBody::Text { template, content_type } => {
                let facts = DenialFacts {
                    limit: self.status.limit.map_or(0, |limit| limit.requests_per_unit),
                    remaining: self.status.remaining,
                    reset_secs: self.retry_after_secs(),
                    layer: self.layer().unwrap_or_default(),
                    rule: &self.rule().unwrap_or_default(),
                };
                let text = template.render(&facts, TextKind::of(content_type));
                Some(Body { content_type: content_type.clone(), text })
            }
        }
    }

    /// Message for people.
    pub(super) fn sentence(&self) -> String {
        let of_layer = self.layer().map(|layer| format!(" of layer '{layer}'")).unwrap_or_default();
        if self.status.locked_out {
            let secs = self.retry_after_secs();
            return format!("Denied too often by the limit{of_layer}: locked out for {secs} s.");
        }
        if self.status.larger_than_limit {
            return format!("The request is larger than the limit{of_layer}, and can never pass.");
        }
        if self.is_blocked() {
            return format!("Blocked by an operator. Try again in {} s.", self.retry_after_secs());
        }
        let Some(limit) = self.status.limit else {
            return format!("The request is denied. Try again in {} s.", self.retry_after_secs());
        };
        if limit.is_concurrency() {
            let (max, secs) = (limit.requests_per_unit, self.retry_after_secs());
            return format!(
                "The limit{of_layer} is {max} requests in flight. Try again when one has ended, at most in {secs} s."
            );
        }
        format!(
            "The limit{of_layer} is {} in {} s. Try again in {} s.",
            limit.requests_per_unit,
            limit.nominal_secs(),
            self.retry_after_secs()
        )
    }

    /// Problem document (RFC 9457).
    fn problem(&self) -> String {
        let names = policy_names(self.decision);
        let over =
            self.decision.statuses.iter().zip(names).filter(|(status, _)| status.code == Code::OverLimit);
        let problem = json!({
            "type": QUOTA_EXCEEDED,
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "status": 429,
            "detail": self.sentence(),
            "limit": self.status.limit.map(|limit| limit.requests_per_unit),
            "remaining": self.status.remaining,
            "resetIn": self.status.reset.map(whole_secs),
            "retryAfter": self.retry_after_secs(),
            "layer": self.layer(),
            "violated-policies": over.filter_map(|(_, name)| name).collect::<Vec<_>>(),
        });
        problem.to_string()
    }
}
