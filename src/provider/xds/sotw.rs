//! State of the world: each response has every resource.

use bytes::Bytes;
use prost::Message as _;

use super::protocol::{Protocol, Received, Variant, decode, is_about_rules, refusal};
use super::resource::Resource;
use super::wire::{Message, TYPE_URL, Unreadable};
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::pb::google::rpc::Status;

/// Client of the state-of-the-world protocol.
pub(super) struct Sotw {
    node: Node,
    /// Version of the last response of this stream that was accepted.
    accepted: String,
}

impl Sotw {
    pub(super) const fn new(node: Node) -> Self {
        Self { node, accepted: String::new() }
    }

    fn request(&self, nonce: &str, error_detail: Option<Status>) -> Bytes {
        let request = DiscoveryRequest {
            version_info: self.accepted.clone(),
            node: Some(self.node.clone()),
            resource_names: Vec::new(),
            type_url: TYPE_URL.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail,
        };
        request.encode_to_vec().into()
    }
}

impl Protocol for Sotw {
    fn variant(&self) -> Variant {
        Variant::Sotw
    }

    fn path(&self) -> &'static str {
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    }

    /// The version is empty: servers count them, each from the start, so that one version may mean different
    /// rules on two servers, or before and after a restart.
    fn open(&mut self, _resources: &[&Resource]) -> Bytes {
        self.accepted.clear();
        self.request("", None)
    }

    fn accept(&mut self, version: &str, nonce: &str) -> Bytes {
        version.clone_into(&mut self.accepted);
        self.request(nonce, None)
    }

    fn refuse(&mut self, nonce: &str, reason: &str) -> Bytes {
        self.request(nonce, Some(refusal(reason)))
    }
}

/// Content of a response; `None` for a response about another type.
///
/// # Errors
/// [`Unreadable`]: the stream cannot be used any more.
pub(super) fn read(response: Bytes) -> Result<Option<Received>, Unreadable> {
    let response: DiscoveryResponse = decode(response, Message::Sotw)?;
    if !is_about_rules(&response.type_url) {
        return Ok(None);
    }
    let DiscoveryResponse { version_info: version, nonce, resources, .. } = response;
    let mut received = Received { version, nonce, is_complete: true, ..Received::default() };
    for (index, resource) in resources.into_iter().enumerate() {
        received.add(index, None, String::new(), resource);
    }
    Ok(Some(received))
}
