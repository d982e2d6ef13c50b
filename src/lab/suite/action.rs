//! Actions of a step, and the requests that they send.

use std::time::Duration;

use smallvec::SmallVec;

use super::reader::quoted;
use super::template::Template;
use crate::engine::plan::Holding;
use crate::engine::plan::tickets::Amounts;
use crate::engine::usage::{TokenKind, Usage};
use crate::engine::{Descriptor, Entry, Hits, Limit, Request, Ticket};
use crate::limiter::Purpose;

/// Action of a step.
#[derive(Debug)]
pub enum Action {
    /// Requests are sent.
    Ask(Ask),
    /// Earlier requests settle, extend or give back what they hold.
    Ticket(TicketStep),
    /// The rules of this index take the place of those in force.
    Reload(usize),
    /// The store can be reached from here on, or cannot.
    Store {
        /// True if it can.
        up: bool,
    },
    /// Time passes.
    Wait,
}

/// Requests of a step.
#[derive(Debug)]
pub struct Ask {
    /// Domain.
    pub domain: String,
    pub(super) descriptors: Vec<AskDescriptor>,
    pub(super) call: AskCall,
    /// Label of the ticket that the request gets.
    pub(super) label: Option<Template>,
    /// Number of requests; at least 1.
    pub times: u32,
    /// Time between two requests.
    pub every: Duration,
    /// True if they are concurrent.
    pub together: bool,
}

/// Call that a request is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AskCall {
    /// That of Envoy.
    Decide,
    /// The same, with an upper bound on the time for which places are held, in seconds.
    Acquire { max_ttl_secs: u32 },
    /// A reservation.
    Reserve(Reserved),
    /// A look at what is used and held.
    Look,
}

/// Amounts that a request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    /// Amount of the descriptors without one of their own; 0 for that of the rule.
    pub(super) amount: u32,
    /// True for each descriptor with an amount of its own, its hits.
    pub(super) own: Vec<bool>,
    /// TTL in seconds; [`u32::MAX`] for that of the rule.
    pub(super) ttl_secs: u32,
    /// Name of the request.
    pub(super) id: Option<Template>,
}

/// Calls about what earlier requests hold.
#[derive(Debug)]
pub struct TicketStep {
    pub(super) call: HeldCall,
    pub(super) of: HeldBy,
    /// Domain of these requests.
    pub domain: String,
    /// Number of calls; at least 1.
    pub times: u32,
}

/// Requests that hold something.
#[derive(Debug)]
pub(super) enum HeldBy {
    /// Those with this label.
    Label(Template),
    /// The oldest without a label that have these descriptors.
    Oldest(Ask),
}

/// Call about what a request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeldCall {
    /// The amount is counted.
    Settle(Settling),
    /// It is held for longer.
    Extend {
        /// Name of the step.
        name: &'static str,
        /// Upper bound on the time, in seconds.
        max_ttl_secs: u32,
        /// Amount that each budget is to hold in all; 0 to leave it as it is.
        amount: u32,
        /// Amounts of the descriptors one by one, in place of it.
        own: Vec<u32>,
    },
    /// It is given back.
    Release,
}

/// Amounts of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settling {
    /// Amount of each descriptor.
    pub(super) amount: u32,
    /// Amounts of the descriptors one by one, in place of it.
    pub(super) own: Vec<u32>,
    /// Usage, in place of amounts.
    pub(super) usage: Option<Usage>,
    /// False for the amount so far.
    pub(super) is_final: bool,
}

/// Pace of the calls of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Number of calls.
    pub(super) times: u32,
    /// Time between two.
    pub(super) every: Duration,
}

#[derive(Debug)]
pub(super) struct AskDescriptor {
    pub(super) entries: Vec<(Template, Template)>,
    pub(super) hits: Hits,
    pub(super) limit: Option<Limit>,
}

/// The texts of one request.
#[derive(Clone, Debug)]
pub struct Rendered<'a> {
    ask: &'a Ask,
    entries: Vec<Vec<(String, String)>>,
    /// Ticket that its `id` names.
    pub(super) named: Option<Ticket>,
}

impl Ask {
    /// True if all requests are the same.
    pub fn is_constant(&self) -> bool {
        let mut entries = self.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        entries.all(|(key, value)| !key.counts() && !value.counts())
            && self.id().is_none_or(|id| !id.counts())
    }

    const fn id(&self) -> Option<&Template> {
        match &self.call {
            AskCall::Reserve(Reserved { id, .. }) => id.as_ref(),
            AskCall::Decide | AskCall::Acquire { .. } | AskCall::Look => None,
        }
    }

    pub(super) const fn pace(&self) -> Pace {
        Pace { times: self.times, every: self.every }
    }

    /// Texts of request `number`, which counts from 1.
    pub fn render(&self, number: u32) -> Rendered<'_> {
        let entry = |(key, value): &(Template, Template)| (key.render(number), value.render(number));
        let entries = |descriptor: &AskDescriptor| descriptor.entries.iter().map(entry).collect();
        let entries: Vec<Vec<(String, String)>> = self.descriptors.iter().map(entries).collect();
        let texts =
            entries.iter().map(|of| of.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]));
        let named =
            self.id().map(|id| Ticket::named(id.render(number).as_bytes(), self.domain.as_bytes(), texts));
        Rendered { ask: self, entries, named }
    }

    /// The request as it is written, on one line.
    pub fn text(&self) -> String {
        let pair = |(key, value): &(Template, Template)| format!("{}={}", key.written(), value.written());
        let descriptor = |descriptor: &AskDescriptor| {
            let pairs: Vec<_> = descriptor.entries.iter().map(pair).collect();
            let hits = match descriptor.hits {
                Hits::Add(1) => String::new(),
                Hits::Add(hits) => format!("*{hits}"),
                Hits::Refund(hits) => format!("*-{hits}"),
            };
            pairs.join(",") + &hits
        };
        let descriptors: Vec<_> = self.descriptors.iter().map(descriptor).collect();
        let call = match self.call {
            AskCall::Decide => "",
            AskCall::Acquire { .. } => "acquire ",
            AskCall::Reserve(_) => "reserve ",
            AskCall::Look => "look ",
        };
        let amount = match &self.call {
            AskCall::Reserve(Reserved { amount: amount @ 1.., .. }) => format!(" amount {amount}"),
            _ => String::new(),
        };
        let id = self.id().map(|id| format!(" id {}", id.written())).unwrap_or_default();
        let label = self.label.as_ref().map(|label| format!(" as {}", label.written())).unwrap_or_default();
        quoted(&format!("{call}{}{amount}{id}{label}", descriptors.join("; ")))
    }
}

impl HeldCall {
    /// Name of the step.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Settle(_) => "settle",
            Self::Extend { name, .. } => name,
            Self::Release => "release",
        }
    }

    /// Amounts of single descriptors.
    pub(super) fn own(&self) -> &[u32] {
        match self {
            Self::Settle(Settling { own, .. }) | Self::Extend { own, .. } => own,
            Self::Release => &[],
        }
    }

    /// True if more is to be held.
    pub(super) fn raises(&self) -> bool {
        match self {
            Self::Extend { amount, own, .. } => *amount > 0 || own.iter().any(|own| *own > 0),
            Self::Settle(_) | Self::Release => false,
        }
    }
}

impl TicketStep {
    /// The call as it is written, on one line.
    pub fn text(&self) -> String {
        let of = match &self.of {
            HeldBy::Label(label) => label.written(),
            HeldBy::Oldest(ask) => ask.text(),
        };
        let more = match &self.call {
            HeldCall::Settle(settling) => format!(" {}", settling.text()),
            HeldCall::Extend { max_ttl_secs, amount, own, .. } => {
                let raises = self.call.raises();
                let amounts = if raises { format!(" {}", amounts_text(*amount, own)) } else { String::new() };
                let is_of_rule = *max_ttl_secs == u32::MAX;
                amounts + &if is_of_rule { String::new() } else { format!(" for {max_ttl_secs}s") }
            }
            HeldCall::Release => String::new(),
        };
        quoted(&format!("{} {of}{more}", self.call.name()))
    }
}

impl Settling {
    fn text(&self) -> String {
        let amount = match &self.usage {
            Some(usage) => {
                let counts = TokenKind::ALL.into_iter().zip(usage.tokens).filter(|(_, tokens)| *tokens > 0);
                let counts = counts.map(|(kind, tokens)| format!(" {} {tokens}", kind.name()));
                format!("usage {}{}", usage.model, counts.collect::<String>())
            }
            None => amounts_text(self.amount, &self.own),
        };
        amount + if self.is_final { "" } else { " so far" }
    }
}

fn amounts_text(amount: u32, own: &[u32]) -> String {
    match own {
        [] => format!("amount {amount}"),
        own => format!("amounts {}", own.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl Rendered<'_> {
    /// Use that the request makes of its counters.
    pub(super) fn purpose(&self) -> Purpose<'_> {
        match &self.ask.call {
            AskCall::Decide | AskCall::Look => Purpose::Decide { max_ttl_secs: u32::MAX },
            AskCall::Acquire { max_ttl_secs } => Purpose::Decide { max_ttl_secs: *max_ttl_secs },
            AskCall::Reserve(Reserved { amount, own, ttl_secs, .. }) => {
                let amounts = Amounts { of_request: *amount, own, usage: None };
                Purpose::Reserve(Holding { amounts, ttl_secs: *ttl_secs, named: self.named })
            }
        }
    }

    /// Name of the request among those in flight: its domain and its entries.
    pub fn name(&self) -> String {
        format!("{:?} {:?}", self.ask.domain, self.entries)
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        let descriptors = self.ask.descriptors.iter().zip(&self.entries);
        let descriptors: SmallVec<[Descriptor<'_>; 4]> = descriptors
            .map(|(descriptor, entries)| Descriptor {
                entries: entries
                    .iter()
                    .map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() })
                    .collect(),
                hits: descriptor.hits,
                limit_override: descriptor.limit,
            })
            .collect();
        Request { domain: self.ask.domain.as_bytes(), descriptors }
    }
}
