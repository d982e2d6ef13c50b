//! RESP2, the protocol of Redis, as the scripted servers speak it.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;

use crate::store::redis::reply::Reply;

/// Upper bound on one reply, in bytes. The largest expected one is a page of `SCAN`.
const MAX_REPLY_BYTES: usize = 16 << 20;
/// Upper bound on nested arrays. `CLUSTER SLOTS` nests four; the decoder recurses for each level.
const MAX_DEPTH: usize = 8;
/// Bytes that are not RESP2. Bytes after them cannot be decoded either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the Redis protocol")]
pub(super) struct ProtocolError;

/// Decodes the first reply in `bytes`, and returns it with its length. `None` if it is not complete.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Reply, usize)>, ProtocolError> {
    let decoded = decode_nested(bytes, MAX_DEPTH)?;
    match decoded {
        None if bytes.len() > MAX_REPLY_BYTES => Err(ProtocolError),
        decoded => Ok(decoded),
    }
}

fn decode_nested(bytes: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, ProtocolError> {
    if bytes.first() == Some(&b'*') {
        return decode_array(bytes, depth);
    }
    let Some((frame, len)) = decode_range(bytes).map_err(|_| ProtocolError)? else { return Ok(None) };
    let text = |(start, end): (usize, usize)| bytes.get(start..end).ok_or(ProtocolError);
    let reply = match frame {
        RangeFrame::Integer(number) => Reply::Int(number),
        RangeFrame::SimpleString(range) | RangeFrame::BulkString(range) => {
            Reply::Text(Bytes::copy_from_slice(text(range)?))
        }
        RangeFrame::Error(range) => Reply::error(text(range)?),
        RangeFrame::Null => Reply::Nil,
        RangeFrame::Array(_) => return Err(ProtocolError),
    };
    Ok(Some((reply, len)))
}

/// Decodes an array. The decoder of `redis-protocol` would recurse without a bound.
fn decode_array(bytes: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, ProtocolError> {
    let depth = depth.checked_sub(1).ok_or(ProtocolError)?;
    let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
    let header = bytes.get(1..end).and_then(|header| header.strip_suffix(b"\r")).ok_or(ProtocolError)?;
    let len = std::str::from_utf8(header).ok().and_then(|len| len.parse::<i64>().ok());
    let len = match len.ok_or(ProtocolError)? {
        -1 => return Ok(Some((Reply::Nil, end + 1))),
        len => usize::try_from(len).map_err(|_| ProtocolError)?,
    };
    let mut at = end + 1;
    // Without a capacity from the header: a peer may announce any number.
    let mut items = Vec::new();
    for _ in 0..len {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((item, len)) = decode_nested(rest, depth)? else { return Ok(None) };
        at += len;
        items.push(item);
    }
    Ok(Some((Reply::Array(items), at)))
}

/// Begins a command of so many arguments, its name included. [`push`] appends each of them.
pub(super) fn begin(out: &mut BytesMut, arguments: usize) {
    out.put_u8(b'*');
    out.put_slice(itoa::Buffer::new().format(arguments).as_bytes());
    out.put_slice(b"\r\n");
}

pub(super) fn push(out: &mut BytesMut, argument: &[u8]) {
    out.put_u8(b'$');
    out.put_slice(itoa::Buffer::new().format(argument.len()).as_bytes());
    out.put_slice(b"\r\n");
    out.put_slice(argument);
    out.put_slice(b"\r\n");
}
