//! Budgets: limits of which a request holds a part until its real amount is known, such as the tokens of an answer.
//!
//! A request *opens* a hold of an estimate under a [`Ticket`], if it fits beside what is used and held already. It is
//! *settled* with the real amount, which counts in full, once. A hold that is never settled ends with its TTL.

use std::sync::Arc;
use std::time::Duration;

use super::estimate::Estimate;
use super::usage::Count;
use super::{ChargeMode, Hits, Limit, Ticket};

/// Upper bound on the open holds of one counter, since each takes memory.
pub const MAX_HOLDS: u32 = 10_000;
/// Upper bound on the TTL of a hold: an hour.
pub const MAX_TTL_SECS: u32 = 3_600;

/// `reserve` of a rule.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// Amount that a request holds if it names none.
    pub amount: Amount,
    /// Upper bound on that amount, in percent of the limit.
    pub max_percent: u32,
    /// TTL of a hold, in seconds.
    pub ttl_secs: u32,
    /// Amount of a settlement that brings a usage.
    pub count: Count,
    /// True if a request with 0 hits opens a hold, and one with hits settles the oldest of these.
    pub on_look: bool,
    /// Terms of its holds.
    pub terms: Terms,
}

/// Amount that a request holds if it names none.
#[derive(Clone, Debug)]
pub enum Amount {
    /// This one.
    Fixed(u32),
    /// Estimated from those that were settled.
    Auto(Arc<Estimate>),
}

impl Reserve {
    /// Amount that a request holds of `limit` if it names none: at least 1, and never more than the limit has.
    pub fn amount_of(&self, limit: Limit) -> u32 {
        let (capacity, most) = (limit.capacity(), self.most_of(limit));
        match &self.amount {
            Amount::Fixed(amount) => *amount.min(&most),
            Amount::Auto(estimate) => estimate.amount(capacity, most),
        }
        .clamp(1, capacity.max(1))
    }

    fn most_of(&self, limit: Limit) -> u32 {
        let most = u64::from(limit.capacity()) * u64::from(self.max_percent) / 100;
        u32::try_from(most).unwrap_or(limit.capacity())
    }

    /// Takes in the real amount of a request under `limits`. One of 0 says that the request failed, and nothing about
    /// those that do not.
    pub fn learn(&self, amount: u32, limits: impl Iterator<Item = Limit>) {
        if let (Amount::Auto(estimate), 1..) = (&self.amount, amount) {
            let most = limits.map(|limit| self.most_of(limit)).max();
            estimate.learn(amount, most.unwrap_or(u32::MAX));
        }
    }
}

impl Reserve {
    /// Effect of a request without a ticket that brings `hits`.
    pub fn of_hits(&self, limit: Limit, hits: Hits) -> Reservation {
        let action = match hits {
            Hits::Add(0) if self.on_look => {
                Action::Open(Opening { is_anonymous: true, ..self.opening(limit, 0) })
            }
            Hits::Add(amount @ 1..) if self.on_look => {
                Action::Settle(Settlement { of: Settled::Oldest, amount })
            }
            Hits::Add(amount @ 1..) => Action::Open(self.opening(limit, amount)),
            Hits::Add(0) | Hits::Refund(_) => Action::Look,
        };
        self.with(action)
    }

    /// The hold of `amount`, or of the amount of the rule if that is 0.
    pub fn opening(&self, limit: Limit, amount: u32) -> Opening {
        let amount = if amount == 0 { self.amount_of(limit) } else { amount };
        Opening { ticket: None, amount, ttl_secs: self.ttl_secs, is_anonymous: false, is_named: false }
    }

    /// `action` on the terms of the rule.
    pub const fn with(&self, action: Action) -> Reservation {
        Reservation { action, terms: self.terms }
    }
}

/// Terms on which a store keeps holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Effect of a hold that is not settled in time.
    pub on_expiry: OnExpiry,
    /// Time for which a ticket is known to be settled, in seconds.
    pub memory_secs: u32,
}

/// Effect of the end of a hold that was not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// The amount is free again.
    #[default]
    Release,
    /// The amount is counted, until a late settlement corrects it.
    Charge,
}

impl OnExpiry {
    /// Both.
    const ALL: [Self; 2] = [Self::Release, Self::Charge];

    /// The effect of this name in rules: `release` or `charge`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effect| effect.name() == name)
    }

    /// Name in rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Charge => "charge",
        }
    }
}

/// Part of a charge to a counter with holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Effect on the holds.
    pub action: Action,
    /// Terms of the rule.
    pub terms: Terms,
}

impl Reservation {
    /// Its effect in a charge of `hits`, and the hits to count: a refund of an opening cancels the hold.
    pub fn in_charge(self, hits: Hits) -> (Self, Hits) {
        match (hits, self.action) {
            (Hits::Refund(_), Action::Open(Opening { ticket, .. })) => {
                (Self { action: ticket.map_or(Action::Look, Action::Cancel), ..self }, Hits::Refund(0))
            }
            (Hits::Refund(amount @ 1..), Action::Extend(Extension { ticket, .. })) => {
                (Self { action: Action::Lower(ticket, amount), ..self }, Hits::Refund(0))
            }
            _ => (self, hits),
        }
    }
}

/// Effect of a charge on the holds of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// None: what is held counts as used.
    Look,
    /// Opens a hold.
    Open(Opening),
    /// Counts an amount and ends a hold.
    Settle(Settlement),
    /// Lets a hold end later, and may raise its amount.
    Extend(Extension),
    /// Takes so much off a hold again, since the request that raised it did not pass.
    Lower(Ticket, u32),
    /// Ends a hold as if it had never been opened, since its request did not pass.
    Cancel(Ticket),
}

/// A hold to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Ticket. Without one, the store only checks that the amount fits.
    pub ticket: Option<Ticket>,
    /// Amount to hold.
    pub amount: u32,
    /// TTL in seconds.
    pub ttl_secs: u32,
    /// True if a charge without a ticket may end it.
    pub is_anonymous: bool,
    /// True if the ticket may have been used before: its caller names it, and repeats calls without an answer.
    pub is_named: bool,
}

/// A hold that is to end later, or to have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Ticket.
    pub ticket: Ticket,
    /// TTL in seconds, from now on. It never shortens the hold.
    pub ttl_secs: u32,
    /// Amount of the request in all, with what is counted of it already; 0 to leave the hold as it is. It never lowers
    /// the hold, so that a repeated or late call changes nothing.
    pub amount: u32,
}

/// A hold to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The hold.
    pub of: Settled,
    /// Real amount; with [`Settled::Part`], the amount so far.
    pub amount: u32,
}

/// Hold that a settlement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// That of a ticket.
    Whole(Ticket),
    /// That of a ticket, which stays open.
    Part(Ticket),
    /// That of a ticket, if nothing has settled it yet: it gives back what is held, and counts nothing.
    Rest(Ticket),
    /// The oldest that a charge without a ticket may end.
    Oldest,
    /// None: the amount is counted.
    Nothing,
}

impl Action {
    /// Hits and mode of the charge. A settlement denies nothing, and counts whatever becomes of its request.
    pub const fn hits(self) -> Option<(Hits, ChargeMode)> {
        match self {
            Self::Look => None,
            Self::Open(Opening { amount, .. }) => Some((Hits::Add(amount), ChargeMode::IfAllowed)),
            Self::Settle(Settlement { amount, .. }) => Some((Hits::Add(amount), ChargeMode::Always)),
            Self::Extend(Extension { amount: amount @ 1.., .. }) => {
                Some((Hits::Add(amount), ChargeMode::IfAllowed))
            }
            Self::Extend(_) | Self::Cancel(_) | Self::Lower(..) => {
                Some((Hits::Refund(0), ChargeMode::IfAllowed))
            }
        }
    }

    /// Ticket whose mark the store must look for.
    pub const fn marked_ticket(self) -> Option<Ticket> {
        match self {
            Self::Open(Opening { ticket: Some(ticket), is_named: true, .. })
            | Self::Settle(Settlement {
                of: Settled::Whole(ticket) | Settled::Part(ticket) | Settled::Rest(ticket),
                ..
            })
            | Self::Cancel(ticket) => Some(ticket),
            Self::Look | Self::Open(_) | Self::Settle(_) | Self::Extend(_) | Self::Lower(..) => None,
        }
    }

    /// True if it ends what a ticket holds, which has an effect once: it may be repeated.
    pub const fn is_repeatable(self) -> bool {
        match self {
            Self::Settle(_) | Self::Cancel(_) => self.marked_ticket().is_some(),
            Self::Look | Self::Open(_) | Self::Extend(_) | Self::Lower(..) => false,
        }
    }
}

/// Effect that a charge had on the holds of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Event.
    pub event: HoldEvent,
    /// Amount that all open holds have, in hits.
    pub held: u32,
    /// Number of open holds.
    pub holds: u16,
    /// Seconds until the first of them ends by itself, rounded up; 0 without any. Of an extension, until another one does.
    pub first_ends_in_secs: u32,
    /// Amount that was held, or that is counted of the ticket by now; of an extension, that of the hold once it is
    /// carried out.
    pub amount: u32,
    /// Part of that amount by which an extension raises the hold, and which had to fit.
    pub more: u32,
    /// Time until the hold that was opened, found open or extended ends; zero if there is none.
    pub ends_in: Duration,
    /// Amount that was held and not counted.
    pub returned: u32,
    /// Hits that the charge counted.
    pub counted: u32,
    /// Holds that were found to have ended by themselves.
    pub expired: u16,
}

impl Report {
    /// Report of `event`, without amounts.
    pub const fn of(event: HoldEvent) -> Self {
        Self {
            event,
            held: 0,
            holds: 0,
            first_ends_in_secs: 0,
            amount: 0,
            more: 0,
            ends_in: Duration::ZERO,
            returned: 0,
            counted: 0,
            expired: 0,
        }
    }

    /// Hits for which a charge of `hits` with this `action` needs room: none to extend a hold that is not there, and the
    /// whole hold to raise one.
    pub const fn judged_hits(&self, action: Action, hits: Hits) -> Hits {
        match (action, self.event) {
            (Action::Extend(Extension { amount: 1.., .. }), HoldEvent::Unknown) => Hits::Refund(0),
            (Action::Extend(Extension { amount: 1.., .. }), _) => Hits::Add(self.amount),
            _ => hits,
        }
    }
}

/// State of the budget of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetStatus {
    /// Hits that count, without those that are held.
    pub used: u64,
    /// Report of the store.
    pub report: Report,
    /// True if it is over its limit only because of what others hold.
    pub is_held: bool,
}

/// Event of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEvent {
    /// Nothing happened to a hold.
    None,
    /// It was opened.
    Opened,
    /// It was open already, or is settled: the call was repeated.
    Known,
    /// The counter has [`MAX_HOLDS`].
    TooMany,
    /// It ended.
    Settled,
    /// It stays open, and a part of it was counted.
    Continued,
    /// The amount was counted, and no hold ended: it had expired, or never was.
    Late,
    /// It was settled before.
    Repeated,
    /// It ends later.
    Extended,
    /// There is none, and nothing was counted.
    Unknown,
}

impl HoldEvent {
    /// Every event, by the number that `reserve.lua` gives it.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Opened,
        Self::Known,
        Self::TooMany,
        Self::Settled,
        Self::Continued,
        Self::Late,
        Self::Repeated,
        Self::Extended,
        Self::Unknown,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Unit;

    #[test]
    fn an_amount_that_nobody_named_leaves_room_for_one_at_least() {
        let terms = Terms { on_expiry: OnExpiry::Release, memory_secs: 600 };
        let amount = |amount, max_percent, limit| {
            let reserve = Reserve {
                amount: Amount::Fixed(amount),
                max_percent,
                ttl_secs: 60,
                count: Count::default(),
                on_look: true,
                terms,
            };
            reserve.amount_of(Limit::per(limit, Unit::Minute))
        };
        assert_eq!(amount(500, 100, 1_000), 500);
        assert_eq!(amount(5_000, 100, 1_000), 1_000);
        assert_eq!(amount(5_000, 25, 1_000), 250);
        assert_eq!(amount(500, 25, 3), 1, "a small limit lets one at a time through");
        assert_eq!(amount(500, 100, 0), 1, "which does not fit");
        assert_eq!(amount(u32::MAX, 100, u32::MAX), u32::MAX);
    }
}
