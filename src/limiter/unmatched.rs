//! Metric and log of descriptors without a rule, which pass and could be mistaken for descriptors within a
//! limit.

use tracing::Level;

use super::redact;
use crate::engine::{Decision, Request, Rules};

/// Counts the descriptors of `request` that no rule matched, by domain, and logs them at debug level. A domain
/// without rules is logged alone: its name is a client's, so it must not become a label.
pub(super) fn record(request: &Request<'_>, rules: &Rules, decision: &Decision<'_>) {
    let Some(domain) = rules.domain(request.domain) else {
        tracing::debug!(domain = redact::lossy(request.domain), "no rules for domain");
        return;
    };
    domain.add_unmatched(decision.unmatched);
    if tracing::event_enabled!(Level::DEBUG) {
        tracing::debug!(
            domain = redact::lossy(request.domain),
            descriptors = redact::descriptors(request, &[domain]),
            unmatched = decision.unmatched,
            "no rule for descriptor"
        );
    }
}
