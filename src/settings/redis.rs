//! Where Redis is, out of the ways to write it.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::raw::RawRedis;
use super::reader::Reader;
use crate::store::redis::{Endpoint, Login};

/// Where Redis is, and what to tell it.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) endpoint: Endpoint,
    pub(super) database: Option<u8>,
    pub(super) login: Login,
}

const URL: &str = "REDIS_URL";
const URL_FORMS: &str = "host:port, /path/of/a.sock, redis://[user:password@]host[:port][/database] or \
                         redis+unix:///path/of/a.sock";
const DEFAULT_PORT: u16 = 6379;

/// Reads `REDIS_URL`, `REDIS_AUTH` and `REDIS_SOCKET_TYPE`. No mistake repeats what the first two hold.
pub(super) fn read_address(raw: &RawRedis, reader: &mut Reader) -> Option<Address> {
    let Some(url) = &raw.redis_url else {
        reader.refuse(URL, format!("{URL_FORMS}, since BACKEND_TYPE is redis"), None);
        return None;
    };
    let mut address = match parse_url(url.expose_secret()) {
        Ok(address) => address,
        Err(expected) => {
            reader.refuse(URL, expected, None);
            return None;
        }
    };
    if let Some(auth) = &raw.redis_auth {
        address.login = split_auth(auth.expose_secret());
    }
    check_socket_type(raw, &address.endpoint, reader);
    Some(address)
}

/// # Errors
/// What was expected in place of `url`.
fn parse_url(url: &str) -> Result<Address, String> {
    if url.contains(',') {
        return Err("one address: Sentinel and Cluster are not supported yet".to_owned());
    }
    match url.split_once("://") {
        Some(("redis", rest)) => parse_authority(rest),
        Some(("unix" | "redis+unix", path)) if path.starts_with('/') => Ok(unix(path)),
        Some(("rediss", _)) => Err("a redis:// URL: TLS to Redis is not supported yet".to_owned()),
        Some(_) => Err(URL_FORMS.to_owned()),
        None if url.starts_with('/') => Ok(unix(url)),
        None => Ok(plain(parse_host(url, None).ok_or(URL_FORMS)?)),
    }
}

/// `[user:password@]host[:port][/db]`
fn parse_authority(text: &str) -> Result<Address, String> {
    let (userinfo, place) = text.rsplit_once('@').map_or((None, text), |(user, place)| (Some(user), place));
    let (host, database) = place.split_once('/').unwrap_or((place, ""));
    let database = match database {
        "" => None,
        number => Some(number.parse().map_err(|_| "a number from 0 to 255 as the database".to_owned())?),
    };
    let endpoint = parse_host(host, Some(DEFAULT_PORT)).ok_or(URL_FORMS)?;
    let login = match userinfo {
        Some(userinfo) => decode_userinfo(userinfo).ok_or("a user and password in percent-encoded UTF-8")?,
        None => Login::Open,
    };
    Ok(Address { endpoint, database, login })
}

/// `host:port`, with `[` and `]` around an IPv6 address.
fn parse_host(text: &str, default_port: Option<u16>) -> Option<Endpoint> {
    let authority: http::uri::Authority = text.parse().ok()?;
    let host = authority.host();
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None if text == host => default_port?,
        None => return None,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty() && port > 0).then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

fn unix(path: &str) -> Address {
    plain(Endpoint::Unix(PathBuf::from(path)))
}

const fn plain(endpoint: Endpoint) -> Address {
    Address { endpoint, database: None, login: Login::Open }
}

/// `user:password`, `:password` or, as `REDIS_AUTH` has it, `password`.
fn split_auth(auth: &str) -> Login {
    let (username, password) = auth.split_once(':').unwrap_or(("", auth));
    let username = (!username.is_empty()).then(|| username.to_owned());
    Login::Password { username, password: SecretString::from(password) }
}

/// `user:password` of a URL, where a lone name is the user's, who has no password.
fn decode_userinfo(userinfo: &str) -> Option<Login> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().ok().map(String::from);
    let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let (username, password) = (decode(username)?, decode(password)?);
    let username = (!username.is_empty()).then_some(username);
    Some(match (username, password.is_empty()) {
        (None, true) => Login::Open,
        (username, _) => Login::Password { username, password: SecretString::from(password) },
    })
}

fn check_socket_type(raw: &RawRedis, endpoint: &Endpoint, reader: &mut Reader) {
    let Some(text) = raw.redis_socket_type.as_deref() else { return };
    let name = "REDIS_SOCKET_TYPE";
    let expected = match endpoint {
        Endpoint::Tcp { .. } => "tcp",
        Endpoint::Unix(_) => "unix",
    };
    match reader.choice(name, text, &[("tcp", "tcp"), ("unix", "unix")]) {
        Some(found) if found != expected => {
            reader.refuse(name, format!("{expected}, which is what REDIS_URL looks like"), Some(text));
        }
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn every_way_to_write_an_address_is_understood() {
        for (url, endpoint, username, password) in [
            ("localhost:6379", tcp("localhost", 6379), None, None),
            ("10.0.0.1:7000", tcp("10.0.0.1", 7000), None, None),
            ("[::1]:6379", tcp("::1", 6379), None, None),
            ("redis://cache", tcp("cache", 6379), None, None),
            ("redis://cache:7000/0", tcp("cache", 7000), None, None),
            ("redis://[::1]", tcp("::1", 6379), None, None),
            ("redis://u:p%40ss@cache:1", tcp("cache", 1), Some("u"), Some("p@ss")),
            ("redis://:p@cache", tcp("cache", 6379), None, Some("p")),
            ("redis://u@cache", tcp("cache", 6379), Some("u"), Some("")),
            ("/run/redis.sock", Endpoint::Unix("/run/redis.sock".into()), None, None),
            ("redis+unix:///run/redis.sock", Endpoint::Unix("/run/redis.sock".into()), None, None),
            ("unix:///run/redis.sock", Endpoint::Unix("/run/redis.sock".into()), None, None),
        ] {
            let address = parse_url(url).unwrap_or_else(|expected| panic!("{url}: expected {expected}"));
            assert_eq!(address.endpoint, endpoint, "{url}");
            let login = match &address.login {
                Login::Password { username, password } => {
                    (username.as_deref(), Some(password.expose_secret()))
                }
                Login::Open | Login::File(_) => (None, None),
            };
            assert_eq!(login, (username, password), "{url}");
        }
    }

    #[test]
    fn a_database_is_the_first_unless_it_is_named() {
        for (url, expected) in [
            ("redis://cache", None),
            ("redis://cache/", None),
            ("redis://cache/0", Some(0)),
            ("redis://u:p@cache:1/15", Some(15)),
        ] {
            assert_eq!(parse_url(url).map(|address| address.database), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_cannot_be_reached_yet_is_said_and_what_makes_no_sense_is_refused() {
        for (url, expected) in [
            ("a:1,b:1", "Cluster"),
            ("rediss://cache", "TLS"),
            ("redis://cache/x", "database"),
            ("redis://cache/256", "database"),
            ("redis://u:%ff@cache", "percent-encoded"),
            ("cache", "host:port"),
            ("cache:", "host:port"),
            ("cache:0", "host:port"),
            (":6379", "host:port"),
            ("cache:99999", "host:port"),
            ("http://cache", "host:port"),
            ("redis+unix://relative", "host:port"),
            ("", "host:port"),
        ] {
            match parse_url(url) {
                Err(found) => assert!(found.contains(expected), "{url}: {found}"),
                Ok(address) => panic!("{url}: {:?}", address.endpoint),
            }
        }
    }
}
