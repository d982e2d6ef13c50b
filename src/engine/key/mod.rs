//! Counter keys: the bytes under which a store counts.
//!
//! A key ends in a separator; a store that keeps the window in the key appends the window's start in
//! decimal digits.

use bytes::{BufMut, Bytes, BytesMut};

mod hash;
mod lockout;

pub use hash::DescriptorHash;
pub use lockout::{LOCKOUT_MARK, LockedOut, LockoutName};

use super::algorithm::tick_us;
use super::rules::{Match, SharedPattern};
use super::{Algorithm, Calendar, Entry, Limit, Period};

/// How keys are spelt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// Ours: no two descriptors and windows share a key, whatever bytes they hold.
    #[default]
    Native,
    /// Byte for byte those of envoyproxy/ratelimit, so that both can count in one Redis while one
    /// replaces the other. Its ambiguity comes with it: `(a, b_c)` and `(a_b, c)` share a key.
    Envoyproxy,
}

/// The domain of a counter.
#[derive(Clone, Copy, Debug)]
pub struct KeyDomain<'a> {
    /// Its name; not empty where there is a hash tag.
    pub name: &'a [u8],
    /// What decides in which slot of a Redis Cluster a counter lies, where that is not its whole key.
    pub hash_tag: Option<HashTag>,
    /// Whether the limit is the only one of its rule. Compatible keys do not tell several apart.
    pub only_limit: bool,
}

/// A part of a key that Redis Cluster chooses the slot by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTag {
    /// All counters of the domain lie in one slot.
    Domain,
    /// All counters of a descriptor do.
    Descriptor(DescriptorHash),
}

/// Writes keys.
#[derive(Clone, Debug, Default)]
pub struct KeyWriter {
    format: KeyFormat,
    prefix: Box<str>,
    for_cluster: bool,
}

impl KeyWriter {
    /// A writer of keys that begin with `prefix`. With `{}` in it, hash tags would mean nothing: Redis
    /// Cluster looks at the first braces alone, and takes them for none where nothing is between them.
    pub fn new(format: KeyFormat, prefix: &str) -> Self {
        Self { format, prefix: prefix.into(), for_cluster: false }
    }

    /// The same, for a Redis Cluster: counters that are decided together are to lie in one slot.
    pub fn for_cluster(self) -> Self {
        Self { for_cluster: true, ..self }
    }

    /// Whether keys are for a Redis Cluster.
    pub const fn is_for_cluster(&self) -> bool {
        self.for_cluster
    }

    /// The key of the counter for `entries` in `domain`, counted towards `limit`.
    ///
    /// `matched` is the rule path the entries took, where they took one: values are those it has, and at
    /// a level with `share_threshold` every value counts under the pattern it matched.
    pub fn key(
        &self,
        domain: KeyDomain<'_>,
        entries: &[Entry<'_>],
        matched: Option<&Match<'_, '_>>,
        limit: Limit,
    ) -> Bytes {
        let texts: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len() + 12).sum();
        let mut key = BytesMut::with_capacity(self.prefix.len() + 2 * domain.name.len() + texts + 48);
        key.put_slice(self.prefix.as_bytes());
        domain.write_hash_tag(&mut key);
        let values = entries.iter().enumerate().map(|(level, entry)| {
            let own = || Value::Own(matched.map_or(entry.value, |matched| matched.value(level, entry)));
            let shared = matched.and_then(|matched| matched.shared_pattern(level));
            (entry.key, shared.map_or_else(own, Value::Shared))
        });
        let is_compatible = self.format == KeyFormat::Envoyproxy
            && limit.algorithm == Algorithm::FixedWindow
            && limit.window.calendar().is_none()
            && domain.only_limit;
        match is_compatible {
            true => write_envoyproxy(&mut key, domain.name, values),
            // What only we count has our names.
            false => write_native(&mut key, domain.name, values, limit),
        }
        key.freeze()
    }
}

impl KeyDomain<'_> {
    fn write_hash_tag(self, key: &mut BytesMut) {
        match self.hash_tag {
            Some(HashTag::Domain) => write_hash_tag(key, self.name),
            Some(HashTag::Descriptor(hash)) => {
                write_hash_tag(key, format!("{:016x}", hash.as_u64()).as_bytes())
            }
            None => {}
        }
    }
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Own(&'a [u8]),
    Shared(SharedPattern<'a>),
}

/// `{shop}`. Redis Cluster chooses a key's slot by the text between the first `{` and the first `}` after
/// it, which is this alone: its own braces, which would end the tag or empty it, are written in percent
/// codes.
fn write_hash_tag(key: &mut BytesMut, text: &[u8]) {
    key.put_u8(b'{');
    for &byte in text {
        match byte {
            b'{' => key.put_slice(b"%7B"),
            b'}' => key.put_slice(b"%7D"),
            _ => key.put_u8(byte),
        }
    }
    key.put_u8(b'}');
}

/// `tg1/f60/4:shop,4:user,2:42,`: a version, the algorithm, its window and its ticks, then netstrings
/// (<https://cr.yp.to/proto/netstrings.txt>), which cannot be read in two ways. A shared pattern
/// carries a `*` before its length, or a `~` where it has no star, so that it cannot meet a value of the
/// same text. A calendar's window is `cd:Europe/Berlin`; it ends at the last slash before the next colon,
/// since no name of a zone has one.
fn write_native<'a>(
    key: &mut BytesMut,
    domain: &[u8],
    entries: impl Iterator<Item = (&'a [u8], Value<'a>)>,
    limit: Limit,
) {
    key.put_slice(b"tg1/");
    key.put_u8(match limit.algorithm {
        Algorithm::FixedWindow => b'f',
        Algorithm::SlidingWindow => b'w',
        Algorithm::SlidingLog => b'l',
        Algorithm::TokenBucket { .. } => b'b',
    });
    match limit.window.calendar() {
        None => write_decimal(key, limit.window.secs() as usize),
        Some(calendar) => write_calendar(key, calendar),
    }
    // What is kept in ticks is of no use in others.
    match tick_us(limit).filter(|_| limit.algorithm != Algorithm::FixedWindow) {
        None | Some(1) => {}
        Some(1_000) => key.put_slice(b"ms"),
        Some(_) => key.put_u8(b's'),
    }
    key.put_u8(b'/');
    write_netstring(key, domain);
    for (name, value) in entries {
        write_netstring(key, name);
        match value {
            Value::Own(value) => write_netstring(key, value),
            Value::Shared(pattern) => {
                key.put_u8(pattern.mark());
                write_netstring(key, pattern.text().as_bytes());
            }
        }
    }
}

/// `shop_user_42_`
fn write_envoyproxy<'a>(
    key: &mut BytesMut,
    domain: &[u8],
    entries: impl Iterator<Item = (&'a [u8], Value<'a>)>,
) {
    key.put_slice(domain);
    key.put_u8(b'_');
    for (name, value) in entries {
        key.put_slice(name);
        key.put_u8(b'_');
        key.put_slice(match value {
            Value::Own(value) => value,
            Value::Shared(pattern) => pattern.text().as_bytes(),
        });
        key.put_u8(b'_');
    }
}

fn write_calendar(key: &mut BytesMut, calendar: Calendar) {
    key.put_slice(match calendar.period {
        Period::Day => b"cd:",
        Period::Week => b"cw:",
        Period::Month => b"cm:",
        Period::Year => b"cy:",
    });
    key.put_slice(calendar.zone.name().as_bytes());
}

fn write_netstring(key: &mut BytesMut, text: &[u8]) {
    write_decimal(key, text.len());
    key.put_u8(b':');
    key.put_slice(text);
    key.put_u8(b',');
}

fn write_decimal(key: &mut BytesMut, number: usize) {
    key.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
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
    /// descriptors often differ in little more than where one text ends and the next begins.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(&b"a_:,*/10\xff{}"[..]), 0..5)
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
        prop_oneof![
            unit().prop_map(Unit::window),
            calendars.prop_map(|(period, zone)| of_calendar(period, zone)),
        ]
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

    /// What Redis Cluster chooses the slot of `key` by.
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
        let windows = Zone::all()
            .flat_map(|zone| Period::ALL.map(|period| Window::of_calendar(Calendar { period, zone })));
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
            for (format, text) in [
                (KeyFormat::Native, format!("tg1/f60/{}:{domain},6:{{user}},3:}}", domain.len())),
                (KeyFormat::Envoyproxy, format!("{domain}_{{user}}_}}")),
            ] {
                let separator = if format == KeyFormat::Native { "," } else { "_" };
                let end = [b"\xff{", separator.as_bytes()].concat();
                let plain = [b"p:", text.as_bytes(), &end].concat();
                let with_tag = [b"p:{", tag.as_bytes(), b"}", text.as_bytes(), &end].concat();
                let writer = KeyWriter::new(format, "p:");
                assert_eq!(key(&writer, untagged(domain.as_bytes()), &pairs, Unit::Minute), plain);
                assert_eq!(key(&writer, tagged(domain.as_bytes()), &pairs, Unit::Minute), with_tag);
                assert_eq!(hash_tag(&with_tag), Some(tag.as_bytes()), "{domain}");
            }
        }
    }

    #[test]
    fn item_21_the_compatible_key_is_the_references_without_the_window() {
        let pairs = vec![(b"key".to_vec(), b"value".to_vec())];
        for (prefix, expected) in [("", "domain_key_value_"), ("prefix:", "prefix:domain_key_value_")] {
            let writer = KeyWriter::new(KeyFormat::Envoyproxy, prefix);
            assert_eq!(key(&writer, untagged(b"domain"), &pairs, Unit::Hour), expected);
        }
    }
}
