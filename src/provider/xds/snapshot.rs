//! Latest resources of the management server, in either variant of the protocol.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::protocol::Received;
use super::resource::{Resource, label};
use crate::engine::rules::{RuleError, RuleSource};
use crate::provider::origin::{FoundSources, Source};

/// Resources by their labels.
type Resources = BTreeMap<String, Arc<Resource>>;

/// Latest resources of the server.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    resources: Resources,
    /// Resources that cannot be read, by their labels.
    unreadable: BTreeMap<String, RuleError>,
    has_nameless: bool,
    /// Removed resources that stay in force for a while: a server that has just started may not know them yet.
    lingering: Resources,
}

impl Snapshot {
    /// Snapshot with the resources of an earlier run.
    pub(super) fn of(resources: Vec<Resource>) -> Self {
        let resources = resources.into_iter().map(|resource| (resource.name_in_rules(), Arc::new(resource)));
        Self { resources: resources.collect(), ..Self::default() }
    }

    /// Forgets errors, and resources that are not in force. The server sends all resources again that the first
    /// request of a stream does not name.
    pub(super) fn retain_in_force<'r>(&mut self, in_force: impl Iterator<Item = &'r Arc<Resource>>) {
        let named = in_force.map(|resource| (resource.name_in_rules(), Arc::clone(resource)));
        self.resources = named.filter(|(name, _)| !self.lingering.contains_key(name)).collect();
        self.unreadable.clear();
        self.has_nameless = false;
    }

    /// Applies a response. If `keeps_removed`, removed resources linger.
    pub(super) fn apply(&mut self, received: Received, keeps_removed: bool) {
        let Received { is_complete, resources, removed, unreadable, has_nameless, .. } = received;
        let mut gone = Resources::new();
        if is_complete {
            gone = std::mem::take(&mut self.resources);
            self.unreadable.clear();
            self.has_nameless = false;
        }
        self.has_nameless |= has_nameless;
        for name in removed.iter().map(|name| label(name)) {
            gone.extend(self.resources.remove_entry(&name));
            self.unreadable.remove(&name);
        }
        for resource in resources {
            let name = resource.name_in_rules();
            self.unreadable.remove(&name);
            self.lingering.remove(&name);
            gone.remove(&name);
            self.resources.insert(name, Arc::new(resource));
        }
        for error in unreadable {
            gone.remove(&error.source);
            self.resources.remove(&error.source);
            self.unreadable.insert(error.source.clone(), error);
        }
        if keeps_removed {
            self.lingering.extend(gone);
        }
        // A new resource for a domain replaces a lingering one.
        if !self.lingering.is_empty() {
            let taken: HashSet<_> = self.resources.values().filter_map(|held| held.domain()).collect();
            self.lingering.retain(|_, old| old.domain().is_some_and(|domain| !taken.contains(domain)));
        }
    }

    /// True if there are removed resources that stay in force.
    pub(super) fn has_lingering(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// Forgets removed resources.
    pub(super) fn drop_lingering(&mut self) {
        self.lingering.clear();
    }

    /// The resources for the publisher.
    pub(super) fn found(&self, place: &str) -> FoundSources {
        let mut all: BTreeMap<_, _> = self.lingering.iter().collect();
        all.extend(&self.resources);
        FoundSources {
            place: place.to_owned(),
            sources: all.into_values().map(|resource| Source::Resource(Arc::clone(resource))).collect(),
            unreadable: self.unreadable.values().cloned().collect(),
            has_nameless: self.has_nameless,
        }
    }
}

impl Resource {
    fn name_in_rules(&self) -> String {
        RuleSource::name(self).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::pb::ratelimit::config::ratelimit::v3::RateLimitConfig;

    fn resource(name: &str, domain: &str) -> Resource {
        let (name, domain) = (name.to_owned(), domain.to_owned());
        let config = RateLimitConfig { name: name.clone(), domain, descriptors: Vec::new() };
        Resource::new(&name, String::new(), Bytes::from(config.encode_to_vec()))
    }

    fn complete(resources: &[(&str, &str)]) -> Received {
        let resources = resources.iter().map(|(name, domain)| resource(name, domain)).collect();
        Received { is_complete: true, resources, ..Received::default() }
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        let sources = snapshot.found("").sources;
        sources.iter().map(|source| RuleSource::name(source).to_owned()).collect()
    }

    #[test]
    fn a_complete_response_replaces_all_resources() {
        let mut snapshot = Snapshot::default();
        snapshot.apply(complete(&[("b", "b"), ("a", "a"), ("a", "a2")]), false);
        assert_eq!(names(&snapshot), ["xds:a", "xds:b"]);
        snapshot.apply(complete(&[("a", "a")]), false);
        assert_eq!(names(&snapshot), ["xds:a"]);
        snapshot.apply(complete(&[]), false);
        assert!(names(&snapshot).is_empty());
    }

    #[test]
    fn a_delta_adds_and_removes() {
        let mut snapshot = Snapshot::of(vec![resource("a", "a"), resource("b", "b")]);
        let delta = |added: &[(&str, &str)], removed: &[&str]| Received {
            is_complete: false,
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..complete(added)
        };
        snapshot.apply(delta(&[("c", "c")], &["a"]), false);
        assert_eq!(names(&snapshot), ["xds:b", "xds:c"]);
        snapshot.apply(delta(&[], &["unknown"]), false);
        assert_eq!(names(&snapshot), ["xds:b", "xds:c"]);
    }

    #[test]
    fn removed_resources_linger_until_they_are_dropped_or_replaced() {
        let mut snapshot = Snapshot::of(vec![resource("a", "a"), resource("b", "b"), resource("c", "c")]);
        snapshot.apply(complete(&[("a", "a")]), true);
        assert_eq!(names(&snapshot), ["xds:a", "xds:b", "xds:c"]);
        assert!(snapshot.has_lingering());
        // Another resource for the domain of one of them; and one of them again.
        snapshot.apply(complete(&[("a", "a"), ("new", "b"), ("c", "c")]), true);
        assert_eq!(names(&snapshot), ["xds:a", "xds:c", "xds:new"]);
        assert!(!snapshot.has_lingering());
        snapshot.apply(complete(&[]), true);
        snapshot.drop_lingering();
        assert!(names(&snapshot).is_empty());
    }
}
