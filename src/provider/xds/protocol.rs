//! The two variants of the discovery protocol, each a state machine without I/O: messages in, messages out.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use prost_types::{Any, Struct, Value, value};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::resource::{Resource, label};
use super::wire::{self, TYPE_URL, Unreadable};
use crate::engine::rules::{RuleError, RuleSource};
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::google::rpc::Status;

/// Name of the client in requests.
const USER_AGENT: &str = "tollgate";
/// Code of gRPC for content that is refused.
const INVALID_ARGUMENT: i32 = 3;

/// Variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// State of the world: each response has every resource.
    Sotw,
    /// Incremental: each response has the resources that changed.
    Delta,
}

impl Variant {
    /// Name in the log and in status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// A variant of the protocol on one stream after the other.
pub(super) trait Protocol: Send + Sync {
    /// Variant that it is.
    fn variant(&self) -> Variant;

    /// Path of the method.
    fn path(&self) -> &'static str;

    /// First request of a stream, for a client that holds `resources`.
    fn open(&mut self, resources: &[&Resource]) -> Bytes;

    /// Request that accepts a response.
    fn accept(&mut self, version: &str, nonce: &str) -> Bytes;

    /// Request that refuses a response.
    fn refuse(&mut self, nonce: &str, reason: &str) -> Bytes;
}

/// Content of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) version: String,
    pub(super) nonce: String,
    /// True if resources that it does not have are gone.
    pub(super) is_complete: bool,
    pub(super) resources: Vec<Resource>,
    /// Names of resources that are gone.
    pub(super) removed: Vec<String>,
    /// Resources that have no rules in them.
    pub(super) unreadable: Vec<RuleError>,
    /// True if one of those has no name.
    pub(super) has_nameless: bool,
}

impl Received {
    /// Takes up a resource; `name` is `None` where its content alone has it. `index` counts from 0.
    pub(super) fn add(&mut self, index: usize, name: Option<String>, version: String, resource: Any) {
        let name = name.filter(|name| !name.is_empty());
        if resource.type_url != TYPE_URL {
            let type_url: String = resource.type_url.chars().take(100).collect();
            self.add_unreadable(index, name, format!("type '{type_url}' is not {TYPE_URL}"));
            return;
        }
        let config = Bytes::from(resource.value);
        let found = match &name {
            Some(name) => Some(Resource::new(name, version, config)),
            None => Resource::named_by_content(config),
        };
        match found {
            Some(found) => self.resources.push(found),
            None => self.add_unreadable(index, None, "no name and no domain can be read".to_owned()),
        }
    }

    fn add_unreadable(&mut self, index: usize, name: Option<String>, message: String) {
        self.has_nameless |= name.is_none();
        let source = name.map_or_else(|| label(&format!("#{index}")), |name| label(&name));
        self.unreadable.push(RuleError::of_source(&source, message));
    }

    /// Makes an error of each name that several resources have: which of them is meant cannot be known.
    pub(super) fn without_duplicates(mut self) -> Self {
        let mut names = HashMap::<&str, usize>::with_capacity(self.resources.len());
        for resource in &self.resources {
            *names.entry(resource.name()).or_default() += 1;
        }
        let is_duplicate = |(name, count): (&str, usize)| (count > 1).then(|| name.to_owned());
        let duplicates: BTreeSet<String> = names.into_iter().filter_map(is_duplicate).collect();
        self.resources.retain(|resource| !duplicates.contains(resource.name()));
        let error = |name| {
            let message = "more than one resource of the response has this name";
            RuleError::of_source(&label(name), message)
        };
        self.unreadable.extend(duplicates.iter().map(|name| error(name)));
        self
    }

    /// Names of its resources in errors.
    pub(super) fn labels(&self) -> HashSet<String> {
        let resources = self.resources.iter().map(|resource| RuleSource::name(resource).to_owned());
        resources.chain(self.unreadable.iter().map(|error| error.source.clone())).collect()
    }

    /// Digest of the content. The order of resources, the version and the nonce make no difference.
    pub(super) fn digest(&self) -> u64 {
        let part = |seed: u64, name: &str, content: &[u8]| {
            xxh3_64_with_seed(content, xxh3_64_with_seed(name.as_bytes(), seed))
        };
        let resources = self.resources.iter().map(|found| part(1, found.name(), found.config()));
        let removed = self.removed.iter().map(|name| part(2, name, &[]));
        let unreadable = self.unreadable.iter().map(|error| part(3, &error.source, error.message.as_bytes()));
        let parts = resources.chain(removed).chain(unreadable);
        parts.fold(u64::from(self.is_complete), u64::wrapping_add)
    }
}

/// The client in requests.
pub(super) fn node(id: &str, metadata: &[(String, String)]) -> Node {
    let text = |text: &String| Value { kind: Some(value::Kind::StringValue(text.clone())) };
    let fields = metadata.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    Node {
        id: id.to_owned(),
        cluster: String::new(),
        metadata: (!metadata.is_empty()).then_some(Struct { fields }),
        user_agent_name: USER_AGENT.to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Reason for not accepting a response.
pub(super) fn refusal(reason: &str) -> Status {
    Status { code: INVALID_ARGUMENT, message: reason.to_owned() }
}

/// Decodes a response whose size in memory is bounded.
pub(super) fn decode<M: Message + Default>(response: Bytes, message: wire::Message) -> Result<M, Unreadable> {
    wire::check(&response, message)?;
    M::decode(response).map_err(|_| Unreadable::Malformed)
}

/// True for a response about rules. Servers that know one type alone may leave it out.
pub(super) fn is_about_rules(type_url: &str) -> bool {
    type_url == TYPE_URL || type_url.is_empty()
}
