//! tollgate, a rate-limit service for Envoy.
//!
//! # Bird's-eye view
//!
//! Envoy calls `ShouldRateLimit` for each request that it proxies, and waits for the answer. The call carries
//! *descriptors*: lists of `key=value` that describe the request (its user, its path, its client's address).
//! *Rules*, written in YAML, give each kind of descriptor its limits. Counters live in a *store*: in the memory
//! of this process, or in Redis.
//!
//! [`app::run`] runs the service inside another program. [`engine`] decides without any I/O; it has examples.
//!
//! # The path of a request
//!
//! ```text
//! decode  →  plan(rules, request)  →  store.charge(charges, now)  →  judge(plan, readings)  →  encode
//!  pure           pure                    I/O, or a lock                  pure                  pure
//! ```
//!
//! [`limiter::Snapshot::decide`] shows the three steps in the middle; `server::wire` has the two at the ends. gRPC
//! and HTTP use the same steps. A request reads the clock once and sees one snapshot of the rules. A charge that
//! the store failed gets the reading that its rule asks for ([`store::fallback`]). If there are candidate rules,
//! they are evaluated beside those in force on counters of their own, and both decisions are compared
//! ([`engine::compare`]).
//!
//! A request that takes places of a concurrency limit holds them under a [`engine::ticket`]. Until its caller has the
//! decision, dropping the request gives them back (`limiter::places`); from then on the ticket does, or time.
//!
//! Holds of budgets ([`engine::reserve`]) are kept in the same way, beside their counter, until they are settled.
//!
//! A leased limit is charged in advance: a replica spends those hits without asking Redis, and gives back what it does
//! not spend ([`engine::lease`]). The store in Redis does so below [`store::Store::charge`]; no step above knows it.
//!
//! # Code map
//!
//! | module | contents |
//! |---|---|
//! | [`engine`] | the pure core: requests, limits, rules and their matcher, counter keys, [`engine::plan`], the algorithms, leases, [`engine::judge`], [`engine::compare`] |
//! | [`store`] | the trait [`store::Store`], its two implementations, memory and Redis, and the policies for a store that fails |
//! | [`limiter`] | the path of a request: snapshot, store, clock, metrics; the candidate |
//! | [`lab`] | rules examined without traffic: tests in virtual time, replays of logs |
//! | [`provider`] | rules from watched files |
//! | [`server`] | listeners, the threads that serve them, gRPC, HTTP, health, drain |
//! | [`telemetry`] | logs, traces, metrics |
//! | [`tls`] | certificates, keys and identities from files, for every client and listener |
//! | [`settings`] | flags and environment |
//! | [`app`] | the composition root: settings → stores, rules, listeners, exporters; started by the program, by tests, and by programs that embed tollgate |
//! | [`mod@bench`] | the load test |
//! | [`cli`] | the commands |
//! | [`supervisor`] | awaits every thread and task that the process needs |
//! | [`tcp`] | options of TCP connections |
//! | [`file_watch`] | the kernel's notifications of changed files, for rules and certificates |
//! | [`clock`] | the only reader of the clock |
//! | [`pb`] | generated protobuf modules |
//!
//! # Threads
//!
//! One thread per core, each with a single-threaded tokio runtime and its own connections to the store. An accept
//! loop hands every new connection to the least busy core; from then on nothing of that connection crosses to
//! another core. Shared state is read only: the rules, swapped as a whole. A further runtime on the main thread
//! watches the rules, accepts connections and serves operators.
//!
//! # Invariants
//!
//! `tests/tidy` checks those that can be read off the source.
//!
//! - Arrows point one way: `main → cli → {app, bench, lab}`, `app → server → {limiter, provider, lab}`, `lab → limiter →
//!   {store, telemetry, clock, engine}`, `{server, provider, store, telemetry} → tls → {engine, file_watch}`,
//!   `{provider, store, telemetry, clock} → engine`, and `engine →` no other module. No two files import each
//!   other. Each module has its own settings type; `settings` fills them, and only `app` and `cli` use `settings`.
//! - The engine uses no tokio, tonic, clock, environment, file or lock.
//! - One file reads the clock, one folder the environment, one folder connects to Redis, one file names metrics,
//!   and only `server::wire` reads protobuf requests.
//! - Rules are immutable once compiled, and swapped as a whole. A file with errors never takes good rules out of
//!   force.
//! - Every answer has exactly one status for each descriptor, in order: Envoy reads past its own memory otherwise.
//! - No input panics, and nothing that a client of the proxy controls is an error: Envoy lets a request pass if its
//!   call fails. See [`engine::request`].
//! - A candidate changes no answer, whatever is wrong with it.
//! - A call whose outcome is unknown is never repeated: it may have been counted.

pub mod app;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod engine;
pub mod file_watch;
pub mod lab;
pub mod limiter;
pub mod pb;
pub mod provider;
pub mod server;
pub mod settings;
pub mod store;
pub mod supervisor;
pub mod tcp;
pub mod telemetry;
pub mod tls;
