//! The address of Redis, in each of its text forms. Errors never repeat the text: it may contain a password.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::store::redis::{Deployment, Endpoint, Login};

/// Deployment of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel,
    Cluster,
}

impl Kind {
    /// Name in settings.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Single => "SINGLE",
            Self::Sentinel => "SENTINEL",
            Self::Cluster => "CLUSTER",
        }
    }
}

/// Address of Redis and further parts of the URL.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) deployment: Deployment,
    pub(super) database: Option<u8>,
    /// Login to Redis servers.
    pub(super) login: Login,
    /// Login to Sentinels.
    pub(super) sentinel_login: Login,
    /// True if the scheme requires TLS.
    pub(super) wants_tls: bool,
}

/// Error in an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlError {
    /// Unexpected form.
    Address(&'static str),
    /// List of servers in place of one.
    List,
    /// The URL contradicts the deployment in the settings.
    Kind(Kind),
}

type Result<T> = std::result::Result<T, UrlError>;

pub(super) const FORMS: &str = "host:port, /path/of/a.sock or a URL such as \
                                redis://[user:password@]host[:port][/database], \
                                redis-sentinel://host:port,host:port/primary or \
                                redis-cluster://host:port,host:port; what is special in a password is \
                                percent-encoded";
const SENTINEL_LIST: &str = "Expected master name and a list of urls for the sentinels, in the format: \
                             <name>,<host:port>,...,<host:port>";
const SENTINEL_URL: &str =
    "redis-sentinel://host:port,host:port/primary[/database], the primary named as the Sentinels know it";
const CLUSTER_LIST: &str = "a list of the cluster's nodes: host:port,host:port";
const USERINFO: &str = "a user and password in percent-encoded UTF-8, the same wherever they are given";
const DATABASE: &str = "a number from 0 to 255 as the database";
const CLUSTER_DATABASE: &str = "no database, or 0: a cluster has no other";
const SENTINEL_DATABASE: &str =
    "no database behind a Sentinel's address: redis-sentinel://host:port/primary/database has a place for it";
const PARAMETERS: &str = "of parameters only node (of a cluster or Sentinels) and sentinelServiceName, \
                          sentinelUsername and sentinelPassword (of Sentinels)";

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Parses `text`; `kind` is the deployment in the settings, if it is set.
///
/// # Errors
/// [`UrlError`]
pub(super) fn parse(text: &str, kind: Option<Kind>) -> Result<Address> {
    let expect = |found: Kind| match kind {
        Some(kind) if kind != found => Err(UrlError::Kind(found)),
        Some(_) | None => Ok(()),
    };
    if let Some((scheme, rest)) = text.split_once("://") {
        let (kind, wants_tls) = match scheme {
            "redis-sentinel" => (Kind::Sentinel, false),
            "rediss-sentinel" => (Kind::Sentinel, true),
            "redis-cluster" => (Kind::Cluster, false),
            "rediss-cluster" => (Kind::Cluster, true),
            "unix" | "redis+unix" if rest.starts_with('/') => {
                expect(Kind::Single)?;
                return Ok(unix(rest));
            }
            _ => return parse_list(text, kind),
        };
        expect(kind)?;
        return parse_several(rest, kind, wants_tls);
    }
    if text.starts_with('/') {
        expect(Kind::Single)?;
        return Ok(unix(text));
    }
    parse_list(text, kind)
}

/// Parses a list of `host:port` or URLs of single servers, as `kind` requires.
fn parse_list(text: &str, kind: Option<Kind>) -> Result<Address> {
    match kind.unwrap_or(Kind::Single) {
        Kind::Single if text.contains(',') => Err(UrlError::List),
        Kind::Single => {
            let Item { endpoint, login, database, wants_tls } = parse_item(text, FORMS)?;
            let deployment = Deployment::Single(endpoint);
            let login = login.map_or(Ok(Login::Open), decode_userinfo)?;
            Ok(Address { deployment, database, login, sentinel_login: Login::Open, wants_tls })
        }
        Kind::Sentinel => {
            let (name, list) = text.split_once(',').ok_or(UrlError::Address(SENTINEL_LIST))?;
            let primary = parse_primary(name).ok_or(UrlError::Address(SENTINEL_LIST))?;
            let List { endpoints: sentinels, login: sentinel_login, wants_tls } =
                parse_items(list, SENTINEL_LIST, |_| Err(UrlError::Address(SENTINEL_DATABASE)))?;
            let deployment = Deployment::Sentinel { primary, sentinels };
            Ok(Address { deployment, database: None, login: Login::Open, sentinel_login, wants_tls })
        }
        Kind::Cluster => {
            let List { endpoints: nodes, login, wants_tls } =
                parse_items(text, CLUSTER_LIST, check_cluster_database)?;
            let deployment = Deployment::Cluster { nodes };
            Ok(Address { deployment, database: None, login, sentinel_login: Login::Open, wants_tls })
        }
    }
}

struct List {
    endpoints: Vec<Endpoint>,
    login: Login,
    wants_tls: bool,
}

fn parse_items(
    text: &str,
    expected: &'static str,
    check_database: impl Fn(u8) -> Result<()>,
) -> Result<List> {
    let (mut endpoints, mut logins, mut wants_tls) = (Vec::new(), Vec::new(), false);
    for item in text.split(',') {
        let item = parse_item(item.trim(), expected)?;
        item.database.map_or(Ok(()), &check_database)?;
        endpoints.push(item.endpoint);
        logins.extend(item.login);
        wants_tls |= item.wants_tls;
    }
    logins.dedup();
    let login = match logins[..] {
        [] => Login::Open,
        [login] => decode_userinfo(login)?,
        _ => return Err(UrlError::Address(USERINFO)),
    };
    Ok(List { endpoints, login, wants_tls })
}

/// One server.
struct Item<'a> {
    endpoint: Endpoint,
    login: Option<&'a str>,
    database: Option<u8>,
    wants_tls: bool,
}

/// `host:port`, or `redis://` or `rediss://` and `[user:password@]host[:port][/database]`.
fn parse_item<'a>(text: &'a str, expected: &'static str) -> Result<Item<'a>> {
    let wrong = UrlError::Address(expected);
    let (wants_tls, rest) = match text.split_once("://") {
        None => {
            let endpoint = parse_host(text, None).ok_or(wrong)?;
            return Ok(Item { endpoint, login: None, database: None, wants_tls: false });
        }
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some(_) => return Err(wrong),
    };
    let Parts { userinfo, hosts, path, query } = Parts::split(rest);
    let endpoint = parse_host(hosts, Some(REDIS_PORT)).ok_or(wrong)?;
    if query.is_some() {
        return Err(UrlError::Address(PARAMETERS));
    }
    Ok(Item { endpoint, login: userinfo, database: parse_database(path)?, wants_tls })
}

/// Parses `[user:password@]host[:port],host[:port]…[/…][?…]`. The meaning of the path depends on `kind`.
fn parse_several(rest: &str, kind: Kind, wants_tls: bool) -> Result<Address> {
    let Parts { userinfo, hosts, path, query } = Parts::split(rest);
    // Reject logins before each host: only the last `@` would be recognised.
    if userinfo.is_some_and(|userinfo| userinfo.contains('@')) {
        return Err(UrlError::Address(USERINFO));
    }
    let Parameters { nodes, primary, sentinel_login } = Parameters::parse(query, kind)?;
    let login = userinfo.map_or(Ok(Login::Open), decode_userinfo)?;
    let endpoints = |port, expected| {
        let all = hosts.split(',').chain(nodes.iter().map(String::as_str));
        let endpoints: Option<Vec<_>> = all.map(|host| parse_host(host, Some(port))).collect();
        endpoints.ok_or(UrlError::Address(expected))
    };
    let (deployment, database) = match kind {
        Kind::Single | Kind::Cluster => {
            parse_database(path)?.map_or(Ok(()), check_cluster_database)?;
            (Deployment::Cluster { nodes: endpoints(REDIS_PORT, CLUSTER_LIST)? }, None)
        }
        Kind::Sentinel => {
            let (primary, database) = match (primary, path.split_once('/')) {
                (Some(primary), _) => (Some(primary), path),
                (None, Some((name, database))) => (decode(name), database),
                (None, None) => (decode(path), ""),
            };
            let primary = primary.as_deref().and_then(parse_primary);
            let primary = primary.ok_or(UrlError::Address(SENTINEL_URL))?;
            let sentinels = endpoints(SENTINEL_PORT, SENTINEL_URL)?;
            (Deployment::Sentinel { primary, sentinels }, parse_database(database)?)
        }
    };
    Ok(Address { deployment, database, login, sentinel_login, wants_tls })
}

/// The query after `?`.
struct Parameters {
    nodes: Vec<String>,
    primary: Option<String>,
    sentinel_login: Login,
}

impl Parameters {
    fn parse(query: Option<&str>, kind: Kind) -> Result<Self> {
        let (mut nodes, mut primary, mut username, mut password) = (Vec::new(), None, None, None);
        for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(UrlError::Address(PARAMETERS))?;
            let value = decode(value).ok_or(UrlError::Address(USERINFO))?;
            match (name, kind) {
                ("node", _) => nodes.push(value),
                ("sentinelServiceName", Kind::Sentinel) => primary = Some(value),
                ("sentinelUsername", Kind::Sentinel) => username = Some(value),
                ("sentinelPassword", Kind::Sentinel) => password = Some(value),
                _ => return Err(UrlError::Address(PARAMETERS)),
            }
        }
        let sentinel_login = match (username, password) {
            (None, None) => Login::Open,
            (username, password) => {
                Login::Password { username, password: SecretString::from(password.unwrap_or_default()) }
            }
        };
        Ok(Self { nodes, primary, sentinel_login })
    }
}

/// The part after a scheme: `[userinfo@]hosts[/path][?query]`.
struct Parts<'a> {
    userinfo: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Self {
        let (authority, rest) = text.split_at(text.find(['/', '?']).unwrap_or(text.len()));
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (userinfo, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        Self { userinfo, hosts, path: path.trim_start_matches('/'), query }
    }
}

fn parse_database(text: &str) -> Result<Option<u8>> {
    match text {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| UrlError::Address(DATABASE)),
    }
}

fn check_cluster_database(database: u8) -> Result<()> {
    if database == 0 { Ok(()) } else { Err(UrlError::Address(CLUSTER_DATABASE)) }
}

/// Name of a primary, in the characters that Sentinel accepts. Others are rejected, since the name is shown.
fn parse_primary(text: &str) -> Option<String> {
    let text = text.trim();
    let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    (is_name && !text.is_empty()).then(|| text.to_owned())
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
    let is_host = !host.is_empty() && !text.contains('@') && port > 0;
    is_host.then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

fn unix(path: &str) -> Address {
    Address {
        deployment: Deployment::Single(Endpoint::Unix(PathBuf::from(path))),
        database: None,
        login: Login::Open,
        sentinel_login: Login::Open,
        wants_tls: false,
    }
}

fn decode(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(String::from)
}

/// Parses `user:password` of a URL; a single name is a user without a password.
fn decode_userinfo(userinfo: &str) -> Result<Login> {
    let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let (username, password) = decode(username).zip(decode(password)).ok_or(UrlError::Address(USERINFO))?;
    let username = (!username.is_empty()).then_some(username);
    Ok(match (username, password.is_empty()) {
        (None, true) => Login::Open,
        (username, _) => Login::Password { username, password: SecretString::from(password) },
    })
}

#[cfg(test)]
pub(super) mod tests;
