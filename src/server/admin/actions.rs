//! Writes: each needs a role, a JSON body with a reason, and leaves an entry in the audit log.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::access::Actor;
use super::api::{json_of, problem};
use super::audit::Entry;

/// Upper bound on a reason, in bytes.
const MAX_REASON: usize = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    /// `1` or `true`: report what the write would do, and do nothing.
    dry_run: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    reason: String,
}

impl WriteQuery {
    fn is_dry_run(&self) -> Result<bool, String> {
        match self.dry_run.as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true" | "") => Ok(true),
            Some(other) => Err(format!("dry_run: expected 1 or 0, not {other:?}")),
        }
    }
}

/// The reason in `body`.
///
/// # Errors
/// The answer, where the body is no JSON object with a reason.
#[expect(clippy::result_large_err, reason = "the answer is sent at once")]
fn reason(headers: &HeaderMap, body: &[u8]) -> Result<String, Response> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = content_type
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        let message = "send 'content-type: application/json'";
        return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let bad = |message: &str| Err(problem(StatusCode::BAD_REQUEST, message));
    match serde_json::from_slice::<ReasonBody>(body) {
        Ok(ReasonBody { reason }) if reason.trim().is_empty() => bad("reason: must not be empty"),
        Ok(ReasonBody { reason }) if reason.len() > MAX_REASON => bad("reason: at most 1000 bytes"),
        Ok(ReasonBody { reason }) => Ok(reason),
        Err(error) => bad(&format!("expected {{\"reason\": \"…\"}}: {error}")),
    }
}

/// Has the rules read again.
pub(super) async fn reload(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (reason, dry_run) = match (reason(&headers, &body), query.is_dry_run()) {
        (Err(answer), _) => return answer,
        (_, Err(message)) => return problem(StatusCode::BAD_REQUEST, &message),
        (Ok(reason), Ok(dry_run)) => (reason, dry_run),
    };
    if !dry_run {
        for provider in &admin.providers {
            provider.reload();
        }
    }
    let entry = Entry {
        actor: &actor,
        action: "config:reload",
        target: "rules",
        reason: &reason,
        dry_run,
        result: "done",
    };
    admin.audit.record(entry, admin.clock.now());
    json_of(&json!({ "dry_run": dry_run, "reloading": !dry_run }))
}

/// Lifts a lockout.
pub(super) async fn lift(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (reason, dry_run) = match (reason(&headers, &body), query.is_dry_run()) {
        (Err(answer), _) => return answer,
        (_, Err(message)) => return problem(StatusCode::BAD_REQUEST, &message),
        (Ok(reason), Ok(dry_run)) => (reason, dry_run),
    };
    let Some(lockout) = admin.lockouts.named(&id) else {
        return problem(StatusCode::BAD_REQUEST, "not the id of a lockout: GET /api/v1/lockouts lists them");
    };
    let outcome = if dry_run { Ok(lockout.is_listed().await) } else { lockout.lift().await };
    let (result, answer) = match &outcome {
        Ok(true) => ("done".to_owned(), json_of(&json!({ "dry_run": dry_run, "lifted": !dry_run }))),
        Ok(false) => ("not_found".to_owned(), problem(StatusCode::NOT_FOUND, "no such lockout any more")),
        Err(error) => (error.to_string(), problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())),
    };
    let (action, target) = ("lockouts:lift", lockout.description());
    let entry = Entry { actor: &actor, action, target: &target, reason: &reason, dry_run, result: &result };
    admin.audit.record(entry, admin.clock.now());
    answer
}
