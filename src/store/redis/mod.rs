//! The Redis store: counters that every replica shares.
//!
//! A counter is a plain number under the charge's key and the beginning of its window in decimal
//! digits, so that a window never needs to be reset, and one envoyproxy/ratelimit finds its own counters
//! under compatible keys. The charges of a request go to the servers that keep their counters
//! (`servers`), in one round trip, together with those of others that wait (`shard`, `batch`). A charge
//! that may have been carried out is never sent again.
//!
//! Charges that are decided together are one script call where their counters lie in one slot. Where
//! they do not, each slot decides for itself, and what it counted is given back if another one denied:
//! never too much is admitted, and what was given back looked used for the time of a round trip.

mod batch;
mod client;
mod connection;
mod denials;
mod expiry;
mod login;
mod servers;
mod settings;
mod shard;
mod slots;
mod tls;
mod topology;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future;
use smallvec::{SmallVec, smallvec};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::batch::{Ask, Asks};
use self::client::Access;
pub use self::denials::Denials;
pub use self::login::LoginError;
use self::servers::{Apart, Servers};
pub use self::settings::{
    ClientCertificate, Credentials, Deployment, Endpoint, Login, RedisSettings, TlsSettings,
};
use self::shard::Outcomes;
pub use self::tls::{Fault, TlsError, TlsFile, check_tls};
use self::topology::Topology;
use super::{Charge, Charging, Reading, Readings, Store, StoreError, is_group};
use crate::engine::algorithm::group::Outcome;
use crate::engine::{ChargeMode, FailurePolicy, Hits, Timestamp, Unit, Vote, Votes};

/// Room for the digits of any window's beginning.
const MAX_DIGITS: usize = 20;

/// What every core's store is made from: what is known of the servers is known to all of them.
#[derive(Debug)]
pub struct Redis {
    all: (Arc<Access>, Topology),
    per_second: Option<(Arc<Access>, Topology)>,
    denials: Option<Arc<Denials>>,
}

impl Redis {
    /// Begins to ask where the servers are, in the runtime it is called in, for as long as this or a
    /// store lives. Limits per second are counted in `per_second`, where there is one. What `denials`
    /// know is not asked about.
    ///
    /// # Errors
    /// Where TLS is asked for: a file that is of no use, and why.
    pub fn watch(
        all: RedisSettings,
        per_second: Option<RedisSettings>,
        denials: Option<Arc<Denials>>,
    ) -> Result<Self, TlsError> {
        let watch = |settings| {
            let access = Access::new(settings)?;
            let topology = Topology::watch(&access);
            Ok((access, topology))
        };
        Ok(Self { all: watch(all)?, per_second: per_second.map(watch).transpose()?, denials })
    }

    /// A store that begins to connect, and returns at once, whether or not Redis is there. It connects
    /// for as long as it lives, and again whenever a connection is lost.
    ///
    /// It belongs to the runtime it is made in, whose timer must be enabled; each core has its own.
    pub fn store(&self) -> RedisStore {
        let connect = |(access, topology): &(_, _)| Servers::connect(access, topology);
        let all = connect(&self.all);
        let per_second = self.per_second.as_ref().map(connect);
        let expiration_jitter_max_secs = self.all.0.settings.expiration_jitter_max_secs;
        RedisStore {
            servers: Arc::new(AllServers { all, per_second, expiration_jitter_max_secs }),
            denials: self.denials.clone(),
            tasks: TaskTracker::new(),
        }
    }
}

/// Counters in Redis.
#[derive(Debug)]
pub struct RedisStore {
    servers: Arc<AllServers>,
    denials: Option<Arc<Denials>>,
    /// What goes on though its caller may have gone.
    tasks: TaskTracker,
}

#[derive(Debug)]
struct AllServers {
    all: Servers,
    per_second: Option<Servers>,
    expiration_jitter_max_secs: u32,
}

/// Charges whose counters lie in one place, and where in the request they stand.
struct Part {
    place: Place,
    asks: Asks,
    indexes: SmallVec<[usize; 2]>,
}

type Parts = SmallVec<[Part; 1]>;

/// Charges in one place can be carried out in one call.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    per_second: bool,
    slot: u16,
}

impl RedisStore {
    /// A store of its own for one runtime. See [`Redis::watch`] and [`Redis::store`].
    ///
    /// # Errors
    /// As with [`Redis::watch`].
    pub fn connect(settings: &RedisSettings) -> Result<Self, TlsError> {
        Ok(Redis::watch(settings.clone(), None, None)?.store())
    }

    /// Waits until Redis can be reached: for ever where `patience` is zero, else no longer than it.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when `patience` has run out, with the cause of the last failure:
    /// `Connection refused`, `NOAUTH…`, `WRONGPASS…`.
    pub async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        self.servers.all.ready(patience).await?;
        match &self.servers.per_second {
            Some(servers) => servers.ready(patience).await,
            None => Ok(()),
        }
    }

    /// Asks every server whether it is there.
    ///
    /// # Errors
    /// What the first one says that is not. Who waits for one that hangs waits for ever.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.servers.all.ping().await?;
        match &self.servers.per_second {
            Some(servers) => servers.ping().await,
            None => Ok(()),
        }
    }

    /// Whether Redis can be reached now, as far as is known: of a Cluster, a part of it.
    pub fn is_connected(&self) -> bool {
        self.servers.all.is_up() && self.servers.per_second.as_ref().is_none_or(Servers::is_up)
    }

    /// Sees to what charges left to do after their answer: a counter that is new is given its time to
    /// live, and what was counted in vain is given back. Call it when the last charge is done and before
    /// the runtime ends.
    pub async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.servers.all.settle().await;
        if let Some(servers) = &self.servers.per_second {
            servers.settle().await;
        }
    }

    /// Carries out those charges that are not known to be denied. Where one is, nothing counts that
    /// counts only if the request passes: it is looked at, to tell what is left.
    async fn charge_unknown(&self, charges: &[Charge], denials: &Denials, now: Timestamp) -> Readings {
        for charge in charges.iter().filter(|charge| matches!(charge.hits, Hits::Refund(_))) {
            denials.forget(&charge.key);
        }
        let known: SmallVec<[bool; 4]> = charges.iter().map(|charge| denials.know(charge, now)).collect();
        let readings = match known.contains(&true) {
            false => self.charge_all(charges, now).await,
            true => {
                let unknown = charges.iter().zip(&known).filter(|(_, known)| !**known);
                let looks: SmallVec<[Charge; 2]> = unknown.map(|(charge, _)| in_vain(charge)).collect();
                let mut looked = self.charge_all(&looks, now).await.into_iter();
                let reading = |(charge, known): (&Charge, &bool)| match *known {
                    true => Ok(Reading { used: quota(charge), outcome: Outcome::Known }),
                    false => {
                        looked.next().unwrap_or_else(|| Err(lost())).map(|reading| seen(charge, reading))
                    }
                };
                charges.iter().zip(&known).map(reading).collect()
            }
        };
        for (charge, reading) in charges.iter().zip(&readings) {
            if let Ok(reading) = reading {
                denials.learn(charge, reading, now);
            }
        }
        readings
    }

    async fn charge_all(&self, charges: &[Charge], now: Timestamp) -> Readings {
        let mut parts = self.servers.parts(charges, now);
        if let [part] = &mut *parts {
            match self.servers.charge(part).await {
                Ok(outcomes) => return outcomes.into_iter().collect(),
                Err(Apart(asks)) => parts = by_counter(part.place, &part.indexes, asks),
            }
        }
        if !is_group(charges) {
            return in_order(self.servers.charge_each(&mut parts).await, charges.len());
        }
        let decided = self.tasks.spawn(self.charge_apart(parts, charges));
        decided.await.unwrap_or_else(|_| (0..charges.len()).map(|_| Err(lost())).collect())
    }

    /// Carries out the parts of a request some of which count only if all of it passes. It goes on
    /// though nobody waits for it: what was counted in vain is given back.
    fn charge_apart(&self, mut parts: Parts, charges: &[Charge]) -> impl Future<Output = Readings> + use<> {
        let (servers, tasks) = (Arc::clone(&self.servers), self.tasks.clone());
        let terms: Vec<Terms> = charges.iter().map(Terms::of).collect();
        async move {
            let (readings, mut in_vain) = servers.decide_apart(&mut parts, &terms).await;
            if !in_vain.is_empty() {
                // The answer need not wait for it.
                tasks.spawn(async move {
                    for (_, outcome) in servers.charge_each(&mut in_vain).await {
                        if let Err(error) = outcome {
                            tracing::debug!(%error, "a hit stays counted though its request was denied");
                        }
                    }
                });
            }
            readings
        }
    }
}

impl Store for RedisStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a> {
        let readings = async move {
            match &self.denials {
                Some(denials) => self.charge_unknown(charges, denials, now).await,
                None => self.charge_all(charges, now).await,
            }
        };
        Box::pin(readings.instrument(tracing::info_span!("Redis Pipeline Execution")))
    }
}

impl AllServers {
    fn of(&self, place: Place) -> &Servers {
        self.per_second.as_ref().filter(|_| place.per_second).unwrap_or(&self.all)
    }

    /// The charges, by the place of their counters.
    fn parts(&self, charges: &[Charge], now: Timestamp) -> Parts {
        let mut parts = Parts::new();
        for (index, charge) in charges.iter().enumerate() {
            let ask = self.ask(charge, now);
            let per_second = self.per_second.is_some() && charge.limit.unit == Unit::Second;
            let servers = self.of(Place { per_second, slot: 0 });
            let place = Place { per_second, slot: servers.slot(&ask.key) };
            match parts.iter_mut().find(|part| part.place == place) {
                Some(part) => part.push(index, ask),
                None => parts.push(Part::of(place, index, ask)),
            }
        }
        parts
    }

    fn ask(&self, charge: &Charge, now: Timestamp) -> Ask {
        let jitter_secs = match self.expiration_jitter_max_secs {
            0 => 0,
            max => fastrand::u32(0..max),
        };
        Ask {
            key: counter_key(charge, now),
            hits: charge.hits,
            quota: charge.limit.requests_per_unit,
            mode: charge.mode,
            vote: charge.vote,
            secs: charge.limit.window().secs().saturating_add(jitter_secs),
        }
    }

    /// Takes the charges of `part` and carries them out.
    async fn charge(&self, part: &mut Part) -> Result<Outcomes, Apart> {
        self.of(part.place).charge(mem::take(&mut part.asks), part.place.slot).await
    }

    /// The same, one counter after the other where they cannot be carried out together.
    async fn carry_out(&self, part: &mut Part) -> Outcomes {
        let asks = match self.charge(part).await {
            Ok(outcomes) => return outcomes,
            Err(Apart(asks)) => asks,
        };
        let len = asks.len();
        let indexes: SmallVec<[usize; 2]> = (0..len).collect();
        let mut outcomes = Vec::with_capacity(len);
        for mut part in by_counter(part.place, &indexes, asks) {
            if let Ok(of_counter) = self.charge(&mut part).await {
                outcomes.extend(part.indexes.iter().copied().zip(of_counter));
            }
        }
        in_order(outcomes, len).into_iter().collect()
    }

    /// Carries out every part at once, each whatever becomes of the others.
    async fn charge_each(&self, parts: &mut [Part]) -> Vec<(usize, Result<Reading, StoreError>)> {
        let carried_out = parts.iter_mut().map(async |part| {
            let outcomes = self.carry_out(part).await;
            part.indexes.iter().copied().zip(outcomes).collect::<SmallVec<[_; 2]>>()
        });
        future::join_all(carried_out).await.into_iter().flatten().collect()
    }

    /// Every place decides for itself. The readings, and what to give back where the request is denied
    /// all the same.
    async fn decide_apart(&self, parts: &mut Parts, terms: &[Terms]) -> (Readings, Parts) {
        // Whether the request's quotas are used up together is not for one place to say.
        for ask in parts.iter_mut().flat_map(|part| &mut part.asks) {
            if matches!(ask.vote, Vote::Quota | Vote::ShadowQuota) {
                ask.vote = Vote::Shadow;
            }
        }
        let asked: Vec<(Place, usize, Ask)> = parts.iter().flat_map(Part::each).collect();
        let mut readings = in_order(self.charge_each(parts).await, terms.len());
        let mut votes = Votes::default();
        for (terms, reading) in terms.iter().zip(&readings) {
            votes.cast(terms.vote, terms.is_over(reading));
        }
        let mut in_vain = Parts::new();
        if votes.deny() {
            for (place, index, ask) in asked {
                let (ChargeMode::IfAllowed, Hits::Add(hits)) = (ask.mode, ask.hits) else { continue };
                if let Some(Ok(reading)) = readings.get_mut(index)
                    && reading.outcome == Outcome::Charged
                {
                    let used = reading.used.saturating_sub(hits.into());
                    *reading = Reading { used, outcome: Outcome::Withheld };
                    in_vain.push(Part::of(place, index, Ask { hits: Hits::Refund(hits), ..ask }));
                }
            }
        }
        (readings, in_vain)
    }
}

/// What to do for a charge whose request is denied.
fn in_vain(charge: &Charge) -> Charge {
    match (charge.mode, charge.hits) {
        (ChargeMode::IfAllowed, Hits::Add(_)) => {
            Charge { mode: ChargeMode::Always, hits: Hits::Add(0), ..charge.clone() }
        }
        _ => charge.clone(),
    }
}

/// What a look says of a charge whose request is denied.
fn seen(charge: &Charge, reading: Reading) -> Reading {
    let outcome = match (charge.mode, charge.hits) {
        (ChargeMode::IfAllowed, Hits::Add(hits)) => {
            let fits = reading.used + u64::from(hits.max(1)) <= quota(charge);
            if fits { Outcome::Withheld } else { Outcome::Denied }
        }
        _ => reading.outcome,
    };
    Reading { outcome, ..reading }
}

fn quota(charge: &Charge) -> u64 {
    charge.limit.requests_per_unit.into()
}

/// What a charge means for its request.
struct Terms {
    quota: u32,
    hits: Hits,
    mode: ChargeMode,
    vote: Vote,
    on_failure: FailurePolicy,
}

impl Terms {
    const fn of(charge: &Charge) -> Self {
        let Charge { limit, hits, mode, vote, on_failure, .. } = *charge;
        Self { quota: limit.requests_per_unit, hits, mode, vote, on_failure }
    }

    /// Whether it is over its limit, or will be taken for it.
    fn is_over(&self, reading: &Result<Reading, StoreError>) -> bool {
        match (reading, self.on_failure) {
            (Ok(Reading { used, outcome: Outcome::Charged }), _) => {
                let counts_past_its_limit =
                    matches!((self.mode, self.hits), (ChargeMode::Always, Hits::Add(_)));
                counts_past_its_limit && *used > u64::from(self.quota)
            }
            (Ok(Reading { outcome, .. }), _) => *outcome != Outcome::Withheld,
            (Err(_), FailurePolicy::Error | FailurePolicy::Deny) => true,
            (Err(_), FailurePolicy::Allow | FailurePolicy::Local) => false,
        }
    }
}

impl Part {
    fn of(place: Place, index: usize, ask: Ask) -> Self {
        Self { place, asks: smallvec![ask], indexes: smallvec![index] }
    }

    fn push(&mut self, index: usize, ask: Ask) {
        self.asks.push(ask);
        self.indexes.push(index);
    }

    fn each(&self) -> impl Iterator<Item = (Place, usize, Ask)> {
        self.indexes.iter().zip(&self.asks).map(|(index, ask)| (self.place, *index, ask.clone()))
    }
}

/// The charges of a part, each counter's by themselves.
fn by_counter(place: Place, indexes: &[usize], asks: Asks) -> Parts {
    let mut parts = Parts::new();
    for (index, ask) in indexes.iter().copied().zip(asks) {
        let same = |part: &&mut Part| part.asks.iter().any(|other| other.key == ask.key);
        match parts.iter_mut().find(same) {
            Some(part) => part.push(index, ask),
            None => parts.push(Part::of(place, index, ask)),
        }
    }
    parts
}

/// One reading for each charge, by their indexes.
fn in_order(outcomes: Vec<(usize, Result<Reading, StoreError>)>, len: usize) -> Readings {
    let mut readings: Readings = (0..len).map(|_| Err(lost())).collect();
    for (index, outcome) in outcomes {
        if let Some(place) = readings.get_mut(index) {
            *place = outcome;
        }
    }
    readings
}

fn lost() -> StoreError {
    StoreError::Unanswered("it was given up".to_owned())
}

/// The name of the counter for the window that `now` lies in.
fn counter_key(charge: &Charge, now: Timestamp) -> Bytes {
    let mut key = BytesMut::with_capacity(charge.key.len() + MAX_DIGITS);
    key.put_slice(&charge.key);
    key.put_slice(itoa::Buffer::new().format(charge.limit.window().start_secs(now)).as_bytes());
    key.freeze()
}
