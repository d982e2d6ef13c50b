//! `tollgate replay`: what rules would have done with the requests of a log.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::{Exit, check, print, print_error};
use crate::clock::{Clock as _, SystemClock};
use crate::engine::rules::{CompileOptions, HashKey, RuleErrors, compile};
use crate::engine::{ChargeMode, Modes, Timestamp, duration};
use crate::lab::replay::{
    LogFormat, LogSource, Progress, ReplayOptions, Report, RulesToReplay, csv_files, html, replay,
};
use crate::settings;

/// Text below the options.
pub(super) const AFTER_HELP: &str = "Examples:\n  \
    tollgate replay --rules next --against rules decisions.ndjson\n  \
    tollgate replay --rules rules --envoy-config envoy.yaml access-*.log.gz\n  \
    tollgate replay --rules rules --map map.yaml --html report.html access.log";

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `replay`.
#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Log files, plain or compressed with gzip or zstd; `-` for stdin, which is the default. Several files are merged
    /// by time.
    #[arg(value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Rule file, or a directory of them, to replay the log with.
    #[arg(long, value_name = "PATH")]
    rules: PathBuf,
    /// Rules to compare with, such as those in force.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Map file: the format of the log, and the descriptors of its requests.
    #[arg(long, value_name = "FILE", conflicts_with = "envoy_config")]
    map: Option<PathBuf>,
    /// Configuration of Envoy: the format of its access log, and the descriptors that its `rate_limits` produce.
    #[arg(long, value_name = "FILE")]
    envoy_config: Option<PathBuf>,
    /// Format of the log: `envoy`, `json`, `combined`, `common`, `csv`, `tollgate`, or a format string of Envoy. Unset:
    /// the format in the map file or in the configuration of Envoy, else tollgate's own decision log.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Upper bound on the time by which lines of the log are out of order.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    reorder: Duration,
    /// Upper bound on lines that cannot be read, in percent. Beyond it the command stops with exit code 2.
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = parse_percent)]
    max_bad: f64,
    /// Share of hits, in percent, that suggested limits may deny.
    #[arg(long, value_name = "PERCENT", default_value = "0.1", value_parser = parse_percent)]
    suggest: f64,
    /// Compare the verdicts in the log with the verdicts of the rules that were in force (`--against`, else `--rules`),
    /// and warn if they differ.
    #[arg(long)]
    identity: bool,
    /// Number of offenders to report.
    #[arg(long, value_name = "COUNT", default_value = "20")]
    top: usize,
    /// Upper bound on the memory of counters, for each set of rules, in MiB.
    #[arg(long, value_name = "MIB", default_value = "2048", value_parser = clap::value_parser!(u32).range(1..))]
    max_memory: u32,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the report as CSV files into this directory.
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
    /// Write the report as one HTML file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print no progress. Without this flag, progress is printed if stderr is a terminal.
    #[arg(long)]
    quiet: bool,
    /// Merge the rules of files with the same domain, instead of reporting an error.
    #[arg(long, env, default_value = "false", value_name = "BOOL", value_parser = settings::boolean)]
    merge_domain_config: bool,
    /// Count nothing for a denied request, unless the rule sets `charge`; as the setting of the service.
    #[arg(long, env, default_value = "false", value_name = "BOOL", value_parser = settings::boolean)]
    stop_cache_key_increment_when_overlimit: bool,
    /// Treat every rule as if it had `quota_mode`; as the setting of the service.
    #[arg(long, env, default_value = "false", value_name = "BOOL", value_parser = settings::boolean)]
    quota_mode: bool,
}

/// Wrong usage: rules, a map or a log that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "not a duration such as 60s or 5m".to_owned())
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
    number
        .filter(|number| (0.0..=100.0).contains(number))
        .ok_or_else(|| "not a number from 0 to 100".to_owned())
}

/// Replays the logs and reports.
pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let rules = rules(args, &args.rules)?;
    let against = args.against.as_deref().map(|path| self::rules(args, path)).transpose()?;
    let log = log_format(args)?;
    let options = ReplayOptions {
        reorder: args.reorder,
        max_bad_percent: args.max_bad,
        top: args.top,
        denied_percent: args.suggest,
        modes: Modes { quota_mode: args.quota_mode, ..Modes::default() },
        max_counter_bytes: usize::try_from(u64::from(args.max_memory) << 20).unwrap_or(usize::MAX),
    };
    let sources = sources(&args.logs)?;
    create_files(args)?;
    let mut meter = Meter::new(!args.quiet && io::stderr().is_terminal());
    let report = replay(&rules, against.as_ref(), (&log, sources), options, &mut |now| meter.show(now))?;
    meter.finish();
    if args.identity
        && let Some(warning) = report.identity_warning()
    {
        print_error(&format!("warning: {warning}"));
    }
    let exit = if args.json {
        print(&format!("{:#}\n", serde_json::to_value(&report)?))
    } else {
        print(&format!("{report}\n"))
    };
    write_files(args, &report)?;
    exit
}

/// The rules at `path`.
fn rules(args: &ReplayArgs, path: &Path) -> anyhow::Result<RulesToReplay> {
    let (files, unread) = check::read(&[path.to_owned()])?;
    let mut errors = RuleErrors::default();
    unread.into_iter().for_each(|error| errors.push(error));
    // Hashes only name counters, and any secret names them as well.
    let secret = settings::environment("HASH_KEY");
    let options = CompileOptions {
        merge_domains: args.merge_domain_config,
        charge: args.stop_cache_key_increment_when_overlimit.then_some(ChargeMode::IfAllowed),
        hash_key: Some(HashKey::new(secret.as_deref().unwrap_or("any will do").as_bytes())),
        ..CompileOptions::default()
    };
    match compile(&files, options, None) {
        Ok(rules) if errors.is_empty() => {
            Ok(RulesToReplay { name: path.display().to_string(), rules: Arc::new(rules) })
        }
        Ok(_) => Err(UsageError(errors.to_string()).into()),
        Err(found) => {
            errors.extend(found);
            Err(UsageError(errors.to_string()).into())
        }
    }
}

fn log_format(args: &ReplayArgs) -> anyhow::Result<LogFormat> {
    let format = args.format.as_deref();
    let read = |path: &Path| {
        fs::read_to_string(path)
            .map_err(|error| UsageError(format!("{} cannot be read: {error}", path.display())))
    };
    let (path, log) = match (&args.map, &args.envoy_config) {
        (Some(path), _) => (path, LogFormat::from_map(&read(path)?, format)),
        (None, Some(path)) => (path, LogFormat::from_envoy_config(&read(path)?, format)),
        (None, None) if format.is_none_or(|format| format == "tollgate") => {
            return Ok(LogFormat::decision_log());
        }
        (None, None) => {
            let text = "a log of this format needs --map FILE or --envoy-config FILE, for the descriptors of its requests";
            return Err(UsageError(text.to_owned()).into());
        }
    };
    log.map_err(|error| UsageError(format!("{}: {error}", path.display())).into())
}

/// The logs, or stdin.
fn sources(logs: &[PathBuf]) -> anyhow::Result<Vec<LogSource>> {
    let stdin = [PathBuf::from("-")];
    let logs = if logs.is_empty() { &stdin } else { logs };
    let source = |path: &PathBuf| {
        if path == Path::new("-") {
            return Ok(LogSource { name: "<stdin>".to_owned(), reader: Box::new(io::stdin()) });
        }
        let name = path.display().to_string();
        let file = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            false => Ok(file),
        });
        let file = file.map_err(|error| UsageError(format!("{name} cannot be read: {error}")))?;
        Ok(LogSource { name, reader: Box::new(file) })
    };
    logs.iter().map(source).collect()
}

/// Creates the files of the report, so that a replay does not end with one that cannot be written.
fn create_files(args: &ReplayArgs) -> anyhow::Result<()> {
    let create = |path: &Path| {
        let opened = File::options().create(true).append(true).open(path);
        opened.map_err(|error| UsageError(format!("{} cannot be written: {error}", path.display())))
    };
    if let Some(path) = &args.html {
        create(path)?;
    }
    if let Some(dir) = &args.csv {
        fs::create_dir_all(dir)
            .map_err(|error| UsageError(format!("{} cannot be created: {error}", dir.display())))?;
        create(&dir.join("timeline.csv"))?;
    }
    Ok(())
}

fn write_files(args: &ReplayArgs, report: &Report) -> anyhow::Result<()> {
    let write = |path: &Path, text: &str| {
        fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    };
    if let Some(path) = &args.html {
        write(path, &html(report))?;
    }
    if let Some(dir) = &args.csv {
        csv_files(report).iter().try_for_each(|(name, text)| write(&dir.join(name), text))?;
    }
    Ok(())
}

/// Progress on stderr.
struct Meter {
    is_on: bool,
    start: Timestamp,
    shown: Timestamp,
    has_line: bool,
}

impl Meter {
    fn new(is_on: bool) -> Self {
        let start = SystemClock.now();
        Self { is_on, start, shown: start, has_line: false }
    }

    #[expect(clippy::print_stderr, reason = "progress goes to the terminal")]
    fn show(&mut self, Progress { bytes, lines, at }: Progress) {
        if !self.is_on {
            return;
        }
        let now = SystemClock.now();
        if now.since(self.shown) < PROGRESS_INTERVAL {
            return;
        }
        (self.shown, self.has_line) = (now, true);
        let rate = lines as f64 / now.since(self.start).as_secs_f64().max(0.001);
        eprint!("\r{lines} lines, {} MiB, {rate:.0} lines/s, up to {at} ", bytes >> 20);
    }

    fn finish(&self) {
        if self.has_line {
            print_error("");
        }
    }
}
