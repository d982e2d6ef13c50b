//! Settings: what the operator typed, in flags and the environment, and what it means.
//!
//! Two types for two facts. [`RawSettings`] is text as typed; [`Settings`] is valid, and made of the
//! settings of each module. Between them every error is collected, so that all are reported at once.
//! Nothing else reads the environment, and nothing that may hold a secret can be printed.

mod candidate;
mod convert;
mod exporters;
mod otlp;
mod raw;
mod reader;
mod redis;
mod table;
mod tls;
mod unrecognized;
mod unsupported;
mod xds;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, Args as _, Command, FromArgMatches as _};

use crate::engine::{KeyFormat, KeyWriter, Modes, StoreCapabilities};
use crate::provider::files::FileSettings;
use crate::provider::xds::XdsSettings;
use crate::server::{AnswerSettings, ListenSettings, ServeSettings};
use crate::store::memory::MemorySettings;
use crate::store::redis::{Deployment, RedisSettings};
use crate::telemetry::logs::LogSettings;
use crate::telemetry::metrics::MetricsSettings;
use crate::telemetry::metrics::otlp::OtlpSettings;
use crate::telemetry::metrics::statsd::StatsdSettings;
use crate::telemetry::traces::TraceSettings;

pub use raw::RawSettings;
pub use reader::{SettingError, SettingErrors};
pub use table::{Row, markdown, table};
pub use unrecognized::{Unrecognized, unrecognized};
pub use unsupported::Ignored;

/// Every setting of the service.
#[derive(Debug)]
pub struct Settings {
    /// Addresses of the listeners.
    pub listen: ListenSettings,
    /// Tokens of the admin listener; `None` for clients on this machine alone, which may only read.
    pub admin_token_file: Option<PathBuf>,
    /// Connections, threads and shutdown.
    pub serve: ServeSettings,
    /// Files of the rules in force, and how all of these are compiled.
    pub rules: FileSettings,
    /// False if all rules come from a management server.
    pub reads_rule_files: bool,
    /// Management server; `None` if all rules come from files.
    pub xds: Option<XdsSettings>,
    /// Candidate rules; `None` if there are none.
    pub candidate: Option<CandidateSettings>,
    /// Headers and metadata beside the decision.
    pub answers: AnswerSettings,
    /// Upper bound on requests in flight per core.
    pub max_in_flight: usize,
    /// Modes that apply to every rule.
    pub modes: Modes,
    /// Format and prefix of counter keys.
    pub keys: KeyWriter,
    /// Store of the counters.
    pub store: StoreSettings,
    /// The bounds of counters in this process.
    pub memory: MemorySettings,
    /// Number of replicas that share the limits.
    pub replicas: u32,
    /// Metrics.
    pub metrics: MetricsSettings,
    /// statsd or DogStatsD; `None` if neither is sent to.
    pub statsd: Option<StatsdSettings>,
    /// OTLP collector of metrics; `None` if there is none.
    pub otlp: Option<OtlpSettings>,
    /// Logs.
    pub logs: LogSettings,
    /// Traces; `None` if they are off.
    pub traces: Option<TraceSettings>,
    /// Variables that are set and have no effect.
    pub ignored: Vec<Ignored>,
}

/// Rules to try out.
#[derive(Debug)]
pub struct CandidateSettings {
    /// Source of the candidate rules.
    pub files: FileSettings,
    /// Keys of their counters, distinct from those of the rules in force.
    pub keys: KeyWriter,
}

/// Store of the counters.
#[derive(Debug)]
pub enum StoreSettings {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(Box<RedisStoreSettings>),
}

impl StoreSettings {
    /// Features of rules that the store can count.
    pub fn capabilities(&self) -> StoreCapabilities {
        let name = match self {
            Self::Memory => "memory",
            Self::Redis(_) => "Redis",
        };
        StoreCapabilities { name, ..StoreCapabilities::default() }
    }

    /// The names of counters in this store: those of a Redis Cluster choose their slot.
    fn key_writer(&self, format: KeyFormat, prefix: &str) -> KeyWriter {
        let keys = KeyWriter::new(format, prefix);
        if self.is_cluster() { keys.for_cluster() } else { keys }
    }

    /// True if counters are spread over a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        match self {
            Self::Memory => false,
            Self::Redis(redis) => matches!(redis.all.deployment, Deployment::Cluster { .. }),
        }
    }
}

/// Counters in Redis.
#[derive(Clone, Debug)]
pub struct RedisStoreSettings {
    /// Redis of every limit that `per_second` does not count.
    pub all: RedisSettings,
    /// Redis of limits per second; `None` if `all` counts them too.
    pub per_second: Option<RedisSettings>,
    /// Memory for what is known to be denied, in bytes; 0 for none.
    pub local_cache_bytes: u64,
    /// Upper bound on waiting for Redis at the start; `None` to serve at once.
    pub startup_max: Option<Duration>,
    /// True if the service is healthy only while Redis can be reached.
    pub ready_only_connected: bool,
}

impl Settings {
    /// Converts `raw`. `environment` gives a variable's value, for those of envoyproxy/ratelimit that
    /// mean nothing here; `exists` says whether there is something at a path, since the default of
    /// the rules' path depends on it.
    ///
    /// # Errors
    /// Every mistake.
    pub fn from_raw(
        raw: &RawSettings,
        environment: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self, SettingErrors> {
        convert::convert(raw, environment, exists)
    }

    /// Settings of a service that is embedded: `variables`, names and values, take the place of the
    /// environment, of which nothing is read.
    ///
    /// # Errors
    /// Every mistake.
    pub fn from_variables(variables: &[(&str, &str)]) -> Result<Self, SettingErrors> {
        Self::from_variables_where(variables, Path::exists)
    }

    fn from_variables_where(
        variables: &[(&str, &str)],
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self, SettingErrors> {
        let flags = variables.iter().filter_map(|(name, value)| Some(format!("--{}={value}", flag(name)?)));
        let command = RawSettings::augment_args(Command::new(env!("CARGO_PKG_NAME"))).no_binary_name(true);
        let command = command.mut_args(|arg| arg.env(Resettable::Reset));
        let raw = command.try_get_matches_from(flags).and_then(|flags| RawSettings::from_arg_matches(&flags));
        // Every field is a text, so only a variable that is named twice comes here.
        let raw = raw.map_err(|error| {
            SettingErrors(vec![SettingError { name: "variables", expected: error.to_string(), found: None }])
        })?;
        let environment = |name: &str| {
            let (_, value) = variables.iter().find(|(variable, _)| *variable == name)?;
            Some((*value).to_owned())
        };
        Self::from_raw(&raw, environment, exists)
    }
}

/// The value of an environment variable; `None` where it is unset, empty or no UTF-8.
pub fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Names of the variables in the environment.
pub fn environment_names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
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
