//! The pure core: matches requests against rules, plans charges, and judges their readings.
//!
//! It does not use tokio, tonic, a clock, the environment, files, locks or metrics: rules, a request, the
//! readings of
//! a store and the time are arguments. `limiter` calls [`plan::plan`], then charges a store, then calls
//! [`judge::judge`].
//!
//! # Example
//!
//! Rules are compiled from YAML, and a request is matched against them, without any I/O:
//!
//! ```
//! use smallvec::smallvec;
//! use tollgate::engine::plan::{Item, plan};
//! use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
//! use tollgate::engine::{Descriptor, Entry, Hits, KeyFormat, KeyWriter, Request};
//!
//! let text = "domain: shop\ndescriptors: [{key: user, rate_limit: 5/minute}]";
//! let file = SourceFile { name: "shop.yaml".to_owned(), text: text.to_owned() };
//! let rules = compile(&[file], CompileOptions::default(), None).expect("the rules are right");
//!
//! let descriptor = |key| Descriptor {
//!     entries: smallvec![Entry { key, value: b"ann" }],
//!     hits: Hits::Add(1),
//!     limit_override: None,
//! };
//! let request = Request { domain: b"shop", descriptors: smallvec![descriptor(b"user"), descriptor(b"other")] };
//! let keys = KeyWriter::new(KeyFormat::Native, "");
//! let plan = plan(&rules, &request, &keys);
//!
//! assert!(matches!(&plan.items[0], Item::Limited(limited) if limited.counters.len() == 1));
//! assert!(matches!(plan.items[1], Item::NoLimit));
//! ```
//!
//! Errors name the file, the line, the column and what to write instead:
//!
//! ```
//! use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
//!
//! let text = "domain: shop\ndescriptors: [{kye: user}]";
//! let file = SourceFile { name: "shop.yaml".to_owned(), text: text.to_owned() };
//! let errors = compile(&[file], CompileOptions::default(), None).expect_err("`kye` is not a field");
//! assert!(errors.to_string().starts_with("shop.yaml:2:"));
//! ```

pub mod algorithm;
pub mod calendar;
pub mod capabilities;
pub mod compare;
pub mod duration;
pub mod estimate;
pub mod hit_counts;
pub mod hold_counts;
pub mod judge;
pub mod key;
pub mod lease;
pub mod limit;
pub mod lockout;
pub mod modes;
pub mod overrides;
pub mod per_core;
pub mod plan;
pub mod request;
pub mod reserve;
pub mod rules;
pub mod schema;
pub mod text;
pub mod ticket;
pub mod time;
pub mod usage;

pub use calendar::{Calendar, Period, Zone};
pub use capabilities::StoreCapabilities;
pub use hit_counts::{HitCounts, StatsPath};
pub use judge::{Code, Decision, Status};
pub use key::{DescriptorHash, HashTag, KeyDomain, KeyFormat, KeyWriter, LockoutName, LockoutParts};
pub use lease::{Lease, LeaseTerms};
pub use limit::{Algorithm, ChargeMode, CombinedEnforcement, Enforcement, FailurePolicy, Limit, Unit};
pub use modes::Modes;
pub use overrides::{OverrideKind, Overrides, OverridesAt};
pub use plan::Plan;
pub use request::{Descriptor, Entry, Hits, Request};
pub use reserve::{Report, Reservation, Reserve};
pub use rules::Rules;
pub use ticket::{Hold, Ticket, TicketEntry};
pub use time::{Timestamp, Window};
