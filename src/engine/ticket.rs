//! Tickets: names under which a request holds places of concurrency limits.
//!
//! tollgate creates a ticket of 128 random bits when a request passes and holds something. The caller releases the
//! places with it: Envoy by a descriptor whose last entry is [`TICKET_KEY`], applications over HTTP. A ticket is
//! valid only together with the counter key under which it was acquired, so a guessed, old or foreign ticket frees
//! nothing.

use std::fmt;

use ring::digest::{SHA256, digest};

use super::Entry;

/// Key of the entry that names a ticket. It is not part of the counter's key.
pub const TICKET_KEY: &str = "tollgate.ticket";
/// Key of an entry after the ticket, which ends the ticket in any case. Its value has no meaning.
pub const END_KEY: &str = "tollgate.end";
/// Keys that no rule may have.
pub const RESERVED_KEYS: [&str; 2] = [TICKET_KEY, END_KEY];
/// Upper bound, in bytes, on the name that a caller gives a request.
pub const MAX_ID_BYTES: usize = 1_024;
/// Length of a ticket as text.
pub const TEXT_LEN: usize = 32;

/// A ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u128);

impl Ticket {
    /// The ticket of these random bits.
    pub const fn from_bits(bits: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bits))
    }

    /// The ticket of a request that its caller names `id`: of the name, the domain and the descriptors in any order, each
    /// with its keys and values in turn, so that what one ticket holds is always given back with the same entries.
    pub fn named<'a, D>(id: &[u8], domain: &[u8], descriptors: impl Iterator<Item = D>) -> Self
    where
        D: Iterator<Item = &'a [u8]>,
    {
        let sized = |text: &[u8]| [&(text.len() as u64).to_be_bytes(), text].concat();
        let of_descriptor = |texts: D| sized(&texts.map(sized).collect::<Vec<_>>().concat());
        let mut descriptors: Vec<_> = descriptors.map(of_descriptor).collect();
        descriptors.sort_unstable();
        let named = [sized(domain), sized(id), descriptors.concat()].concat();
        let hash = digest(&SHA256, &[b"tollgate.reserve", &*named].concat());
        Self::from_bits(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// The ticket of this text: 32 hexadecimal digits in lower case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != TEXT_LEN || !text.iter().all(is_digit) {
            return None;
        }
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(Self)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Ticket and the time for which it holds what it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The ticket.
    pub ticket: Ticket,
    /// Time until the hold ends by itself, in seconds.
    pub ttl_secs: u32,
    /// True if the ticket may have been used before: its caller names it, and repeats calls without an answer.
    pub is_named: bool,
}

/// Ticket that a descriptor names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TicketEntry {
    /// No ticket: the descriptor is charged.
    #[default]
    Absent,
    /// A text that is not a ticket, such as Envoy's default value. Nothing is held under it.
    Unknown,
    /// This one.
    Named(Ticket),
}

impl TicketEntry {
    /// The ticket of this text.
    pub fn of(text: &[u8]) -> Self {
        Ticket::parse(text).map_or(Self::Unknown, Self::Named)
    }
}

/// Splits the ticket from the end of `entries`. The rest is counted.
pub fn split<'e, 'a>(entries: &'e [Entry<'a>]) -> (&'e [Entry<'a>], TicketEntry) {
    let is = |entry: &Entry<'_>, key: &str| entry.key == key.as_bytes();
    match entries {
        [counted @ .., ticket] if is(ticket, TICKET_KEY) => (counted, TicketEntry::of(ticket.value)),
        [counted @ .., ticket, end] if is(end, END_KEY) && is(ticket, TICKET_KEY) => {
            (counted, TicketEntry::of(ticket.value))
        }
        counted => (counted, TicketEntry::Absent),
    }
}

/// True if a descriptor with these entries ends its ticket in any case.
pub fn is_end(entries: &[Entry<'_>]) -> bool {
    entries.last().is_some_and(|entry| entry.key == END_KEY.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00112233445566778899aabbccddeeff";

    fn entry(key: &'static str, value: &'static str) -> Entry<'static> {
        Entry { key: key.as_bytes(), value: value.as_bytes() }
    }

    #[test]
    fn a_ticket_reads_back_and_nothing_else_is_one() {
        let ticket = Ticket::parse(TEXT.as_bytes()).expect("a ticket");
        assert_eq!(ticket.to_string(), TEXT);
        assert_eq!(Ticket::from_bits([0; 16]).to_string(), "0".repeat(32));
        for text in
            ["", "-", &TEXT[1..], &format!("{TEXT}0"), &TEXT.to_uppercase(), &TEXT.replace("00", "+0")]
        {
            assert_eq!(TicketEntry::of(text.as_bytes()), TicketEntry::Unknown, "{text}");
        }
    }

    #[test]
    fn a_ticket_is_split_from_the_end_only() {
        let (tenant, ticket, end) = (entry("tenant", "a"), entry(TICKET_KEY, TEXT), entry(END_KEY, "1"));
        let named = TicketEntry::of(TEXT.as_bytes());
        for (entries, counted, expected) in [
            (vec![tenant, ticket], vec![tenant], named),
            (vec![tenant, ticket, end], vec![tenant], named),
            (vec![tenant, entry(TICKET_KEY, "-")], vec![tenant], TicketEntry::Unknown),
            (vec![ticket], vec![], named),
            (vec![ticket, tenant], vec![ticket, tenant], TicketEntry::Absent),
            (vec![tenant, end], vec![tenant, end], TicketEntry::Absent),
            (vec![tenant], vec![tenant], TicketEntry::Absent),
            (vec![], vec![], TicketEntry::Absent),
        ] {
            assert_eq!(split(&entries), (&*counted, expected), "{entries:?}");
        }
    }
}
