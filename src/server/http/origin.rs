//! Requests that a browser sends for a page of another site. They need no preflight, so any page could count
//! hits, lock out accounts and refund.

use axum::http::{HeaderMap, HeaderName, Uri, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// True where a browser marks the request as sent for a page of another site. Other clients send neither of the
/// two headers.
pub(super) fn is_cross_site(headers: &HeaderMap, uri: &Uri) -> bool {
    if headers.get_all(SEC_FETCH_SITE).iter().any(|site| site == "cross-site") {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(uri.authority().map(|authority| authority.as_str()));
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        // `null` is the origin of sandboxed pages and local files.
        let (Some((scheme, origin)), Some(host)) = (origin, host) else { return true };
        let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let host = host.strip_suffix(default_port).unwrap_or(host);
        !origin.strip_suffix(default_port).unwrap_or(origin).eq_ignore_ascii_case(host)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_cross_site(&headers.collect(), &Uri::from_static("/json"))
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
        assert!(!check(&[("host", "a.example"), ("origin", "https://a.example:443")]));
        assert!(!check(&[("host", "a.example:80"), ("origin", "http://a.example")]));
        assert!(check(&[("host", "a.example:80"), ("origin", "https://a.example")]));
        for (site, expected) in
            [("cross-site", true), ("same-origin", false), ("none", false), ("same-site", false)]
        {
            assert_eq!(check(&[host, ("sec-fetch-site", site)]), expected, "{site}");
        }
    }
}
