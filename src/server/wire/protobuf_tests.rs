//! Hand-written decoding and encoding agree with prost's.

use std::time::Duration;

use proptest::prelude::*;
use prost::Message as _;
use smallvec::smallvec;

use super::{AnswerSettings, decode, encode};
use crate::engine::request::{MAX_ENTRIES, MAX_HITS};
use crate::engine::{Code, Decision, Entry, Hits, Limit, Status, Unit, Window};
use crate::pb;

fn entries() -> impl Strategy<Value = Vec<pb::Entry>> {
    let text = || prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 1..200)];
    let entry = (prop::collection::vec(any::<u8>(), 0..20), text());
    let entry = entry.prop_map(|(key, value)| pb::Entry { key: key.into(), value: value.into() });
    prop::collection::vec(entry, 0..5)
}

fn descriptor() -> impl Strategy<Value = pb::RateLimitDescriptor> {
    let limit = (any::<u32>(), 1_i32..=7)
        .prop_map(|(requests_per_unit, unit)| pb::RateLimitOverride { requests_per_unit, unit });
    let hits = prop_oneof![0..=u64::from(MAX_HITS), any::<u64>()];
    (entries(), prop::option::of(limit), prop::option::of(hits), any::<bool>()).prop_map(
        |(entries, limit, hits_addend, is_negative_hits)| pb::RateLimitDescriptor {
            entries,
            limit,
            hits_addend,
            is_negative_hits,
        },
    )
}

/// Bytes of a descriptor whose limit and addend, where it has them, lack some of their fields.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let limit = (0..3_u32, 0..=7_i32)
        .prop_map(|(requests_per_unit, unit)| pb::RateLimitOverride { requests_per_unit, unit });
    let hits = 0..3_u64;
    (prop::option::of(limit), prop::option::of(hits)).prop_map(|(limit, hits_addend)| {
        pb::RateLimitDescriptor { limit, hits_addend, ..Default::default() }.encode_to_vec()
    })
}

fn request() -> impl Strategy<Value = pb::RateLimitRequest> {
    ("[a-zü]{1,40}", prop::collection::vec(descriptor(), 1..6), 0..=MAX_HITS).prop_map(
        |(domain, descriptors, hits_addend)| pb::RateLimitRequest { domain, descriptors, hits_addend },
    )
}

/// Hits that `decode` returns for a descriptor as prost reads it.
fn expected_hits(descriptor: &pb::RateLimitDescriptor, request: &pb::RateLimitRequest) -> Hits {
    let hits = match &descriptor.hits_addend {
        Some(own) => u32::try_from(*own).unwrap_or(u32::MAX),
        None => request.hits_addend.max(1),
    };
    if descriptor.is_negative_hits { Hits::Refund(hits) } else { Hits::Add(hits) }
}

fn assert_is_read_as(bytes: &[u8], request: &pb::RateLimitRequest) {
    let read = decode(bytes).expect("a request");
    assert_eq!(read.domain, request.domain.as_bytes());
    assert_eq!(read.descriptors.len(), request.descriptors.len());
    for (read, descriptor) in read.descriptors.iter().zip(&request.descriptors) {
        let entries: Vec<_> =
            descriptor.entries.iter().map(|pb::Entry { key, value }| Entry { key, value }).collect();
        assert_eq!(read.entries[..], entries);
        assert_eq!(read.hits, expected_hits(descriptor, request));
        let limit = descriptor.limit.as_ref().map(|limit| {
            let units =
                [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month, Unit::Year, Unit::Week];
            let unit = usize::try_from(limit.unit - 1).expect("a known unit");
            Limit::per(limit.requests_per_unit, units[unit])
        });
        assert_eq!(read.limit_override, limit);
    }
}

proptest! {
    #[test]
    fn a_request_is_read_as_prost_reads_it(request in request()) {
        assert_is_read_as(&request.encode_to_vec(), &request);
    }

    /// One message after the other is one message, by protobuf's rules.
    #[test]
    fn a_message_in_two_parts_is_merged_as_prost_merges_it(first in request(), second in request()) {
        let both = [first.encode_to_vec(), second.encode_to_vec()].concat();
        let merged = pb::RateLimitRequest::decode(&*both).expect("a request");
        assert_is_read_as(&both, &merged);
    }

    /// A part of a descriptor that is there twice is one, by the same rules.
    #[test]
    fn a_descriptor_in_two_parts_is_merged_as_prost_merges_it(first in descriptor(), second in part()) {
        let both = [first.encode_to_vec(), second].concat();
        let descriptor = pb::RateLimitDescriptor::decode(&*both).expect("a descriptor");
        // Where only the second has a limit, it may lack its unit.
        prop_assume!(descriptor.limit.as_ref().is_none_or(|limit| limit.unit != 0));
        let request = |descriptors| pb::RateLimitRequest {
            domain: "shop".to_owned(), descriptors, hits_addend: 0,
        };
        let mut bytes = request(Vec::new()).encode_to_vec();
        bytes.extend([0x12]);
        prost::encode_length_delimiter(both.len(), &mut bytes).expect("there is room");
        bytes.extend(both);
        assert_is_read_as(&bytes, &request(vec![descriptor]));
    }

    /// A message with a byte changed, added or removed reads as prost reads it, or is refused.
    #[test]
    fn whatever_the_bytes_are_they_are_read_as_prost_reads_them_or_refused(
        request in request(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        change in 0..3,
    ) {
        let mut bytes = request.encode_to_vec();
        let place = place.index(bytes.len());
        match change {
            0 => bytes[place] = byte,
            1 => bytes.insert(place, byte),
            _ => drop(bytes.remove(place)),
        }
        match (decode(&bytes), pb::RateLimitRequest::decode(&*bytes)) {
            (Ok(_), Ok(request)) => assert_is_read_as(&bytes, &request),
            (Ok(_), Err(error)) => panic!("prost reads nothing: {error}"),
            // Bounds are narrower here, and groups are no part of proto3.
            (Err(_), _) => {}
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(decode(&bytes));
    }

    #[test]
    fn an_answer_has_the_bytes_that_prost_would_write(
        statuses in prop::collection::vec(
            (any::<bool>(), prop::option::of((any::<u32>(), 0_usize..8)), "[a-zü]{0,200}", any::<u32>(),
                any::<u32>()),
            0..20,
        ),
        over in any::<bool>(),
    ) {
        let units = [
            Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month, Unit::Year, Unit::Week,
        ];
        let code = |over| if over { Code::OverLimit } else { Code::Ok };
        let mut decision = Decision {
            code: code(over), shadowed: false, domain_known: true, unmatched: 0, statuses: smallvec![], binding: None, hold: None,
        };
        let mut expected = pb::RateLimitResponse { overall_code: 1 + i32::from(over), ..Default::default() };
        for (over, limit, name, remaining, secs) in &statuses {
            let limited = limit.map(|(requests, unit)| match units.get(unit) {
                Some(known) => (Limit::per(requests, *known), requests, i32::try_from(unit).expect("small") + 1),
                None => (Limit { window: Window::of_secs(900), ..Limit::per(requests, Unit::Day) }, requests, 0),
            });
            decision.statuses.push(Status {
                code: code(*over),
                rule: None,
                limit: limited.map(|(limit, ..)| limit),
                name: limited.map(|_| &**name),
                locked_out: false,
 shadowed: false,
                larger_than_limit: false,
                budget: None,
                overridden: None,
                remaining: *remaining,
                reset: limited.map(|_| Duration::from_secs((*secs).into())),
                counted: None,
            });
            expected.statuses.push(pb::DescriptorStatus {
                code: 1 + i32::from(*over),
                current_limit: limited.map(|(_, requests_per_unit, unit)| {
                    pb::RateLimit { requests_per_unit, unit, name: name.clone() }
                }),
                limit_remaining: *remaining,
                duration_until_reset: limited.map(|_| {
                    prost_types::Duration { seconds: (*secs).into(), nanos: 0 }
                }),
            });
        }
        let request = decode(b"\x0a\x04shop\x12\x00").expect("a request");
        let written = encode(&request, &decision, &AnswerSettings::default());
        prop_assert_eq!(written, expected.encode_to_vec());
    }
}

#[test]
fn known_fields_of_another_wire_type_are_rejected() {
    for (bytes, expected) in [
        (&b"\x08\x01"[..], "not a protobuf message"),
        (b"\x0a\x05shop", "not a protobuf message"),
        (b"\x0a\x04shop\x1a\x00", "not a protobuf message"),
        (b"\x0a\x04shop\x12\x02\x08\x01", "not a protobuf message"),
        (b"\x0a\x04shop\x12\x02\x0a\x7f", "not a protobuf message"),
        (b"\x0a\x04shop\x12\x04\x0a\x02\x08\x01", "not a protobuf message"),
        (b"\x0a\x04sh\xffp\x12\x00", "domain must be UTF-8"),
        (b"\x0a\x04sh\xffp\x0a\x04shop\x12\x00", "domain must be UTF-8"),
        (b"\x0a\x04shop\x12\x00\x80\x80\x80\x80\x10\x00", "not a protobuf message"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not a protobuf message"),
        (b"\x00\x00", "not a protobuf message"),
        (b"\x0b\x0c", "not a protobuf message"),
    ] {
        assert_eq!(decode(bytes).expect_err("no request").to_string(), expected, "{bytes:?}");
    }
}

#[test]
fn too_many_entries_are_counted() {
    let entry = pb::Entry { key: "a".into(), value: "b".into() };
    let descriptor =
        |entries| pb::RateLimitDescriptor { entries: vec![entry.clone(); entries], ..Default::default() };
    let request = |entries| pb::RateLimitRequest {
        domain: "shop".to_owned(),
        descriptors: vec![descriptor(1), descriptor(entries)],
        hits_addend: 0,
    };
    assert!(decode(&request(MAX_ENTRIES).encode_to_vec()).is_ok());
    let error = decode(&request(MAX_ENTRIES + 2).encode_to_vec()).expect_err("too many").to_string();
    assert_eq!(error, "descriptors[1].entries must not be more than 256, found 258");
}
