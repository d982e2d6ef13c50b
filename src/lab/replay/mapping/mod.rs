//! From the fields of a line to the requests that the proxy makes of it.

mod condition;
mod expression;
mod file;

pub(super) use self::condition::{Condition, Matcher};
pub(super) use self::expression::{Expression, Filter};
pub(super) use self::file::{FormatSpec, MapFile, default_denied};

use super::format::Fields;
use super::record::{self, Logged, RecordWriter};
use crate::engine::Hits;

/// The requests of a line.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping {
    /// Lists of requests, such as one for each filter of a proxy.
    pub(super) lists: Vec<Vec<RequestMap>>,
    /// True if only the first request of each list whose condition holds is made; otherwise every such request is.
    pub(super) is_exclusive: bool,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct RequestMap {
    pub(super) domain: Box<[u8]>,
    /// Condition on the lines that cause the request.
    pub(super) condition: Condition,
    pub(super) descriptors: Vec<DescriptorMap>,
    /// Lines whose request was denied when they were logged; `None` if the log does not say.
    pub(super) denied: Option<Condition>,
}

/// A descriptor. It is left out if an entry has no value, as Envoy does.
#[derive(Clone, Debug)]
pub(super) struct DescriptorMap {
    pub(super) condition: Condition,
    pub(super) entries: Vec<EntryMap>,
    /// Its hits; 1 if it is absent.
    pub(super) hits: Option<Expression>,
}

/// An entry.
#[derive(Clone, Debug)]
pub(super) struct EntryMap {
    pub(super) key: Box<[u8]>,
    pub(super) value: Expression,
    /// Lines that have it. Others have no descriptor.
    pub(super) condition: Condition,
    /// True if a line without its value has the descriptor without it.
    pub(super) is_optional: bool,
}

/// Buffers that a line needs.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    value: Vec<u8>,
}

/// A line and its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'l> {
    pub(super) text: &'l [u8],
    pub(super) fields: &'l Fields,
}

impl Mapping {
    /// Writes the requests of `line` to `record`, and calls `done` after each.
    pub(super) fn write(
        &self,
        line: Line<'_>,
        scratch: &mut Scratch,
        record: &mut Vec<u8>,
        mut done: impl FnMut(&mut Vec<u8>),
    ) {
        let mut has_request = false;
        for requests in &self.lists {
            for request in requests {
                if !request.condition.holds(line, &mut scratch.value) {
                    continue;
                }
                let start = record.len();
                if request.write(line, scratch, record) {
                    if has_request {
                        record::mark_same_line(&mut record[start..]);
                    }
                    has_request = true;
                    done(record);
                }
                if self.is_exclusive {
                    break;
                }
            }
        }
    }
}

impl RequestMap {
    fn write(&self, line: Line<'_>, scratch: &mut Scratch, record: &mut Vec<u8>) -> bool {
        let logged = match &self.denied {
            None => Logged::Unknown,
            Some(denied) if denied.holds(line, &mut scratch.value) => Logged::Denied,
            Some(_) => Logged::Passed,
        };
        let mut writer = RecordWriter::begin(record, &self.domain, logged);
        for descriptor in &self.descriptors {
            if descriptor.condition.holds(line, &mut scratch.value) {
                let hits = descriptor
                    .hits
                    .as_ref()
                    .map_or(Some(1), |hits| number(hits.text(line, &mut scratch.value)?));
                // As in Envoy, a request whose cost is not known costs one hit.
                writer.descriptor(Hits::Add(hits.unwrap_or(1)), None);
                if descriptor.write(line, scratch, &mut writer) {
                    writer.keep_descriptor();
                } else {
                    writer.drop_descriptor();
                }
            }
        }
        writer.finish()
    }
}

impl DescriptorMap {
    fn write(&self, line: Line<'_>, scratch: &mut Scratch, writer: &mut RecordWriter<'_>) -> bool {
        for entry in &self.entries {
            if !entry.condition.holds(line, &mut scratch.value) {
                return false;
            }
            let has_value = writer.entry(&entry.key, |to| entry.value.append(line, to));
            if !has_value && !entry.is_optional {
                return false;
            }
        }
        writer.entries() > 0
    }
}

/// A whole number, rounded down and saturated.
fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if let Ok(number) = text.parse::<u64>() {
        return Some(u32::try_from(number).unwrap_or(u32::MAX));
    }
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float saturates"
    )]
    Some(number as u32)
}
