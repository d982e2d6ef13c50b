//! Writes: each needs a role, a JSON body with a reason, and leaves an entry in the audit log.

use std::sync::Arc;

use axum::Extension;
use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::access::Actor;
use super::api::{Params, json_of, problem};
use super::audit::Entry;

const NO_LOCKOUT: &str = "no such lockout any more";
/// Upper bound on a reason, in bytes.
const MAX_REASON: usize = 1_000;

/// A write: its actor, and what every write has.
pub(super) struct Write {
    actor: Actor,
    /// Reason, for the audit log.
    reason: String,
    /// True to report what the write would do, and do nothing.
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteQuery {
    dry_run: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    reason: String,
}

impl<S: Send + Sync> FromRequest<S> for Write {
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let Extension(actor) = request.extract_parts::<Extension<Actor>>().await.map_err(rejection)?;
        let Params(query) = request.extract_parts::<Params<WriteQuery>>().await?;
        let dry_run = match query.dry_run.as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true" | "") => true,
            Some(other) => {
                let message = format!("dry_run: expected 1 or 0, not {other:?}");
                return Err(problem(StatusCode::BAD_REQUEST, &message));
            }
        };
        if !is_json(request.headers()) {
            let message = "send 'content-type: application/json'";
            return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let body = Bytes::from_request(request, state).await.map_err(rejection)?;
        let reason = read_reason(&body).map_err(|message| problem(StatusCode::BAD_REQUEST, &message))?;
        Ok(Self { actor, reason, dry_run })
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

fn read_reason(body: &[u8]) -> Result<String, String> {
    match serde_json::from_slice::<ReasonBody>(body) {
        Ok(ReasonBody { reason }) if reason.trim().is_empty() => Err("reason: must not be empty".to_owned()),
        Ok(ReasonBody { reason }) if reason.len() > MAX_REASON => {
            Err(format!("reason: at most {MAX_REASON} bytes"))
        }
        Ok(ReasonBody { reason }) => Ok(reason),
        Err(error) => Err(format!("expected {{\"reason\": \"…\"}}: {error}")),
    }
}

impl Write {
    fn audit(&self, admin: &Admin, action: &'static str, target: &str, result: &str) {
        let Self { actor, reason, dry_run } = self;
        let entry = Entry { actor, action, target, reason, dry_run: *dry_run, result };
        admin.audit.record(entry, admin.clock.now());
    }
}

/// Has the rules read again.
pub(super) async fn reload(State(admin): State<Arc<Admin>>, write: Write) -> Response {
    if !write.dry_run {
        for provider in &admin.providers {
            provider.reload();
        }
    }
    write.audit(&admin, "config:reload", "rules", "done");
    json_of(&json!({ "dry_run": write.dry_run, "reloading": !write.dry_run }))
}

/// Lifts a lockout.
pub(super) async fn lift(State(admin): State<Arc<Admin>>, Path(id): Path<String>, write: Write) -> Response {
    let Some(lockout) = admin.lockouts.named(&id) else {
        return problem(StatusCode::BAD_REQUEST, "not the id of a lockout: GET /api/v1/lockouts lists them");
    };
    let target = lockout.description();
    if write.dry_run {
        let is_listed = lockout.is_listed().await;
        write.audit(&admin, "lockouts:lift", &target, if is_listed { "done" } else { "not_found" });
        return match is_listed {
            true => json_of(&json!({ "dry_run": true, "would_lift": target })),
            false => problem(StatusCode::NOT_FOUND, NO_LOCKOUT),
        };
    }
    // In a task of its own: a client that leaves must not keep the action out of the audit log.
    let lifting = tokio::spawn(async move {
        let outcome = lockout.lift().await;
        let result = match &outcome {
            Ok(true) => "done".to_owned(),
            Ok(false) => "not_found".to_owned(),
            Err(error) => error.to_string(),
        };
        write.audit(&admin, "lockouts:lift", &target, &result);
        outcome
    });
    match lifting.await {
        Ok(Ok(true)) => json_of(&json!({ "dry_run": false, "lifted": true })),
        Ok(Ok(false)) => problem(StatusCode::NOT_FOUND, NO_LOCKOUT),
        Ok(Err(error)) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the lockout was not lifted: internal error"),
    }
}
