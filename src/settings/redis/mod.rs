//! What is set for Redis, and for the second one that may count limits per second.

mod url;

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use self::url::{Address, Kind, parse};
use super::RedisStoreSettings;
use super::raw::{RawCounters, RawRedis};
use super::reader::Reader;
use crate::store::redis::{
    ClientCertificate, Credentials, Deployment, Endpoint, Login, RedisSettings, TlsError, TlsFile,
    TlsSettings, check_tls,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// The variables of one Redis.
struct Names {
    url: &'static str,
    kind: &'static str,
    socket_type: &'static str,
    auth: &'static str,
    auth_file: &'static str,
    sentinel_auth: &'static str,
    sentinel_auth_file: &'static str,
    tls: &'static str,
}

const ALL: Names = Names {
    url: "REDIS_URL",
    kind: "REDIS_TYPE",
    socket_type: "REDIS_SOCKET_TYPE",
    auth: "REDIS_AUTH",
    auth_file: "REDIS_AUTH_FILE",
    sentinel_auth: "REDIS_SENTINEL_AUTH",
    sentinel_auth_file: "REDIS_SENTINEL_AUTH_FILE",
    tls: "REDIS_TLS",
};

const PER_SECOND: Names = Names {
    url: "REDIS_PERSECOND_URL",
    kind: "REDIS_PERSECOND_TYPE",
    socket_type: "REDIS_PERSECOND_SOCKET_TYPE",
    auth: "REDIS_PERSECOND_AUTH",
    auth_file: "REDIS_PERSECOND_AUTH_FILE",
    sentinel_auth: "REDIS_PERSECOND_SENTINEL_AUTH",
    sentinel_auth_file: "REDIS_PERSECOND_SENTINEL_AUTH_FILE",
    tls: "REDIS_PERSECOND_TLS",
};

/// What is set for one Redis.
struct Texts<'a> {
    names: &'static Names,
    url: Option<&'a SecretString>,
    kind: Option<&'a str>,
    socket_type: Option<&'a str>,
    auth: Option<&'a SecretString>,
    auth_file: Option<&'a str>,
    sentinel_auth: Option<&'a SecretString>,
    sentinel_auth_file: Option<&'a str>,
    tls: Option<&'a str>,
}

/// What holds for both.
struct Common {
    connect_timeout: Duration,
    call_timeout: Duration,
    expiration_jitter_max_secs: u32,
    /// What TLS is spoken with, wherever it is.
    tls: TlsSettings,
}

/// Everything that is set for Redis; `None` where something is wrong, or it is not `wanted`. No mistake
/// repeats an address or a password.
pub(super) fn read(
    wanted: bool,
    raw: &RawRedis,
    counters: &RawCounters,
    reader: &mut Reader,
) -> Option<RedisStoreSettings> {
    let mut duration = |name, text: &str, range| reader.duration(name, text, range);
    let connect_timeout = duration("REDIS_TIMEOUT", &raw.redis_timeout, MILLISECOND..=HOUR);
    let call_timeout = duration("REDIS_CALL_TIMEOUT", &raw.redis_call_timeout, MILLISECOND..=MINUTE);
    let startup_max = duration(
        "REDIS_STARTUP_MAX_ELAPSED_TIME",
        &raw.redis_startup_max_elapsed_time,
        Duration::ZERO..=HOUR,
    );
    let jitter = &counters.expiration_jitter_max_seconds;
    let common = Common {
        connect_timeout,
        call_timeout,
        expiration_jitter_max_secs: reader.number("EXPIRATION_JITTER_MAX_SECONDS", jitter, 0..=86_400),
        tls: tls_files(raw, reader),
    };
    let all = read_one(wanted, &all(raw), &common, reader);
    let has_second = reader.boolean("REDIS_PERSECOND", &raw.redis_persecond);
    let per_second = read_one(wanted && has_second, &per_second(raw), &common, reader);
    Some(RedisStoreSettings {
        local_cache_bytes: reader.number(
            "LOCAL_CACHE_SIZE_IN_BYTES",
            &counters.local_cache_size_in_bytes,
            0..=1 << 40,
        ),
        startup_max: (!startup_max.is_zero()).then_some(startup_max),
        ready_only_connected: reader
            .boolean("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", &raw.redis_health_check_active_connection),
        all: all?,
        per_second,
    })
}

fn all(raw: &RawRedis) -> Texts<'_> {
    Texts {
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

fn per_second(raw: &RawRedis) -> Texts<'_> {
    Texts {
        names: &PER_SECOND,
        url: raw.redis_persecond_url.as_ref(),
        kind: raw.redis_persecond_type.as_deref(),
        socket_type: raw.redis_persecond_socket_type.as_deref(),
        auth: raw.redis_persecond_auth.as_ref(),
        auth_file: raw.redis_persecond_auth_file.as_deref(),
        sentinel_auth: raw.redis_persecond_sentinel_auth.as_ref(),
        sentinel_auth_file: raw.redis_persecond_sentinel_auth_file.as_deref(),
        tls: raw.redis_persecond_tls.as_deref(),
    }
}

fn read_one(
    wanted: bool,
    texts: &Texts<'_>,
    common: &Common,
    reader: &mut Reader,
) -> Option<RedisSettings> {
    let Names { url, auth, auth_file, sentinel_auth, sentinel_auth_file, .. } = texts.names;
    let kinds = [("SINGLE", Kind::Single), ("SENTINEL", Kind::Sentinel), ("CLUSTER", Kind::Cluster)];
    let kind = texts.kind.and_then(|text| reader.choice(texts.names.kind, text, &kinds));
    let tls = texts.tls.map(|text| reader.boolean(texts.names.tls, text));
    if !wanted {
        return None;
    }
    let Some(text) = texts.url else {
        reader.refuse(url, "where Redis is: host:port, a path or a URL", None);
        return None;
    };
    let address = match parse(text.expose_secret(), kind) {
        Ok(address) => address,
        Err(expected) => {
            reader.refuse(url, expected, None);
            return None;
        }
    };
    check_socket_type(texts, &address.deployment, reader);
    let tls = read_tls(tls, texts, &address, common, reader);
    let server = read_login(texts.auth, texts.auth_file, [auth, auth_file], reader);
    let sentinel = read_login(
        texts.sentinel_auth,
        texts.sentinel_auth_file,
        [sentinel_auth, sentinel_auth_file],
        reader,
    );
    Some(RedisSettings {
        deployment: address.deployment,
        credentials: Credentials {
            server: server.unwrap_or(address.login),
            sentinel: sentinel.unwrap_or(address.sentinel_login),
        },
        database: address.database,
        tls,
        connect_timeout: common.connect_timeout,
        call_timeout: common.call_timeout,
        expiration_jitter_max_secs: common.expiration_jitter_max_secs,
    })
}

fn read_login(
    auth: Option<&SecretString>,
    file: Option<&str>,
    [auth_name, file_name]: [&'static str; 2],
    reader: &mut Reader,
) -> Option<Login> {
    let login = match (auth, file) {
        (None, None) => return None,
        (Some(auth), None) => Login::parse(auth.expose_secret()),
        (None, Some(path)) => Login::File(path.into()),
        (Some(_), Some(_)) => {
            reader.refuse(file_name, format!("nothing, since {auth_name} is set"), None);
            return None;
        }
    };
    if let Err(error) = login.check() {
        reader.refuse(file_name, format!("a file with a password, or user:password: {error}"), file);
    }
    Some(login)
}

fn tls_files(raw: &RawRedis, reader: &mut Reader) -> TlsSettings {
    let client = match (&raw.redis_tls_client_cert, &raw.redis_tls_client_key) {
        (Some(certificate), Some(key)) => {
            Some(ClientCertificate { certificate: certificate.into(), key: key.into() })
        }
        (None, None) => None,
        (Some(_), None) => {
            reader.refuse("REDIS_TLS_CLIENT_KEY", "the key of REDIS_TLS_CLIENT_CERT", None);
            None
        }
        (None, Some(_)) => {
            reader.refuse("REDIS_TLS_CLIENT_CERT", "the certificate of REDIS_TLS_CLIENT_KEY", None);
            None
        }
    };
    let skip = &raw.redis_tls_skip_hostname_verification;
    TlsSettings {
        ca: raw.redis_tls_cacert.as_ref().map(Into::into),
        client,
        verify_hostname: !reader.boolean("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", skip),
    }
}

fn read_tls(
    asked: Option<bool>,
    texts: &Texts<'_>,
    address: &Address,
    common: &Common,
    reader: &mut Reader,
) -> Option<TlsSettings> {
    let name = texts.names.tls;
    match (asked, address.tls) {
        (Some(true), Some(false)) | (Some(false), Some(true)) => {
            reader.refuse(name, format!("what {} says", texts.names.url), texts.tls);
        }
        (None | Some(false), None | Some(false)) => return None,
        (Some(true) | None, _) => {}
    }
    if matches!(address.deployment, Deployment::Single(Endpoint::Unix(_))) {
        reader.refuse(name, "false, since Redis is on a unix socket", texts.tls);
    } else if let Err(error) = check_tls(&common.tls) {
        let name = match &error {
            TlsError::File { file: TlsFile::Certificate, .. } => "REDIS_TLS_CLIENT_CERT",
            TlsError::File { file: TlsFile::Key, .. } => "REDIS_TLS_CLIENT_KEY",
            TlsError::File { file: TlsFile::Ca, .. } | TlsError::NoAuthorities => "REDIS_TLS_CACERT",
            TlsError::Unsupported(_) => name,
        };
        reader.refuse(name, format!("a file in PEM: {error}"), None);
    }
    Some(common.tls.clone())
}

fn check_socket_type(texts: &Texts<'_>, deployment: &Deployment, reader: &mut Reader) {
    let Some(text) = texts.socket_type else { return };
    let name = texts.names.socket_type;
    let expected = match deployment {
        Deployment::Single(Endpoint::Unix(_)) => "unix",
        Deployment::Single(Endpoint::Tcp { .. })
        | Deployment::Sentinel { .. }
        | Deployment::Cluster { .. } => "tcp",
    };
    match reader.choice(name, text, &[("tcp", "tcp"), ("unix", "unix")]) {
        Some(found) if found != expected => {
            let expected = format!("{expected}, which is what {} looks like", texts.names.url);
            reader.refuse(name, expected, Some(text));
        }
        Some(_) | None => {}
    }
}
