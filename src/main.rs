//! The program: a command line in, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tollgate::cli::run(std::env::args_os()) as u8)
}
