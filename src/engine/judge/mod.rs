//! What the counts mean: a status for each descriptor and one answer for the request.

use std::time::Duration;

use smallvec::SmallVec;

use super::algorithm::Reading;
use super::algorithm::group::{ChargeOutcome, is_over};
use super::hit_counts::{HitCounts, StatsRef};
use super::plan::{Counter, Item, Limited, Plan};
use super::rules::Rule;
use super::{ChargeMode, CombinedEnforcement, Enforcement, Hits, Limit};

/// What a charge comes to that no store was asked about.
const UNCHARGED: Reading = Reading { used: 0, outcome: ChargeOutcome::Charged, reset: Duration::ZERO };

/// What the operator set for every rule at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modes {
    /// Nothing is enforced: what would be denied is counted and passes.
    pub shadow_mode: bool,
    /// Every rule is a quota rule.
    pub quota_mode: bool,
    /// The share of a limit, 0 to 1, past which hits count as near it.
    pub near_limit_ratio: f32,
}

impl Default for Modes {
    fn default() -> Self {
        Self { shadow_mode: false, quota_mode: false, near_limit_ratio: 0.8 }
    }
}

/// Whether something may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It may.
    Ok,
    /// It may not.
    OverLimit,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Decision<'r> {
    /// Whether the request may pass.
    pub code: Code,
    /// The request would have been denied, but for the global shadow mode.
    pub shadowed: bool,
    /// Whether the rules know the request's domain.
    pub domain_known: bool,
    /// Descriptors without a rule, in a domain that the rules know.
    pub unmatched: u32,
    /// One for each descriptor, in order.
    pub statuses: SmallVec<[Status<'r>; 4]>,
    /// The index of the status to tell the caller of where there is room for one: the last one that
    /// denies, by itself or as one of the quotas that do together; else the one with the least remaining.
    /// `None` where no limit applied.
    pub binding: Option<usize>,
}

impl<'r> Decision<'r> {
    /// The status that denies the request, or one of them; `None` where it passes.
    pub fn denial(&self) -> Option<&Status<'r>> {
        match self.code {
            Code::Ok => None,
            Code::OverLimit => self.reported_status(),
        }
    }

    /// The status to tell of where there is room for one; `None` where no limit applied.
    pub fn reported_status(&self) -> Option<&Status<'r>> {
        self.statuses.get(self.binding?)
    }

    /// What the rules say of the request, whether or not the global shadow mode lets it pass.
    pub const fn evaluated_code(&self) -> Code {
        if self.shadowed { Code::OverLimit } else { self.code }
    }
}

/// The answer to one descriptor.
#[derive(Debug)]
pub struct Status<'r> {
    /// Whether this descriptor, taken alone, may pass.
    pub code: Code,
    /// The rule that applied; `None` where none did, or the caller brought the limit.
    pub rule: Option<&'r Rule>,
    /// The limit that applied. Of several, the one that binds: of those that are over the one to wait for
    /// longest, else the one with the least remaining.
    pub limit: Option<Limit>,
    /// What that limit is called; the lockout, where it is that.
    pub name: Option<&'r str>,
    /// Whether it is over because whoever asks is locked out.
    pub locked_out: bool,
    /// Whether it is over its limit, and passes because its rule is not enforced.
    pub shadowed: bool,
    /// Whether it is over because the request is larger than anything that the limit ever lets pass.
    pub larger_than_limit: bool,
    /// Hits left in this window. `u32::MAX` under an unlimited rule, 0 where no limit applied.
    pub remaining: u32,
    /// How long until the descriptor would pass, where it is over; else until its key is reset. `None` where no limit applied.
    pub reset: Option<Duration>,
    /// What to count, and where.
    pub counted: Option<(StatsRef<'r>, HitCounts)>,
}

/// Judges `plan` by what became of its limited descriptors' charges, in their order.
///
/// What is missing is read as an empty counter; stores give one for each charge.
pub fn judge<'r>(plan: Plan<'r>, readings: impl IntoIterator<Item = Reading>, modes: &Modes) -> Decision<'r> {
    let mut readings = readings.into_iter();
    let mut combined = CombinedEnforcement::default();
    let mut binding = Binding::default();
    let denied_by_size = plan.denied_by_size && !modes.shadow_mode;
    let mut statuses = SmallVec::with_capacity(plan.items.len());
    let mut unmatched = 0;
    for (index, item) in plan.items.into_iter().enumerate() {
        let status = match item {
            Item::NoLimit => {
                unmatched += u32::from(plan.domain_known);
                no_limit()
            }
            Item::Replaced => no_limit(),
            Item::Unlimited(rule) => unlimited(rule),
            Item::Limited(limited) => {
                let enforcement = match limited.enforcement(modes) {
                    // Its size denies the request by itself, whatever other quotas have left.
                    Enforcement::Quota if limited.is_too_large() => Enforcement::Enforced,
                    enforcement => enforcement,
                };
                let status = judge_limited(limited, &mut readings, modes, denied_by_size);
                let over = status.code == Code::OverLimit;
                combined.add(enforcement, over);
                binding.see(index, status.remaining, enforcement, over);
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
    }
}

/// Which status to tell of.
#[derive(Default)]
struct Binding {
    /// The last one that denies by itself, and the last quota that is over.
    enforced: Option<usize>,
    quota: Option<usize>,
    /// The one with the least remaining, and how much that is.
    least: Option<(usize, u32)>,
}

impl Binding {
    fn see(&mut self, index: usize, remaining: u32, enforcement: Enforcement, over: bool) {
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
        remaining: 0,
        reset: None,
        counted: None,
    }
}

fn unlimited(rule: &Rule) -> Status<'_> {
    Status { rule: Some(rule), remaining: u32::MAX, ..no_limit() }
}

/// What one limit says of a descriptor.
struct Verdict {
    over: bool,
    locked_out: bool,
    larger_than_limit: bool,
    remaining: u32,
    reset: Duration,
    hit_counts: HitCounts,
}

impl Verdict {
    /// Denies a request that is too large for its rule. Waiting does not help it, so the wait is at least a
    /// window.
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

    /// Whether this is to be told of rather than `other`.
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
    denied_by_size: bool,
) -> Status<'r> {
    let is_shadow = limited.is_shadow();
    let (is_too_large, is_withheld) = (limited.is_too_large(), limited.is_withheld(denied_by_size));
    let Limited { rule, counters, hits, mode, stats, .. } = limited;
    let mut binding: Option<(Verdict, Counter<'r>)> = None;
    for counter in counters {
        let reading = readings.next().unwrap_or(UNCHARGED);
        let reading = if is_withheld { withheld(reading, hits, mode, counter.limit) } else { reading };
        let mut verdict = judge_counter(counter.limit, hits, mode, reading, modes.near_limit_ratio);
        if is_too_large {
            verdict.deny_for_size(counter.limit, hits);
        }
        if binding.as_ref().is_none_or(|(before, _)| verdict.binds_more_than(before)) {
            binding = Some((verdict, counter));
        }
    }
    let Some((verdict, counter)) = binding else { return no_limit() };
    let Verdict { over, locked_out, larger_than_limit, remaining, reset, hit_counts } = verdict;
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
        remaining,
        reset: Some(reset),
        counted: Some((stats, hit_counts)),
    }
}

fn judge_counter(
    limit: Limit,
    hits: Hits,
    mode: ChargeMode,
    reading: Reading,
    near_limit_ratio: f32,
) -> Verdict {
    let Reading { used, outcome, reset } = reading;
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
        (Hits::Add(hits), ChargeOutcome::Withheld) => {
            HitCounts { total_hits: hits.into(), ..HitCounts::default() }
        }
        (Hits::Refund(hits), _) => HitCounts { total_negative_hits: hits.into(), ..HitCounts::default() },
    };
    let over = matches!(hits, Hits::Add(_)) && is_over(mode, hits, used, limit.capacity(), outcome);
    // Nothing is left for what is over, though less might still fit.
    let left = if over { 0 } else { u64::from(limit.capacity()).saturating_sub(used) };
    let locked_out = outcome == ChargeOutcome::Blocked;
    let never_fits = |add: u32| mode.hits_to_fit(add) > limit.capacity();
    let larger_than_limit = over && !locked_out && matches!(hits, Hits::Add(add @ 2..) if never_fits(add));
    let remaining = u32::try_from(left).unwrap_or(u32::MAX);
    Verdict { over, locked_out, larger_than_limit, remaining, reset, hit_counts }
}

/// Reading of hits that are not charged, from that of a peek at their counter.
fn withheld(peek: Reading, hits: Hits, mode: ChargeMode, limit: Limit) -> Reading {
    let Hits::Add(add) = hits else { return peek };
    match peek.outcome {
        ChargeOutcome::Charged | ChargeOutcome::Withheld => {
            let fits = peek.used.saturating_add(mode.hits_to_fit(add).into()) <= limit.capacity().into();
            Reading { outcome: if fits { ChargeOutcome::Withheld } else { ChargeOutcome::Denied }, ..peek }
        }
        ChargeOutcome::Denied | ChargeOutcome::Known | ChargeOutcome::FailClosed | ChargeOutcome::Blocked => {
            peek
        }
    }
}

/// Splits `hits` into those within the limit, near it and over it, given the counter after them
/// (envoyproxy/ratelimit's arithmetic, floats included: its dashboards are kept working).
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
