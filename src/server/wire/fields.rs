//! Protobuf's wire format (<https://protobuf.dev/programming-guides/encoding/>): a message read field by
//! field, borrowed from its bytes, and written field by field.

use bytes::{BufMut, BytesMut};

/// What is no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no protobuf message")]
pub(super) struct Malformed;

/// The value of a field, as far as it can be told without knowing its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'m> {
    /// `uint32`, `uint64`, `bool` or an enum.
    Varint(u64),
    /// `string`, `bytes` or a message.
    Bytes(&'m [u8]),
    /// Of a type that no field known here has.
    Fixed,
}

/// The fields of a message, in order: number and value. After an error there are no more.
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
        let key = u32::try_from(self.varint()?).ok()?;
        let number = Some(key >> 3).filter(|number| *number != 0)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups, which proto3 does not have, and what is no type.
            _ => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, len: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// Seven bits in each byte, the lowest first; the highest bit of a byte says that there is another.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (index, byte) in self.0.iter().enumerate().take(MAX_VARINT_BYTES) {
            // The tenth byte has room for one bit.
            if index + 1 == MAX_VARINT_BYTES && *byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Some(value);
            }
        }
        None
    }
}

/// Of 64 bits, seven in each.
const MAX_VARINT_BYTES: usize = 10;

/// Bytes that [`put_varint()`] writes.
const fn varint_len(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Bytes that [`put_uint()`] writes.
pub(super) const fn uint_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Bytes of a field that holds so many; its number is below 16.
pub(super) const fn bytes_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(low_bits(value) | 0x80);
        value >>= 7;
    }
    to.put_u8(low_bits(value));
}

/// The lowest seven bits.
const fn low_bits(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// Writes an integer or an enum under `number`, which is below 16. As proto3 has it, zero is not written.
pub(super) fn put_uint(to: &mut BytesMut, number: u8, value: u64) {
    if value != 0 {
        to.put_u8(number << 3);
        put_varint(to, value);
    }
}

/// Writes that `len` bytes follow under `number`, which is below 16.
pub(super) fn put_bytes_head(to: &mut BytesMut, number: u8, len: usize) {
    to.put_u8(number << 3 | 2);
    put_varint(to, len as u64);
}
