use super::*;

const BOUNDS: Bounds = Bounds {
    max: 100,
    share: 25,
    first_request: Duration::from_secs(10),
    idle: Some(Duration::from_secs(60)),
};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_connection_ends_when_its_first_request_is_late_or_its_last_one_long_ago() {
    let start = Instant::now();
    let connection = Arc::new(Connection::new(None, start));
    let closing_at = |after: Duration| connection.closing_at(start + after, &BOUNDS);
    assert_eq!([closing_at(secs(9)), closing_at(secs(10))], [Closing::No, Closing::Cut]);
    assert_eq!(closing_at(Duration::from_millis(9_700)), Closing::Idle);
    let mut open = connection.open(start + secs(5));
    assert_eq!(closing_at(secs(10)), Closing::Cut, "its body has not arrived");
    open.received();
    assert_eq!(closing_at(secs(10_000)), Closing::No, "it is worked on");
    open.answered(0);
    assert_eq!(
        [closing_at(secs(14)), closing_at(secs(15))],
        [Closing::No, Closing::Cut],
        "nobody reads the answer"
    );
    drop(open);
    assert_eq!([closing_at(secs(64)), closing_at(secs(65))], [Closing::No, Closing::Idle]);
    let for_ever = Bounds { idle: None, ..BOUNDS };
    assert_eq!(connection.closing_at(start + secs(1_000_000), &for_ever), Closing::No);
}

#[test]
fn an_event_stream_lasts_for_as_long_as_its_peer_reads() {
    let start = Instant::now();
    let connection = Arc::new(Connection::new(None, start));
    let mut open = connection.open(start);
    open.received();
    open.answered(0);
    for second in 1..100 {
        open.progressed(start + secs(second));
    }
    let closing_at = |after: Duration| connection.closing_at(start + after, &BOUNDS);
    assert_eq!([closing_at(secs(108)), closing_at(secs(109))], [Closing::No, Closing::Cut]);
}

/// Which connections give way, by their index. Each is an address and, where idle, since which second.
fn displaced(open: &[(u8, Option<u64>)], newcomer: u8, share: usize) -> Vec<usize> {
    let start = Instant::now();
    let address = |last| Some(IpAddr::from([10, 0, 0, last]));
    let open = open.iter().enumerate().map(|(key, (last, since))| {
        let victim = since.map(|since| Victim { key, idle_since: start + secs(since) });
        (address(*last), victim)
    });
    let mut found = victims(open, address(newcomer), share);
    found.reverse();
    found.into_iter().map(|victim| victim.key).collect()
}

#[test]
fn the_connection_that_was_idle_longest_is_closed_first() {
    assert_eq!(displaced(&[(1, Some(3)), (2, None), (3, Some(1)), (4, Some(2))], 5, 2), [2, 3, 0]);
    assert_eq!(displaced(&[(1, None), (2, None)], 3, 2), [0; 0]);
}

#[test]
fn an_address_above_its_share_loses_connections_down_to_it() {
    let crowd = [(1, Some(1)), (2, Some(5)), (2, Some(4)), (2, Some(6)), (2, None)];
    assert_eq!(displaced(&crowd, 3, 2), [2, 1]);
    // The newcomer counts, and those of others only where the crowd has none that are idle.
    assert_eq!(displaced(&[(1, Some(1)), (2, Some(2)), (2, Some(3))], 2, 2), [1]);
    assert_eq!(displaced(&[(1, Some(1)), (2, None), (2, None), (2, None)], 3, 2), [0]);
}

#[test]
fn a_host_is_one_address_however_many_it_has() {
    let network = |text: &str| network(text.parse().unwrap()).to_string();
    assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::7"));
    assert_ne!(network("2001:db8:1:2::7"), network("2001:db8:1:3::7"));
    assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_waits_until_one_is_idle_or_closes() {
    let connections = Connections::new(Bounds { max: 2, ..BOUNDS });
    let slots = [connections.admit(None).await, connections.admit(None).await];
    let busy = slots.each_ref().map(|slot| slot.connection().open(Instant::now()));
    let mut waiting = std::pin::pin!(connections.admit(None));
    assert!(timeout(secs(10), waiting.as_mut()).await.is_err());
    drop((busy, slots));
    assert!(timeout(secs(10), waiting).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_leaves_most_bytes_unread_is_cut() {
    let connections = Connections::new(BOUNDS);
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(connections.admit(None).await);
    }
    let now = Instant::now();
    let answer = |slot: &Slot, bytes| {
        let mut open = slot.connection().open(now);
        open.received();
        open.answered(bytes);
        open
    };
    let closing = || {
        connections.sweep(now);
        slots.iter().map(|slot| slot.connection().closing.load(Ordering::Relaxed)).collect::<Vec<_>>()
    };
    let mib = 1 << 20;
    let _unread = [answer(&slots[0], 20 * mib), answer(&slots[1], 30 * mib), answer(&slots[2], 10 * mib)];
    assert_eq!(closing(), [0, 0, 0]);
    // Many small ones weigh as much as a large one.
    let small: Vec<_> = (0..4_000).map(|_| answer(&slots[2], 100)).collect();
    assert_eq!(closing(), [0, 0, Closing::Cut as u8]);
    drop(small);
    assert_eq!(slots[2].connection().unsent(), 10 * mib + connection::ANSWER_BYTES);
}
