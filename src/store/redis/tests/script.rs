//! `charge.lua` in Rust, for fixed windows without lockouts.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes};

use super::world::{Counter, State};
use crate::store::redis::reply::Reply;

const ALWAYS: u8 = 0;
const REFUND: u8 = 2;
const CHARGED: i64 = 0;
const DENIED: i64 = 1;
const WITHHELD: i64 = 2;

/// Charges that are decided together.
struct Request {
    /// True if another part of it was denied before.
    denied: bool,
    charges: Vec<ScriptCharge>,
}

/// A charge as the store writes it for the script.
pub(super) struct ScriptCharge {
    pub(super) key: Bytes,
    kind: u8,
    hits: i64,
    capacity: i64,
}

impl ScriptCharge {
    pub(super) fn is_refund(&self) -> bool {
        self.kind == REFUND
    }
}

/// Charges in a call with these words, `EVALSHA` first.
pub(super) fn charges(words: &[Bytes]) -> impl Iterator<Item = ScriptCharge> {
    requests(words).into_iter().flat_map(|request| request.charges)
}

/// Keys of a call.
pub(super) fn keys(words: &[Bytes]) -> &[Bytes] {
    let count = words.get(2).and_then(|count| std::str::from_utf8(count).ok()?.parse().ok()).unwrap_or(0);
    &words[3..3 + count]
}

fn requests(words: &[Bytes]) -> Vec<Request> {
    let keys = keys(words);
    let Some(mut packed) = words.get(3 + keys.len()).cloned() else { return Vec::new() };
    let mut requests = Vec::new();
    while packed.has_remaining() {
        let len = packed.get_u16();
        let charges = (0..len & 0x7fff).map(|_| {
            let key = keys[usize::from(packed.get_u16()) - 1].clone();
            assert_eq!(packed.get_u8(), 0, "a fixed window");
            let kind = packed.get_u8();
            assert_eq!(packed.get_u8(), 0, "enforced");
            let (hits, capacity) = (packed.get_u32().into(), packed.get_u32().into());
            let (_ttl, lockout) = (packed.get_u32(), packed.get_u16());
            assert_eq!(lockout, 0, "no lockout");
            ScriptCharge { key, kind, hits, capacity }
        });
        let charges = charges.collect();
        requests.push(Request { denied: len >> 15 == 1, charges });
    }
    requests
}

/// Runs the script on a node.
pub(super) fn run(state: &mut State, node: usize, words: &[Bytes]) -> Reply {
    let held = |key: &Bytes| state.nodes[node].counters.get(key).map_or(0, |counter| counter.value);
    let before: HashMap<Bytes, i64> = keys(words).iter().map(|key| (key.clone(), held(key))).collect();
    let mut levels = before.clone();
    let mut reply = Vec::new();
    for request in requests(words) {
        for (outcome, level) in carry_out(&request, &mut levels) {
            reply.extend([outcome, level, 0, 0].map(Reply::Int));
        }
    }
    for (key, level) in levels {
        let changed = level - before[&key];
        let executed = state.executed.entry(key.clone()).or_default();
        *executed = executed.checked_add_signed(changed).expect("refunds of what was charged");
        let counters = &mut state.nodes[node].counters;
        if changed != 0 {
            counters.entry(key.clone()).or_insert(Counter { value: 0, has_ttl: true }).value = level;
        }
        if let Some(counter) = counters.get_mut(&key) {
            counter.has_ttl = true;
        }
    }
    reply.push(Reply::Int(1));
    Reply::Array(reply)
}

/// Outcome of each charge, and the level of its counter.
fn carry_out(request: &Request, levels: &mut HashMap<Bytes, i64>) -> Vec<(i64, i64)> {
    let before = levels.clone();
    let tried: Vec<_> = request.charges.iter().map(|charge| charge_one(charge, levels)).collect();
    let is_over = |(charge, (outcome, level)): (&ScriptCharge, &(i64, i64))| {
        *outcome == DENIED || (charge.kind == ALWAYS && *level > charge.capacity)
    };
    let denied = request.denied || request.charges.iter().zip(&tried).any(is_over);
    if !denied || (request.charges.len() == 1 && !request.denied) {
        return tried;
    }
    *levels = before;
    let again = |(charge, (outcome, _)): (&ScriptCharge, (i64, i64))| match charge.kind {
        ALWAYS | REFUND => charge_one(charge, levels),
        _ => (if outcome == CHARGED { WITHHELD } else { outcome }, levels[&charge.key]),
    };
    request.charges.iter().zip(tried).map(again).collect()
}

fn charge_one(charge: &ScriptCharge, levels: &mut HashMap<Bytes, i64>) -> (i64, i64) {
    let level = levels.get_mut(&charge.key).expect("a key of the call");
    match charge.kind {
        REFUND => *level = (*level - charge.hits).max(0),
        ALWAYS => *level += charge.hits,
        _ if *level + charge.hits.max(1) > charge.capacity => return (DENIED, *level),
        _ => *level += charge.hits,
    }
    (CHARGED, *level)
}
