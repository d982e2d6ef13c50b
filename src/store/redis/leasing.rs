//! Charges to leased limits: credits first, then the ordinary path, with an ask behind it.
//!
//! An ask is a request of its own. It is queued right behind the request that caused it, so that both go out in one
//! batch, and nothing waits for it. Its task then keeps the lot: it returns what is left after the hold.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::leases::{Attempt, Granted, Leases};
use super::slot_groups::{Clusters, is_denied, lost};
use super::{Denials, RedisStore};
use crate::engine::algorithm::Reading;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::lease::cell::{Grant, Lot, Moment};
use crate::engine::{
    ChargeMode, CombinedEnforcement, Enforcement, Hits, Lease, LeaseTerms, Limit, Timestamp,
};
use crate::store::{Charge, Readings, StoreError};

/// Credits that a charge took, with its reading.
type Spent = Option<(Reading, Lot)>;

/// Credits that the charges of a request took.
pub(super) struct Taken {
    at: Moment,
    spent: SmallVec<[Spent; 2]>,
}

impl RedisStore {
    /// Spends credits on charges of which some are leased. No I/O if there are enough for all.
    ///
    /// # Errors
    /// The credits that some took, for [`Self::charge_leased`].
    pub(super) fn spend_on(
        &self,
        leases: &Arc<Leases>,
        charges: &[Charge],
        now: Timestamp,
    ) -> Result<Readings, Box<Taken>> {
        let at = leases.moment(now, self.clusters.generation());
        let spent: SmallVec<[Spent; 2]> =
            charges.iter().map(|charge| self.spend(leases, charge, at)).collect();
        match spent.iter().all(Option::is_some) {
            true => Ok(spent.into_iter().flatten().map(|(reading, _)| Ok(reading)).collect()),
            false => Err(Box::new(Taken { at, spent })),
        }
    }

    /// Carries out the charges that took no credits. Where the request is denied, credits of charges that count only
    /// if it passes go back.
    pub(super) async fn charge_leased(
        &self,
        leases: &Arc<Leases>,
        charges: &[Charge],
        taken: Box<Taken>,
    ) -> Readings {
        let mut abandoned = Abandoned { store: self, leases, charges, taken: Some(&taken) };
        let spent = &taken.spent;
        let of_rest = self.charge_rest(leases, charges, spent, taken.at.now).await;
        abandoned.taken = None;
        if spent.iter().all(Option::is_none) {
            return of_rest;
        }
        let mut of_rest = of_rest.into_iter();
        let reading = |spent: &Spent| match spent {
            Some((reading, _)) => Ok(*reading),
            None => of_rest.next().unwrap_or_else(|| Err(lost())),
        };
        let mut readings: Readings = spent.iter().map(reading).collect();
        let mut combined = CombinedEnforcement::default();
        for (charge, reading) in charges.iter().zip(&readings) {
            let Charge { limit, mode, hits, on_failure, .. } = charge;
            combined.add(charge.enforcement, is_denied(*limit, (*mode, *hits), *on_failure, reading));
        }
        if combined.is_denied() {
            self.put_back(leases, charges, &taken, &mut readings);
        }
        readings
    }

    /// Carries out the charges without credits.
    async fn charge_rest(
        &self,
        leases: &Leases,
        charges: &[Charge],
        spent: &[Spent],
        now: Timestamp,
    ) -> Readings {
        let is_rest = |(charge, spent): (&Charge, &Spent)| spent.is_none().then(|| charge.clone());
        let rest: SmallVec<[Charge; 2]>;
        let rest = match spent.iter().all(Option::is_none) {
            true => charges,
            false => {
                rest = charges.iter().zip(spent).filter_map(is_rest).collect();
                &rest[..]
            }
        };
        let readings = self.charge_unleased(rest, now).await;
        for (charge, reading) in rest.iter().zip(&readings) {
            if let (Some(Lease::Spend(_)), Ok(reading)) = (charge.lease, reading)
                && reading.outcome != ChargeOutcome::Known
            {
                leases.observe(charge, reading.used);
            }
        }
        readings
    }

    /// Spends credits on one charge, and asks for more if they run short.
    fn spend(&self, leases: &Arc<Leases>, charge: &Charge, at: Moment) -> Spent {
        let Some(Lease::Spend(terms)) = charge.lease else { return None };
        let Attempt { spend, outdated } = leases.spend(charge, terms, at);
        if let Some(want) = spend.want {
            let errand = self.errand(leases, charge, charge.limit, terms);
            self.tasks.spawn(errand.ask(want, at));
        }
        if let Some((limit, lots)) = outdated {
            for lot in lots {
                let errand = self.errand(leases, charge, limit, terms);
                self.tasks.spawn(async move { errand.give_back(lot, at).await });
            }
        }
        spend.spent
    }

    /// Gives the credits of charges back that count only if their request passes, since it is denied.
    fn put_back(
        &self,
        leases: &Arc<Leases>,
        charges: &[Charge],
        Taken { at, spent }: &Taken,
        readings: &mut Readings,
    ) {
        for ((charge, spent), reading) in charges.iter().zip(spent).zip(readings) {
            if let (Some((_, lot)), Ok(reading), Some(Lease::Spend(terms))) = (spent, reading, charge.lease)
                && let Some(1..) = reading.withhold(charge.limit, charge.mode, charge.hits)
                && !leases.put_back(charge, *lot, *at)
            {
                let (errand, lot, at) = (self.errand(leases, charge, charge.limit, terms), *lot, *at);
                self.tasks.spawn(async move { errand.give_back(lot, at).await });
            }
        }
    }

    fn errand(&self, leases: &Arc<Leases>, charge: &Charge, limit: Limit, terms: LeaseTerms) -> Errand {
        // Decided by itself: it denies nothing, and nothing denies it.
        let (mode, enforcement) = (ChargeMode::Always, Enforcement::Shadow);
        let charge = Charge { limit, mode, enforcement, lockout: None, hold: None, ..charge.clone() };
        Errand {
            clusters: Arc::clone(&self.clusters),
            leases: Arc::clone(leases),
            denials: self.denials.clone(),
            closing: self.closing.clone(),
            charge,
            terms,
        }
    }
}

/// Credits of a request whose caller may leave before it is decided. Dropping them gives back those of charges that count
/// only if it passes.
struct Abandoned<'a> {
    store: &'a RedisStore,
    leases: &'a Arc<Leases>,
    charges: &'a [Charge],
    /// `None` once it is decided.
    taken: Option<&'a Taken>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        let Some(taken) = self.taken else { return };
        let reading = |spent: &Spent| spent.map_or_else(|| Err(lost()), |(reading, _)| Ok(reading));
        let mut readings: Readings = taken.spent.iter().map(reading).collect();
        self.store.put_back(self.leases, self.charges, taken, &mut readings);
    }
}

/// A lease from its ask to its return.
struct Errand {
    clusters: Arc<Clusters>,
    leases: Arc<Leases>,
    denials: Option<Arc<Denials>>,
    closing: CancellationToken,
    charge: Charge,
    terms: LeaseTerms,
}

impl Errand {
    /// Asks for `want` hits at `sent`, and keeps what is granted for its hold.
    async fn ask(self, want: u32, sent: Moment) {
        if self.closing.is_cancelled() {
            return self.leases.lost(&self.charge, sent);
        }
        let lease = Lease::Ask { ceiling: self.terms.ceiling, shares: self.leases.shares() };
        let reading = self.call(Hits::Add(want), lease, sent.now).await;
        let at = self.later(sent);
        let Ok(Reading { outcome: ChargeOutcome::Leased { credits, at: charged }, used, .. }) = reading
        else {
            return self.leases.lost(&self.charge, at);
        };
        let grant = Grant { credits, used, charged, sent };
        match self.leases.granted(&self.charge, self.terms, grant, at) {
            Granted::Held(lot) => self.keep(lot, sent).await,
            Granted::Return(lot) => {
                self.give_back(lot, at).await;
            }
            Granted::Nothing => {}
        }
    }

    /// Returns what is left of the lot after its hold. A lot that cannot be returned because its server cannot be
    /// reached is spent further.
    async fn keep(&self, lot: Lot, sent: Moment) {
        let mut ends = Instant::now() + self.terms.hold();
        loop {
            tokio::select! {
                () = time::sleep_until(ends) => {}
                () = self.closing.cancelled() => {}
            }
            let at = self.later(sent);
            let Some(lot) = self.leases.expire(&self.charge, lot.id, at) else { return };
            let is_kept = !self.give_back(lot, at).await && self.leases.keep(&self.charge, self.terms, lot);
            if !is_kept || self.closing.is_cancelled() {
                return;
            }
            ends = Instant::now() + self.terms.hold();
        }
    }

    /// Returns the credits of a lot. False if it is certain that they were not returned.
    async fn give_back(&self, lot: Lot, at: Moment) -> bool {
        if !lot.is_returnable(self.charge.limit, at) {
            return true;
        }
        let lease = Lease::Return { charged: lot.charged };
        let returned = self.call(Hits::Refund(lot.credits), lease, at.now).await;
        if let Err(error) = &returned {
            tracing::debug!(%error, credits = lot.credits, "lease not returned; its hits stay counted");
        }
        self.denials.iter().for_each(|denials| denials.forget(&self.charge.key));
        !matches!(returned, Err(StoreError::Unreachable(_)))
    }

    async fn call(&self, hits: Hits, lease: Lease, now: Timestamp) -> Result<Reading, StoreError> {
        let charge = Charge { hits, lease: Some(lease), ..self.charge.clone() };
        let mut groups = self.clusters.groups(&[charge], now, false);
        let outcome = self.clusters.charge_each(&mut groups).await.pop();
        outcome.map_or_else(|| Err(lost()), |(_, outcome)| outcome)
    }

    /// This moment: the clock of `before`, moved on by the monotonic one.
    fn later(&self, before: Moment) -> Moment {
        let at = self.leases.moment(before.now, self.clusters.generation());
        let passed = Duration::from_micros(at.mono_us.saturating_sub(before.mono_us));
        Moment { now: before.now.after(passed), ..at }
    }
}
