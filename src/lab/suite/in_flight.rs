//! Requests of a test that hold places.

use std::collections::{HashMap, VecDeque};

use super::action::Rendered;
use crate::engine::Ticket;

/// Tickets of the requests in flight, oldest first, by the names of their requests.
#[derive(Debug, Default)]
pub(super) struct InFlight(HashMap<String, VecDeque<Ticket>>);

impl InFlight {
    /// Adds a request, if it holds anything.
    pub(super) fn add(&mut self, request: &Rendered<'_>, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.0.entry(request.name()).or_default().push_back(ticket);
        }
    }

    /// Removes the oldest request with this name.
    pub(super) fn take(&mut self, request: &Rendered<'_>) -> Option<Ticket> {
        self.0.get_mut(&request.name())?.pop_front()
    }
}
