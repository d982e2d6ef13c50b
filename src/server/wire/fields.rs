//! Protobuf's wire format (<https://protobuf.dev/programming-guides/encoding/>): a message read field by
//! field, borrowed from its bytes, and written field by field.

use bytes::BufMut;
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

/// Bytes that are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message")]
pub(super) struct Malformed;

/// Value of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'m> {
    /// `uint32`, `uint64`, `bool` or an enum.
    Varint(u64),
    /// `string`, `bytes` or a message.
    Bytes(&'m [u8]),
    /// A fixed-width number, which no known field has.
    Fixed,
}

/// Fields of a message in order: number and value. Ends at the first error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'m>(pub(super) &'m [u8]);

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u32, Value<'m>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

impl<'m> Fields<'m> {
    fn read(&mut self) -> Option<(u32, Value<'m>)> {
        let (number, wire_type) = decode_key(&mut self.0).ok()?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut self.0).ok()?),
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut self.0).ok()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            WireType::SixtyFourBit => self.take(8).map(|_| Value::Fixed)?,
            WireType::ThirtyTwoBit => self.take(4).map(|_| Value::Fixed)?,
            // proto3 has no groups.
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, len: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// Length of what [`put_uint()`] writes, in bytes.
pub(super) fn uint_len(number: u32, value: u64) -> usize {
    if value == 0 { 0 } else { key_len(number) + encoded_len_varint(value) }
}

/// Length of a field with `len` bytes of content, in bytes.
pub(crate) fn bytes_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

/// Writes an integer or an enum. As proto3 has it, zero is not written.
pub(crate) fn put_uint(to: &mut impl BufMut, number: u32, value: u64) {
    if value != 0 {
        encode_key(number, WireType::Varint, to);
        encode_varint(value, to);
    }
}

/// Writes the head of a field whose content, of `len` bytes, follows.
pub(crate) fn put_head(to: &mut impl BufMut, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(len as u64, to);
}

/// Writes a field of bytes.
pub(crate) fn put_bytes(to: &mut impl BufMut, number: u32, bytes: &[u8]) {
    put_head(to, number, bytes.len());
    to.put_slice(bytes);
}
