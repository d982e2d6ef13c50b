//! Variables of envoyproxy/ratelimit that have no effect here. A set one is reported as a warning; one that
//! would make the operator less safe than expected is an error.

use super::reader::{Reader, parse_bool};

/// A variable that is set and has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its name.
    pub name: &'static str,
    /// The behaviour in its place.
    pub instead: &'static str,
}

/// A variable, and the values that need no warning.
struct Unsupported {
    ignored: Ignored,
    harmless: Harmless,
}

enum Harmless {
    /// This truth value.
    Bool(bool),
    /// These texts.
    Texts(&'static [&'static str]),
}

const IGNORED: [Unsupported; 13] = {
    use Harmless::{Bool, Texts};
    const PIPELINE: &str = "hits are always batched";
    const POOL: &str = "each thread has one connection to each primary";
    const fn unsupported(name: &'static str, harmless: Harmless, instead: &'static str) -> Unsupported {
        Unsupported { ignored: Ignored { name, instead }, harmless }
    }
    [
        unsupported("RUNTIME_IGNOREDOTFILES", Bool(true), "entries that begin with a dot are always ignored"),
        unsupported(
            "FORCE_START_WITHOUT_INITIAL_CONFIG",
            Bool(true),
            "the service always starts, and is not ready until there are good rules",
        ),
        unsupported("REDIS_POOL_SIZE", Texts(&["10"]), POOL),
        unsupported("REDIS_POOL_ON_EMPTY_BEHAVIOR", Texts(&["WAIT"]), POOL),
        unsupported("REDIS_PIPELINE_WINDOW", Texts(&["0", "0s"]), PIPELINE),
        unsupported("REDIS_PIPELINE_LIMIT", Texts(&["0", "0s"]), PIPELINE),
        unsupported("REDIS_CLUSTER_PIPELINE_PARALLELISM", Texts(&["1"]), PIPELINE),
        unsupported(
            "REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR",
            Bool(true),
            "a server that turns out to be read-only is always left for another",
        ),
        unsupported("REDIS_PERSECOND_POOL_SIZE", Texts(&["10"]), POOL),
        unsupported("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", Texts(&["WAIT"]), POOL),
        unsupported("REDIS_PERSECOND_PIPELINE_WINDOW", Texts(&["0", "0s"]), PIPELINE),
        unsupported("REDIS_PERSECOND_PIPELINE_LIMIT", Texts(&["0", "0s"]), PIPELINE),
        unsupported("OTEL_EXPORTER_OTLP_CERTIFICATE", Texts(&[]), "traces are not sent over TLS yet"),
    ]
};

/// Asking for one of these and being served without it would be less safe than it looks.
const UNSAFE_TO_IGNORE: [(&str, &str); 1] =
    [("GRPC_SERVER_USE_TLS", "false: gRPC is not served over TLS yet")];

/// The variables without effect. Those that would be unsafe to ignore are errors in `reader`.
pub(super) fn read(environment: impl Fn(&str) -> Option<String>, reader: &mut Reader) -> Vec<Ignored> {
    for (name, expected) in UNSAFE_TO_IGNORE {
        match environment(name) {
            Some(value) if parse_bool(&value) != Some(false) => reader.error(name, expected, Some(&value)),
            Some(_) | None => {}
        }
    }
    let asks = |unsupported: &&Unsupported| {
        environment(unsupported.ignored.name).is_some_and(|value| !unsupported.is_harmless(&value))
    };
    IGNORED.iter().filter(asks).map(|unsupported| unsupported.ignored).collect()
}

/// Names of the variables that are known here and mean nothing.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let ignored = IGNORED.iter().map(|unsupported| unsupported.ignored.name);
    ignored.chain(UNSAFE_TO_IGNORE.map(|(name, _)| name))
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

    fn read_variable(name: &str, value: &str) -> (usize, usize) {
        let mut reader = Reader::default();
        let ignored = read(|asked| (asked == name).then(|| value.to_owned()), &mut reader);
        (ignored.len(), reader.finish(()).err().map_or(0, |errors| errors.0.len()))
    }

    #[test]
    fn what_will_not_happen_is_said_and_what_nobody_asked_for_is_not() {
        for (name, silent, told) in [
            ("RUNTIME_IGNOREDOTFILES", "true", "false"),
            ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true", "false"),
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
            assert_eq!(read_variable(name, silent), (0, 0), "{name}={silent}");
            assert_eq!(read_variable(name, told), (1, 0), "{name}={told}");
        }
    }

    #[test]
    fn nothing_is_served_without_the_tls_that_was_asked_for() {
        let name = "GRPC_SERVER_USE_TLS";
        assert_eq!(read_variable(name, "false"), (0, 0), "{name}=false");
        for value in ["true", "1", "yes"] {
            assert_eq!(read_variable(name, value), (0, 1), "{name}={value}");
        }
    }
}
