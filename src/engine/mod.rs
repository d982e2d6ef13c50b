//! The pure core: what a request matches, what to count for it, and what the counts mean.
//!
//! It knows no tokio or tonic, no clock, environment, file, lock or metric. A rules snapshot, a
//! request, the readings of a store and the time go in; values come out. The steps, in the order that
//! `limiter` takes them: [`plan::plan`], then a store's charge, then [`judge::judge`].

pub mod algorithm;
pub mod calendar;
pub mod capabilities;
pub mod compare;
pub mod duration;
pub mod judge;
pub mod key;
pub mod limit;
pub mod lockout;
pub mod plan;
pub mod request;
pub mod rules;
pub mod tally;
pub mod time;

pub use calendar::{Calendar, Period, Zone};
pub use capabilities::StoreCapabilities;
pub use judge::{Code, Decision, Modes, Status};
pub use key::{DescriptorHash, HashTag, KeyDomain, KeyFormat, KeyWriter, LockedOut, LockoutName};
pub use limit::{Algorithm, ChargeMode, FailurePolicy, Limit, Unit, Vote, Votes};
pub use plan::Plan;
pub use request::{Descriptor, Entry, Hits, Request};
pub use rules::Rules;
pub use tally::{StatsPath, Tally};
pub use time::{Timestamp, Window};
