//! Who is locked out, for operators: a list, and a way to let somebody in again.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{delete, get};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::http::json_response;
use crate::clock::Clock;
use crate::engine::{KeyWriter, Timestamp, lockout};
use crate::store::StoreError;
use crate::store::lockouts::{Blocked, Lockouts, MAX_LISTED};

/// What it takes to tell of lockouts.
#[derive(Clone)]
pub struct LockoutDesk {
    /// Who keeps them.
    pub lockouts: Arc<dyn Lockouts>,
    /// How their keys are written.
    pub keys: KeyWriter,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
}

/// `/lockouts` and `/lockouts/ID`.
pub(super) fn router(desk: LockoutDesk) -> Router {
    Router::new().route("/lockouts", get(list)).route("/lockouts/{id}", delete(lift)).with_state(desk)
}

async fn list(State(desk): State<LockoutDesk>) -> Response {
    let now = desk.clock.now();
    let mut listed = match desk.lockouts.list(&desk.keys, now).await {
        Ok(listed) => listed,
        Err(error) => return failed(&error),
    };
    listed.sort_by_key(|blocked| blocked.state.ends_us);
    let told: Vec<_> = listed.iter().map(|blocked| tell(blocked, now)).collect();
    let is_truncated = listed.len() >= MAX_LISTED;
    json_response(StatusCode::OK, json!({ "lockouts": told, "truncated": is_truncated }).to_string())
}

fn tell(Blocked { key, who, state }: &Blocked, now: Timestamp) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_permanent = lockout::is_permanent(state.ends_us);
    let entries: Map<_, _> =
        who.entries.iter().map(|(key, value)| (text(key), Value::String(text(value)))).collect();
    json!({
        "id": URL_SAFE_NO_PAD.encode(key),
        "domain": text(&who.domain),
        "name": text(&who.name),
        "entries": entries,
        "blocks": state.level,
        "permanent": is_permanent,
        "ends_at": (!is_permanent).then_some(state.ends_us / 1_000_000),
        "ends_in_secs": (!is_permanent).then(|| lockout::remaining(state.ends_us, now).as_secs()),
    })
}

async fn lift(State(desk): State<LockoutDesk>, Path(id): Path<String>) -> Response {
    let key = URL_SAFE_NO_PAD.decode(&id).map(Bytes::from).ok();
    let Some((key, who)) = key.and_then(|key| desk.keys.read_lockout_key(&key).map(|who| (key, who))) else {
        let message = "this is the id of no lockout: /lockouts lists them";
        return json_response(StatusCode::BAD_REQUEST, json!({ "error": message }).to_string());
    };
    match desk.lockouts.lift(&key).await {
        Ok(true) => {
            let (domain, name) = (String::from_utf8_lossy(&who.domain), String::from_utf8_lossy(&who.name));
            tracing::info!(%domain, %name, id, "a lockout is lifted");
            json_response(StatusCode::OK, json!({ "lifted": true }).to_string())
        }
        Ok(false) => {
            let message = "nobody is locked out under this id any more";
            json_response(StatusCode::NOT_FOUND, json!({ "error": message }).to_string())
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &StoreError) -> Response {
    json_response(StatusCode::SERVICE_UNAVAILABLE, json!({ "error": error.to_string() }).to_string())
}
