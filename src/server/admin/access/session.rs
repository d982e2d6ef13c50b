//! Sessions of browsers: a cookie that proves knowledge of a token without containing it.
//!
//! The cookie is an expiry and its HMAC under the token's digest. It is valid on every replica that has the token,
//! survives a restart, and ends when the token leaves the file.

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::Actor;
use super::tokens::{Token, Tokens};
use crate::engine::Timestamp;

const COOKIE: &str = "tollgate_session";
/// Lifetime of a session, in seconds.
pub(super) const SESSION_SECS: u64 = 12 * 3_600;
/// Request header that repeats the session's secret, which no page of another origin can read.
const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");

/// The text that the HMAC of a cookie covers, and that of its CSRF token.
const SESSION_CONTEXT: &str = "tollgate session";
const CSRF_CONTEXT: &str = "tollgate csrf";

fn key(token: &Token) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &token.digest)
}

fn text(context: &str, expires: u64) -> Vec<u8> {
    format!("{context} {expires}").into_bytes()
}

/// `Set-Cookie` of a session for `token` from `now` on.
pub(super) fn set_cookie(token: &Token, now: Timestamp, is_secure: bool) -> String {
    let expires = now.as_secs() + SESSION_SECS;
    let tag = hmac::sign(&key(token), &text(SESSION_CONTEXT, expires));
    let value = format!("{expires}.{}", URL_SAFE_NO_PAD.encode(tag));
    format!("{COOKIE}={value}; Max-Age={SESSION_SECS}{}", attributes(is_secure))
}

/// `Set-Cookie` that ends a session.
pub(super) fn clear_cookie(is_secure: bool) -> String {
    format!("{COOKIE}=; Max-Age=0{}", attributes(is_secure))
}

fn attributes(is_secure: bool) -> String {
    format!("; Path=/; HttpOnly; SameSite=Strict{}", if is_secure { "; Secure" } else { "" })
}

/// The actor of a valid cookie in `headers`.
pub(super) fn actor(tokens: &Tokens, headers: &HeaderMap, now: Timestamp) -> Option<Actor> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| *name == COOKIE)?;
    let (expires, tag) = value.split_once('.')?;
    let (expires, tag) = (expires.parse().ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
    if !(now.as_secs()..=now.as_secs() + SESSION_SECS).contains(&expires) {
        return None;
    }
    let tokens = tokens.tokens();
    let proves = |token: &&Token| hmac::verify(&key(token), &text(SESSION_CONTEXT, expires), &tag).is_ok();
    let token = tokens.iter().find(proves)?;
    let csrf = URL_SAFE_NO_PAD.encode(hmac::sign(&key(token), &text(CSRF_CONTEXT, expires)));
    Some(Actor { csrf: Some(csrf), ..token.actor() })
}

/// True unless `actor` has a session whose secret `headers` lack.
pub(super) fn has_csrf_token(actor: &Actor, headers: &HeaderMap) -> bool {
    let Some(expected) = &actor.csrf else { return true };
    headers.get(CSRF_HEADER).is_some_and(|sent| sent.as_bytes() == expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use axum::http::HeaderValue;

    use super::*;

    fn cookies(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(value).unwrap())])
    }

    #[tokio::test]
    async fn a_cookie_is_valid_until_it_expires_or_its_token_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            Tokens::read(file.path()).unwrap()
        };
        let tokens = read("view:view-view-view-view\noperate:operate-operate-operate\n");
        let (found, index) = tokens.find(b"operate-operate-operate").unwrap();
        let start = Timestamp::from_secs(1_000_000);
        let set = set_cookie(&found[index], start, true);
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{set}");
        let value = set.split(';').next().unwrap();
        assert!(!value.contains("operate-operate"), "{value}");
        let at = |secs, cookie: &str| {
            let now = Timestamp::from_secs(start.as_secs() + secs);
            actor(&tokens, &cookies(cookie), now).map(|actor| actor.name)
        };
        let name = Some("operate token, line 2".to_owned());
        assert_eq!(at(0, value), name);
        assert_eq!(at(SESSION_SECS, &format!("theme=dark; {value}; other=1")), name);
        assert_eq!(at(SESSION_SECS + 1, value), None, "expired");
        let forged = value.replace("=1043200.", "=1043201.");
        assert_ne!(forged, value);
        for wrong in [forged.as_str(), "tollgate_session=", "tollgate_session=1043200.", "other=1"] {
            assert_eq!(at(0, wrong), None, "{wrong}");
        }
        let actor = |tokens: &Tokens| actor(tokens, &cookies(value), start);
        assert_eq!(actor(&read("operate:another-token-of-them\n")), None);
        let session = actor(&tokens).unwrap();
        assert!(!has_csrf_token(&session, &HeaderMap::new()));
        let csrf = HeaderValue::from_str(session.csrf.as_deref().unwrap()).unwrap();
        assert!(has_csrf_token(&session, &HeaderMap::from_iter([(CSRF_HEADER, csrf)])));
        assert!(!value.contains(session.csrf.as_deref().unwrap()));
    }
}
