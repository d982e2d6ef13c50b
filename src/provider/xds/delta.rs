//! Incremental discovery: each response has the resources that changed.

use bytes::Bytes;
use prost::Message as _;

use super::protocol::{Protocol, Received, Variant, decode, is_about_rules, refusal};
use super::resource::Resource;
use super::wire::{Message, TYPE_URL, Unreadable};
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// Client of the incremental protocol.
pub(super) struct Delta {
    node: Node,
}

impl Delta {
    pub(super) const fn new(node: Node) -> Self {
        Self { node }
    }

    fn request(&self) -> DeltaDiscoveryRequest {
        let node = Some(self.node.clone());
        DeltaDiscoveryRequest { node, type_url: TYPE_URL.to_owned(), ..DeltaDiscoveryRequest::default() }
    }
}

impl Protocol for Delta {
    fn variant(&self) -> Variant {
        Variant::Delta
    }

    fn path(&self) -> &'static str {
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    }

    /// Sends the versions of the resources held, so that the server can report those that are gone. Unlike the version
    /// of a whole response, the version of a resource depends on its content alone.
    fn open(&mut self, resources: &[&Resource]) -> Bytes {
        let versions = resources.iter().map(|held| (held.name().to_owned(), held.version().to_owned()));
        let initial_resource_versions = versions.collect();
        DeltaDiscoveryRequest { initial_resource_versions, ..self.request() }.encode_to_vec().into()
    }

    fn accept(&mut self, _version: &str, nonce: &str) -> Bytes {
        DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..self.request() }.encode_to_vec().into()
    }

    fn refuse(&mut self, nonce: &str, reason: &str) -> Bytes {
        let (response_nonce, error_detail) = (nonce.to_owned(), Some(refusal(reason)));
        DeltaDiscoveryRequest { response_nonce, error_detail, ..self.request() }.encode_to_vec().into()
    }
}

/// Content of a response; `None` for a response about another type.
///
/// # Errors
/// [`Unreadable`]: the stream cannot be used any more.
pub(super) fn read(response: Bytes) -> Result<Option<Received>, Unreadable> {
    let response: DeltaDiscoveryResponse = decode(response, Message::Delta)?;
    if !is_about_rules(&response.type_url) {
        return Ok(None);
    }
    let DeltaDiscoveryResponse { system_version_info, nonce, resources, removed_resources, .. } = response;
    let mut received =
        Received { version: system_version_info, nonce, removed: removed_resources, ..Received::default() };
    for (index, found) in resources.into_iter().enumerate() {
        received.add(index, Some(found.name), found.version, found.resource.unwrap_or_default());
    }
    Ok(Some(received))
}
