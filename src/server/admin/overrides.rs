//! `/api/v1/overrides` and `/api/v1/rules:shadow`: another limit, a block or an exemption for one descriptor, and
//! shadow mode for one rule, until a given time.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::Admin;
use super::access::Role;
use super::actions::{Reason, Write, WriteBody};
use super::api::{Answer, NoParameters, Params, PathParams, Reply, problem};
use super::explain::{check_entries, descriptor, no_rules};
use super::views::{is_named, position};
use crate::engine::overrides::counted_entries;
use crate::engine::rules::{PlacedRule, Rule, Rules, parse_limit};
use crate::engine::text::one_line;
use crate::engine::{Timestamp, duration};
use crate::limiter::overrides::{
    ActiveOverride, EntryText, LimitRecord, MAX_TTL, NewOverride, OverrideError, OverrideRecord, Subject,
    describe,
};
use crate::server::schema::{replies, requests};

/// Lower bound on the time that an override lasts. [`MAX_TTL`] is the upper bound.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Upper bound on the bytes of a descriptor.
const MAX_DESCRIPTOR_BYTES: usize = 4_096;
/// Upper bound on the rules that an error message names.
const MAX_NAMED: usize = 5;
const NO_OVERRIDE: &str = "no override with this id: GET /api/v1/overrides lists them";

requests! {
    /// An override to set, with exactly one of `block`, `exempt` and `limit`.
    struct OverrideBody {
        /// Domain.
        domain: String,
        /// Entries of the descriptor, outermost first.
        descriptor: Vec<EntryText> = { "minItems": 1, "maxItems": 32 },
        /// Reason, for the audit log.
        reason: String = { "minLength": 1, "maxLength": 1000, "pattern": "\\S" },
        /// Time until its end, from `1s` to `720h`, such as `30m` or `1h`.
        ttl: String,
        /// True to deny the descriptor.
        block: Option<bool>,
        /// True to apply no limit to the descriptor.
        exempt: Option<bool>,
        /// Limit in place of the rule's, such as `10/minute`.
        limit: Option<String>,
    }
    /// A rule to put into shadow mode.
    struct ShadowBody {
        /// Position such as `shop.yaml:14`, or path such as `shop.user`.
        rule: String,
        /// Reason, for the audit log.
        reason: String = { "minLength": 1, "maxLength": 1000, "pattern": "\\S" },
        /// Time until its end, from `1s` to `720h`, such as `30m` or `1h`.
        ttl: String,
    }
    /// Id of an override.
    struct OverrideId {
        /// `id` of the override in the list.
        id: String,
    }
}

replies! {
    /// An override in force.
    struct OverrideView {
        /// Id.
        id: String,
        /// Domain.
        domain: String,
        /// `block`, `exempt`, `limit` or `shadow`.
        kind: &'static str = { "enum": ["block", "exempt", "limit", "shadow"] },
        /// Entries as the rules count them; `null` for a rule in shadow mode.
        descriptor: Option<Vec<EntryText>>,
        /// Limit in place of the rule's.
        limit: Option<LimitRecord>,
        /// Path of the rule in shadow mode.
        rule: Option<String>,
        /// Position of that rule when it was set.
        source: Option<String>,
        /// Time of its end, in seconds since the epoch.
        ends_at: u64,
        /// Seconds until its end.
        ends_in_secs: u64,
        /// Time at which it was set, in seconds since the epoch.
        set_at: u64,
        /// Actor that set it.
        actor: String,
        /// Reason of the actor.
        reason: String,
    }
    /// Overrides in force.
    struct OverrideList {
        /// Overrides, ordered by their end.
        items: Vec<OverrideView>,
        /// Error of the last read from the store: overrides may be missing.
        error: Option<String>,
    }
    /// Result of setting an override.
    struct OverrideChange {
        /// True if the request was a dry run, which changed nothing.
        dry_run: bool,
        /// The override.
        applied: OverrideView,
        /// Rule in whose place it applies; `null` if none matches.
        rule: Option<String>,
    }
    /// Result of deleting an override.
    struct OverrideDeletion {
        /// True if the request was a dry run, which changed nothing.
        dry_run: bool,
        /// True if it was deleted.
        deleted: bool,
        /// The override.
        applied: OverrideView,
    }
}

impl WriteBody for OverrideBody {
    fn reason(&self) -> &str {
        &self.reason
    }
}

impl WriteBody for ShadowBody {
    fn reason(&self) -> &str {
        &self.reason
    }
}

impl OverrideView {
    fn of(ActiveOverride { record, ends_at }: ActiveOverride, now: Timestamp) -> Self {
        let OverrideRecord { id, domain, subject, set_us, actor, reason, .. } = record;
        let kind = subject.kind();
        let (descriptor, limit, rule, source) = match subject {
            Subject::Block { descriptor } | Subject::Exempt { descriptor } => {
                (Some(descriptor), None, None, None)
            }
            Subject::Limit { descriptor, limit } => (Some(descriptor), Some(limit), None, None),
            Subject::Shadow { rule, source } => (None, None, Some(rule), Some(source)),
        };
        Self {
            id,
            domain,
            kind,
            descriptor,
            limit,
            rule,
            source,
            ends_at: ends_at.as_secs(),
            ends_in_secs: ends_at.since(now).as_secs(),
            set_at: Timestamp::from_micros(set_us).as_secs(),
            actor,
            reason,
        }
    }
}

/// Status and message of a rejected write.
type Rejection = (StatusCode, String);

fn bad_request(message: impl Into<String>) -> Rejection {
    (StatusCode::BAD_REQUEST, message.into())
}

/// Subject of an override, and the path of the rule that matches its descriptor.
fn subject(body: &OverrideBody, rules: &Rules) -> Result<(Subject, Option<String>), Rejection> {
    let OverrideBody { domain, descriptor: entries, block, exempt, limit, .. } = body;
    check_entries(entries).map_err(bad_request)?;
    let bytes: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    if bytes > MAX_DESCRIPTOR_BYTES {
        return Err(bad_request(format!(
            "descriptor: at most {MAX_DESCRIPTOR_BYTES} bytes of keys and values"
        )));
    }
    let Some(of_domain) = rules.domain(domain.as_bytes()) else {
        let message = format!("domain: no rules for '{}'", one_line(domain, 64));
        return Err((StatusCode::NOT_FOUND, message));
    };
    let requested = descriptor(entries, 1).entries;
    let matched = of_domain.find(&requested);
    let text = |bytes: Box<[u8]>| String::from_utf8(bytes.into()).ok();
    let counted = counted_entries(&requested, matched.as_ref()).into_iter();
    let counted: Option<Vec<_>> =
        counted.map(|(key, value)| Some(EntryText { key: text(key)?, value: text(value)? })).collect();
    let descriptor =
        counted.ok_or_else(|| bad_request("descriptor: the rules count a value that is not UTF-8"))?;
    let rule = matched.as_ref().map(|matched| matched.rule);
    let subject = match (block, exempt, limit) {
        (Some(true), None | Some(false), None) => Subject::Block { descriptor },
        (None | Some(false), Some(true), None) => Subject::Exempt { descriptor },
        (None | Some(false), None | Some(false), Some(text)) => {
            let limit = parse_limit(text, rule.map_or(&[], Rule::limits));
            let limit = limit.map_err(|error| bad_request(format!("limit: {error}")))?;
            Subject::Limit { descriptor, limit: limit.into() }
        }
        _ => {
            let message = "expected one of \"block\": true, \"exempt\": true and \"limit\": \"10/minute\"";
            return Err(bad_request(message));
        }
    };
    Ok((subject, rule.map(|rule| rule.path.to_string())))
}

/// Parses the time that an override lasts.
fn parse_ttl(text: &str) -> Result<Duration, Rejection> {
    match duration::parse(text) {
        Some(ttl) if (MIN_TTL..=MAX_TTL).contains(&ttl) => Ok(ttl),
        Some(_) => Err(bad_request("ttl: expected at least 1s and at most 720h")),
        None => Err(bad_request("ttl: expected a time such as 90s, 30m or 1h")),
    }
}

/// The rule at a position such as `shop.yaml:14`, whatever the folder, or with a path such as `shop.user`.
fn find_rule<'r>(rules: &'r Rules, name: &str) -> Result<PlacedRule<'r>, Rejection> {
    let placed = rules.placed();
    let is_meant = |rule: &&PlacedRule<'_>| is_named(name, Some(&*rule.rule.path), Some(&position(rule)));
    let found: Vec<_> = placed.iter().filter(is_meant).collect();
    let has_path_of = |rule: &&PlacedRule<'_>| found.iter().all(|found| *found.rule.path == *rule.rule.path);
    let namesakes: Vec<_> = match &found[..] {
        [] => Vec::new(),
        [..] => placed.iter().filter(has_path_of).take(MAX_NAMED).map(position).collect(),
    };
    match &found[..] {
        // Shadow mode is stored by path, so it would apply to all of them.
        [first, ..] if namesakes.len() > 1 => Err(bad_request(format!(
            "rule: {} are all named '{}': rename a key or a value to put one of them into shadow mode",
            namesakes.join(" and "),
            one_line(&first.rule.path, 128)
        ))),
        [only] => Ok((*only).clone()),
        [] => {
            let message = format!(
                "rule: no rule '{}': expected the 'source' or the 'rule' of an item of GET /api/v1/rules",
                one_line(name, 128)
            );
            Err((StatusCode::NOT_FOUND, message))
        }
        several => {
            let named: Vec<_> = several.iter().take(MAX_NAMED).map(|rule| position(rule)).collect();
            Err(bad_request(format!("rule: several rules match: {}; name one of them", named.join(", "))))
        }
    }
}

fn failed(error: &OverrideError) -> Rejection {
    let status = match error {
        OverrideError::Store(_) | OverrideError::Contended | OverrideError::Unreadable(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        OverrideError::TooMany(_) | OverrideError::TooLarge { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    };
    (status, error.to_string())
}

impl Admin {
    pub(in crate::server) fn overrides(&self) -> OverrideList {
        let now = self.clock.now();
        let items = self.overrides.active().into_iter().map(|active| OverrideView::of(active, now));
        OverrideList { items: items.collect(), error: self.overrides.error() }
    }

    /// Sets `new`. A dry run only returns the override that would be set.
    async fn set_override(&self, new: NewOverride, dry_run: bool) -> Result<OverrideView, Rejection> {
        let now = self.clock.now();
        let active = match dry_run {
            false => self.overrides.set(new).await.map_err(|error| failed(&error))?,
            true => {
                let NewOverride { domain, subject, ttl, actor, reason } = new;
                let (id, ends_at) = (subject.id(&domain), now.after(ttl));
                let (ends_us, set_us) = (ends_at.as_micros(), now.as_micros());
                let record = OverrideRecord { id, domain, subject, ends_us, set_us, actor, reason };
                ActiveOverride { record, ends_at }
            }
        };
        Ok(OverrideView::of(active, now))
    }
}

/// Records a write and its outcome in the audit log.
fn audit<B: WriteBody>(
    admin: &Admin,
    write: &Write<B>,
    action: &'static str,
    target: &str,
    outcome: &Result<OverrideChange, Rejection>,
) {
    write.audit(admin, action, target, outcome.as_ref().err().map_or("done", |(_, message)| message));
}

pub(super) async fn list(State(admin): State<Arc<Admin>>, _: Params<NoParameters>) -> Answer<OverrideList> {
    Ok(Reply(admin.overrides()))
}

/// Sets an override for a descriptor, in place of the one that it has.
pub(super) async fn set(
    State(admin): State<Arc<Admin>>,
    write: Write<OverrideBody>,
) -> Answer<OverrideChange> {
    let Write { actor, body, dry_run, .. } = &write;
    let Some(rules) = admin.rules.load_full() else { return Err(no_rules()) };
    let outcome = async {
        let (subject, rule) = subject(body, &rules)?;
        let new = NewOverride {
            domain: body.domain.clone(),
            subject,
            ttl: parse_ttl(&body.ttl)?,
            actor: actor.name.clone(),
            reason: body.reason.clone(),
        };
        let applied = admin.set_override(new, *dry_run).await?;
        Ok(OverrideChange { dry_run: *dry_run, applied, rule })
    };
    let outcome = outcome.await;
    // The descriptor as the rules count it, so that the log shows no value that they hash.
    let target = match &outcome {
        Ok(OverrideChange { applied: OverrideView { domain, descriptor, kind, .. }, .. }) => {
            format!("{kind} {domain} {}", describe(descriptor.as_deref().unwrap_or_default()))
        }
        Err(_) => format!("{} (rejected)", body.domain),
    };
    audit(&admin, &write, "overrides:set", &target, &outcome);
    outcome.map(Reply).map_err(|(status, message)| problem(status, &message))
}

/// Puts a rule into shadow mode.
pub(super) async fn shadow(
    State(admin): State<Arc<Admin>>,
    write: Write<ShadowBody>,
) -> Answer<OverrideChange> {
    let Write { actor, body, dry_run, .. } = &write;
    let Some(rules) = admin.rules.load_full() else { return Err(no_rules()) };
    let outcome = async {
        let placed = find_rule(&rules, &body.rule)?;
        let rule = placed.rule.path.to_string();
        let new = NewOverride {
            domain: placed.domain.to_owned(),
            subject: Subject::Shadow { rule: rule.clone(), source: position(&placed) },
            ttl: parse_ttl(&body.ttl)?,
            actor: actor.name.clone(),
            reason: body.reason.clone(),
        };
        let applied = admin.set_override(new, *dry_run).await?;
        Ok(OverrideChange { dry_run: *dry_run, applied, rule: Some(rule) })
    };
    let outcome = outcome.await;
    audit(&admin, &write, "rules:shadow", &body.rule, &outcome);
    outcome.map(Reply).map_err(|(status, message)| problem(status, &message))
}

/// Deletes an override: from then on the rules apply again.
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    PathParams(OverrideId { id }): PathParams<OverrideId>,
    write: Write<Reason>,
) -> Answer<OverrideDeletion> {
    // Another replica may have set it a moment ago.
    admin.overrides.refresh().await;
    let Some(applied) = admin.overrides().items.into_iter().find(|item| item.id == id) else {
        write.audit(&admin, "overrides:delete", &id, "not_found");
        return Err(problem(StatusCode::NOT_FOUND, NO_OVERRIDE));
    };
    if applied.kind == "shadow" && write.actor.role < Role::Admin {
        let message = "ending the shadow mode of a rule needs the role admin";
        return Err(problem(StatusCode::FORBIDDEN, message));
    }
    let target = match (&applied.rule, &applied.descriptor) {
        (Some(rule), _) => format!("{} {rule}", applied.kind),
        (None, descriptor) => {
            let descriptor = describe(descriptor.as_deref().unwrap_or_default());
            format!("{} {} {descriptor}", applied.kind, applied.domain)
        }
    };
    let outcome = match write.dry_run {
        true => Ok(false),
        false => admin.overrides.delete(&id).await,
    };
    let result = outcome.as_ref().err().map_or_else(|| "done".to_owned(), ToString::to_string);
    write.audit(&admin, "overrides:delete", &target, &result);
    let deleted = outcome.map_err(|error| {
        let (status, message) = failed(&error);
        problem(status, &message)
    })?;
    Ok(Reply(OverrideDeletion { dry_run: write.dry_run, deleted, applied }))
}
