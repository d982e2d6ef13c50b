//! Log of denials: the request and the rule that denies it.

use tracing::Level;

use super::observe::denying_status;
use super::redact;
use super::sampler::Sampler;
use crate::engine::{Decision, Request, Rules, Status, Timestamp};

/// Sampler of the process: a flood of denials is one line a second over all cores.
static SAMPLER: Sampler = Sampler::new();

/// Logs a [`Line`], with more fields behind its own. A macro, since the level of an event is a constant.
macro_rules! log_line {
    ($level:ident, $line:expr $(, $more:ident)*) => {{
        let Line { domain, descriptors, layer, rule, limit, window_secs, locked_out, enforced } = $line;
        tracing::$level!(
            domain,
            descriptors,
            layer,
            rule,
            limit,
            window_secs,
            locked_out,
            enforced,
            $($more,)*
            "request denied"
        );
    }};
}

/// Logs that `decision` denies `request`, or would if its rule were enforced: always at debug level, at most
/// once a second at info level. At other levels it costs one comparison.
pub(super) fn log(request: &Request<'_>, rules: &Rules, decision: &Decision<'_>, now: Timestamp) {
    if !tracing::event_enabled!(Level::INFO) {
        return;
    }
    let Some((status, enforced)) = denying_status(decision) else { return };
    let line = || Line::of(request, rules, status, enforced);
    if tracing::event_enabled!(Level::DEBUG) {
        log_line!(debug, line());
    } else if let Some(unlogged) = SAMPLER.admit(now) {
        // Denials since the last line, which had none.
        log_line!(info, line(), unlogged);
    }
}

/// Fields of a log line.
struct Line<'d> {
    domain: String,
    descriptors: String,
    layer: Option<&'d str>,
    rule: Option<&'d str>,
    limit: Option<u32>,
    window_secs: Option<u32>,
    locked_out: bool,
    enforced: bool,
}

impl<'d> Line<'d> {
    fn of(request: &Request<'_>, rules: &Rules, status: &'d Status<'_>, enforced: bool) -> Self {
        let domain = rules.domain(request.domain);
        Self {
            domain: redact::lossy(request.domain),
            descriptors: redact::descriptors(request, domain.as_slice()),
            layer: status.rule.and_then(|rule| rule.layer.as_deref()).map(|layer| layer.name()),
            rule: status.name.or(status.rule.map(|rule| &*rule.path)),
            limit: status.limit.map(|limit| limit.requests_per_unit),
            window_secs: status.limit.map(|limit| limit.nominal_secs()),
            locked_out: status.locked_out,
            enforced,
        }
    }
}
