//! Logs: lines on stderr, as text for people or as JSON for machines.

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::registry::LookupSpan;

/// What to log, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least grave level that is logged.
    pub level: LevelFilter,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: LevelFilter::WARN, format: LogFormat::default() }
    }
}

/// Writes what happens to stderr. Libraries are heard at `WARN` and graver only. Spans are not for logs:
/// where nobody else wants them, none is ever made.
pub(super) fn layer<S>(settings: &LogSettings) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let events = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(settings.level);
    lines.with_filter(levels(settings.level).and(events))
}

fn levels(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(env!("CARGO_PKG_NAME"), level)
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn logs_alone_make_no_spans_however_much_is_logged() {
        let settings = LogSettings { level: LevelFilter::TRACE, ..LogSettings::default() };
        let subscriber = tracing_subscriber::registry().with(layer(&settings));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::info_span!(target: "tollgate", "a call").is_disabled());
            assert!(tracing::event_enabled!(target: "tollgate", Level::TRACE));
        });
    }

    #[test]
    fn libraries_are_never_louder_than_warn_and_never_louder_than_asked() {
        for (level, target, heard, unheard) in [
            (LevelFilter::DEBUG, "tollgate::server", Some(Level::DEBUG), Some(Level::TRACE)),
            (LevelFilter::DEBUG, "tower::router", Some(Level::WARN), Some(Level::INFO)),
            (LevelFilter::TRACE, "hyper", Some(Level::WARN), Some(Level::INFO)),
            (LevelFilter::ERROR, "tower", Some(Level::ERROR), Some(Level::WARN)),
            (LevelFilter::ERROR, "tollgate", Some(Level::ERROR), Some(Level::WARN)),
            (LevelFilter::OFF, "tollgate", None, Some(Level::ERROR)),
        ] {
            let levels = levels(level);
            let enables = |level: Option<Level>| level.map(|level| levels.would_enable(target, &level));
            assert_ne!(enables(heard), Some(false), "{target} at {level}");
            assert_ne!(enables(unheard), Some(true), "{target} at {level}");
        }
    }
}
