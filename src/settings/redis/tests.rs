use std::fs;
use std::path::{Path, PathBuf};

use rcgen::generate_simple_self_signed;

use super::*;
use crate::settings::StoreSettings;
use crate::settings::redis::url::tests::{cluster, sentinels, shown, single, unix};
use crate::settings::tests::{read, read_well, refused};

fn redis(typed: &[(&str, &str)]) -> RedisStoreSettings {
    match read_well(typed).store {
        StoreSettings::Redis(settings) => *settings,
        StoreSettings::Memory => panic!("{typed:?}: redis was asked for"),
    }
}

/// The text of the only error.
fn complaint(typed: &[(&str, &str)]) -> String {
    let errors = read(typed).expect_err("a mistake");
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.0[0].to_string()
}

#[test]
fn a_scheme_and_a_type_that_disagree_are_an_error() {
    for (url, kind, expected) in [
        ("redis-sentinel://a:1/main", "SINGLE", "SENTINEL"),
        ("redis-sentinel://a:1/main", "cluster", "SENTINEL"),
        ("rediss-cluster://a:1", "Sentinel", "CLUSTER"),
        ("/run/redis.sock", "CLUSTER", "SINGLE"),
        ("unix:///run/redis.sock", "sentinel", "SINGLE"),
    ] {
        let found = complaint(&[("REDIS_URL", url), ("REDIS_TYPE", kind)]);
        let expected = format!(
            "REDIS_TYPE (--redis-type): expected {expected}, which is what REDIS_URL says, found {kind:?}"
        );
        assert_eq!(found, expected);
    }
}

#[test]
fn a_list_needs_a_type() {
    for typed in [&[("REDIS_URL", "a:1,b:2")][..], &[("REDIS_URL", "a:1,b:2"), ("REDIS_TYPE", "SINGLE")]] {
        let found = complaint(typed);
        assert!(found.contains("REDIS_TYPE to be set to CLUSTER or SENTINEL"), "{found}");
    }
    for (url, kind, expected) in [
        ("a:1,b:2", "cluster", cluster(&[("a", 1), ("b", 2)])),
        ("a,b:2", "Sentinel", sentinels("a", &[("b", 2)])),
    ] {
        let found = redis(&[("REDIS_URL", url), ("REDIS_TYPE", kind)]).all.deployment;
        assert_eq!(found, expected, "{url}");
    }
    // An invalid type is the only error.
    assert_eq!(refused(&[("REDIS_URL", "a:1,b:2"), ("REDIS_TYPE", "TWIN")]), ["REDIS_TYPE"]);
}

#[test]
fn missing_sentinels_are_an_error_in_the_terms_of_the_setting() {
    let found = complaint(&[("REDIS_URL", "main"), ("REDIS_TYPE", "SENTINEL")]);
    let expected = "REDIS_URL (--redis-url): Expected master name and a list of urls for the sentinels, in \
                    the format: <name>,<host:port>,...,<host:port>";
    assert_eq!(found, expected);
}

#[test]
fn settings_select_the_deployment_of_redis() {
    let settings = redis(&[
        ("REDIS_URL", "/run/redis.sock"),
        ("REDIS_SOCKET_TYPE", "UNIX"),
        ("REDIS_AUTH", "user:p:ss"),
        ("REDIS_TIMEOUT", "5s"),
        ("REDIS_CALL_TIMEOUT", "15ms"),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "1m"),
        ("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "true"),
        ("EXPIRATION_JITTER_MAX_SECONDS", "0"),
    ]);
    let redis = settings.all;
    assert_eq!(redis.deployment, unix("/run/redis.sock"));
    assert_eq!(shown(&redis.credentials.server).as_deref(), Some("user:p:ss"));
    assert_eq!(redis.connect_timeout, Duration::from_secs(5));
    assert_eq!(redis.call_timeout, Duration::from_millis(15));
    assert_eq!(redis.expiration_jitter_max_secs, 0);
    assert!(redis.tls.is_none() && settings.per_second.is_none() && settings.ready_only_connected);
    assert_eq!(settings.startup_max, Some(Duration::from_secs(60)));
}

#[test]
fn by_default_redis_is_waited_for_without_end_and_health_does_not_depend_on_it() {
    let settings = redis(&[("REDIS_URL", "a:1")]);
    assert_eq!((settings.startup_max, settings.ready_only_connected), (None, false));
    for url in ["a:1", "redis-cluster://a:1", "redis-sentinel://a:1/main"] {
        assert_eq!(refused(&[("REDIS_URL", url), ("REDIS_SOCKET_TYPE", "tcp")]), [""; 0]);
        assert_eq!(refused(&[("REDIS_URL", url), ("REDIS_SOCKET_TYPE", "unix")]), ["REDIS_SOCKET_TYPE"]);
    }
}

/// A folder with files of every kind.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().expect("a folder") };
        let signed = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        for (name, text) in [
            ("auth", "user:of-file\n"),
            ("empty", ""),
            ("ca", &signed.cert.pem()),
            ("cert", &signed.cert.pem()),
            ("key", &signed.signing_key.serialize_pem()),
        ] {
            fs::write(files.folder.path().join(name), text).expect("written");
        }
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

#[test]
fn a_login_is_the_setting_s_then_the_url_s() {
    let files = Files::new();
    let auth = files.path("auth");
    let with_login = "redis-sentinel://u:p@a/main?sentinelPassword=q";
    for (url, name, value, server, sentinel) in [
        ("a:1", "REDIS_AUTH", "secret", Some(":secret"), None),
        (with_login, "REDIS_TYPE", "SENTINEL", Some("u:p"), Some(":q")),
        (with_login, "REDIS_AUTH", "v:r", Some("v:r"), Some(":q")),
        (with_login, "REDIS_AUTH_FILE", &auth, Some(&*auth), Some(":q")),
        (with_login, "REDIS_SENTINEL_AUTH", "v:r", Some("u:p"), Some("v:r")),
        (with_login, "REDIS_SENTINEL_AUTH_FILE", &auth, Some("u:p"), Some(&*auth)),
    ] {
        let credentials = redis(&[("REDIS_URL", url), (name, value)]).all.credentials;
        let found = (shown(&credentials.server), shown(&credentials.sentinel));
        assert_eq!((found.0.as_deref(), found.1.as_deref()), (server, sentinel), "{name}={value}");
    }
}

#[test]
fn a_login_comes_from_exactly_one_source() {
    let files = Files::new();
    for name in ["REDIS_AUTH", "REDIS_SENTINEL_AUTH"] {
        let file_name = format!("{name}_FILE");
        let (url, auth) = (("REDIS_URL", "a:1"), files.path("auth"));
        let found = complaint(&[url, (name, "secret"), (&file_name, &auth)]);
        assert!(found.starts_with(&file_name) && found.contains(&format!("since {name} is set")), "{found}");
        for (path, expected) in [("none", "No such file"), ("empty", "it is empty")] {
            let found = complaint(&[url, (&file_name, &files.path(path))]);
            assert!(found.starts_with(&file_name) && found.contains(expected), "{found}");
        }
        // Who counts in memory needs none of Redis' files.
        let memory = [url, ("BACKEND_TYPE", "memory"), (file_name.as_str(), "/none")];
        assert_eq!(refused(&memory), [""; 0]);
    }
}

#[test]
fn tls_is_spoken_where_the_setting_or_the_scheme_says_so() {
    let files = Files::new();
    let ca = files.path("ca");
    for (url, tls, expected) in [
        ("redis://a", None, false),
        ("redis://a", Some("false"), false),
        ("redis://a", Some("true"), true),
        ("a:1", Some("1"), true),
        ("rediss://a", None, true),
        ("rediss://a", Some("true"), true),
        ("rediss-cluster://a", None, true),
        ("rediss-sentinel://a/main", None, true),
        ("/run/redis.sock", Some("false"), false),
    ] {
        let mut typed = vec![("REDIS_URL", url), ("REDIS_TLS_CACERT", &ca)];
        typed.extend(tls.map(|tls| ("REDIS_TLS", tls)));
        let expected = expected.then(|| ClientTls {
            ca: Some(PathBuf::from(&ca)),
            identity: None,
            verify_hostname: true,
        });
        assert_eq!(redis(&typed).all.tls, expected, "{url} {tls:?}");
    }
    for (url, tls, expected) in
        [("rediss://a", "false", "says with rediss"), ("/run/redis.sock", "true", "is a unix socket")]
    {
        let found = complaint(&[("REDIS_URL", url), ("REDIS_TLS", tls)]);
        assert!(found.starts_with("REDIS_TLS ") && found.contains(expected), "{found}");
    }
}

#[test]
fn tls_is_spoken_with_the_files_that_are_named() {
    let files = Files::new();
    let [ca, certificate, key] = ["ca", "cert", "key"].map(|name| files.path(name));
    let named = [
        ("REDIS_URL", "rediss://a"),
        ("REDIS_TLS_CACERT", &ca),
        ("REDIS_TLS_CLIENT_CERT", &certificate),
        ("REDIS_TLS_CLIENT_KEY", &key),
        ("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", "true"),
    ];
    let client = Identity { certificate: certificate.clone().into(), key: key.clone().into() };
    let expected = ClientTls { ca: Some(ca.clone().into()), identity: Some(client), verify_hostname: false };
    assert_eq!(redis(&named).all.tls, Some(expected));
    assert_eq!(refused(&named[..3]), ["REDIS_TLS_CLIENT_KEY"]);
    assert_eq!(refused(&[named[0], named[1], named[3]]), ["REDIS_TLS_CLIENT_CERT"]);

    for (at, path, expected) in [
        (1, "none", "No such file"),
        (1, "key", "no certificate"),
        (2, "empty", "no certificate"),
        (3, "none", "No such file"),
        (3, "cert", "no private key"),
    ] {
        let (mut typed, path) = (named, files.path(path));
        typed[at].1 = &path;
        let found = complaint(&typed);
        assert!(found.starts_with(typed[at].0) && found.contains(expected), "{found}");
        assert!(found.contains(&path), "{found}");
        // Without TLS nobody looks at the files.
        typed[0].1 = "redis://a";
        assert_eq!(refused(&typed), [""; 0]);
    }
}

#[test]
fn a_second_redis_is_read_as_the_first() {
    let files = Files::new();
    let (ca, auth) = (files.path("ca"), files.path("auth"));
    let first = [("REDIS_URL", "a:1"), ("REDIS_TIMEOUT", "5s"), ("REDIS_AUTH", "first")];
    let second = [
        ("REDIS_PERSECOND_URL", "main,b:2"),
        ("REDIS_PERSECOND_TYPE", "SENTINEL"),
        ("REDIS_PERSECOND_SOCKET_TYPE", "tcp"),
        ("REDIS_PERSECOND_AUTH_FILE", &auth),
        ("REDIS_PERSECOND_SENTINEL_AUTH", "watcher"),
        ("REDIS_PERSECOND_TLS", "true"),
        ("REDIS_TLS_CACERT", &ca),
    ];
    let typed = [&first[..], &second, &[("REDIS_PERSECOND", "true")]].concat();
    let RedisStoreSettings { all, per_second, .. } = redis(&typed);
    let per_second = per_second.expect("asked for");
    assert_eq!(all.deployment, single("a", 1));
    assert_eq!(per_second.deployment, sentinels("main", &[("b", 2)]));
    assert_eq!(shown(&all.credentials.server).as_deref(), Some(":first"));
    assert_eq!(shown(&per_second.credentials.server), Some(auth.clone()));
    assert_eq!(shown(&per_second.credentials.sentinel).as_deref(), Some(":watcher"));
    assert_eq!(all.tls, None);
    assert_eq!(per_second.tls.and_then(|tls| tls.ca).as_deref(), Some(Path::new(&ca)));
    assert_eq!(per_second.connect_timeout, Duration::from_secs(5));

    let typed = [&typed[..], &[("REDIS_PERSECOND_TIMEOUT", "2s")]].concat();
    let connect_timeout = redis(&typed).per_second.map(|settings| settings.connect_timeout);
    assert_eq!(connect_timeout, Some(Duration::from_secs(2)));
}

#[test]
fn mistakes_of_the_second_redis_bear_its_names_and_count_only_where_it_is_asked_for() {
    let (first, on) = (("REDIS_URL", "a:1"), ("REDIS_PERSECOND", "true"));
    assert_eq!(refused(&[first, on]), ["REDIS_PERSECOND_URL"]);
    let url = ("REDIS_PERSECOND_URL", "b:1");
    for (typed, name) in [
        (("REDIS_PERSECOND_URL", "b"), "REDIS_PERSECOND_URL"),
        (("REDIS_PERSECOND_URL", "b:1,c:1"), "REDIS_PERSECOND_URL"),
        (("REDIS_PERSECOND_TYPE", "TWIN"), "REDIS_PERSECOND_TYPE"),
        (("REDIS_PERSECOND_SOCKET_TYPE", "unix"), "REDIS_PERSECOND_SOCKET_TYPE"),
        (("REDIS_PERSECOND_AUTH_FILE", "/none"), "REDIS_PERSECOND_AUTH_FILE"),
        (("REDIS_PERSECOND_SENTINEL_AUTH_FILE", "/none"), "REDIS_PERSECOND_SENTINEL_AUTH_FILE"),
        (("REDIS_PERSECOND_TLS", "x"), "REDIS_PERSECOND_TLS"),
        (("REDIS_PERSECOND_TIMEOUT", "0s"), "REDIS_PERSECOND_TIMEOUT"),
    ] {
        let url = (typed.0 != url.0).then_some(url);
        let off: Vec<_> = [first, typed].into_iter().chain(url).collect();
        assert_eq!(refused(&off), [""; 0], "{typed:?}");
        assert_eq!(refused(&[&off[..], &[on]].concat()), [name], "{typed:?}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let url = |url| ("REDIS_URL", url);
    for typed in [
        [url("redis://user:hunter2@cache:1"), ("REDIS_SOCKET_TYPE", "tcp")],
        [url("redis://user:hunter2@cache:1"), ("REDIS_SOCKET_TYPE", "unix")],
        [url("rediss://user:hunter2@cache:1"), ("REDIS_AUTH", "hunter2")],
        [url("rediss://user:hunter2@cache:1"), ("REDIS_TLS", "false")],
        [url("hunter2"), ("REDIS_AUTH", "hunter2")],
        [url("localhost:1"), ("REDIS_AUTH", "user:hunter2")],
        [url("localhost:1"), ("REDIS_SENTINEL_AUTH", "user:hunter2")],
        [url("user:hunter2@cache:1"), ("REDIS_TYPE", "SINGLE")],
        [url("user:hunter2@cache:1,b:1"), ("REDIS_TYPE", "SENTINEL")],
        [url("user:hunter2@cache:1,b:1"), ("REDIS_TYPE", "CLUSTER")],
        [url("redis://user:hunter2@cache:1,b:1"), ("REDIS_TYPE", "CLUSTER")],
        [url("redis://user:hunter2@cache:1,b:1"), ("REDIS_TYPE", "SINGLE")],
        [url("redis://user:hunter2@cache:1,b:1/hunter2"), ("REDIS_TYPE", "SENTINEL")],
        [url("redis-sentinel://user:hunter2@cache:1"), ("REDIS_TYPE", "SENTINEL")],
        [url("redis-sentinel://user:hunter2@cache:1/main"), ("REDIS_TYPE", "SINGLE")],
        [url("redis-sentinel://cache:1/main?sentinelPassword=hunter2"), ("REDIS_TYPE", "SENTINEL")],
        [url("redis-sentinel://cache:1/main?password=hunter2"), ("REDIS_TYPE", "SENTINEL")],
        [url("redis-cluster://user:hunter2@cache:1/hunter2"), ("REDIS_TYPE", "CLUSTER")],
    ] {
        let shown = match read(&typed) {
            Ok(settings) => format!("{settings:?}"),
            Err(errors) => format!("{errors} {errors:?}"),
        };
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
