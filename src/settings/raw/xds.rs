//! Settings of rules over xDS as typed.

use clap::Args;
use secrecy::SecretString;

/// Rules from a management server.
#[derive(Args, Debug)]
pub(in crate::settings) struct RawXds {
    /// Address of the management server: `host:port` or `unix:path`. The name is resolved for each connection.
    #[arg(long, env, default_value = "localhost:18000", value_name = "ADDRESS")]
    pub(in crate::settings) config_grpc_xds_server_url: String,
    /// Name of this client (node ID), by which a management server selects its rules.
    #[arg(long, env, default_value = "default", value_name = "TEXT")]
    pub(in crate::settings) config_grpc_xds_node_id: String,
    /// Further properties of this client for the management server: `name=value,name=value`.
    #[arg(long, env, default_value = "", value_name = "PAIRS")]
    pub(in crate::settings) config_grpc_xds_node_metadata: String,
    /// Headers for the management server: `name:value,name:value`.
    #[arg(long, env, value_name = "HEADERS")]
    pub(in crate::settings) config_grpc_xds_client_additional_headers: Option<SecretString>,
    /// Use TLS to the management server.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) config_grpc_xds_server_use_tls: String,
    /// File of trusted CA certificates, in PEM. Unset: those of the system.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) config_grpc_xds_server_tls_cacert: Option<String>,
    /// Name that the server's certificate must have. Unset: the host of the address.
    #[arg(long, env, value_name = "NAME")]
    pub(in crate::settings) config_grpc_xds_server_tls_san: Option<String>,
    /// File of the client certificate, in PEM. Needs the key.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) config_grpc_xds_client_tls_cert: Option<String>,
    /// File of the client certificate's private key, in PEM.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) config_grpc_xds_client_tls_key: Option<String>,
    /// First wait after a failed attempt to connect, 10ms to 1h. Unset: `XDS_CLIENT_BACKOFF_INITIAL_INTERVAL`.
    #[arg(long, env, value_name = "DURATION")]
    pub(in crate::settings) config_grpc_xds_server_connect_retry_interval: Option<String>,
    /// First wait after a stream has ended, 10ms to 1h.
    #[arg(long, env, default_value = "500ms", value_name = "DURATION")]
    pub(in crate::settings) xds_client_backoff_initial_interval: String,
    /// Upper bound on the wait, 10ms to 1h.
    #[arg(long, env, default_value = "30s", value_name = "DURATION")]
    pub(in crate::settings) xds_client_backoff_max_interval: String,
    /// Factor by which each wait is longer than the previous one, up to 100. Below 1, which is the default of
    /// envoyproxy/ratelimit, the wait would never grow: 2 is used.
    #[arg(long, env, default_value = "2", value_name = "FACTOR")]
    pub(in crate::settings) xds_client_backoff_random_factor: String,
    /// Shorten each wait by a random part of up to half of it.
    #[arg(long, env, default_value = "true", value_name = "BOOL")]
    pub(in crate::settings) xds_client_backoff_jitter: String,
    /// Upper bound on a response, in bytes, 1,024 to 1,073,741,824.
    #[arg(long, env, default_value = "67108864", value_name = "BYTES")]
    pub(in crate::settings) xds_client_max_msg_size_in_bytes: String,
    /// Interval of HTTP/2 pings to the management server, 1s to 24h; 0 for none. Servers in Go close connections
    /// with more than one in 5m.
    #[arg(long, env, default_value = "10m", value_name = "DURATION")]
    pub(in crate::settings) xds_ping_interval: String,
    /// Time for which resources stay in force if the first responses of a new stream lack them, up to 1h: a server
    /// that has just started may not know them yet.
    #[arg(long, env, default_value = "0s", value_name = "DURATION")]
    pub(in crate::settings) xds_removal_grace: String,
    /// File in which the rules in force are kept. It is written when they change and read at the start, so that
    /// limits survive a restart while the management server is away. Unset: none.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) xds_cache_file: Option<String>,
}
