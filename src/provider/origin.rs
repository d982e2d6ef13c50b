//! Rules as a provider delivers them: sources of one origin.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::xds::Resource;
use crate::engine::rules::{Documents, RuleError, RuleSource, SourceFile};

/// Place that rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Files.
    Files,
    /// A management server.
    Xds,
}

/// Rules that load or fail together.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A file.
    File(Arc<SourceFile>),
    /// A resource of a management server.
    Resource(Arc<Resource>),
}

/// The latest sources of an origin.
#[derive(Clone, Debug)]
pub struct FoundSources {
    /// Path of the files or address of the server, for errors that concern no source.
    pub place: String,
    /// Sources in the order of their names.
    pub sources: Vec<Source>,
    /// Errors of unreadable sources. The name of a directory covers everything in it.
    pub unreadable: Vec<RuleError>,
    /// True if one of the sources that could not be read may be any of those that are missing.
    pub has_nameless: bool,
}

impl Source {
    /// Place that it comes from.
    pub const fn origin(&self) -> Origin {
        match self {
            Self::File(_) => Origin::Files,
            Self::Resource(_) => Origin::Xds,
        }
    }

    /// Rules as they came.
    fn content(&self) -> &[u8] {
        match self {
            Self::File(file) => file.text.as_bytes(),
            Self::Resource(resource) => resource.config(),
        }
    }

    fn as_rule_source(&self) -> &dyn RuleSource {
        match self {
            Self::File(file) => &**file,
            Self::Resource(resource) => &**resource,
        }
    }
}

/// Hash of the contents of `sources`. Their names have no part in it: replicas may keep files in different folders. It
/// has 48 bits, which a number of JSON or Prometheus holds exactly.
pub(super) fn hash(sources: &[Source]) -> u64 {
    let each = sources.iter().flat_map(|source| xxh3_64(source.content()).to_be_bytes());
    xxh3_64(&each.collect::<Vec<_>>()) >> 16
}

impl RuleSource for Source {
    fn name(&self) -> &str {
        self.as_rule_source().name()
    }

    fn documents(&self) -> Documents {
        self.as_rule_source().documents()
    }

    fn text(&self) -> Option<&str> {
        self.as_rule_source().text()
    }

    fn may_be_empty(&self) -> bool {
        self.as_rule_source().may_be_empty()
    }
}
