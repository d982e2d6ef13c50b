//! The endpoints of the API: the router and the OpenAPI document are made of this table.

use std::sync::LazyLock;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};

use super::access::Role;
use super::actions::{self, Lifted, LockoutId, Reason, Reloaded, WriteQuery};
use super::api::{self, NoParameters, Params};
use super::openapi::{Endpoint, document};
use crate::server::http::json_response;

/// The OpenAPI document.
pub(super) static DOCUMENT: LazyLock<String> = LazyLock::new(|| document(&endpoints()).to_string());

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
        Endpoint::get("/api/v1/series", "Rates of the last hour.", api::series),
        Endpoint::get("/api/v1/lockouts", "Clients that are locked out.", api::lockouts),
        Endpoint::get("/api/v1/audit", "Admin actions.", api::audit),
        Endpoint::of(
            Method::GET,
            "/api/v1/events",
            Role::View,
            "Server-sent events: `stats` once a second, and `denials` where there are new ones.",
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
            "Reads the rules again. It answers before they are read.",
            actions::reload,
        )
        .query::<WriteQuery>()
        .body::<Reason>()
        .returns::<Reloaded>(),
        Endpoint::of(
            Method::DELETE,
            "/api/v1/lockouts/{id}",
            Role::Operate,
            "Lifts a lockout.",
            actions::lift,
        )
        .path_parameters::<LockoutId>()
        .query::<WriteQuery>()
        .body::<Reason>()
        .returns::<Lifted>()
        .error(StatusCode::NOT_FOUND, "There is no such lockout, or no longer.")
        .error(StatusCode::SERVICE_UNAVAILABLE, STORE_FAILED),
    ]
}
