//! A resource with rules, and the document tree that it stands for.

use bytes::Bytes;
use prost::Message as _;

use super::document::document;
use super::wire;
use crate::engine::rules::{Documents, RuleSource, SourceSpan};
use crate::pb::ratelimit::config::ratelimit::v3::RateLimitConfig;

/// Rules of one domain as a management server sent them. They are kept encoded, which takes a fraction of the
/// memory, and decoded when they are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `xds:` and the name, which no file has by accident.
    label: String,
    /// Version of the resource, of delta responses alone.
    version: String,
    config: Bytes,
}

impl Resource {
    /// Resource `name`, in the encoding of a `RateLimitConfig`.
    pub(super) fn new(name: &str, version: String, config: Bytes) -> Self {
        Self { label: label(name), version, config }
    }

    /// Resource of an encoded `RateLimitConfig`, which has its name, or else its domain's. `None` if neither can
    /// be read.
    pub(super) fn named_by_content(config: Bytes) -> Option<Self> {
        let name = wire::text(&config, 1).or_else(|| wire::text(&config, 2))?.to_owned();
        Some(Self::new(&name, String::new(), config))
    }

    /// Name as the server knows it.
    pub fn name(&self) -> &str {
        self.label.strip_prefix(PREFIX).unwrap_or_default()
    }

    /// Version of the resource; empty if it has none.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Encoded `RateLimitConfig`.
    pub(in crate::provider) const fn config(&self) -> &Bytes {
        &self.config
    }

    /// Domain of its rules, if it can be read.
    pub(super) fn domain(&self) -> Option<&str> {
        wire::text(&self.config, 2)
    }
}

/// Prefix of the names of resources in errors, status and listings.
const PREFIX: &str = "xds:";

/// Name of a resource in errors, status and listings.
pub(super) fn label(name: &str) -> String {
    format!("{PREFIX}{name}")
}

impl RuleSource for Resource {
    fn name(&self) -> &str {
        &self.label
    }

    fn documents(&self) -> Documents {
        match RateLimitConfig::decode(self.config.clone()) {
            Ok(config) => document(config),
            Err(error) => {
                let mut documents = Documents::default();
                let message = format!("not a RateLimitConfig: {error}");
                documents.errors.push(SourceSpan::default(), message);
                documents
            }
        }
    }

    fn may_be_empty(&self) -> bool {
        true
    }
}
