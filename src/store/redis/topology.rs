//! Which servers count, and what for: told once, or asked of Sentinels or of a Cluster again and again.
//!
//! Answers come over connections of their own, so that no server that hangs holds up the question.
//! Sentinels are asked all at once, and what most of them say holds. Of a Cluster, a few nodes are asked,
//! and what the first one says holds: nodes tell each other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::{self, Instant};
use tokio_util::task::AbortOnDropHandle;

use super::client::{Access, ask_once};
use super::slots::{SlotMap, read_slots};
use super::{Deployment, Endpoint, Login};

/// How long one server may take to say what it knows, connecting included.
const PATIENCE: Duration = Duration::from_millis(300);
/// The shortest pause between two questions, however often one is wished for.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// How long Sentinels' and a Cluster's answers are relied on while nobody complains.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(1);
const CLUSTER_INTERVAL: Duration = Duration::from_secs(5);
/// Nodes of a Cluster that are asked at once.
const MAX_ASKED: usize = 3;

/// What is known of a deployment. Clones know the same.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    map: watch::Receiver<Arc<Map>>,
    refresh: Arc<Notify>,
    _asker: Option<Arc<AbortOnDropHandle<()>>>,
}

/// Which server counts what.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// Nobody has said it yet, and why.
    Unknown(String),
    /// One server counts everything.
    One(Endpoint),
    /// The servers of a Cluster, by slot.
    Cluster(SlotMap),
}

impl Topology {
    /// Begins to ask, where there is anything to ask, in the runtime it is called in.
    pub(super) fn watch(access: &Arc<Access>) -> Self {
        let known = match &access.settings.deployment {
            Deployment::Single(server) => Map::One(server.clone()),
            Deployment::Sentinel { .. } => Map::Unknown("no Sentinel has answered yet".to_owned()),
            Deployment::Cluster { .. } => Map::Unknown("no node of the Cluster has answered yet".to_owned()),
        };
        let (sender, map) = watch::channel(Arc::new(known));
        let refresh = Arc::new(Notify::new());
        let asker = match &access.settings.deployment {
            Deployment::Single(_) => None,
            Deployment::Sentinel { .. } | Deployment::Cluster { .. } => {
                let asking = ask_on(Arc::clone(access), sender, Arc::clone(&refresh));
                Some(Arc::new(AbortOnDropHandle::new(tokio::spawn(asking))))
            }
        };
        Self { map, refresh, _asker: asker }
    }

    /// What is known, and what will be.
    pub(super) fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.map.clone()
    }

    /// Something was not where it should be: ask soon.
    pub(super) fn request_refresh(&self) {
        self.refresh.notify_one();
    }
}

async fn ask_on(access: Arc<Access>, map: watch::Sender<Arc<Map>>, refresh: Arc<Notify>) {
    loop {
        let asked = Instant::now();
        let interval = match &access.settings.deployment {
            Deployment::Single(_) => return,
            Deployment::Sentinel { primary, sentinels } => {
                let found = ask_sentinels(&access, primary, sentinels).await;
                learn(&map, found.map(Map::One));
                SENTINEL_INTERVAL
            }
            Deployment::Cluster { nodes } => {
                let known = Arc::clone(&map.borrow());
                let found = ask_cluster(&access, nodes, &known).await;
                learn(&map, found.map(Map::Cluster));
                CLUSTER_INTERVAL
            }
        };
        time::sleep_until(asked + MIN_PAUSE).await;
        drop(time::timeout_at(asked + interval, refresh.notified()).await);
    }
}

/// Takes over what was found. What is known already is better than nothing.
fn learn(map: &watch::Sender<Arc<Map>>, found: Result<Map, String>) {
    map.send_if_modified(|known| {
        let next = match found {
            Ok(found) => found,
            Err(cause) if matches!(&**known, Map::Unknown(_)) => Map::Unknown(cause),
            Err(cause) => {
                tracing::debug!(%cause, "no server says which ones count");
                return false;
            }
        };
        let changed = **known != next;
        if changed {
            match &next {
                Map::Unknown(cause) => tracing::warn!(%cause, "it is not known which servers count"),
                Map::One(server) => tracing::info!(%server, "this server counts now"),
                Map::Cluster(slots) => tracing::info!(primaries = %slots, "these servers count now"),
            }
            *known = Arc::new(next);
        }
        changed
    });
}

/// The address of the primary that most Sentinels name.
async fn ask_sentinels(access: &Access, primary: &str, sentinels: &[Endpoint]) -> Result<Endpoint, String> {
    let ask = |sentinel| ask_sentinel(access, primary, sentinel);
    let (mut named, mut cause) = (Vec::<(Endpoint, usize)>::new(), String::new());
    for answer in join_all(sentinels.iter().map(ask)).await {
        match answer {
            Ok(server) => match named.iter_mut().find(|(other, _)| *other == server) {
                Some((_, votes)) => *votes += 1,
                None => named.push((server, 1)),
            },
            Err(error) => cause = error,
        }
    }
    named.into_iter().max_by_key(|(_, votes)| *votes).map(|(server, _)| server).ok_or(cause)
}

async fn ask_sentinel(access: &Access, primary: &str, sentinel: &Endpoint) -> Result<Endpoint, String> {
    let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", primary];
    let login = &access.settings.credentials.sentinel;
    let reply = ask_in_time(access, sentinel, login, &command).await?;
    let found: Option<(String, String)> = reply.convert().ok();
    let found = found.and_then(|(host, port)| Some(Endpoint::Tcp { host, port: port.parse().ok()? }));
    found.ok_or_else(|| format!("{sentinel}: this Sentinel knows no primary of the name {primary}"))
}

/// What the first of a few nodes says that answers.
async fn ask_cluster(access: &Access, nodes: &[Endpoint], known: &Map) -> Result<SlotMap, String> {
    let mut candidates: Vec<&Endpoint> = match known {
        Map::Cluster(slots) => slots.primaries().iter().chain(nodes).collect(),
        Map::Unknown(_) | Map::One(_) => nodes.iter().collect(),
    };
    fastrand::shuffle(&mut candidates);
    candidates.truncate(MAX_ASKED);
    let ask = |node: &'_ Endpoint| {
        let node = node.clone();
        async move {
            let login = &access.settings.credentials.server;
            let reply = ask_in_time(access, &node, login, &["CLUSTER", "SLOTS"]).await?;
            read_slots(reply, &node).ok_or_else(|| format!("{node}: this server knows no Cluster"))
        }
    };
    let mut answers: FuturesUnordered<_> = candidates.into_iter().map(ask).collect();
    let mut cause = "there is nobody to ask".to_owned();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(slots) => return Ok(slots),
            Err(error) => cause = error,
        }
    }
    Err(cause)
}

async fn ask_in_time(
    access: &Access,
    server: &Endpoint,
    login: &Login,
    command: &[&str],
) -> Result<fred::types::Value, String> {
    let asked = time::timeout(PATIENCE, ask_once(access, server, login, command));
    let answer = asked.await.map_err(|_| "it does not answer".to_owned());
    answer.flatten().map_err(|cause| format!("{server}: {cause}"))
}
