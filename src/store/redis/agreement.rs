//! Agreement of a Cluster's nodes on the primary of each slot.
//!
//! Nodes hear of changes one after the other, and a node that is cut off does not hear of them at all, so no
//! single answer decides. As among the nodes themselves, the claim with the higher config epoch wins: an
//! epoch is never given twice, and every failover and every move of a slot takes a new one
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Endpoint;
use super::reply::Reply;
use super::slots::{SLOTS, SlotMap, UNASSIGNED, named};

/// A known primary that no node has named for this long is forgotten. Until then a claim with a lower epoch
/// is taken for old news; afterwards the Cluster is taken for one that was set up anew, with epochs that
/// began at 0 again.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// One node's account of its Cluster.
#[derive(Debug)]
pub(super) struct View {
    /// Node ID of the node that answered; `None` where it may not be asked for it.
    myself: Option<String>,
    primaries: Vec<Primary>,
    /// For each slot the index of its primary in `primaries`, or [`UNASSIGNED`].
    owners: Box<[u16]>,
}

#[derive(Clone, Debug)]
struct Primary {
    id: String,
    endpoint: Endpoint,
    /// Config epoch; 0 where it is not known.
    epoch: u64,
}

impl View {
    /// The view of the node at `asked`, from its replies to `CLUSTER SLOTS` and, if it gave one, to
    /// `CLUSTER NODES`. `None` where the first is malformed or has no slots.
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

/// Host, port and node ID. Servers before Redis 4 give no ID; their address stands for it.
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

/// From the lines of `CLUSTER NODES`: the ID of the node that wrote them, and each node's config epoch.
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

/// The primary of each slot, as far as the nodes agree.
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

/// The claims of several views to one slot, on behalf of the same primary.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    claim: Claim,
    /// Number of nodes that make it.
    nodes: usize,
    is_known: bool,
}

impl Agreement {
    /// Takes the views of one or more nodes into account.
    ///
    /// The claim with the highest epoch wins each slot. Where epochs are equal or not known, the known
    /// owner stays, unless at least two nodes agree on another one and none names the known. A claim is void
    /// if its primary has answered too and does not claim the slot itself.
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
                // The primary's own word: its epoch, or that it does not serve the slot.
                let itself = view.owner(slot).filter(|owner| Some(&owner.id) == view.myself.as_ref());
                itself.map(|itself| candidate.claim.epoch = itself.epoch).is_some()
            });
            self.choose(&candidates)
        };
        let owners = (0..SLOTS).map(decide).collect();
        self.owners = owners;
    }

    /// The winner, if there is any claim.
    fn choose(&self, candidates: &[Candidate]) -> Option<Claim> {
        let rank = |candidate: &&Candidate| {
            let Candidate { claim, nodes, is_known } = candidate;
            // Nodes with equal epochs settle it by their IDs: the smaller one takes a new epoch.
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

    /// The index in [`Agreement::primaries`] of each of the view's primaries, which are named hereby.
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

    /// A primary that has moved to another address is where the views name it, once none names the old one.
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

    /// The map to route by. Primaries without slots are left out, and forgotten.
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

/// The view that a primary itself has given.
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
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    fn range(first: i64, last: i64, host: Option<&str>, port: i64, id: &str) -> Reply {
        let node = |host: Option<&str>, port: i64, id: &str| {
            let host = host.map_or(Reply::Nil, Reply::from);
            Reply::Array(vec![host, port.into(), id.into(), Reply::Array(Vec::new())])
        };
        Reply::Array(vec![first.into(), last.into(), node(host, port, id), node(Some("replica"), 1, "r")])
    }

    fn read(slots: Vec<Reply>) -> Option<View> {
        View::read(Reply::Array(slots), None, &tcp("asked", 9))
    }

    fn map(views: &[View]) -> SlotMap {
        let mut agreement = Agreement::default();
        agreement.update(views, Instant::now());
        agreement.slot_map()
    }

    /// The view of a node: who owns slot 0, and slot 1 where that is another.
    fn view(myself: &str, owners: &[(&str, u64)]) -> View {
        let ranges: Vec<Reply> = (0_i64..)
            .zip(owners)
            .filter(|(_, (owner, _))| !owner.is_empty())
            .map(|(slot, (owner, _))| range(slot, slot, Some(owner), 1, owner))
            .chain([range(2, 2, Some("other"), 1, "other")])
            .collect();
        let line = |id: &str, epoch: u64, flags: &str| format!("{id} {id}:1@2 {flags} - 0 0 {epoch} up\n");
        let mut nodes: String = owners.iter().map(|(id, epoch)| line(id, *epoch, "master")).collect();
        let own_epoch = owners.iter().find(|(id, _)| *id == myself).map_or(0, |(_, epoch)| *epoch);
        nodes += &line(myself, own_epoch, "myself,master");
        View::read(Reply::Array(ranges), Some(&nodes), &tcp(myself, 1)).expect("a view")
    }

    fn owner_of(agreement: &mut Agreement, slot: u16) -> Option<String> {
        let map = agreement.slot_map();
        map.owner(slot).map(|owner| map.primaries()[owner].to_string().replace(":1", ""))
    }

    #[test]
    fn every_slot_has_the_primary_named_for_it_and_no_other() {
        let view = read(vec![
            range(0, 99, Some("a"), 1, "A"),
            range(100, 100, Some("b"), 2, "B"),
            range(200, 16_383, Some("a"), 1, "A"),
        ]);
        let map = map(&[view.expect("a view")]);
        assert_eq!(map.primaries(), [tcp("a", 1), tcp("b", 2)]);
        for (slot, owner) in
            [(0, Some(0)), (99, Some(0)), (100, Some(1)), (101, None), (200, Some(0)), (16_383, Some(0))]
        {
            assert_eq!(map.owner(slot), owner, "{slot}");
        }
        assert_eq!(map.owner(16_384), None);
    }

    #[test]
    fn a_node_that_does_not_know_its_address_has_the_one_it_was_asked_at() {
        for host in [None, Some(""), Some("?")] {
            let view = read(vec![range(0, 16_383, host, 7, "A")]).expect("a view");
            assert_eq!(map(&[view]).primaries(), [tcp("asked", 7)]);
        }
    }

    #[test]
    fn malformed_replies_are_no_view() {
        for reply in [
            Reply::Nil,
            Reply::from("nonsense"),
            Reply::Array(vec![]),
            Reply::Array(vec![Reply::from(1)]),
            Reply::Array(vec![range(0, 16_384, Some("a"), 1, "A")]),
            Reply::Array(vec![range(0, 1, Some("a"), 70_000, "A")]),
        ] {
            assert!(View::read(reply.clone(), None, &tcp("asked", 9)).is_none(), "{reply:?}");
        }
    }

    #[test]
    fn the_higher_epoch_wins_and_old_news_never_does() {
        let mut agreement = Agreement::default();
        let now = Instant::now();
        for (step, (views, owner)) in [
            (vec![view("x", &[("p", 1)])], "p"),
            // A failover that one node has heard of, then two that have not, then all.
            (vec![view("x", &[("q", 7)]), view("y", &[("p", 1)]), view("z", &[("p", 1)])], "q"),
            (vec![view("y", &[("p", 1)]), view("z", &[("p", 1)])], "q"),
            (vec![view("p", &[("p", 1)])], "q"),
            (vec![view("x", &[("q", 7)]), view("y", &[("q", 7)])], "q"),
        ]
        .into_iter()
        .enumerate()
        {
            agreement.update(&views, now);
            assert_eq!(owner_of(&mut agreement, 0).as_deref(), Some(owner), "step {step}");
        }
    }

    #[test]
    fn where_epochs_are_equal_the_known_owner_stays_until_two_nodes_agree_on_another() {
        let now = Instant::now();
        let known = || {
            let mut agreement = Agreement::default();
            agreement.update(&[view("x", &[("a", 1)])], now);
            agreement
        };
        for (views, owner) in [
            (vec![view("b", &[("b", 1)])], "a"),
            (vec![view("a", &[("a", 1)]), view("b", &[("b", 1)])], "a"),
            (vec![view("a", &[("a", 1)]), view("b", &[("b", 1)]), view("c", &[("b", 1)])], "a"),
            (vec![view("b", &[("b", 1)]), view("c", &[("b", 1)])], "b"),
        ] {
            let mut agreement = known();
            agreement.update(&views, now);
            assert_eq!(owner_of(&mut agreement, 0).as_deref(), Some(owner), "{views:?}");
        }
    }

    #[test]
    fn every_replica_settles_an_equal_first_choice_alike() {
        for views in [
            [view("a", &[("a", 1)]), view("b", &[("b", 1)])],
            [view("b", &[("b", 1)]), view("a", &[("a", 1)])],
        ] {
            let mut agreement = Agreement::default();
            agreement.update(&views, Instant::now());
            assert_eq!(owner_of(&mut agreement, 0).as_deref(), Some("a"));
        }
    }

    #[test]
    fn a_primary_that_gave_a_slot_away_does_not_own_it_whatever_others_say() {
        let mut agreement = Agreement::default();
        let now = Instant::now();
        agreement.update(&[view("p", &[("p", 5), ("p", 5)])], now);
        agreement.update(&[view("p", &[("p", 5), ("", 0)]), view("x", &[("p", 5), ("p", 5)])], now);
        assert_eq!(owner_of(&mut agreement, 0).as_deref(), Some("p"));
        assert_eq!(owner_of(&mut agreement, 1), None);
        // It names another, whose epoch is lower.
        agreement.update(&[view("p", &[("p", 5), ("t", 2)])], now);
        assert_eq!(owner_of(&mut agreement, 1).as_deref(), Some("t"));
    }

    #[test]
    fn a_cluster_that_was_set_up_anew_is_taken_over_once_the_old_one_is_forgotten() {
        let mut agreement = Agreement::default();
        let start = Instant::now();
        agreement.update(&[view("p", &[("p", 50)])], start);
        let anew = || [view("n", &[("n", 1)])];
        agreement.update(&anew(), start + FORGET_AFTER - Duration::from_secs(1));
        assert_eq!(owner_of(&mut agreement, 0).as_deref(), Some("p"));
        agreement.update(&anew(), start + FORGET_AFTER);
        assert_eq!(owner_of(&mut agreement, 0).as_deref(), Some("n"));
    }

    #[test]
    fn a_primary_at_a_new_address_is_found_there() {
        let at = |host: &str| read(vec![range(0, 0, Some(host), 1, "P")]).expect("a view");
        let mut agreement = Agreement::default();
        let now = Instant::now();
        agreement.update(&[at("old")], now);
        agreement.update(&[at("new"), at("old")], now);
        assert_eq!(agreement.slot_map().primaries(), [tcp("old", 1)]);
        agreement.update(&[at("new")], now);
        assert_eq!(agreement.slot_map().primaries(), [tcp("new", 1)]);
    }
}
