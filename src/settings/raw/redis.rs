//! Connections to Redis, as typed.

use clap::Args;
use secrecy::SecretString;

/// The connection to Redis.
#[derive(Args, Debug)]
pub(in crate::settings) struct RawRedis {
    /// Address of Redis. One server: `host:port`, `/path/of/a.sock` or
    /// `redis://[user:password@]host[:port][/database]`. Sentinel: `primary,host:port,host:port` with
    /// `REDIS_TYPE`, or `redis-sentinel://[user:password@]host:port,host:port/primary[/database]`. Cluster:
    /// `host:port,host:port` with `REDIS_TYPE`, or `redis-cluster://host:port,host:port`. `rediss` in place
    /// of `redis` uses TLS.
    #[arg(long, env, value_name = "URL")]
    pub(in crate::settings) redis_url: Option<SecretString>,
    /// Deployment of Redis: `SINGLE`, `SENTINEL` or `CLUSTER`. Unset: from `REDIS_URL`, else `SINGLE`.
    #[arg(long, env, value_name = "TYPE")]
    pub(in crate::settings) redis_type: Option<String>,
    /// Kind of `REDIS_URL`: `tcp` or `unix`. Unset: from its form.
    #[arg(long, env, value_name = "TYPE")]
    pub(in crate::settings) redis_socket_type: Option<String>,
    /// Password, or `user:password`; overrides that of `REDIS_URL`.
    #[arg(long, env, value_name = "SECRET")]
    pub(in crate::settings) redis_auth: Option<SecretString>,
    /// File with the password, or `user:password`, read for every new connection.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_auth_file: Option<String>,
    /// Password, or `user:password`, of the Sentinels.
    #[arg(long, env, value_name = "SECRET")]
    pub(in crate::settings) redis_sentinel_auth: Option<SecretString>,
    /// File with the password, or `user:password`, of the Sentinels, read for every new connection.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_sentinel_auth_file: Option<String>,
    /// Use TLS to Redis and its Sentinels. Unset: if `REDIS_URL` starts with `rediss`.
    #[arg(long, env, value_name = "BOOL")]
    pub(in crate::settings) redis_tls: Option<String>,
    /// File of trusted CA certificates, in PEM. Unset: those of the system.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_tls_cacert: Option<String>,
    /// File of the client certificate, in PEM. Needs the key.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_tls_client_cert: Option<String>,
    /// File of the client certificate's private key, in PEM.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_tls_client_key: Option<String>,
    /// Accept a certificate for another host name. Its signature is still checked.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) redis_tls_skip_hostname_verification: String,
    /// Upper bound on connecting to Redis, 1ms to 1h.
    #[arg(long, env, default_value = "10s", value_name = "DURATION")]
    pub(in crate::settings) redis_timeout: String,
    /// Deadline of a call to Redis, 1ms to 1m. Keep it below the timeout of Envoy's filter, 20ms by default.
    #[arg(long, env, default_value = "10ms", value_name = "DURATION")]
    pub(in crate::settings) redis_call_timeout: String,
    /// Upper bound on waiting for Redis at the start, up to a year; then the process exits. 0: serve at once, and use
    /// Redis as soon as it is reachable.
    #[arg(long, env, default_value = "0s", value_name = "DURATION")]
    pub(in crate::settings) redis_startup_max_elapsed_time: String,
    /// Report NOT_SERVING while Redis cannot be reached.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) redis_health_check_active_connection: String,
}

/// The connection to the second Redis. All other settings are those of the first.
#[derive(Args, Debug)]
pub(in crate::settings) struct RawPerSecond {
    /// Count limits per second in a second Redis. The settings below have no effect unless this is true.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) redis_persecond: String,
    /// Address of the second Redis, in the form of `REDIS_URL`.
    #[arg(long, env, value_name = "URL")]
    pub(in crate::settings) redis_persecond_url: Option<SecretString>,
    /// Deployment of the second Redis, as in `REDIS_TYPE`.
    #[arg(long, env, value_name = "TYPE")]
    pub(in crate::settings) redis_persecond_type: Option<String>,
    /// Kind of `REDIS_PERSECOND_URL`: `tcp` or `unix`. Unset: from its form.
    #[arg(long, env, value_name = "TYPE")]
    pub(in crate::settings) redis_persecond_socket_type: Option<String>,
    /// Password, or `user:password`; overrides that of `REDIS_PERSECOND_URL`.
    #[arg(long, env, value_name = "SECRET")]
    pub(in crate::settings) redis_persecond_auth: Option<SecretString>,
    /// File with the password, or `user:password`, read for every new connection.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_persecond_auth_file: Option<String>,
    /// Password, or `user:password`, of the second Redis' Sentinels.
    #[arg(long, env, value_name = "SECRET")]
    pub(in crate::settings) redis_persecond_sentinel_auth: Option<SecretString>,
    /// File with the password, or `user:password`, of the second Redis' Sentinels, read for every new connection.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) redis_persecond_sentinel_auth_file: Option<String>,
    /// Use TLS to the second Redis, with the files of `REDIS_TLS_`. Unset: if its URL starts with `rediss`.
    #[arg(long, env, value_name = "BOOL")]
    pub(in crate::settings) redis_persecond_tls: Option<String>,
    /// Upper bound on connecting to the second Redis, 1ms to 1h. Unset: `REDIS_TIMEOUT`.
    #[arg(long, env, value_name = "DURATION")]
    pub(in crate::settings) redis_persecond_timeout: Option<String>,
}
