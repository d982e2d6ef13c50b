//! One answer for one request, whichever way it came.

use tokio::time::Instant;
use tonic::Status;

use super::wire::{self, AnswerSettings, InvalidRequest};
use crate::limiter::Limiter;
use crate::pb;
use crate::store::StoreError;

/// Answers requests: each core has its own.
pub struct Answerer {
    /// What decides.
    pub limiter: Limiter,
    /// What is told besides the decision.
    pub settings: AnswerSettings,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The request makes no sense.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),
    /// There are no rules yet.
    #[error("no rate limit configuration loaded")]
    NoRules,
    /// The store did not count.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Answerer {
    /// Answers `request`, and takes note of how that went.
    pub(super) async fn answer(
        &self,
        request: &pb::RateLimitRequest,
    ) -> Result<pb::RateLimitResponse, AnswerError> {
        let asked = Instant::now();
        let answer = self.decide(request).await;
        let metrics = &self.limiter.metrics;
        metrics.record_call(asked.elapsed());
        // What the store did not count, the limiter has recorded.
        if let Err(AnswerError::InvalidRequest(_) | AnswerError::NoRules) = answer {
            metrics.record_service_error();
        }
        answer
    }

    async fn decide(&self, message: &pb::RateLimitRequest) -> Result<pb::RateLimitResponse, AnswerError> {
        let request = wire::decode(message)?;
        let rules = self.limiter.rules();
        let rules = rules.as_deref().ok_or(AnswerError::NoRules)?;
        let decision = self.limiter.decide(rules, &request).await?;
        Ok(wire::encode(message, &decision, &self.settings))
    }
}

impl From<AnswerError> for Status {
    /// UNAVAILABLE, which callers may answer by asking again, only where nothing can have been counted.
    fn from(error: AnswerError) -> Self {
        let message = error.to_string();
        match error {
            AnswerError::InvalidRequest(_) => Self::invalid_argument(message),
            AnswerError::NoRules | AnswerError::Store(StoreError::Unreachable(_)) => {
                Self::unavailable(message)
            }
            AnswerError::Store(StoreError::Full { .. }) => Self::resource_exhausted(message),
            AnswerError::Store(StoreError::Unanswered(_)) => Self::deadline_exceeded(message),
            AnswerError::Store(StoreError::Refused(_)) => Self::internal(message),
        }
    }
}
