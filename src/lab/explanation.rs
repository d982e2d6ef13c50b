//! Explanation of a decision: the walk through the rules, the limits that apply, and their counters. If a store was
//! asked, also their levels and the result of one more hit. `tollgate explain`, the admin API and the report of a
//! failed test show it as text ([`super::explanation_text`]) or as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::explained_limit::{ExplainedLimit, MAX_TEXT_BYTES};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::duration::ShortForm;
use crate::engine::judge::{judge, withheld};
use crate::engine::plan::{Counter, Item, Limited, Plan, plan_with};
use crate::engine::reserve::{Action, HoldEvent, MAX_HOLDS, Report, Reservation};
use crate::engine::rules::{DescriptorWalk, Fit, Level, Walk, WalkEnd, explain as walk};
use crate::engine::text::{cut, one_line_of_bytes};
use crate::engine::ticket::TicketEntry;
use crate::engine::{
    Code, Descriptor, Hits, KeyWriter, Modes, OverrideKind, OverridesAt, Request, Rules, Status,
};
use crate::store::Reading;

/// Explanation of the decision on a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Domain of the request.
    pub domain: String,
    /// True if the rules know the domain.
    pub domain_known: bool,
    /// Result if the request were sent now, with one hit for each descriptor that has none; `None` if no store was
    /// asked.
    pub next: Option<Verdict>,
    /// One for each descriptor, in order.
    pub descriptors: Vec<ExplainedDescriptor>,
}

/// Result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It is denied.
    Denied,
}

/// Explanation of one descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedDescriptor {
    /// Keys and values of its entries.
    pub entries: Vec<(String, String)>,
    /// One for each entry, up to the first without a matching rule.
    pub levels: Vec<ExplainedLevel>,
    /// Outcome, in a sentence.
    pub outcome: String,
    /// The rule that applies; `None` if none does, or the request brings its own limit.
    pub rule: Option<ExplainedRule>,
    /// The limits that apply.
    pub limits: Vec<ExplainedLimit>,
    /// Override of an operator: `block`, `exempt` or `limit` in place of the rule, or `shadow` of the rule.
    #[serde(default)]
    pub overridden: Option<String>,
    /// Result of its hits, of one hit if it has none; `None` if no limit applies or no store was asked.
    pub next: Option<ExplainedStatus>,
}

/// One level of the walk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedLevel {
    /// Key of the entry.
    pub key: String,
    /// Value of the entry.
    pub value: String,
    /// The value that is matched against the rules.
    pub normalized: String,
    /// The value in the counter's key: a hash if the rules ask for it.
    pub counted: String,
    /// The nodes for the key, the one that applies first.
    pub candidates: Vec<ExplainedCandidate>,
    /// Number of further candidates.
    pub omitted: usize,
}

/// A node of the rules that an entry was compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedCandidate {
    /// Name of the node: `key` or `key_pattern`.
    pub name: String,
    /// Source of the node.
    pub file: String,
    /// Line of the node; 0 in a source that is not text.
    pub line: u32,
    /// Path of the node in a source that is not text: a resource of a management server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// True if the node applies.
    pub applies: bool,
    /// Reason that the node does not apply; `None` if it does.
    pub reason: Option<String>,
}

/// The rule that applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedRule {
    /// Path of the rule.
    pub name: String,
    /// Source of the rule.
    pub file: String,
    /// Line of the rule; 0 in a source that is not text.
    pub line: u32,
    /// Path of the rule in a source that is not text: a resource of a management server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// Layer of the rule.
    pub layer: Option<String>,
    /// Charge mode: `always`, `if_allowed` or `overdraft`.
    pub charge: String,
    /// True if a denial is enforced for this key: no shadow mode, and within `enforce_percent`.
    pub enforced: bool,
    /// Result when the store fails.
    pub on_backend_failure: String,
}

/// Result of further hits on a descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedStatus {
    /// Number of hits; for a hold on a budget, its amount.
    #[serde(default = "one_hit")]
    pub hits: u32,
    /// Effect on the holds of a budget; `None` for other limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<BudgetEffect>,
    /// Result.
    pub verdict: Verdict,
    /// Hits left.
    pub remaining: u32,
    /// Seconds until one hit would pass, if it would be denied now; else until the counter is reset.
    pub reset_secs: f64,
    /// True if the hits are denied because of a lockout.
    pub locked_out: bool,
    /// True if the hits are over the limit, and pass because the rule is not enforced.
    pub shadowed: bool,
    /// True if the hits are over a budget only because of the holds of other requests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// Effect of hits over gRPC on the holds of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetEffect {
    /// They are held.
    Reserve,
    /// They settle a hold: they are counted, and never denied.
    Settle,
}

/// Everything that a decision depends on besides the request and its counters.
#[derive(Clone, Copy, Debug)]
pub struct ExplainContext<'a> {
    /// Rules in force.
    pub rules: &'a Rules,
    /// Overrides in force.
    pub overrides: Option<OverridesAt<'a>>,
    /// Writer of counter keys.
    pub keys: &'a KeyWriter,
    /// Modes that apply to every rule.
    pub modes: &'a Modes,
}

const fn one_hit() -> u32 {
    1
}

/// Explains the decision on `request`. A descriptor of a budget without hits is explained as a reservation.
/// `readings` are those of a peek at the counters, in the order of the plan; `None` without a store.
pub fn explain(
    ExplainContext { rules, overrides, keys, modes }: ExplainContext<'_>,
    request: &Request<'_>,
    readings: Option<&[Reading]>,
) -> Explanation {
    let Walk { domain, descriptors: walks } = walk(rules, request);
    let mut plan = plan_with(rules, overrides, request, keys);
    plan.hold_for_looks();
    let mut unread = readings.map(<[Reading]>::iter);
    let mut descriptors: Vec<_> = request
        .descriptors
        .iter()
        .zip(&walks)
        .zip(&plan.items)
        .map(|((descriptor, walk), item)| {
            let limits = item.limited().map_or(&[][..], |limited| limited.counters.as_slice());
            let reserve = item.limited().and_then(|limited| limited.rule?.reserve.as_ref());
            let mut limit = |counter: &Counter<'_>| {
                ExplainedLimit::of(counter, reserve, unread.as_mut().and_then(Iterator::next).copied())
            };
            ExplainedDescriptor {
                entries: descriptor
                    .entries
                    .iter()
                    .map(|entry| (text(entry.key), text(entry.value)))
                    .collect(),
                levels: walk.levels.iter().map(explained_level).collect(),
                outcome: outcome(walk, item) + &shadow_note(walk, item, overrides),
                rule: explained_rule(walk, item, modes),
                limits: limits.iter().map(&mut limit).collect(),
                overridden: overridden(walk, item, overrides).map(str::to_owned),
                next: None,
            }
        })
        .collect();
    let effects: Vec<_> = plan.items.iter().map(budget_effect).collect();
    let decision = readings.map(|peeks| {
        let readings = uncharged(&plan, peeks);
        judge(plan, readings, modes)
    });
    let statuses = decision.iter().flat_map(|decision| &decision.statuses).zip(effects);
    for ((explained, status), descriptor) in descriptors.iter_mut().zip(statuses).zip(&request.descriptors) {
        explained.next = explained_status(status, descriptor.hits);
    }
    Explanation {
        domain: text(request.domain),
        domain_known: domain.is_some(),
        next: decision.map(|decision| verdict(decision.code)),
        descriptors,
    }
}

/// Readings that charging `plan` would return if its counters are as in `peeks`.
fn uncharged(plan: &Plan<'_>, peeks: &[Reading]) -> Vec<Reading> {
    let counters = plan.limited().flat_map(|limited| limited.counters.iter().map(move |of| (limited, of)));
    let reading = |(peek, (limited, counter)): (&Reading, (&Limited<'_>, &Counter<'_>))| {
        let (hits, mode) = counter.charged(limited.hits, limited.mode);
        match (counter.reserve.as_deref(), hits) {
            // A settled amount is counted even beyond the limit.
            (Some(Reservation { action: Action::Settle(_), .. }), _) => {
                Reading { outcome: ChargeOutcome::Charged, ..*peek }
            }
            (Some(Reservation { action: Action::Open(_), .. }), _) if has_too_many_holds(peek) => {
                let budget = peek.budget.map(|report| Report { event: HoldEvent::TooMany, ..report });
                Reading { outcome: ChargeOutcome::Denied, budget, ..*peek }
            }
            (_, Hits::Add(0) | Hits::Refund(_)) => *peek,
            (_, Hits::Add(_)) => withheld(*peek, hits, mode, counter.limit),
        }
    };
    peeks.iter().zip(counters).map(reading).collect()
}

fn has_too_many_holds(peek: &Reading) -> bool {
    peek.budget.is_some_and(|report| u32::from(report.holds) >= MAX_HOLDS)
}

/// Effect of a descriptor on the holds of its budgets, and the largest amount.
fn budget_effect(item: &Item<'_>) -> Option<(BudgetEffect, u32)> {
    let actions =
        item.limited()?.counters.iter().filter_map(|counter| Some(counter.reserve.as_ref()?.action));
    let effects = actions.filter_map(|action| match action {
        Action::Open(opening) => Some((BudgetEffect::Reserve, opening.amount)),
        Action::Settle(settlement) => Some((BudgetEffect::Settle, settlement.amount)),
        Action::Look | Action::Extend(_) | Action::Lower(..) | Action::Cancel(_) => None,
    });
    effects.max_by_key(|(_, amount)| *amount)
}

/// `request` with no hits: it reads the counters and changes nothing.
pub fn peek_of<'a>(request: &Request<'a>) -> Request<'a> {
    let peek = |descriptor: &Descriptor<'a>| Descriptor { hits: Hits::Add(0), ..descriptor.clone() };
    Request { domain: request.domain, descriptors: request.descriptors.iter().map(peek).collect() }
}

fn text(bytes: &[u8]) -> String {
    cut(bytes, MAX_TEXT_BYTES).into_owned()
}

const fn verdict(code: Code) -> Verdict {
    match code {
        Code::Ok => Verdict::Allowed,
        Code::OverLimit => Verdict::Denied,
    }
}

/// Override that applies to a descriptor, or to its rule.
fn overridden(
    walk: &DescriptorWalk<'_>,
    item: &Item<'_>,
    overrides: Option<OverridesAt<'_>>,
) -> Option<&'static str> {
    match item {
        Item::Blocked(_) => Some(OverrideKind::Block.name()),
        Item::Exempt(_) => Some(OverrideKind::Exempt.name()),
        Item::Limited(Limited { overridden: true, .. }) => Some(OverrideKind::Limit.name()),
        Item::Limited(_) => shadow_ends_in(walk, overrides).map(|_| "shadow"),
        Item::NoLimit | Item::Replaced | Item::HoldsNothing | Item::Unlimited(_) => None,
    }
}

/// Time until the shadow mode that an operator gave the rule ends.
fn shadow_ends_in(walk: &DescriptorWalk<'_>, overrides: Option<OverridesAt<'_>>) -> Option<Duration> {
    let WalkEnd::Rule(rule) = walk.end else { return None };
    overrides?.shadow_ends_in(rule)
}

/// Addition to the outcome if an operator has put the rule into shadow mode.
fn shadow_note(walk: &DescriptorWalk<'_>, item: &Item<'_>, overrides: Option<OverridesAt<'_>>) -> String {
    match (item, shadow_ends_in(walk, overrides)) {
        (Item::Limited(Limited { overridden: false, .. }), Some(ends_in)) => {
            let ends_in = ShortForm(ends_in.as_secs().max(1));
            format!(", which an override has put into shadow mode for {ends_in}")
        }
        _ => String::new(),
    }
}

fn explained_level(level: &Level<'_>) -> ExplainedLevel {
    let candidates = level.candidates.iter().map(|candidate| ExplainedCandidate {
        name: candidate.node.composite().into_owned(),
        file: candidate.source.to_owned(),
        line: candidate.span.line,
        position: candidate.path.clone(),
        applies: candidate.fit == Fit::Applies,
        reason: match candidate.fit {
            Fit::Applies => None,
            Fit::Outranked { by } => Some(format!("matches the value, but {by}")),
            Fit::Differs { why } => Some(why.to_owned()),
        },
    });
    ExplainedLevel {
        key: text(&level.key),
        value: text(&level.value),
        normalized: text(&level.normalized),
        counted: text(&level.counted),
        candidates: candidates.collect(),
        omitted: level.omitted,
    }
}

fn outcome(walk: &DescriptorWalk<'_>, item: &Item<'_>) -> String {
    let last = || walk.levels.last().map(|level| one_line_of_bytes(&level.key, 64)).unwrap_or_default();
    let in_place = match walk.end {
        WalkEnd::Rule(rule) => format!(", in place of {}", rule.path),
        _ => String::new(),
    };
    match (walk.end, item) {
        (_, Item::Blocked(blocked)) => {
            let ends_in = ShortForm(blocked.wait.as_secs().max(1));
            format!("blocked by an override for {ends_in}{in_place}")
        }
        (_, Item::Exempt(_)) => format!("exempted by an override{in_place}"),
        (_, Item::Limited(Limited { overridden: true, .. })) => format!("limited by an override{in_place}"),
        (_, Item::HoldsNothing) => "no limit: no rule here takes places or holds for a ticket".to_owned(),
        (_, Item::Limited(Limited { ticket: TicketEntry::Named(_) | TicketEntry::Unknown, .. })) => {
            "ends the holds of its ticket".to_owned()
        }
        (WalkEnd::NoDomain, _) => "no limit: the rules do not know the domain".to_owned(),
        (WalkEnd::NoEntries, _) => "no limit: the descriptor has no entries".to_owned(),
        (WalkEnd::Override, _) => "the limit in the request applies, in place of the rules".to_owned(),
        (WalkEnd::NoCandidate, _) => match walk.levels.last() {
            Some(level) if level.candidates.is_empty() => {
                format!("no limit: no rule here is for the key '{}'", last())
            }
            _ => format!("no limit: no rule here matches the value of '{}'", last()),
        },
        (WalkEnd::NoLimit, _) => {
            format!("no limit: the rule for '{}' has no limit of its own at this depth", last())
        }
        (WalkEnd::Rule(rule), Item::Replaced) => {
            format!("no limit: another rule of the request replaces {}", rule.path)
        }
        (WalkEnd::Rule(rule), Item::Unlimited(_)) => format!("unlimited by {}", rule.path),
        (WalkEnd::Rule(rule), _) => format!("limited by {}", rule.path),
    }
}

fn explained_rule(walk: &DescriptorWalk<'_>, item: &Item<'_>, modes: &Modes) -> Option<ExplainedRule> {
    let WalkEnd::Rule(rule) = walk.end else { return None };
    let node = walk.levels.last()?.candidates.first()?;
    let is_shadow =
        matches!(item, Item::Limited(limited) if Limited::is_shadow(limited)) || modes.shadow_mode;
    Some(ExplainedRule {
        name: rule.path.to_string(),
        file: node.source.to_owned(),
        line: node.span.line,
        position: node.path.clone(),
        layer: rule.layer.as_ref().map(|layer| layer.name().to_owned()),
        charge: rule.charge.name().to_owned(),
        enforced: !is_shadow,
        on_backend_failure: rule.on_backend_failure.name().to_owned(),
    })
}

fn explained_status(
    (status, effect): (&Status<'_>, Option<(BudgetEffect, u32)>),
    hits: Hits,
) -> Option<ExplainedStatus> {
    let is_limited = status.limit.is_some() || status.overridden == Some(OverrideKind::Block);
    let hits = match (effect, hits) {
        (Some((_, amount)), _) => amount,
        (None, Hits::Add(hits)) => hits.max(1),
        (None, Hits::Refund(_)) => 1,
    };
    is_limited.then(|| ExplainedStatus {
        hits,
        effect: effect.map(|(effect, _)| effect),
        verdict: verdict(status.code),
        remaining: status.remaining,
        reset_secs: status.reset.unwrap_or_default().as_secs_f64(),
        locked_out: status.locked_out,
        shadowed: status.shadowed,
        held: status.budget.is_some_and(|budget| budget.is_held),
    })
}
