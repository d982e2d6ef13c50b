//! One answer for one request, whichever way it came.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use tokio::time::Instant;
use tonic::Status;

use super::admission::{Admission, BodyError, InFlight, MAX_UNFINISHED_BYTES, Overloaded, UnfinishedBodies};
use super::wire::{self, AnswerSettings, InvalidRequest};
use crate::engine::{Decision, Request};
use crate::limiter::Limiter;
use crate::store::StoreError;

/// Answers requests: each core has its own.
pub struct Answerer {
    limiter: Limiter,
    settings: AnswerSettings,
    admission: Admission,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The request makes no sense.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),
    /// As many requests as may be worked on are. Nothing was counted.
    #[error("too many requests are under way")]
    Overloaded,
    /// The request's body was not received.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// There are no rules yet.
    #[error("no rate limit configuration loaded")]
    NoRules,
    /// The store did not count.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Answerer {
    /// Decides with `limiter`, works on `max_in_flight` requests at the most, and tells what `settings`
    /// say besides the decision.
    pub fn new(limiter: Limiter, settings: AnswerSettings, max_in_flight: usize) -> Self {
        let bodies = Arc::new(UnfinishedBodies::new(1, MAX_UNFINISHED_BYTES));
        Self { limiter, settings, admission: Admission::new(bodies, 0, max_in_flight) }
    }

    /// The same on the core of this index, which shares the bounds of `bodies` with the others.
    pub(super) fn on_core(self, core: usize, bodies: Arc<UnfinishedBodies>) -> Self {
        Self { admission: self.admission.on_core(core, bodies), ..self }
    }

    /// Admits a request whose headers have arrived, until the guard is dropped.
    ///
    /// # Errors
    /// [`AnswerError::Overloaded`]
    pub(super) fn admit(&self) -> Result<InFlight<'_>, AnswerError> {
        self.admission.admit().map_err(|Overloaded| self.refused(AnswerError::Overloaded))
    }

    /// Receives the body of a request that was admitted, as [`Admission::receive`] does.
    ///
    /// # Errors
    /// [`AnswerError::Body`]
    pub(super) async fn receive<B>(
        &self,
        body: &mut B,
        max: usize,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Result<Bytes, AnswerError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let received = self.admission.receive(body, max, fits).await;
        received.map_err(|error| self.refused(AnswerError::Body(error)))
    }

    fn refused(&self, error: AnswerError) -> AnswerError {
        self.limiter.metrics.record_service_error();
        error
    }

    /// Answers `message`, a `RateLimitRequest` as protobuf writes it that came at `asked`, with what
    /// `encode` makes of the decision, by `deadline` where there is one; and takes note of how that went.
    ///
    /// # Errors
    /// [`AnswerError`] where nothing was decided.
    pub async fn answer<T>(
        &self,
        message: &[u8],
        asked: Instant,
        deadline: Option<Instant>,
        encode: impl FnOnce(&[u8], &Decision<'_>, &AnswerSettings) -> T,
    ) -> Result<T, AnswerError> {
        let answer = self.decide(message, deadline, encode).await;
        let metrics = &self.limiter.metrics;
        metrics.record_call(asked.elapsed());
        // What the store did not count, the limiter has recorded.
        if let Err(AnswerError::InvalidRequest(_) | AnswerError::NoRules) = answer {
            metrics.record_service_error();
        }
        answer
    }

    async fn decide<T>(
        &self,
        message: &[u8],
        deadline: Option<Instant>,
        encode: impl FnOnce(&[u8], &Decision<'_>, &AnswerSettings) -> T,
    ) -> Result<T, AnswerError> {
        let request = wire::decode(message)?;
        let rules = self.limiter.rules();
        let rules = rules.as_deref().ok_or(AnswerError::NoRules)?;
        let decision = self.limiter.decide(rules, &request, deadline).await?;
        log_denial(&request, &decision);
        Ok(encode(message, &decision, &self.settings))
    }
}

/// Below debug level it costs a comparison: the macro looks at no value then.
fn log_denial(request: &Request<'_>, decision: &Decision<'_>) {
    let Some(status) = decision.denial() else { return };
    tracing::debug!(
        domain = %String::from_utf8_lossy(request.domain),
        layer = wire::layer(status),
        rule = wire::rule(status).as_deref(),
        limit = status.limit.map(|limit| limit.requests_per_unit),
        window_secs = status.limit.map(|limit| limit.usual_secs()),
        code = "OVER_LIMIT",
        "a request is denied"
    );
}

impl From<AnswerError> for Status {
    /// UNAVAILABLE, which callers may answer by asking again, only where nothing can have been counted.
    fn from(error: AnswerError) -> Self {
        let message = error.to_string();
        match error {
            AnswerError::InvalidRequest(_) => Self::invalid_argument(message),
            AnswerError::Body(BodyError::TooLarge(_) | BodyError::Displaced) => {
                Self::resource_exhausted(message)
            }
            AnswerError::Body(BodyError::TimedOut) => Self::deadline_exceeded(message),
            AnswerError::Body(BodyError::Unreadable(_)) => Self::cancelled(message),
            AnswerError::NoRules
            | AnswerError::Overloaded
            | AnswerError::Store(StoreError::Unreachable(_)) => Self::unavailable(message),
            AnswerError::Store(StoreError::Unanswered(_)) => Self::deadline_exceeded(message),
            AnswerError::Store(StoreError::Refused(_)) => Self::internal(message),
        }
    }
}
