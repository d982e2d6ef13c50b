//! Rate-limit service of one core, shared by gRPC and HTTP. A transport begins a call, decodes its request,
//! calls [`Call::decide`] and encodes the decision.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use tokio::time::Instant;
use tonic::Status;

use super::admission::{Admission, BodyError, BodySettings, InFlight, Overloaded, UnfinishedBodies};
use super::wire::{AnswerSettings, InvalidRequest};
use crate::engine::plan::tickets::TicketUse;
use crate::engine::{Decision, Hits, Request, Ticket, TicketEntry};
use crate::limiter::{DecideError, Limiter, Purpose, Snapshot, TicketCall, TicketResult};
use crate::store::StoreError;

/// Rate-limit service of one core.
pub struct RateLimitService {
    limiter: Limiter,
    settings: AnswerSettings,
    admission: Admission,
}

/// Call, from the arrival of its headers to its answer. Dropping it records its duration.
pub struct Call<'s> {
    service: &'s RateLimitService,
    arrived: Instant,
    _in_flight: InFlight<'s>,
}

/// Reason for a call without a decision. Messages are for callers and contain no internals.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The caller is not configured correctly.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),
    /// `MAX_REQUESTS_IN_FLIGHT` calls are in flight. Nothing was counted.
    #[error("too many requests in flight; nothing was counted")]
    Overloaded,
    /// The body of the request was not received.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// No rules have been loaded yet.
    #[error("no rate limit configuration loaded")]
    NoRules,
    /// `HTTP_REFUNDS` is off.
    #[error("refunds over HTTP are disabled")]
    RefundsDisabled,
    /// The store failed, and a rule has `on_backend_failure: error`.
    #[error("{}", reported_failure(.0))]
    Store(StoreError),
}

/// Message for callers. The error itself names servers and causes and belongs in the log.
const fn reported_failure(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unreachable(_) => "counter store unavailable; nothing was counted",
        StoreError::Rejected(_) => "counter store rejected the request; nothing was counted",
        StoreError::Unanswered(_) => "no answer from the counter store in time; hits may have been counted",
    }
}

impl RateLimitService {
    /// Service that decides with `limiter`, with at most `max_in_flight` concurrent calls and answers by
    /// `settings`.
    pub fn new(limiter: Limiter, settings: AnswerSettings, max_in_flight: usize) -> Self {
        let bodies = Arc::new(UnfinishedBodies::new(1, BodySettings::default()));
        Self { limiter, settings, admission: Admission::new(bodies, 0, max_in_flight) }
    }

    /// This service on the core of this index, which shares the bounds of `bodies` with the other cores.
    pub(super) fn on_core(self, core: usize, bodies: Arc<UnfinishedBodies>) -> Self {
        Self { admission: self.admission.on_core(core, bodies), ..self }
    }

    /// Optional parts of answers.
    pub const fn settings(&self) -> &AnswerSettings {
        &self.settings
    }

    /// Begins a call whose headers arrived at `arrived`.
    ///
    /// # Errors
    /// [`CallError::Overloaded`]
    pub fn begin(&self, arrived: Instant) -> Result<Call<'_>, CallError> {
        match self.admit() {
            Ok(in_flight) => Ok(Call { service: self, arrived, _in_flight: in_flight }),
            Err(error) => {
                self.limiter.metrics.record_call(arrived.elapsed());
                Err(error)
            }
        }
    }

    /// Admits a request whose headers have arrived, until the guard is dropped.
    ///
    /// # Errors
    /// [`CallError::Overloaded`]
    pub(super) fn admit(&self) -> Result<InFlight<'_>, CallError> {
        self.admission.admit().map_err(|Overloaded| self.refused(CallError::Overloaded))
    }

    /// Receives the body of a request that was admitted, as [`Admission::receive`] does.
    ///
    /// # Errors
    /// [`CallError::Body`]
    pub(super) async fn receive<B>(
        &self,
        body: &mut B,
        max: usize,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Result<Bytes, CallError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let received = self.admission.receive(body, max, fits).await;
        received.map_err(|error| self.refused(CallError::Body(error)))
    }

    fn refused(&self, error: CallError) -> CallError {
        self.limiter.metrics.record_service_error();
        error
    }
}

impl Call<'_> {
    /// Returns the decoded request. Counts invalid requests.
    ///
    /// # Errors
    /// [`CallError::InvalidRequest`].
    pub fn accept<T>(&self, decoded: Result<T, InvalidRequest>) -> Result<T, CallError> {
        decoded.map_err(|error| {
            tracing::debug!(%error, "invalid request");
            self.service.refused(error.into())
        })
    }

    /// Rejects `request` if it is a refund.
    ///
    /// # Errors
    /// [`CallError::RefundsDisabled`].
    pub fn without_refunds(&self, request: &Request<'_>) -> Result<(), CallError> {
        if !request.descriptors.iter().any(|descriptor| matches!(descriptor.hits, Hits::Refund(_))) {
            return Ok(());
        }
        Err(self.service.refused(CallError::RefundsDisabled))
    }

    /// Snapshot of the rules for the decision and the answer of this call.
    pub fn snapshot(&self) -> Snapshot<'_> {
        self.service.limiter.snapshot()
    }

    /// Decides `request` under `rules`, and waits for the store at most until `deadline`.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn decide<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'r>, CallError> {
        rules.decide(request, deadline).await.map_err(|error| self.undecided(error))
    }

    /// Decides whether one more hit of each descriptor would pass, without counting it.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn check<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'r>, CallError> {
        rules.check(request, deadline).await.map_err(|error| self.undecided(error))
    }

    /// Counts the hits of `request`, whether or not they are within their limits.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn report<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Decision<'r>, CallError> {
        rules.report(request, deadline).await.map_err(|error| self.undecided(error))
    }

    /// Decides `request` as [`Self::decide`] does, for a purpose such as acquiring places.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn acquire<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
        purpose: Purpose<'_>,
    ) -> Result<Decision<'r>, CallError> {
        rules.acquire(request, purpose, None).await.map_err(|error| self.undecided(error))
    }

    /// Renews or releases what `ticket` holds under the descriptors of `request`.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn use_ticket<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
        ticket: Ticket,
        call: TicketCall<'_>,
    ) -> Result<TicketResult<'r>, CallError> {
        rules.use_ticket(request, ticket, call, None).await.map_err(|error| self.undecided(error))
    }

    /// Settles what `ticket` holds under the descriptors of `request`.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn settle<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
        ticket: TicketEntry,
        ticket_use: TicketUse<'_>,
    ) -> Result<Decision<'r>, CallError> {
        rules.settle(request, ticket, ticket_use, None).await.map_err(|error| self.undecided(error))
    }

    /// Use of the limits of `request`. Nothing is counted.
    ///
    /// # Errors
    /// [`CallError::NoRules`] and [`CallError::Store`]
    pub async fn usage<'r>(
        &self,
        rules: &'r Snapshot<'_>,
        request: &Request<'_>,
    ) -> Result<Decision<'r>, CallError> {
        rules.usage(request).await.map_err(|error| self.undecided(error))
    }

    fn undecided(&self, error: DecideError) -> CallError {
        match error {
            DecideError::NoRules => self.service.refused(CallError::NoRules),
            // The limiter has counted it.
            DecideError::Store(error) => {
                tracing::debug!(%error, "request not decided");
                CallError::Store(error)
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.service.limiter.metrics.record_call(self.arrived.elapsed());
    }
}

impl From<CallError> for Status {
    /// Status of an error. UNAVAILABLE, which callers may retry, only if nothing can have been counted.
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::InvalidRequest(_) => Self::invalid_argument(message),
            CallError::RefundsDisabled => Self::permission_denied(message),
            CallError::Body(BodyError::TooLarge(_)) => Self::resource_exhausted(message),
            CallError::Body(BodyError::TimedOut) => Self::deadline_exceeded(message),
            CallError::Body(BodyError::Unreadable) => Self::cancelled(message),
            CallError::Body(BodyError::Displaced)
            | CallError::NoRules
            | CallError::Overloaded
            | CallError::Store(StoreError::Unreachable(_) | StoreError::Rejected(_)) => {
                Self::unavailable(message)
            }
            CallError::Store(StoreError::Unanswered(_)) => Self::deadline_exceeded(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn each_failure_to_receive_a_body_has_its_status() {
        for (error, code, message) in [
            (BodyError::TooLarge(9), Code::ResourceExhausted, "request body is larger than 9 bytes"),
            (BodyError::TimedOut, Code::DeadlineExceeded, "request body was not received in time"),
            (
                BodyError::Displaced,
                Code::Unavailable,
                "request dropped for newer ones: too many request bodies are incomplete",
            ),
            (BodyError::Unreadable, Code::Cancelled, "request body cannot be read"),
        ] {
            let status = Status::from(CallError::from(error));
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}
