//! Replies of Redis.

use bytes::Bytes;
use fred::types::{Resp3Frame, Value};

/// Upper bound on the text of an error, in bytes: scripts and modules can return any length.
const MAX_ERROR_BYTES: usize = 256;

const UNEXPECTED: &str = "unexpected type of reply";

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

    /// An error reply with this text.
    pub(super) fn error(text: &[u8]) -> Self {
        let cut = text.get(..MAX_ERROR_BYTES).unwrap_or(text);
        Self::Error(String::from_utf8_lossy(cut).into_owned())
    }
}

impl From<Resp3Frame> for Reply {
    fn from(frame: Resp3Frame) -> Self {
        match frame {
            Resp3Frame::Number { data, .. } => Self::Int(data),
            Resp3Frame::SimpleString { data, .. } | Resp3Frame::BlobString { data, .. } => Self::Text(data),
            Resp3Frame::Null => Self::Nil,
            Resp3Frame::SimpleError { data, .. } => Self::error(data.as_bytes()),
            Resp3Frame::BlobError { data, .. } => Self::error(&data),
            Resp3Frame::Array { data, .. } => Self::Array(data.into_iter().map(Self::from).collect()),
            // RESP2, which is what is spoken, has no other types.
            _ => Self::Error(UNEXPECTED.to_owned()),
        }
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Self::Int(number),
            Value::Bytes(text) => Self::Text(text),
            Value::String(text) => Self::Text(text.into_inner()),
            Value::Null => Self::Nil,
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            _ => Self::Error(UNEXPECTED.to_owned()),
        }
    }
}

/// The code of an error reply: its first word.
fn code(error: &str) -> &str {
    error.split(' ').next().unwrap_or_default()
}

/// True if another connection may do better, since the name may lead to another server by now.
pub(super) fn calls_for_reconnect(error: &str) -> bool {
    ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH"].contains(&code(error))
}

/// True if the error is about the server, not about one counter or the place of its slot.
pub(super) fn is_about_server(error: &str) -> bool {
    !["ERR", "WRONGTYPE", "MOVED", "ASK", "TRYAGAIN", "NOSCRIPT"].contains(&code(error))
}

/// True if another node has the key.
pub(super) fn is_redirection(error: &str) -> bool {
    ["MOVED", "ASK"].contains(&code(error))
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

    #[test]
    fn the_text_of_an_error_is_cut() {
        let long = Resp3Frame::SimpleError { data: "x".repeat(10_000).into(), attributes: None };
        assert_eq!(Reply::from(long), Reply::Error("x".repeat(MAX_ERROR_BYTES)));
    }

    #[test]
    fn arrays_nest() {
        let number = |data| Resp3Frame::Number { data, attributes: None };
        let inner = Resp3Frame::Array { data: vec![number(2), Resp3Frame::Null], attributes: None };
        let outer = Resp3Frame::Array { data: vec![number(1), inner], attributes: None };
        let expected = Reply::Array(vec![1.into(), Reply::Array(vec![2.into(), Reply::Nil])]);
        assert_eq!(Reply::from(outer), expected);
    }
}
