//! Formats of access logs: a line in, the fields of the line out.

mod csv;
mod fields;
mod json;
mod operator;
mod scan;
mod text;
mod time;

pub(super) use self::fields::Fields;
pub(super) use self::operator::canonical;
pub(super) use self::time::TimeFormat;

use self::csv::CsvFormat;
use self::json::JsonFormat;
use self::operator::strftime_argument;
use self::text::TextFormat;

/// The operator, or the field, that has the time of a request.
pub(super) const START_TIME: &str = "START_TIME";

/// Format of Envoy where its configuration names none.
const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"";
/// The common log format; the combined one adds two fields.
const COMMON: &str = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %IDENT% %USER% \
    [%START_TIME(%d/%b/%Y:%H:%M:%S %z)%] \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %BYTES_SENT%";
const COMBINED_REST: &str = " \"%REQ(REFERER)%\" \"%REQ(USER-AGENT)%\"";

/// Names of fields that mean the same in every format of a proxy.
const ALIASES: &[(&str, &str)] = &[
    ("path", "REQ(:PATH)"),
    ("method", "REQ(:METHOD)"),
    ("host", "REQ(:AUTHORITY)"),
    ("authority", "REQ(:AUTHORITY)"),
    ("status", "RESPONSE_CODE"),
    ("flags", "RESPONSE_FLAGS"),
    ("protocol", "PROTOCOL"),
    ("remote_address", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"),
    ("user_agent", "REQ(USER-AGENT)"),
    ("referer", "REQ(REFERER)"),
    ("user", "USER"),
    ("time", START_TIME),
];

/// Format of a log.
#[derive(Clone, Debug)]
pub(super) enum Format {
    /// Lines after a format string.
    Text(TextFormat),
    /// One JSON object a line.
    Json(JsonFormat),
    /// Comma-separated values.
    Csv(CsvFormat),
    /// The decision log of the service. Its lines are complete requests.
    Tollgate,
}

/// Field of a format, and how to get the wanted text from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Index among the fields of a line.
    pub(super) index: usize,
    /// True if the port must be removed.
    pub(super) without_port: bool,
}

impl Format {
    /// Format of this name, or the format string `text`.
    ///
    /// # Errors
    /// The mistake in it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "envoy" => Self::envoy(ENVOY_DEFAULT),
            "json" => Ok(Self::Json(JsonFormat::by_name())),
            "common" => Ok(Self::Text(TextFormat::parse(COMMON)?.of_web_servers())),
            "combined" => {
                Ok(Self::Text(TextFormat::parse(&format!("{COMMON}{COMBINED_REST}"))?.of_web_servers()))
            }
            "csv" => Ok(Self::Csv(CsvFormat::with_header())),
            "tollgate" => Ok(Self::Tollgate),
            text if text.contains('%') => Self::envoy(text),
            _ => Err(format!(
                "unknown format '{text}': write envoy, json, combined, common, csv, tollgate, or a format string \
                 of Envoy such as '[%START_TIME%] %REQ(X-USER)%'"
            )),
        }
    }

    /// Text after a format string of Envoy.
    ///
    /// # Errors
    /// The mistake in it.
    pub(super) fn envoy(text: &str) -> Result<Self, String> {
        TextFormat::parse(text).map(Self::Text)
    }

    /// The format that Envoy uses where none is set.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn envoy_default() -> Result<Self, String> {
        Self::envoy(ENVOY_DEFAULT)
    }

    /// Envoy's `json_format`: pairs of the path of a field and its format string.
    pub(super) fn envoy_json(fields: &[(Vec<String>, String)]) -> Self {
        Self::Json(JsonFormat::of_operators(fields))
    }

    /// CSV without a header line.
    pub(super) fn csv(columns: &[String]) -> Self {
        Self::Csv(CsvFormat::of_columns(columns))
    }

    /// True if every name is a field.
    pub(super) fn is_by_name(&self) -> bool {
        matches!(self, Self::Json(format) if format.is_by_name)
    }

    /// The field that has `name`: an operator, the name of a field, or an alias.
    pub(super) fn source(&mut self, name: &str) -> Option<Source> {
        let name = canonical(name);
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, operator)| *operator);
        self.lookup(&name).or_else(|| self.lookup(alias?))
    }

    fn lookup(&mut self, name: &str) -> Option<Source> {
        if let Self::Json(format) = self {
            return format.source(name);
        }
        let names = match self {
            Self::Text(format) => format.names(),
            Self::Csv(format) => format.names(),
            Self::Json(_) | Self::Tollgate => return None,
        };
        operator::find(names, name)
    }

    /// Format of the time in a field: the argument of its `START_TIME`, else recognized by its form.
    ///
    /// # Errors
    /// The mistake in it.
    pub(super) fn time_format(&self, source: Source) -> Result<TimeFormat, String> {
        let name = match self {
            Self::Text(format) => format.names().get(source.index).map(String::as_str),
            Self::Json(format) => format.operator(source.index),
            Self::Csv(_) | Self::Tollgate => None,
        };
        match name.and_then(strftime_argument) {
            Some(argument) => TimeFormat::parse(argument),
            None => Ok(TimeFormat::detected()),
        }
    }

    /// True if lines are read only once their first line named the columns.
    pub(super) fn needs_header(&self) -> bool {
        matches!(self, Self::Csv(format) if format.names().is_empty())
    }

    /// Takes the names of columns from `line`, the first one of a file.
    pub(super) fn set_header(&mut self, line: &[u8]) {
        if let Self::Csv(format) = self {
            format.set_header(line);
        }
    }

    /// True if every file begins with a header line.
    pub(super) fn has_header(&self) -> bool {
        matches!(self, Self::Csv(format) if format.has_header())
    }

    /// Splits `line` into `fields`. `None` if it does not have this format.
    pub(super) fn split(&self, line: &[u8], fields: &mut Fields) -> Option<()> {
        fields.clear();
        match self {
            Self::Text(format) => format.split(line, fields),
            Self::Json(format) => format.split(line, fields),
            Self::Csv(format) => format.split(line, fields),
            Self::Tollgate => None,
        }
    }
}
