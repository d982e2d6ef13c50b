//! Actions of a step, and the requests that they send.

use std::time::Duration;

use smallvec::SmallVec;

use super::reader::quoted;
use super::template::Template;
use crate::engine::{Descriptor, Entry, Hits, Limit, Request};

/// Action of a step.
#[derive(Debug)]
pub enum Action {
    /// Requests are sent.
    Ask(Ask),
    /// As many requests with these descriptors end, the oldest first, and give their places back.
    Release(Ask),
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
    /// Number of requests; at least 1.
    pub times: u32,
    /// Time between two requests.
    pub every: Duration,
    /// True if they are concurrent.
    pub together: bool,
}

#[derive(Debug)]
pub(super) struct AskDescriptor {
    pub(super) entries: Vec<(Template, Template)>,
    pub(super) hits: Hits,
    pub(super) limit: Option<Limit>,
}

/// The texts of one request.
#[derive(Debug)]
pub struct Rendered<'a> {
    ask: &'a Ask,
    entries: Vec<Vec<(String, String)>>,
}

impl Ask {
    /// True if all requests are the same.
    pub fn is_constant(&self) -> bool {
        let mut entries = self.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        entries.all(|(key, value)| !key.counts() && !value.counts())
    }

    /// Texts of request `number`, which counts from 1.
    pub fn render(&self, number: u32) -> Rendered<'_> {
        let entry = |(key, value): &(Template, Template)| (key.render(number), value.render(number));
        let entries = |descriptor: &AskDescriptor| descriptor.entries.iter().map(entry).collect();
        Rendered { ask: self, entries: self.descriptors.iter().map(entries).collect() }
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
        quoted(&descriptors.join("; "))
    }
}

impl Rendered<'_> {
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
