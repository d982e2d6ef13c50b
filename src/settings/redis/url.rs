//! The ways to write where Redis is.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::store::redis::{Deployment, Endpoint, Login};

/// What an address says.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) deployment: Deployment,
    pub(super) login: Login,
    /// To Sentinels.
    pub(super) sentinel_login: Login,
    pub(super) database: Option<u8>,
    /// Whether TLS is spoken, where the address says so.
    pub(super) tls: Option<bool>,
}

/// How servers are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel,
    Cluster,
}

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26_379;
const FORMS: &str = "host:port, /path/of/a.sock, redis://[user:password@]host[:port][/database], \
                     redis+unix:///path/of/a.sock, redis-sentinel://host:port,host:port/name, \
                     redis-cluster://host:port,host:port, or the same with rediss for TLS";
const SENTINEL_FORMS: &str = "a name and addresses. Expected master name and a list of urls for the \
                              sentinels: name,host:port,host:port,…";

/// Reads an address, of servers of this `kind` where that is said elsewhere.
///
/// # Errors
/// What was expected in its place; nothing of what was found, which may hold a password.
pub(super) fn parse(text: &str, kind: Option<Kind>) -> Result<Address, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (said, tls) = match scheme {
        "redis-sentinel" => (Kind::Sentinel, false),
        "rediss-sentinel" => (Kind::Sentinel, true),
        "redis-cluster" => (Kind::Cluster, false),
        "rediss-cluster" => (Kind::Cluster, true),
        _ => return parse_list(text, kind.unwrap_or(Kind::Single)),
    };
    if kind.is_some_and(|kind| kind != said) {
        return Err(format!("an address that agrees with REDIS_TYPE, not one that begins with {scheme}://"));
    }
    let address = parse_url(rest, said)?;
    Ok(Address { tls: Some(tls), ..address })
}

/// One address, or several divided by commas; before those of Sentinels, the name of the primary.
fn parse_list(text: &str, kind: Kind) -> Result<Address, String> {
    let mut items = text.split(',').map(str::trim);
    let name = match kind {
        Kind::Sentinel => items.next().filter(|name| !name.is_empty() && !name.contains([':', '/'])),
        Kind::Single | Kind::Cluster => Some(""),
    };
    let name = name.ok_or(SENTINEL_FORMS)?.to_owned();
    let found = items.map(parse_item).collect::<Result<Vec<_>, _>>()?;
    let mut all = found.into_iter();
    let Some(first) = all.next() else { return Err(SENTINEL_FORMS.to_owned()) };
    let Item { endpoint, login, database, tls } = first;
    let mut endpoints = vec![endpoint];
    for item in all {
        if item.tls != tls {
            return Err("TLS with all addresses or with none".to_owned());
        }
        endpoints.push(item.endpoint);
    }
    let is_unix = endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
    let deployment = match kind {
        Kind::Single => match <[Endpoint; 1]>::try_from(endpoints) {
            Ok([endpoint]) => Deployment::Single(endpoint),
            Err(_) => {
                return Err("one address; for several, set REDIS_TYPE to CLUSTER or SENTINEL".to_owned());
            }
        },
        Kind::Sentinel | Kind::Cluster if is_unix => {
            return Err("hosts and ports, not unix sockets".to_owned());
        }
        Kind::Sentinel => Deployment::Sentinel { primary: name, sentinels: endpoints },
        Kind::Cluster => Deployment::Cluster { nodes: endpoints },
    };
    let database = in_cluster(&deployment, database)?;
    Ok(Address { deployment, login, sentinel_login: Login::Open, database, tls })
}

struct Item {
    endpoint: Endpoint,
    login: Login,
    database: Option<u8>,
    tls: Option<bool>,
}

fn parse_item(text: &str) -> Result<Item, String> {
    let plain = |endpoint| Item { endpoint, login: Login::Open, database: None, tls: None };
    let unix = |path: &str| plain(Endpoint::Unix(PathBuf::from(path)));
    match text.split_once("://") {
        Some((scheme @ ("redis" | "rediss"), rest)) => {
            let (login, rest) = split_login(rest)?;
            let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
            let endpoint = parse_host(host, Some(DEFAULT_PORT)).ok_or(FORMS)?;
            let database = parse_database(database)?;
            Ok(Item { endpoint, login, database, tls: Some(scheme == "rediss") })
        }
        Some(("unix" | "redis+unix", path)) if path.starts_with('/') => Ok(unix(path)),
        Some(_) => Err(FORMS.to_owned()),
        None if text.starts_with('/') => Ok(unix(text)),
        None => Ok(plain(parse_host(text, None).ok_or(FORMS)?)),
    }
}

/// `[user:password@]host[:port][,host[:port]…][/name][/database][?node=host:port&…]`; the name, and the
/// Sentinels' own login, may be in the query too.
fn parse_url(rest: &str, kind: Kind) -> Result<Address, String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, rest) = split_login(rest)?;
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = if kind == Kind::Sentinel { DEFAULT_SENTINEL_PORT } else { DEFAULT_PORT };
    let host = |text: &str| parse_host(text, Some(port)).ok_or(FORMS);
    let mut endpoints = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
    let (mut name, mut username, mut password) = (None, None, None);
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = decode(value).ok_or("a query in percent-encoded UTF-8")?;
        match key {
            "node" => endpoints.push(host(&value)?),
            "sentinelServiceName" => name = Some(value),
            "sentinelUsername" => username = Some(value),
            "sentinelPassword" => password = Some(value),
            _ => return Err(format!("no {key} in the query; it takes node and sentinelServiceName")),
        }
    }
    let mut path = path.split('/').filter(|part| !part.is_empty());
    let deployment = match kind {
        Kind::Cluster => Deployment::Cluster { nodes: endpoints },
        Kind::Single | Kind::Sentinel => {
            let primary = name.or_else(|| path.next().map(str::to_owned)).ok_or(SENTINEL_FORMS)?;
            Deployment::Sentinel { primary, sentinels: endpoints }
        }
    };
    let database = in_cluster(&deployment, parse_database(path.next().unwrap_or_default())?)?;
    let sentinel_login = match (username, password) {
        (username, Some(password)) => Login::Password { username, password: SecretString::from(password) },
        (_, None) => Login::Open,
    };
    Ok(Address { deployment, login, sentinel_login, database, tls: None })
}

fn parse_database(text: &str) -> Result<Option<u8>, String> {
    match text {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| "a number from 0 to 255 as the database".to_owned()),
    }
}

/// A Cluster has one database.
fn in_cluster(deployment: &Deployment, database: Option<u8>) -> Result<Option<u8>, String> {
    match (deployment, database) {
        (Deployment::Cluster { .. }, None | Some(0)) => Ok(None),
        (Deployment::Cluster { .. }, Some(_)) => Err("no database but 0, since it is a Cluster".to_owned()),
        (Deployment::Single(_) | Deployment::Sentinel { .. }, database) => Ok(database),
    }
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

/// What stands before the last `@`, where a lone name is the user's, who has no password; and the rest.
fn split_login(text: &str) -> Result<(Login, &str), String> {
    let Some((userinfo, rest)) = text.rsplit_once('@') else { return Ok((Login::Open, text)) };
    let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded = decode(username).zip(decode(password));
    let (username, password) = decoded.ok_or("a user and password in percent-encoded UTF-8")?;
    let username = (!username.is_empty()).then_some(username);
    let login = match (username, password.is_empty()) {
        (None, true) => Login::Open,
        (username, _) => Login::Password { username, password: SecretString::from(password) },
    };
    Ok((login, rest))
}

fn decode(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(String::from)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    fn single(host: &str, port: u16) -> Deployment {
        Deployment::Single(tcp(host, port))
    }

    fn unix() -> Deployment {
        Deployment::Single(Endpoint::Unix("/run/redis.sock".into()))
    }

    fn sentinel() -> Deployment {
        Deployment::Sentinel { primary: "m".to_owned(), sentinels: vec![tcp("a", 1), tcp("b", 2)] }
    }

    fn cluster() -> Deployment {
        Deployment::Cluster { nodes: vec![tcp("a", 1), tcp("b", 2)] }
    }

    fn shown(login: &Login) -> Option<(Option<&str>, &str)> {
        match login {
            Login::Password { username, password } => Some((username.as_deref(), password.expose_secret())),
            Login::Open | Login::File(_) => None,
        }
    }

    #[test]
    fn every_way_to_write_an_address_is_understood() {
        use Kind::{Cluster, Sentinel, Single};
        for (url, kind, deployment, tls) in [
            ("localhost:6379", None, single("localhost", 6379), None),
            ("10.0.0.1:7000", Some(Single), single("10.0.0.1", 7000), None),
            ("[::1]:6379", None, single("::1", 6379), None),
            ("redis://cache", None, single("cache", 6379), Some(false)),
            ("redis://[::1]", None, single("::1", 6379), Some(false)),
            ("rediss://cache:7000/0", Some(Single), single("cache", 7000), Some(true)),
            ("/run/redis.sock", None, unix(), None),
            ("redis+unix:///run/redis.sock", None, unix(), None),
            ("unix:///run/redis.sock", None, unix(), None),
            ("m,a:1,b:2", Some(Sentinel), sentinel(), None),
            ("m, redis://a:1, redis://b:2", Some(Sentinel), sentinel(), Some(false)),
            ("redis-sentinel://a:1,b:2/m", None, sentinel(), Some(false)),
            ("redis-sentinel://a:1,b:2/m/3", Some(Sentinel), sentinel(), Some(false)),
            ("redis-sentinel://a:1?sentinelServiceName=m&node=b:2", None, sentinel(), Some(false)),
            ("rediss-sentinel://a:1,b:2/m", None, sentinel(), Some(true)),
            ("a:1,b:2", Some(Cluster), cluster(), None),
            ("rediss://a:1,rediss://b:2", Some(Cluster), cluster(), Some(true)),
            ("redis-cluster://a:1,b:2", None, cluster(), Some(false)),
            ("rediss-cluster://a:1?node=b:2", Some(Cluster), cluster(), Some(true)),
        ] {
            let address = parse(url, kind).unwrap_or_else(|expected| panic!("{url}: expected {expected}"));
            assert_eq!((address.deployment, address.tls), (deployment, tls), "{url}");
        }
    }

    #[test]
    fn logins_and_databases_are_read() {
        for (url, login, database) in [
            ("redis://u:p%40ss@cache:1/15", Some((Some("u"), "p@ss")), Some(15)),
            ("redis://:p@cache/", Some((None, "p")), None),
            ("redis://u@cache/0", Some((Some("u"), "")), Some(0)),
            ("redis-sentinel://u:p@a:1,b:2/m/3", Some((Some("u"), "p")), Some(3)),
            ("redis-cluster://:p@a:1/0", Some((None, "p")), None),
            ("redis://cache", None, None),
        ] {
            let address = parse(url, None).unwrap_or_else(|expected| panic!("{url}: expected {expected}"));
            assert_eq!((shown(&address.login), address.database), (login, database), "{url}");
        }
        let url = "redis-sentinel://a:1/m?sentinelUsername=s&sentinelPassword=t";
        assert_eq!(shown(&parse(url, None).expect("an address").sentinel_login), Some((Some("s"), "t")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_not_repeated() {
        use Kind::{Cluster, Sentinel, Single};
        for (url, kind, expected) in [
            ("secret:1,b:1", None, "REDIS_TYPE"),
            ("secret:1,b:1", Some(Single), "REDIS_TYPE"),
            ("redis-cluster://secret:1", Some(Single), "REDIS_TYPE"),
            ("redis-sentinel://secret:1/m", Some(Cluster), "REDIS_TYPE"),
            ("secret", Some(Sentinel), "Expected master name and a list of urls for the sentinels"),
            ("secret:1,b:1", Some(Sentinel), "Expected master name and a list of urls for the sentinels"),
            ("redis-sentinel://secret:1", None, "Expected master name"),
            ("redis-cluster://secret:1/3", None, "Cluster"),
            ("redis://secret:1/3", Some(Cluster), "Cluster"),
            ("redis://secret:1,rediss://b:1", Some(Cluster), "TLS"),
            ("/run/secret.sock,b:1", Some(Cluster), "unix"),
            ("redis-cluster://secret:1?nodes=b:2", None, "nodes"),
            ("redis://secret/x", None, "database"),
            ("redis://secret/256", None, "database"),
            ("redis://secret:%ff@cache", None, "percent-encoded"),
            ("secret", None, "host:port"),
            ("secret:", None, "host:port"),
            ("secret:0", None, "host:port"),
            (":6379", None, "host:port"),
            ("secret:99999", None, "host:port"),
            ("http://secret", None, "host:port"),
            ("redis+unix://secret", None, "host:port"),
            ("", None, "host:port"),
        ] {
            match parse(url, kind) {
                Err(found) => {
                    assert!(found.contains(expected) && !found.contains("secret"), "{url}: {found}")
                }
                Ok(address) => panic!("{url}: {address:?}"),
            }
        }
    }
}
