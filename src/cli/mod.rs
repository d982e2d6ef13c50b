//! The commands, one file or folder each.

mod admin;
mod admin_client;
mod banner;
mod bench;
mod check;
mod explain;
mod manual;
mod process;
mod program_name;
mod query;
mod replay;
mod schema;
mod serve;
mod test;
mod top;

use std::ffi::OsString;
use std::io::Write as _;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::bench::{BenchArgs, READING, UsageError as BenchUsageError};
use crate::lab::replay::ReplayError;
use crate::settings::{self, RawSettings, SettingErrors};

/// Result of a command: the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// 0: success.
    Done = 0,
    /// 1: failure, or `check` found errors.
    Failed = 1,
    /// 2: wrong usage or settings.
    Usage = 2,
    /// 3: `query` got OVER_LIMIT.
    OverLimit = 3,
}

const EXIT_CODES: &str = "Exit codes:\n  \
    0  done; for `query`, the request may pass\n  \
    1  failed; for `check`, there are errors; for `test`, a test failed\n  \
    2  wrong usage or settings; for `test`, an invalid file; for `replay`, too many bad lines\n  \
    3  for `query`, the request is over a limit";

/// Rate-limit service for Envoy, and for applications over gRPC or HTTP.
///
/// Without a command it serves; `tollgate serve --help` lists every setting.
#[derive(Parser, Debug)]
#[command(name = "tollgate", version, long_version = LONG_VERSION, after_help = EXIT_CODES)]
#[command(override_usage = "tollgate [COMMAND]")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve rate limits until SIGTERM; the default.
    #[command(long_about = SERVE)]
    Serve(Box<RawSettings>),
    /// Report every error in rule files.
    Check(check::CheckArgs),
    /// Send a request to a running service and print the answer.
    Query(query::QueryArgs),
    /// Show limited clients, top keys and denials, live in a terminal.
    Top(top::TopArgs),
    /// Run tests of rules in virtual time.
    Test(test::TestArgs),
    /// Explain which rule applies to a request, and why.
    Explain(explain::ExplainArgs),
    /// Replay a log of requests, and report what rules would have denied.
    #[command(after_long_help = replay::AFTER_HELP)]
    Replay(Box<replay::ReplayArgs>),
    /// Inspect and change a running service: overrides, counters, lockouts.
    Admin(admin::AdminCommandArgs),
    /// Print the JSON Schema of rule files or test files, for editors.
    Schema(schema::SchemaArgs),
    /// Load-test a running service.
    #[command(after_long_help = READING)]
    Bench(Box<BenchArgs>),
    /// Print a man page: `tollgate man serve | man -l -`.
    Man(manual::ManArgs),
    /// Print a completion script for a shell.
    Completions(manual::CompletionsArgs),
    /// Print the table of settings for docs/settings.md.
    #[command(hide = true)]
    Settings,
}

/// Version, build and time zone database, as `--version` prints them.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\n", env!("TOLLGATE_BUILD"));

const SERVE: &str = "Serve rate limits until SIGTERM; the default.\n\n\
    Every setting is an environment variable and a flag; the flag takes precedence. Variables of \
    envoyproxy/ratelimit keep their names, meanings and defaults. An empty variable counts as unset. Booleans \
    are 1, t, true, 0, f or false; durations are written as 300ms, 10s or 1m30s. SIGHUP reads the rules again.";

/// Runs the command line `args`, which begins with the name of the program. Failures are printed to stderr.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let mut args: Vec<_> = args.into_iter().collect();
    let program = args.first().cloned().unwrap_or_else(|| env!("CARGO_PKG_NAME").into());
    let mut ignored_arguments = Vec::new();
    if program_name::is_ratelimit(&program) {
        let serve;
        (serve, ignored_arguments) = program_name::serve_arguments(args.drain(1..));
        args.extend(serve);
    }
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            // clap's error may be the help that was asked for. If even that cannot be
            // printed, it cannot be reported.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let outcome = match cli.command {
        Command::Serve(raw) => serve::run(&raw, &program, &ignored_arguments),
        Command::Check(args) => check::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Admin(args) => admin::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Bench(args) => bench::run(*args),
        Command::Man(args) => manual::man(&args, command()),
        Command::Completions(args) => manual::completions(&args, command()),
        Command::Settings => print(&settings::markdown()),
    };
    outcome.unwrap_or_else(|error| {
        print_error(&format!("error: {error:#}"));
        let is_usage_error = error.is::<SettingErrors>()
            || error.is::<query::UsageError>()
            || error.is::<test::UsageError>()
            || error.is::<replay::UsageError>()
            || error.is::<ReplayError>()
            || error.is::<BenchUsageError>();
        if is_usage_error { Exit::Usage } else { Exit::Failed }
    })
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(with_default_command(args))?)
}

/// The command line, with its settings prepared.
fn command() -> clap::Command {
    ["serve", "check", "explain", "replay"]
        .into_iter()
        .fold(Cli::command(), |command, name| command.mut_subcommand(name, settings::prepare))
        // Before and after the action.
        .mut_subcommand("admin", |admin| admin.mut_args(|arg| arg.global(true)))
}

/// Inserts `serve` if the command line has no command: nothing follows the program's name, or a flag of
/// `serve`.
fn with_default_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    let is_own_flag = |arg: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|own| arg == own);
    let names_no_command = match args.get(1) {
        Some(first) => first.as_encoded_bytes().starts_with(b"-") && !is_own_flag(first),
        None => !args.is_empty(),
    };
    if names_no_command {
        args.insert(1, "serve".into());
    }
    args
}

/// Writes `text` to stdout.
fn print(text: &str) -> anyhow::Result<Exit> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(Exit::Done)
}

/// A count with its noun: `1 rule`, `2 rules`.
fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Writes `text` and a line break to stderr.
#[expect(clippy::print_stderr, reason = "errors of commands go to the terminal")]
fn print_error(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, clap::Error> {
        let args = std::iter::once("tollgate").chain(args.iter().copied());
        parse(args.map(OsString::from)).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        for args in [&[][..], &["serve"], &["--grpc-port", "1"], &["--shadow-mode"], &["serve", "--port=1"]] {
            assert!(matches!(parsed(args), Ok(Command::Serve(_))), "{args:?}");
        }
        for args in [&["check", "x"][..], &["query", "-d", "x", "a=b"]] {
            assert!(matches!(parsed(args), Ok(Command::Check(_) | Command::Query(_))), "{args:?}");
        }
    }

    #[test]
    fn help_is_no_failure_and_a_word_that_means_nothing_is() {
        for (args, is_failure) in [
            (&["--help"][..], false),
            (&["-h"], false),
            (&["help"], false),
            (&["help", "query"], false),
            (&["--version"], false),
            (&["serve", "--help"], false),
            (&["srve"], true),
            (&["--no-such-setting", "1"], true),
            (&["query"], true),
        ] {
            let error = parsed(args).map(|_| ()).unwrap_err();
            assert_eq!(error.use_stderr(), is_failure, "{args:?}");
        }
    }

    #[test]
    fn man_pages_and_completions_cover_every_command() {
        for command in command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
        for args in [&["man"][..], &["man", "serve"], &["completions", "bash"], &["completions", "zsh"]] {
            assert!(matches!(parsed(args), Ok(Command::Man(_) | Command::Completions(_))), "{args:?}");
        }
        assert!(parsed(&["completions", "no-such-shell"]).is_err());
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!([0, 1, 2].map(|count| plural(count, "rule")), ["0 rules", "1 rule", "2 rules"]);
    }

    #[test]
    fn help_shows_every_setting_with_its_variable_and_nothing_of_the_environment() {
        let help = parsed(&["serve", "--help"]).map(|_| ()).unwrap_err().to_string();
        for row in settings::table() {
            assert!(help.contains(&format!("[env: {}]", row.variable)), "{}", row.variable);
            assert!(help.contains(&row.heading) && help.contains(&row.flag), "{}", row.flag);
        }
    }
}
