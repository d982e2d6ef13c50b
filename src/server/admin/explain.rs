//! `POST /api/v1/explain`: which rules apply to a request and why, with the levels of its counters. It reads and
//! counts nothing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use super::Admin;
use super::actions::JsonBody;
use super::api::{Answer, NoParameters, Params, Reply, problem};
use crate::engine::{Descriptor, Entry, Hits, Request};
use crate::lab::{ExplainContext, Explanation, explain};
use crate::limiter::overrides::EntryText;
use crate::server::schema::{Described, Schemas, field, object, requests};

/// Upper bound on the descriptors of a request that is explained: each lists up to 50 candidates a level.
const MAX_DESCRIPTORS: usize = 32;
/// Upper bound on the entries of a descriptor.
const MAX_ENTRIES: usize = 32;

requests! {
    /// A request to explain.
    struct ExplainBody {
        /// Domain.
        domain: String,
        /// Descriptors, at most 32.
        descriptors: Vec<DescriptorBody> = { "maxItems": 32 },
        /// Hits of each descriptor. By default one hit; for a budget, a reservation of its amount.
        hits: Option<u32>,
    }
    /// A descriptor.
    struct DescriptorBody {
        /// Entries, at least one.
        entries: Vec<EntryText> = { "minItems": 1, "maxItems": 32 },
    }
}

impl Described for EntryText {
    fn schema(schemas: &mut Schemas) -> Value {
        object("Entry", "An entry of a descriptor.", schemas, |schemas| {
            vec![
                field::<String>("key", "Key.", &json!([{ "minLength": 1 }]), true, schemas),
                field::<String>("value", "Value.", &json!([]), true, schemas),
            ]
        })
    }
}

impl Described for Explanation {
    fn schema(schemas: &mut Schemas) -> Value {
        Map::schema(schemas)
    }
}

/// `entries` as a descriptor of the engine.
pub(super) fn descriptor(entries: &[EntryText], hits: u32) -> Descriptor<'_> {
    let entries =
        entries.iter().map(|EntryText { key, value }| Entry { key: key.as_bytes(), value: value.as_bytes() });
    Descriptor { entries: entries.collect(), hits: Hits::Add(hits), limit_override: None }
}

/// Checks the number of entries and their keys.
///
/// # Errors
/// The mistake.
pub(super) fn check_entries(entries: &[EntryText]) -> Result<(), String> {
    match entries {
        [] => Err("descriptor: expected at least one entry, such as {\"key\": \"user\", \"value\": \"42\"}"
            .to_owned()),
        entries if entries.len() > MAX_ENTRIES => Err(format!("descriptor: at most {MAX_ENTRIES} entries")),
        entries if entries.iter().any(|entry| entry.key.is_empty()) => {
            Err("descriptor: the key of an entry must not be empty".to_owned())
        }
        _ => Ok(()),
    }
}

impl Admin {
    /// Explains the decision on `request`. Without an answer of the store, the levels of counters are missing.
    ///
    /// # Errors
    /// An answer: no rules have been loaded yet, or too many requests are under way.
    pub(in crate::server) async fn explain(&self, request: &Request<'_>) -> Result<Explanation, Response> {
        self.explain_under(request, true).await
    }

    /// [`Self::explain`], as if there were no overrides unless `with_overrides`.
    pub(super) async fn explain_under(
        &self,
        request: &Request<'_>,
        with_overrides: bool,
    ) -> Result<Explanation, Response> {
        let Ok(_permit) = self.peeks.try_acquire() else {
            let message = "too many requests read counters; try again later";
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, message));
        };
        let (snapshot, now) = (self.limiter.snapshot(), self.clock.now());
        let rules = snapshot.rules().ok_or_else(no_rules)?;
        let overrides = snapshot.overrides(now).filter(|_| with_overrides);
        let charges = self.limiter.peek_charges(rules, overrides, request);
        let readings = self.limiter.peek(rules, &charges).await;
        // The walk is known without the store.
        let readings =
            readings.inspect_err(|error| tracing::debug!(%error, "explained without counters")).ok();
        let (keys, modes) = (&self.limiter.keys, &self.limiter.modes);
        Ok(explain(ExplainContext { rules, overrides, keys, modes }, request, readings.as_deref()))
    }
}

pub(super) fn no_rules() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "no rate limit configuration loaded")
}

pub(super) async fn explain_request(
    State(admin): State<Arc<Admin>>,
    _: Params<NoParameters>,
    JsonBody(body): JsonBody<ExplainBody>,
) -> Answer<Explanation> {
    let wrong = |message: &str| problem(StatusCode::BAD_REQUEST, message);
    if body.descriptors.len() > MAX_DESCRIPTORS {
        return Err(wrong(&format!("descriptors: at most {MAX_DESCRIPTORS} are explained at once")));
    }
    let mistake = body.descriptors.iter().find_map(|descriptor| check_entries(&descriptor.entries).err());
    if let Some(message) = mistake {
        return Err(wrong(&message));
    }
    let hits = body.hits.unwrap_or(0);
    let descriptors: SmallVec<_> = body.descriptors.iter().map(|of| descriptor(&of.entries, hits)).collect();
    let request = Request { domain: body.domain.as_bytes(), descriptors };
    admin.explain(&request).await.map(Reply)
}
