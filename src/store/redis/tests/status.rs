//! Lines in the log about a node: one for each event, in whatever order the cores see it.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::endpoint;
use crate::store::redis::queue::CallQueue;
use crate::store::redis::status::{Link, Nodes};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that three cores log about a node to which all are connected, in the order of their first words.
fn logged(events: impl FnOnce([&Arc<Link>; 3])) -> Vec<&'static str> {
    const LINES: [&str; 4] =
        ["circuit breaker open", "circuit breaker closed", "Redis unreachable", "connected to Redis again"];
    let log = Log::default();
    let writer = log.clone();
    let _logging = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish().set_default();
    // With a second subscriber, tracing does not cache another thread's finding that no subscriber is interested.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let nodes = Nodes::default();
    let links = [(); 3].map(|()| nodes.link(&endpoint(0), &Arc::new(CallQueue::default())));
    links.iter().for_each(|link| link.up());
    events([&links[0], &links[1], &links[2]]);
    let text = String::from_utf8_lossy(&log.0.lock()).into_owned();
    let line = |line: &str| LINES.into_iter().find(|phrase| line.contains(phrase));
    text.lines().filter_map(line).collect()
}

#[test]
fn breakers_of_several_cores_are_one_event() {
    let lines = logged(|links| {
        for _ in 0..2 {
            links.iter().for_each(|link| link.breaker_opened());
            links.iter().for_each(|link| link.breaker_closed());
        }
    });
    let event = ["circuit breaker open", "circuit breaker closed"];
    assert_eq!(lines, [event, event].concat());
}

#[test]
fn a_connection_that_is_replaced_while_the_breaker_of_another_core_opens_is_the_same_event() {
    let cause: Arc<str> = "the server does not answer".into();
    let lines = logged(|[one, two, three]| {
        one.breaker_opened();
        one.down(&cause);
        two.breaker_opened();
        two.down(&cause);
        three.breaker_opened();
        one.down(&cause);
        three.breaker_closed();
        one.up();
        two.up();
    });
    assert_eq!(lines, ["circuit breaker open", "Redis unreachable", "connected to Redis again"]);
}

#[test]
fn the_end_of_a_node_ends_its_event() {
    let nodes = Nodes::default();
    let link = || nodes.link(&endpoint(0), &Arc::new(CallQueue::default()));
    let first = link();
    first.breaker_opened();
    first.rejected("OOM");
    drop(first);
    let again = link();
    let lines = logged(|_| {
        again.up();
        again.breaker_opened();
        again.breaker_closed();
    });
    assert_eq!(lines, ["circuit breaker open", "circuit breaker closed"]);
}
