//! Calls at a steady rate, whether or not they are answered, and what became of them.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tonic::transport::{Channel, Endpoint};

const CONNECTIONS: usize = 4;

/// Answers to calls: `OK`, `OVER_LIMIT` or the name of gRPC's code.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) counts: BTreeMap<String, usize>,
}

impl Answers {
    pub(crate) fn count(&self, answer: &str) -> usize {
        self.counts.get(answer).copied().unwrap_or(0)
    }

    pub(crate) fn len(&self) -> usize {
        self.counts.values().sum()
    }
}

/// Connections to a service.
#[derive(Clone)]
pub(crate) struct Caller(Vec<RateLimitServiceClient<Channel>>);

/// A descriptor of one entry for each pair.
pub(crate) fn request(domain: &str, descriptors: &[(&str, &str)]) -> RateLimitRequest {
    let descriptor = |(key, value): &(&str, &str)| RateLimitDescriptor {
        entries: vec![Entry { key: (*key).to_owned(), value: (*value).to_owned() }],
        ..RateLimitDescriptor::default()
    };
    let descriptors = descriptors.iter().map(descriptor).collect();
    RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: 0 }
}

impl Caller {
    pub(crate) async fn connect(grpc: u16) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{grpc}")).expect("an address");
            clients.push(RateLimitServiceClient::new(endpoint.connect().await.expect("it listens")));
        }
        Self(clients)
    }

    /// Calls once, over one of the connections.
    pub(crate) async fn ask(
        &self,
        turn: usize,
        request: impl tonic::IntoRequest<RateLimitRequest>,
    ) -> String {
        let mut client = self.0[turn % self.0.len()].clone();
        match client.should_rate_limit(request).await {
            Ok(answer) => match answer.into_inner().overall_code() {
                Code::Ok => "OK".to_owned(),
                Code::OverLimit => "OVER_LIMIT".to_owned(),
                Code::Unknown => "UNKNOWN".to_owned(),
            },
            Err(status) => format!("{:?}", status.code()),
        }
    }

    /// Calls `rate` times a second for `lasting`, each time with what `request` makes of its number.
    pub(crate) async fn load(
        &self,
        rate: u32,
        lasting: Duration,
        request: impl Fn(usize) -> RateLimitRequest,
    ) -> Answers {
        let begun = Instant::now();
        let mut calls = JoinSet::new();
        let total = usize::try_from(u64::from(rate) * lasting.as_secs()).expect("few");
        for turn in 0..total {
            let due = begun + Duration::from_secs(1) * u32::try_from(turn).expect("few") / rate;
            time::sleep_until(due).await;
            let (caller, request) = (self.clone(), request(turn));
            calls.spawn(async move { caller.ask(turn, request).await });
        }
        let mut answers = Answers::default();
        for answer in calls.join_all().await {
            *answers.counts.entry(answer).or_default() += 1;
        }
        answers
    }
}
