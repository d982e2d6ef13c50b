//! The slots of a Redis Cluster, and who serves them.
//!
//! A key lies in one of 16,384 slots, by its CRC16 or that of its hash tag
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use std::fmt;

use fred::types::Value;

use super::Endpoint;

/// How many slots a Cluster has.
pub(super) const SLOTS: usize = 16_384;
/// No primary serves the slot.
const UNASSIGNED: u16 = u16::MAX;

/// Which primary serves which slot.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SlotMap {
    primaries: Vec<Endpoint>,
    /// For each slot the place of its primary in `primaries`.
    owners: Box<[u16]>,
}

impl SlotMap {
    /// Every primary, once.
    pub(super) fn primaries(&self) -> &[Endpoint] {
        &self.primaries
    }

    /// The place of a slot's primary in [`SlotMap::primaries`].
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).copied().filter(|owner| *owner != UNASSIGNED).map(usize::from)
    }
}

impl fmt::Debug for SlotMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotMap").field("primaries", &self.primaries).finish_non_exhaustive()
    }
}

impl fmt::Display for SlotMap {
    /// The primaries, divided by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primaries: Vec<_> = self.primaries.iter().map(Endpoint::to_string).collect();
        f.write_str(&primaries.join(","))
    }
}

/// Reads the reply to `CLUSTER SLOTS` of `node`: for each range its first and last slot, then its
/// primary and that one's replicas. `None` where it makes no sense.
pub(super) fn read_slots(reply: Value, node: &Endpoint) -> Option<SlotMap> {
    let mut slots = SlotMap { primaries: Vec::new(), owners: vec![UNASSIGNED; SLOTS].into() };
    for range in reply.into_array() {
        let mut range = range.into_array().into_iter();
        let (first, last) = (number(range.next()?)?, number(range.next()?)?);
        let primary = read_primary(range.next()?, node)?;
        let known = slots.primaries.iter().position(|other| *other == primary);
        let owner = known.unwrap_or_else(|| {
            slots.primaries.push(primary);
            slots.primaries.len() - 1
        });
        slots.owners.get_mut(first..=last)?.fill(u16::try_from(owner).ok()?);
    }
    (!slots.primaries.is_empty()).then_some(slots)
}

/// Host, port, and more that does not matter here. A node that does not know its own address is the one
/// that was asked.
fn read_primary(value: Value, node: &Endpoint) -> Option<Endpoint> {
    let mut fields = value.into_array().into_iter();
    let host: Option<String> = fields.next()?.convert().ok()?;
    let port = number(fields.next()?)?;
    Some(named(host.as_deref().unwrap_or_default(), port, node))
}

/// fred's own conversion to a smaller type lets the number wrap.
fn number<T: TryFrom<i64>>(value: Value) -> Option<T> {
    T::try_from(value.convert().ok()?).ok()
}

/// The server of this host and port; an empty host is that of `node`.
fn named(host: &str, port: u16, node: &Endpoint) -> Endpoint {
    match (host, node) {
        ("" | "?", Endpoint::Tcp { host, .. }) => Endpoint::Tcp { host: host.clone(), port },
        (host, _) => Endpoint::Tcp { host: host.to_owned(), port },
    }
}

/// Where Redis says that something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirection {
    /// Another server serves the slot.
    Moved(Endpoint),
    /// The slot is on its way to another server, and this counter is there already, or would be made
    /// there.
    Ask(Endpoint),
    /// The slot is on its way, and these counters are not all on one side.
    TryAgain,
}

impl Redirection {
    /// What an error reply of `node` says: `MOVED 3999 127.0.0.1:6381`, `ASK …`, `TRYAGAIN …`.
    pub(super) fn read(error: &str, node: &Endpoint) -> Option<Self> {
        let mut words = error.split(' ');
        let kind = words.next()?;
        if kind == "TRYAGAIN" {
            return Some(Self::TryAgain);
        }
        let (host, port) = words.nth(1)?.rsplit_once(':')?;
        let server = named(host, port.parse().ok()?, node);
        match kind {
            "MOVED" => Some(Self::Moved(server)),
            "ASK" => Some(Self::Ask(server)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    fn range(first: i64, last: i64, host: Option<&str>, port: i64) -> Value {
        let node = |host: Option<&str>, port: i64| {
            let host = host.map_or(Value::Null, Value::from);
            Value::Array(vec![host, port.into(), "id".into(), Value::Array(Vec::new())])
        };
        Value::Array(vec![first.into(), last.into(), node(host, port), node(Some("replica"), 1)])
    }

    #[test]
    fn every_slot_has_the_primary_that_the_cluster_names_and_no_other() {
        let reply = Value::Array(vec![
            range(0, 99, Some("a"), 1),
            range(100, 100, Some("b"), 2),
            range(200, 16_383, Some("a"), 1),
        ]);
        let slots = read_slots(reply, &tcp("asked", 9)).expect("slots");
        assert_eq!(slots.primaries(), [tcp("a", 1), tcp("b", 2)]);
        for (slot, owner) in
            [(0, Some(0)), (99, Some(0)), (100, Some(1)), (101, None), (200, Some(0)), (16_383, Some(0))]
        {
            assert_eq!(slots.owner(slot), owner, "{slot}");
        }
        assert_eq!(slots.owner(16_384), None);
    }

    #[test]
    fn a_node_that_does_not_know_its_address_is_the_one_that_was_asked() {
        for host in [None, Some(""), Some("?")] {
            let reply = Value::Array(vec![range(0, 16_383, host, 7)]);
            assert_eq!(read_slots(reply, &tcp("asked", 9)).expect("slots").primaries(), [tcp("asked", 7)]);
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_map() {
        for reply in [
            Value::Null,
            Value::from("nonsense"),
            Value::Array(vec![]),
            Value::Array(vec![Value::from(1)]),
            Value::Array(vec![range(0, 16_384, Some("a"), 1)]),
            Value::Array(vec![range(0, 1, Some("a"), 70_000)]),
        ] {
            assert_eq!(read_slots(reply.clone(), &tcp("asked", 9)), None, "{reply:?}");
        }
    }

    #[test]
    fn redirections_are_read_and_other_errors_are_not() {
        for (error, expected) in [
            ("MOVED 3999 127.0.0.1:6381", Some(Redirection::Moved(tcp("127.0.0.1", 6381)))),
            ("MOVED 3999 :6381", Some(Redirection::Moved(tcp("asked", 6381)))),
            ("MOVED 3999 ::1:6381", Some(Redirection::Moved(tcp("::1", 6381)))),
            ("ASK 1 redis-2.example:1", Some(Redirection::Ask(tcp("redis-2.example", 1)))),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(Redirection::TryAgain)),
            ("MOVED", None),
            ("MOVED 3999", None),
            ("MOVED 3999 host", None),
            ("ERR 3999 host:1", None),
            ("CLUSTERDOWN Hash slot not served", None),
            ("", None),
        ] {
            assert_eq!(Redirection::read(error, &tcp("asked", 9)), expected, "{error}");
        }
    }
}
