//! Discovery of the servers that count: configured by the operator, or learnt repeatedly from Sentinels or from the
//! nodes of a Cluster.
//!
//! A minority never decides. A new primary is used only if a majority of the configured Sentinels names it and it
//! reports itself as a primary. For the nodes of a Cluster, see [`super::agreement`]. Until then, the known topology
//! stays in use, although it may be outdated: one server counts exactly, two servers at the same time would not.
//!
//! Each query uses its own connection, so that a server that hangs does not delay the others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::{self, Instant};

use super::agreement::{Agreement, View};
use super::connect::{ConnectConfig, query};
use super::reply::Reply;
use super::slots::SlotMap;
use super::{Deployment, Endpoint, Login};
use crate::supervisor::OwnedTask;

/// Upper bound on the time for one answer, including the time to connect.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Upper bound on the wait for further nodes of a Cluster after the first one has answered.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(300);
/// Shortest pause between two refreshes, however often one is requested.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Interval between two queries of the Sentinels while nothing fails.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two queries of the nodes of a Cluster while nothing fails.
const CLUSTER_INTERVAL: Duration = Duration::from_secs(5);
/// Number of nodes of a known Cluster that are asked at once.
const MAX_NODES_ASKED: usize = 3;

/// The topology of a deployment, kept up to date. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Discovery {
    topology: watch::Receiver<Arc<Topology>>,
    refresh: Arc<Notify>,
    _refresher: Option<Arc<OwnedTask>>,
}

/// Servers and the counters that each of them has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Topology {
    /// Not known yet, for this reason.
    Unknown(String),
    /// One server counts everything.
    One(Endpoint),
    /// The servers of a Cluster, by slot.
    Cluster(SlotMap),
}

impl fmt::Display for Topology {
    /// The addresses of the servers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(_) => f.write_str("none"),
            Self::One(server) => server.fmt(f),
            Self::Cluster(slots) => slots.fmt(f),
        }
    }
}

impl Discovery {
    /// Starts discovery in the current runtime, if the settings need any.
    pub(super) fn watch(config: &Arc<ConnectConfig>) -> Self {
        let (known, discovers) = match &config.settings.deployment {
            Deployment::Single(server) => (Topology::One(server.clone()), false),
            Deployment::Sentinel { .. } => {
                (Topology::Unknown("no Sentinel has answered yet".to_owned()), true)
            }
            Deployment::Cluster { .. } => (Topology::Unknown("no node has answered yet".to_owned()), true),
        };
        let (sender, topology) = watch::channel(Arc::new(known));
        let refresh = Arc::new(Notify::new());
        let refresher = discovers.then(|| {
            let publisher = Publisher { topology: sender, in_trouble: false };
            let task = keep_fresh(Arc::clone(config), publisher, Arc::clone(&refresh));
            Arc::new(config.supervisor.spawn_owned("Redis topology refresh", task))
        });
        Self { topology, refresh, _refresher: refresher }
    }

    /// The topology now, and every later one.
    pub(super) fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.clone()
    }

    /// The cause while no topology is known.
    pub(super) fn error(&self) -> Option<String> {
        match &**self.topology.borrow() {
            Topology::Unknown(cause) => Some(cause.clone()),
            Topology::One(_) | Topology::Cluster(_) => None,
        }
    }

    /// Requests a refresh, because a server did not agree with the topology.
    pub(super) fn request_refresh(&self) {
        self.refresh.notify_one();
    }
}

async fn keep_fresh(config: Arc<ConnectConfig>, mut publisher: Publisher, refresh: Arc<Notify>) {
    let mut agreement = Agreement::default();
    loop {
        let asked = Instant::now();
        let known = Arc::clone(&publisher.topology.borrow());
        let interval = match &config.settings.deployment {
            Deployment::Single(_) => return,
            Deployment::Sentinel { primary, sentinels } => {
                publisher
                    .publish(ask_sentinels(&config, primary, sentinels, &known).await.map(Topology::One));
                SENTINEL_INTERVAL
            }
            Deployment::Cluster { nodes } => {
                let found = ask_cluster(&config, nodes, &known).await.map(|views| {
                    agreement.update(&views, Instant::now());
                    Topology::Cluster(agreement.slot_map())
                });
                publisher.publish(found);
                CLUSTER_INTERVAL
            }
        };
        time::sleep_until(asked + MIN_PAUSE).await;
        drop(time::timeout_at(asked + interval, refresh.notified()).await);
    }
}

/// Publishes the topology that was found. Without one, the known topology stays.
struct Publisher {
    topology: watch::Sender<Arc<Topology>>,
    /// True if the last query found no topology.
    in_trouble: bool,
}

impl Publisher {
    fn publish(&mut self, found: Result<Topology, String>) {
        let known = Arc::clone(&self.topology.borrow());
        let is_first = matches!(*known, Topology::Unknown(_));
        let topology = match found {
            Ok(topology) => topology,
            Err(cause) => {
                if !std::mem::replace(&mut self.in_trouble, true) {
                    tracing::warn!(%cause, servers = %known, "Redis topology not confirmed");
                }
                if is_first {
                    self.topology.send_replace(Arc::new(Topology::Unknown(cause)));
                }
                return;
            }
        };
        if std::mem::take(&mut self.in_trouble) {
            tracing::warn!(servers = %topology, "Redis topology confirmed again");
        }
        if *known == topology {
            return;
        }
        let (from, to) = (known.to_string(), topology.to_string());
        if is_first {
            tracing::info!(servers = to, "Redis topology discovered");
        } else if from != to {
            tracing::warn!(from, to, "Redis topology changed");
        }
        self.topology.send_replace(Arc::new(topology));
    }
}

/// The address of the primary that a majority of the configured Sentinels names, once it has confirmed its
/// role. Returns as soon as there is a majority.
async fn ask_sentinels(
    config: &ConnectConfig,
    primary: &str,
    sentinels: &[Endpoint],
    known: &Topology,
) -> Result<Endpoint, String> {
    let majority = sentinels.len() / 2 + 1;
    let ask = |sentinel| ask_sentinel(config, primary, sentinel);
    let mut answers: FuturesUnordered<_> = sentinels.iter().map(ask).collect();
    let (mut named, mut cause) = (Vec::<(Endpoint, usize)>::new(), String::new());
    while let Some(answer) = answers.next().await {
        let server = match answer {
            Ok(server) => server,
            Err(error) => {
                cause = error;
                continue;
            }
        };
        let index = named.iter().position(|(other, _)| *other == server).unwrap_or_else(|| {
            named.push((server, 0));
            named.len() - 1
        });
        let (server, count) = &mut named[index];
        *count += 1;
        if *count >= majority {
            if !matches!(known, Topology::One(known) if known == server) {
                confirm_primary(config, server).await?;
            }
            return Ok(server.clone());
        }
    }
    let total = sentinels.len();
    let named: Vec<_> = named.iter().map(|(server, count)| format!("{count} name {server}")).collect();
    Err(match (named.as_slice(), cause.as_str()) {
        ([], cause) => format!("no Sentinel of {total} has answered: {cause}"),
        (named, "") => format!("{majority} of {total} Sentinels must agree, but {}", named.join(", ")),
        (named, cause) => {
            format!("{majority} of {total} Sentinels must agree, but {}: {cause}", named.join(", "))
        }
    })
}

async fn ask_sentinel(
    config: &ConnectConfig,
    primary: &str,
    sentinel: &Endpoint,
) -> Result<Endpoint, String> {
    let login = &config.settings.credentials.sentinel;
    let command: &[&str] = &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", primary];
    let [reply] = ask_in_time(config, sentinel, login, [command]).await?;
    let reply = reply.map_err(|cause| format!("{sentinel}: {cause}"))?;
    let items = reply.into_items();
    let found = match items.as_slice() {
        [host, port] => host.text().zip(port.number()),
        _ => None,
    };
    let found = found.map(|(host, port)| Endpoint::Tcp { host: host.to_owned(), port });
    found.ok_or_else(|| format!("{sentinel}: this Sentinel does not know the primary {primary}"))
}

/// Checks that `server` reports itself as a primary. `HELLO` needs no permission; servers before Redis 6 do not have
/// it, so `ROLE` is sent too.
///
/// # Errors
/// The server is not a primary, or did not answer.
async fn confirm_primary(config: &ConnectConfig, server: &Endpoint) -> Result<(), String> {
    let login = &config.settings.credentials.server;
    let [hello, role] = ask_in_time(config, server, login, [&["HELLO", "2"], &["ROLE"]]).await?;
    let word = |word: Reply| word.text().map(str::to_owned);
    let words = |reply: Reply| reply.into_items().into_iter().filter_map(word);
    let is_primary = match (hello, role) {
        (Ok(hello), _) => words(hello).skip_while(|word| word != "role").nth(1).as_deref() == Some("master"),
        (Err(_), Ok(role)) => words(role).next().as_deref() == Some("master"),
        (Err(_), Err(cause)) => return Err(format!("{server}: {cause}")),
    };
    match is_primary {
        true => Ok(()),
        false => Err(format!("{server}: the Sentinels name this server, but it is not a primary (yet)")),
    }
}

/// Views of some nodes of a Cluster; at least one.
async fn ask_cluster(
    config: &ConnectConfig,
    nodes: &[Endpoint],
    known: &Topology,
) -> Result<Vec<View>, String> {
    let primaries = match known {
        Topology::Cluster(slots) => slots.primaries(),
        Topology::Unknown(_) | Topology::One(_) => &[],
    };
    let unlisted = nodes.iter().filter(|node| !primaries.contains(node));
    let mut candidates: Vec<&Endpoint> = primaries.iter().chain(unlisted).collect();
    if !primaries.is_empty() {
        fastrand::shuffle(&mut candidates);
        candidates.truncate(MAX_NODES_ASKED);
    }
    let mut answers: FuturesUnordered<_> =
        candidates.into_iter().map(|node| ask_node(config, node)).collect();
    let (mut views, mut cause) = (Vec::new(), "there is no node to ask".to_owned());
    let mut deadline = Instant::now() + ANSWER_TIMEOUT;
    while let Ok(Some(answer)) = time::timeout_at(deadline, answers.next()).await {
        match answer {
            Ok(view) => {
                views.push(view);
                deadline = deadline.min(Instant::now() + OTHERS_TIMEOUT);
            }
            Err(error) => cause = error,
        }
    }
    if views.is_empty() { Err(cause) } else { Ok(views) }
}

async fn ask_node(config: &ConnectConfig, node: &Endpoint) -> Result<View, String> {
    let login = &config.settings.credentials.server;
    // In this order, the epochs are never newer than the slots.
    let commands: [&[&str]; 2] = [&["CLUSTER", "NODES"], &["CLUSTER", "SLOTS"]];
    let [nodes, slots] = ask_in_time(config, node, login, commands).await?;
    let nodes: Option<String> = nodes.ok().and_then(|nodes| nodes.text().map(str::to_owned));
    let slots = slots.map_err(|cause| format!("{node}: {cause}"))?;
    View::read(slots, nodes.as_deref(), node)
        .ok_or_else(|| format!("{node}: this server is not in a Cluster"))
}

async fn ask_in_time<const N: usize>(
    config: &ConnectConfig,
    server: &Endpoint,
    login: &Login,
    commands: [&[&str]; N],
) -> Result<[Result<Reply, String>; N], String> {
    let asked = time::timeout(ANSWER_TIMEOUT, query(config, server, login, commands));
    let answer = asked.await.map_err(|_| "no answer in time".to_owned());
    answer.flatten().map_err(|cause| format!("{server}: {cause}"))
}
