//! `Idempotency-Key`: a write that is sent again gets the answer of the first time, and is not carried out again.
//!
//! This replica keeps its last answers, except 5xx and 403: such a request may succeed later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};

use super::access::Actor;
use super::api::problem;
use super::{Admin, IDEMPOTENCY_KEY, MAX_BODY_BYTES};

/// Header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Upper bound on the answers that are kept.
const MAX_KEPT: usize = 1_000;
/// Upper bound on a key, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// Upper bound on the size of an answer that is kept, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Answers to writes, by actor and key.
#[derive(Debug, Default)]
pub(super) struct Replays(Mutex<AnswerCache>);

#[derive(Debug, Default)]
struct AnswerCache {
    answers: HashMap<Name, CachedAnswer>,
    /// Names of finished writes, oldest first.
    order: VecDeque<Name>,
}

type Name = (String, String);

#[derive(Clone, Debug)]
struct CachedAnswer {
    /// Digest of the request.
    fingerprint: [u8; 32],
    /// `None` while the write is under way.
    answer: Option<(StatusCode, Bytes)>,
}

/// State of a write.
enum Lookup {
    /// The key is new. The write is under way from now on.
    New,
    /// The write is under way.
    InProgress,
    /// The key belongs to another request.
    Other,
    /// The write was answered with this.
    Answered(StatusCode, Bytes),
}

impl Replays {
    fn begin(&self, name: &Name, fingerprint: [u8; 32]) -> Lookup {
        let mut cache = self.0.lock();
        match cache.answers.get(name) {
            Some(cached) if cached.fingerprint != fingerprint => Lookup::Other,
            Some(CachedAnswer { answer: None, .. }) => Lookup::InProgress,
            Some(CachedAnswer { answer: Some((status, body)), .. }) => {
                Lookup::Answered(*status, body.clone())
            }
            None => {
                cache.answers.insert(name.clone(), CachedAnswer { fingerprint, answer: None });
                Lookup::New
            }
        }
    }

    /// Keeps the answer to a write; forgets the write if there is none.
    fn finish(&self, name: Name, answer: Option<(StatusCode, Bytes)>) {
        let mut cache = self.0.lock();
        let Some(cached) = cache.answers.get_mut(&name).filter(|_| answer.is_some()) else {
            cache.answers.remove(&name);
            return;
        };
        cached.answer = answer;
        cache.order.push_back(name);
        if cache.order.len() > MAX_KEPT
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.answers.remove(&oldest);
        }
    }
}

/// A write under way. Dropping it forgets the write, which has panicked.
struct PendingWrite<'a> {
    replays: &'a Replays,
    name: Option<Name>,
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.replays.finish(name, None);
        }
    }
}

/// Carries out a write once for each key. The write continues if its client disconnects, so that it is audited.
pub(super) async fn replayed(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let key = match key(request.headers()) {
        Ok(key) => key,
        Err(message) => return problem(StatusCode::BAD_REQUEST, message),
    };
    let write = tokio::spawn(async move {
        match key {
            Some(key) => once(&admin, key, request, next).await,
            None => next.run(request).await,
        }
    });
    let failed = |_| problem(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the log has the cause");
    write.await.unwrap_or_else(failed)
}

async fn once(admin: &Admin, key: String, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or cannot be read");
    };
    let actor = parts.extensions.get::<Actor>().map(|actor| actor.name.clone()).unwrap_or_default();
    let mut digest = Context::new(&SHA256);
    for part in [parts.method.as_str().as_bytes(), parts.uri.to_string().as_bytes(), &body] {
        digest.update(&part.len().to_le_bytes());
        digest.update(part);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.finish().as_ref());
    let name = (actor, key);
    match admin.replays.begin(&name, fingerprint) {
        Lookup::New => {}
        Lookup::InProgress => {
            return problem(StatusCode::CONFLICT, "a request with this Idempotency-Key is under way");
        }
        Lookup::Other => {
            let message = "this Idempotency-Key was sent with another request: use a new one";
            return problem(StatusCode::UNPROCESSABLE_ENTITY, message);
        }
        Lookup::Answered(status, body) => {
            let mut answer = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
            answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            return answer;
        }
    }
    let mut pending = PendingWrite { replays: &admin.replays, name: Some(name) };
    let (answer, body) = next.run(Request::from_parts(parts, Body::from(body))).await.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be read");
    };
    // Not kept: the client may have the role by the next attempt.
    let is_kept = !answer.status.is_server_error()
        && answer.status != StatusCode::FORBIDDEN
        && body.len() <= MAX_ANSWER_BYTES;
    if let Some(name) = pending.name.take() {
        admin.replays.finish(name, is_kept.then(|| (answer.status, body.clone())));
    }
    Response::from_parts(answer, Body::from(body))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => Err("Idempotency-Key: expected 1 to 255 characters of ASCII"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_replayed_and_bounded_and_failures_may_be_tried_again() {
        let replays = Replays::default();
        let name = |number: usize| ("operate token, line 1".to_owned(), number.to_string());
        let answer = || Some((StatusCode::OK, Bytes::from_static(b"{}")));
        assert!(matches!(replays.begin(&name(0), [1; 32]), Lookup::New));
        assert!(matches!(replays.begin(&name(0), [1; 32]), Lookup::InProgress));
        assert!(matches!(replays.begin(&name(0), [2; 32]), Lookup::Other));
        replays.finish(name(0), None);
        assert!(matches!(replays.begin(&name(0), [2; 32]), Lookup::New));
        replays.finish(name(0), answer());
        assert!(matches!(replays.begin(&name(0), [2; 32]), Lookup::Answered(StatusCode::OK, _)));
        for number in 1..=2 * MAX_KEPT {
            assert!(matches!(replays.begin(&name(number), [1; 32]), Lookup::New));
            replays.finish(name(number), answer());
        }
        assert_eq!(replays.0.lock().answers.len(), MAX_KEPT);
        assert!(matches!(replays.begin(&name(0), [1; 32]), Lookup::New), "the oldest is forgotten");
    }
}
