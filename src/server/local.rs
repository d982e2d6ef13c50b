//! Access checks for requests that only programs on this machine may send, but not web pages in a browser on
//! it.
//!
//! The address of the peer excludes other machines. A page in a local browser has a local address too:
//! [`super::origin`] detects its requests. A page can also read without sending an `Origin`, so `Host` must be
//! a name of this machine.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::origin::{host, is_cross_site, is_own_name};

/// The peer of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Its address; `None` on a Unix socket.
    pub(super) address: Option<IpAddr>,
}

impl Peer {
    /// True if it is on this machine.
    pub(super) fn is_local(self) -> bool {
        // On a dual-stack socket an IPv4 peer has the address `::ffff:127.0.0.1`.
        self.address.is_none_or(|address| address.to_canonical().is_loopback())
    }
}

/// Rejects requests that a browser sends for a page of another site.
pub(super) async fn same_site_only(
    State(names): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    if is_cross_site(request.headers(), request.uri(), &names) {
        return (StatusCode::FORBIDDEN, "requests from pages of other sites are rejected\n").into_response();
    }
    next.run(request).await
}

/// Rejects requests from other machines, and those whose `Host` is not an IP address, `localhost` or one of
/// `names`.
pub(super) async fn local_only(
    State(names): State<Arc<[String]>>,
    peer: Option<Extension<Peer>>,
    request: Request,
    next: Next,
) -> Response {
    if !peer.is_some_and(|Extension(peer)| peer.is_local()) {
        return (StatusCode::FORBIDDEN, "only clients on this machine may do this\n").into_response();
    }
    if !has_own_host(&request, &names) {
        let message = "the Host header must be an IP address, localhost or DEBUG_HOST\n";
        return (StatusCode::FORBIDDEN, message).into_response();
    }
    next.run(request).await
}

/// True if the `Host` of `request` is an IP address, `localhost` or one of `names`.
pub(super) fn has_own_host(request: &Request, names: &[String]) -> bool {
    host(request.headers(), request.uri()).is_some_and(|host| is_own_name(host, names))
}
