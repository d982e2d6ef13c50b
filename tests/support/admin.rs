//! A client of the admin API, with a token for each role.

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::service::Service;

/// Roles, least first, and their tokens.
pub(crate) const TOKENS: [(&str, &str); 3] = [
    ("view", "view-token-view-token"),
    ("operate", "operate-token-operate"),
    ("admin", "admin-token-admin-token"),
];

/// A token file with [`TOKENS`], for `ADMIN_TOKEN_FILE`.
pub(crate) fn token_file() -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    let lines: String = TOKENS.iter().map(|(role, token)| format!("{role}:{token}\n")).collect();
    std::fs::write(file.path(), lines).expect("it is written");
    file
}

/// Answer to a request under `/api/v1` with the token of `admin`.
pub(crate) async fn call(
    service: &Service,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let request = Client::new().request(method, service.admin_url(&format!("/api/v1{path}")));
    let request = request.bearer_auth(TOKENS[2].1);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await.expect("an answer");
    (answer.status(), answer.json().await.expect("JSON"))
}
