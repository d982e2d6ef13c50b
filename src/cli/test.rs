//! `tollgate test`: tests of rules in virtual time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use prost::Message as _;
use serde_json::Value;

use super::check::error_json;
use super::{Exit, plural, print, print_error};
use crate::clock::{Clock as _, SystemClock};
use crate::engine::rules::{RuleError, RuleErrors, SourceFile};
use crate::engine::{Decision, Request};
use crate::lab::suite::{Answer, Backend, FileReport, RunOptions, TestFile, report};
use crate::pb;
use crate::provider::sources::{self, Sources};
use crate::server::wire;
use crate::server::{AnswerSettings, HeaderStyle};
use crate::settings::{Settings, StoreSettings};
use crate::store::redis::RedisStore;

/// Largest test file, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Upper bound on waiting for Redis.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks for changes.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Arguments of `test`.
#[derive(Args, Debug)]
pub(super) struct TestArgs {
    /// Test files, or directories with files whose names end in `.test.yaml`.
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// Run only tests whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Count in this Redis instead of in memory. The keys begin with `tollgate-test:` and expire.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Write a JUnit report to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Run again whenever a test file or a rule file changes, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Print the share of rules that tests reach, and the rules that no test reaches.
    #[arg(long)]
    coverage: bool,
    /// Fail if tests reach less than this share of the rules, in percent.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
    /// Write actual results into the test files where an expectation is missing or fails.
    #[arg(long, conflicts_with_all = ["watch", "redis"])]
    record: bool,
}

/// Wrong usage: no tests, or a Redis that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

/// Runs the tests and reports them: 0 if all passed, 1 if one failed, 2 if a file is invalid.
pub(super) fn run(args: &TestArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let backend = Backends::new(args.redis.as_deref()).await?;
        let exit = run_once(args, &backend).await;
        if args.watch {
            return watch(args, &backend, exit).await;
        }
        backend.settle().await;
        exit.map(|(exit, _)| exit)
    })
}

/// Runs the tests again after each change. Never returns.
async fn watch(
    args: &TestArgs,
    backend: &Backends,
    mut last: anyhow::Result<(Exit, BTreeSet<PathBuf>)>,
) -> anyhow::Result<Exit> {
    loop {
        let mut watched: BTreeSet<PathBuf> = args.paths.iter().cloned().collect();
        match &last {
            Ok((_, read)) => watched.extend(read.iter().cloned()),
            Err(error) => print_error(&format!("error: {error:#}")),
        }
        print_error("waiting for changes");
        let before = fingerprint(&watched);
        while fingerprint(&watched) == before {
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
        last = run_once(args, backend).await;
    }
}

/// Files below `paths`, with their size and the time of their last change.
fn fingerprint(paths: &BTreeSet<PathBuf>) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    paths.iter().for_each(|path| walk(path, &mut files));
    let state = |path: PathBuf| {
        let state = fs::metadata(&path).map(|found| format!("{:?} {}", found.modified().ok(), found.len()));
        (path, state.unwrap_or_default())
    };
    files.into_iter().map(state).collect()
}

/// The file at `path`, or all files below the directory there, in the order of their names.
fn walk(path: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else {
        files.push(path.to_owned());
        return;
    };
    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let is_hidden =
        |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    // A link to a directory may lead back here.
    let is_loop = |path: &Path| path.is_symlink() && path.is_dir();
    entries.iter().filter(|path| !is_hidden(path) && !is_loop(path)).for_each(|path| walk(path, files));
}

/// Store of the counters of each file.
enum Backends {
    Memory,
    Redis { store: Arc<RedisStore>, is_cluster: bool, prefix: String },
}

impl Backends {
    async fn new(url: Option<&str>) -> anyhow::Result<Self> {
        let Some(url) = url else { return Ok(Self::Memory) };
        let variables = [("REDIS_URL", url), ("REDIS_CALL_TIMEOUT", "1s")];
        let settings = Settings::from_variables(&variables)?;
        let is_cluster = settings.store.is_cluster();
        let StoreSettings::Redis(redis) = settings.store else {
            bail!(UsageError("--redis: expected a URL such as redis://127.0.0.1:6379".to_owned()));
        };
        let store = RedisStore::connect_by_callers_clock(&redis.all)?;
        let ready = store.ready(REDIS_TIMEOUT).await;
        ready.map_err(|error| UsageError(format!("--redis {url}: {error}")))?;
        let prefix = format!("tollgate-test:{}:", SystemClock.now().as_micros());
        Ok(Self::Redis { store: Arc::new(store), is_cluster, prefix })
    }

    /// Store of the file with this number.
    fn of_file(&self, number: usize) -> Backend {
        match self {
            Self::Memory => Backend::Memory,
            Self::Redis { store, is_cluster, prefix } => Backend::Shared {
                store: Arc::clone(store) as _,
                prefix: format!("{prefix}{}:{number}:", SystemClock.now().as_micros()),
                is_cluster: *is_cluster,
            },
        }
    }

    async fn settle(&self) {
        if let Self::Redis { store, .. } = self {
            store.settle().await;
        }
    }
}

/// Results of all files.
#[derive(Default)]
struct Results {
    reports: Vec<FileReport>,
    errors: RuleErrors,
    /// Files and directories that rules were read from.
    read: BTreeSet<PathBuf>,
}

async fn run_once(args: &TestArgs, backends: &Backends) -> anyhow::Result<(Exit, BTreeSet<PathBuf>)> {
    let mut results = Results::default();
    for (number, path) in test_files(&args.paths)?.into_iter().enumerate() {
        let backend = backends.of_file(number);
        let options = RunOptions {
            filter: args.filter.as_deref(),
            backend: &backend,
            encode: &answer,
            record: args.record,
        };
        run_file(&path, &options, &mut results).await?;
    }
    let exit = report_all(args, &results)?;
    Ok((exit, results.read))
}

/// Test files at `paths`: each file, and those of each directory.
fn test_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let mut files = Vec::new();
        walk(path, &mut files);
        let before = found.len();
        found.extend(files.into_iter().filter(|file| sources::is_test_file(file)));
        if found.len() == before {
            let message = format!("no test files in {}: their names end in .test.yaml", path.display());
            bail!(UsageError(message));
        }
    }
    Ok(found)
}

async fn run_file(path: &Path, options: &RunOptions<'_>, results: &mut Results) -> anyhow::Result<()> {
    let Some(source) = read_file(path, &mut results.errors) else { return Ok(()) };
    let dir = path.parent().unwrap_or(Path::new(""));
    let read = RefCell::new(BTreeSet::new());
    let read_rules = |rules: &Path| {
        let path = cleaned(&dir.join(rules));
        let Sources { files, unreadable, ignored: _ } = sources::read(&path);
        read.borrow_mut().insert(path);
        (files, unreadable)
    };
    let loaded = TestFile::load(&source, &read_rules);
    results.read.extend(read.into_inner());
    match loaded {
        Ok(file) => {
            let report = file.run(options).await;
            if options.record && report.recorded_count() > 0 {
                let text = report.recorded_in(&source.text);
                fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
                let count = plural(report.recorded_count(), "expectation");
                print_error(&format!("{}: {count} recorded", path.display()));
            }
            results.reports.push(report);
        }
        Err(errors) => results.errors.extend(errors),
    }
    Ok(())
}

fn read_file(path: &Path, errors: &mut RuleErrors) -> Option<SourceFile> {
    let name = path.display().to_string();
    let text = match fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE_BYTES => {
            errors.push(RuleError::of_source(&name, format!("larger than {MAX_FILE_BYTES} bytes")));
            return None;
        }
        _ => fs::read_to_string(path),
    };
    match text {
        Ok(text) => Some(SourceFile { name, text }),
        Err(error) => {
            errors.push(RuleError::of_source(&name, format!("cannot be read: {error}")));
            None
        }
    }
}

/// `path` without `.` and `..`, unless a link makes that another place.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(clean.components().next_back(), Some(Component::Normal(_))) => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    if clean.canonicalize().ok() == path.canonicalize().ok() { clean } else { path.to_owned() }
}

/// The answer of the service to a request, by way of the messages that Envoy exchanges with it.
fn answer(request: &Request<'_>, decision: &Decision<'_>, style: &str) -> Answer {
    let entry = |entry: &crate::engine::Entry<'_>| pb::Entry {
        key: entry.key.to_vec().into(),
        value: entry.value.to_vec().into(),
    };
    let descriptors = request.descriptors.iter().map(|descriptor| pb::RateLimitDescriptor {
        entries: descriptor.entries.iter().map(entry).collect(),
        ..pb::RateLimitDescriptor::default()
    });
    let message = pb::RateLimitRequest {
        domain: String::from_utf8_lossy(request.domain).into_owned(),
        descriptors: descriptors.collect(),
        hits_addend: 0,
    };
    let message = message.encode_to_vec();
    let Ok(received) = wire::decode(&message) else { return Answer::default() };
    let style = match style {
        "none" => HeaderStyle::None,
        "x" => HeaderStyle::X,
        "ietf" => HeaderStyle::Ietf,
        _ => HeaderStyle::Draft06,
    };
    let settings = AnswerSettings { style, dynamic_metadata: true, ..AnswerSettings::default() };
    let encoded = wire::encode(&received, decision, &settings);
    let Ok(response) = pb::RateLimitResponse::decode(encoded) else { return Answer::default() };
    let headers = response.response_headers_to_add.iter();
    let mut json = wire::json_of_response(&response);
    Answer {
        headers: headers.map(|header| (header.key.clone(), header.value.clone())).collect(),
        body: String::from_utf8_lossy(&response.raw_body).into_owned(),
        metadata: json.get_mut("dynamicMetadata").map(Value::take).unwrap_or_default(),
    }
}

/// Prints the reports and returns the exit code.
fn report_all(args: &TestArgs, results: &Results) -> anyhow::Result<Exit> {
    let Results { reports, errors, .. } = results;
    let tests = || reports.iter().flat_map(|report| &report.tests);
    let failed = tests().filter(|test| test.failure.is_some()).count();
    if let Some(path) = &args.junit {
        let written = fs::write(path, report::junit(reports, errors));
        written.with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let coverage = report::merged_coverage(reports);
    if args.json {
        let mut json = report::as_json(reports);
        json["errors"] = errors.reported.iter().map(error_json).collect::<Vec<_>>().into();
        print(&format!("{json:#}\n"))?;
    } else {
        let mut text: String = reports.iter().map(report::text).collect();
        let requests: u64 = tests().map(|test| test.requests).sum();
        let all = plural(tests().count(), "test");
        let requests = plural(usize::try_from(requests).unwrap_or(usize::MAX), "request");
        text += &match failed {
            0 if tests().count() == 0 => String::new(),
            0 => format!("{all} passed, {requests}\n"),
            failed => format!("{failed} of {all} failed, {requests}\n"),
        };
        if args.coverage || args.min_coverage.is_some() {
            text += &report::coverage_text(&coverage);
        }
        print(&text)?;
    }
    if !errors.is_empty() {
        print_error(&errors.to_string());
        print_error(&format!("error: found {}", plural(errors.count(), "error")));
        return Ok(Exit::Usage);
    }
    if let (Some(filter), 0) = (&args.filter, tests().count()) {
        bail!(UsageError(format!("no test's name contains {filter:?}")));
    }
    let percent = report::covered_percent(&coverage);
    let min = args.min_coverage.map_or(0, usize::from);
    if percent < min {
        print_error(&format!("error: tests reach {percent} % of the rules, and --min-coverage is {min}"));
    }
    Ok(if failed > 0 || percent < min { Exit::Failed } else { Exit::Done })
}
