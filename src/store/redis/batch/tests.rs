use bytes::Buf as _;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::engine::Unit;
use crate::engine::algorithm::{Meter, group};

type Counters = HashMap<Bytes, u64>;

/// What one request alone would come to.
fn serve(asks: &[Ask], counters: &mut Counters) -> Vec<RawReading> {
    let mut keys: Vec<&Bytes> = asks.iter().map(|ask| &ask.key).collect();
    keys.sort();
    keys.dedup();
    let meter = |key: &&Bytes| fixed_window::meter(counters.get(*key).copied().unwrap_or(0));
    let mut meters: Vec<Meter> = keys.iter().map(meter).collect();
    let place = |ask: &Ask| keys.iter().position(|key| *key == &ask.key).expect("its key");
    let of_group = |ask: &Ask| group::GroupCharge {
        counter: place(ask),
        capacity: ask.limit.capacity(),
        hits: ask.hits,
        mode: ask.mode,
        enforcement: ask.enforcement,
        lockout: None,
    };
    let group: Vec<group::GroupCharge> = asks.iter().map(of_group).collect();
    let outcomes = group::charge(&group, &mut meters, &mut []);
    for (key, meter) in keys.iter().zip(meters) {
        counters.insert((*key).clone(), meter.level);
    }
    outcomes
        .into_iter()
        .map(|(meter, outcome)| RawReading {
            outcome: Some(outcome),
            level: meter.level,
            more: [0; 2],
            ends_us: 0,
            now: Timestamp::default(),
        })
        .collect()
}

/// What `charge.lua` does with a call.
fn run(call: &Call, counters: &mut Counters) -> Vec<i64> {
    let mut requests = call.requests.clone().freeze();
    let mut reply = Vec::new();
    while requests.has_remaining() {
        let len = requests.get_u16();
        let asks: Vec<Ask> = (0..len).map(|_| unpack(&mut requests, &call.keys)).collect();
        for RawReading { outcome, level, .. } in serve(&asks, counters) {
            let outcome = match outcome {
                Some(ChargeOutcome::Charged) => 0,
                Some(ChargeOutcome::Denied) => 1,
                _ => 2,
            };
            reply.extend([outcome, i64::try_from(level).expect("few"), 0, 0]);
        }
    }
    reply.push(0);
    reply
}

fn unpack(requests: &mut Bytes, keys: &[Bytes]) -> Ask {
    let key = keys[usize::from(requests.get_u16()) - 1].clone();
    assert_eq!(requests.get_u8(), 0, "a fixed window");
    let (kind, enforcement) = (requests.get_u8(), requests.get_u8());
    let hits = requests.get_u32();
    Ask {
        key,
        now: Timestamp::default(),
        hits: if kind == 2 { Hits::Refund(hits) } else { Hits::Add(hits) },
        mode: [ChargeMode::Always, ChargeMode::IfAllowed, ChargeMode::Always, ChargeMode::Overdraft]
            [usize::from(kind)],
        enforcement: [
            Enforcement::Enforced,
            Enforcement::Quota,
            Enforcement::Shadow,
            Enforcement::ShadowQuota,
        ][usize::from(enforcement)],
        limit: Limit::per(requests.get_u32(), Unit::Minute),
        secs: requests.get_u32(),
        lockout: (requests.get_u16() > 0).then(|| unreachable!("there are none here")),
        denied: false,
    }
}

fn some_ask() -> impl Strategy<Value = Ask> {
    let hits = prop_oneof![
        4 => (1..6_u32).prop_map(Hits::Add),
        1 => Just(Hits::Add(0)),
        1 => (0..9_u32).prop_map(Hits::Refund),
    ];
    let mode = prop_oneof![
        6 => Just(ChargeMode::Always),
        2 => Just(ChargeMode::IfAllowed),
        1 => Just(ChargeMode::Overdraft)
    ];
    let enforcement = prop_oneof![
        4 => Just(Enforcement::Enforced),
        1 => Just(Enforcement::Quota),
        1 => Just(Enforcement::Shadow),
        1 => Just(Enforcement::ShadowQuota)
    ];
    (0..6_u8, hits, 0..20_u32, mode, enforcement).prop_map(|(key, hits, quota, mode, enforcement)| Ask {
        key: Bytes::from(vec![key]),
        limit: Limit::per(quota, Unit::Minute),
        now: Timestamp::default(),
        hits,
        mode,
        enforcement,
        lockout: None,
        denied: false,
        secs: 60,
    })
}

/// The slot of a key: three of them, with two keys each.
fn slot(ask: &Ask) -> u16 {
    u16::from(ask.key[0] / 2)
}

fn check(requests: &[Vec<Ask>]) -> Result<(), TestCaseError> {
    // What one server is asked for one request lies in one slot.
    let requests: Vec<Asks> = requests
        .iter()
        .map(|asks| asks.iter().filter(|ask| slot(ask) == slot(&asks[0])).cloned().collect())
        .collect();
    let mut serial = Counters::new();
    let expected: Vec<RawReading> = requests.iter().flat_map(|asks| serve(asks, &mut serial)).collect();

    let mut batch = Batch::default();
    for asks in &requests {
        batch.add(asks, slot(&asks[0]), Way::Together);
    }
    let mut counters = Counters::new();
    let mut replies = Replies::<()> { counts: Vec::new(), calls: Vec::new() };
    for Count { key, hits, .. } in &batch.counts {
        let counter = counters.entry(key.clone()).or_default();
        *counter += hits;
        replies.counts.push(Some(Ok(i64::try_from(*counter).expect("few"))));
    }
    for call in &batch.calls {
        replies.calls.push(Some(Ok(run(call, &mut counters))));
    }
    let seen = |index| batch.seen(index, &replies).expect("a reply").expect("an answer");
    let seen: Vec<RawReading> = (0..batch.len()).map(seen).collect();
    prop_assert_eq!(seen, expected);
    serial.retain(|_, used| *used > 0);
    counters.retain(|_, used| *used > 0);
    prop_assert_eq!(counters, serial);
    let mut counted: Vec<&Bytes> = batch.counts.iter().map(|count| &count.key).collect();
    counted.sort();
    counted.dedup();
    prop_assert_eq!(counted.len(), batch.counts.len(), "one command for each counter");
    prop_assert!(batch.calls.len() <= 3, "one call for each slot");
    Ok(())
}

proptest! {
    #[test]
    fn each_is_told_what_it_would_have_been_told_alone_in_the_order_of_arrival(
        requests in proptest::collection::vec(proptest::collection::vec(some_ask(), 1..5), 1..30),
    ) {
        check(&requests)?;
    }
}

#[test]
fn hits_on_one_counter_are_one_command() {
    let ask = Ask {
        key: Bytes::from_static(b"hot"),
        limit: Limit::per(10, Unit::Minute),
        now: Timestamp::default(),
        hits: Hits::Add(2),
        mode: ChargeMode::Always,
        enforcement: Enforcement::Enforced,
        lockout: None,
        denied: false,
        secs: 60,
    };
    let mut batch = Batch::default();
    for _ in 0..256 {
        batch.add(&[ask.clone()].into_iter().collect(), 0, Way::Together);
    }
    assert_eq!((batch.counts.len(), batch.counts[0].hits, batch.calls.len()), (1, 512, 0));
    let replies = Replies::<()> { counts: vec![Some(Ok(1_512))], calls: Vec::new() };
    let used = |index| batch.seen(index, &replies).unwrap().unwrap().level;
    let used: Vec<u64> = (0..batch.len()).map(used).collect();
    assert_eq!(used, (0..256).map(|turn| 1_002 + 2 * turn).collect::<Vec<u64>>());
}
