//! Parses the texts of settings and collects every error, so that all are reported at once.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::engine::duration::{self, GoForm};

/// Upper bounds that several settings share.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Invalid setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The environment variable's name.
    pub name: &'static str,
    /// The expected form and bounds.
    pub expected: String,
    /// The text found; `None` if it may contain a secret.
    pub found: Option<String>,
}

/// Invalid settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingErrors(pub Vec<SettingError>);

impl fmt::Display for SettingError {
    /// `GRPC_PORT (--grpc-port): expected …, found "…"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(flag) = super::flag(self.name) {
            write!(f, " (--{flag})")?;
        }
        // Some errors are sentences of their own.
        let verb = if self.expected.starts_with("Expected ") { "" } else { "expected " };
        write!(f, ": {verb}{}", self.expected)?;
        match &self.found {
            Some(found) => write!(f, ", found {found:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid settings:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for SettingErrors {}

/// Parses texts and collects errors. After an error the returned values are meaningless, and [`Reader::finish`]
/// fails.
#[derive(Default)]
pub(super) struct Reader {
    errors: Vec<SettingError>,
}

impl Reader {
    /// `settings`, unless there were errors.
    pub(super) fn finish<T>(self, settings: T) -> Result<T, SettingErrors> {
        if self.errors.is_empty() { Ok(settings) } else { Err(SettingErrors(self.errors)) }
    }

    /// Adds an error.
    pub(super) fn error(&mut self, name: &'static str, expected: impl Into<String>, found: Option<&str>) {
        self.errors.push(SettingError { name, expected: expected.into(), found: found.map(str::to_owned) });
    }

    /// The value that `parse` returns for `text`.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        text: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(text);
        if value.is_none() {
            self.error(name, expected, Some(text));
        }
        value
    }

    /// Parses a boolean like Go's `strconv.ParseBool`.
    pub(super) fn boolean(&mut self, name: &'static str, text: &str) -> bool {
        self.read(name, text, "true or false", parse_bool).unwrap_or_default()
    }

    /// Parses a number within `range`.
    pub(super) fn number<T>(&mut self, name: &'static str, text: &str, range: RangeInclusive<T>) -> T
    where
        T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
    {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.read(name, text, &expected, parse).unwrap_or(*range.start())
    }

    /// Parses a port; 0 is a free one.
    pub(super) fn port(&mut self, name: &'static str, text: &str) -> u16 {
        self.number(name, text, 0..=u16::MAX)
    }

    /// Parses a duration within `range`, in Go's format: `1m30s`.
    pub(super) fn duration(
        &mut self,
        name: &'static str,
        text: &str,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let (least, most) = (GoForm(*range.start()), GoForm(*range.end()));
        let expected = format!("a duration such as 300ms, 10s or 1m30s, from {least} to {most}");
        let parse = |text: &str| duration::parse(text).filter(|duration| range.contains(duration));
        self.read(name, text, &expected, parse).unwrap_or_default()
    }

    /// Parses one of `choices`, ignoring case.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        text: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let find = |text: &str| choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        self.read(name, text, &format!("one of {}", names.join(", ")), |text| Some(find(text)?.1))
    }
}

/// Parses exactly the texts that Go's `strconv.ParseBool` accepts.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_values_are_go_s_and_no_others() {
        for (text, expected) in [
            ("1", Some(true)),
            ("T", Some(true)),
            ("True", Some(true)),
            ("TRUE", Some(true)),
            ("0", Some(false)),
            ("f", Some(false)),
            ("False", Some(false)),
            ("yes", None),
            ("on", None),
            ("tRUE", None),
            ("", None),
        ] {
            assert_eq!(parse_bool(text), expected, "{text:?}");
        }
    }
}
