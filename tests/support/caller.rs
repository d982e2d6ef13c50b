//! An honest client of the rate-limit service.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::PATIENCE;

/// A connection to the service.
pub(crate) struct Caller(RateLimitServiceClient<Channel>);

impl Caller {
    /// Connects to this port of 127.0.0.1.
    pub(crate) async fn connect(port: u16) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
        Self(RateLimitServiceClient::new(endpoint.connect().await.expect("it listens")))
    }

    /// Asks in the domain `shop` about one descriptor with one entry.
    pub(crate) async fn ask(&mut self, key: &str, value: &str) -> Result<RateLimitResponse, Status> {
        let entry = Entry { key: key.to_owned(), value: value.to_owned() };
        let descriptor = RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() };
        let request =
            RateLimitRequest { domain: "shop".to_owned(), descriptors: vec![descriptor], hits_addend: 0 };
        let answer = tokio::time::timeout(PATIENCE, self.0.should_rate_limit(request)).await;
        Ok(answer.expect("an answer in time")?.into_inner())
    }
}
