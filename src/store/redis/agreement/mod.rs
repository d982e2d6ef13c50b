//! Agreement of a Cluster's nodes on the primary of each slot.
//!
//! Nodes learn of changes one after the other, and a node that is cut off does not learn of them at all, so no
//! single answer decides. As among the nodes themselves, the claim with the higher config epoch wins: an
//! epoch is never used twice, and every failover and every move of a slot takes a new one
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Endpoint;
use super::reply::Reply;
use super::slots::{SLOTS, SlotMap, UNASSIGNED, named};

/// Time after which a known primary that no node names is forgotten. Before that, a claim with a lower epoch is
/// regarded as outdated; after it, the Cluster is regarded as a new one, whose epochs started at 0 again.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Cluster as one node sees it.
#[derive(Debug)]
pub(super) struct View {
    /// ID of the node that answered; `None` if the user may not run `CLUSTER NODES`.
    myself: Option<String>,
    primaries: Vec<Primary>,
    /// For each slot the index of its primary in `primaries`, or [`UNASSIGNED`].
    owners: Box<[u16]>,
}

#[derive(Clone, Debug)]
struct Primary {
    id: String,
    endpoint: Endpoint,
    /// Config epoch; 0 if unknown.
    epoch: u64,
}

impl View {
    /// The view of the node at `asked`, from its replies to `CLUSTER SLOTS` and, if it gave one, to
    /// `CLUSTER NODES`. `None` if the first is malformed or has no slots.
    pub(super) fn read(slots: Reply, nodes: Option<&str>, asked: &Endpoint) -> Option<Self> {
        let (myself, epochs) = nodes.map(read_nodes).unwrap_or_default();
        let mut view = Self { myself, primaries: Vec::new(), owners: vec![UNASSIGNED; SLOTS].into() };
        for range in slots.into_items() {
            let mut range = range.into_items().into_iter();
            let (first, last): (usize, usize) = (range.next()?.number()?, range.next()?.number()?);
            let (endpoint, id) = read_primary(range.next()?, asked)?;
            let known = view.primaries.iter().position(|other| other.id == id);
            let owner = known.unwrap_or_else(|| {
                let epoch = epochs.get(&id).copied().unwrap_or(0);
                view.primaries.push(Primary { id, endpoint, epoch });
                view.primaries.len() - 1
            });
            view.owners.get_mut(first..=last)?.fill(u16::try_from(owner).ok()?);
        }
        (!view.primaries.is_empty()).then_some(view)
    }

    fn owner(&self, slot: usize) -> Option<&Primary> {
        self.primaries.get(usize::from(*self.owners.get(slot)?))
    }
}

/// Host, port and node ID. Servers before Redis 4 send no ID; their address replaces it.
fn read_primary(value: Reply, asked: &Endpoint) -> Option<(Endpoint, String)> {
    let mut fields = value.into_items().into_iter();
    let host = match fields.next()? {
        Reply::Nil => String::new(),
        host => host.text()?.to_owned(),
    };
    let port = fields.next()?.number()?;
    let endpoint = named(&host, port, asked);
    let id = fields.next().and_then(|id| id.text().map(str::to_owned));
    let id = id.unwrap_or_else(|| endpoint.to_string());
    Some((endpoint, id))
}

/// Parses `CLUSTER NODES`: the ID of the node that sent it, and the config epoch of each node.
fn read_nodes(text: &str) -> (Option<String>, HashMap<String, u64>) {
    let mut myself = None;
    let mut epochs = HashMap::new();
    for line in text.lines() {
        let fields: SmallVec<[&str; 16]> = line.split(' ').collect();
        let [id, _, flags, _, _, _, epoch, ..] = fields[..] else { continue };
        if flags.split(',').any(|flag| flag == "myself") {
            myself = Some(id.to_owned());
        }
        epochs.insert(id.to_owned(), epoch.parse().unwrap_or(0));
    }
    (myself, epochs)
}

/// The primary of each slot on which the nodes agree.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    primaries: Vec<KnownPrimary>,
    /// For each slot the claim that won; empty before the first answer.
    owners: Vec<Option<Claim>>,
}

#[derive(Debug)]
struct KnownPrimary {
    id: String,
    endpoint: Endpoint,
    /// When a node last named it.
    named_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// Index of the primary.
    primary: usize,
    epoch: u64,
}

/// Claims of several views that one primary owns a slot.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    claim: Claim,
    /// Number of nodes that make it.
    nodes: usize,
    is_known: bool,
}

impl Agreement {
    /// Updates the owner of each slot from the views of one or more nodes.
    ///
    /// The claim with the highest epoch wins. If epochs are equal or unknown, the known owner stays, unless at least
    /// two nodes agree on another owner and no node names the known one. A claim is void if its primary has answered
    /// too and does not claim the slot itself.
    pub(super) fn update(&mut self, views: &[View], now: Instant) {
        if views.is_empty() {
            return;
        }
        self.owners.resize(SLOTS, None);
        let indexes: Vec<Vec<usize>> = views.iter().map(|view| self.index(view, now)).collect();
        self.settle_endpoints(views);
        let own: Vec<Option<&View>> = self.primaries.iter().map(|known| own_view(views, &known.id)).collect();
        let decide = |slot: usize| {
            let mut candidates = SmallVec::<[Candidate; 4]>::new();
            for (view, index) in views.iter().zip(&indexes) {
                let local = usize::from(view.owners.get(slot).copied().unwrap_or(UNASSIGNED));
                if let (Some(primary), Some(named)) = (index.get(local), view.primaries.get(local)) {
                    let claim = Claim { primary: *primary, epoch: named.epoch };
                    add(&mut candidates, Candidate { claim, nodes: 1, is_known: false });
                }
            }
            if let Some(claim) = self.owners.get(slot).copied().flatten()
                && self.primaries.get(claim.primary).is_some_and(|known| !known.is_forgotten(now))
            {
                add(&mut candidates, Candidate { claim, nodes: 0, is_known: true });
            }
            candidates.retain(|candidate| {
                let Some(view) = own.get(candidate.claim.primary).copied().flatten() else { return true };
                // The answer of the primary itself takes precedence: its epoch, or that it does not own the slot.
                let itself = view.owner(slot).filter(|owner| Some(&owner.id) == view.myself.as_ref());
                itself.map(|itself| candidate.claim.epoch = itself.epoch).is_some()
            });
            self.choose(&candidates)
        };
        let owners = (0..SLOTS).map(decide).collect();
        self.owners = owners;
    }

    /// The claim that wins; `None` if there is no claim.
    fn choose(&self, candidates: &[Candidate]) -> Option<Claim> {
        let rank = |candidate: &&Candidate| {
            let Candidate { claim, nodes, is_known } = candidate;
            // Redis resolves equal epochs by ID: the node with the smaller ID takes a new epoch.
            let id = self.primaries.get(claim.primary).map(|known| Reverse(known.id.as_str()));
            (claim.epoch, *is_known, *nodes, id)
        };
        let best = candidates.iter().max_by_key(rank)?;
        let outvoted = |known: &Candidate| {
            known.nodes == 0
                && candidates.iter().any(|one| one.nodes >= 2 && one.claim.epoch >= known.claim.epoch)
        };
        if best.is_known && outvoted(best) {
            let others = candidates.iter().filter(|candidate| !candidate.is_known && candidate.nodes >= 2);
            return others.max_by_key(rank).map(|other| other.claim);
        }
        Some(best.claim)
    }

    /// Index in [`Agreement::primaries`] of each primary of `view`. Records that they were named at `now`.
    fn index(&mut self, view: &View, now: Instant) -> Vec<usize> {
        let index = |named: &Primary| match self.primaries.iter_mut().position(|known| known.id == named.id) {
            Some(index) => {
                self.primaries[index].named_at = now;
                index
            }
            None => {
                let (id, endpoint) = (named.id.clone(), named.endpoint.clone());
                self.primaries.push(KnownPrimary { id, endpoint, named_at: now });
                self.primaries.len() - 1
            }
        };
        view.primaries.iter().map(index).collect()
    }

    /// Updates the address of each primary whose old address no view names any more.
    fn settle_endpoints(&mut self, views: &[View]) {
        for known in &mut self.primaries {
            let named = views.iter().flat_map(|view| &view.primaries).filter(|named| named.id == known.id);
            let mut endpoints = named.map(|named| &named.endpoint).peekable();
            let first = endpoints.peek().copied();
            if let Some(first) = first
                && endpoints.all(|endpoint| *endpoint != known.endpoint)
            {
                known.endpoint = first.clone();
            }
        }
    }

    /// Map for routing. Primaries without slots are left out and forgotten.
    pub(super) fn slot_map(&mut self) -> SlotMap {
        let serves = |index| self.owners.iter().flatten().any(|claim| claim.primary == index);
        let kept: Vec<bool> = (0..self.primaries.len()).map(serves).collect();
        let mut new_index = 0;
        let new_indexes: Vec<usize> = kept
            .iter()
            .map(|kept| {
                new_index += usize::from(*kept);
                new_index - usize::from(*kept)
            })
            .collect();
        let mut kept = kept.into_iter();
        self.primaries.retain(|_| kept.next().unwrap_or(false));
        for claim in self.owners.iter_mut().flatten() {
            claim.primary = new_indexes[claim.primary];
        }
        let owner = |claim: &Option<Claim>| {
            claim.and_then(|claim| u16::try_from(claim.primary).ok()).unwrap_or(UNASSIGNED)
        };
        let endpoints = self.primaries.iter().map(|known| known.endpoint.clone()).collect();
        SlotMap::new(endpoints, self.owners.iter().map(owner).collect())
    }
}

impl KnownPrimary {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.named_at) >= FORGET_AFTER
    }
}

/// The view of the primary `id` itself.
fn own_view<'a>(views: &'a [View], id: &str) -> Option<&'a View> {
    views.iter().find(|view| view.myself.as_deref() == Some(id))
}

fn add(candidates: &mut SmallVec<[Candidate; 4]>, new: Candidate) {
    match candidates.iter_mut().find(|other| other.claim.primary == new.claim.primary) {
        Some(other) => {
            other.claim.epoch = other.claim.epoch.max(new.claim.epoch);
            other.nodes += new.nodes;
            other.is_known |= new.is_known;
        }
        None => candidates.push(new),
    }
}

#[cfg(test)]
mod tests;
