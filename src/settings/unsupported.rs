//! Variables of envoyproxy/ratelimit that have no effect here. Setting one to another value than its default logs a
//! warning.

use super::reader::parse_bool;

/// A variable that is set and has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its name.
    pub name: &'static str,
    /// Actual behaviour.
    pub instead: &'static str,
}

/// A variable, and its values that need no warning.
struct Unsupported {
    ignored: Ignored,
    harmless: Harmless,
}

enum Harmless {
    /// This boolean.
    Bool(bool),
    /// These texts.
    Texts(&'static [&'static str]),
}

const IGNORED: &[Unsupported] = {
    use Harmless::{Bool, Texts};
    const PIPELINE: &str = "hits are always batched";
    const MEMCACHE: &str = "counters are in memory or in Redis";
    const POOL: &str = "each thread has one connection to each primary";
    const fn unsupported(name: &'static str, harmless: Harmless, instead: &'static str) -> Unsupported {
        Unsupported { ignored: Ignored { name, instead }, harmless }
    }
    &[
        unsupported("RUNTIME_IGNOREDOTFILES", Bool(true), "entries that begin with a dot are always ignored"),
        unsupported(
            "RUNTIME_WATCH_ROOT",
            Texts(&["true", "false"]),
            "rule files and the links that lead to them are always watched",
        ),
        unsupported(
            "USE_CALENDAR_MONTH_RATE_LIMIT",
            Bool(false),
            "a month is 30 days; `timezone: UTC` in a rule makes it a calendar month",
        ),
        unsupported("PROTO", Texts(&["tcp"]), "listeners use TCP, or a Unix socket with GRPC_UDS"),
        unsupported("MEMCACHE_HOST_PORT", Texts(&[]), MEMCACHE),
        unsupported("MEMCACHE_MAX_IDLE_CONNS", Texts(&["2"]), MEMCACHE),
        unsupported("MEMCACHE_SRV", Texts(&[]), MEMCACHE),
        unsupported("MEMCACHE_SRV_REFRESH", Texts(&["0", "0s"]), MEMCACHE),
        unsupported("MEMCACHE_TLS", Bool(false), MEMCACHE),
        unsupported("MEMCACHE_TLS_CLIENT_CERT", Texts(&[]), MEMCACHE),
        unsupported("MEMCACHE_TLS_CLIENT_KEY", Texts(&[]), MEMCACHE),
        unsupported("MEMCACHE_TLS_CACERT", Texts(&[]), MEMCACHE),
        unsupported("MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", Bool(false), MEMCACHE),
        unsupported(
            "GRPC_SERVER_TLS_CA_CERT",
            Texts(&[]),
            "envoyproxy/ratelimit does not read it; GRPC_CLIENT_TLS_CACERT requires certificates of clients",
        ),
        unsupported("REDIS_POOL_SIZE", Texts(&["10"]), POOL),
        unsupported("REDIS_POOL_ON_EMPTY_BEHAVIOR", Texts(&["WAIT"]), POOL),
        unsupported("REDIS_PIPELINE_WINDOW", Texts(&["0", "0s"]), PIPELINE),
        unsupported("REDIS_PIPELINE_LIMIT", Texts(&["0", "0s"]), PIPELINE),
        unsupported("REDIS_CLUSTER_PIPELINE_PARALLELISM", Texts(&["1"]), PIPELINE),
        unsupported(
            "REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR",
            Bool(true),
            "a connection to a server that has become read-only is always replaced",
        ),
        unsupported("REDIS_PERSECOND_POOL_SIZE", Texts(&["10"]), POOL),
        unsupported("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", Texts(&["WAIT"]), POOL),
        unsupported("REDIS_PERSECOND_PIPELINE_WINDOW", Texts(&["0", "0s"]), PIPELINE),
        unsupported("REDIS_PERSECOND_PIPELINE_LIMIT", Texts(&["0", "0s"]), PIPELINE),
    ]
};

/// Variables in `environment` that have no effect and need a warning.
pub(super) fn read(environment: impl Fn(&str) -> Option<String>) -> Vec<Ignored> {
    let asks = |unsupported: &&Unsupported| {
        environment(unsupported.ignored.name).is_some_and(|value| !unsupported.is_harmless(&value))
    };
    IGNORED.iter().filter(asks).map(|unsupported| unsupported.ignored).collect()
}

/// Names of the variables that are known and have no effect.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    IGNORED.iter().map(|unsupported| unsupported.ignored.name)
}

impl Unsupported {
    fn is_harmless(&self, value: &str) -> bool {
        match self.harmless {
            Harmless::Bool(harmless) => parse_bool(value) == Some(harmless),
            Harmless::Texts(harmless) => harmless.contains(&value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_variable(name: &str, value: &str) -> usize {
        read(|asked| (asked == name).then(|| value.to_owned())).len()
    }

    #[test]
    fn unsupported_settings_are_reported_only_if_set() {
        for (name, silent, reported) in [
            ("RUNTIME_IGNOREDOTFILES", "true", "false"),
            ("RUNTIME_WATCH_ROOT", "false", "maybe"),
            ("MEMCACHE_TLS", "false", "true"),
            ("MEMCACHE_MAX_IDLE_CONNS", "2", "8"),
            ("REDIS_POOL_SIZE", "10", "20"),
            ("REDIS_PIPELINE_WINDOW", "0s", "150us"),
            ("REDIS_PIPELINE_WINDOW", "0", "1s"),
            ("REDIS_CLUSTER_PIPELINE_PARALLELISM", "1", "8"),
            ("REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR", "true", "false"),
            ("REDIS_PERSECOND_POOL_SIZE", "10", "20"),
            ("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", "WAIT", "wait"),
            ("REDIS_PERSECOND_PIPELINE_WINDOW", "0", "1ms"),
            ("REDIS_PERSECOND_PIPELINE_LIMIT", "0", "8"),
        ] {
            assert_eq!(read_variable(name, silent), 0, "{name}={silent}");
            assert_eq!(read_variable(name, reported), 1, "{name}={reported}");
        }
    }
}
