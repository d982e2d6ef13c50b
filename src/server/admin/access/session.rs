//! Sessions of browsers: a cookie that proves knowledge of a token without containing it.
//!
//! The cookie is an expiry, a number of its own, and the HMAC of both under the token's digest. It is valid on every
//! replica that has the token, survives a restart, and ends when the token leaves the file. A session that a browser has
//! ended is invalid on the replica that served it, until that replica restarts or has ended many others.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::hmac;

use super::Actor;
use super::tokens::{Token, Tokens};
use crate::engine::Timestamp;

/// Name of the cookie. A browser takes a name with the prefix over TLS alone, and from this very host.
const COOKIE: &str = "tollgate_session";
const SECURE_COOKIE: &str = "__Host-tollgate_session";
/// Ended sessions that are remembered. Beyond it the one that expires first is forgotten.
const MAX_ENDED: usize = 10_000;
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

fn text(context: &str, session: &str) -> Vec<u8> {
    format!("{context} {session}").into_bytes()
}

const fn cookie_name(is_secure: bool) -> &'static str {
    if is_secure { SECURE_COOKIE } else { COOKIE }
}

/// Sessions that browsers have ended, by their expiry.
#[derive(Debug, Default)]
pub(super) struct Ended(Mutex<BTreeSet<(u64, String)>>);

impl Ended {
    /// Ends the session of the cookie in `headers`, if it has one that is valid.
    pub(super) fn end(&self, tokens: &Tokens, request: CookieRequest<'_>) {
        let Some(Session { expires, name, .. }) = valid(tokens, request) else { return };
        let mut ended = self.0.lock();
        let now = request.now.as_secs();
        ended.retain(|(expires, _)| *expires >= now);
        ended.insert((expires, name));
        if ended.len() > MAX_ENDED {
            ended.pop_first();
        }
    }

    fn contains(&self, session: &Session) -> bool {
        let ended = self.0.lock();
        !ended.is_empty() && ended.contains(&(session.expires, session.name.clone()))
    }
}

/// A request with cookies.
#[derive(Clone, Copy, Debug)]
pub(super) struct CookieRequest<'r> {
    pub(super) headers: &'r HeaderMap,
    /// True if it came over TLS.
    pub(super) is_secure: bool,
    pub(super) now: Timestamp,
}

/// A session whose cookie is valid.
struct Session {
    expires: u64,
    /// Expiry and number, as the cookie has them.
    name: String,
    actor: Actor,
}

/// `Set-Cookie` of a session for `token` from `now` on.
pub(super) fn set_cookie(token: &Token, now: Timestamp, is_secure: bool) -> String {
    // The number tells sessions apart that begin in one second; the HMAC is what cannot be guessed.
    let session = format!("{}.{:016x}", now.as_secs() + SESSION_SECS, fastrand::u64(..));
    let tag = hmac::sign(&key(token), &text(SESSION_CONTEXT, &session));
    let value = format!("{session}.{}", URL_SAFE_NO_PAD.encode(tag));
    format!("{}={value}; Max-Age={SESSION_SECS}{}", cookie_name(is_secure), attributes(is_secure))
}

/// `Set-Cookie` that ends a session.
pub(super) fn clear_cookie(is_secure: bool) -> String {
    format!("{}=; Max-Age=0{}", cookie_name(is_secure), attributes(is_secure))
}

fn attributes(is_secure: bool) -> String {
    format!("; Path=/; HttpOnly; SameSite=Strict{}", if is_secure { "; Secure" } else { "" })
}

/// The actor of a valid cookie, unless its session has ended.
pub(super) fn actor(tokens: &Tokens, ended: &Ended, request: CookieRequest<'_>) -> Option<Actor> {
    valid(tokens, request).filter(|session| !ended.contains(session)).map(|session| session.actor)
}

/// The session of a valid cookie.
fn valid(tokens: &Tokens, CookieRequest { headers, is_secure, now }: CookieRequest<'_>) -> Option<Session> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| *name == cookie_name(is_secure))?;
    let (session, tag) = value.rsplit_once('.')?;
    let (expires, _) = session.split_once('.')?;
    let (expires, tag) = (expires.parse().ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
    if !(now.as_secs()..=now.as_secs() + SESSION_SECS).contains(&expires) {
        return None;
    }
    let tokens = tokens.tokens();
    let proves = |token: &&Token| hmac::verify(&key(token), &text(SESSION_CONTEXT, session), &tag).is_ok();
    let token = tokens.iter().find(proves)?;
    let csrf = URL_SAFE_NO_PAD.encode(hmac::sign(&key(token), &text(CSRF_CONTEXT, session)));
    Some(Session { expires, name: session.to_owned(), actor: Actor { csrf: Some(csrf), ..token.actor() } })
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
        let ended = Ended::default();
        let at = |secs, cookie: &str| {
            let now = Timestamp::from_secs(start.as_secs() + secs);
            let request = CookieRequest { headers: &cookies(cookie), is_secure: true, now };
            actor(&tokens, &ended, request).map(|actor| actor.name)
        };
        let name = Some("operate token, line 2".to_owned());
        assert_eq!(at(0, value), name);
        assert_eq!(at(SESSION_SECS, &format!("theme=dark; {value}; other=1")), name);
        assert_eq!(at(SESSION_SECS + 1, value), None, "expired");
        let forged = value.replace("=1043200.", "=1043201.");
        assert_ne!(forged, value);
        for wrong in
            [forged.as_str(), "__Host-tollgate_session=", "__Host-tollgate_session=1043200.", "other=1"]
        {
            assert_eq!(at(0, wrong), None, "{wrong}");
        }
        let (_, without_prefix) = value.split_once("__Host-").unwrap();
        assert_eq!(at(0, without_prefix), None, "another page of the host's domain may have set it");
        let headers = cookies(value);
        let request = CookieRequest { headers: &headers, is_secure: true, now: start };
        let actor = |tokens: &Tokens| actor(tokens, &ended, request);
        assert_eq!(actor(&read("operate:another-token-of-them\n")), None);
        let session = actor(&tokens).unwrap();
        assert!(!has_csrf_token(&session, &HeaderMap::new()));
        let csrf = HeaderValue::from_str(session.csrf.as_deref().unwrap()).unwrap();
        assert!(has_csrf_token(&session, &HeaderMap::from_iter([(CSRF_HEADER, csrf)])));
        assert!(!value.contains(session.csrf.as_deref().unwrap()));
    }

    #[tokio::test]
    async fn a_session_that_was_ended_is_invalid_and_others_of_its_token_are_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "view:view-view-view-view\n").unwrap();
        let tokens = Tokens::read(file.path()).unwrap();
        let (found, index) = tokens.find(b"view-view-view-view").unwrap();
        let (ended, now) = (Ended::default(), Timestamp::from_secs(1_000_000));
        let log_in = || cookies(set_cookie(&found[index], now, false).split(';').next().unwrap());
        let [one, other] = [log_in(), log_in()];
        let request = |headers| CookieRequest { headers, is_secure: false, now };
        let is_valid = |headers| actor(&tokens, &ended, request(headers)).is_some();
        assert!(is_valid(&one) && is_valid(&other));
        ended.end(&tokens, request(&one));
        assert!(!is_valid(&one) && is_valid(&other));
        let forged = cookies("tollgate_session=1043200.0.AAAA");
        ended.end(&tokens, request(&forged));
        assert_eq!(ended.0.lock().len(), 1, "a forged one is not remembered");
        let later = CookieRequest { now: Timestamp::from_secs(1_000_000 + SESSION_SECS), ..request(&other) };
        ended.end(&tokens, later);
        assert_eq!(ended.0.lock().len(), 2);
        let after = set_cookie(&found[index], Timestamp::from_secs(2_000_000), false);
        let after = cookies(after.split(';').next().unwrap());
        ended.end(&tokens, CookieRequest { now: Timestamp::from_secs(2_000_000), ..request(&after) });
        assert_eq!(ended.0.lock().len(), 1, "expired ones are forgotten");
    }
}
