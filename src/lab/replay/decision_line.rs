//! Lines of the service's own decision log, which are complete requests.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::format::TimeFormat;
use super::record::{Logged, RecordWriter};
use crate::engine::{Hits, Timestamp, Unit};

/// A line. Fields that are not here are for people.
#[derive(Deserialize)]
struct DecisionLine<'l> {
    #[serde(borrow)]
    t: Cow<'l, str>,
    #[serde(borrow)]
    domain: Text<'l>,
    #[serde(borrow)]
    descriptors: Vec<DescriptorLine<'l>>,
    #[serde(borrow)]
    verdict: Cow<'l, str>,
    /// Share of keys that are logged, if not all are.
    sample: Option<f64>,
}

#[derive(Deserialize)]
struct DescriptorLine<'l> {
    #[serde(borrow)]
    entries: Vec<(Text<'l>, Text<'l>)>,
    #[serde(default = "one")]
    hits: i64,
    limit: Option<LimitLine>,
}

#[derive(Deserialize)]
struct LimitLine {
    requests_per_unit: u32,
    unit: String,
}

/// A text, or bytes that are not UTF-8.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text<'l> {
    #[serde(borrow)]
    Text(Cow<'l, str>),
    Bytes {
        base64: String,
    },
}

const fn one() -> i64 {
    1
}

impl Text<'_> {
    fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
            Self::Bytes { base64 } => STANDARD.decode(base64).ok().map(Cow::Owned),
        }
    }
}

/// Writes the request of `line` to `record`, and returns its time and the share of keys that are logged. `None` if it
/// is no line of a decision log.
pub(super) fn read(line: &[u8], times: &mut TimeFormat, record: &mut Vec<u8>) -> Option<(Timestamp, f64)> {
    let line: DecisionLine<'_> = serde_json::from_slice(line).ok()?;
    let at = times.read(line.t.as_bytes())?;
    let logged = match &*line.verdict {
        "over_limit" | "shadow" => Logged::Denied,
        "ok" => Logged::Passed,
        _ => Logged::Unknown,
    };
    let mut writer = RecordWriter::begin(record, &line.domain.bytes()?, logged);
    for DescriptorLine { entries, hits, limit } in &line.descriptors {
        let magnitude = u32::try_from(hits.unsigned_abs()).unwrap_or(u32::MAX);
        let hits = if *hits < 0 { Hits::Refund(magnitude) } else { Hits::Add(magnitude) };
        let limit = match limit {
            None => None,
            Some(LimitLine { requests_per_unit, unit }) => Some((*requests_per_unit, Unit::from_name(unit)?)),
        };
        writer.descriptor(hits, limit);
        for (key, value) in entries {
            let (key, value) = (key.bytes()?, value.bytes()?);
            writer.entry(&key, |to| {
                to.extend_from_slice(&value);
                true
            });
        }
        writer.keep_descriptor();
    }
    writer.finish().then_some((at, line.sample.unwrap_or(1.0)))
}
