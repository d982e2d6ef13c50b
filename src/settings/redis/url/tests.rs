use secrecy::ExposeSecret as _;

use super::*;

pub(crate) fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp { host: host.to_owned(), port }
}

pub(crate) fn single(host: &str, port: u16) -> Deployment {
    Deployment::Single(tcp(host, port))
}

pub(crate) fn unix(path: &str) -> Deployment {
    Deployment::Single(Endpoint::Unix(path.into()))
}

pub(crate) fn endpoints(places: &[(&str, u16)]) -> Vec<Endpoint> {
    places.iter().map(|(host, port)| tcp(host, *port)).collect()
}

pub(crate) fn sentinels(primary: &str, places: &[(&str, u16)]) -> Deployment {
    Deployment::Sentinel { primary: primary.to_owned(), sentinels: endpoints(places) }
}

pub(crate) fn cluster(places: &[(&str, u16)]) -> Deployment {
    Deployment::Cluster { nodes: endpoints(places) }
}

/// `user:password`, where there is one.
pub(crate) fn shown(login: &Login) -> Option<String> {
    match login {
        Login::Open => None,
        Login::Password { username, password } => {
            Some(format!("{}:{}", username.as_deref().unwrap_or_default(), password.expose_secret()))
        }
        Login::File(path) => Some(path.display().to_string()),
    }
}

fn understood(url: &str, kind: Option<Kind>) -> Address {
    parse(url, kind).unwrap_or_else(|wrong| panic!("{url} {kind:?}: {wrong:?}"))
}

#[test]
fn every_way_to_write_an_address_is_understood() {
    use Kind::{Cluster, Sentinel, Single};
    for (url, kind, expected) in [
        ("localhost:6379", None, single("localhost", 6379)),
        ("10.0.0.1:7000", Some(Single), single("10.0.0.1", 7000)),
        ("[::1]:6379", None, single("::1", 6379)),
        ("redis://cache", None, single("cache", 6379)),
        ("redis://cache:7000/0", Some(Single), single("cache", 7000)),
        ("redis://[::1]", None, single("::1", 6379)),
        ("rediss://cache", None, single("cache", 6379)),
        ("/run/redis.sock", None, unix("/run/redis.sock")),
        ("/run/a,b.sock", Some(Single), unix("/run/a,b.sock")),
        ("redis+unix:///run/redis.sock", None, unix("/run/redis.sock")),
        ("unix:///run/redis.sock", None, unix("/run/redis.sock")),
        ("main,a:1,[::1]:2", Some(Sentinel), sentinels("main", &[("a", 1), ("::1", 2)])),
        ("my-main_1.x, a:1 , b:2", Some(Sentinel), sentinels("my-main_1.x", &[("a", 1), ("b", 2)])),
        ("main,redis://a:1,rediss://b:2", Some(Sentinel), sentinels("main", &[("a", 1), ("b", 2)])),
        ("redis-sentinel://a:1,b:2/main", None, sentinels("main", &[("a", 1), ("b", 2)])),
        ("redis-sentinel://a,[::1]:2/main", Some(Sentinel), sentinels("main", &[("a", 26379), ("::1", 2)])),
        (
            "redis-sentinel://a/main?node=b:2&node=c",
            None,
            sentinels("main", &[("a", 26379), ("b", 2), ("c", 26379)]),
        ),
        (
            "redis-sentinel://a:1?sentinelServiceName=main&node=b:2",
            None,
            sentinels("main", &[("a", 1), ("b", 2)]),
        ),
        ("rediss-sentinel://a:1/3?sentinelServiceName=main", None, sentinels("main", &[("a", 1)])),
        ("a:1", Some(Cluster), cluster(&[("a", 1)])),
        ("a:1,b:2", Some(Cluster), cluster(&[("a", 1), ("b", 2)])),
        ("redis://a,rediss://b:2/0,c:3", Some(Cluster), cluster(&[("a", 6379), ("b", 2), ("c", 3)])),
        ("redis-cluster://a,b:2", None, cluster(&[("a", 6379), ("b", 2)])),
        ("redis-cluster://a:1/0?node=b:2", Some(Cluster), cluster(&[("a", 1), ("b", 2)])),
        ("rediss-cluster://a:1", None, cluster(&[("a", 1)])),
    ] {
        let address = understood(url, kind);
        assert_eq!(address.deployment, expected, "{url}");
        assert_eq!(address.wants_tls, url.contains("rediss"), "{url}");
    }
}

#[test]
fn a_login_in_an_address_is_the_server_s_or_the_sentinels() {
    use Kind::{Cluster, Sentinel};
    for (url, kind, server, sentinel) in [
        ("redis://cache", None, None, None),
        ("redis://u:p%40ss@cache:1", None, Some("u:p@ss"), None),
        ("redis://:p@cache", None, Some(":p"), None),
        ("redis://u@cache", None, Some("u:"), None),
        ("redis://u:p@a,redis://u:p@b,c:1", Some(Cluster), Some("u:p"), None),
        ("main,redis://u:p@a,b:1", Some(Sentinel), None, Some("u:p")),
        ("redis-cluster://u:p,q@a,b", None, Some("u:p,q"), None),
        ("redis-sentinel://u:p@a,b/main", None, Some("u:p"), None),
        (
            "redis-sentinel://u:p@a/main?sentinelUsername=v&sentinelPassword=q@%26",
            None,
            Some("u:p"),
            Some("v:q@&"),
        ),
        ("redis-sentinel://a/main?sentinelPassword=q", None, None, Some(":q")),
    ] {
        let address = understood(url, kind);
        assert_eq!(shown(&address.login).as_deref(), server, "{url}");
        assert_eq!(shown(&address.sentinel_login).as_deref(), sentinel, "{url}");
    }
}

#[test]
fn a_database_is_the_first_unless_it_is_named() {
    for (url, expected) in [
        ("redis://cache", None),
        ("redis://cache/", None),
        ("redis://cache/0", Some(0)),
        ("redis://u:p@cache:1/15", Some(15)),
        ("redis-sentinel://a/main", None),
        ("redis-sentinel://a/main/", None),
        ("redis-sentinel://a/main/7", Some(7)),
        ("redis-sentinel://a/7?sentinelServiceName=main", Some(7)),
        ("redis-cluster://a/0", None),
    ] {
        assert_eq!(understood(url, None).database, expected, "{url}");
    }
}

#[test]
fn invalid_addresses_are_rejected() {
    use Kind::{Cluster, Sentinel, Single};
    for (url, kind, expected) in [
        ("", None, "host:port"),
        ("cache", None, "host:port"),
        ("cache:", None, "host:port"),
        ("cache:0", None, "host:port"),
        (":6379", None, "host:port"),
        ("cache:99999", None, "host:port"),
        ("user:secret@cache:1", None, "host:port"),
        ("http://cache", None, "host:port"),
        ("redis+unix://relative", None, "host:port"),
        ("redis://u:p/w@cache", None, "host:port"),
        ("redis://cache/x", None, "database"),
        ("redis://cache/256", None, "database"),
        ("redis://cache?db=1", None, "parameters"),
        ("redis://u:%ff@cache", None, "percent-encoded"),
        ("main", Some(Sentinel), "Expected master name and a list of urls for the sentinels"),
        ("a:1,b:2", Some(Sentinel), "Expected master name and a list of urls for the sentinels"),
        ("main,", Some(Sentinel), "Expected master name and a list of urls for the sentinels"),
        ("main,a", Some(Sentinel), "Expected master name and a list of urls for the sentinels"),
        ("redis://u:secret@a,b:1", Some(Sentinel), "Expected master name"),
        ("main,redis://a/1", Some(Sentinel), "redis-sentinel://host:port/primary/database"),
        ("redis-sentinel://a:1", None, "primary"),
        ("redis-sentinel:///main", None, "redis-sentinel://"),
        ("redis-sentinel://a:1/my main", None, "primary"),
        ("redis-sentinel://a:1/main/x", None, "database"),
        ("redis-sentinel://a:1/main?master=x", None, "sentinelServiceName"),
        ("redis-sentinel://u:p@a,u:p@b/main", None, "user and password"),
        ("a,b", Some(Cluster), "nodes"),
        ("a:1,,b:1", Some(Cluster), "nodes"),
        ("redis://a/1,b:1", Some(Cluster), "no database, or 0"),
        ("redis://u:p@a,redis://u:q@b", Some(Cluster), "the same"),
        ("redis://u:p,w@a", Some(Cluster), "nodes"),
        ("redis-cluster://a/1", None, "no database, or 0"),
        ("redis-cluster://a?sentinelServiceName=main", None, "sentinelServiceName"),
        ("redis-cluster://", None, "nodes"),
        ("redis-cluster://a,/0", Some(Single), "CLUSTER"),
    ] {
        let found = match parse(url, kind) {
            Err(UrlError::Address(expected)) => expected,
            Err(UrlError::Kind(kind)) => kind.word(),
            other => panic!("{url}: {other:?}"),
        };
        assert!(found.contains(expected), "{url}: {found}");
    }
}
