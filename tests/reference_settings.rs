//! The variables of envoyproxy/ratelimit: each has its effect, or the start reports it.

use tollgate::settings::{Settings, table};

/// Every variable of envoyproxy/ratelimit, with a value that is not its default.
const REFERENCE: &[(&str, &str, Treatment)] = {
    use Treatment::{Accepted, Elsewhere, Honoured, Rejected};
    &[
        ("PROTO", "udp", Accepted),
        ("USE_CALENDAR_MONTH_RATE_LIMIT", "true", Accepted),
        ("HOST", "::", Honoured),
        ("PORT", "1", Honoured),
        ("DEBUG_HOST", "::", Honoured),
        ("DEBUG_PORT", "1", Honoured),
        ("GRPC_UDS", "/run/rl.sock", Honoured),
        ("GRPC_HOST", "::", Honoured),
        ("GRPC_PORT", "1", Honoured),
        ("GRPC_MAX_CONNECTION_AGE", "1h", Honoured),
        ("GRPC_MAX_CONNECTION_AGE_GRACE", "1m", Honoured),
        ("GRPC_SERVER_USE_TLS", "false", Honoured),
        ("GRPC_SERVER_TLS_CERT", "/certs/tls.crt", Honoured),
        ("GRPC_SERVER_TLS_KEY", "/certs/tls.key", Honoured),
        // Without GRPC_SERVER_USE_TLS, envoyproxy/ratelimit would serve every client.
        ("GRPC_CLIENT_TLS_CACERT", "/certs/ca.crt", Rejected),
        // Without GRPC_CLIENT_TLS_CACERT, it would check no name.
        ("GRPC_CLIENT_TLS_SAN", "envoy.example", Rejected),
        // Not a variable of envoyproxy/ratelimit: Envoy Gateway sets it.
        ("GRPC_SERVER_TLS_CA_CERT", "/certs/ca.crt", Accepted),
        ("LOG_LEVEL", "info", Honoured),
        ("LOG_FORMAT", "json", Honoured),
        ("CONFIG_TYPE", "FILE", Honoured),
        ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true", Honoured),
        ("CONFIG_GRPC_XDS_NODE_ID", "envoy-ratelimit", Elsewhere),
        ("CONFIG_GRPC_XDS_NODE_METADATA", "a=b", Elsewhere),
        ("CONFIG_GRPC_XDS_SERVER_URL", "xds:18001", Elsewhere),
        ("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", "4s", Elsewhere),
        ("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", "a:b", Elsewhere),
        ("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true", Elsewhere),
        ("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", "/certs/tls.crt", Elsewhere),
        ("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", "/certs/tls.key", Elsewhere),
        ("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", "/certs/ca.crt", Elsewhere),
        ("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "xds", Elsewhere),
        ("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "1s", Elsewhere),
        ("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "30s", Elsewhere),
        ("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", "0.1", Elsewhere),
        ("XDS_CLIENT_BACKOFF_JITTER", "false", Elsewhere),
        ("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "1000000", Elsewhere),
        ("USE_DOG_STATSD", "true", Elsewhere),
        ("USE_DOG_STATSD_MOGRIFIERS", "a", Elsewhere),
        ("USE_STATSD", "true", Elsewhere),
        ("STATSD_HOST", "statsd", Elsewhere),
        ("STATSD_PORT", "9125", Elsewhere),
        ("STATSD_PROTOCOL", "udp", Elsewhere),
        ("STATS_FLUSH_INTERVAL", "1s", Elsewhere),
        ("DISABLE_STATS", "true", Elsewhere),
        ("EXTRA_TAGS", "a:b", Honoured),
        ("USE_PROMETHEUS", "true", Honoured),
        ("PROMETHEUS_ADDR", ":19001", Honoured),
        ("PROMETHEUS_PATH", "/m", Honoured),
        ("PROMETHEUS_MAPPER_YAML", "/etc/statsd-exporter/conf.yaml", Elsewhere),
        ("PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS", "true", Elsewhere),
        ("RUNTIME_ROOT", "/data", Honoured),
        ("RUNTIME_SUBDIRECTORY", "ratelimit", Honoured),
        ("RUNTIME_APPDIRECTORY", "rules", Honoured),
        ("RUNTIME_IGNOREDOTFILES", "false", Accepted),
        ("RUNTIME_WATCH_ROOT", "x", Accepted),
        ("EXPIRATION_JITTER_MAX_SECONDS", "1", Honoured),
        ("LOCAL_CACHE_SIZE_IN_BYTES", "1", Honoured),
        ("NEAR_LIMIT_RATIO", "0.5", Honoured),
        ("CACHE_KEY_PREFIX", "a", Honoured),
        ("BACKEND_TYPE", "memcache", Rejected),
        ("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", "true", Honoured),
        ("LIMIT_RESPONSE_HEADERS_ENABLED", "true", Honoured),
        ("LIMIT_LIMIT_HEADER", "a", Honoured),
        ("LIMIT_REMAINING_HEADER", "a", Honoured),
        ("LIMIT_RESET_HEADER", "a", Honoured),
        ("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "true", Honoured),
        ("QUOTA_MODE", "true", Honoured),
        ("SHADOW_MODE", "true", Honoured),
        ("MERGE_DOMAIN_CONFIG", "true", Honoured),
        ("RESPONSE_DYNAMIC_METADATA", "true", Honoured),
        ("REDIS_SOCKET_TYPE", "tcp", Honoured),
        ("REDIS_TYPE", "SINGLE", Honoured),
        ("REDIS_URL", "redis:6379", Honoured),
        ("REDIS_AUTH", "a", Honoured),
        ("REDIS_SENTINEL_AUTH", "a", Honoured),
        ("REDIS_TLS", "true", Honoured),
        ("REDIS_TLS_CACERT", "/certs/ca.crt", Honoured),
        ("REDIS_TLS_CLIENT_CERT", "/certs/tls.crt", Honoured),
        ("REDIS_TLS_CLIENT_KEY", "/certs/tls.key", Honoured),
        ("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", "true", Honoured),
        ("REDIS_TIMEOUT", "1s", Honoured),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "1s", Honoured),
        ("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "true", Honoured),
        ("REDIS_POOL_SIZE", "20", Accepted),
        ("REDIS_POOL_ON_EMPTY_BEHAVIOR", "ERROR", Accepted),
        ("REDIS_PIPELINE_WINDOW", "1ms", Accepted),
        ("REDIS_PIPELINE_LIMIT", "8", Accepted),
        ("REDIS_CLUSTER_PIPELINE_PARALLELISM", "8", Accepted),
        ("REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR", "false", Accepted),
        ("REDIS_PERSECOND", "false", Honoured),
        ("REDIS_PERSECOND_SOCKET_TYPE", "tcp", Honoured),
        ("REDIS_PERSECOND_TYPE", "SINGLE", Honoured),
        ("REDIS_PERSECOND_URL", "redis:6379", Honoured),
        ("REDIS_PERSECOND_AUTH", "a", Honoured),
        ("REDIS_PERSECOND_SENTINEL_AUTH", "a", Honoured),
        ("REDIS_PERSECOND_TLS", "true", Honoured),
        ("REDIS_PERSECOND_TIMEOUT", "1s", Honoured),
        ("REDIS_PERSECOND_POOL_SIZE", "20", Accepted),
        ("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", "ERROR", Accepted),
        ("REDIS_PERSECOND_PIPELINE_WINDOW", "1ms", Accepted),
        ("REDIS_PERSECOND_PIPELINE_LIMIT", "8", Accepted),
        ("MEMCACHE_HOST_PORT", "memcache:11211", Accepted),
        ("MEMCACHE_MAX_IDLE_CONNS", "8", Accepted),
        ("MEMCACHE_SRV", "_memcache._tcp.example", Accepted),
        ("MEMCACHE_SRV_REFRESH", "1m", Accepted),
        ("MEMCACHE_TLS", "true", Accepted),
        ("MEMCACHE_TLS_CLIENT_CERT", "/certs/tls.crt", Accepted),
        ("MEMCACHE_TLS_CLIENT_KEY", "/certs/tls.key", Accepted),
        ("MEMCACHE_TLS_CACERT", "/certs/ca.crt", Accepted),
        ("MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", "true", Accepted),
        ("TRACING_ENABLED", "true", Honoured),
        ("TRACING_SERVICE_NAME", "a", Honoured),
        ("TRACING_SERVICE_NAMESPACE", "a", Honoured),
        ("TRACING_SERVICE_INSTANCE_ID", "a", Honoured),
        ("TRACING_EXPORTER_PROTOCOL", "grpc", Honoured),
        ("TRACING_SAMPLING_RATE", "0.5", Honoured),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318", Honoured),
    ]
};

/// Outcome of a variable that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// It is a setting.
    Honoured,
    /// It has no effect, which one line of the log reports.
    Accepted,
    /// It is an error.
    Rejected,
    /// Any of these.
    Elsewhere,
}

#[test]
fn every_variable_of_the_reference_is_honoured_or_reported() {
    let table = table();
    for (name, value, expected) in REFERENCE {
        let is_setting = table.iter().any(|row| row.variable == *name);
        // A certificate needs its key, and a key its certificate.
        let other = match name.strip_suffix("_CERT") {
            Some(name) => format!("{name}_KEY"),
            None => name.strip_suffix("_KEY").map_or_else(String::new, |name| format!("{name}_CERT")),
        };
        let pair = [(*name, *value), (&*other, "/certs/other")];
        let variables = if other.is_empty() { &pair[..1] } else { &pair };
        let found = match Settings::from_variables(variables) {
            Err(errors) => {
                assert!(errors.0.iter().all(|error| error.name == *name), "{name}: {errors}");
                Treatment::Rejected
            }
            Ok(settings) => {
                match (is_setting, settings.ignored.iter().any(|ignored| ignored.name == *name)) {
                    (true, false) => Treatment::Honoured,
                    (false, true) => Treatment::Accepted,
                    found => panic!("{name}={value} is a setting, and reported to have no effect: {found:?}"),
                }
            }
        };
        assert!(found == *expected || *expected == Treatment::Elsewhere, "{name}={value}: {found:?}");
    }
}
