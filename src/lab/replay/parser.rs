//! From a line to its time and its requests.

use super::decision_line;
use super::format::{Fields, Format, START_TIME, Source, TimeFormat};
use super::mapping::{FormatSpec, Line, MapFile, Mapping, Scratch};
use crate::engine::Timestamp;

/// Fields that have the time, where none is named.
const TIME_FIELDS: &[&str] = &[START_TIME, "time", "start_time", "timestamp", "@timestamp", "t"];

/// Format of a log, and the requests that its lines are.
#[derive(Clone, Debug)]
pub struct LogFormat {
    format: Format,
    mapping: Requests,
    /// Field and format of the time.
    time: Option<String>,
    time_format: Option<String>,
    /// Remarks for the report.
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
enum Requests {
    /// Of a map file. It is compiled when the fields of the log are known.
    File(MapFile),
    /// Of the configuration of a proxy.
    Compiled(Mapping),
    /// Lines are requests.
    Lines,
}

/// Reads lines of one file.
pub(super) struct Parser {
    log: LogFormat,
    /// `None` until the first line named the fields.
    compiled: Option<Compiled>,
    fields: Fields,
    scratch: Scratch,
    record: Vec<u8>,
    /// Smallest share of keys in a decision log; 1 if all are logged.
    sample: f64,
}

#[derive(Clone)]
struct Compiled {
    mapping: Mapping,
    times: Vec<(Source, TimeFormat)>,
}

/// Why a line has no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    /// The line is bad.
    Bad(&'static str),
    /// No line of the file can be read.
    Format(String),
}

impl LogFormat {
    /// The service's own decision log.
    pub const fn decision_log() -> Self {
        Self {
            format: Format::Tollgate,
            mapping: Requests::Lines,
            time: None,
            time_format: None,
            notes: Vec::new(),
        }
    }

    /// The format and the requests of a map file. `format` replaces the format in it.
    ///
    /// # Errors
    /// The mistake in them.
    pub fn from_map(text: &str, format: Option<&str>) -> Result<Self, String> {
        let file = MapFile::parse(text)?;
        let format = match (format, &file.format, &file.columns) {
            (None | Some("csv"), _, Some(columns)) => Format::csv(columns),
            (Some(format), _, _) => Format::parse(format)?,
            (None, Some(FormatSpec::Text(format)), _) => Format::parse(format)?,
            (None, Some(FormatSpec::Json(fields)), _) => {
                Format::envoy_json(&super::envoy::json_fields(fields))
            }
            (None, None, None) => Format::envoy_default()?,
        };
        if matches!(format, Format::Tollgate) {
            return Ok(Self::decision_log());
        }
        let (time, time_format) = (file.time.clone(), file.time_format.clone());
        let log = Self { format, mapping: Requests::File(file), time, time_format, notes: Vec::new() };
        if !log.format.needs_header() {
            log.compile()?;
        }
        Ok(log)
    }

    /// The format and the requests of an Envoy's configuration. `format` replaces the format of its access log.
    ///
    /// # Errors
    /// The mistake in them.
    pub fn from_envoy_config(text: &str, format: Option<&str>) -> Result<Self, String> {
        let format = format.map(Format::parse).transpose()?;
        let super::envoy::EnvoyLog { format, mapping, notes } = super::envoy::read(text, format)?;
        let log = Self { format, mapping: Requests::Compiled(mapping), time: None, time_format: None, notes };
        log.compile()?;
        Ok(log)
    }

    /// Remarks on requests that the log does not show.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// True if lines are requests, whatever proxies do.
    pub const fn is_decision_log(&self) -> bool {
        matches!(self.format, Format::Tollgate)
    }

    fn compile(&self) -> Result<(Format, Compiled), String> {
        let mut format = self.format.clone();
        let mapping = match &self.mapping {
            Requests::Lines => Mapping::default(),
            Requests::Compiled(mapping) => mapping.clone(),
            Requests::File(file) => file.mapping(&mut format)?,
        };
        let names = match &self.time {
            Some(name) => vec![name.trim_matches('%')],
            None => TIME_FIELDS.to_vec(),
        };
        let sources: Vec<_> = names.iter().filter_map(|name| format.source(name)).collect();
        if sources.is_empty() && !self.is_decision_log() {
            return Err(format!("the format of the log has no time: it needs one of {}", names.join(", ")));
        }
        let times = sources.into_iter().map(|source| {
            let time_format = match &self.time_format {
                Some(written) => TimeFormat::parse(written),
                None => format.time_format(source),
            };
            Ok((source, time_format?))
        });
        let times = if self.is_decision_log() { Vec::new() } else { times.collect::<Result<_, String>>()? };
        Ok((format, Compiled { mapping, times }))
    }
}

impl Parser {
    pub(super) fn new(log: &LogFormat) -> Self {
        Self {
            log: log.clone(),
            compiled: None,
            fields: Fields::default(),
            scratch: Scratch::default(),
            record: Vec::new(),
            sample: 1.0,
        }
    }

    /// Smallest share of keys in the lines of a decision log; 1 if all are logged.
    pub(super) const fn sample(&self) -> f64 {
        self.sample
    }

    /// Reads `line`, calls `each` with its requests, and returns its time. `None` for a line that is part of the
    /// format, such as a header.
    pub(super) fn read(
        &mut self,
        line: &[u8],
        mut each: impl FnMut(Timestamp, &[u8]),
    ) -> Result<Option<Timestamp>, LineError> {
        let Self { log, compiled, fields, scratch, record, sample } = self;
        if compiled.is_none() {
            let has_header = log.format.has_header();
            if has_header {
                log.format.set_header(line);
            }
            let (format, found) = log.compile().map_err(LineError::Format)?;
            log.format = format;
            *compiled = Some(found);
            if has_header {
                return Ok(None);
            }
        }
        let Some(Compiled { mapping, times }) = compiled else { return Ok(None) };
        record.clear();
        if matches!(log.format, Format::Tollgate) {
            if times.is_empty() {
                times.push((Source { index: 0, without_port: false }, TimeFormat::detected()));
            }
            let Some((_, time)) = times.first_mut() else { return Ok(None) };
            let read = decision_line::read(line, time, record);
            let (at, share) = read.ok_or(LineError::Bad("not a line of a decision log"))?;
            *sample = sample.min(share);
            each(at, record);
            return Ok(Some(at));
        }
        log.format.split(line, fields).ok_or(LineError::Bad("does not have the format of the log"))?;
        let text = times.iter_mut().find_map(|(source, time)| Some((fields.get(line, source.index)?, time)));
        let (text, time) = text.ok_or(LineError::Bad("has no time"))?;
        let at = time.read(text).ok_or(LineError::Bad("has a time that cannot be read"))?;
        let line = Line { text: line, fields };
        mapping.write(line, scratch, record, |record| {
            each(at, record);
            record.clear();
        });
        Ok(Some(at))
    }
}
