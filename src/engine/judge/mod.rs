//! Judgement: from the readings of a plan to a status for each descriptor and a decision on the request.

use std::time::Duration;

use smallvec::SmallVec;

use super::algorithm::Reading;
use super::algorithm::group::{ChargeOutcome, is_over};
use super::algorithm::places::PlaceReport;
use super::hit_counts::{HitCounts, StatsRef};
use super::overrides::{self, OverrideKind};
use super::plan::{Blocked, Counter, Item, Limited, Plan, is_withheld};
use super::reserve::{Action, BudgetStatus, HoldEvent};
use super::rules::Rule;
use super::ticket::Hold;
use super::{ChargeMode, CombinedEnforcement, Enforcement, Hits, Limit, Modes};

/// Reading of a charge without one.
const UNCHARGED: Reading = Reading {
    used: 0,
    outcome: ChargeOutcome::Charged,
    reset: Duration::ZERO,
    budget: None,
    places: PlaceReport::NONE,
};

/// Result of a request or a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It passes.
    Ok,
    /// It is over its limit.
    OverLimit,
}

/// Decision on a request.
#[derive(Debug)]
pub struct Decision<'r> {
    /// Result of the request.
    pub code: Code,
    /// True if only the global shadow mode lets the request pass.
    pub shadowed: bool,
    /// True if the request's domain has rules.
    pub domain_known: bool,
    /// Descriptors without a rule, in a domain that has rules.
    pub unmatched: u32,
    /// Status of each descriptor, in order.
    pub statuses: SmallVec<[Status<'r>; 4]>,
    /// Index of the binding status, which headers report: the last one that denies, alone or together with
    /// other quotas; else the one with the least remaining. `None` if no limit applied.
    pub binding: Option<usize>,
    /// Ticket under which the request holds something. The judge sets none: the caller of the store knows it.
    pub hold: Option<Hold>,
}

impl<'r> Decision<'r> {
    /// Status that denies the request; `None` if it passes.
    pub fn denial(&self) -> Option<&Status<'r>> {
        match self.code {
            Code::Ok => None,
            Code::OverLimit => self.reported_status(),
        }
    }

    /// Binding status; `None` if no limit applied.
    pub fn reported_status(&self) -> Option<&Status<'r>> {
        self.statuses.get(self.binding?)
    }

    /// Result before the global shadow mode.
    pub const fn evaluated_code(&self) -> Code {
        if self.shadowed { Code::OverLimit } else { self.code }
    }
}

/// Status of one descriptor.
#[derive(Debug)]
pub struct Status<'r> {
    /// Result of this descriptor alone.
    pub code: Code,
    /// Rule that applied; `None` for no rule and for a limit in the request.
    pub rule: Option<&'r Rule>,
    /// Limit that applied. Of several, the binding one: the exceeded limit with the longest wait, else the one
    /// with the least remaining.
    pub limit: Option<Limit>,
    /// Name of that limit, or of the lockout.
    pub name: Option<&'r str>,
    /// True if it is over because the client is locked out.
    pub locked_out: bool,
    /// True if it is over its limit and passes because its rule is not enforced.
    pub shadowed: bool,
    /// True if it is over because the limit never admits a request of this size.
    pub larger_than_limit: bool,
    /// State of the budget, if that limit has holds.
    pub budget: Option<BudgetStatus>,
    /// Override that applied in place of the rule.
    pub overridden: Option<OverrideKind>,
    /// Remaining hits. `u32::MAX` for an unlimited rule, 0 if no limit applied.
    pub remaining: u32,
    /// Time until the descriptor would pass, if it is over its limit or blocked; else until its counter resets.
    /// `None` if no limit applied.
    pub reset: Option<Duration>,
    /// Hits to add to metrics, and the counts to add them to.
    pub counted: Option<(StatsRef<'r>, HitCounts)>,
}

/// Judges `plan` by the readings of its charges, in order.
///
/// A missing reading is taken as that of an empty counter; stores return one for each charge.
pub fn judge<'r>(plan: Plan<'r>, readings: impl IntoIterator<Item = Reading>, modes: &Modes) -> Decision<'r> {
    let mut readings = readings.into_iter();
    let mut combined = CombinedEnforcement::default();
    let mut binding = Binding::default();
    let denied_outright = plan.denied_outright && !modes.shadow_mode;
    let mut statuses = SmallVec::with_capacity(plan.items.len());
    let mut unmatched = 0;
    for (index, item) in plan.items.into_iter().enumerate() {
        let status = match item {
            Item::NoLimit => {
                unmatched += u32::from(plan.domain_known);
                no_limit()
            }
            Item::Replaced | Item::HoldsNothing => no_limit(),
            Item::Unlimited(rule) => unlimited(Some(rule)),
            Item::Exempt(rule) => Status { overridden: Some(OverrideKind::Exempt), ..unlimited(rule) },
            Item::Blocked(blocked) => {
                let status = judge_blocked(blocked);
                let over = status.code == Code::OverLimit;
                combined.add(Enforcement::Enforced, over);
                binding.add(index, status.remaining, Enforcement::Enforced, over);
                status
            }
            Item::Limited(limited) => {
                let enforcement = match limited.enforcement(modes) {
                    // Its size alone denies the request, whatever other quotas have left.
                    Enforcement::Quota if limited.is_too_large() => Enforcement::Enforced,
                    enforcement => enforcement,
                };
                let status = judge_limited(limited, &mut readings, modes, denied_outright);
                let over = status.code == Code::OverLimit;
                combined.add(enforcement, over);
                binding.add(index, status.remaining, enforcement, over);
                status
            }
        };
        statuses.push(status);
    }
    let denied = combined.is_denied();
    Decision {
        code: if denied && !modes.shadow_mode { Code::OverLimit } else { Code::Ok },
        shadowed: denied && modes.shadow_mode,
        domain_known: plan.domain_known,
        unmatched,
        statuses,
        binding: binding.index(denied),
        hold: None,
    }
}

/// Choice of the binding status.
#[derive(Default)]
struct Binding {
    /// Last status that denies alone, and last quota that is over its limit.
    enforced: Option<usize>,
    quota: Option<usize>,
    /// Status with the least remaining, and its remaining hits.
    least: Option<(usize, u32)>,
}

impl Binding {
    fn add(&mut self, index: usize, remaining: u32, enforcement: Enforcement, over: bool) {
        match enforcement {
            Enforcement::Enforced if over => self.enforced = Some(index),
            Enforcement::Quota if over => self.quota = Some(index),
            _ => {}
        }
        if self.least.is_none_or(|(_, least)| remaining < least) {
            self.least = Some((index, remaining));
        }
    }

    fn index(&self, denied: bool) -> Option<usize> {
        let denies = self.enforced.or(self.quota.filter(|_| denied));
        denies.or(self.least.map(|(index, _)| index))
    }
}

const fn no_limit<'r>() -> Status<'r> {
    Status {
        code: Code::Ok,
        rule: None,
        limit: None,
        name: None,
        locked_out: false,
        shadowed: false,
        larger_than_limit: false,
        budget: None,
        overridden: None,
        remaining: 0,
        reset: None,
        counted: None,
    }
}

fn judge_blocked(Blocked { rule, wait, hits, stats }: Blocked<'_>) -> Status<'_> {
    let (code, hit_counts) = match hits {
        Hits::Add(hits) => {
            let hits = u64::from(hits);
            (Code::OverLimit, HitCounts { total_hits: hits, over_limit: hits, ..HitCounts::default() })
        }
        Hits::Refund(hits) => {
            (Code::Ok, HitCounts { total_negative_hits: hits.into(), ..HitCounts::default() })
        }
    };
    Status {
        code,
        rule,
        name: Some(overrides::NAME),
        overridden: Some(OverrideKind::Block),
        reset: Some(wait),
        counted: Some((stats, hit_counts)),
        ..no_limit()
    }
}

fn unlimited(rule: Option<&Rule>) -> Status<'_> {
    Status { rule, remaining: u32::MAX, ..no_limit() }
}

/// Judgement on one counter of a descriptor.
struct Verdict {
    over: bool,
    locked_out: bool,
    larger_than_limit: bool,
    remaining: u32,
    reset: Duration,
    hit_counts: HitCounts,
    budget: Option<BudgetStatus>,
}

impl Verdict {
    /// Denies a request that is too large for its rule. Waiting does not help, so the reported wait is at least
    /// one window.
    fn deny_for_size(&mut self, limit: Limit, hits: Hits) {
        self.over = true;
        self.larger_than_limit = !self.locked_out;
        self.remaining = 0;
        self.reset = self.reset.max(Duration::from_secs(limit.window.secs().into()));
        if let Hits::Add(hits) = hits {
            self.hit_counts =
                HitCounts { total_hits: hits.into(), over_limit: hits.into(), ..HitCounts::default() };
        }
    }

    /// True if this one is binding rather than `other`.
    fn binds_more_than(&self, other: &Self) -> bool {
        match (self.over, other.over) {
            (true, true) => self.reset > other.reset,
            (false, false) => self.remaining < other.remaining,
            (over, _) => over,
        }
    }
}

fn judge_limited<'r>(
    limited: Limited<'r>,
    readings: &mut impl Iterator<Item = Reading>,
    modes: &Modes,
    denied_outright: bool,
) -> Status<'r> {
    let is_shadow = limited.is_shadow();
    let is_too_large = limited.is_too_large();
    let Limited { rule, counters, hits, mode, stats, overridden, .. } = limited;
    let mut binding: Option<(Verdict, Counter<'r>)> = None;
    for counter in counters {
        let reading = readings.next().unwrap_or(UNCHARGED);
        let (charged, mode) = counter.charged(hits, mode);
        let is_withheld = is_withheld(is_too_large || denied_outright, mode, charged);
        let reading = if is_withheld { withheld(reading, charged, mode, counter.limit) } else { reading };
        let mut verdict = match &counter.reserve {
            Some(reserve) => judge_budget(&counter, reserve.action, (charged, mode), reading, modes),
            None => judge_counter(counter.limit, charged, mode, reading, modes.near_limit_ratio),
        };
        if is_too_large {
            verdict.deny_for_size(counter.limit, hits);
        }
        if binding.as_ref().is_none_or(|(before, _)| verdict.binds_more_than(before)) {
            binding = Some((verdict, counter));
        }
    }
    let Some((verdict, counter)) = binding else { return no_limit() };
    let Verdict { over, locked_out, larger_than_limit, remaining, reset, hit_counts, budget } = verdict;
    let penalty = rule.and_then(|rule| rule.penalty.as_ref()).filter(|_| locked_out);
    let hit_counts = if over && is_shadow {
        HitCounts { shadow_mode: hit_counts.over_limit, ..hit_counts }
    } else {
        hit_counts
    };
    Status {
        code: if over && !is_shadow { Code::OverLimit } else { Code::Ok },
        rule,
        limit: Some(counter.limit),
        name: penalty.and_then(|penalty| penalty.name.as_deref()).or(counter.name),
        locked_out,
        shadowed: over && is_shadow,
        larger_than_limit: larger_than_limit && !is_shadow,
        budget,
        overridden: overridden.then_some(OverrideKind::Limit),
        remaining,
        reset: Some(reset),
        counted: Some((stats, hit_counts)),
    }
}

/// Judges a counter with holds. What is held counts for metrics once it is settled.
fn judge_budget(
    counter: &Counter<'_>,
    action: Action,
    (hits, mode): (Hits, ChargeMode),
    reading: Reading,
    modes: &Modes,
) -> Verdict {
    let limit = counter.limit;
    let report = reading.budget;
    let counted = report.map_or(0, |report| report.counted);
    let (hits, mode) = match action {
        // It denies nothing.
        Action::Settle(_) => (Hits::Add(counted), ChargeMode::Overdraft),
        _ => (report.map_or(hits, |report| report.judged_hits(action, hits)), mode),
    };
    let mut verdict = judge_counter(limit, hits, mode, reading, modes.near_limit_ratio);
    if matches!(action, Action::Open(_) | Action::Extend(_)) && reading.outcome == ChargeOutcome::Charged {
        verdict.hit_counts = HitCounts::default();
    }
    verdict.budget = report.map(|report| {
        let used = reading.used.saturating_sub(report.held.into());
        let asked = match hits {
            Hits::Add(hits) => mode.hits_to_fit(hits),
            Hits::Refund(_) => 0,
        };
        let would_fit = used.saturating_add(asked.into()) <= limit.capacity().into();
        let is_held = verdict.over && would_fit && report.event != HoldEvent::TooMany;
        BudgetStatus { used, report, is_held }
    });
    verdict
}

fn judge_counter(
    limit: Limit,
    hits: Hits,
    mode: ChargeMode,
    reading: Reading,
    near_limit_ratio: f32,
) -> Verdict {
    let Reading { used, outcome, reset, .. } = reading;
    let hit_counts = match (hits, outcome) {
        (Hits::Add(hits), ChargeOutcome::Charged) => tally_hits(limit, hits.into(), used, near_limit_ratio),
        (Hits::Add(hits), ChargeOutcome::Denied | ChargeOutcome::FailClosed | ChargeOutcome::Blocked) => {
            HitCounts { total_hits: hits.into(), over_limit: hits.into(), ..HitCounts::default() }
        }
        (Hits::Add(hits), ChargeOutcome::Known) => HitCounts {
            total_hits: hits.into(),
            over_limit: hits.into(),
            over_limit_with_local_cache: hits.into(),
            ..HitCounts::default()
        },
        (Hits::Add(hits), ChargeOutcome::Withheld | ChargeOutcome::Leased { .. }) => {
            HitCounts { total_hits: hits.into(), ..HitCounts::default() }
        }
        (Hits::Refund(hits), _) => HitCounts { total_negative_hits: hits.into(), ..HitCounts::default() },
    };
    let over = matches!(hits, Hits::Add(_)) && is_over(mode, hits, used, limit.capacity(), outcome);
    // A descriptor over its limit reports nothing left, although a smaller request might fit.
    let left = if over { 0 } else { u64::from(limit.capacity()).saturating_sub(used) };
    let locked_out = outcome == ChargeOutcome::Blocked;
    let never_fits = |add: u32| mode.hits_to_fit(add) > limit.capacity();
    let larger_than_limit = over && !locked_out && matches!(hits, Hits::Add(add @ 2..) if never_fits(add));
    let remaining = u32::try_from(left).unwrap_or(u32::MAX);
    Verdict { over, locked_out, larger_than_limit, remaining, reset, hit_counts, budget: None }
}

/// Reading of hits that are not charged, from a peek at their counter.
pub fn withheld(peek: Reading, hits: Hits, mode: ChargeMode, limit: Limit) -> Reading {
    let Hits::Add(add) = hits else { return peek };
    match peek.outcome {
        ChargeOutcome::Charged | ChargeOutcome::Withheld => {
            let fits = peek.used.saturating_add(mode.hits_to_fit(add).into()) <= limit.capacity().into();
            Reading { outcome: if fits { ChargeOutcome::Withheld } else { ChargeOutcome::Denied }, ..peek }
        }
        ChargeOutcome::Denied
        | ChargeOutcome::Known
        | ChargeOutcome::FailClosed
        | ChargeOutcome::Blocked
        | ChargeOutcome::Leased { .. } => peek,
    }
}

/// Splits `hits` into those within the limit, near it and over it, from the count after them. The arithmetic,
/// floats included, is that of envoyproxy/ratelimit, so that its dashboards keep working.
fn tally_hits(limit: Limit, hits: u64, after: u64, near_limit_ratio: f32) -> HitCounts {
    let quota = u64::from(limit.capacity());
    let before = after.saturating_sub(hits);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a float's floor, as in the reference; a cast from float saturates"
    )]
    let near = ((limit.capacity() as f32) * near_limit_ratio).floor() as u64;
    let hit_counts = HitCounts { total_hits: hits, ..HitCounts::default() };
    if after <= quota {
        let near_limit = if before >= near { hits } else { after.saturating_sub(near) };
        let near_limit = if after <= near { 0 } else { near_limit };
        HitCounts { within_limit: hits, near_limit, ..hit_counts }
    } else if before >= quota {
        HitCounts { over_limit: hits, ..hit_counts }
    } else {
        HitCounts {
            over_limit: after - quota,
            near_limit: quota.saturating_sub(near.max(before)),
            ..hit_counts
        }
    }
}

#[cfg(test)]
mod tests;
