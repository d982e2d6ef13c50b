//! Requests that only a program on this machine may make, and no web page that somebody on it has open.
//!
//! The address of the peer keeps other machines out. A page in a browser on this machine has that address
//! too: `Origin` and `Sec-Fetch-Site` give it away, and `Host` does where its name was made to resolve to this
//! machine (DNS rebinding).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Locality of a connection's peer: true if it is on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalPeer(pub(super) bool);

/// Rejects requests that a page of another site has a browser send.
pub(super) async fn same_site_only(request: Request, next: Next) -> Response {
    if is_cross_site(request.headers()) {
        return (StatusCode::FORBIDDEN, "requests from pages of other sites are rejected\n").into_response();
    }
    next.run(request).await
}

/// Rejects requests from other machines, and those whose `Host` is no name of this one: an IP address,
/// `localhost` or `names`.
pub(super) async fn local_only(
    State(names): State<Arc<[String]>>,
    peer: Option<Extension<LocalPeer>>,
    request: Request,
    next: Next,
) -> Response {
    if !peer.is_some_and(|Extension(LocalPeer(is_local))| is_local) {
        return (StatusCode::FORBIDDEN, "only clients on this machine may do this\n").into_response();
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if !host.is_some_and(|host| is_own_name(host, &names)) {
        let message = "the Host header must be an IP address, localhost or DEBUG_HOST\n";
        return (StatusCode::FORBIDDEN, message).into_response();
    }
    next.run(request).await
}

fn is_own_name(host: &str, names: &[String]) -> bool {
    let host = match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// True if a browser says that another site has it send the request. Other clients send neither header.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let is_foreign_site = |site: &HeaderValue| site == "cross-site" || site == "same-site";
    if headers.get_all("sec-fetch-site").iter().any(is_foreign_site) {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        // `null` is the origin of a sandboxed page.
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.map(|(_, authority)| authority) != host
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn a_host_is_an_address_localhost_or_a_configured_name() {
        let names = ["limits.internal".to_owned()];
        for host in ["127.0.0.1", "127.0.0.1:6070", "[::1]:6070", "localhost:6070", "LIMITS.internal:1"] {
            assert!(is_own_name(host, &names), "{host}");
        }
        for host in ["evil.example", "evil.example:6070", "localhost.evil.example", "127.0.0.1.evil", ""] {
            assert!(!is_own_name(host, &names), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_found() {
        for (headers, expected) in [
            (&[][..], false),
            (&[("host", "localhost:1")], false),
            (&[("host", "localhost:1"), ("origin", "http://localhost:1")], false),
            (&[("host", "localhost:1"), ("origin", "http://localhost:2")], true),
            (&[("host", "localhost:1"), ("origin", "http://evil.example")], true),
            (&[("host", "localhost:1"), ("origin", "null")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
        ] {
            let entry = |&(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            assert_eq!(is_cross_site(&headers.iter().map(entry).collect()), expected, "{headers:?}");
        }
    }
}
