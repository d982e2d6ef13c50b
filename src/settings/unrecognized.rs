//! Detection of misspelt settings, such as `REDIS_URI` for `REDIS_URL`, which the service would silently
//! ignore.

use clap::{Args as _, Command};

use super::{RawSettings, unsupported};

/// Prefixes of variables that only a rate-limit service has.
const FAMILIES: [&str; 3] = ["REDIS_", "REDIS_PERSECOND_", "TOLLGATE_"];

/// A variable that looks like a setting, but is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecognized {
    /// Its name.
    pub name: String,
    /// Setting with the most similar name.
    pub nearest: String,
}

/// Those of `names` that look like settings, but are not.
pub fn unrecognized(names: impl IntoIterator<Item = String>) -> Vec<Unrecognized> {
    let command = RawSettings::augment_args(Command::new(""));
    let settings = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    let known: Vec<_> = settings.map(str::to_owned).chain(unsupported::names().map(str::to_owned)).collect();
    let nearest = |name: &str| {
        let by_distance = known.iter().map(|known| (strsim::osa_distance(known, name), known));
        by_distance.min_by_key(|(distance, _)| *distance)
    };
    let mut found: Vec<_> = names
        .into_iter()
        .filter(|name| !known.contains(name) && !is_set_by_kubernetes(name))
        .filter_map(|name| {
            let (distance, nearest) = nearest(&name)?;
            let is_family = FAMILIES.iter().any(|family| name.starts_with(family));
            let is_near = distance <= distance_max(name.len());
            (is_family || is_near).then(|| Unrecognized { nearest: nearest.clone(), name })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Upper bound on the edits of a typo. Short names are similar by chance: `HOME` and `HOST`.
const fn distance_max(length: usize) -> usize {
    match length {
        0..=5 => 0,
        6..=9 => 1,
        _ => 2,
    }
}

/// True if Kubernetes sets the variable in every container for a service named `redis`: `REDIS_SERVICE_HOST`,
/// `REDIS_PORT_6379_TCP_ADDR`.
fn is_set_by_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(names: &[&str]) -> Vec<(String, String)> {
        let found = unrecognized(names.iter().map(|name| (*name).to_owned()));
        found.into_iter().map(|found| (found.name, found.nearest)).collect()
    }

    #[test]
    fn a_typo_is_reported_with_the_nearest_setting() {
        for (typed, meant) in [
            ("REDIS_URI", "REDIS_URL"),
            ("REDIS_PASSWORD_FILE", "REDIS_AUTH_FILE"),
            ("RULE_PATH", "RULES_PATH"),
            ("TREADS", "THREADS"),
            ("LOG_LEVLE", "LOG_LEVEL"),
            ("SHUTDOWN_DELAYS", "SHUTDOWN_DELAY"),
        ] {
            assert_eq!(nearest(&[typed]), [(typed.to_owned(), meant.to_owned())]);
        }
    }

    #[test]
    fn settings_and_variables_of_other_programs_are_not_reported() {
        let of_machine = ["PATH", "HOME", "HOSTNAME", "USER", "TERM", "SHELL", "PWD", "LANG", "TZ"];
        let of_kubernetes =
            ["REDIS_SERVICE_HOST", "REDIS_PORT", "REDIS_PORT_6379_TCP", "REDIS_SERVICE_PORT_TCP"];
        let of_libraries = ["OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_TIMEOUT", "RUST_LOG"];
        let known = ["REDIS_URL", "USE_STATSD", "GRPC_SERVER_USE_TLS", "NO_COLOR"];
        for names in [&of_machine[..], &of_kubernetes, &of_libraries, &known] {
            assert_eq!(nearest(names), []);
        }
    }
}
