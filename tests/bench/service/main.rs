//! Cost of the program on this machine, beside a service that decides nothing: `cargo bench --bench service`.
//!
//! It starts everything itself, and needs a `redis-server`. `--help` behind `--` lists its options, and
//! `docs/performance.md` of what the tables say.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has failed")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables, and how far they are")]

mod cases;
mod ceiling;
mod charts;
mod figures;
mod load;
mod machine;
mod micro;
mod options;
mod proc;
mod rounds;
mod servers;
mod table;
mod tail;

#[path = "../../support"]
mod support {
    pub(crate) mod ports;
    #[expect(dead_code, reason = "tests do more to a process than to start and to end it")]
    pub(crate) mod process;
}

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};

use self::cases::World;
use self::charts::Chart;
use self::options::{Case, Options};
use self::rounds::Measured;

/// The program's allocator: the ceiling, which is this program, must not be slower for having another.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(port) = options.ceiling {
        ceiling::serve(port);
        return ExitCode::SUCCESS;
    }
    let Some(redis) = machine::redis_version() else {
        eprintln!("error: redis-server: not found. Debian has it in: redis-server");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
        let mut interrupt = signal(SignalKind::interrupt()).expect("a signal handler");
        // What was started ends with the future that owns it.
        tokio::select! {
            () = report(&options, &redis) => ExitCode::SUCCESS,
            _ = terminate.recv() => ExitCode::FAILURE,
            _ = interrupt.recv() => ExitCode::FAILURE,
        }
    })
}

/// Measures what was asked for, and prints each table as soon as it is complete.
async fn report(options: &Options, redis: &str) {
    println!("{}\n", machine::describe(options, redis));
    if let Some(folder) = &options.micro {
        println!("### One step at a time\n\n{}", micro::table(folder));
    }
    let world = World::start(options).await;
    let costs = rounds::run(&cases::costs(&world, options), options).await;
    if !costs.is_empty() {
        println!("### Requests per CPU second\n\n{}", table::costs(&costs));
    }
    if options.wants(Case::Open) || options.wants(Case::Tail) {
        steady(&world, options).await;
    }
    if let Some(rows) = figures::table(options).await {
        println!("### Start and memory\n\n{rows}");
    }
    let grown = cases::growing(options).await;
    let growth = rounds::run(&cases::growth(&world, &grown, options), options).await;
    drop(grown);
    if !growth.is_empty() {
        println!("### How cost grows\n\n{}", table::costs(&growth));
    }
    let leases = rounds::run(&cases::leases(&world, options), options).await;
    if !leases.is_empty() {
        println!("### Leases\n\n{}", table::costs(&leases));
    }
    let replicas = rounds::run(&cases::replicas(&world, options), options).await;
    if !replicas.is_empty() {
        println!("### Replicas\n\n{}", table::costs(&replicas));
    }
    if let Some(folder) = &options.charts {
        let charts = charts_of(&costs, &growth, &leases, &replicas);
        println!("### Charts\n\n{}", charts::write(folder, &charts).trim_end());
    }
}

/// Latencies at a steady rate.
async fn steady(world: &World, options: &Options) {
    let (per_second, shape) = cases::steady(world, options).await;
    if options.wants(Case::Open) {
        let measured = rounds::run(&[cases::open(world, shape.clone())], options).await;
        println!("### Latency at {per_second} requests a second\n\n{}", table::latencies(&measured));
    }
    if options.wants(Case::Tail) {
        let services = tail::Services::start(options).await;
        let measured = tail::run(world, &services, &shape, options).await;
        println!("### Tail latency at {per_second} requests a second\n\n{}", table::tails(&measured));
    }
}

/// The charts of everything that was measured.
fn charts_of<'m>(
    costs: &'m [Measured],
    growth: &'m [Measured],
    leases: &'m [Measured],
    replicas: &'m [Measured],
) -> Vec<Chart<'m>> {
    let of = |word: &'static str| growth.iter().filter(|group| group.title.contains(word)).collect();
    let share =
        |name, title, measured| Chart { name, title, measured, figure: charts::share, mark: Some(1.0) };
    let figure = |name, title, measured: &'m [Measured], figure| Chart {
        name,
        title,
        measured: measured.iter().collect(),
        figure,
        mark: None,
    };
    let redis = "CPU time of Redis for a decision, in µs";
    let program = "CPU time of the program for a decision, in µs";
    vec![
        share("ceiling", "Requests per CPU second, as a share of the ceiling", costs.iter().collect()),
        share("rules", "Share of the ceiling with more rules", of("rules")),
        share("descriptors", "Share of the ceiling with more descriptors in a request", of("descriptor")),
        share("keys", "Share of the ceiling with more keys", of("keys")),
        share("connections", "Share of the ceiling with more connections", of("connection")),
        share("leases", "Share of the ceiling with and without leases", leases.iter().collect()),
        figure("leases-redis", redis, leases, charts::redis_us),
        figure("leases-latency", "Median latency in a closed loop, in µs", leases, charts::p50_us),
        figure("replicas-redis", redis, replicas, charts::redis_us),
        figure("replicas-program", program, replicas, charts::program_us),
    ]
}
