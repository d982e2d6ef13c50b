//! The slots of a Redis Cluster, and who serves them.
//!
//! A key lies in one of 16,384 slots, by its CRC16 or that of its hash tag
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

use std::fmt;

use super::Endpoint;

/// Slots of a Redis Cluster.
pub(super) const SLOTS: usize = 16_384;
/// No primary serves the slot.
pub(super) const UNASSIGNED: u16 = u16::MAX;

/// Which primary serves which slot.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SlotMap {
    primaries: Vec<Endpoint>,
    /// For each slot the place of its primary in `primaries`.
    owners: Box<[u16]>,
}

impl SlotMap {
    /// `owners` holds for each slot the index of its primary, or [`UNASSIGNED`].
    pub(super) fn new(primaries: Vec<Endpoint>, owners: Box<[u16]>) -> Self {
        Self { primaries, owners }
    }

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

/// The server of this host and port; an empty host is that of `node`.
pub(super) fn named(host: &str, port: u16, node: &Endpoint) -> Endpoint {
    match (host, node) {
        ("" | "?", Endpoint::Tcp { host, .. }) => Endpoint::Tcp { host: host.clone(), port },
        (host, _) => Endpoint::Tcp { host: host.to_owned(), port },
    }
}

/// Where, or when, to send a call again that an error reply refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirection {
    /// Another server serves the slot.
    Moved(Endpoint),
    /// The slot is on its way to another server, and this counter is there already, or would be made
    /// there.
    Ask(Endpoint),
    /// The slot is on its way, and these counters are not all on one side.
    TryAgain,
    /// The server has forgotten the script.
    Repeat,
}

impl Redirection {
    /// Redirection in an error reply of `node`: `MOVED 3999 127.0.0.1:6381`, `ASK …`, `TRYAGAIN …`, `NOSCRIPT …`.
    pub(super) fn read(error: &str, node: &Endpoint) -> Option<Self> {
        let mut words = error.split(' ');
        let kind = words.next()?;
        match kind {
            "TRYAGAIN" => return Some(Self::TryAgain),
            "NOSCRIPT" => return Some(Self::Repeat),
            _ => {}
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

    #[test]
    fn redirections_are_read_and_other_errors_are_not() {
        for (error, expected) in [
            ("MOVED 3999 127.0.0.1:6381", Some(Redirection::Moved(tcp("127.0.0.1", 6381)))),
            ("MOVED 3999 :6381", Some(Redirection::Moved(tcp("asked", 6381)))),
            ("MOVED 3999 ::1:6381", Some(Redirection::Moved(tcp("::1", 6381)))),
            ("ASK 1 redis-2.example:1", Some(Redirection::Ask(tcp("redis-2.example", 1)))),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(Redirection::TryAgain)),
            ("NOSCRIPT No matching script.", Some(Redirection::Repeat)),
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
