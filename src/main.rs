//! The program: a command line in, an exit code out.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Worth a fifth of the decisions of an embedded store: see `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(tollgate::cli::run(std::env::args_os()) as u8)
}
