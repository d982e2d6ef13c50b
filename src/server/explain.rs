//! `POST /explain` on the debug port: the explanation of a request, with the levels of its counters. It reads and
//! counts nothing.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::admission::Admission;
use super::http::{MAX_BODY_BYTES, json_response, status_of};
use super::service::CallError;
use super::wire::decode_json;
use crate::lab::{Explanation, explain};
use crate::limiter::Limiter;

/// Upper bound on the descriptors of a request that is explained: each lists up to 50 candidates a level.
const MAX_DESCRIPTORS: usize = 32;

/// Explains requests by the rules in force.
#[derive(Clone)]
pub struct Explainer {
    limiter: Arc<Limiter>,
}

/// Reason that there is no explanation.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    /// The request cannot be read.
    #[error(transparent)]
    InvalidRequest(#[from] super::wire::InvalidRequest),
    /// The request is too large to be explained.
    #[error("at most {} descriptors are explained at once", MAX_DESCRIPTORS)]
    TooManyDescriptors,
    /// No rules have been loaded yet.
    #[error("no rate limit configuration loaded")]
    NoRules,
}

impl Explainer {
    /// An explainer that reads the counters of `limiter`.
    pub fn new(limiter: Limiter) -> Self {
        Self { limiter: Arc::new(limiter) }
    }

    async fn explain(&self, body: &[u8]) -> Result<Explanation, ExplainError> {
        let request = decode_json(body)?;
        let request = request.received()?;
        if request.descriptors.len() > MAX_DESCRIPTORS {
            return Err(ExplainError::TooManyDescriptors);
        }
        let snapshot = self.limiter.snapshot();
        let rules = snapshot.rules().ok_or(ExplainError::NoRules)?;
        let readings = self.limiter.peek(rules, &request).await;
        // The walk is known without the store.
        let readings =
            readings.inspect_err(|error| tracing::debug!(%error, "explained without counters")).ok();
        let Limiter { keys, modes, .. } = &*self.limiter;
        Ok(explain(rules, &request, keys, modes, readings.as_deref()))
    }
}

/// Takes a request in the form of `/json`, whose body has the bounds that it has there.
pub(super) async fn explain_request(
    State((explainer, admission)): State<(Explainer, Arc<Admission>)>,
    mut body: Body,
) -> Response {
    let Ok(_in_flight) = admission.admit() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many requests in flight\n").into_response();
    };
    let body = match admission.receive(&mut body, MAX_BODY_BYTES, |_| true).await {
        Ok(body) => body,
        Err(error) => {
            let error = CallError::from(error);
            return (status_of(&error), format!("{error}\n")).into_response();
        }
    };
    match explainer.explain(&body).await {
        Ok(explanation) => match serde_json::to_string(&explanation) {
            Ok(json) => json_response(StatusCode::OK, json),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        },
        Err(error @ (ExplainError::InvalidRequest(_) | ExplainError::TooManyDescriptors)) => {
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
        Err(error @ ExplainError::NoRules) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}
