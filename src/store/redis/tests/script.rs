//! `charge.lua` in Rust, for fixed windows without lockouts, and `fixed_windows.lua`.

use std::collections::HashMap;

use bytes::{Buf as _, Bytes};

use super::world::{Counter, State};
use crate::store::redis::batch::unpack;
use crate::store::redis::reply::Reply;

const ALWAYS: u8 = 0;
const IF_ALLOWED: u8 = 1;
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
    if let Some(requests) = of_fixed_windows(words) {
        return requests;
    }
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

/// Requests of a call of `fixed_windows.lua`; `None` for the other script, which has one argument less.
fn of_fixed_windows(words: &[Bytes]) -> Option<Vec<Request>> {
    let keys = keys(words);
    let requests = words.get(3 + keys.len() + 2)?;
    let charge = |numbers: &[i64]| {
        let [key, hits, ceiling] = *numbers else { panic!("{numbers:?}") };
        let key = keys[usize::try_from(key).expect("a position") - 1].clone();
        ScriptCharge { key, kind: IF_ALLOWED, hits, capacity: ceiling + hits.max(1) - 1 }
    };
    let request = |numbers: Vec<i64>| Request {
        denied: numbers[0] == 1,
        charges: numbers[1..].chunks(3).map(charge).collect(),
    };
    Some(unpack(requests).into_iter().map(request).collect())
}

/// Reply of `fixed_windows.lua`, from the requests, the outcomes of their charges, and the levels afterwards.
fn reply_of_fixed_windows(
    words: &[Bytes],
    requests: &[(Request, Vec<(i64, i64)>)],
    levels: &HashMap<Bytes, i64>,
) -> Reply {
    let all_pass = requests
        .iter()
        .all(|(request, outcomes)| request.denied || outcomes.iter().all(|(outcome, _)| *outcome == CHARGED));
    let numbers: Vec<i64> = if all_pass {
        std::iter::once(0).chain(keys(words).iter().map(|key| levels[key])).collect()
    } else {
        let outcomes = requests.iter().flat_map(|(_, outcomes)| outcomes);
        let number = |(outcome, level): &(i64, i64)| if *outcome == CHARGED { *level } else { -1 - level };
        std::iter::once(1).chain(outcomes.map(number)).collect()
    };
    Reply::Array(numbers.into_iter().map(Reply::Int).collect())
}

/// Runs the script on a node.
pub(super) fn run(state: &mut State, node: usize, words: &[Bytes]) -> Reply {
    let held = |key: &Bytes| state.nodes[node].counters.get(key).map_or(0, |counter| counter.value);
    let before: HashMap<Bytes, i64> = keys(words).iter().map(|key| (key.clone(), held(key))).collect();
    let mut levels = before.clone();
    let outcomes = requests(words).into_iter().map(|request| {
        let outcomes = carry_out(&request, &mut levels);
        (request, outcomes)
    });
    let outcomes: Vec<_> = outcomes.collect();
    let is_general = of_fixed_windows(words).is_none();
    let reply = if is_general {
        let numbers = outcomes.iter().flat_map(|(_, outcomes)| outcomes);
        let numbers = numbers.flat_map(|(outcome, level)| [*outcome, *level, 0, 0]);
        Reply::Array(numbers.chain([1]).map(Reply::Int).collect())
    } else {
        reply_of_fixed_windows(words, &outcomes, &levels)
    };
    for (key, level) in levels {
        let changed = level - before[&key];
        let executed = state.executed.entry(key.clone()).or_default();
        *executed = executed.checked_add_signed(changed).expect("refunds of what was charged");
        let counters = &mut state.nodes[node].counters;
        if changed != 0 {
            counters.entry(key.clone()).or_insert(Counter { value: 0, has_ttl: true }).value = level;
        }
        if let Some(counter) = counters.get_mut(&key).filter(|_| is_general) {
            counter.has_ttl = true;
        }
    }
    reply
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
