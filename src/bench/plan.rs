//! Encoding of requests from descriptors as typed. No I/O.
//!
//! A request is assembled from parts that were encoded at the start. A request without key numbers is encoded
//! once and shared.

use std::str::FromStr;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::keys::Keys;
use crate::server::wire::fields::{bytes_len, put_bytes, put_head, put_uint};

/// Placeholders for a key's number in a value.
const PLACES: [&str; 2] = ["{n}", "{}"];

/// Bytes of gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// Field numbers of Envoy's messages.
mod field {
    pub(super) const DOMAIN: u32 = 1;
    pub(super) const DESCRIPTORS: u32 = 2;
    pub(super) const HITS_ADDEND: u32 = 3;
    pub(super) const ENTRIES: u32 = 1;
    pub(super) const OWN_HITS_ADDEND: u32 = 3;
    pub(super) const KEY: u32 = 1;
    pub(super) const VALUE: u32 = 2;
}

/// Descriptor as typed: `key=value[,key=value…]`, where a value may contain `{n}` or `{}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// The text as typed.
    pub(super) text: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The key, as an encoded field.
    key: Vec<u8>,
    /// Pieces of the value; the number of the key goes between them.
    value: Vec<String>,
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entry = |pair: &str| {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("expected key=value[,key=value…], found {pair:?}"))?;
            if key.is_empty() {
                return Err(format!("expected a key before the = of {pair:?}"));
            }
            if PLACES.iter().any(|place| key.contains(place)) {
                return Err(format!("a number can stand in a value, not in the key of {pair:?}"));
            }
            let mut encoded = Vec::new();
            put_bytes(&mut encoded, field::KEY, key.as_bytes());
            let value = value.replace(PLACES[1], PLACES[0]).split(PLACES[0]).map(str::to_owned).collect();
            Ok(Entry { key: encoded, value })
        };
        let entries = text.split(',').map(entry).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), entries })
    }
}

impl Template {
    /// True if the descriptor contains the number of the key.
    pub(super) fn has_number(&self) -> bool {
        self.entries.iter().any(|entry| entry.value.len() > 1)
    }

    /// Appends the encoded descriptor for the key of this number.
    fn put(&self, number: &str, own_hits: Option<u32>, buffer: &mut Vec<u8>) {
        for Entry { key, value } in &self.entries {
            let texts: usize = value.iter().map(String::len).sum();
            let value_len = texts + number.len() * (value.len() - 1);
            put_head(buffer, field::ENTRIES, key.len() + bytes_len(field::VALUE, value_len));
            buffer.put_slice(key);
            put_head(buffer, field::VALUE, value_len);
            for (index, text) in value.iter().enumerate() {
                buffer.put_slice(if index > 0 { number.as_bytes() } else { &[] });
                buffer.put_slice(text.as_bytes());
            }
        }
        if let Some(hits) = own_hits {
            let mut wrapped = Vec::new();
            encode_key(1, WireType::Varint, &mut wrapped);
            encode_varint(hits.into(), &mut wrapped);
            put_bytes(buffer, field::OWN_HITS_ADDEND, &wrapped);
        }
    }
}

/// The requests of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    templates: Vec<Template>,
    descriptors: usize,
    /// The encoded domain.
    head: Vec<u8>,
    /// Encoded hits of the request, if any.
    tail: Vec<u8>,
    own_hits: Option<u32>,
    /// Complete request, if it is always the same.
    fixed: Option<Bytes>,
    /// Buffer for a descriptor, reused.
    scratch: Vec<u8>,
}

impl Plan {
    /// Requests of `descriptors` descriptors each, from `templates` in rotation. `templates` must not be empty.
    pub(super) fn new(domain: &str, templates: &[Template], descriptors: usize, hits: u32) -> Self {
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        put_bytes(&mut head, field::DOMAIN, domain.as_bytes());
        // Every service supports the addend of the request, but 0 there means 1.
        if hits > 1 {
            put_uint(&mut tail, field::HITS_ADDEND, hits.into());
        }
        let mut plan = Self {
            templates: templates.to_vec(),
            descriptors,
            head,
            tail,
            own_hits: (hits == 0).then_some(0),
            fixed: None,
            scratch: Vec::new(),
        };
        if !templates.iter().any(Template::has_number) {
            plan.fixed = Some(plan.write(|| 0));
        }
        plan
    }

    /// Next request, framed. One rotation through the templates uses one key, the next rotation another one.
    pub(super) fn next(&mut self, keys: &mut Keys) -> Bytes {
        match &self.fixed {
            Some(request) => request.clone(),
            None => self.write(|| keys.draw()),
        }
    }

    fn write(&mut self, mut draw: impl FnMut() -> u64) -> Bytes {
        let mut request = BytesMut::with_capacity(256);
        request.put_bytes(0, PREFIX_BYTES);
        request.put_slice(&self.head);
        let mut digits = itoa::Buffer::new();
        let mut number = "";
        let round = self.templates.len();
        for (index, template) in self.templates.iter().cycle().take(self.descriptors).enumerate() {
            if index % round == 0 {
                number = digits.format(draw());
            }
            self.scratch.clear();
            template.put(number, self.own_hits, &mut self.scratch);
            put_bytes(&mut request, field::DESCRIPTORS, &self.scratch);
        }
        request.put_slice(&self.tail);
        let len = u32::try_from(request.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
        request[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        request.freeze()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::keys::Distribution;
    use super::*;
    use crate::pb::RateLimitRequest;

    fn templates(texts: &[&str]) -> Vec<Template> {
        texts.iter().map(|text| text.parse().expect("a descriptor")).collect()
    }

    fn ask(plan: &mut Plan, keys: &mut Keys) -> RateLimitRequest {
        let frame = plan.next(keys);
        let (prefix, message) = frame.split_at(PREFIX_BYTES);
        let len = u8::try_from(message.len()).expect("short");
        assert_eq!(prefix, [0, 0, 0, 0, len], "gRPC's prefix");
        RateLimitRequest::decode(message).expect("an encoded request")
    }

    fn keys(count: u64) -> Keys {
        Keys::new(count, Distribution::Uniform, 1)
    }

    /// `domain; key=value,key=value*own hits; …; hits`
    fn shown(request: &RateLimitRequest) -> String {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
        let mut shown = text(&Bytes::from(request.domain.clone()));
        for descriptor in &request.descriptors {
            let pair = |entry: &crate::pb::Entry| format!("{}={}", text(&entry.key), text(&entry.value));
            shown += &format!("; {}", descriptor.entries.iter().map(pair).collect::<Vec<_>>().join(","));
            if let Some(hits) = &descriptor.hits_addend {
                shown += &format!("*{hits}");
            }
        }
        format!("{shown}; {}", request.hits_addend)
    }

    #[test]
    fn a_request_has_the_descriptors_as_typed() {
        for (texts, descriptors, hits, expected) in [
            (&["a=b"][..], 1, 1, "shop; a=b; 0"),
            (&["a=b,c=,d=x=y"], 1, 5, "shop; a=b,c=,d=x=y; 5"),
            (&["a=b", "c=d"], 2, 0, "shop; a=b*0; c=d*0; 0"),
            (&["a=b", "c=d"], 3, 300, "shop; a=b; c=d; a=b; 300"),
            (&["a={n}"], 1, 1, "shop; a=0; 0"),
            (&["a={}"], 2, 1, "shop; a=0; a=0; 0"),
            (&["a=<{n}-{}>,b=x{}"], 1, 1, "shop; a=<0-0>,b=x0; 0"),
            (&["a={n}", "b=z"], 2, 0, "shop; a=0*0; b=z*0; 0"),
        ] {
            let mut plan = Plan::new("shop", &templates(texts), descriptors, hits);
            for _ in 0..2 {
                assert_eq!(shown(&ask(&mut plan, &mut keys(1))), expected, "{texts:?}");
            }
        }
    }

    #[test]
    fn descriptors_of_one_round_are_for_one_key_and_rounds_for_their_own() {
        let mut plan = Plan::new("shop", &templates(&["a={n}", "b={n},c=x"]), 4, 1);
        let mut keys = keys(1 << 40);
        let mut seen = Vec::new();
        for _ in 0..20 {
            let request = ask(&mut plan, &mut keys);
            let values: Vec<_> = request.descriptors.iter().map(|it| it.entries[0].value.clone()).collect();
            assert_eq!((&values[0], &values[2]), (&values[1], &values[3]));
            seen.extend([values[0].clone(), values[2].clone()]);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 40, "another key each time");
    }

    #[test]
    fn a_request_without_a_number_is_encoded_once() {
        let mut plan = Plan::new("shop", &templates(&["a=b"]), 1, 1);
        let (one, other) = (plan.next(&mut keys(9)), plan.next(&mut keys(9)));
        assert_eq!(one.as_ptr(), other.as_ptr());
    }

    #[test]
    fn invalid_descriptors_are_rejected_with_their_text() {
        for (text, expected) in [
            ("user", "found \"user\""),
            ("", "found \"\""),
            ("a=1,b", "found \"b\""),
            ("=x", "a key before"),
            ("k{n}=x", "not in the key"),
        ] {
            let refused = text.parse::<Template>().unwrap_err();
            assert!(refused.contains(expected), "{text:?}: {refused}");
        }
    }
}
