//! The Redis store: counters that every replica shares.
//!
//! A counter is a plain number under the charge's key and the beginning of its window in decimal
//! digits, so that a window never needs to be reset, and one envoyproxy/ratelimit finds its own counters
//! under compatible keys. The charges of a request go to the servers that keep their counters
//! (`servers`), in one round trip, together with those of others that wait (`node`, `batch`). A charge
//! that may have been carried out is never sent again.
//!
//! Charges that are decided together are one script call if their counters lie in one slot. Otherwise each slot
//! decides for itself, and hits that it counted are returned if another slot denied: too much is never admitted,
//! but the returned hits look used for the time of a round trip.

mod agreement;
mod batch;
mod cluster;
mod connect;
mod denials;
mod discovery;
mod exchange;
mod inspect;
mod leases;
mod leasing;
mod lockouts;
mod login;
mod node_client;
mod overrides;
mod queue;
mod refunds;
mod reply;
mod reset;
mod round_trips;
mod script;
mod session;
mod settings;
mod slot_groups;
mod slots;
mod status;
#[cfg(test)]
mod tests;
mod ttl;
mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::cluster::{Cluster, CrossSlot};
use self::connect::ConnectConfig;
pub use self::denials::Denials;
use self::discovery::Discovery;
pub use self::leases::{LeaseFigures, Leases};
pub use self::login::LoginError;
use self::refunds::Releaser;
pub use self::round_trips::NodeLatency;
use self::settings::ServerClock;
pub use self::settings::{Credentials, Deployment, Endpoint, Login, RedisSettings};
use self::slot_groups::{Clusters, Refunds, SlotGroups, by_counter, in_order, lost};
pub use self::status::NodeSnapshot;
use super::{Charge, ChargeFuture, Readings, Store, StoreError, is_group};
use crate::clock::{Clock as _, SystemClock};
use crate::engine::{Hits, Timestamp};
use crate::supervisor::Supervisor;
use crate::tls::{Reloader, TlsError};

/// Source of the stores of all cores, which share the topology and the state of the nodes.
#[derive(Debug)]
pub struct Redis {
    all: (Arc<ConnectConfig>, Discovery),
    per_second: Option<(Arc<ConnectConfig>, Discovery)>,
    denials: Option<Arc<Denials>>,
    leases: Option<Arc<Leases>>,
    listing: Arc<Mutex<()>>,
}

/// Services of the process that the store uses.
#[derive(Clone, Debug)]
pub struct RedisContext {
    /// Receives the ends of tasks.
    pub supervisor: Supervisor,
    /// Reloads the files of TLS.
    pub certificates: Arc<Reloader>,
}

impl RedisContext {
    /// Without supervision, and with files that are read once.
    pub fn detached() -> Self {
        Self { supervisor: Supervisor::detached(), certificates: Reloader::new(|| SystemClock.now()) }
    }
}

impl Redis {
    /// Begins to ask where the servers are, in the runtime it is called in, for as long as this or a
    /// store lives. Limits per second are counted in `per_second`, where there is one. What `denials`
    /// know is not asked about. Tasks are reported to `context`'s supervisor if they end, and new connections use
    /// the certificates that its reloader read last.
    ///
    /// # Errors
    /// A TLS file that cannot be used, and why.
    pub fn watch(
        all: RedisSettings,
        per_second: Option<RedisSettings>,
        denials: Option<Arc<Denials>>,
        context: &RedisContext,
    ) -> Result<Self, TlsError> {
        Self::watch_by(ServerClock::Own, all, per_second, denials, context)
    }

    fn watch_by(
        clock: ServerClock,
        all: RedisSettings,
        per_second: Option<RedisSettings>,
        denials: Option<Arc<Denials>>,
        context: &RedisContext,
    ) -> Result<Self, TlsError> {
        let watch = |settings| {
            let config = ConnectConfig::new(settings, clock, context)?;
            let discovery = Discovery::watch(&config);
            Ok((config, discovery))
        };
        Ok(Self {
            all: watch(all)?,
            per_second: per_second.map(watch).transpose()?,
            denials,
            leases: None,
            listing: Arc::default(),
        })
    }

    /// This store with credits of leased limits. Without them, such limits are counted like others.
    pub fn with_leases(self, leases: Arc<Leases>) -> Self {
        Self { leases: Some(leases), ..self }
    }

    /// The state of each node that some core is connected to.
    pub fn nodes(&self) -> Vec<NodeSnapshot> {
        let per_second = self.per_second.iter().flat_map(|(config, _)| config.nodes.snapshot());
        self.all.0.nodes.snapshot().into_iter().chain(per_second).collect()
    }

    /// Counters that may stay in Redis without a TTL, because nothing is going to set it any more.
    pub fn ttls_lost(&self) -> u64 {
        let per_second = self.per_second.iter().map(|(config, _)| config.nodes.ttls_lost());
        self.all.0.nodes.ttls_lost() + per_second.sum::<u64>()
    }

    /// Releases of places that were given up: the places stay held until their TTL ends.
    pub fn releases_lost(&self) -> u64 {
        self.all.0.nodes.releases_lost()
    }

    /// Settlements of budgets that were given up: their amounts are not counted.
    pub fn settlements_lost(&self) -> u64 {
        self.all.0.nodes.settlements_lost()
    }

    /// Why the servers are not known yet, if they are not: no Sentinel or no node of a Cluster has answered.
    pub fn discovery_error(&self) -> Option<String> {
        let error = |(_, discovery): &(_, Discovery)| discovery.error();
        error(&self.all).or_else(|| self.per_second.as_ref().and_then(error))
    }

    /// A store that begins to connect, and returns at once, whether or not Redis is there. It connects
    /// for as long as it lives, and again whenever a connection is lost.
    ///
    /// It belongs to the runtime it is made in, whose timer must be enabled; each core has its own.
    pub fn store(&self) -> RedisStore {
        let connect = |(config, discovery): &(_, _)| Cluster::connect(config, discovery);
        let all = connect(&self.all);
        let per_second = self.per_second.as_ref().map(connect);
        let expiration_jitter_max_secs = self.all.0.settings.expiration_jitter_max_secs;
        let clusters = Arc::new(Clusters { all, per_second, expiration_jitter_max_secs });
        RedisStore {
            releaser: Releaser::new(&self.all.0, &clusters),
            clusters,
            denials: self.denials.clone(),
            leases: self.leases.clone(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            listing: Arc::clone(&self.listing),
        }
    }
}

/// Counters in Redis.
#[derive(Debug)]
pub struct RedisStore {
    clusters: Arc<Clusters>,
    denials: Option<Arc<Denials>>,
    releaser: Releaser,
    leases: Option<Arc<Leases>>,
    /// Cancelled when leases are to be returned.
    closing: CancellationToken,
    /// Tasks that go on without their caller.
    tasks: TaskTracker,
    /// Held by the listing of lockouts that is under way.
    listing: Arc<Mutex<()>>,
}

impl RedisStore {
    /// A store of its own for one runtime, without a supervisor. See [`Redis::watch`] and [`Redis::store`].
    ///
    /// # Errors
    /// As with [`Redis::watch`].
    pub fn connect(settings: &RedisSettings) -> Result<Self, TlsError> {
        Ok(Redis::watch(settings.clone(), None, None, &RedisContext::detached())?.store())
    }

    /// A store that uses the time that callers pass in, where production uses the server's: for tests of
    /// what happens over hours.
    ///
    /// # Errors
    /// As with [`Redis::watch`].
    #[doc(hidden)]
    pub fn connect_by_callers_clock(settings: &RedisSettings) -> Result<Self, TlsError> {
        let context = RedisContext::detached();
        Ok(Redis::watch_by(ServerClock::Callers, settings.clone(), None, None, &context)?.store())
    }

    /// A store on the same connections, which shares their batches, but has its own `denials`: for
    /// charges that must not change what this store knows. [`Self::settle`] of either finishes the work of both.
    pub fn beside(&self, denials: Option<Arc<Denials>>) -> Self {
        Self {
            denials,
            leases: None,
            closing: self.closing.clone(),
            clusters: Arc::clone(&self.clusters),
            releaser: self.releaser.clone(),
            tasks: self.tasks.clone(),
            listing: Arc::clone(&self.listing),
        }
    }

    /// Waits until Redis can be reached, for at most `timeout`; zero is no bound.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when `timeout` has run out, with the cause of the last failure:
    /// `Connection refused`, `NOAUTH…`, `WRONGPASS…`.
    pub async fn ready(&self, timeout: Duration) -> Result<(), StoreError> {
        self.clusters.all.ready(timeout).await?;
        match &self.clusters.per_second {
            Some(cluster) => cluster.ready(timeout).await,
            None => Ok(()),
        }
    }

    /// Sends PING to every server.
    ///
    /// # Errors
    /// Error of the first server that does not answer. It has no timeout: a server that hangs never fails.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.clusters.all.ping().await?;
        match &self.clusters.per_second {
            Some(cluster) => cluster.ping().await,
            None => Ok(()),
        }
    }

    /// Finishes the work that charges leave until after their answer: sets the TTLs of new counters, and returns hits
    /// that were counted in vain or in advance. Call it when the last charge is done and before
    /// the runtime ends.
    pub async fn settle(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.clusters.all.settle().await;
        if let Some(cluster) = &self.clusters.per_second {
            cluster.settle().await;
        }
    }

    /// Carries out charges by asking Redis, except for those known to be denied.
    async fn charge_unleased(&self, charges: &[Charge], now: Timestamp) -> Readings {
        match &self.denials {
            Some(denials) => self.charge_unknown(charges, denials, now).await,
            None => self.charge_all(charges, now, false).await,
        }
    }

    /// Carries out those charges that are not known to be denied. Where one is, nothing counts that
    /// counts only if the request passes.
    async fn charge_unknown(&self, charges: &[Charge], denials: &Denials, now: Timestamp) -> Readings {
        for charge in charges.iter().filter(|charge| matches!(charge.hits, Hits::Refund(_))) {
            denials.forget(&charge.key);
        }
        let sent = Instant::now();
        let known: SmallVec<[bool; 4]> =
            charges.iter().map(|charge| denials.know(charge, now, sent)).collect();
        let readings = match known.contains(&true) {
            false => self.charge_all(charges, now, false).await,
            true => {
                let unknown = charges.iter().zip(&known).filter(|(_, known)| !**known);
                let unknown: SmallVec<[Charge; 2]> = unknown.map(|(charge, _)| charge.clone()).collect();
                let mut asked = self.charge_all(&unknown, now, true).await.into_iter();
                let reading = |(charge, known): (&Charge, &bool)| match *known {
                    true => Ok(denials.reading(charge, now)),
                    false => asked.next().unwrap_or_else(|| Err(lost())),
                };
                charges.iter().zip(&known).map(reading).collect()
            }
        };
        for (charge, reading) in charges.iter().zip(&readings) {
            if let Ok(reading) = reading {
                denials.learn(charge, reading, now, sent);
            }
        }
        readings
    }

    /// Carries out `charges`, whose request is `denied` already or not.
    async fn charge_all(&self, charges: &[Charge], now: Timestamp, denied: bool) -> Readings {
        let mut groups = self.clusters.groups(charges, now, denied);
        if let [group] = &mut *groups {
            match self.clusters.charge(group).await {
                Ok(outcomes) => return outcomes.into_iter().collect(),
                Err(CrossSlot(charges)) => groups = by_counter(group.location, &group.indexes, charges),
            }
        }
        if !is_group(charges) {
            // In a box, as all is that few requests come to: the others take up their own room alone.
            let each = Box::pin(self.clusters.charge_each(&mut groups)).await;
            return in_order(each, charges.len());
        }
        let decided = self.tasks.spawn(self.charge_across_slots(groups));
        decided.await.unwrap_or_else(|_| (0..charges.len()).map(|_| Err(lost())).collect())
    }

    /// Carries out the groups of a request that has charges which count only if all of it passes. Goes on without
    /// its caller, so that hits of a denied request are refunded.
    fn charge_across_slots(&self, mut groups: SlotGroups) -> impl Future<Output = Readings> + use<> {
        let (clusters, tasks) = (Arc::clone(&self.clusters), self.tasks.clone());
        async move {
            let (readings, Refunds { groups: mut refunds, is_awaited }) =
                clusters.decide_across_slots(&mut groups).await;
            if is_awaited {
                refunds::refund(&clusters, &mut refunds).await;
            } else if !refunds.is_empty() {
                tasks.spawn(async move { refunds::refund(&clusters, &mut refunds).await });
            }
            readings
        }
    }
}

impl Store for RedisStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        let readings = async move {
            match &self.leases {
                Some(leases) if charges.iter().any(|charge| charge.lease.is_some()) => {
                    match self.spend_on(leases, charges, now) {
                        Ok(readings) => readings,
                        Err(attempt) => Box::pin(self.charge_leased(leases, charges, attempt)).await,
                    }
                }
                _ => self.charge_unleased(charges, now).await,
            }
        };
        Box::pin(readings.instrument(tracing::info_span!("Redis Pipeline Execution")))
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        for charge in refunds {
            self.denials.iter().for_each(|denials| denials.forget(&charge.key));
        }
        let (releases, refunds): (Vec<_>, Vec<_>) = refunds.iter().cloned().partition(Charge::is_repeatable);
        if !refunds.is_empty() {
            let (clusters, mut groups) =
                (Arc::clone(&self.clusters), self.clusters.groups(&refunds, now, false));
            self.tasks.spawn(async move { refunds::refund(&clusters, &mut groups).await });
        }
        if !releases.is_empty() {
            let (releaser, tasks) = (self.releaser.clone(), self.tasks.clone());
            self.tasks.spawn(async move { releaser.release(releases, now, &tasks).await });
        }
    }
}
