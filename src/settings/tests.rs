use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::*;
use crate::engine::FailurePolicy;
use crate::engine::rules::HashKey;
use crate::server::{Address, HeaderStyle};
use crate::telemetry::logs::LogFormat;
use crate::telemetry::traces::Protocol;

pub(super) fn read(typed: &[(&str, &str)]) -> Result<Settings, SettingErrors> {
    Settings::from_variables_where(typed, |_| false)
}

pub(super) fn read_well(typed: &[(&str, &str)]) -> Settings {
    read(typed).unwrap_or_else(|errors| panic!("{typed:?}: {errors}"))
}

/// The names that are complained of.
pub(super) fn refused(typed: &[(&str, &str)]) -> Vec<&'static str> {
    match read(typed) {
        Ok(_) => Vec::new(),
        Err(SettingErrors(errors)) => errors.iter().map(|mistake| mistake.name).collect(),
    }
}

#[test]
fn defaults_are_the_reference_s() {
    let settings = read_well(&[]);
    let any = |port| Address::Tcp { host: "0.0.0.0".to_owned(), port };
    let expected = ListenSettings {
        http: any(8080),
        grpc: any(8081),
        debug: any(6070),
        admin: Some(Address::Tcp { host: "127.0.0.1".into(), port: 6071 }),
        prometheus: None,
    };
    assert_eq!(settings.listen, expected);
    let connections = settings.serve.connections;
    assert_eq!(connections.max_age, Some(Duration::from_secs(24 * 3600)));
    assert_eq!(connections.max_age_grace, Duration::from_secs(3600));
    assert_eq!(settings.modes, Modes { shadow_mode: false, quota_mode: false, near_limit_ratio: 0.8 });
    assert_eq!(settings.answers, AnswerSettings { http_refunds: true, ..AnswerSettings::default() });
    let logs = LogSettings { level: LevelFilter::WARN, format: LogFormat::Text, color: true };
    assert_eq!(settings.logs, logs);
    assert_eq!(settings.traces, None);
    assert!(!settings.rules.compile.merge_domains);
    assert_eq!(settings.rules.compile.on_backend_failure, FailurePolicy::Error);
    assert_eq!(settings.replicas, 1);
    assert_eq!(settings.ignored, []);
    let prometheus = read_well(&[("USE_PROMETHEUS", "true")]).listen.prometheus;
    assert_eq!(prometheus, Some((any(9090), "/metrics".to_owned())));
}

#[test]
fn without_settings_counters_are_in_memory_and_with_a_redis_url_in_redis() {
    let is_redis = |typed: &[_]| matches!(read_well(typed).store, StoreSettings::Redis(_));
    let url = ("REDIS_URL", "localhost:6379");
    for (typed, expected) in [
        (vec![], false),
        (vec![url], true),
        (vec![url, ("BACKEND_TYPE", "memory")], false),
        (vec![url, ("BACKEND_TYPE", "REDIS")], true),
    ] {
        assert_eq!(is_redis(&typed), expected, "{typed:?}");
    }
    assert_eq!(refused(&[("BACKEND_TYPE", "redis")]), ["REDIS_URL"]);
}

#[test]
fn on_backend_failure_is_the_default_of_all_rules() {
    for (text, expected) in [
        ("error", FailurePolicy::Error),
        ("allow", FailurePolicy::Allow),
        ("Deny", FailurePolicy::Deny),
        ("LOCAL", FailurePolicy::Local),
    ] {
        let settings = read_well(&[("ON_BACKEND_FAILURE", text), ("REPLICAS", "100000")]);
        assert_eq!(settings.rules.compile.on_backend_failure, expected, "{text}");
        assert_eq!(settings.replicas, 100_000);
    }
    for (name, text) in [("REPLICAS", "100001"), ("REPLICAS", "two"), ("ON_BACKEND_FAILURE", "")] {
        assert_eq!(refused(&[(name, text)]), [name], "{text}");
    }
}

#[test]
fn the_key_for_hashes_is_long_enough_and_never_shown() {
    assert_eq!(read_well(&[]).rules.compile.hash_key, None);
    let secret = "sixteen bytes ok";
    let settings = read_well(&[("HASH_KEY", secret)]);
    assert_eq!(settings.rules.compile.hash_key, Some(HashKey::new(secret.as_bytes())));
    let (letter, shown) = (secret.as_bytes()[0], format!("{settings:?}"));
    assert!(!shown.contains(secret) && !shown.contains(&format!("[{letter}, ")), "{shown}");
    let errors = read(&[("HASH_KEY", "too short")]).unwrap_err().to_string();
    assert!(errors.contains("HASH_KEY (--hash-key): expected a secret of 16 bytes or more"), "{errors}");
    assert!(!errors.contains("too short"), "{errors}");
}

#[test]
fn rules_are_looked_for_where_the_reference_has_them_then_in_the_working_directory() {
    let of_image = |path: &Path| path == Path::new("/srv/runtime_data/current/config");
    for (typed, image_has_rules, expected) in [
        (vec![], false, "config"),
        (vec![], true, "/srv/runtime_data/current/config"),
        (vec![("RULES_PATH", "/etc/rules")], true, "/etc/rules"),
        (vec![("RUNTIME_ROOT", "/data")], false, "/data/config"),
        (vec![("RUNTIME_ROOT", "/data"), ("RUNTIME_SUBDIRECTORY", "rl")], false, "/data/rl/config"),
        (vec![("RUNTIME_SUBDIRECTORY", "rl")], false, "/srv/runtime_data/current/rl/config"),
        (vec![("RUNTIME_APPDIRECTORY", "mine")], false, "/srv/runtime_data/current/mine"),
    ] {
        let settings = Settings::from_variables_where(&typed, |path| image_has_rules && of_image(path))
            .expect("good settings");
        assert_eq!(settings.rules.path, Path::new(expected), "{typed:?}");
    }
}

/// Mistakes in the settings of the management server.
const WRONG_XDS: [(&str, &str); 12] = [
    ("CONFIG_GRPC_XDS_SERVER_URL", "https://envoy-gateway:18001"),
    ("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", "no colon"),
    ("CONFIG_GRPC_XDS_SERVER_USE_TLS", "yes"),
    ("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", "tls.key"),
    ("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", "0s"),
    ("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "1ms"),
    ("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "2h"),
    ("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", "-1"),
    ("XDS_CLIENT_BACKOFF_JITTER", "yes"),
    ("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "1"),
    ("XDS_PING_INTERVAL", "10ms"),
    ("XDS_REMOVAL_GRACE", "2h"),
];

#[test]
fn every_setting_that_can_be_wrong_is_named_and_all_of_them_at_once() {
    let wrong = [
        ("PORT", "65536"),
        ("GRPC_PORT", "-1"),
        ("DEBUG_PORT", "http"),
        ("GRPC_MAX_CONNECTION_AGE", "10"),
        ("GRPC_MAX_CONNECTION_AGE_GRACE", "-1s"),
        ("MAX_CONNECTIONS", "0"),
        ("THREADS", "0"),
        ("SHUTDOWN_DELAY", "2h"),
        ("SHUTDOWN_TIMEOUT", "soon"),
        ("CONFIG_TYPE", "GRPC_XDS_STREAM"),
        ("MERGE_DOMAIN_CONFIG", "yes"),
        ("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "on"),
        ("SHADOW_MODE", "tRuE"),
        ("QUOTA_MODE", "no"),
        ("NEAR_LIMIT_RATIO", "1.1"),
        ("LIMIT_RESPONSE_HEADERS_ENABLED", "x"),
        ("LIMIT_LIMIT_HEADER", "a b"),
        ("LIMIT_REMAINING_HEADER", "ü"),
        ("LIMIT_RESET_HEADER", "a:b"),
        ("RESPONSE_HEADERS", "all"),
        ("RESPONSE_DYNAMIC_METADATA", "x"),
        ("BACKEND_TYPE", "memcache"),
        ("CACHE_KEY_FORMAT", "other"),
        ("CACHE_KEY_PREFIX", "a{}"),
        ("HASH_KEY", "fifteen bytes !"),
        ("EXPIRATION_JITTER_MAX_SECONDS", "-1"),
        ("MEMORY_MAX_COUNTERS", "1e6"),
        ("REDIS_TYPE", "TWIN"),
        ("REDIS_TLS", "yes"),
        ("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", "yes"),
        ("REDIS_PERSECOND", "yes"),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "-1s"),
        ("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "on"),
        ("ON_BACKEND_FAILURE", "ignore"),
        ("REPLICAS", "0"),
        ("LOCAL_CACHE_SIZE_IN_BYTES", "16M"),
        ("MAX_REQUESTS_IN_FLIGHT", "0"),
        ("REDIS_TIMEOUT", "0s"),
        ("REDIS_CALL_TIMEOUT", "2m"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("USE_PROMETHEUS", "x"),
        ("PROMETHEUS_ADDR", "9090"),
        ("PROMETHEUS_PATH", "metrics"),
        ("EXTRA_TAGS", "a:1,domain:2"),
        ("DETAILED_METRIC_MAX_SERIES", "many"),
        ("TRACING_ENABLED", "x"),
        ("TRACING_SAMPLING_RATE", "NaN"),
        ("TRACING_EXPORTER_PROTOCOL", "udp"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("GRPC_SERVER_USE_TLS", "yes"),
        ("HTTP_SERVER_USE_TLS", "on"),
    ];
    let wrong = [&wrong[..], &WRONG_XDS].concat();
    let mut expected: Vec<_> = wrong.iter().map(|(name, _)| *name).collect();
    let mut found = refused(&wrong);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for one in wrong {
        assert_eq!(refused(&[one]), [one.0]);
    }
}

#[test]
fn an_error_has_the_name_the_flag_the_expected_form_and_the_text_found() {
    let errors =
        read(&[("GRPC_PORT", "70000"), ("RULES_PATH", "/x"), ("NEAR_LIMIT_RATIO", "2")]).unwrap_err();
    let expected = "invalid settings:\n  \
                    GRPC_PORT (--grpc-port): expected a number from 0 to 65535, found \"70000\"\n  \
                    NEAR_LIMIT_RATIO (--near-limit-ratio): expected a number from 0 to 1, found \"2\"";
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn log_levels_are_spelt_as_in_the_reference() {
    for (text, expected) in [
        ("WARN", LevelFilter::WARN),
        ("warning", LevelFilter::WARN),
        ("Debug", LevelFilter::DEBUG),
        ("TRACE", LevelFilter::TRACE),
        ("info", LevelFilter::INFO),
        ("ERROR", LevelFilter::ERROR),
        ("FATAL", LevelFilter::ERROR),
        ("panic", LevelFilter::ERROR),
    ] {
        assert_eq!(read_well(&[("LOG_LEVEL", text)]).logs.level, expected, "{text}");
    }
}

#[test]
fn traces_go_where_the_opentelemetry_variables_say() {
    let grpc = ("TRACING_EXPORTER_PROTOCOL", "grpc");
    let on = ("TRACING_ENABLED", "true");
    let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1/");
    let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:2/x");
    for (typed, expected) in [
        (vec![on], Some(("http://localhost:4318/v1/traces", Protocol::Http))),
        (vec![on, grpc], Some(("http://localhost:4317", Protocol::Grpc))),
        (vec![all], Some(("http://c:1/v1/traces", Protocol::Http))),
        (vec![all, grpc], Some(("http://c:1/", Protocol::Grpc))),
        (vec![all, own], Some(("http://t:2/x", Protocol::Http))),
        (
            vec![
                own,
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ],
            Some(("http://t:2/x", Protocol::Grpc)),
        ),
        (vec![all, ("TRACING_ENABLED", "false")], None),
        (vec![grpc], None),
    ] {
        let traces = read_well(&typed).traces;
        let found = traces.as_ref().map(|traces| (traces.endpoint.as_str(), traces.protocol));
        assert_eq!(found, expected, "{typed:?}");
    }
}

#[test]
fn traces_are_named_by_us_then_by_opentelemetry_then_as_in_the_reference() {
    let on = ("TRACING_ENABLED", "1");
    for (typed, expected) in [
        (vec![on], "RateLimit"),
        (vec![on, ("OTEL_SERVICE_NAME", "otel")], "otel"),
        (vec![on, ("OTEL_SERVICE_NAME", "otel"), ("TRACING_SERVICE_NAME", "ours")], "ours"),
    ] {
        let name = read_well(&typed).traces.map(|traces| traces.service.name);
        assert_eq!(name.as_deref(), Some(expected), "{typed:?}");
    }
}

#[test]
fn extra_tags_become_labels_that_prometheus_takes() {
    let owned = |tags: &[(&str, &str)]| -> Vec<_> {
        tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    for (text, expected) in [
        ("a:1", owned(&[("a", "1")])),
        ("k8s-app:x:y, zone:eu", owned(&[("k8s_app", "x:y"), ("zone", "eu")])),
        ("", vec![]),
        ("a:", owned(&[("a", "")])),
    ] {
        assert_eq!(read_well(&[("EXTRA_TAGS", text)]).metrics.extra_tags, expected, "{text}");
    }
    for text in ["a", "1a:x", "key1:x", "a:1,a:2", ":x", "a-b:1,a_b:2"] {
        assert_eq!(refused(&[("EXTRA_TAGS", text)]), ["EXTRA_TAGS"], "{text}");
    }
}

#[test]
fn an_age_of_zero_lets_connections_live() {
    let max_age = |text| read_well(&[("GRPC_MAX_CONNECTION_AGE", text)]).serve.connections.max_age;
    assert_eq!(max_age("0"), None);
    assert_eq!(max_age("5m"), Some(Duration::from_secs(300)));
}

#[test]
fn a_socket_for_grpc_replaces_the_port() {
    let grpc = read_well(&[("GRPC_UDS", "/run/rls.sock"), ("GRPC_PORT", "1")]).listen.grpc;
    assert_eq!(grpc, Address::Unix("/run/rls.sock".into()));
}

#[test]
fn headers_have_the_configured_names_if_enabled() {
    let names = [("LIMIT_LIMIT_HEADER", "X-Limit"), ("LIMIT_RESET_HEADER", "X-Reset")];
    assert_eq!(read_well(&names).answers.custom_names, None);
    let enabled = [names[0], names[1], ("LIMIT_RESPONSE_HEADERS_ENABLED", "true")];
    let answers = read_well(&enabled).answers;
    assert_eq!(answers.style, HeaderStyle::None, "the reference's headers, and nothing else");
    let headers = answers.custom_names.expect("asked for");
    let found = [headers.limit, headers.remaining, headers.reset].map(|name| name.as_str().to_owned());
    assert_eq!(found, ["x-limit", "ratelimit-remaining", "x-reset"]);
    for (text, style) in [
        ("none", HeaderStyle::None),
        ("draft06", HeaderStyle::Draft06),
        ("X", HeaderStyle::X),
        ("ietf", HeaderStyle::Ietf),
    ] {
        let answers = read_well(&[("RESPONSE_HEADERS", text)]).answers;
        assert_eq!((answers.style, answers.custom_names), (style, None), "{text}");
    }
}

#[test]
fn a_prometheus_address_may_leave_out_the_host() {
    for (text, host, port) in
        [(":19001", "0.0.0.0", 19001), ("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:2", "::1", 2)]
    {
        let settings = read_well(&[("USE_PROMETHEUS", "true"), ("PROMETHEUS_ADDR", text)]);
        let address = settings.listen.prometheus.map(|(address, _)| address);
        assert_eq!(address, Some(Address::Tcp { host: host.to_owned(), port }), "{text}");
    }
}

#[test]
fn settings_of_envoy_gateway_are_read_or_reported_as_unsupported() {
    let settings = read_well(&[
        ("USE_STATSD", "false"),
        ("REDIS_SOCKET_TYPE", "tcp"),
        ("REDIS_URL", "redis.svc:6379"),
        ("USE_PROMETHEUS", "true"),
        ("PROMETHEUS_ADDR", ":19001"),
        ("PROMETHEUS_MAPPER_YAML", "/etc/statsd-exporter/conf.yaml"),
        ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true"),
        ("REDIS_POOL_SIZE", "20"),
        ("LOG_LEVEL", "info"),
    ]);
    let ignored: Vec<_> = settings.ignored.iter().map(|ignored| ignored.name).collect();
    assert_eq!(ignored, ["REDIS_POOL_SIZE"]);
    assert!(settings.statsd.is_none());
    assert!(settings.serve.health.ready_without_rules);
}

/// Envoy Gateway has no setting for counters in memory: it always names a Redis, and may name files for TLS to it.
#[test]
fn a_backend_that_is_memory_takes_precedence_over_the_address_of_redis() {
    let settings = read_well(&[
        ("BACKEND_TYPE", "memory"),
        ("REDIS_URL", "redis.svc:6379"),
        ("REDIS_TLS", "true"),
        ("REDIS_TLS_CLIENT_CERT", "/redis-certs/tls.crt"),
        ("REDIS_TLS_CLIENT_KEY", "/redis-certs/tls.key"),
    ]);
    assert!(matches!(settings.store, StoreSettings::Memory), "{:?}", settings.store);
}

#[test]
fn a_flag_is_its_variable_in_small_letters() {
    for Row { variable, flag, meaning, heading, .. } in table() {
        let expected = variable.to_ascii_lowercase().replace('_', "-");
        let expected = if variable == "RULES_PATH" { "rules" } else { &expected };
        assert_eq!(flag, format!("--{expected}"));
        assert!(!meaning.is_empty() && !heading.is_empty(), "{variable}");
    }
}

#[test]
fn the_docs_have_the_table_of_settings() {
    let docs = include_str!("../../docs/settings.md");
    let (begin, end) = ("<!-- settings -->\n", "<!-- /settings -->");
    let after = docs.split_once(begin).expect("docs/settings.md has the marker where the table begins").1;
    let found = after.split_once(end).expect("docs/settings.md has the marker where the table ends").0;
    assert!(
        found == markdown(),
        "docs/settings.md is out of date: put the output of `cargo run -- settings` between its markers"
    );
}

#[test]
fn logs_have_no_colour_where_the_terminal_has_none_or_the_operator_wants_none() {
    for (typed, color) in [
        (&[][..], true),
        (&[("TERM", "xterm-256color")], true),
        (&[("TERM", "dumb")], false),
        (&[("NO_COLOR", "1")], false),
    ] {
        assert_eq!(read_well(typed).logs.color, color, "{typed:?}");
    }
}
