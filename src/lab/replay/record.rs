//! A request of a log in compact form, while it waits for its turn.

use smallvec::SmallVec;

use crate::engine::request::{MAX_DESCRIPTORS, MAX_ENTRIES};
use crate::engine::{Descriptor, Entry, Hits, Limit, Request, Unit};

const ADD: u8 = 0;
const REFUND: u8 = 1;
const NO_LIMIT: u8 = u8::MAX;
/// Mark of a request whose line has the request before it too, beside its verdict.
const SAME_LINE: u8 = 0x80;

/// Verdict on a request in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// The log does not say.
    Unknown,
    /// It passed.
    Passed,
    /// It was denied.
    Denied,
}

/// Writes one request. The order is: begin, then for each descriptor its beginning and its entries.
#[derive(Debug)]
pub(super) struct RecordWriter<'b> {
    bytes: &'b mut Vec<u8>,
    start: usize,
    descriptors: u16,
    /// Position of the current descriptor, and its entries.
    descriptor: usize,
    entries: u16,
}

impl<'b> RecordWriter<'b> {
    /// Begins a request at the end of `bytes`.
    pub(super) fn begin(bytes: &'b mut Vec<u8>, domain: &[u8], logged: Logged) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&[logged as u8, 0, 0]);
        push_text(bytes, domain);
        Self { bytes, start, descriptors: 0, descriptor: start, entries: 0 }
    }

    /// Begins a descriptor.
    pub(super) fn descriptor(&mut self, hits: Hits, limit: Option<(u32, Unit)>) {
        self.descriptor = self.bytes.len();
        self.entries = 0;
        let (kind, hits) = match hits {
            Hits::Add(hits) => (ADD, hits),
            Hits::Refund(hits) => (REFUND, hits),
        };
        let unit = limit.and_then(|(_, unit)| Unit::ALL.iter().position(|known| *known == unit));
        let unit = unit.and_then(|index| u8::try_from(index).ok()).unwrap_or(NO_LIMIT);
        self.bytes.extend_from_slice(&[0, 0, kind, unit]);
        self.bytes.extend_from_slice(&hits.to_le_bytes());
        self.bytes.extend_from_slice(&limit.map_or(0, |(requests, _)| requests).to_le_bytes());
    }

    /// Adds an entry whose value `write` appends; false drops the entry again, and returns false.
    pub(super) fn entry(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        if usize::from(self.entries) == MAX_ENTRIES {
            return false;
        }
        let before = self.bytes.len();
        push_text(self.bytes, key);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        if !write(self.bytes) {
            self.bytes.truncate(before);
            return false;
        }
        let length = u32::try_from(self.bytes.len() - at - 4).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[at..at + 4].copy_from_slice(&length);
        self.entries += 1;
        true
    }

    /// Keeps the current descriptor.
    pub(super) fn keep_descriptor(&mut self) {
        if usize::from(self.descriptors) == MAX_DESCRIPTORS {
            return self.drop_descriptor();
        }
        let entries = self.entries.to_le_bytes();
        self.bytes[self.descriptor..self.descriptor + 2].copy_from_slice(&entries);
        self.descriptors += 1;
    }

    /// Drops the current descriptor.
    pub(super) fn drop_descriptor(&mut self) {
        self.bytes.truncate(self.descriptor);
    }

    /// Entries of the current descriptor.
    pub(super) const fn entries(&self) -> u16 {
        self.entries
    }

    /// Ends the request. False drops it, if it has no descriptors.
    pub(super) fn finish(self) -> bool {
        if self.descriptors == 0 {
            self.bytes.truncate(self.start);
            return false;
        }
        let count = self.descriptors.to_le_bytes();
        self.bytes[self.start + 1..self.start + 3].copy_from_slice(&count);
        true
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(text);
}

/// Marks the request in `bytes` as one of the same line as the request before it.
pub(super) fn mark_same_line(bytes: &mut [u8]) {
    if let Some(first) = bytes.first_mut() {
        *first |= SAME_LINE;
    }
}

/// A request, and the verdict in the log.
#[derive(Debug)]
pub(super) struct Record<'r> {
    pub(super) request: Request<'r>,
    pub(super) logged: Logged,
    /// True if the request before it is of the same line.
    pub(super) is_same_line: bool,
}

/// The request in `bytes`, which a [`RecordWriter`] wrote.
pub(super) fn read(bytes: &[u8]) -> Option<Record<'_>> {
    let mut reader = Reader { bytes };
    let first = reader.number::<1>()?;
    let is_same_line = first & u32::from(SAME_LINE) != 0;
    let logged = match first & !u32::from(SAME_LINE) {
        1 => Logged::Passed,
        2 => Logged::Denied,
        _ => Logged::Unknown,
    };
    let count = reader.number::<2>()?;
    let domain = reader.text()?;
    let mut descriptors = SmallVec::new();
    for _ in 0..count {
        descriptors.push(reader.descriptor()?);
    }
    Some(Record { request: Request { domain, descriptors }, logged, is_same_line })
}

struct Reader<'r> {
    bytes: &'r [u8],
}

impl<'r> Reader<'r> {
    fn take(&mut self, length: usize) -> Option<&'r [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number<const LENGTH: usize>(&mut self) -> Option<u32> {
        let mut padded = [0; 4];
        padded.get_mut(..LENGTH)?.copy_from_slice(self.take(LENGTH)?);
        Some(u32::from_le_bytes(padded))
    }

    fn text(&mut self) -> Option<&'r [u8]> {
        let length = self.number::<4>()?;
        self.take(length as usize)
    }

    fn descriptor(&mut self) -> Option<Descriptor<'r>> {
        let (entries, kind, unit) = (self.number::<2>()?, self.number::<1>()?, self.number::<1>()?);
        let (hits, requests) = (self.number::<4>()?, self.number::<4>()?);
        let hits = if kind == u32::from(REFUND) { Hits::Refund(hits) } else { Hits::Add(hits) };
        let limit_override = Unit::ALL.get(unit as usize).map(|unit| Limit::per(requests, *unit));
        let mut read = SmallVec::new();
        for _ in 0..entries {
            read.push(Entry { key: self.text()?, value: self.text()? });
        }
        Some(Descriptor { entries: read, hits, limit_override })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let mut bytes = b"before".to_vec();
        let mut writer = RecordWriter::begin(&mut bytes, b"shop", Logged::Denied);
        writer.descriptor(Hits::Refund(7), Some((3, Unit::Hour)));
        assert!(writer.entry(b"user", |to| {
            to.extend_from_slice(b"\xff\0");
            true
        }));
        assert!(!writer.entry(b"absent", |to| {
            to.push(1);
            false
        }));
        writer.keep_descriptor();
        writer.descriptor(Hits::Add(1), None);
        assert_eq!(writer.entries(), 0);
        writer.drop_descriptor();
        assert!(writer.finish());
        let Record { request, logged, is_same_line } = read(&bytes[6..]).expect("a request");
        assert!(!is_same_line);
        assert_eq!((request.domain, logged, request.descriptors.len()), (&b"shop"[..], Logged::Denied, 1));
        let descriptor = &request.descriptors[0];
        assert_eq!(descriptor.entries[..], [Entry { key: b"user", value: b"\xff\0" }]);
        assert_eq!(descriptor.hits, Hits::Refund(7));
        assert_eq!(descriptor.limit_override, Some(Limit::per(3, Unit::Hour)));
        assert!((6..bytes.len()).all(|end| read(&bytes[6..end]).is_none()));
        let mut marked = bytes.clone();
        mark_same_line(&mut marked[6..]);
        let marked = read(&marked[6..]).expect("a request");
        assert!(marked.is_same_line && marked.logged == Logged::Denied);
    }

    #[test]
    fn a_request_without_descriptors_leaves_nothing_behind() {
        let mut bytes = b"before".to_vec();
        assert!(!RecordWriter::begin(&mut bytes, b"shop", Logged::Unknown).finish());
        assert_eq!(bytes, b"before");
    }
}
