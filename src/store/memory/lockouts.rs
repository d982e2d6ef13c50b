//! Lockouts that a memory store keeps.

use std::future;
use std::hash::BuildHasher as _;

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::MemoryStore;
use super::group::{Member, find_stripe};
use super::stripe::{CounterName, LockoutCounter, Stripe};
use crate::engine::{KeyWriter, Timestamp};
use crate::store::lockouts::{ActiveLockout, Found, LockoutFuture, Lockouts};

impl MemoryStore {
    /// The counters that struck the lockout of this key; `None` without a lockout.
    fn struck(&self, key: &[u8]) -> Option<Vec<CounterName>> {
        let hash = self.hasher.hash_one(key);
        let stripe = self.stripes[self.stripe_index(hash)].lock();
        stripe.lockouts.find(hash, |counter| *counter.key == *key).map(|counter| counter.struck.clone())
    }

    /// Removes the lockout of this key and the counters that struck it. Returns whether there was one; `None`
    /// if other counters have struck meanwhile, and nothing was removed.
    fn lift_with(&self, key: &[u8], struck: &[CounterName]) -> Option<bool> {
        let hash = self.hasher.hash_one(key);
        let index = self.stripe_index(hash);
        let members: SmallVec<[Member<'_>; 4]> =
            struck.iter().map(|CounterName { key, limit }| self.member(key, *limit, 0)).collect();
        let mut stripes = self.lock_all(members.iter().map(|member| member.stripe).chain([index]));
        let stripe = find_stripe(&mut stripes, index)?;
        let Some(found) = stripe.lockouts.find(hash, |counter| *counter.key == *key) else {
            return Some(false);
        };
        if found.struck != struck {
            return None;
        }
        stripe.remove_lockout(hash, key);
        for member in &members {
            if let Some(stripe) = find_stripe(&mut stripes, member.stripe) {
                stripe.remove(member.hash, member.key, member.limit);
            }
        }
        for (_, stripe) in &mut stripes {
            self.room.account(stripe);
        }
        Some(true)
    }
}

impl Lockouts for MemoryStore {
    fn search<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp, found: &'a Found) -> LockoutFuture<'a, ()> {
        let of_stripe = |stripe: &CachePadded<Mutex<Stripe>>| {
            let stripe = stripe.lock();
            let blocked = |counter: &LockoutCounter| {
                ActiveLockout::new(Bytes::copy_from_slice(&counter.key), counter.state, keys, now)
            };
            stripe.lockouts.iter().filter_map(blocked).collect::<Vec<_>>()
        };
        for stripe in &self.stripes {
            if !found.add(of_stripe(stripe)) {
                break;
            }
        }
        Box::pin(future::ready(Ok(())))
    }

    fn is_blocked<'a>(&'a self, key: &'a Bytes, now: Timestamp) -> LockoutFuture<'a, bool> {
        let hash = self.hasher.hash_one(&**key);
        let stripe = self.stripes[self.stripe_index(hash)].lock();
        let found = stripe.lockouts.find(hash, |counter| *counter.key == **key);
        Box::pin(future::ready(Ok(found.is_some_and(|counter| counter.state.is_blocked(now)))))
    }

    fn lift<'a>(&'a self, key: &'a Bytes) -> LockoutFuture<'a, bool> {
        let lifted = loop {
            let Some(struck) = self.struck(key) else { break false };
            // The stripes of its counters are known only now, and must be locked in order: it may be another
            // lockout by then.
            if let Some(lifted) = self.lift_with(key, &struck) {
                break lifted;
            }
        };
        Box::pin(future::ready(Ok(lifted)))
    }
}
