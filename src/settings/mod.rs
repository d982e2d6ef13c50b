//! Settings: what the operator typed, in flags and the environment, and what it means.
//!
//! Two types for two facts. [`RawSettings`] is text as typed; [`Settings`] is valid, and made of the
//! settings of each module. Between them every mistake is gathered, so that all are told at once.
//! Nothing else reads the environment, and nothing that may hold a secret can be printed.

mod convert;
mod foreign;
mod raw;
mod reader;
mod redis;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, Args as _, Command};

use crate::engine::{KeyFormat, Modes};
use crate::provider::files::FileSettings;
use crate::store::memory::MemorySettings;
use crate::store::redis::RedisSettings;
use crate::telemetry::logs::LogSettings;
use crate::telemetry::metrics::MetricsSettings;
use crate::telemetry::traces::TraceSettings;

pub use foreign::Ignored;
pub use raw::RawSettings;
pub use reader::{Mistake, Mistakes};
pub use table::{Row, markdown, table};

/// Everything that `serve` is told.
#[derive(Debug)]
pub struct Settings {
    /// Where and how to listen.
    pub listeners: Listeners,
    /// Where rules come from.
    pub rules: FileSettings,
    /// What health and start-up ask of the rules.
    pub readiness: Readiness,
    /// What is told besides the decision.
    pub answers: Answers,
    /// What holds for every rule at once.
    pub modes: Modes,
    /// How counters are named.
    pub keys: Keys,
    /// Where counters live.
    pub store: StoreSettings,
    /// What is counted.
    pub metrics: MetricsSettings,
    /// What is logged.
    pub logs: LogSettings,
    /// Where spans go; `None` where there are to be none.
    pub traces: Option<TraceSettings>,
    /// What was set and has no effect.
    pub ignored: Vec<Ignored>,
}

/// A host name or address, and a port.
pub type HostPort = (String, u16);

/// Where and how to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// `/json` and `/healthcheck`.
    pub http: HostPort,
    /// Envoy's protocol.
    pub grpc: GrpcListener,
    /// `/rlconfig`, `/stats` and `/metrics`.
    pub debug: HostPort,
    /// Where else metrics are served, and at which path.
    pub prometheus: Option<(HostPort, String)>,
    /// Age at which a gRPC connection is asked to go; `None` for never.
    pub max_connection_age: Option<Duration>,
    /// How long it may then finish its calls.
    pub max_connection_age_grace: Duration,
    /// Open connections at the most; at least 1.
    pub max_connections: usize,
    /// Threads that serve calls; `None` for one on each core.
    pub threads: Option<usize>,
    /// From SIGTERM to the last call that is taken.
    pub shutdown_delay: Duration,
    /// From there to the end of the process, at the most.
    pub shutdown_timeout: Duration,
}

/// Where Envoy's protocol is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcListener {
    /// A host and port.
    Tcp(HostPort),
    /// A unix socket.
    Unix(PathBuf),
}

/// What health and start-up ask of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Start without good rules.
    pub start_without_rules: bool,
    /// Say NOT_SERVING while no domain has rules.
    pub needs_a_domain: bool,
}

/// What is told besides the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The response headers to add.
    pub headers: Option<HeaderNames>,
    /// Whether dynamic metadata is told.
    pub dynamic_metadata: bool,
}

/// The names of the headers that tell of the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames {
    /// The limit.
    pub limit: http::HeaderName,
    /// What is left of it.
    pub remaining: http::HeaderName,
    /// Seconds until it is whole again.
    pub reset: http::HeaderName,
}

/// How counters are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The way they are spelt.
    pub format: KeyFormat,
    /// What each begins with.
    pub prefix: String,
}

/// Where counters live.
#[derive(Debug)]
pub enum StoreSettings {
    /// In this process.
    Memory(MemorySettings),
    /// In Redis.
    Redis(RedisSettings),
}

impl Settings {
    /// What `raw` means. `environment` gives a variable's value, for those of envoyproxy/ratelimit that
    /// mean nothing here; `exists` says whether there is something at a path, since the default of
    /// the rules' path depends on it.
    ///
    /// # Errors
    /// Every mistake.
    pub fn from_raw(
        raw: &RawSettings,
        environment: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self, Mistakes> {
        convert::convert(raw, environment, exists)
    }
}

/// The value of an environment variable; `None` where it is unset, empty or no UTF-8.
pub fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A truth value, as flags of other commands take it.
///
/// # Errors
/// What was expected.
pub fn boolean(text: &str) -> Result<bool, String> {
    reader::parse_bool(text).ok_or_else(|| "expected true or false".to_owned())
}

/// Settles how `command` takes settings: a variable that is set to nothing counts as unset, a lone flag
/// means true where a truth value is wanted, and `--help` shows nothing of the environment.
pub fn prepare(command: Command) -> Command {
    command.mut_args(|arg| {
        let arg = if is_set_to_nothing(&arg) { arg.env(Resettable::Reset) } else { arg };
        let arg = if is_boolean(&arg) { arg.num_args(0..=1).default_missing_value("true") } else { arg };
        arg.hide_env_values(true)
    })
}

fn is_set_to_nothing(arg: &Arg) -> bool {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
}

fn is_boolean(arg: &Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "BOOL"))
}

/// The flag that stands for the environment variable `name`, without its dashes.
fn flag(name: &str) -> Option<String> {
    let command = RawSettings::augment_args(Command::new(""));
    let arg = command.get_arguments().find(|arg| arg.get_env().is_some_and(|env| env == name))?;
    arg.get_long().map(str::to_owned)
}

#[cfg(test)]
mod tests;
