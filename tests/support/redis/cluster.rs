//! A Redis Cluster: primaries that share the slots, and their replicas.

use std::net::TcpListener;
use std::ops::RangeInclusive;

use tollgate::store::redis::{Credentials, Deployment, RedisSettings};

use super::server::{HOST, Program, Server, Setup};
use super::settings;
use crate::support::eventually;

pub(crate) const SLOTS: u16 = 16384;
/// Difference between a node's port and that of its cluster bus.
const BUS_ABOVE: u16 = 10_000;
/// Fast to find that a node is gone, and a replica takes over however stale it is.
const CONFIG: &str = "cluster-enabled yes\ncluster-node-timeout 1000\ncluster-require-full-coverage no\n\
    cluster-replica-validity-factor 0\nrepl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n";

/// The servers, by number: first those that begin as primaries, then the replicas of
/// the first of these, then those of the second. Dropping this value ends them.
///
/// Who takes the place of a primary is decided by the others: that takes three.
pub(crate) struct Cluster {
    nodes: Vec<Server>,
}

/// A primary, by its own account.
#[derive(Clone, Debug)]
pub(crate) struct Primary {
    pub(crate) node: usize,
    pub(crate) port: u16,
    pub(crate) slots: Vec<RangeInclusive<u16>>,
    /// Of two that claim a slot it is the later one's.
    epoch: u64,
}

impl Cluster {
    /// A Cluster in which all know all and replicas follow.
    pub(crate) async fn start(primaries: usize, replicas_each: usize) -> Self {
        let setup = Setup::new(Program::Redis).with(CONFIG);
        let mut cluster = Self { nodes: Vec::new() };
        for node in 0..primaries * (1 + replicas_each) {
            let server = Server::start(free_cluster_port, &setup).await;
            server.run_ok(["CLUSTER", "SET-CONFIG-EPOCH", &(node + 1).to_string()]);
            cluster.nodes.push(server);
        }
        cluster.share_slots(primaries);
        cluster.introduce();
        eventually("all know all", async || {
            cluster.agree(&format!("cluster_known_nodes:{}", cluster.nodes.len()))
        })
        .await;
        for replica in primaries..cluster.nodes.len() {
            let id = cluster.id((replica - primaries) / replicas_each);
            cluster.nodes[replica].run_ok(["CLUSTER", "REPLICATE", &id]);
        }
        cluster.settled().await;
        cluster
    }

    fn share_slots(&self, primaries: usize) {
        let slots = usize::from(SLOTS);
        for (at, node) in self.nodes[..primaries].iter().enumerate() {
            let (first, end) = (at * slots / primaries, (at + 1) * slots / primaries);
            node.run_ok(["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]);
        }
    }

    /// Each to each: sooner than one hears of another through a third.
    fn introduce(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            for other in &self.nodes[..at] {
                node.run_ok(["CLUSTER", "MEET", HOST, &other.port().to_string()]);
            }
        }
    }

    /// Waits until the nodes that run agree on who is who, every slot has its primary, and all replicas
    /// follow theirs.
    pub(crate) async fn settled(&self) {
        eventually("the Cluster is whole", async || {
            let follows = |node: &Server| {
                let replication = node.command(["INFO", "replication"]);
                replication.contains("role:master") || replication.contains("master_link_status:up")
            };
            self.running().all(|(_, node)| follows(node))
                && self.agree("cluster_state:ok")
                && self.agree(&format!("cluster_slots_ok:{SLOTS}"))
                && self.all_agree_on_primaries()
        })
        .await;
        for primary in self.primaries() {
            self.replicated(primary.node).await;
        }
    }

    /// Settings to connect to it, with the names of all its nodes.
    pub(crate) fn settings(&self) -> RedisSettings {
        let nodes = self.nodes.iter().map(|node| node.endpoint().clone()).collect();
        settings(Deployment::Cluster { nodes }, Credentials::default())
    }

    pub(crate) fn port(&self, node: usize) -> u16 {
        self.nodes[node].port()
    }

    /// Those that say of themselves that they are primaries, and run.
    pub(crate) fn primaries(&self) -> Vec<Primary> {
        self.running().filter_map(|(at, node)| as_primary(at, node)).collect()
    }

    /// Those that say of themselves that they follow `primary`, and run.
    pub(crate) fn replicas_of(&self, primary: usize) -> Vec<usize> {
        let port = format!("master_port:{}\r", self.port(primary));
        let follows = |node: &Server| node.command(["INFO", "replication"]).contains(&port);
        self.running().filter(|(_, node)| follows(node)).map(|(at, _)| at).collect()
    }

    /// Waits until all replicas of a primary have all that it has.
    pub(crate) async fn replicated(&self, primary: usize) {
        let replicas = self.replicas_of(primary).len();
        eventually("the replicas have it", async || self.nodes[primary].has_reached(replicas)).await;
    }

    /// The primary of a key's slot.
    pub(crate) fn node_of(&self, key: &[u8]) -> usize {
        self.primary_of(slot(key)).expect("a primary that runs")
    }

    /// The primary of a slot, if it runs.
    pub(crate) fn primary_of(&self, slot: u16) -> Option<usize> {
        let claims = self.primaries().into_iter();
        let claims = claims.filter(|primary| primary.slots.iter().any(|slots| slots.contains(&slot)));
        claims.max_by_key(|primary| primary.epoch).map(|primary| primary.node)
    }

    /// True if a node knows a primary of a slot.
    pub(crate) fn knows_primary_of(&self, node: usize, slot: u16) -> bool {
        let nodes = self.command_on(node, ["CLUSTER", "NODES"]);
        let primaries = nodes.lines().filter_map(working_primary);
        primaries.flat_map(|(_, slots)| slots).any(|slots| range(&slots).contains(&slot))
    }

    /// Waits until a node that runs has taken over the slot of one that was killed or paused, and every
    /// other that runs knows.
    pub(crate) async fn wait_for_new_primary_of(&self, slot: u16) -> usize {
        eventually("a replica takes over", async || {
            self.primary_of(slot).is_some() && self.agree("cluster_state:ok") && self.all_agree_on_primaries()
        })
        .await;
        self.primary_of(slot).expect("it has taken over")
    }

    /// Ends a node at once, as a crash does.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a node again where it was, with what it knew of the others. What it counted is lost.
    pub(crate) async fn restart(&mut self, node: usize) {
        self.nodes[node].restart().await;
    }

    /// Lets a node hang: connections stay, answers do not come.
    pub(crate) fn pause(&self, node: usize) {
        self.nodes[node].pause();
    }

    /// Lets it go on.
    pub(crate) fn resume(&self, node: usize) {
        self.nodes[node].resume();
    }

    /// Runs one command on a node in `redis-cli` and returns what that prints.
    pub(crate) fn command_on<A: AsRef<[u8]>>(
        &self,
        node: usize,
        arguments: impl IntoIterator<Item = A>,
    ) -> String {
        self.nodes[node].command(arguments)
    }

    /// Value of a key, wherever it is, also while it moves to another node; `None` if there is none.
    pub(crate) fn counter(&self, key: &[u8]) -> Option<i64> {
        let value = self.nodes[self.node_of(key)].command_in_cluster([b"GET", key]);
        (!value.is_empty()).then(|| value.parse().unwrap_or_else(|_| panic!("no number: {value}")))
    }

    /// Number of keys on all primaries.
    pub(crate) fn len(&self) -> usize {
        let len = |node: usize| self.nodes[node].command(["DBSIZE"]).parse::<usize>().expect("a number");
        self.primaries().iter().map(|primary| len(primary.node)).sum()
    }

    /// The first step of a slot's way from one primary to another: `from` answers for the keys that it
    /// has, and redirects requests for others to `to`.
    pub(crate) fn begin_migration(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.nodes[to].run_ok(["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].run_ok(["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// The second: every key goes.
    pub(crate) fn migrate_keys(&self, slot: u16, from: usize, to: usize) {
        loop {
            let keys = self.nodes[from].command(["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]);
            if keys.is_empty() {
                return;
            }
            let port = self.port(to).to_string();
            let migrate = ["MIGRATE", HOST, &port, "", "0", "5000", "KEYS"];
            self.nodes[from].run_ok(migrate.into_iter().chain(keys.lines()));
        }
    }

    /// The third: `to` has the slot, and everybody knows.
    pub(crate) async fn end_migration(&self, slot: u16, from: usize, to: usize) {
        let id = self.id(to);
        // The other way round, the slot would be nobody's for a while.
        for node in [to, from] {
            self.nodes[node].run_ok(["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
        eventually("all know who has the slot", async || self.all_agree_on_primaries()).await;
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].command(["CLUSTER", "MYID"])
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_running())
    }

    /// True if all that run have this line in their `CLUSTER INFO`.
    fn agree(&self, line: &str) -> bool {
        let line = format!("{line}\r");
        self.running().all(|(_, node)| node.command(["CLUSTER", "INFO"]).contains(&line))
    }

    /// True if all that run know the same primaries with the same slots.
    fn all_agree_on_primaries(&self) -> bool {
        let mut views = self.running().map(|(_, node)| {
            let nodes = node.command(["CLUSTER", "NODES"]);
            let mut view: Vec<_> = nodes.lines().filter_map(working_primary).collect();
            view.sort();
            view
        });
        let Some(first) = views.next() else { return false };
        views.all(|view| view == first)
    }
}

/// The port and the slots of a primary that is not known to have failed, in a line of `CLUSTER NODES`.
fn working_primary(line: &str) -> Option<(u16, Vec<RangeText>)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let flags: Vec<_> = fields[2].split(',').collect();
    let works = flags.contains(&"master") && !flags.contains(&"fail");
    let port = fields[1].split_once(':')?.1.split_once('@')?.0;
    let slots = fields[8..].iter().filter(|slots| !slots.starts_with('['));
    works.then(|| (port.parse().expect("a port"), slots.map(|slots| (*slots).to_owned()).collect()))
}

/// `first-last`, or the one there is.
type RangeText = String;

fn range(text: &str) -> RangeInclusive<u16> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    first.parse().expect("a slot")..=last.parse().expect("a slot")
}

fn as_primary(node: usize, server: &Server) -> Option<Primary> {
    let nodes = server.command(["CLUSTER", "NODES"]);
    let itself = nodes.lines().find(|line| line.contains("myself"))?;
    let epoch = itself.split_whitespace().nth(6)?.parse().expect("an epoch");
    let (port, slots) = working_primary(itself)?;
    Some(Primary { node, port, slots: slots.iter().map(|slots| range(slots)).collect(), epoch })
}

/// The slot of a key: of what stands between its first braces, if anything does.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let inside = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').map(|close| &rest[..close])
    });
    let hashed = inside.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// A port that is free, as is the one above it that nodes speak to each other on.
fn free_cluster_port() -> u16 {
    loop {
        let listener = TcpListener::bind((HOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if port < 55_000 && TcpListener::bind((HOST, port + BUS_ABOVE)).is_ok() {
            return port;
        }
    }
}
