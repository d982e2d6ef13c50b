//! What the operator types: one field for each setting, all of them text. A field's name is the
//! environment variable's in lower case, and the flag's with `_` for `-`; its comment is what `--help`
//! and docs/settings.md say.

use clap::Args;
use secrecy::SecretString;

/// Every setting as typed.
#[derive(Args, Debug)]
pub struct RawSettings {
    #[command(flatten, next_help_heading = "Listeners")]
    pub(super) listeners: RawListeners,
    #[command(flatten, next_help_heading = "Rules")]
    pub(super) rules: RawRules,
    #[command(flatten, next_help_heading = "Decisions and answers")]
    pub(super) answers: RawAnswers,
    #[command(flatten, next_help_heading = "Counters")]
    pub(super) counters: RawCounters,
    #[command(flatten, next_help_heading = "Redis")]
    pub(super) redis: RawRedis,
    #[command(flatten, next_help_heading = "A second Redis")]
    pub(super) per_second: RawPerSecond,
    #[command(flatten, next_help_heading = "Logs and metrics")]
    pub(super) metrics: RawMetrics,
    #[command(flatten, next_help_heading = "Traces")]
    pub(super) traces: RawTraces,
}

/// Where and how to listen.
#[derive(Args, Debug)]
pub(super) struct RawListeners {
    /// Address for HTTP: `POST /json`, `POST /v1/check` and `GET /healthcheck`.
    #[arg(long, env, default_value = "0.0.0.0", value_name = "HOST")]
    pub(super) host: String,
    /// Port for HTTP; 0 takes a free one.
    #[arg(long, env, default_value = "8080", value_name = "PORT")]
    pub(super) port: String,
    /// Address for gRPC: Envoy's `RateLimitService`, health and reflection.
    #[arg(long, env, default_value = "0.0.0.0", value_name = "HOST")]
    pub(super) grpc_host: String,
    /// Port for gRPC; 0 takes a free one.
    #[arg(long, env, default_value = "8081", value_name = "PORT")]
    pub(super) grpc_port: String,
    /// Unix socket for gRPC, in place of the address and port.
    #[arg(long, env, value_name = "PATH")]
    pub(super) grpc_uds: Option<String>,
    /// Address for debugging: `/rlconfig`, `/stats` and `/metrics`.
    #[arg(long, env, default_value = "0.0.0.0", value_name = "HOST")]
    pub(super) debug_host: String,
    /// Port for debugging; 0 takes a free one.
    #[arg(long, env, default_value = "6070", value_name = "PORT")]
    pub(super) debug_port: String,
    /// Age at which a gRPC connection is asked to go, give or take a tenth; 0 for never.
    #[arg(long, env, default_value = "24h", value_name = "DURATION")]
    pub(super) grpc_max_connection_age: String,
    /// How long a connection that was asked to go may finish its calls.
    #[arg(long, env, default_value = "1h", value_name = "DURATION")]
    pub(super) grpc_max_connection_age_grace: String,
    /// Close connections that have not sent a complete request this long after they were accepted, 100ms to 1h.
    /// Holds for every port.
    #[arg(long, env, default_value = "10s", value_name = "DURATION")]
    pub(super) first_request_timeout: String,
    /// Close gRPC connections after this long without a request; 0 for never. Keep it above the idle timeout of
    /// the proxies, which is 1h in Envoy, so that they close first.
    #[arg(long, env, default_value = "2h", value_name = "DURATION")]
    pub(super) grpc_idle_timeout: String,
    /// Close HTTP connections after this long without a request; 0 for never. Holds for the debug port too.
    #[arg(long, env, default_value = "60s", value_name = "DURATION")]
    pub(super) http_idle_timeout: String,
    /// Open connections, for gRPC and for HTTP each, 1 to 1,000,000. At the bound, the connection that has been
    /// idle longest is closed for a new one; if none is idle, new ones wait to be accepted.
    #[arg(long, env, default_value = "10000", value_name = "COUNT")]
    pub(super) max_connections: String,
    /// Connections of one client address that are kept at that bound, 1 to 1,000,000. An address with more
    /// closes its own before those of others. Unset: a quarter of `MAX_CONNECTIONS`.
    #[arg(long, env, value_name = "COUNT")]
    pub(super) max_connections_per_address: Option<String>,
    /// Requests that one thread works on at a time, 1 to 1,000,000; further ones are answered with
    /// UNAVAILABLE at once, and nothing is counted for them.
    #[arg(long, env, default_value = "5000", value_name = "COUNT")]
    pub(super) max_requests_in_flight: String,
    /// Threads that serve calls, 1 to 1,024. Unset: one for each core that the process may use.
    #[arg(long, env, value_name = "COUNT")]
    pub(super) threads: Option<String>,
    /// After SIGTERM, how long calls are still taken while health says NOT_SERVING, so that balancers
    /// notice. A few seconds behind Kubernetes services.
    #[arg(long, env, default_value = "0s", value_name = "DURATION")]
    pub(super) shutdown_delay: String,
    /// After that delay, how long calls in flight may take to finish.
    #[arg(long, env, default_value = "30s", value_name = "DURATION")]
    pub(super) shutdown_timeout: String,
}

/// Where rules come from.
#[derive(Args, Debug)]
pub(super) struct RawRules {
    /// Directory of rule files, or one file. Unset: the `RUNTIME_` settings, where one of them is set;
    /// else `/srv/runtime_data/current/config`, where that exists; else `config`.
    #[arg(long = "rules", env, value_name = "PATH")]
    pub(super) rules_path: Option<String>,
    /// Directory of rule files, or one file, to try out: a whole set of rules that is counted by itself
    /// beside the one in force, compared with it, and never enforced. In memory its counters take as much
    /// room again at the most. Not below the rules' path, whose files are in force. Unset: none.
    #[arg(long, env, value_name = "PATH")]
    pub(super) candidate_config: Option<String>,
    /// First part of the rules' path: `<root>/<subdirectory>/<appdirectory>`.
    /// Unset: `/srv/runtime_data/current`.
    #[arg(long, env, value_name = "PATH")]
    pub(super) runtime_root: Option<String>,
    /// Second part of the rules' path. Unset: none.
    #[arg(long, env, value_name = "PATH")]
    pub(super) runtime_subdirectory: Option<String>,
    /// Last part of the rules' path. Unset: `config`.
    #[arg(long, env, value_name = "PATH")]
    pub(super) runtime_appdirectory: Option<String>,
    /// Where rules come from: `FILE` is all there is so far.
    #[arg(long, env, default_value = "FILE", value_name = "TYPE")]
    pub(super) config_type: String,
    /// Join the rules of files that have one domain, where a second file would be an error.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) merge_domain_config: String,
    /// Count nothing of a request that is denied, where rules say nothing of `charge`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) stop_cache_key_increment_when_overlimit: String,
    /// Say NOT_SERVING while no domain has rules.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) healthy_with_at_least_one_config_loaded: String,
}

/// What is decided, and what is told of it.
#[derive(Args, Debug)]
pub(super) struct RawAnswers {
    /// Deny nothing: what would be denied is counted and passes.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) shadow_mode: String,
    /// Treat every rule as one with `quota_mode`: they deny only all together.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) quota_mode: String,
    /// Share of a limit past which hits count as near it, 0 to 1.
    #[arg(long, env, default_value = "0.8", value_name = "RATIO")]
    pub(super) near_limit_ratio: String,
    /// Response headers that tell of the limit: `none`, `draft06` (`RateLimit-Limit`, `-Remaining`, `-Reset`),
    /// `x` (`X-RateLimit-Limit`, `-Remaining`, `-Reset`) or `ietf` (`RateLimit-Policy`, `RateLimit`). With any
    /// but `none` a denial also has `Retry-After`, `X-RateLimit-Failed-Layer` and `X-RateLimit-Type`.
    #[arg(long, env, default_value = "none", value_name = "STYLE")]
    pub(super) response_headers: String,
    /// Answer with the three headers below, in place of those of `RESPONSE_HEADERS`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) limit_response_headers_enabled: String,
    /// Header that carries the limit.
    #[arg(long, env, default_value = "RateLimit-Limit", value_name = "HEADER")]
    pub(super) limit_limit_header: String,
    /// Header that carries what is left of it.
    #[arg(long, env, default_value = "RateLimit-Remaining", value_name = "HEADER")]
    pub(super) limit_remaining_header: String,
    /// Header that carries the seconds until it is whole again.
    #[arg(long, env, default_value = "RateLimit-Reset", value_name = "HEADER")]
    pub(super) limit_reset_header: String,
    /// Answer with the request and the metadata of its rules as dynamic metadata.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) response_dynamic_metadata: String,
}

/// How hits are counted.
#[derive(Args, Debug)]
pub(super) struct RawCounters {
    /// Where counters live: `memory` (in this process) or `redis`. Unset: redis where `REDIS_URL` is
    /// set, else memory.
    #[arg(long, env, value_name = "TYPE")]
    pub(super) backend_type: Option<String>,
    /// Text that every counter's key begins with; without `{}`.
    #[arg(long, env, default_value = "", value_name = "TEXT")]
    pub(super) cache_key_prefix: String,
    /// How counters are named: `native`, or `envoyproxy` for the names of envoyproxy/ratelimit, so that
    /// both can count in one Redis.
    #[arg(long, env, default_value = "native", value_name = "FORMAT")]
    pub(super) cache_key_format: String,
    /// Secret that values are hashed with where rules say `normalize: [hash]`, 16 bytes or more; the same
    /// for every replica. Another one makes counters of hashed values begin at zero.
    #[arg(long, env, value_name = "SECRET")]
    pub(super) hash_key: Option<SecretString>,
    /// Counters in Redis outlive their window by a random time of up to this many seconds, 0 to
    /// 86,400, so that they do not all expire at once.
    #[arg(long, env, default_value = "300", value_name = "SECONDS")]
    pub(super) expiration_jitter_max_seconds: String,
    /// Upper bound on the counters in memory, 1,000 to 1,000,000,000. At the bound a new counter takes the place
    /// of an expired or little used one.
    #[arg(long, env, default_value = "1000000", value_name = "COUNT")]
    pub(super) memory_max_counters: String,
    /// Upper bound on the bytes that counters in memory take, 1,048,576 or more: about 110 for each and its
    /// key, and 16 more for every moment of hits that a `sliding_log` remembers. At the bound it is as with
    /// `MEMORY_MAX_COUNTERS`.
    #[arg(long, env, default_value = "268435456", value_name = "BYTES")]
    pub(super) memory_max_bytes: String,
    /// Memory for keys that are known to be over their limit, in bytes: Redis is not asked about them
    /// for a second. 0 for none.
    #[arg(long, env, default_value = "16777216", value_name = "BYTES")]
    pub(super) local_cache_size_in_bytes: String,
    /// What becomes of a descriptor when the store fails, where rules say nothing of
    /// `on_backend_failure`: `error` (the call fails), `allow`, `deny` or `local` (this replica counts in
    /// its own memory).
    #[arg(long, env, default_value = "error", value_name = "POLICY")]
    pub(super) on_backend_failure: String,
    /// How many replicas share the limits, 1 to 100,000: with `on_backend_failure: local` each enforces
    /// its share.
    #[arg(long, env, default_value = "1", value_name = "COUNT")]
    pub(super) replicas: String,
}

/// How to reach Redis.
#[derive(Args, Debug)]
pub(super) struct RawRedis {
    /// Where Redis is. One server: `host:port`, `/path/of/a.sock` or
    /// `redis://[user:password@]host[:port][/database]`. Sentinels: `primary,host:port,host:port` with
    /// `REDIS_TYPE`, or `redis-sentinel://[user:password@]host:port,host:port/primary[/database]`. A
    /// cluster: `host:port,host:port` with `REDIS_TYPE`, or `redis-cluster://host:port,host:port`.
    /// `rediss` for `redis` means TLS.
    #[arg(long, env, value_name = "URL")]
    pub(super) redis_url: Option<SecretString>,
    /// How Redis is run: `SINGLE`, `SENTINEL` or `CLUSTER`. Unset: what `REDIS_URL` says, else `SINGLE`.
    #[arg(long, env, value_name = "TYPE")]
    pub(super) redis_type: Option<String>,
    /// What `REDIS_URL` is: `tcp` or `unix`. Unset: what it looks like.
    #[arg(long, env, value_name = "TYPE")]
    pub(super) redis_socket_type: Option<String>,
    /// Password, or `user:password`, in place of what `REDIS_URL` says.
    #[arg(long, env, value_name = "SECRET")]
    pub(super) redis_auth: Option<SecretString>,
    /// File that holds the password, or `user:password`. It is read for each new connection.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_auth_file: Option<String>,
    /// Password, or `user:password`, of the Sentinels.
    #[arg(long, env, value_name = "SECRET")]
    pub(super) redis_sentinel_auth: Option<SecretString>,
    /// File that holds the password, or `user:password`, of the Sentinels. It is read for each new
    /// connection.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_sentinel_auth_file: Option<String>,
    /// Speak TLS to Redis, and to its Sentinels. Unset: where `REDIS_URL` begins with `rediss`.
    #[arg(long, env, value_name = "BOOL")]
    pub(super) redis_tls: Option<String>,
    /// File of certificates, in PEM, that may have signed the servers'. Unset: those that the system
    /// trusts.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_tls_cacert: Option<String>,
    /// File of the certificate, in PEM, to show to servers that ask for one. Needs the key.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_tls_client_cert: Option<String>,
    /// File of that certificate's private key, in PEM.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_tls_client_key: Option<String>,
    /// Accept certificates that are for another name than the server's. Who signed them is still checked.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) redis_tls_skip_hostname_verification: String,
    /// How long a connection to Redis may take to come up, 1ms to 1h.
    #[arg(long, env, default_value = "10s", value_name = "DURATION")]
    pub(super) redis_timeout: String,
    /// How long Redis may take to answer, 1ms to 1m. Best below the timeout of Envoy's filter, which is
    /// 20ms unless set.
    #[arg(long, env, default_value = "10ms", value_name = "DURATION")]
    pub(super) redis_call_timeout: String,
    /// How long to wait for Redis at the start, up to a year, before giving up. 0: serve at once, and use
    /// Redis as soon as it is there.
    #[arg(long, env, default_value = "0s", value_name = "DURATION")]
    pub(super) redis_startup_max_elapsed_time: String,
    /// Say NOT_SERVING while Redis cannot be reached.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) redis_health_check_active_connection: String,
}

/// How to reach the second Redis. What is not here is as for the first.
#[derive(Args, Debug)]
pub(super) struct RawPerSecond {
    /// Count limits per second in a Redis of their own. Unless this is true, nothing below is looked at.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) redis_persecond: String,
    /// Where that Redis is, written as `REDIS_URL` is.
    #[arg(long, env, value_name = "URL")]
    pub(super) redis_persecond_url: Option<SecretString>,
    /// How it is run, as `REDIS_TYPE` says it.
    #[arg(long, env, value_name = "TYPE")]
    pub(super) redis_persecond_type: Option<String>,
    /// What `REDIS_PERSECOND_URL` is: `tcp` or `unix`. Unset: what it looks like.
    #[arg(long, env, value_name = "TYPE")]
    pub(super) redis_persecond_socket_type: Option<String>,
    /// Password, or `user:password`, in place of what `REDIS_PERSECOND_URL` says.
    #[arg(long, env, value_name = "SECRET")]
    pub(super) redis_persecond_auth: Option<SecretString>,
    /// File that holds the password, or `user:password`. It is read for each new connection.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_persecond_auth_file: Option<String>,
    /// Password, or `user:password`, of its Sentinels.
    #[arg(long, env, value_name = "SECRET")]
    pub(super) redis_persecond_sentinel_auth: Option<SecretString>,
    /// File that holds the password, or `user:password`, of its Sentinels. It is read for each new
    /// connection.
    #[arg(long, env, value_name = "PATH")]
    pub(super) redis_persecond_sentinel_auth_file: Option<String>,
    /// Speak TLS to it, with the files of `REDIS_TLS_`. Unset: where its URL begins with `rediss`.
    #[arg(long, env, value_name = "BOOL")]
    pub(super) redis_persecond_tls: Option<String>,
    /// How long a connection to it may take to come up, 1ms to 1h. Unset: as `REDIS_TIMEOUT` says.
    #[arg(long, env, value_name = "DURATION")]
    pub(super) redis_persecond_timeout: Option<String>,
}

/// What is logged and counted.
#[derive(Args, Debug)]
pub(super) struct RawMetrics {
    /// Least grave level to log: `trace`, `debug`, `info`, `warn` or `error`.
    #[arg(long, env, default_value = "WARN", value_name = "LEVEL")]
    pub(super) log_level: String,
    /// How a line of the log looks: `text` or `json`.
    #[arg(long, env, default_value = "text", value_name = "FORMAT")]
    pub(super) log_format: String,
    /// Serve metrics at `PROMETHEUS_ADDR` too; the debug port always has them at `/metrics`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) use_prometheus: String,
    /// Address for metrics, `[host]:port`.
    #[arg(long, env, default_value = ":9090", value_name = "ADDRESS")]
    pub(super) prometheus_addr: String,
    /// Path that metrics are at.
    #[arg(long, env, default_value = "/metrics", value_name = "PATH")]
    pub(super) prometheus_path: String,
    /// Labels for every series of a rule: `name:value,name:value`.
    #[arg(long, env, default_value = "", value_name = "TAGS")]
    pub(super) extra_tags: String,
    /// Series at the most, 0 to 1,000,000, of rules with `detailed_metric` or `value_to_metric` and of
    /// limits that callers bring. Past them a domain counts in one series named `other`.
    #[arg(long, env, default_value = "10000", value_name = "COUNT")]
    pub(super) detailed_metric_max_series: String,
}

/// Where spans go.
#[derive(Args, Debug)]
pub(super) struct RawTraces {
    /// Send traces over OTLP. Unset: where an `OTEL_EXPORTER_OTLP_` endpoint is set.
    #[arg(long, env, value_name = "BOOL")]
    pub(super) tracing_enabled: Option<String>,
    /// Name of this service in traces. Unset: `OTEL_SERVICE_NAME`, else `RateLimit`.
    #[arg(long, env, value_name = "TEXT")]
    pub(super) tracing_service_name: Option<String>,
    /// Namespace of this service in traces.
    #[arg(long, env, value_name = "TEXT")]
    pub(super) tracing_service_namespace: Option<String>,
    /// Name of this replica in traces.
    #[arg(long, env, value_name = "TEXT")]
    pub(super) tracing_service_instance_id: Option<String>,
    /// Share of traces that begin here which is sent, 0 to 1.
    #[arg(long, env, default_value = "1", value_name = "RATIO")]
    pub(super) tracing_sampling_rate: String,
    /// How the collector is spoken to: `grpc` or `http`. Unset: `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`,
    /// else `OTEL_EXPORTER_OTLP_PROTOCOL`, else `http`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(super) tracing_exporter_protocol: Option<String>,
    /// Protocol for traces alone: `grpc` or `http/protobuf`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(super) otel_exporter_otlp_traces_protocol: Option<String>,
    /// Protocol for everything: `grpc` or `http/protobuf`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(super) otel_exporter_otlp_protocol: Option<String>,
    /// Collector for traces alone: the whole URL.
    #[arg(long, env, value_name = "URL")]
    pub(super) otel_exporter_otlp_traces_endpoint: Option<String>,
    /// Collector for everything: over HTTP, traces go to `/v1/traces` below it.
    /// Unset: `http://localhost:4318`, or port 4317 over gRPC.
    #[arg(long, env, value_name = "URL")]
    pub(super) otel_exporter_otlp_endpoint: Option<String>,
    /// Name of this service in traces, where `TRACING_SERVICE_NAME` is unset.
    #[arg(long, env, value_name = "TEXT")]
    pub(super) otel_service_name: Option<String>,
}
