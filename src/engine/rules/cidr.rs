//! Networks, such as `10.0.0.0/8` and `fd00::/8`, and lookup of the longest one that contains a value.
//!
//! IPv4 addresses in IPv6 notation (`::ffff:10.0.0.1`) are treated as IPv4.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

/// Map with networks as keys, and lookup of the longest one that contains a value.
#[derive(Debug, Default)]
pub(super) struct NetworkMap(JointPrefixMap<IpNet, u32>);

impl NetworkMap {
    /// Value of the longest network that contains `value`. `None` also if `value` is neither an address nor a
    /// network.
    pub(super) fn find(&self, value: &[u8]) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get_lpm(&of_value(value)?).map(|(_, found)| *found)
    }

    /// Value of exactly this network.
    pub(super) fn exact(&self, network: &IpNet) -> Option<u32> {
        self.0.get(network).copied()
    }

    /// Adds `network`, which must be new.
    pub(super) fn insert(&mut self, network: IpNet, to: u32) {
        let before = self.0.insert(network, to);
        debug_assert!(before.is_none(), "callers check with `exact`");
    }
}

/// Parses a network in a rule; a single address is a network of one.
///
/// # Errors
/// A text with the problem and the remedy.
pub(super) fn parse(text: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "is not a network: write one such as 10.0.0.0/8 or fd00::/8";
    let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address: IpAddr = address.parse().map_err(|_| format!("'{text}' {EXPECTED}"))?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Some(max), parse_len).filter(|len| *len <= max);
    let len = len.ok_or_else(|| {
        format!("'{text}' is not a network: the number after the slash must be 0 to {max} for this kind of address")
    })?;
    let network = IpNet::new_assert(address, len);
    let truncated = network.trunc();
    if truncated == network {
        Ok(canonical(network))
    } else {
        Err(format!("{text} has host bits: write {truncated}"))
    }
}

/// True if `value` is an address or a network in `network`.
pub(super) fn matches(network: &IpNet, value: &[u8]) -> bool {
    of_value(value).is_some_and(|value| network.contains(&value))
}

/// True if `value` is an address or a network.
pub(super) fn is_address(value: &[u8]) -> bool {
    of_value(value).is_some()
}

/// Parses the value of a request: an address, or a network as produced by `ip_prefix`.
fn of_value(value: &[u8]) -> Option<IpNet> {
    let text = std::str::from_utf8(value).ok()?;
    let Some((address, len)) = text.split_once('/') else {
        return Some(IpNet::from(text.parse::<IpAddr>().ok()?.to_canonical()));
    };
    let network = IpNet::new(address.parse().ok()?, parse_len(len)?).ok()?;
    (network.trunc() == network).then(|| canonical(network))
}

/// Parses a prefix length: digits only, no sign, no leading zero.
fn parse_len(text: &str) -> Option<u8> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_plain)
}

fn canonical(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len()) {
        (address @ IpAddr::V4(_), len @ 96..) if network.addr().is_ipv6() => {
            IpNet::new_assert(address, len - 96)
        }
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed_and_errors_show_a_remedy() {
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("10.0.0.1", Ok("10.0.0.1/32")),
            ("FD00::/8", Ok("fd00::/8")),
            ("2001:db8:0:0::/64", Ok("2001:db8::/64")),
            ("::1", Ok("::1/128")),
            ("::ffff:10.0.0.0/104", Ok("10.0.0.0/8")),
            ("::ffff:10.0.0.1", Ok("10.0.0.1/32")),
            ("::/0", Ok("::/0")),
            ("10.0.0.1/8", Err("10.0.0.1/8 has host bits: write 10.0.0.0/8")),
            ("fd00::1/8", Err("fd00::1/8 has host bits: write fd00::/8")),
            (
                "10.0.0.0/33",
                Err("'10.0.0.0/33' is not a network: the number after the slash must be 0 to 32"),
            ),
            ("::/129", Err("'::/129' is not a network: the number after the slash must be 0 to 128")),
            ("10.0.0.0/", Err("'10.0.0.0/' is not a network: the number")),
            ("10.0.0.0/08", Err("'10.0.0.0/08' is not a network: the number")),
            ("10.0.0.0/+8", Err("'10.0.0.0/+8' is not a network: the number")),
            ("10.0.0/8", Err("'10.0.0/8' is not a network: write one such as 10.0.0.0/8")),
            ("localhost", Err("'localhost' is not a network: write")),
            ("", Err("'' is not a network: write")),
        ] {
            match (parse(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{text}: {found}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn the_longest_network_that_contains_a_value_is_found() {
        let mut map = NetworkMap::default();
        for (network, to) in
            [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3), ("fd00::/8", 4), ("fd00:1::/32", 5)]
        {
            map.insert(parse(network).expect("a network"), to);
        }
        for (value, expected) in [
            ("10.9.9.9", Some(1)),
            ("10.1.9.9", Some(2)),
            ("10.1.2.3", Some(3)),
            ("::ffff:10.1.2.3", Some(3)),
            ("::ffff:a01:203", Some(3)),
            ("fd12::1", Some(4)),
            ("FD00:1::1", Some(5)),
            ("10.1.2.0/24", Some(2)),
            ("10.0.0.0/8", Some(1)),
            ("fd00:1:2:3::/64", Some(5)),
            ("::ffff:10.1.0.0/112", Some(2)),
            // A network that is only partly inside does not match.
            ("10.0.0.0/7", None),
            ("10.1.2.3/24", None),
            ("11.0.0.1", None),
            ("10.1.2.3:80", None),
            ("[fd00::1]:80", None),
            ("[fd00::1]", None),
            ("fd00::1%eth0", None),
            (" 10.1.2.3", None),
            ("010.1.2.3", None),
            ("10.1.2", None),
            ("", None),
            ("alice", None),
        ] {
            assert_eq!(map.find(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(map.find(b"10.1.2.3\xff"), None);
    }
}
