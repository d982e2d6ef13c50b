//! Sessions of browsers: a token in a form becomes a cookie.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::Admin;
use super::audit::{Entry, Origin};
use crate::server::links::query_value;
use crate::server::local::Peer;

/// Path of the page with the login form.
pub(in crate::server) const LOGIN_PAGE: &str = "/login";

/// Starts a session for the form field `token`, and redirects to the path in `next`.
pub(super) async fn log_in(
    State(admin): State<Arc<Admin>>,
    peer: Option<Extension<Peer>>,
    body: Bytes,
) -> Response {
    let field = |name: &str| form_field(&body, name).unwrap_or_default();
    let next = local_path(&field("next"));
    let now = admin.clock.now();
    let Some((cookie, actor)) = admin.access.log_in(&field("token"), now, admin.is_tls) else {
        tracing::warn!("login rejected: unknown token");
        return see_other(&format!("{LOGIN_PAGE}?failed=1&next={}", query_value(&next)), None);
    };
    let entry = Entry {
        actor: &actor,
        action: "login",
        target: "console",
        reason: "",
        dry_run: false,
        result: "done",
        origin: &Origin::at(peer.and_then(|Extension(peer)| peer.address)),
    };
    admin.audit.record(entry, now);
    see_other(&next, Some(&cookie))
}

/// Ends the session of the browser. Copies of its cookie become invalid too.
pub(super) async fn log_out(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    see_other(LOGIN_PAGE, Some(&admin.access.log_out(&headers, admin.clock.now(), admin.is_tls)))
}

/// Sends a browser without a session to the form. Other clients get the error itself.
pub(super) fn login_redirect(headers: &HeaderMap, path: &str) -> Option<Response> {
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    let wants_page = accepts.is_some_and(|accepts| accepts.contains("text/html"));
    wants_page.then(|| see_other(&format!("{LOGIN_PAGE}?next={}", query_value(path)), None))
}

fn see_other(location: &str, cookie: Option<&str>) -> Response {
    let mut answer = StatusCode::SEE_OTHER.into_response();
    for (name, value) in [(header::LOCATION, Some(location)), (header::SET_COOKIE, cookie)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// `next` if it is a path on this server, else `/`: a login must not redirect to another site.
fn local_path(next: &str) -> String {
    let is_local = next.starts_with('/') && !next.starts_with("//");
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_local && is_plain { next.to_owned() } else { "/".to_owned() }
}

/// Value of a field of an `application/x-www-form-urlencoded` body.
fn form_field(body: &[u8], name: &str) -> Option<String> {
    let body = str::from_utf8(body).ok()?;
    let (_, value) = body.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    let value = value.replace('+', " ");
    percent_encoding::percent_decode_str(&value).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_redirects_only_to_pages_of_this_server() {
        for (next, expected) in [
            ("/keys?by=denied&window=5m", "/keys?by=denied&window=5m"),
            ("", "/"),
            ("//evil.example/", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example/", "/"),
            ("/a\r\nset-cookie: x=1", "/"),
        ] {
            assert_eq!(local_path(next), expected, "{next}");
        }
    }

    #[test]
    fn fields_are_decoded() {
        let body = b"token=a%2Bb+c%26d&next=%2Frules";
        assert_eq!(form_field(body, "token").as_deref(), Some("a+b c&d"));
        assert_eq!(form_field(body, "next").as_deref(), Some("/rules"));
        assert_eq!(form_field(body, "other"), None);
        assert_eq!(form_field(b"token=\xff", "token"), None);
    }
}
