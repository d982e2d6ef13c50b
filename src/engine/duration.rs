//! Durations as text: the format of Go, for settings, and a short format for people.

use std::fmt;
use std::time::Duration;

/// Nanoseconds per unit, longest first.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses the format of Go's `time.ParseDuration`, such as `300ms`, `1.5h` and `1h15m30.918s`. `None` for
/// anything else, for negative durations, and for more than about 584 years.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0_u64;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        total = total.checked_add(nanoseconds(number, nanoseconds_per(unit)?)?)?;
        if after.is_empty() {
            return Some(Duration::from_nanos(total));
        }
        rest = after;
    }
}

fn nanoseconds_per(unit: &str) -> Option<u64> {
    // Both code points that look like the Greek letter, as in Go.
    let unit = if matches!(unit, "µs" | "μs") { "us" } else { unit };
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos)
}

fn nanoseconds(number: &str, per_unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let mut total = whole.checked_mul(per_unit)?;
    let mut place = per_unit;
    for digit in fraction.chars() {
        place /= 10;
        total = total.checked_add(u64::from(digit.to_digit(10)?).checked_mul(place)?)?;
    }
    Some(total)
}

/// Duration in Go's format, without units that are zero: `1m30s`, `300ms`, `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoForm(pub Duration);

impl fmt::Display for GoForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in UNITS {
            let count = rest / u128::from(nanos);
            rest %= u128::from(nanos);
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// Whole seconds in the two largest units that are not zero: `42s`, `5m 30s`, `3d 9h`. The rest is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortForm(pub u64);

impl fmt::Display for ShortForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0;
        let parts = [(secs / 86_400, 'd'), (secs / 3_600 % 24, 'h'), (secs / 60 % 60, 'm'), (secs % 60, 's')];
        let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
        for (index, (count, unit)) in parts.iter().enumerate().skip(first).take(2) {
            if index == first {
                write!(f, "{count}{unit}")?;
            } else if *count > 0 {
                write!(f, " {count}{unit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_go_parses_them() {
        for (text, expected_ms) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("300ms", Some(300)),
            ("24h", Some(86_400_000)),
            ("24h0m0s", Some(86_400_000)),
            ("1.5h", Some(5_400_000)),
            (".5s", Some(500)),
            ("1.s", Some(1_000)),
            ("+1s", Some(1_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1h15m30.918s", Some(4_530_918)),
            ("10", None),
            ("", None),
            ("+", None),
            ("-1s", None),
            ("1x", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1s ", None),
            ("1 s", None),
            ("99999999999h", None),
            ("18446744073709551616ns", None),
        ] {
            assert_eq!(parse(text), expected_ms.map(Duration::from_millis), "{text:?}");
        }
        for text in ["150us", "150µs", "150μs"] {
            assert_eq!(parse(text), Some(Duration::from_micros(150)), "{text:?}");
        }
    }

    #[test]
    fn gos_form_is_parsed_back() {
        for (nanos, expected) in [
            (0, "0s"),
            (300_000_000, "300ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_001, "1h1ns"),
            (86_400_000_000_000, "24h"),
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(GoForm(duration).to_string(), expected);
            assert_eq!(parse(expected), Some(duration));
        }
    }

    #[test]
    fn people_get_the_two_largest_units() {
        for (secs, expected) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m"),
            (330, "5m 30s"),
            (3_600, "1h"),
            (3_661, "1h 1m"),
            (291_600, "3d 9h"),
            (86_460, "1d"),
            (31_536_000, "365d"),
        ] {
            assert_eq!(ShortForm(secs).to_string(), expected);
        }
    }
}
