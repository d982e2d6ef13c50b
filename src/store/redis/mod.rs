//! The Redis store: counters that every replica shares.
//!
//! A counter is a plain number under the charge's key and the beginning of its window in decimal
//! digits, so that a window never needs to be reset, and one envoyproxy/ratelimit finds its own counters
//! under compatible keys. All charges of a request go out together, in one round trip: `INCRBY` for
//! hits, `GET` for a look, a script for hits given back. A charge that may have been carried out is
//! never sent again.

mod connection;
mod expiry;
mod login;
mod settings;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future;
use smallvec::smallvec;
use tracing::Instrument;

use self::connection::{Connection, Script};
use self::expiry::{Expiries, Expiry};
pub use self::login::LoginError;
pub use self::settings::{
    ClientCertificate, Credentials, Deployment, Endpoint, Login, RedisSettings, TlsSettings,
};
pub use self::tls::{Fault, TlsError, TlsFile, check_tls};
use super::{Charge, Charging, Reading, Readings, Store, StoreError, is_group};
use crate::engine::algorithm::group::Outcome;
use crate::engine::{ChargeMode, Hits, Timestamp, Vote};

/// Room for the digits of any window's beginning.
const MAX_DIGITS: usize = 20;

/// Counters in one Redis server, over one connection.
#[derive(Debug)]
pub struct RedisStore {
    connection: Arc<Connection>,
    expiries: Expiries,
    refund: Script,
    group: Script,
    expiration_jitter_max_secs: u32,
}

impl RedisStore {
    /// A store that begins to connect, and returns at once, whether or not Redis is there. It connects
    /// for as long as it lives, and again whenever the connection is lost.
    ///
    /// It belongs to the runtime it is made in, whose timer must be enabled; each core has its own.
    pub fn connect(settings: &RedisSettings) -> Self {
        let connection = Arc::new(Connection::connect(settings));
        Self {
            expiries: Expiries::new(connection.clone()),
            connection,
            refund: Script::new(include_str!("refund.lua")),
            group: Script::new(include_str!("charge_group.lua")),
            expiration_jitter_max_secs: settings.expiration_jitter_max_secs,
        }
    }

    /// Waits until Redis can be reached: for ever where `patience` is zero, else no longer than it.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when `patience` has run out, with the cause of the last failure:
    /// `Connection refused`, `NOAUTH…`, `WRONGPASS…`.
    pub async fn ready(&self, patience: Duration) -> Result<(), StoreError> {
        self.connection.ready(patience).await
    }

    /// Whether Redis can be reached now, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.connection.is_up()
    }

    /// Sees to what charges left to do after their answer: a counter that is new is given its time to
    /// live. Call it when the last charge is done and before the runtime ends.
    pub async fn settle(&self) {
        self.expiries.settle().await;
    }

    async fn charge_one(&self, charge: &Charge, now: Timestamp, sent: Sent) -> Result<Reading, StoreError> {
        let key = counter_key(charge, now);
        let used = match charge.hits {
            Hits::Add(0) | Hits::Refund(0) => self.connection.get(key).await?.unwrap_or(0),
            Hits::Add(hits) => self.add(key, hits, charge, now).await?,
            Hits::Refund(hits) => match sent {
                Sent::Alone => self.connection.evalsha(&self.refund, &[key], &[hits]).await?,
                Sent::Together => self.connection.eval(&self.refund, &[key], &[hits]).await?,
            },
        };
        // A counter below zero is not ours; it has been tampered with, and counts as empty.
        Ok(Reading { used: u64::try_from(used).unwrap_or(0), outcome: Outcome::Charged })
    }

    /// Carries out charges that are decided together, in one call: the script gives new counters their
    /// time to live.
    async fn charge_group(&self, charges: &[Charge], now: Timestamp) -> Result<Readings, StoreError> {
        let mut keys: Vec<Bytes> = Vec::with_capacity(charges.len());
        let mut arguments = Vec::with_capacity(6 * charges.len());
        for charge in charges {
            let key = counter_key(charge, now);
            let counter = keys.iter().position(|known| *known == key).unwrap_or(keys.len());
            if counter == keys.len() {
                keys.push(key);
            }
            let (kind, hits) = match (charge.hits, charge.mode) {
                (Hits::Add(hits), ChargeMode::Always) => (0, hits),
                (Hits::Add(hits), ChargeMode::IfAllowed) => (1, hits),
                (Hits::Refund(hits), _) => (2, hits),
            };
            let vote = match charge.vote {
                Vote::Enforced => 0,
                Vote::Quota => 1,
                Vote::Shadow => 2,
                Vote::ShadowQuota => 3,
            };
            let counter = u32::try_from(counter).unwrap_or(u32::MAX);
            let secs = u32::try_from(self.lifetime_secs(charge)).unwrap_or(u32::MAX);
            arguments.extend([counter, kind, hits, charge.limit.requests_per_unit, vote, secs]);
        }
        let reply: Vec<i64> = self.connection.evalsha(&self.group, &keys, &arguments).await?;
        let reading = |pair: &[i64]| match *pair {
            [used, outcome] => Some(Reading {
                used: u64::try_from(used).unwrap_or(0),
                outcome: match outcome {
                    0 => Outcome::Charged,
                    1 => Outcome::Denied,
                    _ => Outcome::Withheld,
                },
            }),
            _ => None,
        };
        let readings: Readings = reply.chunks_exact(2).filter_map(reading).collect();
        match readings.len() == charges.len() {
            true => Ok(readings),
            false => Err(StoreError::Refused("the script's reply makes no sense".to_owned())),
        }
    }

    /// How long a new counter is to live, in seconds.
    fn lifetime_secs(&self, charge: &Charge) -> i64 {
        let jitter_secs = match self.expiration_jitter_max_secs {
            0 => 0,
            max => fastrand::u32(0..max),
        };
        i64::from(charge.limit.window().secs()) + i64::from(jitter_secs)
    }

    async fn add(&self, key: Bytes, hits: u32, charge: &Charge, now: Timestamp) -> Result<i64, StoreError> {
        let mut counter = Counter { store: self, charge, now, is_new: IsNew::Unsure };
        let used = self.connection.incr_by(key, hits).await;
        counter.is_new = match &used {
            Ok(used) if *used == i64::from(hits) => IsNew::Yes,
            Ok(_) | Err(StoreError::Unreachable(_) | StoreError::Refused(_) | StoreError::Full { .. }) => {
                IsNew::No
            }
            Err(StoreError::Unanswered(_)) => IsNew::Unsure,
        };
        used
    }
}

impl Store for RedisStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a> {
        let readings = async move {
            match charges {
                charges if is_group(charges) => self.charge_group(charges, now).await,
                [charge] => Ok(smallvec![self.charge_one(charge, now, Sent::Alone).await?]),
                // Each is sent when it is first polled, which is in their order.
                charges => {
                    let readings = charges.iter().map(|charge| self.charge_one(charge, now, Sent::Together));
                    future::join_all(readings).await.into_iter().collect::<Result<Readings, StoreError>>()
                }
            }
        };
        Box::pin(readings.instrument(tracing::info_span!("Redis Pipeline Execution")))
    }
}

/// What a charge is sent with.
#[derive(Clone, Copy)]
enum Sent {
    Alone,
    /// With others, which are carried out in their order: none can take a second round trip.
    Together,
}

/// A counter that is being added to. When that is over, or the caller stops waiting for it, the counter
/// gets its time to live if it needs one.
struct Counter<'a> {
    store: &'a RedisStore,
    charge: &'a Charge,
    now: Timestamp,
    is_new: IsNew,
}

enum IsNew {
    Yes,
    No,
    /// Nobody has seen the reply.
    Unsure,
}

impl Counter<'_> {
    fn expiry(&self) -> Expiry {
        Expiry { key: counter_key(self.charge, self.now), secs: self.store.lifetime_secs(self.charge) }
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        match self.is_new {
            IsNew::Yes => self.store.expiries.set(self.expiry()),
            IsNew::Unsure => self.store.expiries.set_later(self.expiry()),
            IsNew::No => {}
        }
    }
}

/// The name of the counter for the window that `now` lies in.
fn counter_key(charge: &Charge, now: Timestamp) -> Bytes {
    let mut key = BytesMut::with_capacity(charge.key.len() + MAX_DIGITS);
    key.put_slice(&charge.key);
    key.put_slice(itoa::Buffer::new().format(charge.limit.window().start_secs(now)).as_bytes());
    key.freeze()
}
