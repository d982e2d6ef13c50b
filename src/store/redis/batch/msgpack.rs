//! Arguments of scripts in MessagePack, which Redis decodes in C: faster than text that Lua would have to parse.

use bytes::{BufMut as _, BytesMut};

/// Appends the head of an array of `len` items, which must follow.
pub(super) fn array(out: &mut BytesMut, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    match u8::try_from(len) {
        Ok(len @ 0..=15) => out.put_u8(0x90 | len),
        _ => {
            out.put_u8(0xdd);
            out.put_u32(len);
        }
    }
}

/// Appends a number.
pub(super) fn number(out: &mut BytesMut, number: u64) {
    if let Ok(number @ 0..=127) = u8::try_from(number) {
        out.put_u8(number);
    } else if let Ok(number) = u32::try_from(number) {
        out.put_u8(0xce);
        out.put_u32(number);
    } else {
        out.put_u8(0xcf);
        out.put_u64(number);
    }
}

/// Appends a number in decimal digits, for a command that takes text: Redis formats numbers slowly.
pub(super) fn digits(out: &mut BytesMut, number: u64) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number).as_bytes();
    out.put_u8(0xa0 | u8::try_from(text.len()).unwrap_or_default());
    out.put_slice(text);
}

/// The arrays of numbers in an array of them, as scripts read it; digits are numbers here.
#[cfg(test)]
pub(in crate::store::redis) fn unpack(packed: &bytes::Bytes) -> Vec<Vec<i64>> {
    use bytes::Buf as _;

    fn head(packed: &mut bytes::Bytes) -> u32 {
        match packed.get_u8() {
            0xdd => packed.get_u32(),
            head => u32::from(head & 0x0f),
        }
    }
    let packed = &mut packed.clone();
    let item = |packed: &mut bytes::Bytes| match packed.get_u8() {
        0xce => packed.get_u32().into(),
        0xcf => i64::try_from(packed.get_u64()).unwrap_or(i64::MAX),
        0xff => -1,
        text @ 0xa0..=0xbf => {
            let digits = packed.split_to(usize::from(text & 0x1f));
            std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok()).expect("digits")
        }
        number => number.into(),
    };
    (0..head(packed)).map(|_| (0..head(packed)).map(|_| item(packed)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_the_specification() {
        let mut out = BytesMut::new();
        array(&mut out, 15);
        array(&mut out, 16);
        for some in [0, 127, 128, u64::from(u32::MAX), u64::from(u32::MAX) + 1] {
            number(&mut out, some);
        }
        digits(&mut out, 3_600);
        let expected: &[&[u8]] = &[
            b"\x9f",
            b"\xdd\x00\x00\x00\x10",
            b"\x00",
            b"\x7f",
            b"\xce\x00\x00\x00\x80",
            b"\xce\xff\xff\xff\xff",
            b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00",
            b"\xa43600",
        ];
        assert_eq!(out, expected.concat());
    }
}
