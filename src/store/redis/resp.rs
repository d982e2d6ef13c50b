//! RESP2, the protocol of Redis: commands are encoded here, replies are decoded by `redis-protocol`.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;

/// Upper bound on one reply, in bytes. The largest expected one is a page of `SCAN`.
const MAX_REPLY_BYTES: usize = 16 << 20;
/// Upper bound on nested arrays. `CLUSTER SLOTS` nests four; the decoder recurses for each level.
const MAX_DEPTH: usize = 8;
/// Upper bound on the text of an error, in bytes: scripts and modules can return any length.
const MAX_ERROR_BYTES: usize = 256;

/// A reply of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `:1`
    Int(i64),
    /// `+OK`, or a bulk string.
    Text(Bytes),
    /// `$-1` or `*-1`
    Nil,
    /// `-ERR …`, cut at [`MAX_ERROR_BYTES`].
    Error(String),
    /// `*2 …`
    Array(Vec<Self>),
}

/// Bytes that are not RESP2. What follows them cannot be understood either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the Redis protocol")]
pub(super) struct ProtocolError;

impl Reply {
    /// The reply as text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => std::str::from_utf8(text).ok(),
            Self::Int(_) | Self::Nil | Self::Error(_) | Self::Array(_) => None,
        }
    }

    /// The reply as a number, if it is one that fits.
    pub(super) fn number<T: TryFrom<i64>>(&self) -> Option<T> {
        let number = match self {
            Self::Int(number) => *number,
            _ => self.text()?.parse().ok()?,
        };
        T::try_from(number).ok()
    }

    /// The items of an array; none of anything else.
    pub(super) fn into_items(self) -> Vec<Self> {
        match self {
            Self::Array(items) => items,
            Self::Int(_) | Self::Text(_) | Self::Nil | Self::Error(_) => Vec::new(),
        }
    }
}

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
        RangeFrame::Error(range) => {
            let text = text(range)?;
            let cut = text.get(..MAX_ERROR_BYTES).unwrap_or(text);
            Reply::Error(String::from_utf8_lossy(cut).into_owned())
        }
        RangeFrame::Null => Reply::Nil,
        RangeFrame::Array(_) => return Err(ProtocolError),
    };
    Ok(Some((reply, len)))
}

/// The decoder of `redis-protocol` recurses without a bound, so arrays are taken apart here.
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
    // Grows with what arrived, never with what is announced.
    let mut items = Vec::new();
    for _ in 0..len {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((item, len)) = decode_nested(rest, depth)? else { return Ok(None) };
        at += len;
        items.push(item);
    }
    Ok(Some((Reply::Array(items), at)))
}

/// Appends a command to `out`.
pub(super) fn encode(out: &mut BytesMut, arguments: &[&[u8]]) {
    begin(out, arguments.len());
    for argument in arguments {
        push(out, argument);
    }
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

#[cfg(test)]
impl From<i64> for Reply {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

#[cfg(test)]
impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Reply {
        Reply::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn replies_are_decoded_one_after_the_other_and_incomplete_ones_wait() {
        for (bytes, expected) in [
            (":12\r\n", Reply::Int(12)),
            (":-9223372036854775808\r\n", Reply::Int(i64::MIN)),
            ("+OK\r\n", text("OK")),
            ("$3\r\na\r\n\r\n", text("a\r\n")),
            ("$0\r\n\r\n", text("")),
            ("$-1\r\n", Reply::Nil),
            ("*-1\r\n", Reply::Nil),
            ("-ERR no\r\n", Reply::Error("ERR no".to_owned())),
            ("*0\r\n", Reply::Array(vec![])),
            (
                "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
                Reply::Array(vec![Reply::Int(1), Reply::Array(vec![text("x")])]),
            ),
        ] {
            let followed = format!("{bytes}:7\r\n");
            assert_eq!(decode(followed.as_bytes()), Ok(Some((expected, bytes.len()))), "{bytes:?}");
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes.as_bytes()[..len]), Ok(None), "{len} bytes of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_announced_lengths_take_no_memory() {
        for bytes in
            ["HTTP/1.1 400\r\n", "*x\r\n", "*-2\r\n", ":x\r\n", "$x\r\n", "%1\r\n", "*1\r\n*1\r\nx\r\n"]
        {
            assert_eq!(decode(bytes.as_bytes()), Err(ProtocolError), "{bytes}");
        }
        for bytes in ["$1000000000\r\n", "*1000000000\r\n:1\r\n"] {
            assert_eq!(decode(bytes.as_bytes()), Ok(None), "{bytes}");
        }
        assert_eq!(decode("*1\r\n".repeat(100_000).as_bytes()), Err(ProtocolError), "nested too deep");
        let mut endless = b"$1000000000\r\n".to_vec();
        endless.resize(MAX_REPLY_BYTES + 1, b'x');
        assert_eq!(decode(&endless), Err(ProtocolError), "too long");
    }

    #[test]
    fn the_text_of_an_error_is_cut() {
        let long = format!("-ERR {}\r\n", "x".repeat(10_000));
        let Ok(Some((Reply::Error(text), len))) = decode(long.as_bytes()) else { panic!("an error") };
        assert_eq!((text.len(), len), (MAX_ERROR_BYTES, long.len()));
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = BytesMut::new();
        encode(&mut out, &[b"GET", b"a\r\n", b""]);
        assert_eq!(&out[..], b"*3\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
    }
}
