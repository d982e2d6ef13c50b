//! Table of the endpoints of the API, from which the router and the OpenAPI document are built.

use std::sync::LazyLock;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};

use super::access::Role;
use super::actions::{self, Lifted, LockoutId, Reason, Reloaded};
use super::api::{self, NoParameters, Params};
use super::explain::{self, ExplainBody};
use super::keys::{self, ResetBody, ResetResult};
use super::openapi::{Endpoint, document};
use super::overrides::{self, OverrideBody, OverrideChange, OverrideDeletion, OverrideId, ShadowBody};
use crate::lab::Explanation;
use crate::server::http::json_response;

/// The OpenAPI document.
pub(super) static DOCUMENT: LazyLock<String> = LazyLock::new(|| document(&endpoints()).to_string());

const NOT_READ: &str = "There are no rules yet, or too many requests read counters.";
const STORE_FAILED: &str = "The store cannot be reached or has failed.";

/// Every endpoint below `/api/v1`.
pub(super) fn endpoints() -> Vec<Endpoint> {
    [reads(), writes()].into_iter().flatten().collect()
}

fn reads() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v1/summary", "Rates, version, uptime, and state of the rules.", api::summary),
        Endpoint::get("/api/v1/rules", "Totals and rates of rules.", api::rules),
        Endpoint::get("/api/v1/config", "Rules in force, and errors of the latest load.", api::config),
        Endpoint::get("/api/v1/config/loads", "Loads of the rules, with their errors.", api::config_loads),
        Endpoint::get("/api/v1/candidate", "Candidate rules, compared with those in force.", api::candidate),
        Endpoint::get("/api/v1/store", "State of the store, node by node. Servers are queried.", api::store),
        Endpoint::get("/api/v1/fleet", "Replicas that share the store, and their rules.", api::fleet),
        Endpoint::get("/api/v1/top", "Counters with the most hits, denials, or use.", api::top),
        Endpoint::get("/api/v1/denials", "The last denials.", api::denials),
        Endpoint::get("/api/v1/series", "Rates of the last hour, of all rules or of one.", api::series)
            .error(StatusCode::NOT_FOUND, "There is no such rule."),
        Endpoint::get("/api/v1/lockouts", "Clients that are locked out.", api::lockouts),
        Endpoint::get("/api/v1/audit", "Admin actions.", api::audit),
        Endpoint::get("/api/v1/overrides", "Overrides in force.", overrides::list),
        Endpoint::get("/api/v1/keys", "Limits that apply to a descriptor, and their levels.", keys::levels)
            .error(StatusCode::SERVICE_UNAVAILABLE, NOT_READ),
        Endpoint::of(
            Method::POST,
            "/api/v1/explain",
            Role::View,
            "Explains which rules apply to a request, with the levels of its counters. It counts nothing.",
            explain::explain_request,
        )
        .body::<ExplainBody>()
        .returns::<Explanation>()
        .error(StatusCode::SERVICE_UNAVAILABLE, NOT_READ),
        Endpoint::of(
            Method::GET,
            "/api/v1/events",
            Role::View,
            "Server-sent events: `stats` once a second, and `denials` if there are new ones.",
            api::events,
        )
        .streams_events()
        .error(StatusCode::SERVICE_UNAVAILABLE, "Too many streams are open."),
        Endpoint::of(Method::GET, "/api/v1/openapi.json", Role::View, "This document.", openapi_json)
            .returns::<Map<String, Value>>(),
    ]
}

async fn openapi_json(_: Params<NoParameters>) -> Response {
    json_response(StatusCode::OK, DOCUMENT.clone())
}

fn writes() -> Vec<Endpoint> {
    vec![
        Endpoint::of(
            Method::POST,
            "/api/v1/config:reload",
            Role::Admin,
            "Reads the rules again. The answer is sent before they are read.",
            actions::reload,
        )
        .write::<Reason>()
        .returns::<Reloaded>(),
        Endpoint::of(
            Method::POST,
            "/api/v1/rules:shadow",
            Role::Admin,
            "Puts a rule into shadow mode until a given time.",
            overrides::shadow,
        )
        .write::<ShadowBody>()
        .returns::<OverrideChange>()
        .error(StatusCode::NOT_FOUND, "There is no such rule.")
        .error(StatusCode::SERVICE_UNAVAILABLE, STORE_FAILED),
        Endpoint::of(
            Method::PUT,
            "/api/v1/overrides",
            Role::Operate,
            "Sets another limit, a block or an exemption for a descriptor until a given time.",
            overrides::set,
        )
        .write::<OverrideBody>()
        .returns::<OverrideChange>()
        .error(StatusCode::NOT_FOUND, "The domain has no rules.")
        .error(StatusCode::SERVICE_UNAVAILABLE, STORE_FAILED),
        Endpoint::of(
            Method::DELETE,
            "/api/v1/overrides/{id}",
            Role::Operate,
            "Deletes an override. Ending the shadow mode of a rule needs the role `admin`.",
            overrides::remove,
        )
        .path_parameters::<OverrideId>()
        .write::<Reason>()
        .returns::<OverrideDeletion>()
        .error(StatusCode::NOT_FOUND, "There is no such override.")
        .error(StatusCode::SERVICE_UNAVAILABLE, STORE_FAILED),
        Endpoint::of(
            Method::POST,
            "/api/v1/keys:reset",
            Role::Operate,
            "Removes the counters of every limit that applies to a descriptor.",
            keys::reset,
        )
        .write::<ResetBody>()
        .returns::<ResetResult>()
        .error(StatusCode::NOT_FOUND, "No limit applies to the descriptor.")
        .error(StatusCode::SERVICE_UNAVAILABLE, STORE_FAILED),
        Endpoint::of(
            Method::DELETE,
            "/api/v1/lockouts/{id}",
            Role::Operate,
            "Lifts a lockout.",
            actions::lift,
        )
        .path_parameters::<LockoutId>()
        .write::<Reason>()
        .returns::<Lifted>()
        .error(StatusCode::NOT_FOUND, "There is no such lockout, or it has ended.")
        .error(StatusCode::SERVICE_UNAVAILABLE, STORE_FAILED),
    ]
}
