//! Names of the layer, rule, unit and policy of a descriptor.

use std::borrow::Cow;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::duration::ShortForm;
use crate::engine::{Decision, Limit, Status, Unit};
use crate::pb;

/// Name of unnamed policies.
const UNNAMED_POLICY: &str = "default";

/// Name of the layer that applied to a descriptor, if it has one.
pub(super) fn layer<'d>(status: &'d Status<'_>) -> Option<&'d str> {
    status.rule?.layer.as_deref().map(|layer| layer.name())
}

/// Name of the limit that applied to a descriptor, else the path of its rule. `None` if no rule applied.
pub(super) fn rule<'d>(status: &'d Status<'_>) -> Option<Cow<'d, str>> {
    let path = status.rule.map(|rule| &*rule.path);
    status.name.or(path).map(Cow::Borrowed)
}

/// Rule and limit that applied to a descriptor, for `tollgate query`: the protocol has neither the rule, nor requests in
/// flight, nor windows of any length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedRule {
    /// Name of the limit, else the path of the rule; `None` if no rule applied.
    pub rule: Option<String>,
    /// `5 per minute`, `3 in flight`; `None` without a limit.
    pub limit: Option<String>,
}

/// Rules of a decision, in the order of its descriptors, as a JSON list of [`AppliedRule`].
pub fn applied_rules(decision: &Decision<'_>) -> String {
    let applied = |status: &Status<'_>| {
        json!(AppliedRule { rule: rule(status).map(Cow::into_owned), limit: status.limit.map(limit_text) })
    };
    Value::from_iter(decision.statuses.iter().map(applied)).to_string()
}

fn limit_text(limit: Limit) -> String {
    let count = limit.requests_per_unit;
    if limit.is_concurrency() {
        return format!("{count} in flight");
    }
    match limit.unit() {
        Some(unit) => format!("{count} per {}", unit.name().to_ascii_lowercase()),
        None => format!("{count} per {}", ShortForm(limit.window.secs().into())),
    }
}

/// Unit of the protocol for the window of `limit`.
pub(super) fn unit(limit: Limit) -> pb::Unit {
    match limit.unit() {
        Some(Unit::Second) => pb::Unit::Second,
        Some(Unit::Minute) => pb::Unit::Minute,
        Some(Unit::Hour) => pb::Unit::Hour,
        Some(Unit::Day) => pb::Unit::Day,
        Some(Unit::Week) => pb::Unit::Week,
        Some(Unit::Month) => pb::Unit::Month,
        Some(Unit::Year) => pb::Unit::Year,
        // The protocol has no unit for other windows.
        None => pb::Unit::Unknown,
    }
}

/// Policy names of a decision, one for each status; `None` if no limit applied. The name is that of the limit,
/// else of its layer, else `default`. Further policies with the same name become `name-2` and so on, since
/// names identify the items of a list. Names are printable ASCII.
pub(super) fn policy_names(decision: &Decision<'_>) -> Vec<Option<String>> {
    let written = |status: &Status<'_>| {
        let name = || status.name.or(layer(status)).unwrap_or(UNNAMED_POLICY);
        status.limit.map(|_| printable(name()))
    };
    let mut seen = HashMap::<String, u32, RandomState>::default();
    let mut numbered = |status| {
        let name = written(status)?;
        let count = seen.entry_ref(name.as_str()).or_insert(0);
        *count += 1;
        Some(if *count == 1 { name } else { format!("{name}-{count}") })
    };
    decision.statuses.iter().map(&mut numbered).collect()
}

/// `text` with `_` for everything but printable ASCII.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '_' }).collect()
}
