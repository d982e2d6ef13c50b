//! One node of Redis, as one core reaches it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{self, Instant};

use super::Endpoint;
use super::batch::SlotCharges;
use super::connect::ConnectConfig;
use super::queue::{Answer, Call, CallQueue, CommandCall, CommandError, Request, failing};
use super::reply::Reply;
use super::status::Link;
use super::ttl::Orphans;
use super::wire::Command;
use super::worker::{Connection, Worker};
use crate::store::StoreError;
use crate::store::line::Rejection;
use crate::supervisor::OwnedTask;

/// Upper bound on the time for which the TTLs of the last counters are waited for.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// One node: a queue, and a task whose connection carries out its calls.
#[derive(Debug)]
pub(super) struct NodeClient {
    server: Endpoint,
    queue: Arc<CallQueue>,
    link: Arc<Link>,
    connection: watch::Receiver<Connection>,
    call_timeout: Duration,
    _worker: OwnedTask,
}

impl NodeClient {
    /// Connects from now on, for as long as this lives. Belongs to the runtime it is made in.
    pub(super) fn connect(server: Endpoint, config: &Arc<ConnectConfig>, orphans: &Orphans) -> Self {
        let queue = Arc::new(CallQueue::default());
        let link = config.nodes.link(&server, &queue);
        let (sender, connection) = watch::channel(Connection::Connecting);
        let worker =
            Worker::new(server.clone(), Arc::clone(config), Arc::clone(&link), sender, orphans.clone());
        let call_timeout = config.settings.call_timeout;
        let worker = config.supervisor.spawn_owned(format!("Redis worker for {server}"), worker.run());
        Self { server, queue, link, connection, call_timeout, _worker: worker }
    }

    pub(super) const fn server(&self) -> &Endpoint {
        &self.server
    }

    /// Waits until the connection is up, for at most `timeout`; zero is no bound.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] with the cause of the last failure, after `timeout`.
    pub(super) async fn ready(&self, timeout: Duration) -> Result<(), StoreError> {
        let mut connection = self.connection.clone();
        let up = connection.wait_for(|connection| *connection == Connection::Up);
        let waited = match timeout.is_zero() {
            true => Ok(up.await.is_ok()),
            false => time::timeout(timeout, up).await.map(|up| up.is_ok()),
        };
        if waited == Ok(true) {
            return Ok(());
        }
        let cause = match &*self.connection.borrow() {
            Connection::Connecting | Connection::Up => "not connected yet".into(),
            Connection::Down(cause) => cause.clone(),
        };
        Err(StoreError::Unreachable(self.about(&cause)))
    }

    /// True if the node answers.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        match self.command(&[b"PING"], self.call_timeout).await? {
            Reply::Error(text) => Err(StoreError::Rejected(text)),
            _ => Ok(()),
        }
    }

    /// Carries out a command other than a charge. An error reply is a reply, not an error.
    pub(super) async fn command(&self, arguments: &[&[u8]], timeout: Duration) -> Result<Reply, StoreError> {
        self.command_after(false, arguments, timeout).await
    }

    /// Carries out a command on a key whose slot this node is importing: sends ASKING first.
    pub(super) async fn command_asking(
        &self,
        arguments: &[&[u8]],
        timeout: Duration,
    ) -> Result<Reply, StoreError> {
        self.command_after(true, arguments, timeout).await
    }

    async fn command_after(
        &self,
        asking: bool,
        arguments: &[&[u8]],
        timeout: Duration,
    ) -> Result<Reply, StoreError> {
        let (reply, wait) = oneshot::channel();
        let now = Instant::now();
        let command = Command::from_slices(arguments);
        let call = CommandCall { command, asking, deadline: now + timeout, reply };
        if let Err((_, rejection)) = self.queue.push(Call::Command(Box::new(call)), now) {
            return Err(self.rejected(&rejection));
        }
        match time::timeout(timeout, wait).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(CommandError::NotSent(rejection)))) => Err(self.rejected(&rejection)),
            Ok(Ok(Err(CommandError::Unanswered(cause)))) => Err(StoreError::Unanswered(self.about(&cause))),
            Ok(Err(_)) => Err(StoreError::Unanswered(self.about("shutting down"))),
            Err(_) => Err(StoreError::Unanswered(self.about("no answer in time"))),
        }
    }

    /// Waits until every counter that was charged has its TTL, or Redis does not answer.
    pub(super) async fn settle(&self) {
        let end = Instant::now() + SETTLE_TIMEOUT;
        let mut pending = usize::MAX;
        // TTLs that are missing go out in front of it, a batch at a time.
        while Instant::now() < end && self.command(&[b"PING"], SETTLE_TIMEOUT).await.is_ok() {
            let before = std::mem::replace(&mut pending, self.link.ttls_pending.load(Ordering::Relaxed));
            if pending == 0 || pending >= before {
                return;
            }
        }
    }

    /// Carries out a request. One that still waits at `deadline`, or when its caller has gone, is not sent.
    pub(super) async fn charge(&self, request: Request, deadline: Instant) -> Answer {
        let len = request.charges.len();
        let (answer, wait) = oneshot::channel();
        let call = Call::Charge { request, deadline, answer };
        match self.queue.push(call, Instant::now()) {
            Ok(()) => {}
            Err((Call::Charge { request, .. }, rejection)) => {
                return self.not_sent(request.charges, &rejection);
            }
            Err((Call::Command(_), rejection)) => return self.not_sent(SlotCharges::new(), &rejection),
        }
        match wait.await {
            Ok(Ok(answer)) => answer,
            Ok(Err((charges, rejection))) => self.not_sent(charges, &rejection),
            Err(_) => {
                let given_up = StoreError::Unanswered(self.about("shutting down"));
                Answer { charges: SlotCharges::new(), outcomes: failing(len, &given_up) }
            }
        }
    }

    fn not_sent(&self, charges: SlotCharges, rejection: &Rejection) -> Answer {
        let outcomes = failing(charges.len(), &self.rejected(rejection));
        Answer { charges, outcomes }
    }

    fn rejected(&self, rejection: &Rejection) -> StoreError {
        StoreError::Unreachable(self.about(&rejection.to_string()))
    }

    fn about(&self, cause: &str) -> String {
        format!("{}: {cause}", self.link.name())
    }
}
