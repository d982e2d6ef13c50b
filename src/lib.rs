//! tollgate, a rate-limit service for Envoy.
//!
//! # Bird's-eye view
//!
//! Envoy asks `ShouldRateLimit` for each request it proxies, and waits for the answer. The question
//! holds *descriptors*: what the request is, seen from several sides (its user, its path, its client's
//! address). *Rules*, written in YAML, say how many hits each kind of descriptor may have in how long.
//! Counters live in a *store*: in this process' memory, or in Redis.
//!
//! # The path of a request
//!
//! ```text
//! decode  →  plan(rules, request)  →  store.charge(charges, now)  →  judge(plan, readings)  →  encode
//!  pure           pure                    I/O, or a lock                  pure                  pure
//! ```
//!
//! What the store failed to count gets the reading that its rule asks for then ([`store::fallback`]).
//! [`limiter::Limiter::decide`] is the middle of it on one page; the two ends are `server::wire`. The
//! time is read once and the rules are one snapshot from beginning to end. gRPC and HTTP go the same
//! way. Where there is a candidate, rules that are tried out, it goes that way beside those in force up to
//! `judge`, on counters of its own, and both decisions are compared ([`engine::compare`]).
//!
//! # Code map
//!
//! | where | what |
//! |---|---|
//! | [`engine`] | the pure core: requests, limits, rules and their matcher, counter keys, [`engine::plan`], the algorithms, [`engine::judge`], [`engine::compare`] |
//! | [`store`] | the trait [`store::Store`] and the two that implement it, memory and Redis; what to do when one fails |
//! | [`limiter`] | where the core meets the store, the clock and the metrics; the candidate |
//! | [`provider`] | where rules come from: watched files |
//! | [`server`] | listeners, the threads that serve them, gRPC, HTTP, health, the end of the process |
//! | [`telemetry`] | logs, traces, metrics |
//! | [`tls`] | certificates, keys and identities from files, for every client and listener |
//! | [`settings`] | what the operator set, by flags and environment |
//! | [`app`] | the composition root: settings → stores, rules, listeners, exporters; started by the program, by tests, and by programs that embed tollgate |
//! | [`cli`] | the commands |
//! | [`supervisor`] | the one place that learns of the end of threads and tasks |
//! | [`clock`] | the one reader of the clock |
//! | [`pb`] | generated protobuf modules |
//!
//! # Threads
//!
//! One thread for each core, each with a single-threaded tokio runtime and its own connections to the
//! store. An accept loop hands every new connection to the core that was least busy of late, or has the
//! fewest where none was; from then on nothing of that connection crosses to another core. What is shared
//! is read: the rules, swapped as a whole. A further runtime on the main thread watches the rules, accepts
//! connections and serves the debug port.
//!
//! # Invariants
//!
//! `tests/tidy.rs` holds those that can be read off the source.
//!
//! - Arrows point one way: `main → cli → app → server → {limiter, provider}`, `limiter → {store, telemetry,
//!   clock, engine}`, `provider → engine`, `store → {engine, tls}`, `{telemetry, clock} → engine`, `{engine, tls} →`
//!   nothing of ours. Each module has settings of its own; `settings` fills them, and nothing below `app` knows
//!   it.
//! - The engine knows no tokio, tonic, clock, environment, file or lock.
//! - One file reads the clock, one folder the environment, one folder speaks to Redis, one file names
//!   metrics, and only `server::wire` reads protobuf requests.
//! - Rules are immutable once compiled, and swapped as a whole. A bad file never takes good rules out
//!   of force.
//! - Every answer has exactly one status for each descriptor, in order: Envoy reads past its own
//!   memory otherwise.
//! - No input panics. Every number from outside has a bound: see [`engine::request`] and
//!   [`settings`].
//! - A candidate changes no answer, whatever is wrong with it.
//! - A call whose outcome is unknown is never repeated: it may have been counted.

pub mod app;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod engine;
pub mod limiter;
pub mod pb;
pub mod provider;
pub mod server;
pub mod settings;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
