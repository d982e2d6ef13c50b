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
fn with_equal_epochs_the_known_owner_stays_until_two_nodes_agree() {
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
    for views in
        [[view("a", &[("a", 1)]), view("b", &[("b", 1)])], [view("b", &[("b", 1)]), view("a", &[("a", 1)])]]
    {
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
