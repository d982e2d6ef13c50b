//! Conversion of settings as typed to valid settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use secrecy::ExposeSecret as _;
use tracing_subscriber::filter::LevelFilter;

use super::collectors::CollectorTls;
use super::raw::{RawAnswers, RawCounters, RawListeners, RawMetrics, RawRules, RawTraces};
use super::reader::{HOUR, Reader, SettingErrors, YEAR};
use super::{
    RawSettings, Settings, StoreSettings, admin, candidate, collectors, exporters, otlp, redis, tls,
    unsupported, xds,
};
use crate::engine::rules::{CompileOptions, HashKey};
use crate::engine::{ChargeMode, FailurePolicy, KeyFormat, KeyWriter, Modes};
use crate::provider::Role;
use crate::provider::files::FileSettings;
use crate::server::{
    Address, AnswerSettings, BodySettings, ConnectionSettings, HeaderNames, HeaderStyle, HealthPolicy,
    ListenSettings, ServeSettings,
};
use crate::store::memory::MemorySettings;
use crate::telemetry::logs::{DecisionLogSettings, DecisionLogTarget, LogFormat, LogSettings};
use crate::telemetry::traces::{Protocol, TraceSettings};
use crate::tls::ClientTls;

/// Path of the rules in the image of envoyproxy/ratelimit.
const RUNTIME_ROOT: &str = "/srv/runtime_data/current";
const RUNTIME_APPDIRECTORY: &str = "config";
/// Path of the rules in a checkout.
const LOCAL_RULES: &str = "config";
/// Shortest secret: a shorter one could be guessed, and hashed values with it.
const HASH_KEY_BYTES_MIN: usize = 16;
/// Interval at which rule files are polled, in case the watch missed a change.
const RULES_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// See [`Settings::from_raw`].
pub(super) fn convert(
    raw: &RawSettings,
    environment: impl Fn(&str) -> Option<String>,
    exists: impl Fn(&Path) -> bool,
) -> Result<Settings, SettingErrors> {
    let mut reader = Reader::default();
    // https://no-color.org, and terminals that know no colours.
    let color = environment("NO_COLOR").is_none() && environment("TERM").as_deref() != Some("dumb");
    let store = store(raw, &mut reader);
    let rules = rules(&raw.rules, &raw.counters, &store, exists, &mut reader);
    let xds = xds::read(&raw.rules, &raw.xds, &mut reader);
    let reads_rule_files = xds.is_none() || raw.rules.rules_path.is_some();
    let CollectorTls { metrics: metrics_tls, traces: traces_tls } =
        collectors::read(&raw.collector_tls, &mut reader);
    let otlp_timeout = otlp::timeout(&raw.exporters, &mut reader);
    let settings = Settings {
        listen: listen(raw, &mut reader),
        serve: serve(&raw.listeners, &raw.rules, tls::read(&raw.tls, &raw.admin, &mut reader), &mut reader),
        admin_access: admin::access(&raw.admin, &mut reader),
        candidate: candidate::read(raw, reads_rule_files.then_some(&rules.path), &rules, &store, &mut reader),
        rules,
        reads_rule_files,
        xds,
        answers: answers(&raw.answers, &mut reader),
        modes: modes(&raw.answers, &mut reader),
        keys: keys(&raw.counters, &store, &mut reader),
        max_in_flight: reader.number(
            "MAX_REQUESTS_IN_FLIGHT",
            &raw.listeners.max_requests_in_flight,
            1..=1_000_000,
        ),
        store,
        memory: MemorySettings {
            max_counters: reader.number(
                "MEMORY_MAX_COUNTERS",
                &raw.counters.memory_max_counters,
                1_000..=1_000_000_000,
            ),
            max_bytes: reader.number("MEMORY_MAX_BYTES", &raw.counters.memory_max_bytes, 1 << 20..=1 << 50),
        },
        replicas: reader.number("REPLICAS", &raw.counters.replicas, 1..=100_000),
        metrics: exporters::metrics(raw, &mut reader),
        otlp: otlp::read(raw, metrics_tls, otlp_timeout, &mut reader),
        statsd: exporters::statsd(&raw.exporters, &environment, &mut reader),
        logs: logs(&raw.metrics, color, &mut reader),
        decision_log: decision_log(&raw.metrics, &mut reader),
        traces: traces(raw, traces_tls, otlp_timeout, &mut reader),
        ignored: exporters::mapper(&raw.exporters)
            .into_iter()
            .chain(unsupported::read(environment))
            .collect(),
    };
    reader.finish(settings)
}

fn listen(raw: &RawSettings, reader: &mut Reader) -> ListenSettings {
    let prometheus = exporters::prometheus(raw, reader);
    let admin = admin::listen(&raw.admin, reader);
    let raw = &raw.listeners;
    let mut tcp =
        |host: &str, name, text| Address::Tcp { host: host.to_owned(), port: reader.port(name, text) };
    let http = tcp(&raw.host, "PORT", &raw.port);
    let grpc = tcp(&raw.grpc_host, "GRPC_PORT", &raw.grpc_port);
    let debug = tcp(&raw.debug_host, "DEBUG_PORT", &raw.debug_port);
    let grpc = raw.grpc_uds.as_ref().map_or(grpc, |path| Address::Unix(path.into()));
    ListenSettings { http, grpc, debug, admin, prometheus }
}

fn serve(raw: &RawListeners, rules: &RawRules, tls: tls::ListenerTls, reader: &mut Reader) -> ServeSettings {
    let mut duration = |name, text: &str, max| reader.duration(name, text, Duration::ZERO..=max);
    let age = duration("GRPC_MAX_CONNECTION_AGE", &raw.grpc_max_connection_age, YEAR);
    let max_age_grace = duration("GRPC_MAX_CONNECTION_AGE_GRACE", &raw.grpc_max_connection_age_grace, YEAR);
    let shutdown_delay = duration("SHUTDOWN_DELAY", &raw.shutdown_delay, HOUR);
    let shutdown_timeout = duration("SHUTDOWN_TIMEOUT", &raw.shutdown_timeout, HOUR);
    ServeSettings {
        shutdown_delay,
        shutdown_timeout,
        grpc_tls: tls.grpc,
        http_tls: tls.http,
        admin_tls: tls.admin,
        connections: ConnectionSettings {
            max_age: (!age.is_zero()).then_some(age),
            max_age_grace,
            first_request_timeout: reader.duration(
                "FIRST_REQUEST_TIMEOUT",
                &raw.first_request_timeout,
                Duration::from_millis(100)..=HOUR,
            ),
            grpc_idle_timeout: idle_timeout("GRPC_IDLE_TIMEOUT", &raw.grpc_idle_timeout, reader),
            http_idle_timeout: idle_timeout("HTTP_IDLE_TIMEOUT", &raw.http_idle_timeout, reader),
        },
        bodies: BodySettings {
            timeout: reader.duration("BODY_TIMEOUT", &raw.body_timeout, Duration::from_millis(100)..=HOUR),
            max_unfinished_bytes: reader.number(
                "MAX_UNFINISHED_BODY_BYTES",
                &raw.max_unfinished_body_bytes,
                // The largest message takes half of it while its buffer grows.
                8 << 20..=1 << 50,
            ),
        },
        max_connections: reader.number("MAX_CONNECTIONS", &raw.max_connections, 1..=1_000_000),
        max_connections_per_address: raw
            .max_connections_per_address
            .as_deref()
            .map(|text| reader.number("MAX_CONNECTIONS_PER_ADDRESS", text, 1..=1_000_000)),
        threads: raw.threads.as_deref().map(|text| reader.number("THREADS", text, 1..=1_024)),
        health: HealthPolicy {
            needs_a_domain: reader.boolean(
                "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED",
                &rules.healthy_with_at_least_one_config_loaded,
            ),
            ready_without_rules: reader
                .boolean("FORCE_START_WITHOUT_INITIAL_CONFIG", &rules.force_start_without_initial_config),
        },
    }
}

fn idle_timeout(name: &'static str, text: &str, reader: &mut Reader) -> Option<Duration> {
    let timeout = reader.duration(name, text, Duration::ZERO..=YEAR);
    (!timeout.is_zero()).then_some(timeout)
}

fn rules(
    raw: &RawRules,
    counters: &RawCounters,
    store: &StoreSettings,
    exists: impl Fn(&Path) -> bool,
    reader: &mut Reader,
) -> FileSettings {
    let only_if_allowed = reader
        .boolean("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", &raw.stop_cache_key_increment_when_overlimit);
    let policies = FailurePolicy::ALL.map(|policy| (policy.name(), policy));
    let on_backend_failure = reader.choice("ON_BACKEND_FAILURE", &counters.on_backend_failure, &policies);
    FileSettings {
        path: rules_path(raw, exists),
        role: Role::Live,
        compile: CompileOptions {
            merge_domains: reader.boolean("MERGE_DOMAIN_CONFIG", &raw.merge_domain_config),
            charge: only_if_allowed.then_some(ChargeMode::IfAllowed),
            on_backend_failure: on_backend_failure.unwrap_or_default(),
            hash_key: hash_key(counters, reader),
            stores: store.capabilities(),
        },
        poll_interval: RULES_POLL_INTERVAL,
    }
}

fn hash_key(raw: &RawCounters, reader: &mut Reader) -> Option<HashKey> {
    let secret = raw.hash_key.as_ref()?.expose_secret();
    if secret.len() < HASH_KEY_BYTES_MIN {
        // Do not repeat the secret.
        reader.error("HASH_KEY", format!("a secret of {HASH_KEY_BYTES_MIN} bytes or more"), None);
    }
    Some(HashKey::new(secret.as_bytes()))
}

fn rules_path(raw: &RawRules, exists: impl Fn(&Path) -> bool) -> PathBuf {
    if let Some(path) = &raw.rules_path {
        return path.into();
    }
    let runtime = |root: &str| {
        let subdirectory = raw.runtime_subdirectory.as_deref().unwrap_or_default();
        let appdirectory = raw.runtime_appdirectory.as_deref().unwrap_or(RUNTIME_APPDIRECTORY);
        Path::new(root).join(subdirectory).join(appdirectory)
    };
    let asked = [&raw.runtime_root, &raw.runtime_subdirectory, &raw.runtime_appdirectory];
    let of_image = runtime(raw.runtime_root.as_deref().unwrap_or(RUNTIME_ROOT));
    if asked.iter().any(|setting| setting.is_some()) || exists(&of_image) {
        of_image
    } else {
        LOCAL_RULES.into()
    }
}

fn answers(raw: &RawAnswers, reader: &mut Reader) -> AnswerSettings {
    let mut header = |name, text: &str| {
        reader.read(name, text, "the name of an HTTP header", |text| text.parse::<HeaderName>().ok())
    };
    let limit = header("LIMIT_LIMIT_HEADER", &raw.limit_limit_header);
    let remaining = header("LIMIT_REMAINING_HEADER", &raw.limit_remaining_header);
    let reset = header("LIMIT_RESET_HEADER", &raw.limit_reset_header);
    let names = limit.zip(remaining).zip(reset);
    let names = names.map(|((limit, remaining), reset)| HeaderNames { limit, remaining, reset });
    let styles = [
        ("none", HeaderStyle::None),
        ("draft06", HeaderStyle::Draft06),
        ("x", HeaderStyle::X),
        ("ietf", HeaderStyle::Ietf),
    ];
    let style = reader.choice("RESPONSE_HEADERS", &raw.response_headers, &styles).unwrap_or_default();
    let enabled = reader.boolean("LIMIT_RESPONSE_HEADERS_ENABLED", &raw.limit_response_headers_enabled);
    AnswerSettings {
        style,
        custom_names: names.filter(|_| enabled),
        dynamic_metadata: reader.boolean("RESPONSE_DYNAMIC_METADATA", &raw.response_dynamic_metadata),
        http_refunds: reader.boolean("HTTP_REFUNDS", &raw.http_refunds),
    }
}

fn modes(raw: &RawAnswers, reader: &mut Reader) -> Modes {
    Modes {
        shadow_mode: reader.boolean("SHADOW_MODE", &raw.shadow_mode),
        quota_mode: reader.boolean("QUOTA_MODE", &raw.quota_mode),
        near_limit_ratio: reader.number("NEAR_LIMIT_RATIO", &raw.near_limit_ratio, 0.0..=1.0),
    }
}

fn keys(raw: &RawCounters, store: &StoreSettings, reader: &mut Reader) -> KeyWriter {
    let formats = [("native", KeyFormat::Native), ("envoyproxy", KeyFormat::Envoyproxy)];
    let format = reader.choice("CACHE_KEY_FORMAT", &raw.cache_key_format, &formats).unwrap_or_default();
    let expected = "a text without {}, which would disable the hash tags of rules";
    let prefix = reader.read("CACHE_KEY_PREFIX", &raw.cache_key_prefix, expected, |text| {
        (!text.contains("{}")).then(|| text.to_owned())
    });
    store.key_writer(format, &prefix.unwrap_or_default())
}

#[derive(Clone, Copy)]
enum Backend {
    Memory,
    Redis,
}

fn store(raw: &RawSettings, reader: &mut Reader) -> StoreSettings {
    let counters = &raw.counters;
    let backend = match counters.backend_type.as_deref() {
        None if raw.redis.redis_url.is_some() => Some(Backend::Redis),
        None => Some(Backend::Memory),
        Some(text) if text.eq_ignore_ascii_case("memcache") => {
            reader.error("BACKEND_TYPE", "memory or redis: memcache is not supported", Some(text));
            None
        }
        Some(text) => {
            reader.choice("BACKEND_TYPE", text, &[("memory", Backend::Memory), ("redis", Backend::Redis)])
        }
    };
    let redis = redis::read(&raw.redis, &raw.per_second, counters, reader);
    match (backend, redis) {
        (Some(Backend::Redis), Some(redis)) => {
            redis::check_files(&redis, reader);
            StoreSettings::Redis(Box::new(redis))
        }
        (Some(Backend::Redis), None) if raw.redis.redis_url.is_none() => {
            redis::error_if_missing(reader);
            StoreSettings::Memory
        }
        _ => StoreSettings::Memory,
    }
}

fn logs(raw: &RawMetrics, color: bool, reader: &mut Reader) -> LogSettings {
    // The levels fatal and panic of the reference mean an error here.
    let levels = [
        ("trace", LevelFilter::TRACE),
        ("debug", LevelFilter::DEBUG),
        ("info", LevelFilter::INFO),
        ("warn", LevelFilter::WARN),
        ("warning", LevelFilter::WARN),
        ("error", LevelFilter::ERROR),
        ("fatal", LevelFilter::ERROR),
        ("panic", LevelFilter::ERROR),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogSettings {
        level: reader.choice("LOG_LEVEL", &raw.log_level, &levels).unwrap_or(LevelFilter::WARN),
        format: reader.choice("LOG_FORMAT", &raw.log_format, &formats).unwrap_or_default(),
        color,
    }
}

fn decision_log(raw: &RawMetrics, reader: &mut Reader) -> Option<DecisionLogSettings> {
    let sample = reader.number("DECISION_LOG_SAMPLE", &raw.decision_log_sample, 0.0..=1.0);
    let target = match raw.decision_log.as_deref()? {
        "stdout" => DecisionLogTarget::Stdout,
        path => DecisionLogTarget::File(path.into()),
    };
    Some(DecisionLogSettings { target, sample })
}

fn traces(
    raw: &RawSettings,
    tls: ClientTls,
    timeout: Duration,
    reader: &mut Reader,
) -> Option<TraceSettings> {
    let timeout = otlp::trace_timeout(&raw.exporters, timeout, reader);
    let raw = &raw.traces;
    let endpoint =
        raw.otel_exporter_otlp_traces_endpoint.as_ref().or(raw.otel_exporter_otlp_endpoint.as_ref());
    let enabled = match raw.tracing_enabled.as_deref() {
        Some(text) => reader.boolean("TRACING_ENABLED", text),
        None => endpoint.is_some(),
    };
    let sampling_rate = reader.number("TRACING_SAMPLING_RATE", &raw.tracing_sampling_rate, 0.0..=1.0);
    let protocol = protocol(raw, reader);
    let endpoint = collector(raw, protocol, reader);
    enabled.then(|| TraceSettings {
        tls: endpoint.starts_with("https:").then_some(tls),
        endpoint,
        protocol,
        sampling_rate,
        timeout,
        service: otlp::service(raw),
    })
}

fn protocol(raw: &RawTraces, reader: &mut Reader) -> Protocol {
    let ours = [("http", Protocol::Http), ("grpc", Protocol::Grpc)];
    let standard = [("http/protobuf", Protocol::Http), ("grpc", Protocol::Grpc)];
    let mut read = |name, text: &Option<String>, choices: &[_]| reader.choice(name, text.as_ref()?, choices);
    let candidates = [
        read("TRACING_EXPORTER_PROTOCOL", &raw.tracing_exporter_protocol, &ours),
        read("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &raw.otel_exporter_otlp_traces_protocol, &standard),
        read("OTEL_EXPORTER_OTLP_PROTOCOL", &raw.otel_exporter_otlp_protocol, &standard),
    ];
    candidates.into_iter().flatten().next().unwrap_or(Protocol::Http)
}

/// Complete URL of the collector, as the OpenTelemetry specification defines it.
fn collector(raw: &RawTraces, protocol: Protocol, reader: &mut Reader) -> String {
    let mut read = |name, text: &Option<String>| {
        reader
            .read(name, text.as_ref()?, otlp::URL, |text| otlp::collector_url(text).map(|_| text.to_owned()))
    };
    let of_traces = read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &raw.otel_exporter_otlp_traces_endpoint);
    let of_all = read("OTEL_EXPORTER_OTLP_ENDPOINT", &raw.otel_exporter_otlp_endpoint);
    let below = |base: &str| format!("{}/v1/traces", base.trim_end_matches('/'));
    match (of_traces, of_all, protocol) {
        (Some(whole), _, _) => whole,
        (None, Some(base), Protocol::Grpc) => base,
        (None, Some(base), Protocol::Http) => below(&base),
        (None, None, Protocol::Grpc) => "http://localhost:4317".to_owned(),
        (None, None, Protocol::Http) => below("http://localhost:4318"),
    }
}
