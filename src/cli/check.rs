//! `tollgate check`: reports every error in rule files.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Exit, plural, print, print_error};
use crate::engine::Rules;
use crate::engine::rules::{CompileOptions, HashKey, RuleError, RuleErrors, SourceFile, compile};
use crate::provider::sources::{self, Sources};
use crate::settings;

/// Upper bound on stdin, in bytes; the same as for a file.
const MAX_STDIN_BYTES: u64 = 16 << 20;
/// Name of stdin in errors.
const STDIN: &str = "<stdin>";

/// Arguments of `tollgate check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Rule files or directories of them, together one set of rules; `-` for stdin.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Merge the rules of files with the same domain, instead of reporting an error.
    #[arg(long, visible_alias = "merge-domains", env, default_value = "false")]
    #[arg(value_name = "BOOL", value_parser = settings::boolean)]
    merge_domain_config: bool,
    /// Print errors and warnings as JSON on stdout; short for `--format json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Format of errors and warnings: `github` prints annotations for GitHub Actions.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Form of errors and warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// JSON on stdout.
    Json,
    /// Workflow commands of GitHub Actions on stdout.
    Github,
}

/// Compiles the rules as `serve` would and reports every error and warning.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let (files, unread) = read(&args.paths)?;
    let mut errors = RuleErrors::default();
    unread.into_iter().for_each(|error| errors.push(error));
    // The validity of rules does not depend on the secret, so `check` must not require it.
    let hash_key = Some(HashKey::new(b"any will do"));
    let options =
        CompileOptions { merge_domains: args.merge_domain_config, hash_key, ..CompileOptions::default() };
    let rules = compile(&files, options, None).unwrap_or_else(|found| {
        errors.extend(found);
        Rules::default()
    });
    match args.format {
        _ if args.json => report_json(&rules, &errors),
        Format::Text => report(&rules, &errors),
        Format::Json => report_json(&rules, &errors),
        Format::Github => report_github(&rules, &errors),
    }
}

pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<(Vec<SourceFile>, Vec<RuleError>)> {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for path in paths {
        if path == Path::new("-") {
            files.push(stdin()?);
            continue;
        }
        let Sources { files: found, unreadable: errors, ignored: _ } = sources::read(path);
        files.extend(found);
        unread.extend(errors);
    }
    if files.is_empty() && unread.is_empty() {
        bail!("there are no rule files there: their names end in .yaml or .yml");
    }
    Ok((files, unread))
}

fn stdin() -> anyhow::Result<SourceFile> {
    let mut text = String::new();
    let length = std::io::stdin().lock().take(MAX_STDIN_BYTES + 1).read_to_string(&mut text);
    if length.context("stdin cannot be read")? as u64 > MAX_STDIN_BYTES {
        bail!("stdin is larger than {MAX_STDIN_BYTES} bytes");
    }
    Ok(SourceFile { name: STDIN.to_owned(), text })
}

fn report(rules: &Rules, errors: &RuleErrors) -> anyhow::Result<Exit> {
    rules.warnings.reported.iter().for_each(|warning| print_error(&format!("warning: {warning}")));
    if rules.warnings.omitted > 0 {
        print_error(&format!("and {} more warnings", rules.warnings.omitted));
    }
    if !errors.is_empty() {
        print_error(&errors.to_string());
        bail!("found {}", plural(errors.count(), "error"));
    }
    rules.notes().reported.iter().for_each(|note| print_error(&format!("note: {note}")));
    let (rules, domains) = (rules.len(), rules.domains().count());
    print(&format!("OK: {} in {}\n", plural(rules, "rule"), plural(domains, "domain")))
}

fn report_json(rules: &Rules, errors: &RuleErrors) -> anyhow::Result<Exit> {
    let list = |found: &RuleErrors| found.reported.iter().map(error_json).collect::<Vec<_>>();
    let report = json!({
        "ok": errors.is_empty(),
        "rules": rules.len(),
        "domains": rules.domains().count(),
        "errors": list(errors),
        "omitted_errors": errors.omitted,
        "notes": list(&rules.notes()),
        "warnings": list(&rules.warnings),
        "omitted_warnings": rules.warnings.omitted,
    });
    print(&format!("{report:#}\n"))?;
    Ok(if errors.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Position and message; no position for an error of the file as a whole.
pub(super) fn error_json(error: &RuleError) -> Value {
    let number = |number: u32| (error.span.line > 0 && error.path.is_none()).then_some(number);
    json!({
        "file": error.source,
        "line": number(error.span.line),
        "column": number(error.span.column),
        "message": error.message,
    })
}

/// Annotations of GitHub Actions: `::error file=shop.yaml,line=3,col=5::MESSAGE`.
fn report_github(rules: &Rules, errors: &RuleErrors) -> anyhow::Result<Exit> {
    let annotations = |command: &str, found: &RuleErrors| {
        let annotation = |error: &RuleError| {
            let place = match error.span.line {
                0 => String::new(),
                line => format!(",line={line},col={}", error.span.column),
            };
            let (file, message) = (workflow_property(&error.source), workflow_data(&error.message));
            format!("::{command} file={file}{place}::{message}\n")
        };
        found.reported.iter().map(annotation).collect::<String>()
    };
    let text = annotations("error", errors)
        + &annotations("warning", &rules.warnings)
        + &annotations("notice", &rules.notes());
    print(&text)?;
    Ok(if errors.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Text of a workflow command.
fn workflow_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Property of a workflow command.
fn workflow_property(text: &str) -> String {
    workflow_data(text).replace(':', "%3A").replace(',', "%2C")
}
