//! Normalization of the values of a key before they are matched and counted.
//!
//! The request itself is not changed. Steps that select a part of a value borrow it; others write a new value,
//! inline up to [`INLINE_BYTES`].

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::Deref;
use std::str;

use ipnet::IpNet;
use ring::hmac;
use smallvec::SmallVec;

use super::diagnostics::Diagnostics;
use super::span::Located;

/// Bytes of a normalized value without a heap allocation: enough for nearly every network.
const INLINE_BYTES: usize = 40;
/// 128 bits.
const HASH_BYTES: usize = 16;
/// A block of SHA-256: HMAC fills shorter keys with zeros up to it.
const KEY_BYTES: usize = 64;

/// One step, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormalizeStep {
    /// Lowercases ASCII letters.
    Lowercase,
    /// Removes ASCII white space from both ends.
    Trim,
    /// Replaces an address by its network.
    IpPrefix {
        /// Bits of an IPv4 network, 1 to 32.
        v4: u8,
        /// Bits of an IPv6 network, 1 to 128.
        v6: u8,
    },
    /// Selects one address of a list as in `X-Forwarded-For`.
    ForwardedFor {
        /// Position from the right, 1 to 100; the leftmost address if there are fewer.
        trusted_hops: u8,
    },
    /// Matches the value, and counts and shows its hash.
    Hash,
}

/// Secret of hashes. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; KEY_BYTES]);

impl HashKey {
    /// HMAC-SHA256 key for `secret`.
    pub fn new(secret: &[u8]) -> Self {
        let mut key = [0; KEY_BYTES];
        let digest = ring::digest::digest(&ring::digest::SHA256, secret);
        let secret = if secret.len() > KEY_BYTES { digest.as_ref() } else { secret };
        key.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
        Self(key)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// Value of a request, or one derived from it.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Bytes of the request.
    Borrowed(&'a [u8]),
    /// Derived bytes.
    Made(SmallVec<[u8; INLINE_BYTES]>),
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

impl Text<'_> {
    fn narrow(self, part: fn(&[u8], u8) -> &[u8], which: u8) -> Self {
        match self {
            Self::Borrowed(bytes) => Self::Borrowed(part(bytes, which)),
            Self::Made(bytes) => Self::Made(part(&bytes, which).into()),
        }
    }
}

/// Normalization of the values of one key.
#[derive(Clone, Debug)]
pub struct Normalize {
    /// Steps in order. `Hash` can only be the last.
    pub steps: Box<[NormalizeStep]>,
    key: Option<hmac::Key>,
}

impl Normalize {
    /// Normalization by `steps`.
    ///
    /// # Errors
    /// `hash` before other steps, and without a key.
    pub(super) fn new(steps: &[Located<NormalizeStep>], key: Option<&HashKey>) -> Result<Self, Diagnostics> {
        let mut errors = Diagnostics::default();
        for (index, step) in steps.iter().enumerate().filter(|(_, step)| step.value == NormalizeStep::Hash) {
            if index + 1 < steps.len() {
                let message = "'hash' must be the last step: write it at the end";
                errors.push(step.span, message);
            } else if key.is_none() {
                let message =
                    "'hash' needs a secret, and there is none: set HASH_KEY, the same for every replica";
                errors.push(step.span, message);
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let steps: Box<[_]> = steps.iter().map(|step| step.value).collect();
        let key = key.filter(|_| steps.last() == Some(&NormalizeStep::Hash));
        Ok(Self { steps, key: key.map(|HashKey(key)| hmac::Key::new(hmac::HMAC_SHA256, key)) })
    }

    /// True if values are counted by their hash.
    pub const fn hashes(&self) -> bool {
        self.key.is_some()
    }

    /// Hash of `written`, the text of a pattern, for names; `None` if values are not hashed. For an exact value
    /// it equals the hash that the value is counted under.
    pub(super) fn hash_of(&self, written: &str) -> Option<Box<str>> {
        let hash = hash(self.key.as_ref()?, written.as_bytes());
        Some(String::from_utf8_lossy(&hash).into())
    }

    /// Value to match.
    pub fn matched<'a>(&self, value: &'a [u8]) -> Text<'a> {
        self.steps.iter().fold(Text::Borrowed(value), |text, step| match *step {
            NormalizeStep::Lowercase => lowercase(&text).map_or(text, Text::Made),
            NormalizeStep::Trim => text.narrow(|bytes, _| bytes.trim_ascii(), 0),
            NormalizeStep::IpPrefix { v4, v6 } => ip_prefix(&text, v4, v6).map_or(text, Text::Made),
            NormalizeStep::ForwardedFor { trusted_hops } => text.narrow(forwarded_for, trusted_hops),
            NormalizeStep::Hash => text,
        })
    }

    /// Value to count and to show, from the value to match.
    pub fn counted<'a>(&self, matched: Text<'a>) -> Text<'a> {
        match &self.key {
            Some(key) => Text::Made(hash(key, &matched)),
            None => matched,
        }
    }
}

/// `None` if nothing changes.
fn lowercase(value: &[u8]) -> Option<SmallVec<[u8; INLINE_BYTES]>> {
    let has_any = value.iter().any(u8::is_ascii_uppercase);
    has_any.then(|| value.iter().map(u8::to_ascii_lowercase).collect())
}

/// `None` if nothing changes.
fn ip_prefix(value: &[u8], v4: u8, v6: u8) -> Option<SmallVec<[u8; INLINE_BYTES]>> {
    let address = str::from_utf8(value).ok()?.parse::<IpAddr>().ok()?.to_canonical();
    let (len, max) = if address.is_ipv4() { (v4, 32) } else { (v6, 128) };
    let network = IpNet::new(address, len).ok()?.trunc();
    let mut text = Writer::default();
    let written = if len == max { write!(text, "{address}") } else { write!(text, "{network}") };
    written.ok()?;
    (text.0.as_slice() != value).then_some(text.0)
}

#[derive(Default)]
struct Writer(SmallVec<[u8; INLINE_BYTES]>);

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Address at position `trusted_hops` from the right, without port and brackets.
fn forwarded_for(list: &[u8], trusted_hops: u8) -> &[u8] {
    let entries =
        || list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty());
    let from_right = entries().rev().nth(usize::from(trusted_hops.saturating_sub(1)));
    from_right.or_else(|| entries().next()).map_or(&[], without_port)
}

fn without_port(entry: &[u8]) -> &[u8] {
    let end = |byte: u8| entry.iter().position(|found| *found == byte);
    match entry.strip_prefix(b"[") {
        Some(bracketed) => bracketed.split(|byte| *byte == b']').next().unwrap_or(bracketed),
        // An IPv6 address without brackets has several colons, and no port.
        None => match end(b':') {
            Some(colon) if !entry[colon + 1..].contains(&b':') => &entry[..colon],
            _ => entry,
        },
    }
}

/// The first half of HMAC-SHA256, in hexadecimal digits.
fn hash(key: &hmac::Key, value: &[u8]) -> SmallVec<[u8; INLINE_BYTES]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let tag = hmac::sign(key, value);
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    tag.as_ref().iter().take(HASH_BYTES).flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::rules::SourceSpan;

    const KEY: &[u8] = b"a secret of the tests";

    fn normalize(steps: &[NormalizeStep]) -> Normalize {
        let placed: Vec<_> =
            steps.iter().map(|step| Located { value: *step, span: SourceSpan::default() }).collect();
        Normalize::new(&placed, Some(&HashKey::new(KEY))).expect("the steps are right")
    }

    fn check(steps: &[NormalizeStep], table: &[(&str, &str)]) {
        let normalize = normalize(steps);
        for (value, expected) in table {
            let found = normalize.matched(value.as_bytes());
            assert_eq!(str::from_utf8(&found), Ok(*expected), "{steps:?} {value:?}");
            let again = normalize.matched(&found);
            assert_eq!(str::from_utf8(&again), Ok(*expected), "{steps:?} {value:?}, twice");
        }
    }

    #[test]
    fn letters_become_small_and_ends_lose_their_space() {
        check(
            &[NormalizeStep::Lowercase],
            &[("Alice@Example.COM", "alice@example.com"), ("alice", "alice"), ("", ""), ("ÄÖ X", "ÄÖ x")],
        );
        check(
            &[NormalizeStep::Trim],
            &[(" \t alice bob\r\n", "alice bob"), ("alice", "alice"), (" ", ""), ("\u{a0}a", "\u{a0}a")],
        );
        check(&[NormalizeStep::Trim, NormalizeStep::Lowercase], &[(" A ", "a")]);
        let lower = normalize(&[NormalizeStep::Lowercase]);
        assert_eq!(&*lower.matched(b"A\xff\xc3Z"), b"a\xff\xc3z");
    }

    #[test]
    fn an_address_becomes_its_network_and_all_else_stays() {
        check(
            &[NormalizeStep::IpPrefix { v4: 32, v6: 64 }],
            &[
                ("10.1.2.3", "10.1.2.3"),
                ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
                ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
                ("::ffff:10.1.2.3", "10.1.2.3"),
                ("::FFFF:0a01:0203", "10.1.2.3"),
                ("::1", "::/64"),
                ("10.1.2.3:80", "10.1.2.3:80"),
                ("[::1]", "[::1]"),
                (" 10.1.2.3", " 10.1.2.3"),
                ("fe80::1%eth0", "fe80::1%eth0"),
                ("alice", "alice"),
                ("", ""),
            ],
        );
        check(
            &[NormalizeStep::IpPrefix { v4: 24, v6: 128 }],
            &[("10.1.2.3", "10.1.2.0/24"), ("::0:1", "::1")],
        );
        check(
            &[NormalizeStep::IpPrefix { v4: 1, v6: 127 }],
            &[
                ("200.1.2.3", "128.0.0.0/1"),
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"),
            ],
        );
    }

    #[test]
    fn of_a_list_the_address_before_the_trusted_hops_is_taken() {
        let list = "1.1.1.1, 2.2.2.2:443,[2001:db8::3]:8080 ,\t[2001:db8::4] , 2001:db8::5";
        for (trusted_hops, expected) in [
            (1, "2001:db8::5"),
            (2, "2001:db8::4"),
            (3, "2001:db8::3"),
            (4, "2.2.2.2"),
            (5, "1.1.1.1"),
            (6, "1.1.1.1"),
            (100, "1.1.1.1"),
        ] {
            check(&[NormalizeStep::ForwardedFor { trusted_hops }], &[(list, expected)]);
        }
        check(
            &[NormalizeStep::ForwardedFor { trusted_hops: 1 }],
            &[
                ("1.1.1.1", "1.1.1.1"),
                ("1.1.1.1,, ,", "1.1.1.1"),
                ("unknown", "unknown"),
                ("[", ""),
                (":80", ""),
                (" , ", ""),
                ("", ""),
            ],
        );
        check(
            &[NormalizeStep::ForwardedFor { trusted_hops: 2 }, NormalizeStep::IpPrefix { v4: 24, v6: 48 }],
            &[("2001:db8:1:2::3, 1.1.1.1", "2001:db8:1::/48"), ("9.9.9.9:1, 1.1.1.1", "9.9.9.0/24")],
        );
    }

    #[test]
    fn hashed_values_are_the_first_half_of_hmac_sha256() {
        let hashed = |secret: &[u8], value: &[u8]| {
            let steps = [NormalizeStep::Lowercase, NormalizeStep::Hash]
                .map(|value| Located { value, span: SourceSpan::default() });
            let normalize = Normalize::new(&steps, Some(&HashKey::new(secret))).expect("the steps are right");
            let matched = normalize.matched(value);
            assert_eq!(&*matched, value.to_ascii_lowercase());
            String::from_utf8(normalize.counted(matched).to_vec()).expect("digits")
        };
        // RFC 4231, test case 2.
        assert_eq!(hashed(b"Jefe", b"what do ya want for nothing?"), "5bdcc146bf60754e6a042426089575c7");
        // A secret longer than a block of the hash.
        let long = hmac::Key::new(hmac::HMAC_SHA256, &[0xaa; 131]);
        assert_eq!(hashed(&[0xaa; 131], b"alice").as_bytes(), hash(&long, b"alice").as_slice());
        assert_eq!(hashed(KEY, b"Alice"), hashed(KEY, b"alice"));
        assert_ne!(hashed(KEY, b"alice"), hashed(KEY, b"bob"));
        assert_ne!(hashed(KEY, b"alice"), hashed(b"another", b"alice"));
    }

    #[test]
    fn the_secret_is_never_shown() {
        let key = HashKey::new(KEY);
        let shown = format!("{key:?} {:?}", normalize(&[NormalizeStep::Hash]));
        assert!(!shown.contains("secret") && !shown.contains("97"), "{shown}");
    }

    #[test]
    fn unchanged_values_are_borrowed_and_short_ones_built_in_place() {
        let all = normalize(&[
            NormalizeStep::Trim,
            NormalizeStep::ForwardedFor { trusted_hops: 1 },
            NormalizeStep::Lowercase,
            NormalizeStep::IpPrefix { v4: 24, v6: 64 },
            NormalizeStep::Hash,
        ]);
        for value in ["alice", " 1.2.3.4:5, [2001:DB8::1]:443 ", "ALICE"] {
            let allocated = allocation_counter::measure(|| {
                std::hint::black_box(all.counted(all.matched(std::hint::black_box(value.as_bytes()))));
            });
            assert_eq!(allocated.count_total, 0, "{value}");
        }
        assert!(matches!(all.matched(b" alice "), Text::Borrowed(b"alice")));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_normalized_and_no_more_is_taken_than_there_is(
            value in prop::collection::vec(prop::sample::select(&b"aA1.:,[] \xff"[..]), 0..40),
            trusted_hops in 1..=100u8,
        ) {
            let taken = normalize(&[NormalizeStep::Trim, NormalizeStep::ForwardedFor { trusted_hops }]);
            let taken = taken.matched(&value);
            prop_assert!(value.windows(taken.len().max(1)).any(|part| *part == *taken) || taken.is_empty());
            prop_assert!(!taken.contains(&b','));
            let all = [NormalizeStep::IpPrefix { v4: 8, v6: 8 }, NormalizeStep::Lowercase, NormalizeStep::Hash];
            let all = normalize(&all);
            prop_assert_eq!(all.counted(all.matched(&value)).len(), 2 * HASH_BYTES);
        }
    }
}
