//! The OpenAPI document, made of the endpoints that the router is made of.

use std::sync::Arc;

use axum::extract::State;
use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::routing::{MethodFilter, MethodRouter, on};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::access::Role;
use super::actions::WriteQuery;
use super::api::{Answer, Params, Problem};
use super::{Admin, IDEMPOTENCY_KEY, needs_role};
use crate::server::schema::{Described, Schemas};

const JSON: &str = "application/json";

/// An endpoint: its route and its description.
pub(super) struct Endpoint {
    /// Path below the root, `{id}` for a part of it that varies.
    pub(super) path: &'static str,
    pub(super) method: Method,
    role: Role,
    route: MethodRouter<Arc<Admin>>,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    content: (&'static str, Value),
    /// Statuses of errors besides those of access.
    errors: Vec<(StatusCode, &'static str)>,
    schemas: Schemas,
}

impl Endpoint {
    /// An endpoint that reads, with the parameters `Q` in its query.
    pub(super) fn get<Q, R, F>(
        path: &'static str,
        summary: &'static str,
        handler: fn(State<Arc<Admin>>, Params<Q>) -> F,
    ) -> Self
    where
        Q: DeserializeOwned + Described + Send + 'static,
        R: Serialize + Described + 'static,
        F: Future<Output = Answer<R>> + Send + 'static,
    {
        Self::of(Method::GET, path, Role::View, summary, handler).query::<Q>().returns::<R>()
    }

    /// An endpoint that actors with `role` may use.
    pub(super) fn of<H, T>(
        method: Method,
        path: &'static str,
        role: Role,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Admin>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        let guard = axum::middleware::from_fn(move |request, next| needs_role(role, request, next));
        Self {
            path,
            method,
            role,
            route: on(filter, handler).route_layer(guard),
            summary,
            parameters: Vec::new(),
            body: None,
            content: (JSON, json!({})),
            errors: vec![(StatusCode::BAD_REQUEST, "A parameter or the body is invalid.")],
            schemas: Schemas::new(),
        }
    }

    /// Adds the fields of `Q` as parameters of the query.
    pub(super) fn query<Q: Described>(self) -> Self {
        self.parameters::<Q>("query")
    }

    /// Adds the fields of `P` as parameters of the path.
    pub(super) fn path_parameters<P: Described>(self) -> Self {
        self.parameters::<P>("path")
    }

    fn parameters<P: Described>(mut self, place: &str) -> Self {
        let mut schemas = Schemas::new();
        P::schema(&mut schemas);
        for object in schemas.values() {
            let required = object["required"].as_array().cloned().unwrap_or_default();
            for (name, schema) in object["properties"].as_object().into_iter().flatten() {
                let mut schema = schema.clone();
                // A parameter is text: it is left out, not null.
                if let Some(kind) = schema.get_mut("type").filter(|kind| kind.is_array()) {
                    *kind = kind[0].take();
                }
                let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
                self.parameters.push(json!({
                    "name": name,
                    "in": place,
                    "description": description,
                    "required": required.contains(&json!(name)),
                    "schema": schema,
                }));
            }
        }
        self
    }

    /// Sets the type of the body, which is JSON.
    pub(super) fn body<B: Described>(mut self) -> Self {
        self.body = Some(B::schema(&mut self.schemas));
        self.error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not declared as JSON.")
    }

    /// Declares the parameters and errors that every write has.
    pub(super) fn write<B: Described>(mut self) -> Self {
        self.parameters.push(json!({
            "name": IDEMPOTENCY_KEY.as_str(),
            "in": "header",
            "description": "Key with which a write that is sent again is not done again.",
            "required": false,
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
        self.query::<WriteQuery>()
            .body::<B>()
            .error(StatusCode::CONFLICT, "A write with this Idempotency-Key is under way.")
            .error(StatusCode::UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another write.")
    }

    /// Sets the type of the answer.
    pub(super) fn returns<R: Described>(mut self) -> Self {
        self.content = (JSON, R::schema(&mut self.schemas));
        self
    }

    /// Declares that it answers with server-sent events.
    pub(super) fn streams_events(mut self) -> Self {
        self.content = ("text/event-stream", json!({ "type": "string" }));
        self
    }

    /// Adds an error.
    pub(super) fn error(mut self, status: StatusCode, meaning: &'static str) -> Self {
        self.errors.push((status, meaning));
        self
    }

    /// Path and route.
    pub(super) fn into_route(self) -> (&'static str, MethodRouter<Arc<Admin>>) {
        (self.path, self.route)
    }

    fn operation(&self, schemas: &mut Schemas) -> Value {
        let problem = Problem::schema(schemas);
        schemas.extend(self.schemas.clone());
        let (content_type, schema) = &self.content;
        let content = json!({ *content_type: { "schema": schema } });
        let mut responses = Map::new();
        responses.insert("200".to_owned(), json!({ "description": "The answer.", "content": content }));
        let access = [
            (StatusCode::UNAUTHORIZED, "The token is missing or unknown."),
            (StatusCode::FORBIDDEN, "The role does not suffice, or the request comes from another site."),
        ];
        for (status, meaning) in access.iter().chain(&self.errors) {
            let content = json!({ JSON: { "schema": problem } });
            responses
                .insert(status.as_str().to_owned(), json!({ "description": meaning, "content": content }));
        }
        let mut operation = json!({
            "operationId": self.operation_id(),
            "summary": self.summary,
            "description": format!("Needs the role `{}`.", self.role.name()),
            "parameters": self.parameters,
            "responses": responses,
        });
        if let Some(body) = &self.body {
            operation["requestBody"] = json!({ "required": true, "content": { JSON: { "schema": body } } });
        }
        operation
    }

    /// The method and the words of the path: `delete_lockouts_id`.
    fn operation_id(&self) -> String {
        let path = self.path.trim_start_matches("/api/v1");
        let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.fold(self.method.as_str().to_ascii_lowercase(), |id, word| id + "_" + word)
    }
}

/// The document of `endpoints`.
pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let operation = endpoint.operation(&mut schemas);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tollgate admin API",
            "description": "Reads what limits are doing, and changes it. Without ADMIN_TOKEN_FILE, clients on the same \
                            machine may read without a token, and nobody may write.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of ADMIN_TOKEN_FILE.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "tollgate_session",
                    "description": "The session of a browser. Its writes also need the header x-csrf-token.",
                },
            },
        },
    })
}
