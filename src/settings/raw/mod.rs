//! Settings as typed: one field for each, all of them text. A field's name is the
//! environment variable's in lower case, and the flag's with `_` for `-`; its comment is what `--help`
//! and docs/settings.md say.

mod collectors;
mod exporters;
mod redis;
mod traces;
mod xds;

use clap::Args;
use secrecy::SecretString;

pub(super) use self::collectors::RawCollectorTls;
pub(super) use self::exporters::RawExporters;
pub(super) use self::redis::{RawPerSecond, RawRedis};
pub(super) use self::traces::RawTraces;
pub(super) use self::xds::RawXds;

/// Every setting as typed.
#[derive(Args, Debug)]
pub struct RawSettings {
    #[command(flatten, next_help_heading = "Listeners")]
    pub(super) listeners: RawListeners,
    #[command(flatten, next_help_heading = "TLS of the listeners")]
    pub(super) tls: RawTls,
    #[command(flatten, next_help_heading = "Admin listener")]
    pub(super) admin: RawAdmin,
    #[command(flatten, next_help_heading = "Rules")]
    pub(super) rules: RawRules,
    #[command(flatten, next_help_heading = "Rules over xDS")]
    pub(super) xds: RawXds,
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
    #[command(flatten, next_help_heading = "Metrics exporters")]
    pub(super) exporters: RawExporters,
    #[command(flatten, next_help_heading = "Traces")]
    pub(super) traces: RawTraces,
    #[command(flatten, next_help_heading = "TLS to collectors")]
    pub(super) collector_tls: RawCollectorTls,
}

/// Listeners.
#[derive(Args, Debug)]
pub(super) struct RawListeners {
    /// Address of the HTTP listener: `POST /json`, `POST /v1/check` and the probes `/healthcheck`, `/livez` and
    /// `/readyz`. `::` listens on IPv6 and IPv4, or on IPv4 alone if the machine has no IPv6.
    #[arg(long, env, default_value = "0.0.0.0", value_name = "HOST")]
    pub(super) host: String,
    /// Port of the HTTP listener; 0 for a free one.
    #[arg(long, env, default_value = "8080", value_name = "PORT")]
    pub(super) port: String,
    /// Address of the gRPC listener: Envoy's `RateLimitService`, health and reflection.
    #[arg(long, env, default_value = "0.0.0.0", value_name = "HOST")]
    pub(super) grpc_host: String,
    /// Port of the gRPC listener; 0 for a free one.
    #[arg(long, env, default_value = "8081", value_name = "PORT")]
    pub(super) grpc_port: String,
    /// Unix socket of the gRPC listener, in place of address and port.
    #[arg(long, env, value_name = "PATH")]
    pub(super) grpc_uds: Option<String>,
    /// Address of the debug listener: `/metrics`, `/stats`, `/rlconfig` and `/lockouts`. It has no access control:
    /// keep it private.
    #[arg(long, env, default_value = "0.0.0.0", value_name = "HOST")]
    pub(super) debug_host: String,
    /// Port of the debug listener; 0 for a free one.
    #[arg(long, env, default_value = "6070", value_name = "PORT")]
    pub(super) debug_port: String,
    /// Age at which a gRPC connection gets a GOAWAY, randomised by up to 10 % in both directions; 0 for never.
    #[arg(long, env, default_value = "24h", value_name = "DURATION")]
    pub(super) grpc_max_connection_age: String,
    /// Time after the GOAWAY in which a connection may finish its calls before it is closed.
    #[arg(long, env, default_value = "1h", value_name = "DURATION")]
    pub(super) grpc_max_connection_age_grace: String,
    /// Close connections that have not sent a complete request this long after they were accepted, 100ms to 1h.
    /// Applies to every port.
    #[arg(long, env, default_value = "10s", value_name = "DURATION")]
    pub(super) first_request_timeout: String,
    /// Close gRPC connections after this long without a request; 0 for never. Keep it above the idle timeout of
    /// the proxies, which is 1h in Envoy, so that they close first.
    #[arg(long, env, default_value = "2h", value_name = "DURATION")]
    pub(super) grpc_idle_timeout: String,
    /// Close HTTP connections after this long without a request; 0 for never. Applies to the debug port too.
    #[arg(long, env, default_value = "60s", value_name = "DURATION")]
    pub(super) http_idle_timeout: String,
    /// Upper bound on open connections, for gRPC and for HTTP separately, 1 to 1,000,000. At the bound, the
    /// connection that has been idle longest is closed for a new one; if none is idle, new ones wait to be accepted.
    #[arg(long, env, default_value = "10000", value_name = "COUNT")]
    pub(super) max_connections: String,
    /// Upper bound on the connections of one client address while `MAX_CONNECTIONS` is reached, 1 to 1,000,000. An
    /// address above it loses its own connections before those of others. Unset: a quarter of `MAX_CONNECTIONS`.
    #[arg(long, env, value_name = "COUNT")]
    pub(super) max_connections_per_address: Option<String>,
    /// Upper bound on requests in flight per thread, 1 to 1,000,000. At the bound, the oldest request with an
    /// incomplete body fails with UNAVAILABLE, or the new request if there is none. It counts nothing.
    #[arg(long, env, default_value = "5000", value_name = "COUNT")]
    pub(super) max_requests_in_flight: String,
    /// Upper bound on the time from a request's headers to the last byte of its body, 100ms to 1h. Applies to gRPC
    /// and HTTP.
    #[arg(long, env, default_value = "5s", value_name = "DURATION")]
    pub(super) body_timeout: String,
    /// Upper bound on the bytes buffered for incomplete request bodies, in the whole process, 8,388,608 or more. At
    /// the bound, the oldest of these requests fails with UNAVAILABLE.
    #[arg(long, env, default_value = "67108864", value_name = "BYTES")]
    pub(super) max_unfinished_body_bytes: String,
    /// Threads that serve calls, 1 to 1,024. Unset: one per core that the process may use.
    #[arg(long, env, value_name = "COUNT")]
    pub(super) threads: Option<String>,
    /// Keep accepting calls for this long after SIGTERM while health reports NOT_SERVING, so that load
    /// balancers drain this replica first. Set it above their health-check interval.
    #[arg(long, env, default_value = "0s", value_name = "DURATION")]
    pub(super) shutdown_delay: String,
    /// Upper bound on the time after `SHUTDOWN_DELAY` in which calls in flight may finish.
    #[arg(long, env, default_value = "30s", value_name = "DURATION")]
    pub(super) shutdown_timeout: String,
}

/// TLS of the listeners.
#[derive(Args, Debug)]
pub(super) struct RawTls {
    /// Serve gRPC over TLS, and nothing in plain text at its address.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) grpc_server_use_tls: String,
    /// File with the certificate, followed by the intermediate certificates, in PEM. All files of certificates and
    /// keys are read again when they change.
    #[arg(long, env, value_name = "PATH")]
    pub(super) grpc_server_tls_cert: Option<String>,
    /// File of the certificate's private key, in PEM, without a passphrase.
    #[arg(long, env, value_name = "PATH")]
    pub(super) grpc_server_tls_key: Option<String>,
    /// File with CA certificates, in PEM. One of them must have signed the certificate of a gRPC client. Unset:
    /// clients need no certificate.
    #[arg(long, env, value_name = "PATH")]
    pub(super) grpc_client_tls_cacert: Option<String>,
    /// Accepted names of gRPC clients, separated by commas: DNS names, IP addresses or URIs such as SPIFFE ids. The
    /// certificate of a client must have one of them. Unset: any name.
    #[arg(long, env, value_name = "NAMES")]
    pub(super) grpc_client_tls_san: Option<String>,
    /// Serve HTTP over TLS, with the certificate and key above. HTTP clients need no certificate.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) http_server_use_tls: String,
}

/// The admin listener.
#[derive(Args, Debug)]
pub(super) struct RawAdmin {
    /// Address of the admin listener: the console at `/` and its API. An address other than loopback needs
    /// authentication.
    #[arg(long, env, default_value = "127.0.0.1", value_name = "HOST")]
    pub(super) admin_host: String,
    /// Port of the admin listener; 0 for a free one, `off` for none.
    #[arg(long, env, default_value = "6071", value_name = "PORT")]
    pub(super) admin_port: String,
    /// File with tokens for the admin listener, one a line: `view:TOKEN`, `operate:TOKEN` or `admin:TOKEN`. `# NAME`
    /// after a token names its bearer in the audit log. The file is read again when it changes. Without any
    /// authentication, only clients on this machine are served, and they may only read.
    #[arg(long, env, value_name = "PATH")]
    pub(super) admin_token_file: Option<String>,
    /// Addresses or networks of proxies that authenticate users, separated by commas. Their headers name the
    /// user; those of other peers are ignored.
    #[arg(long, env, value_name = "NETWORKS")]
    pub(super) admin_trusted_proxies: Option<String>,
    /// Header in which these proxies send the name of the user. They must remove it from the requests of clients.
    #[arg(long, env, default_value = "x-forwarded-user", value_name = "HEADER")]
    pub(super) admin_user_header: String,
    /// Header in which these proxies send the groups of the user, separated by commas. They must remove it from
    /// the requests of clients.
    #[arg(long, env, default_value = "x-forwarded-groups", value_name = "HEADER")]
    pub(super) admin_groups_header: String,
    /// Roles of groups as `GROUP=ROLE`, separated by commas; the group `*` has every user. A user has the highest
    /// role of its groups.
    #[arg(long, env, value_name = "ROLES")]
    pub(super) admin_group_roles: Option<String>,
    /// Serve the admin listener over TLS, with `GRPC_SERVER_TLS_CERT` and `GRPC_SERVER_TLS_KEY`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) admin_server_use_tls: String,
    /// File of the CA certificates, in PEM, that sign the certificates of admin clients. Clients without a
    /// certificate can still authenticate otherwise.
    #[arg(long, env, value_name = "PATH")]
    pub(super) admin_client_tls_cacert: Option<String>,
    /// Roles of clients by a name in their certificate as `NAME=ROLE`, separated by commas: DNS names, IP
    /// addresses or URIs such as SPIFFE ids. The first name that matches decides.
    #[arg(long, env, value_name = "ROLES")]
    pub(super) admin_client_roles: Option<String>,
}

/// Sources of rules.
#[derive(Args, Debug)]
pub(super) struct RawRules {
    /// Directory of rule files, or one file. Unset: the path from the `RUNTIME_` settings if one of them is
    /// set, else `/srv/runtime_data/current/config` if it exists, else `config`.
    #[arg(long = "rules", env, value_name = "PATH")]
    pub(super) rules_path: Option<String>,
    /// Directory of rule files, or one file, with candidate rules: a complete rule set that is evaluated beside the
    /// rules in force, on counters of its own, and never enforced. It must not lie below the rules path. With
    /// counters in memory, it can double their memory. Unset: none.
    #[arg(long, env, value_name = "PATH")]
    pub(super) candidate_config: Option<String>,
    /// First part of the rules path `<root>/<subdirectory>/<appdirectory>`. Unset:
    /// `/srv/runtime_data/current`.
    #[arg(long, env, value_name = "PATH")]
    pub(super) runtime_root: Option<String>,
    /// Second part of the rules path. Unset: none.
    #[arg(long, env, value_name = "PATH")]
    pub(super) runtime_subdirectory: Option<String>,
    /// Last part of the rules path. Unset: `config`.
    #[arg(long, env, value_name = "PATH")]
    pub(super) runtime_appdirectory: Option<String>,
    /// Source of rules: `FILE`, or a management server by `GRPC_XDS_SOTW` or `GRPC_XDS_DELTA` (docs/xds.md). With
    /// a management server, files are read too if `RULES_PATH` is set.
    #[arg(long, env, default_value = "FILE", value_name = "TYPE")]
    pub(super) config_type: String,
    /// Merge the rules of files with the same domain, instead of reporting an error.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) merge_domain_config: String,
    /// Count nothing for a denied request, unless the rule sets `charge`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) stop_cache_key_increment_when_overlimit: String,
    /// Report SERVING before the first rules are loaded; calls fail until then.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) force_start_without_initial_config: String,
    /// Report NOT_SERVING while no domain has rules.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) healthy_with_at_least_one_config_loaded: String,
}

/// Decisions and answers.
#[derive(Args, Debug)]
pub(super) struct RawAnswers {
    /// Deny nothing: requests above a limit are counted and pass.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) shadow_mode: String,
    /// Treat every rule as if it had `quota_mode`: a request is denied only if all of its rules are exceeded.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) quota_mode: String,
    /// Share of a limit above which hits count as near it, 0 to 1.
    #[arg(long, env, default_value = "0.8", value_name = "RATIO")]
    pub(super) near_limit_ratio: String,
    /// Response headers with the limit: `none`, `draft06` (`RateLimit-Limit`, `-Remaining`, `-Reset`), `x`
    /// (`X-RateLimit-Limit`, `-Remaining`, `-Reset`) or `ietf` (`RateLimit-Policy`, `RateLimit`). All but
    /// `none` add `Retry-After`, `X-RateLimit-Failed-Layer` and `X-RateLimit-Type` to a denial.
    #[arg(long, env, default_value = "none", value_name = "STYLE")]
    pub(super) response_headers: String,
    /// Add the three headers below, in place of those of `RESPONSE_HEADERS`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) limit_response_headers_enabled: String,
    /// Header with the limit.
    #[arg(long, env, default_value = "RateLimit-Limit", value_name = "HEADER")]
    pub(super) limit_limit_header: String,
    /// Header with the remaining hits.
    #[arg(long, env, default_value = "RateLimit-Remaining", value_name = "HEADER")]
    pub(super) limit_remaining_header: String,
    /// Header with the seconds until the limit resets.
    #[arg(long, env, default_value = "RateLimit-Reset", value_name = "HEADER")]
    pub(super) limit_reset_header: String,
    /// Return the request and the metadata of its rules as Envoy's dynamic metadata.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) response_dynamic_metadata: String,
    /// Accept refunds (`isNegativeHits`) over HTTP. Disable them where untrusted clients reach the HTTP port.
    #[arg(long, env, default_value = "true", value_name = "BOOL")]
    pub(super) http_refunds: String,
}

/// Counters.
#[derive(Args, Debug)]
pub(super) struct RawCounters {
    /// Store of the counters: `memory` (in this process) or `redis`. Unset: `redis` if `REDIS_URL` is set,
    /// else `memory`.
    #[arg(long, env, value_name = "TYPE")]
    pub(super) backend_type: Option<String>,
    /// Prefix of every counter's key. It must not contain `{}`.
    #[arg(long, env, default_value = "", value_name = "TEXT")]
    pub(super) cache_key_prefix: String,
    /// Format of counter keys: `native`, or `envoyproxy` for those of envoyproxy/ratelimit, so that both
    /// services can count in one Redis.
    #[arg(long, env, default_value = "native", value_name = "FORMAT")]
    pub(super) cache_key_format: String,
    /// Secret for values that rules hash (`normalize: [hash]`), 16 bytes or more; the same on every replica.
    /// Counters of hashed values start at zero if it changes.
    #[arg(long, env, value_name = "SECRET")]
    pub(super) hash_key: Option<SecretString>,
    /// Upper bound on the random extra TTL of counters in Redis, in seconds, 0 to 86,400, so that they do not
    /// all expire at once.
    #[arg(long, env, default_value = "300", value_name = "SECONDS")]
    pub(super) expiration_jitter_max_seconds: String,
    /// Upper bound on the counters in memory, 1,000 to 1,000,000,000. At the bound, a new counter replaces an expired
    /// or little used one.
    #[arg(long, env, default_value = "1000000", value_name = "COUNT")]
    pub(super) memory_max_counters: String,
    /// Upper bound on the memory of counters in this process, in bytes, 1,048,576 or more. A counter takes about 110
    /// bytes and its key; a `sliding_log` takes 16 more for each distinct time of its hits. At the bound, counters
    /// are replaced as with `MEMORY_MAX_COUNTERS`.
    #[arg(long, env, default_value = "268435456", value_name = "BYTES")]
    pub(super) memory_max_bytes: String,
    /// Memory for the cache of keys above their limit, in bytes. Such keys are denied without a call to Redis for up
    /// to a second. 0 switches the cache off.
    #[arg(long, env, default_value = "16777216", value_name = "BYTES")]
    pub(super) local_cache_size_in_bytes: String,
    /// Answer for a descriptor if the store fails, unless the rule sets `on_backend_failure`: `error` (the
    /// call fails), `allow`, `deny` or `local` (this replica counts in its own memory).
    #[arg(long, env, default_value = "error", value_name = "POLICY")]
    pub(super) on_backend_failure: String,
    /// Number of replicas, 1 to 100,000. With `on_backend_failure: local`, each replica enforces the limit divided by
    /// this number. A lease takes at most the remaining hits divided by twice this number, and at most an eighth of
    /// them.
    #[arg(long, env, default_value = "1", value_name = "COUNT")]
    pub(super) replicas: String,
}

/// Logs and metrics.
#[derive(Args, Debug)]
pub(super) struct RawMetrics {
    /// Least severe messages to log: `error`, `warn`, `info`, `debug` or `trace`. `info` adds denials, at most one
    /// a second; `debug` adds requests without a rule.
    #[arg(long, env, default_value = "WARN", value_name = "LEVEL")]
    pub(super) log_level: String,
    /// Format of the log: `text` or `json`.
    #[arg(long, env, default_value = "text", value_name = "FORMAT")]
    pub(super) log_format: String,
    /// File of the decision log, or `stdout`: one line of JSON for each decision, with the request, for `tollgate
    /// replay`. If the file is renamed or removed, the next line starts a new file. Unset: off.
    #[arg(long, env, value_name = "PATH")]
    pub(super) decision_log: Option<String>,
    /// Share of keys, 0 to 1, whose decisions are logged. The key is the first descriptor of a request; all decisions
    /// of a sampled key are logged. Limits of other descriptors see only some of their requests in a replay.
    #[arg(long, env, default_value = "1", value_name = "SHARE")]
    pub(super) decision_log_sample: String,
    /// Serve metrics at `PROMETHEUS_ADDR` too; the debug port always serves them at `/metrics`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(super) use_prometheus: String,
    /// Address for metrics, `[host]:port`.
    #[arg(long, env, default_value = ":9090", value_name = "ADDRESS")]
    pub(super) prometheus_addr: String,
    /// Path of the metrics.
    #[arg(long, env, default_value = "/metrics", value_name = "PATH")]
    pub(super) prometheus_path: String,
    /// Labels added to the metrics of rules, `name:value,name:value`, such as `cluster:eu,env:prod`.
    #[arg(long, env, default_value = "", value_name = "TAGS")]
    pub(super) extra_tags: String,
    /// Upper bound on series, 0 to 1,000,000, of rules with `detailed_metric` or `value_to_metric` and of
    /// limits in requests. Above it, a domain counts in one series named `other`.
    #[arg(long, env, default_value = "10000", value_name = "COUNT")]
    pub(super) detailed_metric_max_series: String,
}
