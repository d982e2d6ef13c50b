//! Requests of a test that hold something.

use std::collections::{HashMap, VecDeque};

use super::action::{Ask, Rendered};
use crate::engine::Ticket;

/// Requests in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight<'r> {
    /// Tickets of requests without a label, oldest first, by the names of these.
    unlabelled: HashMap<String, VecDeque<Ticket>>,
    labelled: HashMap<String, Labelled<'r>>,
}

/// A request with a label.
#[derive(Debug)]
pub(super) struct Labelled<'r> {
    pub(super) request: Rendered<'r>,
    /// Its ticket; `None` if it holds nothing.
    pub(super) ticket: Option<Ticket>,
}

impl<'r> InFlight<'r> {
    /// Adds request `number` of a step.
    pub(super) fn add(&mut self, ask: &'r Ask, number: u32, request: &Rendered<'r>, ticket: Option<Ticket>) {
        match (&ask.label, ticket) {
            (Some(label), ticket) => {
                self.labelled.insert(label.render(number), Labelled { request: request.clone(), ticket });
            }
            (None, Some(ticket)) => {
                let tickets = self.unlabelled.entry(request.name()).or_default();
                // A reservation that is repeated has the ticket of the first.
                if request.named.is_none() || !tickets.contains(&ticket) {
                    tickets.push_back(ticket);
                }
            }
            (None, None) => {}
        }
    }

    /// Removes the oldest request without a label that has this name.
    pub(super) fn take(&mut self, request: &Rendered<'_>) -> Option<Ticket> {
        self.unlabelled.get_mut(&request.name())?.pop_front()
    }

    /// The request with this label.
    pub(super) fn labelled(&self, label: &str) -> Option<&Labelled<'r>> {
        self.labelled.get(label)
    }
}
