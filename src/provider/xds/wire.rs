//! The protobuf wire format, read without decoding: what decoding would cost, and names in broken messages.
//!
//! An empty message takes two bytes on the wire and a hundred in memory, so 64 MiB of them would take
//! gigabytes. They are counted first.

use prost::encoding::{WireType, decode_key, decode_varint};

/// Type of the resources.
pub(super) const TYPE_URL: &str = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";
/// Upper bound on the messages in a response, nested ones included: a rule takes two.
pub(super) const MESSAGES_MAX: usize = 1_000_000;
/// Upper bound on how deep messages nest. Rules nest 16 levels deep, metadata a little more.
const DEPTH_MAX: usize = 64;

/// Reason not to decode a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// Not protobuf.
    #[error("not a protobuf message: truncated or garbled")]
    Malformed,
    /// More messages than [`MESSAGES_MAX`].
    #[error("more than {MESSAGES_MAX} messages in one response")]
    TooMany,
    /// Deeper than [`DEPTH_MAX`].
    #[error("messages nest more than {DEPTH_MAX} levels deep")]
    TooDeep,
}

/// A message that contains others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    /// `DiscoveryResponse`
    Sotw,
    /// `DeltaDiscoveryResponse`
    Delta,
    DeltaResource,
    Any,
    Config,
    Descriptor,
    Policy,
    /// A leaf: `RateLimitReplace`, or a name in a list.
    Leaf,
    Struct,
    StructEntry,
    Value,
    List,
}

impl Message {
    /// The message in this field.
    const fn child(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::Sotw, 2) | (Self::DeltaResource, 2) => Some(Self::Any),
            (Self::Delta, 2) => Some(Self::DeltaResource),
            (Self::Delta, 6) | (Self::Policy, 5) => Some(Self::Leaf),
            (Self::Any, 2) => Some(Self::Config),
            (Self::Config, 3) | (Self::Descriptor, 4) => Some(Self::Descriptor),
            (Self::Descriptor, 3) => Some(Self::Policy),
            (Self::Descriptor, 8) | (Self::Value, 5) => Some(Self::Struct),
            (Self::Struct, 1) => Some(Self::StructEntry),
            (Self::StructEntry, 2) | (Self::List, 1) => Some(Self::Value),
            (Self::Value, 6) => Some(Self::List),
            _ => None,
        }
    }
}

/// A field with its bytes; empty for a number.
struct Field<'a> {
    number: u32,
    bytes: &'a [u8],
}

/// The fields of a message, up to the first that cannot be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Unreadable::Malformed))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<Field<'a>> {
        let (number, wire_type) = decode_key(&mut self.0).ok()?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut self.0).ok()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut self.0).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let bytes = if wire_type == WireType::LengthDelimited { bytes } else { &[] };
        Some(Field { number, bytes })
    }
}

/// Checks that decoding `response` takes memory within bounds.
///
/// # Errors
/// [`Unreadable`]. Resources that cannot be read are no error of the response: they are reported by their names.
pub(super) fn check(response: &[u8], message: Message) -> Result<(), Unreadable> {
    let mut left = MESSAGES_MAX;
    count(response, message, 0, &mut left)
}

fn count(bytes: &[u8], message: Message, depth: usize, left: &mut usize) -> Result<(), Unreadable> {
    if depth > DEPTH_MAX {
        return Err(Unreadable::TooDeep);
    }
    // The value of another type is not decoded. Looked up once: an `Any` may have a million fields.
    let is_decoded = !matches!(message, Message::Any) || is_config(bytes);
    for field in Fields(bytes) {
        let field = match field {
            Ok(field) => field,
            // Fields before the broken one are counted; decoding stops at it too.
            Err(_) if depth > 0 => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(child) = message.child(field.number) else { continue };
        *left = left.checked_sub(1).ok_or(Unreadable::TooMany)?;
        if is_decoded {
            count(field.bytes, child, depth + 1, left)?;
        }
    }
    Ok(())
}

/// True if the `Any` in `bytes` has rules in it.
fn is_config(bytes: &[u8]) -> bool {
    text(bytes, 1).is_some_and(|url| url == TYPE_URL)
}

/// Text of the field `number`, the last one if there are several, in a message that may be broken behind it.
pub(super) fn text(bytes: &[u8], number: u32) -> Option<&str> {
    let fields = Fields(bytes).map_while(Result::ok);
    let field = fields.filter(|field| field.number == number).last()?;
    std::str::from_utf8(field.bytes).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::Any;

    use super::*;
    use crate::pb::envoy::service::discovery::v3::DiscoveryResponse;
    use crate::pb::ratelimit::config::ratelimit::v3::{RateLimitConfig, RateLimitDescriptor};

    fn response(value: Vec<u8>) -> Vec<u8> {
        let resources = vec![Any { type_url: TYPE_URL.to_owned(), value }];
        DiscoveryResponse { resources, ..DiscoveryResponse::default() }.encode_to_vec()
    }

    #[test]
    fn a_resource_of_many_fields_is_read_once() {
        let resource = [0x12, 0].repeat(900_000);
        let mut bytes = vec![0x12];
        prost::encoding::encode_varint(resource.len() as u64, &mut bytes);
        bytes.extend(resource);
        // Reading it anew for each field would take hours.
        assert_eq!(check(&bytes, Message::Sotw), Ok(()));
    }

    #[test]
    fn empty_messages_by_the_million_are_refused_before_they_take_memory() {
        // Field 3 of a configuration, field 2 of a response: each of no length.
        let descriptors = [0x1a, 0].repeat(MESSAGES_MAX);
        assert_eq!(check(&response(descriptors), Message::Sotw), Err(Unreadable::TooMany));
        let resources = [0x12, 0].repeat(MESSAGES_MAX + 1);
        assert_eq!(check(&resources, Message::Sotw), Err(Unreadable::TooMany));
        assert_eq!(check(&resources, Message::Delta), Err(Unreadable::TooMany));
        let few = [0x1a, 0].repeat(MESSAGES_MAX / 2);
        assert_eq!(check(&response(few), Message::Sotw), Ok(()));
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut nested = RateLimitDescriptor::default();
        for _ in 0..=DEPTH_MAX {
            nested = RateLimitDescriptor { descriptors: vec![nested], ..RateLimitDescriptor::default() };
        }
        let config = RateLimitConfig { descriptors: vec![nested], ..RateLimitConfig::default() };
        assert_eq!(check(&response(config.encode_to_vec()), Message::Sotw), Err(Unreadable::TooDeep));
    }

    #[test]
    fn garbage_is_malformed() {
        for garbage in [&b"\xff\xff\xff\xff"[..], b"\x12\x05ab", b"\x0b", b"hello world"] {
            assert_eq!(check(garbage, Message::Sotw), Err(Unreadable::Malformed), "{garbage:?}");
        }
    }

    #[test]
    fn the_name_of_a_truncated_resource_is_found() {
        let config = RateLimitConfig {
            name: "a".to_owned(),
            domain: "b".to_owned(),
            descriptors: vec![RateLimitDescriptor { key: "k".to_owned(), ..RateLimitDescriptor::default() }],
        };
        let bytes = config.encode_to_vec();
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!((text(cut, 1), text(cut, 2), text(cut, 9)), (Some("a"), Some("b"), None));
        assert_eq!(text(&bytes[..2], 1), None);
    }
}
