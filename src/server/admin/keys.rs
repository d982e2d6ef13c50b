//! `/api/v1/keys`: the levels of one descriptor's counters, and their reset.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use smallvec::smallvec;

use super::Admin;
use super::actions::{Write, WriteBody};
use super::api::{Answer, Params, Reply, problem};
use super::explain::{check_entries, descriptor, no_rules};
use crate::engine::Request;
use crate::engine::overrides::{CountedEntry, counted_entries};
use crate::lab::{ExplainedBudget, ExplainedDescriptor, ExplainedLimit, Explanation, Verdict};
use crate::limiter::overrides::{EntryText, LimitRecord, describe};
use crate::server::schema::{Described, Schemas, field, object, replies, requests};
use crate::store::Charge;

requests! {
    /// A descriptor in a query.
    struct KeyQuery {
        /// Domain.
        domain: String,
        /// `user=42,path=/login`, or as JSON `[{"key": "user", "value": "42"}]`.
        descriptor: String,
    }
    /// A reset to carry out.
    struct ResetBody {
        /// Domain.
        domain: String,
        /// Entries of the descriptor, outermost first.
        descriptor: Vec<EntryText> = { "minItems": 1, "maxItems": 32 },
        /// Reason, for the audit log.
        reason: String = { "minLength": 1, "maxLength": 1000, "pattern": "\\S" },
    }
}

replies! {
    /// The limits that apply to a descriptor, and how much of them is used.
    struct KeyLevels {
        /// Domain.
        domain: String,
        /// Entries.
        descriptor: Vec<EntryText>,
        /// Rule or override that applies, in a sentence.
        outcome: String,
        /// Path of the rule that matches.
        rule: Option<String>,
        /// Its position, such as `shop.yaml:14`.
        source: Option<String>,
        /// Override of an operator: `block`, `exempt` or `limit` in place of the rule, or `shadow` of the rule.
        overridden: Option<String>,
        /// True if a denial is enforced; `null` if no rule matches.
        enforced: Option<bool>,
        /// Limits.
        limits: Vec<LevelView>,
        /// True if one more hit would be over a limit, or one more reservation over a budget; `null` if none applies or
        /// the store did not answer.
        denied: Option<bool>,
        /// True if the client is locked out.
        locked_out: bool,
    }
    /// A limit and the level of its counter.
    struct LevelView {
        /// Name of the limit.
        name: Option<String>,
        /// Limit.
        limit: LimitRecord,
        /// Key of the counter.
        counter: String,
        /// Hits that count now, without what is held; places that are taken. `null` if the store did not answer.
        used: Option<u64>,
        /// Hits left, neither used nor held; free places.
        remaining: Option<u64>,
        /// Seconds until one more hit would pass, or else until the counter is reset; until the first place ends by
        /// itself.
        resets_in_secs: Option<f64>,
        /// Holds of a budget; `null` for other limits.
        budget: Option<BudgetView>,
        /// Places of a concurrency limit; `null` for other limits.
        places: Option<PlacesView>,
    }
    /// Holds of a budget.
    struct BudgetView {
        /// Amount that a request holds if it names none.
        reserve: u32,
        /// TTL of a hold in seconds.
        ttl_secs: u32,
        /// Amount that is held; `null` if the store did not answer.
        held: Option<u32>,
        /// Number of holds.
        holds: Option<u32>,
        /// Seconds until the first hold ends by itself; `null` without any.
        first_ends_in_secs: Option<u32>,
    }
    /// Places of a concurrency limit.
    struct PlacesView {
        /// Places that are taken; `null` if the store did not answer.
        taken: Option<u64>,
        /// Requests in flight at once.
        max: u32,
        /// TTL of a place in seconds.
        ttl_secs: u32,
        /// Seconds until the first place ends by itself; `null` if none is taken.
        first_ends_in_secs: Option<f64>,
    }
    /// Result of a reset.
    struct ResetResult {
        /// True if the request was a dry run, which changed nothing.
        dry_run: bool,
        /// Counters of the limits that apply, and under an override those of the rule too, as they were before.
        counters: Vec<LevelView>,
        /// Number of counters that existed and were removed; 0 in a dry run.
        removed: usize,
        /// True if the client is locked out, and stays so: `DELETE /api/v1/lockouts/ID` lifts a lockout.
        locked_out: bool,
    }
}

impl Described for LimitRecord {
    fn schema(schemas: &mut Schemas) -> Value {
        object("OverrideLimit", "A limit.", schemas, |schemas| {
            vec![
                field::<u32>("requests", "Requests per window.", &json!([]), true, schemas),
                field::<u32>("window_secs", "Length of the window in seconds.", &json!([]), true, schemas),
                field::<String>("algorithm", "Algorithm.", &json!([]), true, schemas),
                field::<Option<u32>>("burst", "Requests that a bucket holds.", &json!([]), true, schemas),
                field::<Option<String>>("timezone", "Time zone of a calendar.", &json!([]), true, schemas),
            ]
        })
    }
}

impl WriteBody for ResetBody {
    fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<ExplainedLimit> for LevelView {
    fn from(limit: ExplainedLimit) -> Self {
        let (remaining, places) = (limit.remaining(), PlacesView::of(&limit));
        let ExplainedLimit {
            name,
            requests_per_unit,
            window_secs,
            algorithm,
            counter,
            used,
            reset_secs,
            budget,
            ..
        } = limit;
        Self {
            name,
            limit: LimitRecord {
                requests: requests_per_unit,
                window_secs,
                algorithm,
                burst: None,
                timezone: None,
            },
            counter,
            used,
            remaining,
            resets_in_secs: reset_secs,
            budget: budget.map(BudgetView::from),
            places,
        }
    }
}

impl From<ExplainedBudget> for BudgetView {
    fn from(ExplainedBudget { amount, ttl_secs, holds }: ExplainedBudget) -> Self {
        Self {
            reserve: amount,
            ttl_secs,
            held: holds.map(|holds| holds.held),
            holds: holds.map(|holds| holds.count.into()),
            first_ends_in_secs: holds.filter(|holds| holds.count > 0).map(|holds| holds.first_ends_in_secs),
        }
    }
}

impl PlacesView {
    /// Places of `limit`, if it limits requests in flight.
    fn of(limit: &ExplainedLimit) -> Option<Self> {
        limit.is_concurrency().then(|| Self {
            taken: limit.used,
            max: limit.requests_per_unit,
            ttl_secs: limit.window_secs,
            first_ends_in_secs: limit.reset_secs.filter(|_| limit.used > Some(0)),
        })
    }
}

impl KeyLevels {
    fn of(domain: String, descriptor: Vec<EntryText>, explanation: Explanation) -> Option<Self> {
        let ExplainedDescriptor { outcome, rule, limits, overridden, next, .. } =
            explanation.descriptors.into_iter().next()?;
        Some(Self {
            domain,
            descriptor,
            outcome,
            source: rule.as_ref().map(|rule| format!("{}:{}", rule.file, rule.line)),
            enforced: rule.as_ref().map(|rule| rule.enforced),
            rule: rule.map(|rule| rule.name),
            overridden,
            limits: limits.into_iter().map(LevelView::from).collect(),
            denied: next.as_ref().map(|next| next.verdict == Verdict::Denied || next.shadowed),
            locked_out: next.is_some_and(|next| next.locked_out),
        })
    }
}

/// Parses `user=42,path=/login`, or a JSON list of entries.
pub(in crate::server) fn parse_descriptor(text: &str) -> Result<Vec<EntryText>, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|error| format!("descriptor: {error}"));
    }
    let entry = |pair: &str| {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("descriptor: expected key=value[,key=value…], found {pair:?}"))?;
        Ok(EntryText { key: key.to_owned(), value: value.to_owned() })
    };
    text.split(',').map(entry).collect()
}

impl Admin {
    /// Limits that apply, or would without overrides unless `with_overrides`.
    async fn levels(
        &self,
        domain: String,
        entries: Vec<EntryText>,
        with_overrides: bool,
    ) -> Result<KeyLevels, Response> {
        check_entries(&entries).map_err(|message| problem(StatusCode::BAD_REQUEST, &message))?;
        let explanation = {
            let descriptors = smallvec![descriptor(&entries, 0)];
            self.explain_under(&Request { domain: domain.as_bytes(), descriptors }, with_overrides).await?
        };
        KeyLevels::of(domain, entries, explanation).ok_or_else(no_rules)
    }
}

pub(super) async fn levels(
    State(admin): State<Arc<Admin>>,
    Params(KeyQuery { domain, descriptor }): Params<KeyQuery>,
) -> Answer<KeyLevels> {
    let entries = parse_descriptor(&descriptor);
    let entries = entries.map_err(|message| problem(StatusCode::BAD_REQUEST, &message))?;
    admin.levels(domain, entries, true).await.map(Reply)
}

/// Removes the counters of every limit that applies to a descriptor, and under an override those of the rule too: they
/// would apply again when it ends. Where both have one counter, it is shown as the rule's, with what it holds.
pub(super) async fn reset(State(admin): State<Arc<Admin>>, write: Write<ResetBody>) -> Answer<ResetResult> {
    let ResetBody { domain, descriptor: entries, .. } = &write.body;
    let mut levels = admin.levels(domain.clone(), entries.clone(), true).await?;
    if levels.overridden.is_some() {
        let mut limits = admin.levels(domain.clone(), entries.clone(), false).await?.limits;
        levels.limits.retain(|limit| limits.iter().all(|own| own.counter != limit.counter));
        limits.append(&mut levels.limits);
        levels.limits = limits;
    }
    let target = admin.counted_target(domain, entries);
    if levels.limits.is_empty() {
        write.audit(&admin, "keys:reset", &target, "not_found");
        return Err(problem(StatusCode::NOT_FOUND, &levels.outcome));
    }
    let removed = match write.dry_run {
        true => Ok(0),
        false => admin.reset(&write.body).await,
    };
    let result = removed.as_ref().map_or_else(Clone::clone, |_| "done".to_owned());
    write.audit(&admin, "keys:reset", &target, &result);
    let removed = removed.map_err(|message| problem(StatusCode::SERVICE_UNAVAILABLE, &message))?;
    let KeyLevels { limits: counters, locked_out, .. } = levels;
    Ok(Reply(ResetResult { dry_run: write.dry_run, counters, removed, locked_out }))
}

impl Admin {
    /// Domain and descriptor as the rules count it: values that they hash do not appear in the log. Only the domain if
    /// no rule matches.
    fn counted_target(&self, domain: &str, entries: &[EntryText]) -> String {
        let rules = self.rules.load_full();
        let requested = descriptor(entries, 0).entries;
        let of_domain = rules.as_ref().and_then(|rules| rules.domain(domain.as_bytes()));
        let Some(matched) = of_domain.and_then(|of_domain| of_domain.find(&requested)) else {
            return format!("{domain} (no rule)");
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entry = |(key, value): &CountedEntry| EntryText { key: text(key), value: text(value) };
        let counted: Vec<_> = counted_entries(&requested, Some(&matched)).iter().map(entry).collect();
        format!("{domain} {}", describe(&counted))
    }

    /// Removes counters from every store. Returns how many there were.
    async fn reset(
        &self,
        ResetBody { domain, descriptor: entries, .. }: &ResetBody,
    ) -> Result<usize, String> {
        let (snapshot, now) = (self.limiter.snapshot(), self.clock.now());
        let rules = snapshot.rules().ok_or("no rate limit configuration loaded")?;
        let request = Request { domain: domain.as_bytes(), descriptors: smallvec![descriptor(entries, 0)] };
        // Of one counter, the charge of the rule is kept: only that one knows of holds.
        let mut charges = self.limiter.peek_charges(rules, None, &request);
        let is_same =
            |one: &Charge, other: &Charge| one.key == other.key && one.limit.shares_counter_with(other.limit);
        for of_override in self.limiter.peek_charges(rules, snapshot.overrides(now), &request) {
            if charges.iter().all(|charge| !is_same(charge, &of_override)) {
                charges.push(of_override);
            }
        }
        let (mut removed, mut failed) = (0, None);
        for store in &self.counters {
            match store.reset(&charges, now).await {
                Ok(count) => removed += count,
                Err(error) => failed = Some(error.to_string()),
            }
        }
        failed.map_or(Ok(removed), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_in_queries_are_pairs_or_json() {
        let entry = |key: &str, value: &str| EntryText { key: key.to_owned(), value: value.to_owned() };
        for (text, expected) in [
            ("user=42,path=/a=b", vec![entry("user", "42"), entry("path", "/a=b")]),
            ("user=", vec![entry("user", "")]),
            (r#"[{"key": "list", "value": "a,b=c"}]"#, vec![entry("list", "a,b=c")]),
        ] {
            assert_eq!(parse_descriptor(text), Ok(expected), "{text}");
        }
        for text in ["", "user", "user=1,path", "[", r#"[{"kye": "a", "value": "b"}]"#] {
            assert!(parse_descriptor(text).unwrap_err().starts_with("descriptor: "), "{text}");
        }
    }
}
