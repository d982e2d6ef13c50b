use super::*;

fn actor(name: &str) -> Actor {
    Actor { name: name.to_owned(), role: Role::Operate, csrf: None }
}

#[test]
fn rejected_writes_are_bounded_and_push_out_no_others() {
    let audit = Audit::new("a");
    let at = Timestamp::from_secs;
    let ann = actor("token ann");
    let entry = Entry {
        actor: &ann,
        action: "keys:reset",
        target: "shop user=42",
        reason: "a test",
        dry_run: false,
        result: "done",
        origin: &Origin::default(),
    };
    audit.record(entry, at(1_000));
    for secs in 1_000..1_100 {
        for _ in 0..100 {
            audit.reject(None, ("PUT /api/v1/overrides", &Origin::default()), "401: no token", at(secs));
        }
    }
    audit.record(entry, at(1_050));
    let newest = audit.newest(usize::MAX);
    assert_eq!(newest.len(), 2 + MAX_REJECTED);
    assert!(newest.is_sorted_by_key(|entry| Reverse(entry.seq)));
    let handled = newest.iter().filter(|entry| entry.actor == "token ann").count();
    let latest = &newest[0];
    assert_eq!((handled, &*latest.actor, latest.role, latest.at), (2, "token ann", "operate", 1_050));
    assert_eq!(audit.newest(1).len(), 1);
}

#[test]
fn strangers_cannot_crowd_out_rejected_writes_of_known_actors() {
    let audit = Audit::new("a");
    let (bob, loopback) = (actor("token bob"), actor("loopback"));
    for secs in 1_000..1_100 {
        let at = Timestamp::from_secs(secs);
        for _ in 0..100 {
            audit.reject(None, ("PUT /api/v1/overrides", &Origin::default()), "401: no token", at);
            audit.reject(
                Some((&loopback, false)),
                ("PUT /api/v1/overrides", &Origin::default()),
                "403: no role",
                at,
            );
        }
        if secs % 10 == 0 {
            (0..13).for_each(|_| {
                audit.reject(Some((&bob, true)), ("PUT /api/v1/overrides", &Origin::default()), "403: no", at)
            });
        }
    }
    let newest = audit.newest(usize::MAX);
    let of_bob = newest.iter().filter(|entry| entry.actor == "token bob").count();
    assert_eq!((of_bob, newest.len()), (10 * 10, 10 * 10 + MAX_REJECTED));
    let Suppressed { known, unknown } = audit.suppressed();
    // Ten of 13 in each of 10 seconds, and ten of 200 in each of 100, were recorded.
    assert_eq!((known, unknown), (10 * 3, 100 * 190));
    let mut snapshot = Snapshot::default();
    audit.add_to(&mut snapshot);
    let counts = snapshot.integers(&AUDIT_SUPPRESSED);
    assert_eq!(counts, [(&["known".to_owned()][..], 30), (&["unknown".to_owned()], 19_000)]);
    let rejected = snapshot.integers(&ADMIN_ACTIONS);
    let labels = ["rejected".to_owned(), "rejected".to_owned()];
    assert_eq!(rejected, [(&labels[..], 20_130)], "those that are not recorded too");
}

#[test]
fn actions_of_one_moment_are_listed_in_their_order_on_every_replica() {
    let (ann, replicas, origin) = (actor("token ann"), ["a", "b"].map(Audit::new), Origin::default());
    let write = |target| Entry {
        actor: &ann,
        action: "keys:reset",
        target,
        reason: "a test",
        dry_run: false,
        result: "done",
        origin: &origin,
    };
    for audit in &replicas {
        let at = Timestamp::from_micros(1_000_000_500);
        audit.reject(None, ("1", &origin), "401: no token", at);
        audit.record(write("2"), at);
        audit.reject(Some((&ann, true)), ("3", &origin), "403: no", at);
        audit.record(write("4"), at);
        audit.reject(None, ("5", &origin), "401: no token", at);
        // The clock is set back.
        audit.record(write("6"), Timestamp::from_secs(900));
    }
    let listed = replicas.each_ref().map(|audit| audit.newest(usize::MAX));
    for (list, replica) in listed.iter().zip(["a", "b"]) {
        let targets: Vec<_> = list.iter().map(|entry| &*entry.target).collect();
        assert_eq!(targets, ["6", "5", "4", "3", "2", "1"]);
        let seqs: Vec<_> = list.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, [6, 5, 4, 3, 2, 1]);
        assert!(list.iter().all(|entry| entry.replica == replica));
        assert_eq!((list[0].at_ms, list[1].at_ms, list[1].at), (900_000, 1_000_000, 1_000));
    }
    assert_eq!(replicas[0].newest(2).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [6, 5]);
}
