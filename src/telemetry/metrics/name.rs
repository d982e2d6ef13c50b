//! Names as metrics show them.

use std::net::Ipv4Addr;

/// A name as metrics show it: `:` and `|` are separators in statsd, and so are the dots of an address.
pub(super) fn sanitize(name: &str) -> String {
    let mut clean = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let numeric = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (run, after) = rest.split_at(numeric);
        clean.push_str(&with_address_underscored(run));
        let other = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (text, after) = after.split_at(other);
        clean.extend(text.chars().map(|c| if matches!(c, ':' | '|') { '_' } else { c }));
        rest = after;
    }
    clean
}

/// `numeric` is digits and dots alone: the dots become `_` where they are those of an IPv4 address. A
/// dot that follows it ends a level, and stays.
fn with_address_underscored(numeric: &str) -> String {
    let address = numeric.trim_end_matches('.');
    match address.parse::<Ipv4Addr>() {
        Ok(_) => address.replace('.', "_") + numeric.get(address.len()..).unwrap_or_default(),
        Err(_) => numeric.to_owned(),
    }
}
