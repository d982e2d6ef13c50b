use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::engine::{Unit, Window, Zone};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

const fn untagged(name: &[u8]) -> KeyDomain<'_> {
    KeyDomain { name, hash_tag: None, only_limit: true }
}

const fn tagged(name: &[u8]) -> KeyDomain<'_> {
    KeyDomain { name, hash_tag: Some(HashTag::Domain), only_limit: true }
}

fn key(writer: &KeyWriter, domain: KeyDomain<'_>, pairs: &Pairs, unit: Unit) -> Bytes {
    key_in(writer, domain, pairs, unit.window())
}

fn key_in(writer: &KeyWriter, domain: KeyDomain<'_>, pairs: &Pairs, window: Window) -> Bytes {
    let entries: Vec<_> = pairs.iter().map(|(key, value)| Entry { key, value }).collect();
    writer.key(domain, &entries, None, Limit { window, ..Limit::per(1, Unit::Day) })
}

fn of_calendar(period: Period, zone: &str) -> Window {
    Window::of_calendar(Calendar { period, zone: Zone::from_name(zone).expect("a zone") })
}

/// Texts of few different bytes, those with a meaning in keys among them, so that two random
/// descriptors often differ in little more than where one text ends and the next begins. Some are too long
/// to stand in a key.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = || prop::sample::select(&b"a_:,*/10\xff{}%#"[..]);
    prop_oneof![
        9 => prop::collection::vec(byte(), 0..5),
        1 => prop::collection::vec(byte(), MAX_LITERAL_BYTES..MAX_LITERAL_BYTES + 2),
    ]
}

fn pairs() -> impl Strategy<Value = Pairs> {
    prop::collection::vec((text(), text()), 0..4)
}

fn unit() -> impl Strategy<Value = Unit> {
    prop::sample::select(&Unit::ALL[..])
}

/// Of a unit or of a calendar; names of zones go on where others end, and have digits and slashes.
fn window() -> impl Strategy<Value = Window> {
    const ZONES: &[&str] =
        &["UTC", "GMT", "GMT0", "GMT+0", "Etc/GMT", "Etc/GMT+1", "Etc/GMT+10", "Europe/Berlin"];
    let calendars = (prop::sample::select(&Period::ALL[..]), prop::sample::select(ZONES));
    prop_oneof![unit().prop_map(Unit::window), calendars.prop_map(|(period, zone)| of_calendar(period, zone)),]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn different_descriptors_windows_and_units_never_share_a_native_key(
        (domain_a, tag_a, pairs_a, unit_a, window_a) in (text(), any::<bool>(), pairs(), window(), 0..200u64),
        (domain_b, tag_b, pairs_b, unit_b, window_b) in (text(), any::<bool>(), pairs(), window(), 0..200u64),
    ) {
        let writer = KeyWriter::new(KeyFormat::Native, "p");
        let in_window = |key: Bytes, window: u64| [key.as_ref(), window.to_string().as_bytes()].concat();
        let a = key_in(&writer, KeyDomain { name: &domain_a, hash_tag: tag_a.then_some(HashTag::Domain), only_limit: true }, &pairs_a, unit_a);
        let b = key_in(&writer, KeyDomain { name: &domain_b, hash_tag: tag_b.then_some(HashTag::Domain), only_limit: true }, &pairs_b, unit_b);
        let same = (&domain_a, tag_a, &pairs_a, unit_a, window_a)
            == (&domain_b, tag_b, &pairs_b, unit_b, window_b);
        prop_assert_eq!(in_window(a, window_a) == in_window(b, window_b), same);
    }

    #[test]
    fn one_hash_tag_holds_for_all_keys_of_a_domain(
        domain in text().prop_filter("rules have a domain", |domain| !domain.is_empty()),
        prefix in prop::sample::select(&["", "p:", "{", "}", "a{b}c"][..]),
        format in prop::sample::select(&[KeyFormat::Native, KeyFormat::Envoyproxy][..]),
        (pairs_a, unit_a) in (pairs(), unit()),
        (pairs_b, unit_b) in (pairs(), unit()),
    ) {
        let writer = KeyWriter::new(format, prefix);
        let (a, b) = (
            key(&writer, tagged(&domain), &pairs_a, unit_a),
            key(&writer, tagged(&domain), &pairs_b, unit_b),
        );
        prop_assert!(hash_tag(&a).is_some_and(|tag| !tag.is_empty()), "{:?}", a);
        prop_assert_eq!(hash_tag(&a), hash_tag(&b));
    }

    #[test]
    fn in_a_cluster_no_text_of_a_client_chooses_the_slot(
        pairs in pairs(),
        unit in unit(),
        format in prop::sample::select(&[KeyFormat::Native, KeyFormat::Envoyproxy][..]),
    ) {
        let writer = KeyWriter::new(format, "p:").for_cluster();
        let key = key(&writer, untagged(b"shop"), &pairs, unit);
        prop_assert_eq!(hash_tag(&key), None);
    }

    #[test]
    fn moving_a_byte_from_one_text_to_the_next_changes_the_native_key(pairs in pairs(), at in 0..4usize) {
        let writer = KeyWriter::new(KeyFormat::Native, "");
        let mut moved = pairs.clone();
        if let Some((key, value)) = moved.get_mut(at)
            && let Some(byte) = key.pop()
        {
            value.insert(0, byte);
            prop_assert_ne!(
                key_of(&writer, &pairs),
                key_of(&writer, &moved)
            );
        }
    }
}

/// Part of `key` that decides its slot in a Redis Cluster.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let begin = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[begin..].iter().position(|byte| *byte == b'}')?;
    Some(&key[begin..begin + length])
}

fn key_of(writer: &KeyWriter, pairs: &Pairs) -> Bytes {
    key(writer, untagged(b"d"), pairs, Unit::Minute)
}

#[test]
fn the_native_key_is_readable() {
    let pairs = vec![(b"user".to_vec(), b"42".to_vec()), (b"ip".to_vec(), Vec::new())];
    let key = key(&KeyWriter::new(KeyFormat::Native, "p:"), untagged(b"shop"), &pairs, Unit::Minute);
    assert_eq!(key, "p:tg1/f60/4:shop,4:user,2:42,2:ip,0:,");
}

#[test]
fn windows_of_a_calendar_are_named_after_it_in_every_format() {
    let pairs = vec![(b"user".to_vec(), b"42".to_vec())];
    for (period, zone, expected) in [
        (Period::Day, "Europe/Berlin", "p:tg1/fcd:Europe/Berlin/4:shop,4:user,2:42,"),
        (Period::Week, "UTC", "p:tg1/fcw:UTC/4:shop,4:user,2:42,"),
        (Period::Month, "Etc/GMT+12", "p:tg1/fcm:Etc/GMT+12/4:shop,4:user,2:42,"),
        (Period::Year, "Asia/Kolkata", "p:tg1/fcy:Asia/Kolkata/4:shop,4:user,2:42,"),
    ] {
        // envoyproxy/ratelimit has no such windows to share.
        for format in [KeyFormat::Native, KeyFormat::Envoyproxy] {
            let writer = KeyWriter::new(format, "p:");
            let key = key_in(&writer, untagged(b"shop"), &pairs, of_calendar(period, zone));
            assert_eq!(key, expected);
        }
    }
}

#[test]
fn every_zone_and_period_has_a_name_of_its_own() {
    let pairs = vec![(b"user".to_vec(), b"42".to_vec())];
    let writer = KeyWriter::new(KeyFormat::Native, "");
    let windows =
        Zone::all().flat_map(|zone| Period::ALL.map(|period| Window::of_calendar(Calendar { period, zone })));
    let windows: Vec<Window> = windows.chain(Unit::ALL.map(Unit::window)).collect();
    let keys: HashSet<Bytes> =
        windows.iter().map(|window| key_in(&writer, untagged(b"shop"), &pairs, *window)).collect();
    assert_eq!(keys.len(), windows.len());
}

#[test]
fn the_hash_tag_comes_first_and_is_the_domain() {
    let pairs = vec![(b"{user}".to_vec(), b"}\xff{".to_vec())];
    for (domain, tag) in [
        ("shop", "shop"),
        ("}{", "%7D%7B"),
        ("{}", "%7B%7D"),
        ("{", "%7B"),
        ("}", "%7D"),
        (" ", " "),
        ("%", "%"),
        ("a{b}c", "a%7Bb%7Dc"),
        ("größe", "größe"),
    ] {
        let mark = if domain.contains(['{', '}']) { "%" } else { "" };
        let name = if mark.is_empty() { domain } else { tag };
        for (format, text, end) in [
            (
                KeyFormat::Native,
                format!("tg1/f60/{mark}{}:{name},%10:%7Buser%7D,%7:%7D", name.len()),
                &b"\xff%7B,"[..],
            ),
            (KeyFormat::Envoyproxy, format!("{domain}_{{user}}_}}"), b"\xff{_"),
        ] {
            let plain = [b"p:", text.as_bytes(), end].concat();
            let with_tag = [b"p:{", tag.as_bytes(), b"}", text.as_bytes(), end].concat();
            let writer = KeyWriter::new(format, "p:");
            assert_eq!(key(&writer, untagged(domain.as_bytes()), &pairs, Unit::Minute), plain);
            assert_eq!(key(&writer, tagged(domain.as_bytes()), &pairs, Unit::Minute), with_tag);
            assert_eq!(hash_tag(&with_tag), Some(tag.as_bytes()), "{domain}");
        }
    }
}

#[test]
fn the_compatible_key_is_the_references_without_the_window() {
    let pairs = vec![(b"key".to_vec(), b"value".to_vec())];
    for (prefix, expected) in [("", "domain_key_value_"), ("prefix:", "prefix:domain_key_value_")] {
        let writer = KeyWriter::new(KeyFormat::Envoyproxy, prefix);
        assert_eq!(key(&writer, untagged(b"domain"), &pairs, Unit::Hour), expected);
    }
}

#[test]
fn compatible_keys_are_not_used_where_a_client_could_exploit_them() {
    let single = KeyWriter::new(KeyFormat::Envoyproxy, "");
    let cluster = single.clone().for_cluster();
    let native = KeyWriter::new(KeyFormat::Native, "");
    let braces = vec![(b"key".to_vec(), b"{x}1".to_vec())];
    assert_eq!(key_of(&single, &braces), "d_key_{x}1_");
    assert_eq!(key_of(&cluster, &braces), key_of(&native, &braces));
    assert_eq!(key(&cluster, tagged(b"d"), &braces, Unit::Minute), "{d}d_key_{x}1_");
    for (len, compatible) in [(MAX_LITERAL_BYTES, true), (MAX_LITERAL_BYTES + 1, false)] {
        let long = vec![(b"key".to_vec(), vec![b'x'; len])];
        for writer in [&single, &cluster] {
            let found = key_of(writer, &long);
            assert_eq!(found.starts_with(b"d_key_xxx"), compatible);
            assert_eq!(found == key_of(&native, &long), !compatible);
        }
    }
}

#[test]
fn a_key_is_short_however_long_its_texts_are_and_still_differs() {
    let writer = KeyWriter::new(KeyFormat::Native, "");
    let long =
        |last: u8| vec![([&[b'k'; 5_000][..], &[last]].concat(), [&[b'v'; 60_000][..], &[last]].concat())];
    let keys: HashSet<Bytes> = (0..10).map(|last| key_of(&writer, &long(last))).collect();
    assert_eq!(keys.len(), 10);
    assert!(keys.iter().all(|key| key.len() < 200), "{keys:?}");
}

proptest! {
    #[test]
    fn a_counter_key_reads_back_as_its_descriptor(
        domain in text().prop_filter("rules have a domain", |domain| !domain.is_empty()),
        is_tagged in any::<bool>(),
        pairs in pairs(),
        window in window(),
        prefix in prop::sample::select(&["", "p:", "a{b}c"][..]),
    ) {
        let writer = KeyWriter::new(KeyFormat::Native, prefix);
        let domain = if is_tagged { tagged(&domain) } else { untagged(&domain) };
        let parts = writer.parse_counter_key(&key_in(&writer, domain, &pairs, window)).expect("a counter key");
        let literal = |text: &[u8]| text.len() <= MAX_LITERAL_BYTES;
        prop_assert!(parts.domain == domain.name || !literal(domain.name));
        prop_assert_eq!(parts.entries.len(), pairs.len());
        for ((key, value), (name, own)) in parts.entries.iter().zip(&pairs) {
            prop_assert!(key == name || !literal(name));
            prop_assert!(value == own || (!literal(own) && value.starts_with(b"sha256:")));
        }
    }
}
