//! Metric and log of descriptors without a rule, which pass and could be mistaken for descriptors within a
//! limit.

use tracing::Level;

use super::redact;
use crate::engine::{Decision, Request, Rules};

/// Counts the descriptors of `request` that no rule matched, by domain, and logs them at debug level.
pub(super) fn record(request: &Request<'_>, rules: &Rules, decision: &Decision<'_>) {
    let Some(domain) = rules.domain(request.domain) else { return };
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
