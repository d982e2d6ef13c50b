//! Times to live: every counter gets one, once, and nobody waits for it.
//!
//! The window is part of a counter's key, so that a key without a time to live would never be wrong; it
//! would stay in Redis for ever. The charge that made the counter knows, since the reply equals what it
//! added, and hands the key to a task. Where no reply was seen, it may or may not have made the counter,
//! and Redis may still be about to: the key is handed over as well, and gets its time to live a little
//! later, again and again until Redis has confirmed it. Where the server says that another one keeps the
//! counter by now, the key is sent on.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use hashbrown::HashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, MissedTickBehavior};

use super::connection::Connection;
use crate::store::StoreError;

/// Keys handed over and not yet taken up.
const MAX_HANDED_OVER: usize = 65_536;
/// `EXPIRE` commands in one round trip.
const MAX_BATCH: usize = 1_024;
/// The pause before keys are tried (again) whose first reply was not seen.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long a round trip may take: nobody waits for it.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(1);
/// Keys kept to be tried again take about so many bytes at the most.
const MAX_LATER_BYTES: usize = 16 << 20;
/// What a key takes to keep besides its own bytes.
const LATER_OVERHEAD_BYTES: usize = 80;

/// Where keys are handed over.
#[derive(Debug)]
pub(super) struct Expiries {
    handed_over: mpsc::Sender<HandedOver>,
    forgotten: Arc<AtomicU64>,
}

/// A key, and how long it is to live from now on.
#[derive(Debug)]
pub(super) struct Expiry {
    pub(super) key: Bytes,
    pub(super) secs: i64,
}

#[derive(Debug)]
enum HandedOver {
    /// The counter exists and is new.
    New(Expiry),
    /// The counter may be new, or be about to come.
    Unsure(Expiry),
    /// Tell when everything handed over before has been seen to.
    Settle(oneshot::Sender<()>),
}

/// The task that sets times to live.
#[derive(Debug)]
struct Keeper {
    connection: Arc<Connection>,
    handed_over: mpsc::Receiver<HandedOver>,
    later: Later,
    /// How many keys of `later` to try in the next round trip: one while Redis does not answer.
    batch_len: usize,
    /// Where to send what another server keeps.
    elsewhere: mpsc::UnboundedSender<Expiry>,
    forgotten: Arc<AtomicU64>,
}

/// Keys to try again, each once, bounded in bytes.
#[derive(Debug, Default)]
struct Later {
    secs_by_key: HashMap<Bytes, i64>,
    bytes: usize,
}

impl Expiries {
    /// Starts the task, in the runtime it is called in. It ends after this is dropped, and sends what it
    /// has not seen to `elsewhere`.
    pub(super) fn new(connection: Arc<Connection>, elsewhere: mpsc::UnboundedSender<Expiry>) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_HANDED_OVER);
        let forgotten = Arc::new(AtomicU64::new(0));
        let keeper = Keeper {
            connection,
            handed_over: receiver,
            later: Later::default(),
            batch_len: 1,
            elsewhere,
            forgotten: forgotten.clone(),
        };
        tokio::spawn(keeper.run());
        Self { handed_over: sender, forgotten }
    }

    /// The counter is new: it gets its time to live at once.
    pub(super) fn set(&self, expiry: Expiry) {
        self.hand_over(HandedOver::New(expiry));
    }

    /// The counter may be new: it gets its time to live when Redis answers again.
    pub(super) fn set_later(&self, expiry: Expiry) {
        self.hand_over(HandedOver::Unsure(expiry));
    }

    /// Waits until everything handed over before has been seen to, as far as Redis answers.
    pub(super) async fn settle(&self) {
        let (settled, wait) = oneshot::channel();
        if self.handed_over.send(HandedOver::Settle(settled)).await.is_ok() {
            // An error says that the task is gone, and with it what there was to wait for.
            drop(wait.await);
        }
    }

    fn hand_over(&self, expiry: HandedOver) {
        if self.handed_over.try_send(expiry).is_err() {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut retry = time::interval(RETRY_INTERVAL);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                _ = retry.tick(), if !self.later.is_empty() => {
                    self.retry().await;
                }
                len = self.handed_over.recv_many(&mut taken, MAX_BATCH) => match len {
                    0 => return self.leave(),
                    _ => self.take_up(&mut taken).await,
                },
            }
            let forgotten = self.forgotten.swap(0, Ordering::Relaxed);
            if forgotten > 0 {
                tracing::warn!(keys = forgotten, "counters may stay in Redis without a time to live");
            }
        }
    }

    /// Sends everything on that was put off. Nobody may be there to take it.
    fn leave(mut self) {
        for expiry in self.later.take(usize::MAX) {
            self.elsewhere.send(expiry).unwrap_or_default();
        }
    }

    async fn take_up(&mut self, taken: &mut Vec<HandedOver>) {
        let (mut new, mut settle) = (Vec::with_capacity(taken.len()), Vec::new());
        for handed_over in taken.drain(..) {
            match handed_over {
                HandedOver::New(expiry) => new.push(expiry),
                HandedOver::Unsure(expiry) => self.put_off(expiry),
                HandedOver::Settle(settled) => settle.push(settled),
            }
        }
        self.expire(new).await;
        if !settle.is_empty() {
            while !self.later.is_empty() && self.retry().await {}
            // Whoever waited may have gone.
            settle.into_iter().for_each(|settled| settled.send(()).unwrap_or_default());
        }
    }

    /// Tries some of the keys put off. While Redis does not answer, that is one; then twice as many
    /// each time. Whether all of them were answered.
    async fn retry(&mut self) -> bool {
        let batch = self.later.take(self.batch_len);
        let answered = self.expire(batch).await;
        self.batch_len = if answered { (self.batch_len * 2).min(MAX_BATCH) } else { 1 };
        answered
    }

    /// Sets times to live in one round trip, and puts off those that were not confirmed. Whether all
    /// were.
    async fn expire(&mut self, batch: Vec<Expiry>) -> bool {
        let expire = |expiry: &Expiry| {
            let (connection, key, secs) = (&self.connection, expiry.key.clone(), expiry.secs);
            async move { connection.expire(key, secs).await }
        };
        let answers = time::timeout(EXCHANGE_TIMEOUT, future::join_all(batch.iter().map(expire))).await;
        let Ok(answers) = answers else {
            batch.into_iter().for_each(|expiry| self.put_off(expiry));
            return false;
        };
        let mut answered = true;
        for (expiry, answer) in batch.into_iter().zip(answers) {
            match answer {
                // A key that is not there needs no time to live.
                Ok(_) => {}
                Err(StoreError::Refused(cause)) if cause.starts_with("MOVED ") => {
                    self.elsewhere.send(expiry).unwrap_or_default();
                }
                Err(_) => {
                    answered = false;
                    self.put_off(expiry);
                }
            }
        }
        answered
    }

    fn put_off(&mut self, expiry: Expiry) {
        if !self.later.put(expiry) {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Later {
    fn is_empty(&self) -> bool {
        self.secs_by_key.is_empty()
    }

    /// Whether there was room.
    fn put(&mut self, Expiry { key, secs }: Expiry) -> bool {
        if self.secs_by_key.contains_key(&key) {
            return true;
        }
        let bytes = self.bytes + key.len() + LATER_OVERHEAD_BYTES;
        if bytes > MAX_LATER_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.secs_by_key.insert(key, secs);
        true
    }

    fn take(&mut self, len: usize) -> Vec<Expiry> {
        let keys: Vec<Bytes> = self.secs_by_key.keys().take(len).cloned().collect();
        let taken = keys.into_iter().filter_map(|key| {
            let secs = self.secs_by_key.remove(&key)?;
            self.bytes -= key.len() + LATER_OVERHEAD_BYTES;
            Some(Expiry { key, secs })
        });
        let taken = taken.collect();
        if self.secs_by_key.is_empty() {
            // What an outage grew is given back.
            drop(mem::take(&mut self.secs_by_key));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(key: usize) -> Expiry {
        Expiry { key: Bytes::from(format!("{key:01000}")), secs: 60 }
    }

    #[test]
    fn keys_to_try_again_are_bounded_and_none_is_kept_twice() {
        let mut later = Later::default();
        let room = MAX_LATER_BYTES / (1000 + LATER_OVERHEAD_BYTES);
        assert!((0..room).all(|key| later.put(expiry(key))));
        assert!(!later.put(expiry(room)), "full");
        assert!(later.put(expiry(0)), "known already");

        let taken = later.take(10);
        assert_eq!((taken.len(), later.secs_by_key.len()), (10, room - 10));
        assert!(later.put(expiry(room)), "room again");
        assert_eq!(later.take(usize::MAX).len(), room - 9);
        assert_eq!((later.is_empty(), later.bytes, later.secs_by_key.capacity()), (true, 0, 0));
    }
}
