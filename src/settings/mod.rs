//! Settings: flags and environment variables, parsed into the types of the modules that use them.
//!
//! [`RawSettings`] are texts as typed; [`Settings`] are valid, and contain the settings of each module. The
//! conversion collects every error, so that all are reported at once. Only this module reads the environment,
//! and secrets cannot be printed.

mod admin;
mod candidate;
mod collectors;
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

use std::path::Path;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, Args as _, Command, FromArgMatches as _};

use crate::engine::{KeyFormat, KeyWriter, Modes, StoreCapabilities};
use crate::provider::files::FileSettings;
use crate::provider::xds::XdsSettings;
use crate::server::admin::AccessSettings;
use crate::server::{AnswerSettings, ListenSettings, ServeSettings};
use crate::store::memory::MemorySettings;
use crate::store::redis::{Deployment, RedisSettings};
use crate::telemetry::logs::{DecisionLogSettings, LogSettings};
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
    /// Authentication of the admin listener.
    pub admin_access: AccessSettings,
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
    /// Log of decisions; `None` if it is off.
    pub decision_log: Option<DecisionLogSettings>,
    /// Traces; `None` if they are off.
    pub traces: Option<TraceSettings>,
    /// Variables that are set and have no effect.
    pub ignored: Vec<Ignored>,
}

/// Candidate rules.
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
    /// Memory for the cache of denials, in bytes; 0 disables it.
    pub local_cache_bytes: u64,
    /// Upper bound on waiting for Redis at the start; `None` to serve at once.
    pub startup_max: Option<Duration>,
    /// True if the service is healthy only while Redis can be reached.
    pub ready_only_connected: bool,
}

impl Settings {
    /// Converts `raw`. `environment` returns the value of a variable, for those of envoyproxy/ratelimit that
    /// have no effect here. `exists` returns whether a path exists, which the default of the rules path depends
    /// on.
    ///
    /// # Errors
    /// Every error in the settings.
    pub fn from_raw(
        raw: &RawSettings,
        environment: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self, SettingErrors> {
        convert::convert(raw, environment, exists)
    }

    /// Settings of an embedded service, from names and values instead of the environment, which is not read.
    ///
    /// # Errors
    /// Every error in the settings.
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
        // Every field is text, so the only possible error is a duplicate variable.
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

/// Value of an environment variable; `None` if it is unset, empty or not UTF-8.
pub fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Names of the variables in the environment.
pub fn environment_names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// Parses a boolean, for flags of other commands.
///
/// # Errors
/// Expected form.
pub fn boolean(text: &str) -> Result<bool, String> {
    reader::parse_bool(text).ok_or_else(|| "expected true or false".to_owned())
}

/// Prepares `command` for settings: an empty variable counts as unset, a boolean flag without a value means
/// true, and `--help` does not show values of the environment.
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

/// Flag of the environment variable `name`, without its dashes.
fn flag(name: &str) -> Option<String> {
    let command = RawSettings::augment_args(Command::new(""));
    let arg = command.get_arguments().find(|arg| arg.get_env().is_some_and(|env| env == name))?;
    arg.get_long().map(str::to_owned)
}

#[cfg(test)]
mod tests;
