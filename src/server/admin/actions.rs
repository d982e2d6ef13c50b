//! Writes. Each needs a role and a JSON body with a reason, and is recorded in the audit log.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio::time;

use super::Admin;
use super::access::Actor;
use super::api::{Answer, Params, PathParams, Reply, problem};
use super::audit::{Entry, Trace};
use crate::server::lockouts::Lift;
use crate::server::schema::{replies, requests};

const NO_LOCKOUT: &str = "the lockout has ended";
/// Upper bound on the time in which a body must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound on a reason, in characters.
const MAX_REASON: usize = 1_000;

/// A write: its actor, and the parts that every write has.
pub(super) struct Write<B> {
    pub(super) actor: Actor,
    /// True to report what the write would do without doing it.
    pub(super) dry_run: bool,
    pub(super) body: B,
    trace: Trace,
}

/// Body of a write.
pub(super) trait WriteBody: DeserializeOwned {
    /// Reason, for the audit log.
    fn reason(&self) -> &str;
}

requests! {
    /// Parameters of every write.
    struct WriteQuery {
        /// `1` to report what the write would do, and do nothing.
        dry_run: Option<String> = { "enum": ["0", "1", "true", "false"] },
    }
    /// Body of a write that needs only a reason.
    struct Reason {
        /// Reason, for the audit log.
        reason: String = { "minLength": 1, "maxLength": 1000, "pattern": "\\S" },
    }
    /// Id of a lockout.
    struct LockoutId {
        /// `id` of the lockout in the list.
        id: String,
    }
}

replies! {
    /// Outcome of a reload request.
    struct Reloaded {
        /// True if the request was a dry run, which changed nothing.
        dry_run: bool,
        /// True if the rules are being read again.
        reloading: bool,
    }
    /// Outcome of lifting a lockout.
    struct Lifted {
        /// True if the request was a dry run, which changed nothing.
        dry_run: bool,
        /// True if the lockout was lifted.
        lifted: bool,
        /// Domain, name and client of the lockout.
        target: String,
        /// Error of a store that may still have the lockout.
        error: Option<String>,
    }
}

impl WriteBody for Reason {
    fn reason(&self) -> &str {
        &self.reason
    }
}

impl<B: WriteBody, S: Send + Sync> FromRequest<S> for Write<B> {
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let Extension(actor) = request.extract_parts::<Extension<Actor>>().await.map_err(rejection)?;
        let trace = request.extensions().get::<Trace>().cloned().unwrap_or_default();
        let Params(query) = request.extract_parts::<Params<WriteQuery>>().await?;
        let dry_run = match query.dry_run.as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true" | "") => true,
            Some(other) => {
                let message = format!("dry_run: expected 1 or 0, not {other:?}");
                return Err(problem(StatusCode::BAD_REQUEST, &message));
            }
        };
        let JsonBody(body): JsonBody<B> = JsonBody::from_request(request, state).await?;
        let wrong = |message: &str| problem(StatusCode::BAD_REQUEST, message);
        match body.reason() {
            reason if reason.trim().is_empty() => Err(wrong("reason: must not be empty")),
            reason if reason.chars().count() > MAX_REASON => {
                Err(wrong(&format!("reason: at most {MAX_REASON} characters")))
            }
            _ => Ok(Self { actor, dry_run, body, trace }),
        }
    }
}

/// Body of a request, as JSON. Errors in it are answered in JSON too.
pub(super) struct JsonBody<B>(pub(super) B);

impl<B: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<B> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            let message = "send 'content-type: application/json'";
            return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let body = time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let body =
            body.map_err(|_| problem(StatusCode::REQUEST_TIMEOUT, "the body was not received in time"))?;
        let body = body.map_err(|error| problem(error.status(), &error.body_text()))?;
        let wrong = |error| problem(StatusCode::BAD_REQUEST, &format!("the body is invalid: {error}"));
        serde_json::from_slice(&body).map(Self).map_err(wrong)
    }
}

fn rejection(rejection: impl IntoResponse) -> Response {
    rejection.into_response()
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

impl<B: WriteBody> Write<B> {
    /// Records the write and its result in the audit log.
    pub(super) fn audit(&self, admin: &Admin, action: &'static str, target: &str, result: &str) {
        let Self { actor, dry_run, body, trace } = self;
        trace.recorded();
        let (reason, origin) = (body.reason(), trace.origin());
        let entry = Entry { actor, action, target, reason, dry_run: *dry_run, result, origin };
        admin.audit.record(entry, admin.clock.now());
    }
}

/// Makes the providers read the rules again.
pub(super) async fn reload(State(admin): State<Arc<Admin>>, write: Write<Reason>) -> Answer<Reloaded> {
    if !write.dry_run {
        for provider in &admin.providers {
            provider.reload();
        }
    }
    write.audit(&admin, "config:reload", "rules", "done");
    Ok(Reply(Reloaded { dry_run: write.dry_run, reloading: !write.dry_run }))
}

/// Lifts a lockout.
pub(super) async fn lift(
    State(admin): State<Arc<Admin>>,
    PathParams(LockoutId { id }): PathParams<LockoutId>,
    write: Write<Reason>,
) -> Answer<Lifted> {
    let Some(lockout) = admin.lockouts.named(&id) else {
        let message = "not the id of a lockout: GET /api/v1/lockouts lists them";
        return Err(problem(StatusCode::NOT_FOUND, message));
    };
    let (target, dry_run) = (lockout.description(), write.dry_run);
    let outcome = match dry_run {
        true => {
            lockout.is_blocked().await.map(|is_blocked| if is_blocked { Lift::Done } else { Lift::NotFound })
        }
        false => lockout.lift().await,
    };
    let result = match &outcome {
        Ok(Lift::Done) => "done".to_owned(),
        Ok(Lift::Partial(error)) => format!("done in part: {error}"),
        Ok(Lift::NotFound) => "not_found".to_owned(),
        Err(error) => error.to_string(),
    };
    write.audit(&admin, "lockouts:lift", &target, &result);
    match outcome {
        Ok(Lift::NotFound) => Err(problem(StatusCode::NOT_FOUND, NO_LOCKOUT)),
        Ok(lift) => Ok(Reply(Lifted { dry_run, lifted: !dry_run, target, error: lift.error() })),
        Err(error) => Err(problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())),
    }
}
