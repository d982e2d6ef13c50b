//! Settings of the management server.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;

use super::raw::{RawRules, RawXds};
use super::reader::{HOUR, Reader};
use crate::provider::xds::{BackoffSettings, ServerAddress, Variant, XdsSettings, XdsTls};
use crate::tls::{ClientTls, Identity};

/// Growth factor of waits if the setting is less than 1.
const DEFAULT_FACTOR: f64 = 2.0;
/// Shortest wait between attempts.
const WAIT_MIN: Duration = Duration::from_millis(10);
const DAY: Duration = Duration::from_secs(86_400);

/// The management server; `None` if rules come from files. Its settings are checked in both cases.
pub(super) fn read(rules: &RawRules, raw: &RawXds, reader: &mut Reader) -> Option<XdsSettings> {
    let types =
        [("FILE", None), ("GRPC_XDS_SOTW", Some(Variant::Sotw)), ("GRPC_XDS_DELTA", Some(Variant::Delta))];
    let variant = reader.choice("CONFIG_TYPE", &rules.config_type, &types).flatten();
    let expected = "host:port or unix:path";
    let server = reader.read(
        "CONFIG_GRPC_XDS_SERVER_URL",
        &raw.config_grpc_xds_server_url,
        expected,
        ServerAddress::parse,
    );
    let ping_interval = reader.duration("XDS_PING_INTERVAL", &raw.xds_ping_interval, Duration::ZERO..=DAY);
    if !ping_interval.is_zero() && ping_interval < Duration::from_secs(1) {
        reader.error("XDS_PING_INTERVAL", "1s or more, or 0 for none", Some(&raw.xds_ping_interval));
    }
    let headers = headers(raw, reader);
    let tls = tls(raw, reader);
    let backoff = backoff(raw, reader);
    let max_message_bytes = reader.number(
        "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
        &raw.xds_client_max_msg_size_in_bytes,
        1 << 10..=1 << 30,
    );
    let removal_grace = reader.duration("XDS_REMOVAL_GRACE", &raw.xds_removal_grace, Duration::ZERO..=HOUR);
    Some(XdsSettings {
        variant: variant?,
        server: server?,
        node_id: raw.config_grpc_xds_node_id.clone(),
        node_metadata: metadata(&raw.config_grpc_xds_node_metadata),
        headers,
        tls,
        backoff,
        max_message_bytes,
        ping_interval: (!ping_interval.is_zero()).then_some(ping_interval),
        removal_grace,
        cache_file: raw.xds_cache_file.as_ref().map(Into::into),
    })
}

/// Parses `name=value,name=value`. As in envoyproxy/ratelimit, parts without `=` are ignored.
fn metadata(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

fn headers(raw: &RawXds, reader: &mut Reader) -> Vec<(HeaderName, HeaderValue)> {
    let Some(text) = &raw.config_grpc_xds_client_additional_headers else { return Vec::new() };
    let parse = |pair: &str| {
        let (name, value) = pair.split_once(':')?;
        Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
    };
    let pairs = text.expose_secret().split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let headers: Option<Vec<_>> = pairs.map(parse).collect();
    if headers.is_none() {
        // The text may contain a token.
        reader.error(
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
            "name:value,name:value, names and values of HTTP headers",
            None,
        );
    }
    headers.unwrap_or_default()
}

fn tls(raw: &RawXds, reader: &mut Reader) -> Option<XdsTls> {
    let uses_tls = reader.boolean("CONFIG_GRPC_XDS_SERVER_USE_TLS", &raw.config_grpc_xds_server_use_tls);
    let certificate = &raw.config_grpc_xds_client_tls_cert;
    let key = &raw.config_grpc_xds_client_tls_key;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.into(), key: key.into() }),
        (None, None) => None,
        (Some(_), None) => {
            let expected = "CONFIG_GRPC_XDS_CLIENT_TLS_KEY beside it";
            reader.error("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", expected, None);
            None
        }
        (None, Some(_)) => {
            let expected = "CONFIG_GRPC_XDS_CLIENT_TLS_CERT beside it";
            reader.error("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", expected, None);
            None
        }
    };
    let ca = raw.config_grpc_xds_server_tls_cacert.as_ref().map(Into::into);
    let client = ClientTls { ca, identity, verify_hostname: true };
    uses_tls.then(|| XdsTls { client, server_name: raw.config_grpc_xds_server_tls_san.clone() })
}

fn backoff(raw: &RawXds, reader: &mut Reader) -> BackoffSettings {
    let mut wait = |name, text: &str| reader.duration(name, text, WAIT_MIN..=HOUR);
    let initial = wait("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", &raw.xds_client_backoff_initial_interval);
    let max = wait("XDS_CLIENT_BACKOFF_MAX_INTERVAL", &raw.xds_client_backoff_max_interval);
    let unconnected = raw.config_grpc_xds_server_connect_retry_interval.as_deref();
    let unconnected = unconnected
        .map(|text| wait("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", text))
        .unwrap_or(initial);
    let factor =
        reader.number("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", &raw.xds_client_backoff_random_factor, 0.0..=100.0);
    BackoffSettings {
        initial,
        initial_unconnected: unconnected,
        max: max.max(initial).max(unconnected),
        factor: if factor < 1.0 { DEFAULT_FACTOR } else { factor },
        jitter: reader.boolean("XDS_CLIENT_BACKOFF_JITTER", &raw.xds_client_backoff_jitter),
    }
}
