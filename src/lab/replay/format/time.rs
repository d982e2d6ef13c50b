//! Times in logs.

use crate::engine::Timestamp;

const SECONDS_PER_DAY: i64 = 86_400;
/// Numbers from here on are milliseconds; the same in seconds would be in the year 5138.
const MIN_MILLIS: f64 = 1e11;
const MIN_MICROS: f64 = 1e14;
/// Digits of a number of microseconds, up to the year 2286.
const MAX_NUMBER_DIGITS: usize = 16;
/// Digits of a number of seconds, up to the year 5138.
const MAX_EPOCH_DIGITS: usize = 11;
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Format of a time.
#[derive(Clone, Debug)]
pub(in crate::lab::replay) struct TimeFormat {
    /// Empty for a time that is recognized: RFC 3339, or a number of seconds, milliseconds or microseconds.
    items: Vec<Item>,
    /// The second of the last time in RFC 3339 and its text: most lines of a log share theirs with the one before.
    last: Option<([u8; 19], u64)>,
}

/// Part of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Literal(u8),
    /// `%Y`, `%m`, `%d`, `%H`, `%M`: a number of at most so many digits, and its place in the date.
    Number(usize, usize),
    MonthName,
    WeekdayName,
    /// Seconds; the flag takes a fraction with them, if there is one.
    Seconds(bool),
    /// Digits after the decimal point.
    Fraction,
    /// Seconds since the epoch.
    Epoch,
    /// `+0200`, `+02:00`, `Z`, `UTC` or `GMT`.
    Offset,
    Space,
}

/// Fields of a date.
struct Parts {
    /// Year, month, day, hour, minute, second.
    date: [i64; 6],
    epoch_secs: Option<i64>,
    micros: u64,
    offset_secs: i64,
}

impl TimeFormat {
    /// Times that are recognized by their form.
    pub(in crate::lab::replay) fn detected() -> Self {
        Self { items: Vec::new(), last: None }
    }

    /// Format in the notation of strftime, with Envoy's `%f`, `%3f` and `%E3S`. Times without an offset are in UTC.
    ///
    /// # Errors
    /// A directive that is unknown or cannot be read, or a format without a full date.
    pub(in crate::lab::replay) fn parse(format: &str) -> Result<Self, String> {
        let items = Self::items(format)?;
        let has = |wanted: &[Item]| items.iter().any(|item| wanted.contains(item));
        let has_date = has(&[Item::Number(4, 0)])
            && has(&[Item::Number(2, 1), Item::MonthName])
            && has(&[Item::Number(2, 2)]);
        if !has_date && !has(&[Item::Epoch]) {
            return Err(format!(
                "the time format '{format}' has no full date: it needs %Y, %m or %b, and %d; or %s"
            ));
        }
        if items
            .windows(2)
            .any(|pair| matches!(pair, [Item::Epoch, Item::Fraction | Item::Number(..) | Item::Seconds(_)]))
        {
            return Err(format!(
                "the time format '{format}' has no text that ends %s, such as the point in '%s.%3f'"
            ));
        }
        Ok(Self { items, last: None })
    }

    fn items(format: &str) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        let mut bytes = format.bytes().peekable();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                items.push(if byte == b' ' { Item::Space } else { Item::Literal(byte) });
                continue;
            }
            let is_modifier =
                |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'E' | b'*' | b'-' | b'O' | b'_');
            while bytes.next_if(is_modifier).is_some() {}
            match bytes.next() {
                Some(b'Y') => items.push(Item::Number(4, 0)),
                Some(b'm') => items.push(Item::Number(2, 1)),
                Some(b'd' | b'e') => items.push(Item::Number(2, 2)),
                Some(b'H') => items.push(Item::Number(2, 3)),
                Some(b'M') => items.push(Item::Number(2, 4)),
                Some(b'S') => items.push(Item::Seconds(true)),
                Some(b'f') => items.push(Item::Fraction),
                Some(b's') => items.push(Item::Epoch),
                Some(b'b' | b'B' | b'h') => items.push(Item::MonthName),
                Some(b'z' | b'Z') => items.push(Item::Offset),
                Some(b'F') => items.extend(Self::items("%Y-%m-%d")?),
                Some(b'T') => items.extend(Self::items("%H:%M:%S")?),
                Some(b'%') => items.push(Item::Literal(b'%')),
                Some(b'a' | b'A') => items.push(Item::WeekdayName),
                Some(other) => {
                    let directive = char::from(other);
                    return Err(format!(
                        "the time format '{format}' has an unknown directive '%{directive}'"
                    ));
                }
                None => return Err(format!("the time format '{format}' ends with an unfinished directive")),
            }
        }
        for at in 1..items.len() {
            // The point before a fraction that the format has itself.
            if items.get(at - 1) == Some(&Item::Seconds(true)) && items.get(at) == Some(&Item::Literal(b'.'))
            {
                items[at - 1] = Item::Seconds(false);
            }
        }
        Ok(items)
    }

    /// The time that `text` is.
    pub(in crate::lab::replay) fn read(&mut self, text: &[u8]) -> Option<Timestamp> {
        if !self.items.is_empty() {
            return parse(&self.items, text);
        }
        match text {
            [_, _, _, _, b'-', ..] => self.rfc3339(text),
            _ => number(text),
        }
    }

    /// `2026-11-16T12:34:56.789Z`, also with a space in the middle or an offset at the end.
    fn rfc3339(&mut self, text: &[u8]) -> Option<Timestamp> {
        let (whole, rest) = text.split_first_chunk::<19>()?;
        let secs = match self.last {
            Some((last, secs)) if last == *whole => secs,
            _ => {
                let [b'0'..=b'9', b'0'..=b'9', _, _, b'-', _, _, b'-', _, _, b'T' | b't' | b' ', rest @ ..] =
                    whole
                else {
                    return None;
                };
                let [_, _, b':', _, _, b':', _, _] = rest else { return None };
                let two = |at: usize| digits(whole.get(at..at + 2)?);
                let date = [digits(&whole[..4])?, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?];
                let secs = u64::try_from(seconds_of(date)?).ok()?;
                self.last = Some((*whole, secs));
                secs
            }
        };
        let (micros, offset) = fraction(rest);
        let offset_secs = match offset {
            [] => 0,
            offset => offset_of(offset).filter(|(_, length)| *length == offset.len())?.0,
        };
        let secs = secs.checked_add_signed(-offset_secs)?;
        Some(Timestamp::from_micros(secs.checked_mul(1_000_000)?.checked_add(micros)?))
    }
}

/// Number of seconds, milliseconds or microseconds since the epoch.
fn number(text: &[u8]) -> Option<Timestamp> {
    // Whole numbers are exact; a fraction of a second needs more digits than a float has.
    let (whole, micros) = match memchr::memchr(b'.', text) {
        Some(at) => (text.get(..at)?, fraction(text.get(at..)?)),
        None => (text, (0, &b""[..])),
    };
    if !micros.1.is_empty() {
        return None;
    }
    if whole.len() > MAX_NUMBER_DIGITS {
        return None;
    }
    let whole = u64::try_from(digits(whole)?).ok()?;
    let factor = match whole as f64 {
        number if number >= MIN_MICROS => 1,
        number if number >= MIN_MILLIS => 1_000,
        _ => 1_000_000,
    };
    Some(Timestamp::from_micros(whole.checked_mul(factor)?.checked_add(micros.0 * factor / 1_000_000)?))
}

/// Microseconds in a fraction such as `.789`, and the rest of the text.
fn fraction(text: &[u8]) -> (u64, &[u8]) {
    let Some(after) = text.strip_prefix(b".").or_else(|| text.strip_prefix(b",")) else { return (0, text) };
    let (mut micros, mut factor, mut length) = (0, 100_000, 0);
    while let Some(digit) = after.get(length).filter(|byte| byte.is_ascii_digit()) {
        micros += u64::from(digit - b'0') * factor;
        factor /= 10;
        length += 1;
    }
    if length == 0 {
        return (0, text);
    }
    (micros, after.get(length..).unwrap_or_default())
}

fn digits(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter()
        .try_fold(0_i64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// Seconds since the epoch of a date in UTC.
fn seconds_of([year, month, day, hour, minute, second]: [i64; 6]) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last_day = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_date = (1..=12).contains(&month) && (1..=last_day).contains(&day) && (1970..=9999).contains(&year);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Howard Hinnant's days_from_civil: the year begins in March, so that leap days are its last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let (era, year) = (year / 400, year % 400);
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468;
    Some(days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second)
}

/// Offset from UTC in seconds, and its length.
fn offset_of(text: &[u8]) -> Option<(i64, usize)> {
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => {
            let length = text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let name = text.get(..length)?;
            let is_utc = [&b"Z"[..], b"UTC", b"GMT"].iter().any(|utc| utc.eq_ignore_ascii_case(name));
            return is_utc.then_some((0, length));
        }
    };
    let hours = digits(text.get(1..3)?)?;
    let colon = usize::from(text.get(3) == Some(&b':'));
    let minutes = digits(text.get(3 + colon..5 + colon)?)?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some((sign * (hours * 3_600 + minutes * 60), 5 + colon))
}

fn parse(items: &[Item], text: &[u8]) -> Option<Timestamp> {
    let mut parts = Parts { date: [1970, 1, 1, 0, 0, 0], epoch_secs: None, micros: 0, offset_secs: 0 };
    let mut rest = text;
    for item in items {
        rest = rest.get(parts.take(*item, rest)?..)?;
    }
    let secs = match parts.epoch_secs {
        Some(secs) => secs,
        None => seconds_of(parts.date)? - parts.offset_secs,
    };
    let micros = u64::try_from(secs).ok()?.checked_mul(1_000_000)?.checked_add(parts.micros)?;
    rest.is_empty().then_some(Timestamp::from_micros(micros))
}

impl Parts {
    /// Takes an item from the beginning of `text`, and returns its length.
    fn take(&mut self, item: Item, text: &[u8]) -> Option<usize> {
        let digits_at = |max: usize| text.iter().take(max).take_while(|byte| byte.is_ascii_digit()).count();
        let word = || text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        match item {
            Item::Literal(byte) => (*text.first()? == byte).then_some(1),
            Item::Space => Some(text.iter().take_while(|byte| **byte == b' ').count()),
            Item::Number(max, place) => {
                let length = digits_at(max);
                *self.date.get_mut(place)? = digits(&text[..length])?;
                Some(length)
            }
            Item::Seconds(with_fraction) => {
                let length = digits_at(2);
                self.date[5] = digits(&text[..length])?;
                if !with_fraction {
                    return Some(length);
                }
                let (micros, rest) = fraction(text.get(length..)?);
                self.micros += micros;
                Some(text.len() - rest.len())
            }
            Item::Fraction => {
                let length = digits_at(9);
                let padded =
                    (0..6).map(|place| text.get(place).filter(|_| place < length).copied().unwrap_or(b'0'));
                self.micros = padded.fold(0, |micros, byte| micros * 10 + u64::from(byte - b'0'));
                (length > 0).then_some(length)
            }
            Item::Epoch => {
                let length = digits_at(MAX_EPOCH_DIGITS);
                self.epoch_secs = Some(digits(&text[..length])?);
                Some(length)
            }
            Item::MonthName => {
                let name = text.get(..3)?;
                let month = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
                self.date[1] = i64::try_from(month).ok()? + 1;
                Some(word())
            }
            Item::WeekdayName => Some(word()).filter(|length| *length > 0),
            Item::Offset => {
                let (secs, length) = offset_of(text)?;
                self.offset_secs = secs;
                Some(length)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_recognized() {
        let mut format = TimeFormat::detected();
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-16T12:34:56.789Z", Some(1_794_832_496_789_000)),
            ("2026-11-16T12:34:56.000001+02:00", Some(1_794_825_296_000_001)),
            ("2026-11-16 12:34:56,5", Some(1_794_832_496_500_000)),
            ("2024-02-29T23:59:60Z", Some(1_709_251_200_000_000)),
            ("1794832496", Some(1_794_832_496_000_000)),
            ("1794832496.789", Some(1_794_832_496_789_000)),
            ("1794832496789", Some(1_794_832_496_789_000)),
            ("1794832496789123", Some(1_794_832_496_789_123)),
            ("2026-13-16T12:34:56Z", None),
            ("2026-11-16T12:34", None),
            ("1794832496x", None),
            ("", None),
            ("99999999999999999999", None),
            ("99999999999999999", None),
            ("2026-02-31T00:00:00Z", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-11-16T24:59:00Z", None),
            ("2026-11-16T12:34:56Zjunk", None),
            ("2026-11-16T12:34:56+02:00x", None),
            ("2026-11-16T12:34:56+99:00", None),
            ("2026-11-16T12:34:56.Z", None),
            ("2026-11-16T12:34:56 CET", None),
        ] {
            assert_eq!(format.read(text.as_bytes()).map(Timestamp::as_micros), micros, "{text}");
        }
    }

    #[test]
    fn formats_of_strftime_are_read() {
        for (format, text, micros) in [
            ("%d/%b/%Y:%H:%M:%S %z", "10/Oct/2000:13:55:36 -0700", Some(971_211_336_000_000)),
            ("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/16T12:34:56+0000 1794832496", Some(1_794_832_496_000_000)),
            ("%s.%3f", "1794832496.789", Some(1_794_832_496_789_000)),
            ("%FT%T.%6fZ", "2026-11-16T12:34:56.000789Z", Some(1_794_832_496_000_789)),
            ("%a, %d %B %Y %T %Z", "Mon, 16 November 2026 12:34:56 GMT", Some(1_794_832_496_000_000)),
            ("%Y-%m-%d %E3S", "2026-11-16 56.7", Some(1_794_787_256_700_000)),
            ("%s", "1794832496 ", None),
            ("%s", "1794832496789", None),
            ("%F %T %Z", "2026-11-16 12:34:56 CET", None),
            ("%F %T", "2026-02-31 12:34:56", None),
            ("%d/%b/%Y", "10/Foo/2000", None),
        ] {
            let found = TimeFormat::parse(format).expect(format).read(text.as_bytes());
            assert_eq!(found.map(Timestamp::as_micros), micros, "{format}: {text}");
        }
    }
    #[test]
    fn formats_that_cannot_be_read_are_errors() {
        for (format, expected) in [
            ("%s%3f", "no text that ends %s"),
            ("%Y-%m-%d %Q", "unknown directive '%Q'"),
            ("%H:%M:%S", "no full date"),
            ("%Y-%m %T", "no full date"),
            ("%F %T %", "unfinished directive"),
        ] {
            let error = TimeFormat::parse(format).expect_err(format);
            assert!(error.contains(expected), "{error}");
        }
    }
}
