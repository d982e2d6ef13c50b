//! Conversion of the settings of Redis, and of the second Redis for limits per second.

mod url;

use std::ops::RangeInclusive;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use self::url::{Address, Kind, UrlError};
use super::RedisStoreSettings;
use super::raw::{RawCounters, RawPerSecond, RawRedis};
use super::reader::{HOUR, Reader, YEAR};
use crate::store::redis::{Credentials, Deployment, Endpoint, Login, RedisSettings};
use crate::tls::{ClientTls, Identity, TlsError, TlsFile};

const CONNECT_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
const CALL_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

const KINDS: [(&str, Kind); 3] = {
    const fn named(kind: Kind) -> (&'static str, Kind) {
        (kind.word(), kind)
    }
    [named(Kind::Single), named(Kind::Sentinel), named(Kind::Cluster)]
};

/// Names of the variables with address and login of one Redis.
struct RedisVariables {
    url: &'static str,
    kind: &'static str,
    socket_type: &'static str,
    auth: &'static str,
    auth_file: &'static str,
    sentinel_auth: &'static str,
    sentinel_auth_file: &'static str,
    tls: &'static str,
}

const ALL: RedisVariables = RedisVariables {
    url: "REDIS_URL",
    kind: "REDIS_TYPE",
    socket_type: "REDIS_SOCKET_TYPE",
    auth: "REDIS_AUTH",
    auth_file: "REDIS_AUTH_FILE",
    sentinel_auth: "REDIS_SENTINEL_AUTH",
    sentinel_auth_file: "REDIS_SENTINEL_AUTH_FILE",
    tls: "REDIS_TLS",
};

const PER_SECOND: RedisVariables = RedisVariables {
    url: "REDIS_PERSECOND_URL",
    kind: "REDIS_PERSECOND_TYPE",
    socket_type: "REDIS_PERSECOND_SOCKET_TYPE",
    auth: "REDIS_PERSECOND_AUTH",
    auth_file: "REDIS_PERSECOND_AUTH_FILE",
    sentinel_auth: "REDIS_PERSECOND_SENTINEL_AUTH",
    sentinel_auth_file: "REDIS_PERSECOND_SENTINEL_AUTH_FILE",
    tls: "REDIS_PERSECOND_TLS",
};

/// Values of these variables.
struct RedisValues<'a> {
    names: &'static RedisVariables,
    url: Option<&'a SecretString>,
    kind: Option<&'a str>,
    socket_type: Option<&'a str>,
    auth: Option<&'a SecretString>,
    auth_file: Option<&'a str>,
    sentinel_auth: Option<&'a SecretString>,
    sentinel_auth_file: Option<&'a str>,
    tls: Option<&'a str>,
}

/// Settings that both share.
struct SharedSettings {
    tls: ClientTls,
    connect_timeout: Duration,
    call_timeout: Duration,
    expiration_jitter_max_secs: u32,
}

/// Converts all settings of Redis; `None` without an address, or after an error. Errors never contain a URL or
/// a password.
pub(super) fn read(
    raw: &RawRedis,
    raw_per_second: &RawPerSecond,
    counters: &RawCounters,
    reader: &mut Reader,
) -> Option<RedisStoreSettings> {
    let jitter = &counters.expiration_jitter_max_seconds;
    let expiration_jitter_max_secs = reader.number("EXPIRATION_JITTER_MAX_SECONDS", jitter, 0..=86_400);
    let local_cache = &counters.local_cache_size_in_bytes;
    let local_cache_bytes = reader.number("LOCAL_CACHE_SIZE_IN_BYTES", local_cache, 0..=1 << 40);
    let common = SharedSettings {
        tls: read_tls_files(raw, reader),
        connect_timeout: reader.duration("REDIS_TIMEOUT", &raw.redis_timeout, CONNECT_TIMEOUT),
        call_timeout: reader.duration("REDIS_CALL_TIMEOUT", &raw.redis_call_timeout, CALL_TIMEOUT),
        expiration_jitter_max_secs,
    };
    let name = "REDIS_STARTUP_MAX_ELAPSED_TIME";
    let startup_max = reader.duration(name, &raw.redis_startup_max_elapsed_time, Duration::ZERO..=YEAR);
    let name = "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION";
    let ready_only_connected = reader.boolean(name, &raw.redis_health_check_active_connection);
    let all = read_redis(&values(raw), &common, reader);
    let per_second = match reader.boolean("REDIS_PERSECOND", &raw_per_second.redis_persecond) {
        true => Some(read_per_second(raw_per_second, common, reader)?),
        false => None,
    };
    let startup_max = (!startup_max.is_zero()).then_some(startup_max);
    Some(RedisStoreSettings { all: all?, per_second, local_cache_bytes, startup_max, ready_only_connected })
}

/// Adds an error if the address of a required Redis is missing.
pub(super) fn error_if_missing(reader: &mut Reader) {
    reader.error(ALL.url, format!("{}, since BACKEND_TYPE is redis", url::FORMS), None);
}

/// Adds an error for every TLS file that cannot be used.
pub(super) fn check_files(settings: &RedisStoreSettings, reader: &mut Reader) {
    let both = [(&ALL, Some(&settings.all)), (&PER_SECOND, settings.per_second.as_ref())];
    let both: Vec<_> = both.into_iter().filter_map(|(names, settings)| Some((names, settings?))).collect();
    for (names, RedisSettings { credentials, .. }) in &both {
        check_login(names.auth_file, &credentials.server, reader);
        check_login(names.sentinel_auth_file, &credentials.sentinel, reader);
    }
    // The files are the same for both.
    let Some(tls) = both.iter().find_map(|(_, settings)| settings.tls.as_ref()) else { return };
    match tls.check() {
        Ok(()) => {}
        Err(TlsError::File { file, path, fault }) => {
            let (name, expected) = match file {
                TlsFile::Ca => ("REDIS_TLS_CACERT", "a file of certificates"),
                TlsFile::Certificate => ("REDIS_TLS_CLIENT_CERT", "a file of a certificate"),
                TlsFile::Key => ("REDIS_TLS_CLIENT_KEY", "a file of the certificate's private key"),
            };
            reader.error(name, format!("{expected} ({fault})"), Some(&path.display().to_string()));
        }
        Err(error @ TlsError::NoAuthorities) => {
            reader.error("REDIS_TLS_CACERT", format!("a file of certificates, since {error}"), None);
        }
        Err(error @ TlsError::Unsupported(_)) => {
            reader.error(ALL.tls, format!("false ({error})"), None);
        }
    }
}

fn check_login(name: &'static str, login: &Login, reader: &mut Reader) {
    if let Err(error) = login.check() {
        reader.error(name, format!("a file that holds password or user:password ({error})"), None);
    }
}

fn values(raw: &RawRedis) -> RedisValues<'_> {
    RedisValues {
        names: &ALL,
        url: raw.redis_url.as_ref(),
        kind: raw.redis_type.as_deref(),
        socket_type: raw.redis_socket_type.as_deref(),
        auth: raw.redis_auth.as_ref(),
        auth_file: raw.redis_auth_file.as_deref(),
        sentinel_auth: raw.redis_sentinel_auth.as_ref(),
        sentinel_auth_file: raw.redis_sentinel_auth_file.as_deref(),
        tls: raw.redis_tls.as_deref(),
    }
}

fn read_per_second(raw: &RawPerSecond, common: SharedSettings, reader: &mut Reader) -> Option<RedisSettings> {
    let values = RedisValues {
        names: &PER_SECOND,
        url: raw.redis_persecond_url.as_ref(),
        kind: raw.redis_persecond_type.as_deref(),
        socket_type: raw.redis_persecond_socket_type.as_deref(),
        auth: raw.redis_persecond_auth.as_ref(),
        auth_file: raw.redis_persecond_auth_file.as_deref(),
        sentinel_auth: raw.redis_persecond_sentinel_auth.as_ref(),
        sentinel_auth_file: raw.redis_persecond_sentinel_auth_file.as_deref(),
        tls: raw.redis_persecond_tls.as_deref(),
    };
    if values.url.is_none() {
        reader.error(values.names.url, format!("{}, since REDIS_PERSECOND is true", url::FORMS), None);
    }
    let connect_timeout = match raw.redis_persecond_timeout.as_deref() {
        Some(text) => reader.duration("REDIS_PERSECOND_TIMEOUT", text, CONNECT_TIMEOUT),
        None => common.connect_timeout,
    };
    read_redis(&values, &SharedSettings { connect_timeout, ..common }, reader)
}

fn read_redis(
    values: &RedisValues<'_>,
    common: &SharedSettings,
    reader: &mut Reader,
) -> Option<RedisSettings> {
    let names = values.names;
    let kind = values.kind.map(|text| reader.choice(names.kind, text, &KINDS));
    let tls = values.tls.map(|text| reader.boolean(names.tls, text));
    let login = read_login((names.auth, values.auth), (names.auth_file, values.auth_file), reader);
    let sentinel_login = read_login(
        (names.sentinel_auth, values.sentinel_auth),
        (names.sentinel_auth_file, values.sentinel_auth_file),
        reader,
    );
    // An invalid type is reported already.
    let kind = match kind {
        Some(kind) => Some(kind?),
        None => None,
    };
    let address = match url::parse(values.url?.expose_secret(), kind) {
        Ok(address) => address,
        Err(wrong) => {
            address_error(wrong, values, reader);
            return None;
        }
    };
    check_socket_type(values, &address.deployment, reader);
    let speaks_tls = speaks_tls(values, tls, &address, reader);
    Some(RedisSettings {
        deployment: address.deployment,
        credentials: Credentials {
            server: login.unwrap_or(address.login),
            sentinel: sentinel_login.unwrap_or(address.sentinel_login),
        },
        database: address.database,
        tls: speaks_tls.then(|| common.tls.clone()),
        connect_timeout: common.connect_timeout,
        call_timeout: common.call_timeout,
        expiration_jitter_max_secs: common.expiration_jitter_max_secs,
    })
}

fn address_error(wrong: UrlError, values: &RedisValues<'_>, reader: &mut Reader) {
    let RedisVariables { url, kind, .. } = values.names;
    match wrong {
        UrlError::Address(expected) => reader.error(url, expected, None),
        UrlError::List => {
            let expected = format!(
                "one address, or {kind} to be set to CLUSTER or SENTINEL, which take a list of them; a comma \
                 in a password is written %2C"
            );
            reader.error(url, expected, None);
        }
        UrlError::Kind(found) => {
            let found = found.word();
            reader.error(kind, format!("{found}, which is what {url} says"), values.kind);
        }
    }
}

/// Login from its own settings, not from the URL.
fn read_login(
    (text_name, text): (&'static str, Option<&SecretString>),
    (file_name, file): (&'static str, Option<&str>),
    reader: &mut Reader,
) -> Option<Login> {
    match (text, file) {
        (None, None) => None,
        (Some(text), None) => Some(Login::parse(text.expose_secret())),
        (None, Some(path)) => Some(Login::File(path.into())),
        (Some(_), Some(path)) => {
            reader.error(file_name, format!("nothing, since {text_name} is set too"), Some(path));
            None
        }
    }
}

fn check_socket_type(values: &RedisValues<'_>, deployment: &Deployment, reader: &mut Reader) {
    let Some(text) = values.socket_type else { return };
    let RedisVariables { url, socket_type: name, .. } = values.names;
    let expected = match deployment {
        Deployment::Single(Endpoint::Unix(_)) => "unix",
        Deployment::Single(Endpoint::Tcp { .. })
        | Deployment::Sentinel { .. }
        | Deployment::Cluster { .. } => "tcp",
    };
    match reader.choice(name, text, &[("tcp", "tcp"), ("unix", "unix")]) {
        Some(found) if found != expected => {
            reader.error(name, format!("{expected}, which is what {url} looks like"), Some(text));
        }
        Some(_) | None => {}
    }
}

/// True if the setting or the URL requires TLS.
fn speaks_tls(values: &RedisValues<'_>, set: Option<bool>, address: &Address, reader: &mut Reader) -> bool {
    let RedisVariables { url, tls: name, .. } = values.names;
    let is_unix = matches!(address.deployment, Deployment::Single(Endpoint::Unix(_)));
    match set {
        Some(false) if address.wants_tls => {
            reader.error(name, format!("true, which is what {url} says with rediss"), values.tls);
            true
        }
        Some(true) if is_unix => {
            reader.error(name, format!("false, since {url} is a unix socket"), values.tls);
            false
        }
        set => set == Some(true) || address.wants_tls,
    }
}

/// The TLS settings, if TLS is used.
fn read_tls_files(raw: &RawRedis, reader: &mut Reader) -> ClientTls {
    let name = "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION";
    let identity = match (&raw.redis_tls_client_cert, &raw.redis_tls_client_key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.into(), key: key.into() }),
        (Some(_), None) => {
            reader.error("REDIS_TLS_CLIENT_KEY", "the file of REDIS_TLS_CLIENT_CERT's private key", None);
            None
        }
        (None, Some(_)) => {
            reader.error("REDIS_TLS_CLIENT_CERT", "the file of REDIS_TLS_CLIENT_KEY's certificate", None);
            None
        }
        (None, None) => None,
    };
    ClientTls {
        ca: raw.redis_tls_cacert.as_ref().map(Into::into),
        identity,
        verify_hostname: !reader.boolean(name, &raw.redis_tls_skip_hostname_verification),
    }
}

#[cfg(test)]
mod tests;
