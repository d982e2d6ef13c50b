//! Requests that a browser sends for a page of another site. They need no preflight, so that any page could count
//! hits, lock out accounts, and refund.
//!
//! `Sec-Fetch-Site` and `Origin` identify them. Neither does after DNS rebinding: the attacker's host name resolves
//! to this server, and the browser takes it for the page's own. `Host` and `Origin` then both have that name, so a
//! page served over plain HTTP must be under a name of this server. A page served over HTTPS need not: the browser
//! has checked the certificate of the proxy in front, which has none for the attacker's name. Clients that are no
//! browsers send no `Origin`, and may use any name.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Uri, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// True if a browser sent the request for a page of another site, as far as headers show. `own_names` are host
/// names of this server.
pub(super) fn is_cross_site(headers: &HeaderMap, uri: &Uri, own_names: &[String]) -> bool {
    let is_foreign = |site| !["same-origin", "none"].iter().any(|own| site == own);
    if headers.get_all(SEC_FETCH_SITE).iter().any(is_foreign) {
        return true;
    }
    let host = host(headers, uri);
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        // `null` is the origin of sandboxed pages and local files.
        let (Some((scheme, origin)), Some(host)) = (origin, host) else { return true };
        let is_https = scheme.eq_ignore_ascii_case("https");
        let default_port = if is_https { ":443" } else { ":80" };
        let without_default =
            |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
        without_default(origin) != without_default(host) || !(is_https || is_own_name(host, own_names))
    })
}

/// The host that the request is for, with its port if it has one.
pub(super) fn host<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<&'r str> {
    match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(|authority| authority.as_str()),
    }
}

/// True if no DNS record leads a browser here under the name of `host`: an IP address, `localhost` or one of
/// `own_names`.
pub(super) fn is_own_name(host: &str, own_names: &[String]) -> bool {
    let host = without_port(host);
    host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || own_names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// The name or address of `host`, without its port.
pub(super) fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let own_names = ["limits.example".to_owned()];
        is_cross_site(&headers.collect(), &Uri::from_static("/json"), &own_names)
    }

    #[test]
    fn foreign_origins_are_found() {
        let host = ("host", "limits.example:8080");
        assert!(!check(&[]));
        assert!(!check(&[host]));
        for origin in ["http://limits.example:8080", "https://LIMITS.example:8080"] {
            assert!(!check(&[host, ("origin", origin)]), "{origin}");
        }
        for origin in [
            "http://evil.example",
            "http://limits.example",
            "http://limits.example:8080.evil.example",
            "http://evil.example/limits.example:8080",
            "null",
            "",
        ] {
            assert!(check(&[host, ("origin", origin)]), "{origin}");
        }
        assert!(check(&[("origin", "http://limits.example")]), "no host to compare with");
        assert!(!check(&[("host", "limits.example"), ("origin", "https://limits.example:443")]));
        assert!(!check(&[("host", "limits.example:80"), ("origin", "http://limits.example")]));
        assert!(check(&[("host", "limits.example:80"), ("origin", "https://limits.example")]));
        for (site, expected) in
            [("cross-site", true), ("same-site", true), ("", true), ("same-origin", false), ("none", false)]
        {
            assert_eq!(check(&[host, ("sec-fetch-site", site)]), expected, "{site}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_resolve_to_this_server_is_foreign_to_pages_without_tls() {
        for (host, origin, expected) in [
            ("evil.example:8080", "http://evil.example:8080", true),
            ("evil.example:8080", "HTTP://evil.example:8080", true),
            ("limits.example.evil.example", "http://limits.example.evil.example", true),
            ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", true),
            ("shop.example", "https://shop.example", false),
            ("127.0.0.1:8080", "http://127.0.0.1:8080", false),
            ("[::1]:8080", "http://[::1]:8080", false),
            ("localhost:8080", "http://localhost:8080", false),
            ("limits.example", "http://limits.example", false),
        ] {
            assert_eq!(check(&[("host", host), ("origin", origin)]), expected, "{origin}");
        }
        assert!(!check(&[("host", "any.example")]), "no page");
    }

    #[test]
    fn the_host_over_http_2_is_the_authority() {
        let uri = Uri::from_static("http://localhost:8080/json");
        let check = |origin| {
            let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
            is_cross_site(&headers, &uri, &[])
        };
        assert_eq!((check("http://localhost:8080"), check("http://localhost:8081")), (false, true));
    }

    #[test]
    fn an_own_name_is_an_address_localhost_or_configured() {
        let names = ["limits.internal".to_owned()];
        for host in ["127.0.0.1", "127.0.0.1:6070", "[::1]:6070", "localhost:6070", "LIMITS.internal:1"] {
            assert!(is_own_name(host, &names), "{host}");
        }
        for host in ["evil.example", "evil.example:6070", "localhost.evil.example", "127.0.0.1.evil", ""] {
            assert!(!is_own_name(host, &names), "{host}");
        }
    }
}
