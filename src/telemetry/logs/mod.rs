//! Logs: lines on stderr, as text for people or as JSON for machines.

mod decisions;
mod writer;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::{Layer, Registry, reload};

pub use self::decisions::{DecisionLogSettings, DecisionLogTarget, decision_writer};
pub use self::writer::{LogQueue, LogWriter};

use self::writer::LOG_BOUNDS;

/// Libraries that are silent unless the level is `debug` or `trace`: peers can cause the warnings of the HTTP
/// stack at any rate, and fred repeats for each connection what `store::redis` logs once.
const SILENT: [&str; 5] = ["fred", "h2", "hyper", "hyper_util", "tonic"];

/// Level and format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Least severe level that is logged.
    pub level: LevelFilter,
    /// Format of a line.
    pub format: LogFormat,
    /// Allows colours in text, on a terminal.
    pub color: bool,
}

/// Format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: LevelFilter::WARN, format: LogFormat::default(), color: true }
    }
}

/// Log of the process. Dropping it writes the queued lines.
#[derive(Debug)]
pub struct Logs {
    /// Writes the lines.
    pub writer: LogWriter,
    /// Changes the level.
    pub level: LogLevel,
}

/// The level of a process' log, which may change while it runs. Clones change the same level.
#[derive(Clone, Debug)]
pub struct LogLevel {
    configured: LevelFilter,
    current: Arc<Mutex<LevelFilter>>,
    filter: reload::Handle<Targets, Registry>,
}

impl LogLevel {
    /// Raises the level by one step, such as from `info` to `debug`. Has no effect at `trace`.
    pub fn raise(&self) {
        let next = match self.current.lock().into_level() {
            None => LevelFilter::ERROR,
            Some(tracing::Level::ERROR) => LevelFilter::WARN,
            Some(tracing::Level::WARN) => LevelFilter::INFO,
            Some(tracing::Level::INFO) => LevelFilter::DEBUG,
            Some(tracing::Level::DEBUG | tracing::Level::TRACE) => LevelFilter::TRACE,
        };
        self.set(next);
    }

    /// Returns to the level that was configured.
    pub fn reset(&self) {
        self.set(self.configured);
    }

    fn set(&self, level: LevelFilter) {
        *self.current.lock() = level;
        match self.filter.reload(levels(level)) {
            Ok(()) => tracing::warn!(%level, "log level changed"),
            Err(error) => tracing::error!(%error, "log level not changed"),
        }
    }
}

/// Layer that writes events to stderr through a thread, without blocking. It enables no spans, so that none is
/// created without traces.
pub(super) fn layer(settings: &LogSettings) -> io::Result<(impl Layer<Registry> + use<>, Logs)> {
    let writer = LogWriter::start("log", io::stderr(), LOG_BOUNDS)?;
    let (filter, handle) = reload::Layer::new(levels(settings.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer.queue());
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(settings.color && io::stderr().is_terminal()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let events = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE);
    let current = Arc::new(Mutex::new(settings.level));
    let level = LogLevel { configured: settings.level, current, filter: handle };
    Ok((lines.with_filter(filter.and(events)), Logs { writer, level }))
}

/// Logs each panic as one line in the format of the log.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let location = panic.location().map(ToString::to_string);
        let cause = crate::supervisor::panic_message(panic.payload());
        tracing::error!(thread = thread.name(), location, cause, "thread panicked");
    }));
}

/// Target of admin actions, which are logged whatever the level is.
pub const AUDIT: &str = "audit";

/// Filter: libraries log at `WARN` and above, [`SILENT`] ones only if the level is `debug` or `trace`.
fn levels(level: LevelFilter) -> Targets {
    let libraries = level.min(LevelFilter::WARN);
    let silent = if level >= LevelFilter::DEBUG { libraries } else { LevelFilter::OFF };
    Targets::new()
        .with_default(libraries)
        .with_targets(SILENT.map(|library| (library, silent)))
        .with_target(env!("CARGO_PKG_NAME"), level)
        .with_target(AUDIT, level.max(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn logs_alone_create_no_spans_at_any_level() {
        let settings = LogSettings { level: LevelFilter::TRACE, ..LogSettings::default() };
        let (layer, _logs) = layer(&settings).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(tracing::info_span!(target: "tollgate", "a call").is_disabled());
            assert!(tracing::event_enabled!(target: "tollgate", Level::TRACE));
        });
    }

    #[test]
    fn libraries_are_at_most_at_warn_and_those_that_peers_can_make_log_are_silent() {
        for (level, target, enabled, disabled) in [
            (LevelFilter::DEBUG, "tollgate::server", Some(Level::DEBUG), Some(Level::TRACE)),
            (LevelFilter::DEBUG, "h2::proto", Some(Level::WARN), Some(Level::INFO)),
            (LevelFilter::TRACE, "hyper", Some(Level::WARN), Some(Level::INFO)),
            (LevelFilter::WARN, "opentelemetry_sdk", Some(Level::WARN), Some(Level::INFO)),
            (LevelFilter::ERROR, "rustls", Some(Level::ERROR), Some(Level::WARN)),
            (LevelFilter::ERROR, "tollgate", Some(Level::ERROR), Some(Level::WARN)),
            (LevelFilter::OFF, "tollgate", None, Some(Level::ERROR)),
            (LevelFilter::INFO, "h2::proto::connection", None, Some(Level::ERROR)),
            (LevelFilter::WARN, "hyper_util::server", None, Some(Level::ERROR)),
            (LevelFilter::WARN, "fred::router::responses", None, Some(Level::WARN)),
        ] {
            let levels = levels(level);
            let enables = |level: Option<Level>| level.map(|level| levels.would_enable(target, &level));
            assert_ne!(enables(enabled), Some(false), "{target} at {level}");
            assert_ne!(enables(disabled), Some(true), "{target} at {level}");
        }
    }

    #[test]
    fn the_level_rises_step_by_step_and_returns_to_the_configured_one() {
        let (layer, logs) = layer(&LogSettings::default()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let enabled = || {
                (
                    tracing::event_enabled!(target: "tollgate", Level::INFO),
                    tracing::event_enabled!(target: "tollgate", Level::DEBUG),
                )
            };
            let mut seen = vec![enabled()];
            for _ in 0..2 {
                logs.level.raise();
                seen.push(enabled());
            }
            logs.level.reset();
            seen.push(enabled());
            assert_eq!(seen, [(false, false), (true, false), (true, true), (false, false)]);
        });
    }
}
