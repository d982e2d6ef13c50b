use bytes::Buf as _;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::engine::Unit;
use crate::engine::algorithm::{Meter, fixed_window, group};

type Counters = HashMap<Bytes, u64>;

/// Readings of one request that is carried out alone on `counters`.
fn serve(charges: &[SlotCharge], counters: &mut Counters) -> Vec<RawReading> {
    let mut keys: Vec<&Bytes> = charges.iter().map(|charge| &charge.key).collect();
    keys.sort();
    keys.dedup();
    let meter = |key: &&Bytes| fixed_window::meter(counters.get(*key).copied().unwrap_or(0));
    let mut meters: Vec<Meter> = keys.iter().map(meter).collect();
    let place = |charge: &SlotCharge| keys.iter().position(|key| *key == &charge.key).expect("its key");
    let of_group = |charge: &SlotCharge| group::GroupCharge {
        counter: place(charge),
        capacity: charge.limit.capacity(),
        hits: charge.hits,
        mode: charge.mode,
        enforcement: charge.enforcement,
        lockout: None,
        lease: None,
    };
    let group: Vec<group::GroupCharge> = charges.iter().map(of_group).collect();
    let outcomes = group::charge(&group, &mut meters, &mut []);
    for (key, meter) in keys.iter().zip(meters) {
        counters.insert((*key).clone(), meter.level);
    }
    outcomes
        .into_iter()
        .map(|(meter, outcome)| RawReading {
            budget: None,
            outcome: Some(outcome),
            level: meter.level,
            more: [0; 2],
            ends_us: 0,
            now: Timestamp::default(),
        })
        .collect()
}

/// Reply to `call`, whose script changes `counters`.
fn run(call: &ScriptCall, counters: &mut Counters) -> Vec<i64> {
    let arguments = call.arguments();
    if call.shape == Shape::FixedWindows {
        return run_fixed_windows(&call.keys, &arguments[2], counters);
    }
    let mut requests = arguments[0].clone();
    let mut reply = Vec::new();
    while requests.has_remaining() {
        let len = requests.get_u16();
        let charges: Vec<SlotCharge> = (0..len).map(|_| unpack_charge(&mut requests, &call.keys)).collect();
        for RawReading { outcome, level, .. } in serve(&charges, counters) {
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

/// Reply of `fixed_windows.lua`, which changes `counters`.
fn run_fixed_windows(keys: &[Bytes], requests: &Bytes, counters: &mut Counters) -> Vec<i64> {
    let mut readings = Vec::new();
    for request in unpack(requests) {
        let charges: Vec<SlotCharge> = request[1..]
            .chunks(3)
            .map(|numbers| {
                let [key, hits, ceiling] = [0, 1, 2].map(|at| u32::try_from(numbers[at]).expect("few"));
                let limit = Limit::per(ceiling + hits.max(1) - 1, Unit::Minute);
                let key = keys[usize::try_from(key).expect("few") - 1].clone();
                SlotCharge {
                    key,
                    limit,
                    hits: Hits::Add(hits),
                    mode: ChargeMode::IfAllowed,
                    ..plain_charge()
                }
            })
            .collect();
        readings.extend(serve(&charges, counters));
    }
    let level = |level: u64| i64::try_from(level).expect("few");
    if readings.iter().all(|reading| reading.outcome == Some(ChargeOutcome::Charged)) {
        let used = keys.iter().map(|key| level(counters[key]));
        return iter::once(0).chain(used).collect();
    }
    let numbers = readings.iter().map(|reading| match reading.outcome {
        Some(ChargeOutcome::Charged) => level(reading.level),
        _ => -1 - level(reading.level),
    });
    iter::once(1).chain(numbers).collect()
}

fn plain_charge() -> SlotCharge {
    SlotCharge {
        key: Bytes::from_static(b"hot"),
        limit: Limit::per(10, Unit::Minute),
        now: Timestamp::default(),
        hits: Hits::Add(2),
        mode: ChargeMode::Always,
        enforcement: Enforcement::Enforced,
        on_failure: FailurePolicy::Error,
        lockout: None,
        hold: None,
        lease: None,
        reserve: None,
        denied: false,
        ttl_secs: 60,
    }
}

fn unpack_charge(requests: &mut Bytes, keys: &[Bytes]) -> SlotCharge {
    let key = keys[usize::from(requests.get_u16()) - 1].clone();
    assert_eq!(requests.get_u8(), 0, "a fixed window");
    let (kind, enforcement) = (requests.get_u8(), requests.get_u8());
    let hits = requests.get_u32();
    SlotCharge {
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
        on_failure: FailurePolicy::Error,
        limit: Limit::per(requests.get_u32(), Unit::Minute),
        ttl_secs: requests.get_u32(),
        lockout: (requests.get_u16() > 0).then(|| unreachable!("there are none here")),
        hold: None,
        lease: None,
        reserve: None,
        denied: false,
    }
}

fn some_charge() -> impl Strategy<Value = SlotCharge> {
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
    (0..6_u8, hits, 0..20_u32, mode, enforcement).prop_map(|(key, hits, quota, mode, enforcement)| {
        SlotCharge {
            key: Bytes::from(vec![key]),
            limit: Limit::per(quota, Unit::Minute),
            now: Timestamp::default(),
            hits,
            mode,
            enforcement,
            on_failure: FailurePolicy::Error,
            lockout: None,
            hold: None,
            lease: None,
            reserve: None,
            denied: false,
            ttl_secs: 60,
        }
    })
}

/// The slot of a key: three of them, with two keys each.
fn slot(charge: &SlotCharge) -> u16 {
    u16::from(charge.key[0] / 2)
}

fn check(requests: &[Vec<SlotCharge>]) -> Result<(), TestCaseError> {
    // The charges that one request sends to one server lie in one slot.
    let requests: Vec<SlotCharges> = requests
        .iter()
        .map(|charges| charges.iter().filter(|charge| slot(charge) == slot(&charges[0])).cloned().collect())
        .collect();
    let mut serial = Counters::new();
    let expected: Vec<RawReading> = requests.iter().flat_map(|charges| serve(charges, &mut serial)).collect();

    let mut batch = Batch::default();
    for charges in &requests {
        batch.add(charges, slot(&charges[0]), Dispatch::Batched);
    }
    let mut counters = Counters::new();
    let mut replies = Replies::<()> { counts: Vec::new(), calls: Vec::new() };
    for CounterCommand { key, hits, .. } in &batch.counts {
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
    // A general call, one of a shape, and a second general one for counters that both use.
    prop_assert!(batch.calls.len() <= 3 * 3, "few calls for each slot");
    Ok(())
}

#[test]
fn requests_of_one_shape_share_a_call_and_others_follow_it_in_order() {
    let request = |keys: &[&'static str], mode| -> SlotCharges {
        let charge = |key: &&'static str| SlotCharge { key: Bytes::from(*key), mode, ..plain_charge() };
        keys.iter().map(charge).collect()
    };
    let bucket = |key| -> SlotCharges {
        let limit = Limit { algorithm: Algorithm::TokenBucket { burst: 5 }, ..Limit::per(10, Unit::Minute) };
        [SlotCharge { key: Bytes::from_static(key), limit, mode: ChargeMode::IfAllowed, ..plain_charge() }]
            .into_iter()
            .collect()
    };
    let mut batch = Batch::default();
    let mut add = |charges: &SlotCharges| batch.add(charges, 0, Dispatch::Batched);
    add(&request(&["a", "b"], ChargeMode::IfAllowed));
    add(&bucket(b"bucket"));
    add(&request(&["b", "c"], ChargeMode::IfAllowed));
    add(&bucket(b"bucket"));
    // The next ones belong in a general call, after the calls that have "a" and the bucket.
    add(&request(&["a"], ChargeMode::Always));
    add(&bucket(b"a"));
    add(&request(&["d", "a"], ChargeMode::IfAllowed));
    add(&request(&["e"], ChargeMode::IfAllowed));
    let calls: Vec<_> = batch.calls.iter().map(|call| (call.shape, call.keys.concat())).collect();
    let expected =
        [(Shape::FixedWindows, &b"abce"[..]), (Shape::TokenBucket, b"bucketbucket"), (Shape::General, b"ad")];
    assert_eq!(calls, expected.map(|(shape, keys)| (shape, keys.to_vec())));
}

proptest! {
    #[test]
    fn each_charge_gets_the_reading_of_serial_execution(
        requests in proptest::collection::vec(proptest::collection::vec(some_charge(), 1..5), 1..30),
    ) {
        check(&requests)?;
    }
}

#[test]
fn hits_on_one_counter_are_one_command() {
    let charge = plain_charge();
    let mut batch = Batch::default();
    for _ in 0..256 {
        batch.add(&[charge.clone()].into_iter().collect(), 0, Dispatch::Batched);
    }
    assert_eq!((batch.counts.len(), batch.counts[0].hits, batch.calls.len()), (1, 512, 0));
    let replies = Replies::<()> { counts: vec![Some(Ok(1_512))], calls: Vec::new() };
    let used = |index| batch.seen(index, &replies).unwrap().unwrap().level;
    let used: Vec<u64> = (0..batch.len()).map(used).collect();
    assert_eq!(used, (0..256).map(|turn| 1_002 + 2 * turn).collect::<Vec<u64>>());
}
