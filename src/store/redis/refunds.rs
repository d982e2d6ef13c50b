//! Refunds in the background: no request waits for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{self, Instant};
use tokio_util::task::TaskTracker;

use super::connect::ConnectConfig;
use super::slot_groups::{Clusters, SlotGroups};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::reserve::{Action, Settlement};
use crate::engine::{Reservation, Timestamp};
use crate::store::Charge;

/// Releases are repeated for so long.
const REPEAT_FOR: Duration = Duration::from_secs(10);
/// Pause before the first repetition. Each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Upper bound on the pauses.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Upper bound on the requests of one core whose releases are repeated.
const MAX_REPEATED: usize = 10_000;

/// Carries out refunds of hits, once each: one whose outcome is unknown may have been carried out.
pub(super) async fn refund(clusters: &Clusters, groups: &mut SlotGroups) {
    for (_, outcome) in clusters.charge_each(groups).await {
        if let Err(error) = outcome {
            tracing::debug!(%error, "refund failed; hits of a denied request stay counted");
        }
    }
}

/// Carries out releases of places and holds, and settlements, which are repeated until Redis has confirmed them.
#[derive(Clone, Debug)]
pub(super) struct Releaser {
    config: Arc<ConnectConfig>,
    clusters: Arc<Clusters>,
    repeated: Arc<Semaphore>,
}

/// Release or settlement.
struct Release {
    charge: Charge,
    /// Redis said that nothing is held. The acquisition may still be on its way, when a Cluster has redirected it.
    was_missing: bool,
}

impl Releaser {
    pub(super) fn new(config: &Arc<ConnectConfig>, clusters: &Arc<Clusters>) -> Self {
        let (config, clusters) = (Arc::clone(config), Arc::clone(clusters));
        Self { config, clusters, repeated: Arc::new(Semaphore::new(MAX_REPEATED)) }
    }

    /// Carries out releases. Each is confirmed if it gave a place back, or if the place was missing twice, an
    /// acquisition's time apart. Once `tasks` are closed nothing is repeated.
    pub(super) async fn release(&self, releases: Vec<Charge>, now: Timestamp, tasks: &TaskTracker) {
        let until = Instant::now() + REPEAT_FOR;
        let mut releases: Vec<_> =
            releases.into_iter().map(|charge| Release { charge, was_missing: false }).collect();
        self.attempt(&mut releases, now).await;
        if releases.is_empty() {
            return;
        }
        if let Ok(_permit) = self.repeated.try_acquire() {
            let mut pause = FIRST_PAUSE.max(self.config.settings.call_timeout);
            while !releases.is_empty() && Instant::now() < until && !tasks.is_closed() {
                time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                self.attempt(&mut releases, now).await;
            }
        }
        self.give_up(releases.iter().filter(|release| !release.was_missing).map(|release| &release.charge));
    }

    fn give_up<'c>(&self, charges: impl Iterator<Item = &'c Charge>) {
        let (mut releases, mut settlements) = (0, 0);
        for charge in charges {
            match charge.reservation() {
                Some((
                    Reservation { action: Action::Settle(Settlement { amount: amount @ 1.., .. }), .. },
                    _,
                )) => {
                    let key = String::from_utf8_lossy(&charge.key);
                    tracing::warn!(%key, amount, "amount of a budget is not counted");
                    settlements += 1;
                }
                _ => releases += 1,
            }
        }
        self.config.nodes.lost_releases().add(releases);
        self.config.nodes.lost_settlements().add(settlements);
    }

    /// Carries `releases` out once, and keeps those that are not confirmed.
    async fn attempt(&self, releases: &mut Vec<Release>, now: Timestamp) {
        let charges: Vec<_> = releases.iter().map(|release| release.charge.clone()).collect();
        let mut is_confirmed = vec![false; releases.len()];
        for (index, outcome) in
            self.clusters.charge_each(&mut self.clusters.groups(&charges, now, false)).await
        {
            let (Some(release), Some(is_confirmed)) = (releases.get_mut(index), is_confirmed.get_mut(index))
            else {
                continue;
            };
            match outcome {
                Ok(reading) if reading.outcome == ChargeOutcome::Charged => *is_confirmed = true,
                Ok(_) => *is_confirmed = std::mem::replace(&mut release.was_missing, true),
                Err(error) => tracing::debug!(%error, "not released or settled yet"),
            }
        }
        let mut is_confirmed = is_confirmed.into_iter();
        releases.retain(|_| !is_confirmed.next().unwrap_or(false));
    }
}
