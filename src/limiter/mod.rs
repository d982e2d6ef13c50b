//! Decisions with I/O: combines the pure core with the rules in force, the store, the clock and the metrics.

mod candidate;
mod core_copy;
mod decision_log;
mod denials;
mod holds;
pub mod observe;
pub mod overrides;
mod places;
mod purpose;
mod redact;
mod sampler;
mod tickets;
mod unmatched;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{self, Instant};

use crate::clock::Clock;
use crate::engine::judge::judge;
use crate::engine::plan::{Counter, Limited, Plan, is_withheld, plan_with};
use crate::engine::reserve::{Action, Reservation};
use crate::engine::ticket::TicketEntry;
use crate::engine::{
    Decision, Enforcement, Hits, Hold, KeyWriter, Lease, Modes, Overrides, OverridesAt, Request, Rules,
    Timestamp,
};
use crate::store::fallback::{Fallback, without_errors};
use crate::store::{Charge, Lockout, Reading, Readings, Store, StoreError};
use crate::telemetry::metrics::{Metrics, StoreFailure};

pub use candidate::{CANDIDATE_GRACE, Candidate};
pub use core_copy::CoreCopy;
pub use decision_log::DecisionLog;
pub use purpose::Purpose;
pub use sampler::Sampler;
pub use tickets::{TicketCall, TicketResult};

use candidate::{Evaluation, with_trial};
use core_copy::Held;
use observe::{Observation, Tap};
use places::{Acquisition, Releases};

/// Decides requests.
pub struct Limiter {
    /// Rules in force; `None` before the first load.
    pub rules: CoreCopy<Rules>,
    /// Store of the counters.
    pub store: Arc<dyn Store>,
    /// Decisions on charges that the store failed.
    pub fallback: Arc<Fallback>,
    /// Upper bound on the store's own timeout. Zero for a store that never waits.
    pub store_timeout: Duration,
    /// Clock of decisions.
    pub clock: Arc<dyn Clock>,
    /// Metrics of calls, decisions and the store.
    pub metrics: Arc<Metrics>,
    /// Names of counters.
    pub keys: KeyWriter,
    /// Modes that apply to every rule.
    pub modes: Modes,
    /// Candidate rules, if any.
    pub candidate: Option<Candidate>,
    /// Observes decisions for operators; `None` without an admin listener.
    pub tap: Option<Tap>,
    /// Log of every decision, if it is on.
    pub decision_log: Option<DecisionLog>,
    /// Overrides in force.
    pub overrides: CoreCopy<Overrides>,
}

/// Snapshot of the rules in force, for a decision and its answer.
pub struct Snapshot<'l> {
    limiter: &'l Limiter,
    rules: Option<Arc<Held<Rules>>>,
    /// `None` without any.
    overrides: Option<Arc<Held<Overrides>>>,
}

/// Failure to decide.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecideError {
    /// No rules have been loaded yet.
    #[error("no rate limit configuration loaded")]
    NoRules,
    /// The store failed, and a rule has `on_backend_failure: error`.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Snapshot<'_> {
    /// The rules, if any have been loaded.
    pub fn rules(&self) -> Option<&Rules> {
        self.rules.as_deref().map(|rules| &**rules)
    }

    /// Overrides in force at `now`; `None` without any.
    pub fn overrides(&self, now: Timestamp) -> Option<OverridesAt<'_>> {
        self.overrides.as_ref().map(|overrides| overrides.at(now))
    }

    /// Decides `request`: plans, charges and judges. Waits for the store until `deadline` at most.
    ///
    /// # Errors
    /// [`DecideError`]
    pub async fn decide(
        &self,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'_>, DecideError> {
        self.acquire(request, Purpose::Decide { max_ttl_secs: u32::MAX }, deadline).await
    }

    /// Decides whether one more hit of each descriptor would pass. Counts nothing and takes no place.
    ///
    /// # Errors
    /// [`DecideError`]
    pub async fn check(
        &self,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'_>, DecideError> {
        self.acquire(&looks(request), Purpose::Check, deadline).await
    }

    /// Counts the hits of `request`, whether or not they are within their limits: of what has happened already.
    ///
    /// # Errors
    /// [`DecideError`]
    pub async fn report(
        &self,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'_>, DecideError> {
        self.acquire(request, Purpose::Report, deadline).await
    }

    /// [`Self::decide`], for any purpose.
    ///
    /// # Errors
    /// [`DecideError`]
    pub async fn acquire(
        &self,
        request: &Request<'_>,
        purpose: Purpose<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'_>, DecideError> {
        let rules = self.rules_for(request)?;
        let now = self.limiter.clock.now();
        let asked = Asked { rules, overrides: self.overrides(now), request, purpose, now };
        let decision = self.limiter.decide(asked, deadline).await?;
        if decision.unmatched > 0 || !decision.domain_known {
            unmatched::record(request, rules, &decision);
        }
        if !matches!(purpose, Purpose::Report) {
            denials::log(request, rules, &decision, now);
        }
        Ok(decision)
    }

    fn rules_for(&self, request: &Request<'_>) -> Result<&Rules, DecideError> {
        let rules = self.rules().ok_or(DecideError::NoRules)?;
        match rules.is_partial && rules.domain(request.domain).is_none() {
            true => Err(DecideError::NoRules),
            false => Ok(rules),
        }
    }
}

impl Limiter {
    /// Snapshot of the current rules.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { limiter: self, rules: self.rules.current(), overrides: self.overrides.current() }
    }

    /// Charges of a peek at the counters of `request` under `rules` and `overrides`, in the order of its plan. Each
    /// has 0 hits.
    pub fn peek_charges(
        &self,
        rules: &Rules,
        overrides: Option<OverridesAt<'_>>,
        request: &Request<'_>,
    ) -> SmallVec<[Charge; 2]> {
        let request = looks(request);
        let mut plan = plan_with(rules, overrides, &request, &self.keys);
        Purpose::Check.adapt(&mut plan, &request);
        let mut charges = charges(&plan, &self.modes);
        // A ticket among the descriptors is neither renewed nor released.
        charges.iter_mut().for_each(|charge| charge.hold = None);
        // Credits of this replica are not what the store counts.
        charges.iter_mut().for_each(|charge| charge.lease = None);
        charges
    }

    /// Readings of [`Self::peek_charges`] under `rules`, each denied if one more hit would be. Nothing is counted, and
    /// nothing is recorded but holds that the store has found to have ended.
    ///
    /// # Errors
    /// The store's first error.
    pub async fn peek(
        &self,
        rules: &Rules,
        charges: &[Charge],
    ) -> Result<SmallVec<[Reading; 2]>, StoreError> {
        if charges.is_empty() {
            return Ok(SmallVec::new());
        }
        let readings = self.store.charge(charges, self.clock.now()).await;
        self.record_expired(rules, charges, &readings);
        readings.into_iter().collect()
    }

    /// Decides a request.
    ///
    /// A candidate is evaluated at the same time, so that one batch may carry the charges of both. Its decision
    /// is only compared with this one, if it is ready in time.
    async fn decide<'r>(
        &self,
        asked: Asked<'_, '_, 'r>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'r>, StoreError> {
        let Asked { rules, overrides, request, purpose, now } = asked;
        let mut live = plan_with(rules, overrides, request, &self.keys);
        purpose.adapt(&mut live, request);
        let mut charges = charges(&live, &self.modes);
        if matches!(purpose, Purpose::Report) {
            tickets::take_none(&mut charges);
        }
        // Dropped without a decision, it gives back what the request holds.
        let places = Acquisition::begin(self, &mut charges, purpose, now);
        let releases = Releases::among(self, &charges, now);
        let Some(candidate) = &self.candidate else {
            let readings = self.charge(&charges, now, deadline).await;
            return self.judge(asked, live, Charged { charges: &charges, readings, places, releases });
        };
        let others = candidate.rules.current();
        let others = others.as_deref().map(|rules| &**rules);
        let trial = async {
            let mut trial = plan_with(others?, overrides, request, &candidate.keys);
            // A candidate's hold would never be settled.
            if !matches!(purpose, Purpose::Reserve(_)) {
                purpose.adapt(&mut trial, request);
            }
            let mut charges = self::charges(&trial, &self.modes);
            tickets::take_none(&mut charges);
            // A candidate takes nothing in advance.
            charges.iter_mut().for_each(|charge| charge.lease = None);
            let readings = candidate.charge(&charges, now).await?;
            Some(judge(trial, readings, &self.modes))
        };
        // Boxed, so that the future is small without a candidate.
        let both =
            Box::pin(with_trial(self.charge(&charges, now, deadline), trial, candidate.grace, deadline));
        let (readings, trial) = both.await;
        // A decision without the store does not show what the rules would decide.
        let is_counted = readings.iter().all(Result::is_ok);
        let decision = self.judge(asked, live, Charged { charges: &charges, readings, places, releases });
        candidate.compare(
            request,
            Evaluation { rules: Some(rules), decision: decision.as_ref().ok().filter(|_| is_counted) },
            Evaluation { rules: others, decision: trial.as_ref() },
            now,
        );
        decision
    }

    /// Decision from the store's readings and, for failed charges, from `on_backend_failure`.
    fn judge<'r>(
        &self,
        Asked { rules, request, now, .. }: Asked<'_, '_, 'r>,
        plan: Plan<'r>,
        charged: Charged<'_, '_>,
    ) -> Result<Decision<'r>, StoreError> {
        let Charged { charges, readings, mut places, mut releases } = charged;
        if let Some(places) = &mut places {
            places.charged(charges, &readings);
        }
        if let Some(releases) = &mut releases {
            releases.charged(charges, &readings);
        }
        self.record_holds(&plan, charges, &readings);
        let readings = if plan.denied_outright && !self.modes.shadow_mode {
            without_errors(charges, readings)
        } else {
            readings
        };
        let readings = self.fallback.resolve(&*self.store, charges, readings, now)?;
        let mut decision = judge(plan, readings.iter().copied(), &self.modes);
        if let Some(places) = places {
            places.hand_over(&mut decision);
        }
        self.metrics.record_decision(&decision);
        tickets::learn_amounts(&decision);
        let observation = Observation { request, rules, charges, readings: &readings, decision: &decision };
        if let Some(tap) = &self.tap {
            tap.observe(observation, now);
        }
        if let Some(log) = &self.decision_log {
            log.log(observation, now);
        }
        Ok(decision)
    }

    /// Deadline for a store that is called at `asked`, if it is earlier than the store's own timeout.
    fn until(&self, asked: Instant, deadline: Option<Instant>) -> Option<Instant> {
        deadline.filter(|deadline| *deadline < asked + self.store_timeout)
    }

    /// Charges the store, if there are charges, and records latency and failure.
    async fn charge(&self, charges: &[Charge], now: Timestamp, deadline: Option<Instant>) -> Readings {
        if charges.is_empty() {
            return Readings::new();
        }
        let asked = Instant::now();
        let readings = charge_until(&*self.store, charges, now, self.until(asked, deadline)).await;
        self.metrics.record_store_latency(asked.elapsed());
        if let Some(error) = readings.iter().find_map(|reading| reading.as_ref().err()) {
            self.metrics.record_store_failure(failure(error));
        }
        readings
    }
}

/// `request` without hits.
fn looks<'q>(request: &Request<'q>) -> Request<'q> {
    let mut request = request.clone();
    request.descriptors.iter_mut().for_each(|descriptor| descriptor.hits = Hits::Add(0));
    request
}

/// A request, its rules and its time.
#[derive(Clone, Copy)]
struct Asked<'a, 'q, 'r> {
    rules: &'r Rules,
    overrides: Option<OverridesAt<'r>>,
    request: &'a Request<'q>,
    purpose: Purpose<'a>,
    now: Timestamp,
}

/// Charges, what became of them, and the places among them that are taken and given back.
struct Charged<'c, 'l> {
    charges: &'c [Charge],
    readings: Readings,
    places: Option<Box<Acquisition<'l>>>,
    releases: Option<Box<Releases<'l>>>,
}

/// Charges of `plan`, in the order of its descriptors and their counters.
pub fn charges(plan: &Plan<'_>, modes: &Modes) -> SmallVec<[Charge; 2]> {
    let denied_outright = plan.denied_outright && !modes.shadow_mode;
    plan.limited().flat_map(|limited| charges_of(limited, modes, denied_outright)).collect()
}

fn charges_of<'l, 'r>(
    limited: &'l Limited<'r>,
    modes: &Modes,
    denied_outright: bool,
) -> impl Iterator<Item = Charge> + use<'l, 'r> {
    // In global shadow mode no limit keeps another one from counting, and no client is blocked.
    let enforcement = if modes.shadow_mode { Enforcement::Shadow } else { limited.enforcement(modes) };
    let Limited { rule, counters, lockout, hits, mode, on_failure, .. } = limited;
    let lockout = lockout.as_ref().filter(|_| !modes.shadow_mode);
    let lockout =
        lockout.map(|lockout| Lockout { key: lockout.key.clone(), schedule: Arc::clone(lockout.schedule) });
    let is_denied = limited.is_too_large() || denied_outright;
    let hold = |counter: &Counter<'_>| match limited.ticket {
        TicketEntry::Named(ticket) if counter.limit.is_concurrency() => {
            let ttl_secs = counter.limit.window.secs();
            Some(Box::new(Hold { ticket, ttl_secs, is_named: false }))
        }
        TicketEntry::Named(_) | TicketEntry::Absent | TicketEntry::Unknown => None,
    };
    counters.iter().map(move |counter| {
        let (hits, mode) = counter.charged(*hits, *mode);
        let is_withheld = is_withheld(is_denied, mode, hits);
        let reserve = counter.reserve.as_deref().map(|reserve| match is_withheld {
            true => Reservation { action: Action::Look, ..*reserve },
            false => *reserve,
        });
        Charge {
            key: counter.key.clone(),
            limit: counter.limit,
            rule: rule.map_or(0, |rule| rule.id),
            // A peek: the counters are read and not charged.
            hits: if is_withheld { Hits::Add(0) } else { hits },
            mode,
            // A settlement denies nothing.
            enforcement: match reserve {
                Some(Reservation { action: Action::Settle(_), .. }) => Enforcement::Shadow,
                _ => enforcement,
            },
            lockout: lockout.clone(),
            on_failure: *on_failure,
            hold: hold(counter),
            // A limit that is not enforced must not take hits from one that is.
            lease: counter.lease.filter(|_| enforcement == Enforcement::Enforced).map(Lease::Spend),
            reserve: reserve.map(Box::new),
        }
    })
}

/// Charges `store`, and waits until `until` at most.
async fn charge_until(
    store: &dyn Store,
    charges: &[Charge],
    now: Timestamp,
    until: Option<Instant>,
) -> Readings {
    let charging = store.charge(charges, now);
    match until {
        None => charging.await,
        Some(until) => time::timeout_at(until, charging).await.unwrap_or_else(|_| {
            let late = StoreError::Unanswered("the caller would not have waited".to_owned());
            charges.iter().map(|_| Err(late.clone())).collect()
        }),
    }
}

const fn failure(error: &StoreError) -> StoreFailure {
    match error {
        StoreError::Unreachable(_) => StoreFailure::Unreachable,
        StoreError::Unanswered(_) => StoreFailure::Unanswered,
        StoreError::Rejected(_) => StoreFailure::Rejected,
    }
}
