//! Cost of each step of a request: `cargo bench --bench micro`.
//!
//! With a name behind `--` it measures what has that name in it: `cargo bench --bench micro -- key`.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on has failed")]

mod cores;
mod keys;
#[path = "../../support/limiter.rs"]
mod limiter;
mod matching;
mod messages;
mod plan;
mod rules;
mod step;

use criterion::{criterion_group, criterion_main};
use mimalloc::MiMalloc;

/// The program's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

criterion_group!(
    benches,
    messages::decode,
    matching::by_number_of_rules,
    matching::by_kind,
    keys::write,
    plan::plan_and_judge,
    plan::overrides,
    cores::count,
    step::alone,
    step::together,
    messages::encode,
    messages::answer
);
criterion_main!(benches);
