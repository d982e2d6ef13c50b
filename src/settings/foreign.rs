//! Variables of envoyproxy/ratelimit that mean nothing here. Who sets one to have something done is told
//! that it will not be; who would be less safe than they think is not served at all.

use super::reader::{Reader, parse_bool};

/// A variable that is set and has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its name.
    pub name: &'static str,
    /// What happens in place of what it asks for.
    pub instead: &'static str,
}

/// A variable, and the values for which nothing needs to be said.
struct Foreign {
    ignored: Ignored,
    harmless: Harmless,
}

enum Harmless {
    /// This truth value.
    Bool(bool),
    /// These texts.
    Texts(&'static [&'static str]),
}

const IGNORED: [Foreign; 19] = {
    use Harmless::{Bool, Texts};
    const STATSD: &str = "there is no statsd; metrics are at /metrics and /stats";
    const PIPELINE: &str = "what waits goes to Redis together, and nothing waits for more";
    const POOL: &str = "each thread has one connection to each of Redis' primaries";
    const fn foreign(name: &'static str, harmless: Harmless, instead: &'static str) -> Foreign {
        Foreign { ignored: Ignored { name, instead }, harmless }
    }
    [
        foreign("USE_STATSD", Bool(false), STATSD),
        foreign("USE_DOG_STATSD", Bool(false), STATSD),
        foreign("STATSD_HOST", Texts(&[]), STATSD),
        foreign("STATSD_PORT", Texts(&[]), STATSD),
        foreign(
            "DISABLE_STATS",
            Bool(false),
            "metrics are always there, and cost nothing until they are read",
        ),
        foreign(
            "PROMETHEUS_MAPPER_YAML",
            Texts(&[]),
            "metrics have the names and labels of the default mapping",
        ),
        foreign("RUNTIME_IGNOREDOTFILES", Bool(true), "entries that begin with a dot are always ignored"),
        foreign(
            "FORCE_START_WITHOUT_INITIAL_CONFIG",
            Bool(true),
            "the service always starts, and is not ready until there are good rules",
        ),
        foreign("REDIS_POOL_SIZE", Texts(&["10"]), POOL),
        foreign("REDIS_PERSECOND_POOL_SIZE", Texts(&["10"]), POOL),
        foreign("REDIS_POOL_ON_EMPTY_BEHAVIOR", Texts(&["WAIT"]), POOL),
        foreign("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", Texts(&["WAIT"]), POOL),
        foreign("REDIS_PIPELINE_WINDOW", Texts(&["0", "0s"]), PIPELINE),
        foreign("REDIS_PERSECOND_PIPELINE_WINDOW", Texts(&["0", "0s"]), PIPELINE),
        foreign("REDIS_PIPELINE_LIMIT", Texts(&["0"]), PIPELINE),
        foreign("REDIS_PERSECOND_PIPELINE_LIMIT", Texts(&["0"]), PIPELINE),
        foreign("REDIS_CLUSTER_PIPELINE_PARALLELISM", Texts(&[]), PIPELINE),
        foreign(
            "REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR",
            Bool(true),
            "a connection to a server that takes no writes is always closed",
        ),
        foreign("OTEL_EXPORTER_OTLP_CERTIFICATE", Texts(&[]), "traces are not sent over TLS yet"),
    ]
};

/// Asking for one of these and being served without it would be less safe than it looks.
const UNSAFE_TO_IGNORE: [(&str, &str); 1] =
    [("GRPC_SERVER_USE_TLS", "false: gRPC is not served over TLS yet")];

/// What will not happen. Where that is not safe, `reader` is told.
pub(super) fn read(environment: impl Fn(&str) -> Option<String>, reader: &mut Reader) -> Vec<Ignored> {
    for (name, expected) in UNSAFE_TO_IGNORE {
        match environment(name) {
            Some(value) if parse_bool(&value) != Some(false) => reader.refuse(name, expected, Some(&value)),
            Some(_) | None => {}
        }
    }
    let asks = |foreign: &&Foreign| {
        environment(foreign.ignored.name).is_some_and(|value| !foreign.is_harmless(&value))
    };
    IGNORED.iter().filter(asks).map(|foreign| foreign.ignored).collect()
}

impl Foreign {
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

    fn read_one(name: &str, value: &str) -> (usize, usize) {
        let mut reader = Reader::default();
        let ignored = read(|asked| (asked == name).then(|| value.to_owned()), &mut reader);
        (ignored.len(), reader.finish(()).err().map_or(0, |mistakes| mistakes.0.len()))
    }

    #[test]
    fn what_will_not_happen_is_said_and_what_nobody_asked_for_is_not() {
        for (name, silent, told) in [
            ("USE_STATSD", "false", "true"),
            ("RUNTIME_IGNOREDOTFILES", "true", "false"),
            ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true", "false"),
            ("REDIS_POOL_SIZE", "10", "20"),
            ("REDIS_PIPELINE_WINDOW", "0s", "150us"),
            ("REDIS_PIPELINE_WINDOW", "0", "1s"),
            ("REDIS_PERSECOND_PIPELINE_LIMIT", "0", "8"),
            ("REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR", "true", "false"),
        ] {
            assert_eq!(read_one(name, silent), (0, 0), "{name}={silent}");
            assert_eq!(read_one(name, told), (1, 0), "{name}={told}");
        }
    }

    #[test]
    fn nothing_is_served_without_the_tls_that_was_asked_for() {
        let name = "GRPC_SERVER_USE_TLS";
        assert_eq!(read_one(name, "false"), (0, 0), "{name}=false");
        for value in ["true", "1", "yes"] {
            assert_eq!(read_one(name, value), (0, 1), "{name}={value}");
        }
    }
}
