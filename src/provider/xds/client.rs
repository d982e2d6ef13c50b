//! The client of a management server: one stream after the other, and the rules that they brought.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};

use super::cache::Cache;
use super::connect::{ConnectTls, connect};
use super::delta::{self, Delta};
use super::pace::{Pace, Refusals};
use super::protocol::{Protocol, Received, Variant, node};
use super::resource::Resource;
use super::snapshot::Snapshot;
use super::sotw::{self, Sotw};
use super::status::XdsStatus;
use super::stream::{Responses, open};
use super::wire::Unreadable;
use super::{ServerAddress, XdsSettings};
use crate::clock::Clock;
use crate::engine::rules::{MAX_REPORTED, RuleError, RuleErrors};
use crate::provider::origin::{Origin, Source};
use crate::provider::publish::Publisher;
use crate::tls::LiveClient;

/// Upper bound on the random wait before a connection with replaced certificates takes the place of one without.
const RENEWAL_JITTER: Duration = Duration::from_secs(5);
/// Longest reason in an answer that refuses a response, in bytes.
const REASON_BYTES_MAX: usize = 4096;

/// Client of a management server.
pub(super) struct Client {
    settings: XdsSettings,
    tls: Option<ConnectTls>,
    publisher: Publisher,
    clock: Arc<dyn Clock>,
    status: Arc<XdsStatus>,
    cache: Option<Cache>,
    /// Error of the last write to the cache, which is logged once.
    cache_error: Option<String>,
    protocol: Box<dyn Protocol>,
    snapshot: Snapshot,
    pace: Pace,
    refusals: Refusals,
    /// The last content.
    last: Option<Content>,
    has_connected: bool,
}

/// Content, and the names of its resources in errors.
struct Content {
    digest: u64,
    labels: HashSet<String>,
}

/// End of a stream.
pub(super) struct End {
    pub(super) reason: String,
    pub(super) has_connected: bool,
    /// True if there was a response.
    pub(super) has_delivered: bool,
    pub(super) retry: Retry,
}

/// Time of the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    AtOnce,
    /// After the back-off.
    Soon,
    /// After its longest wait.
    Later,
}

/// State of one stream.
struct Stream {
    requests: mpsc::Sender<Bytes>,
    /// The newest response, if its refusal waits.
    delayed: Option<Delayed>,
    /// End of the time for which resources that are gone stay in force; `None` before the first response.
    grace_until: Option<Instant>,
}

/// Response that will be answered later.
struct Delayed {
    due: Instant,
    version: String,
    nonce: String,
}

/// Reason for the end of a stream.
enum Broken {
    Closed,
    /// Files of TLS have changed.
    Renewal,
    Status(Status),
    Unreadable(Unreadable),
    Load(JoinError),
}

impl Client {
    pub(super) fn new(
        settings: XdsSettings,
        publisher: Publisher,
        clock: Arc<dyn Clock>,
        tls: Option<ConnectTls>,
    ) -> Self {
        let node = node(&settings.node_id, &settings.node_metadata);
        let protocol: Box<dyn Protocol> = match settings.variant {
            Variant::Sotw => Box::new(Sotw::new(node)),
            Variant::Delta => Box::new(Delta::new(node)),
        };
        let cache = settings.cache_file.clone().map(|path| Cache::new(path, settings.node_id.clone()));
        Self {
            status: Arc::new(XdsStatus::new(settings.server.to_string(), settings.variant)),
            settings,
            tls,
            publisher,
            clock,
            cache,
            cache_error: None,
            protocol,
            snapshot: Snapshot::default(),
            pace: Pace::default(),
            refusals: Refusals::default(),
            last: None,
            has_connected: false,
        }
    }

    pub(super) fn status(&self) -> Arc<XdsStatus> {
        Arc::clone(&self.status)
    }

    pub(super) const fn server(&self) -> &ServerAddress {
        &self.settings.server
    }

    /// Publishes the rules of an earlier run.
    pub(super) fn load_cache(&mut self) {
        let Some(cache) = &self.cache else { return };
        let path = cache.path().display();
        match cache.read() {
            Ok(None) => tracing::info!(%path, "no cached rules"),
            Ok(Some(resources)) => {
                tracing::info!(%path, resources = resources.len(), "cached rules read");
                self.snapshot = Snapshot::of(resources);
                self.status.set_from_cache();
                self.publisher.publish(Origin::Xds, self.snapshot.found(&self.place()));
            }
            Err(error) => tracing::warn!(%path, %error, "cached rules cannot be used"),
        }
    }

    /// Name of the server in errors that concern no resource.
    fn place(&self) -> String {
        format!("xds server {}", self.settings.server)
    }

    /// Opens a stream and follows it to its end.
    ///
    /// # Errors
    /// A load panicked.
    pub(super) async fn stream(&mut self) -> Result<End, JoinError> {
        let unconnected =
            |reason| End { reason, has_connected: false, has_delivered: false, retry: Retry::Soon };
        if let Some(tls) = &mut self.tls {
            // This connection uses the latest files.
            while tls.client.changed().now_or_never().is_some() {}
        }
        let (tls, ping_interval) = (self.tls.as_ref(), self.settings.ping_interval);
        let channel = match connect(&self.settings.server, tls, ping_interval).await {
            Ok(channel) => channel,
            Err(reason) => return Ok(unconnected(reason)),
        };
        let XdsSettings { headers, max_message_bytes, .. } = &self.settings;
        let opened = open(channel, self.protocol.path(), headers, *max_message_bytes).await;
        let (requests, responses) = match opened {
            Ok(opened) => opened,
            Err(status) => return Ok(unconnected(text(&status))),
        };
        let in_force = self.publisher.in_force(Origin::Xds);
        if self.protocol.variant() == Variant::Delta {
            // The server reports changes to what the first request names, and that is what is in force.
            self.snapshot.retain_in_force(in_force.iter().filter_map(shared_resource));
            self.last = None;
        }
        let held: Vec<&Resource> = in_force.iter().filter_map(resource).collect();
        let first = self.protocol.open(&held);
        drop(in_force);
        let mut stream = Stream { requests, delayed: None, grace_until: None };
        let broken = match stream.requests.send(first).await {
            Ok(()) => {
                self.status.set_connected(self.has_connected);
                self.has_connected = true;
                tracing::info!(server = %self.settings.server, protocol = self.protocol.variant().name(), "xDS stream opened");
                self.follow(&mut stream, responses).await
            }
            Err(_) => Broken::Closed,
        };
        let has_delivered = stream.grace_until.is_some();
        let (reason, retry) = match broken {
            Broken::Load(error) => return Err(error),
            Broken::Closed => ("the server closed the stream".to_owned(), Retry::Soon),
            Broken::Renewal => ("certificates have changed".to_owned(), Retry::AtOnce),
            Broken::Unreadable(error) => (format!("response not readable: {error}"), Retry::Soon),
            Broken::Status(status) => self.judge(&status),
        };
        Ok(End { reason, has_connected: true, has_delivered, retry })
    }

    /// Reason and next attempt after a stream that ended with `status`.
    fn judge(&mut self, status: &Status) -> (String, Retry) {
        match status.code() {
            Code::Unimplemented if self.protocol.variant() == Variant::Delta => {
                self.protocol =
                    Box::new(Sotw::new(node(&self.settings.node_id, &self.settings.node_metadata)));
                self.status.set_variant(Variant::Sotw);
                (
                    "the server has no incremental discovery; using state of the world".to_owned(),
                    Retry::AtOnce,
                )
            }
            Code::Unimplemented => {
                let reason = "the server has no aggregated discovery service (ADS): check \
                              CONFIG_GRPC_XDS_SERVER_URL";
                (reason.to_owned(), Retry::Later)
            }
            // That of tonic for a message beyond the bound.
            Code::OutOfRange => {
                let reason = format!("{}: raise XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", text(status));
                (reason, Retry::Soon)
            }
            _ => (text(status), Retry::Soon),
        }
    }

    async fn follow(&mut self, stream: &mut Stream, mut responses: Responses) -> Broken {
        let mut renewal = std::pin::pin!(renewal(self.tls.as_ref().map(|tls| tls.client.clone())));
        let mut loads = self.publisher.status();
        loop {
            let delayed = stream.delayed.as_ref().map(|delayed| delayed.due);
            let grace = stream.grace_until.filter(|_| self.snapshot.has_lingering());
            let outcome = tokio::select! {
                response = responses.next() => match response {
                    Ok(Some(response)) => self.receive(stream, response).await,
                    Ok(None) => Err(Broken::Closed),
                    Err(status) => Err(Broken::Status(status)),
                },
                () = due(delayed) => match stream.delayed.take() {
                    Some(Delayed { version, nonce, .. }) => {
                        // Files may have changed what is said of it.
                        let answer = self.answer(&version, &nonce, self.refusal());
                        send(stream, answer).await
                    }
                    None => Ok(()),
                },
                () = renewal.as_mut() => Err(Broken::Renewal),
                Ok(()) = loads.changed() => {
                    // A file may have taken or given up a domain.
                    self.status.set_refused(self.refusal());
                    Ok(())
                }
                () = due(grace) => {
                    self.snapshot.drop_lingering();
                    self.load().await
                }
            };
            if let Err(broken) = outcome {
                return broken;
            }
        }
    }

    async fn receive(&mut self, stream: &mut Stream, response: Bytes) -> Result<(), Broken> {
        let variant = self.protocol.variant();
        let reading = spawn_blocking(move || read(variant, response));
        let read = reading.await.map_err(Broken::Load)?.map_err(Broken::Unreadable)?;
        let Some((digest, received)) = read else {
            tracing::debug!("xDS response about another type ignored");
            return Ok(());
        };
        let now = Instant::now();
        let grace = self.settings.removal_grace;
        let keeps_removed = *stream.grace_until.get_or_insert(now + grace) > now;
        self.status.record_response(&received.version, self.clock.now());
        let (version, nonce) = (received.version.clone(), received.nonce.clone());
        let is_known = self.last.as_ref().is_some_and(|last| last.digest == digest);
        if !is_known {
            sleep_until(self.pace.next(now)).await;
            let labels = received.labels();
            self.snapshot.apply(received, keeps_removed);
            self.load().await?;
            self.last = Some(Content { digest, labels });
        }
        let delayed = stream.delayed.take();
        let refusal = self.refusal();
        if let Some(reason) = &refusal {
            self.status.record_nack(reason);
            tracing::debug!(version, nonce, reason, "xDS response refused");
            // One answer, for the newest response, is enough for content that comes again and again.
            let due = match delayed {
                Some(delayed) if is_known => delayed.due,
                _ => Instant::now() + self.refusals.wait(digest, fastrand::f64()),
            };
            if due > Instant::now() {
                stream.delayed = Some(Delayed { due, version, nonce });
                return Ok(());
            }
        }
        let answer = self.answer(&version, &nonce, refusal);
        send(stream, answer).await
    }

    /// Request that accepts a response, or refuses it for a reason.
    fn answer(&mut self, version: &str, nonce: &str, refusal: Option<String>) -> Bytes {
        match refusal {
            Some(reason) => self.protocol.refuse(nonce, &reason),
            None => {
                self.refusals.clear();
                self.status.record_ack();
                self.protocol.accept(version, nonce)
            }
        }
    }

    /// Reason to refuse the last content, if there is one. It may change with the rule files.
    fn refusal(&self) -> Option<String> {
        let Content { labels, .. } = self.last.as_ref()?;
        let errors = self.publisher.status().borrow().error.clone()?;
        reason(&errors, |source| labels.contains(source))
    }

    /// Publishes the snapshot.
    async fn load(&mut self) -> Result<(), Broken> {
        let (publisher, found, cache) =
            (self.publisher.clone(), self.snapshot.found(&self.place()), self.cache.clone());
        let loading = spawn_blocking(move || {
            let errors = publisher.publish(Origin::Xds, found);
            let in_force = publisher.in_force(Origin::Xds);
            // Without a good resource there is no good snapshot yet.
            match cache.filter(|_| errors.is_empty() || !in_force.is_empty()) {
                Some(cache) => cache
                    .write(in_force.iter().filter_map(resource))
                    .map_err(|error| format!("{}: {error}", cache.path().display())),
                None => Ok(()),
            }
        });
        let error = loading.await.map_err(Broken::Load)?.err();
        if let Some(error) = error.as_ref().filter(|error| self.cache_error.as_ref() != Some(error)) {
            tracing::warn!(error, "cannot write the cache of rules");
        }
        self.cache_error = error;
        Ok(())
    }
}

/// Content of a response and its digest; `None` for a response about another type. Takes long for a large one.
fn read(variant: Variant, response: Bytes) -> Result<Option<(u64, Received)>, Unreadable> {
    let received = match variant {
        Variant::Sotw => sotw::read(response),
        Variant::Delta => delta::read(response),
    };
    let received = received?.map(Received::without_duplicates);
    Ok(received.map(|received| (received.digest(), received)))
}

fn resource(source: &Source) -> Option<&Resource> {
    shared_resource(source).map(|resource| &**resource)
}

const fn shared_resource(source: &Source) -> Option<&Arc<Resource>> {
    match source {
        Source::Resource(resource) => Some(resource),
        Source::File(_) => None,
    }
}

/// Those of `errors` that concern a response, as the reason to refuse it.
fn reason(errors: &RuleErrors, is_concerned: impl Fn(&str) -> bool) -> Option<String> {
    let mut own = RuleErrors::default();
    let reported = errors.reported.iter().filter(|error| is_concerned(&error.source));
    reported.for_each(|error| own.push(error.clone()));
    // Their errors are beyond the bound, which other sources may have used up.
    let unreported = errors.omitted_sources.iter().filter(|source| is_concerned(source));
    for source in unreported {
        let message = format!("errors beyond the {MAX_REPORTED} that are shown: correct those first");
        own.push(RuleError::of_source(source, message));
    }
    if own.is_empty() {
        return None;
    }
    let mut reason = own.to_string();
    if reason.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX - '…'.len_utf8()).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or_default());
        reason.push('…');
    }
    Some(reason)
}

/// Waits until the files of `tls` have changed, and a while longer: replicas whose files change together do not
/// reconnect together.
async fn renewal(tls: Option<LiveClient>) {
    match tls {
        Some(mut tls) => {
            tls.changed().await;
            sleep(RENEWAL_JITTER.mul_f64(fastrand::f64())).await;
        }
        None => std::future::pending().await,
    }
}

/// Waits until `at`, without end if there is no such time.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits while the server does not read its requests: nothing more is read from it meanwhile.
async fn send(stream: &Stream, request: Bytes) -> Result<(), Broken> {
    stream.requests.send(request).await.map_err(|_| Broken::Closed)
}

fn text(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(super::connect::chain);
    let cause = cause.filter(|cause| !status.message().contains(cause.as_str()));
    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
    let message: String = status.message().chars().take(500).collect();
    format!("{:?}: {message}{cause}", status.code())
}
