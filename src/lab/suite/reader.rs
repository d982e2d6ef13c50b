//! Values of fields in test files, each with an error that has its position. Reading continues after a mistake, so
//! that all of them are reported at once.

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::DateTime;

use crate::engine::rules::{Diagnostics, SourceNode, SourceSpan, SourceValue};
use crate::engine::schema::Object;
use crate::engine::text::{nearest, one_line};
use crate::engine::{Timestamp, duration};

/// Upper bound, in bytes, on a value that an error quotes.
const MAX_QUOTED_BYTES: usize = 100;
/// Upper bound on times in tests, some thousand years: sums of them fit.
const MAX_TIME: Duration = Duration::from_secs(100_000_000_000);

/// A value and its position.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Position in the test file.
    pub span: SourceSpan,
}

/// Mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) found: Diagnostics,
}

impl Reader {
    pub(super) fn error(&mut self, span: SourceSpan, message: impl Into<String>) {
        self.found.push(span, message);
    }

    fn wrong(&mut self, name: &str, expected: &str, node: &SourceNode) {
        self.error(node.span, format!("'{name}' must be {expected}, not {node}"));
    }

    /// Fields of a map, in the order of the file. Unknown and missing fields are errors; `None` where `node` is not
    /// a map.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n SourceNode,
        what: &str,
        object: &'static Object,
    ) -> Option<Vec<(&'static str, &'n SourceNode)>> {
        let SourceValue::Map(entries) = &node.value else {
            self.error(node.span, format!("{what} must be a map, not {node}"));
            return None;
        };
        let mut fields = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let name = key.text().unwrap_or_default();
            match object.field(&name) {
                Some(field) => fields.push((field.name, value)),
                None if name.starts_with("x-") => {}
                None => {
                    let message = match nearest(&name, &object.names()) {
                        Some(meant) => format!("unknown field {key} of {what}: did you mean '{meant}'?"),
                        None => {
                            format!("unknown field {key} of {what}: known are {}", object.names().join(", "))
                        }
                    };
                    self.error(key.span, message);
                }
            }
        }
        for missing in object.required.iter().filter(|name| fields.iter().all(|(field, _)| field != *name)) {
            self.error(node.span, format!("{what} has no '{missing}'"));
        }
        Some(fields)
    }

    pub(super) fn text(&mut self, name: &str, node: &SourceNode) -> Option<Placed<String>> {
        let text = node.text();
        if text.is_none() {
            self.wrong(name, "text", node);
        }
        text.map(|text| Placed { value: text.into_owned(), span: node.span })
    }

    pub(super) fn truth(&mut self, name: &str, node: &SourceNode) -> Option<bool> {
        if let SourceValue::Bool(truth) = node.value {
            return Some(truth);
        }
        self.wrong(name, "true or false", node);
        None
    }

    pub(super) fn list<'n>(&mut self, name: &str, node: &'n SourceNode) -> &'n [SourceNode] {
        if let SourceValue::List(items) = &node.value {
            return items;
        }
        self.wrong(name, "a list", node);
        &[]
    }

    pub(super) fn map<'n>(&mut self, name: &str, node: &'n SourceNode) -> &'n [(SourceNode, SourceNode)] {
        if let SourceValue::Map(entries) = &node.value {
            return entries;
        }
        self.wrong(name, "a map", node);
        &[]
    }

    pub(super) fn count(
        &mut self,
        name: &str,
        node: &SourceNode,
        bounds: RangeInclusive<u32>,
    ) -> Option<u32> {
        let count = match &node.value {
            SourceValue::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
            _ => None,
        };
        let count = count.filter(|count| bounds.contains(count));
        if count.is_none() {
            self.wrong(name, &format!("a whole number from {} to {}", bounds.start(), bounds.end()), node);
        }
        count
    }

    /// Hits, negative for a refund.
    pub(super) fn hits(&mut self, name: &str, node: &SourceNode) -> Option<i64> {
        let hits = match &node.value {
            SourceValue::Number(number) => number.as_i64(),
            _ => None,
        };
        let hits = hits.filter(|hits| u32::try_from(hits.unsigned_abs()).is_ok());
        if hits.is_none() {
            self.wrong(name, "a whole number from -4294967295 to 4294967295", node);
        }
        hits
    }

    /// A number, or a range such as `100..110`.
    pub(super) fn range(&mut self, name: &str, node: &SourceNode) -> Option<RangeInclusive<u64>> {
        let text = node.text().unwrap_or_default();
        let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
        let range = match text.split_once("..") {
            None => number(&text).map(|number| number..=number),
            Some((low, high)) => number(low).zip(number(high)).map(|(low, high)| low..=high),
        };
        self.range_in_order(name, node, range, "a number, or a range such as 100..110")
    }

    /// A time, or a range such as `29s..31s`.
    pub(super) fn time_range(&mut self, name: &str, node: &SourceNode) -> Option<RangeInclusive<Duration>> {
        let text = node.text().unwrap_or_default();
        let range = match text.split_once("..") {
            None => parse_time(&text).map(|time| time..=time),
            Some((low, high)) => parse_time(low).zip(parse_time(high)).map(|(low, high)| low..=high),
        };
        self.range_in_order(name, node, range, "a time such as 30s, or a range such as 29s..31s")
    }

    fn range_in_order<T: PartialOrd>(
        &mut self,
        name: &str,
        node: &SourceNode,
        range: Option<RangeInclusive<T>>,
        expected: &str,
    ) -> Option<RangeInclusive<T>> {
        match range {
            None => self.wrong(name, expected, node),
            Some(range) if range.is_empty() => {
                self.error(node.span, format!("impossible '{name}': the range {node} is empty"));
            }
            range => return range,
        }
        None
    }

    pub(super) fn time(&mut self, name: &str, node: &SourceNode) -> Option<Duration> {
        let time = node.text().and_then(|text| parse_time(&text));
        if time.is_none() {
            self.wrong(name, "a time such as 300ms, 30s, 1h30m or 2d", node);
        }
        time
    }

    /// A point in time, such as `2026-03-29T00:59:30Z`.
    pub(super) fn timestamp(&mut self, name: &str, node: &SourceNode) -> Option<Timestamp> {
        let time = node.text().and_then(|text| parse_timestamp(&text));
        if time.is_none() {
            self.wrong(name, "a time such as 2026-03-29T00:59:30Z", node);
        }
        time
    }

    /// One of a few names.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &str,
        node: &SourceNode,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = node.text().unwrap_or_default();
        let choice = choices.iter().find(|(known, _)| *known == text).map(|(_, choice)| *choice);
        if choice.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(name, &names.join(", "), node);
        }
        choice
    }
}

/// `text` in an error, on one line.
pub(super) fn quoted(text: &str) -> String {
    one_line(text, MAX_QUOTED_BYTES).into_owned()
}

/// `300ms`, `1h30m`, `2d`, `1w2d`.
fn parse_time(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut whole = Duration::ZERO;
    for (unit, secs) in [('w', 604_800), ('d', 86_400)] {
        if let Some((number, after)) = rest.split_once(unit) {
            let number: u32 = number.parse().ok()?;
            whole = whole.checked_add(Duration::from_secs(u64::from(number) * secs))?;
            rest = after;
        }
    }
    let rest =
        if rest.is_empty() && rest.len() < text.len() { Duration::ZERO } else { duration::parse(rest)? };
    whole.checked_add(rest).filter(|time| *time <= MAX_TIME)
}

fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(Timestamp::from_micros(u64::try_from(time.timestamp_micros()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_days_and_weeks_beside_what_settings_take() {
        for (text, secs) in [("30s", 30), ("1h30m", 5_400), ("2d", 172_800), ("1w2d3h", 788_400), ("0", 0)] {
            assert_eq!(parse_time(text), Some(Duration::from_secs(secs)), "{text}");
        }
        for text in ["", "d", "30", "-1s", "1d1w", "99999999999w", "4000000000w", "1s "] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn points_in_time_are_rfc_3339() {
        assert_eq!(parse_timestamp("1970-01-01T00:00:01.5Z"), Some(Timestamp::from_micros(1_500_000)));
        assert_eq!(parse_timestamp("1970-01-01T01:00:00+01:00"), Some(Timestamp::from_secs(0)));
        assert_eq!(parse_timestamp("1969-12-31T23:59:59Z"), None);
        assert_eq!(parse_timestamp("2026-01-01"), None);
    }
}
