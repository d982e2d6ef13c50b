//! Encoding of texts in keys: domains, descriptor keys and values, which clients may choose.
//!
//! A text is a netstring (<https://cr.yp.to/proto/netstrings.txt>), so no two lists of texts have the same
//! encoding. Two kinds of text are preceded by a mark that no netstring begins with:
//!
//! - `%`: braces are percent-encoded. Redis Cluster derives the slot of a key from the text between its first
//!   braces, and a client must not choose the slot of its counters.
//! - `#`: the SHA-256, in hexadecimal, of a text longer than [`MAX_LITERAL_BYTES`]. A client chooses the length
//!   of its values, but keys are stored, sent and compared. The digest is not keyed, because all replicas must
//!   agree on it, also after a restart.

use bytes::{BufMut, BytesMut};
use memchr::{memchr, memchr2};
use ring::digest::{SHA256, digest};
use smallvec::SmallVec;

/// Upper bound, in bytes, on a text that a key contains literally.
pub const MAX_LITERAL_BYTES: usize = 256;

const ESCAPED: u8 = b'%';
const DIGEST: u8 = b'#';
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Upper bound on what [`write()`] adds for a text of `len` bytes without braces.
pub(super) const fn written_len(len: usize) -> usize {
    if len > MAX_LITERAL_BYTES { 70 } else { len + 5 }
}

/// Writes `text`.
pub(super) fn write(key: &mut BytesMut, text: &[u8]) {
    if text.len() > MAX_LITERAL_BYTES {
        let hash = digest(&SHA256, text);
        let digits = |byte: &u8| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        let digits: SmallVec<[u8; 64]> = hash.as_ref().iter().flat_map(digits).collect();
        key.put_u8(DIGEST);
        write_netstring(key, &digits);
    } else if has_brace(text) {
        let mut escaped = SmallVec::<[u8; 128]>::new();
        for &byte in text {
            match byte {
                b'%' => escaped.extend_from_slice(b"%25"),
                b'{' => escaped.extend_from_slice(b"%7B"),
                b'}' => escaped.extend_from_slice(b"%7D"),
                _ => escaped.push(byte),
            }
        }
        key.put_u8(ESCAPED);
        write_netstring(key, &escaped);
    } else {
        write_netstring(key, text);
    }
}

/// Reads what [`write()`] wrote, and moves `texts` past it. A digest reads as `sha256:…`.
pub(super) fn read(texts: &mut &[u8]) -> Option<Vec<u8>> {
    match *texts.first()? {
        DIGEST => {
            *texts = &texts[1..];
            Some([b"sha256:", read_netstring(texts)?].concat())
        }
        ESCAPED => {
            *texts = &texts[1..];
            Some(percent_encoding::percent_decode(read_netstring(texts)?).collect())
        }
        _ => read_netstring(texts).map(<[u8]>::to_vec),
    }
}

/// True if `text`, written literally, could determine the slot of a key.
pub(super) fn has_brace(text: &[u8]) -> bool {
    memchr2(b'{', b'}', text).is_some()
}

fn write_netstring(key: &mut BytesMut, text: &[u8]) {
    key.put_slice(itoa::Buffer::new().format(text.len()).as_bytes());
    key.put_u8(b':');
    key.put_slice(text);
    key.put_u8(b',');
}

fn read_netstring<'t>(texts: &mut &'t [u8]) -> Option<&'t [u8]> {
    let colon = memchr(b':', texts)?;
    let len: usize = std::str::from_utf8(texts.get(..colon)?).ok()?.parse().ok()?;
    let rest = texts.get(colon + 1..)?;
    let (text, rest) = rest.split_at_checked(len)?;
    *texts = rest.strip_prefix(b",")?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(texts: &[Vec<u8>]) -> BytesMut {
        let mut key = BytesMut::new();
        texts.iter().for_each(|text| write(&mut key, text));
        key
    }

    #[test]
    fn texts_are_readable_where_they_can_be() {
        for (text, expected) in [
            ("", "0:,"),
            ("42", "2:42,"),
            ("50%", "3:50%,"),
            ("{x}0", "%8:%7Bx%7D0,"),
            ("%7B}", "%8:%257B%7D,"),
        ] {
            assert_eq!(written(&[text.into()]), expected);
        }
        let longest = "x".repeat(MAX_LITERAL_BYTES);
        assert_eq!(written(&[longest.clone().into()]), format!("256:{longest},"));
        let found = written(&[(longest + "x").into()]);
        assert!(found.starts_with(b"#64:") && found.len() == 69, "{found:?}");
    }

    #[test]
    fn a_digest_is_the_same_everywhere() {
        let text = [b'a'; 1_000];
        // The second test vector of many implementations: printf 'a%.0s' {1..1000} | sha256sum
        let expected = "#64:41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3,";
        assert_eq!(written(&[text.to_vec()]), expected);
    }

    /// Short texts of few different bytes, and some that are past the bound.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = || prop::sample::select(&b"{}%7BD25#*~:,0\xff"[..]);
        prop_oneof![
            4 => prop::collection::vec(byte(), 0..8),
            1 => prop::collection::vec(byte(), MAX_LITERAL_BYTES - 1..MAX_LITERAL_BYTES + 3),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn no_two_lists_of_texts_are_spelt_alike_and_none_has_a_brace(
            a in prop::collection::vec(text(), 0..4),
            b in prop::collection::vec(text(), 0..4),
        ) {
            prop_assert_eq!(written(&a) == written(&b), a == b);
            prop_assert!(!has_brace(&written(&a)));
        }

        #[test]
        fn texts_are_read_as_they_were_written(text in text()) {
            let key = written(std::slice::from_ref(&text));
            let mut rest = &key[..];
            let read = read(&mut rest).expect("a text");
            prop_assert!(rest.is_empty());
            prop_assert!(read == text || text.len() > MAX_LITERAL_BYTES && read.starts_with(b"sha256:"));
        }
    }
}
