//! Reports of tests: text for people, JSON and `JUnit` XML for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::expect::Mark;
use super::facts::time_text;
use super::outcome::{CoveredRule, Failure, FileReport, TestReport, TimelineEntry};
use crate::engine::rules::RuleErrors;

/// More results than this are shown by their number.
const MAX_MARKS: usize = 60;

/// One line for each test, more for those that failed.
pub fn text(report: &FileReport) -> String {
    let mut text = String::new();
    for test in &report.tests {
        let word = if test.failure.is_some() { "FAIL" } else { "ok  " };
        let requests =
            if test.requests == 1 { "1 request".to_owned() } else { format!("{} requests", test.requests) };
        line(&mut text, &format!("{word}  {}:{}  {} ({requests})", report.file, test.line, test.name));
        if let Some(failure) = &test.failure {
            failure_text(&mut text, failure);
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn failure_text(text: &mut String, failure: &Failure) {
    let Failure { line: at_line, step, at, request, mismatches, timeline, explanation, order } = failure;
    let request = request.map(|request| format!(", request {request}")).unwrap_or_default();
    line(text, &format!("  step {step} at line {at_line}{request}, {} after the start", time_text(*at)));
    if let Some(order) = order {
        let order: Vec<_> = order.iter().map(u32::to_string).collect();
        line(text, &format!("  when the requests come in the order {}", order.join(", ")));
    }
    for mismatch in mismatches {
        let field = mismatch.field;
        line(text, &format!("  {field}: expected {}, got {}", mismatch.expected, mismatch.actual));
    }
    line(text, "  timeline:");
    for entry in timeline {
        let pace =
            if entry.every.is_zero() { String::new() } else { format!(" every {}", time_text(entry.every)) };
        let at = time_text(entry.at);
        let marks = marks_text(&entry.marks);
        line(text, format!("    {at:>8}  {marks}  {}{pace}", entry.text).trim_end());
        if let Some(expected) = entry.expected.as_ref().filter(|expected| !expected.starts_with(&entry.marks))
        {
            line(text, &format!("    {:>8}  {}  expected", "", marks_text(expected)));
        }
    }
    if let Some(explanation) = explanation {
        line(text, "  explanation, with the counters after the request:");
        for explained in explanation.to_string().lines() {
            line(text, &format!("    {explained}"));
        }
    }
}

/// `+++--`, or `+ x100, - x500` for many.
fn marks_text(marks: &[Mark]) -> String {
    if marks.len() <= MAX_MARKS {
        return marks.iter().map(|mark| mark.symbol()).collect();
    }
    let mut runs: Vec<(Mark, usize)> = Vec::new();
    for mark in marks {
        match runs.last_mut() {
            Some((last, count)) if last == mark => *count += 1,
            _ => runs.push((*mark, 1)),
        }
    }
    let shown: Vec<_> =
        runs.iter().take(8).map(|(mark, count)| format!("{} x{count}", mark.symbol())).collect();
    shown.join(", ") + if runs.len() > 8 { ", …" } else { "" }
}

/// Rules of all files, each once; one that any test reaches is reached.
pub fn merged_coverage(reports: &[FileReport]) -> Vec<CoveredRule> {
    let mut rules: Vec<CoveredRule> =
        reports.iter().flat_map(|report| report.coverage.iter().cloned()).collect();
    // Reached ones first among those of one place.
    rules.sort_by(|a, b| {
        (&a.source, a.line, &a.rule).cmp(&(&b.source, b.line, &b.rule)).then(b.is_reached.cmp(&a.is_reached))
    });
    rules.dedup_by(|a, b| (&a.source, a.line, &a.rule) == (&b.source, b.line, &b.rule));
    rules
}

/// Share of `rules` that are reached, in percent, rounded down; 100 if there is none.
pub fn covered_percent(rules: &[CoveredRule]) -> usize {
    let reached = rules.iter().filter(|rule| rule.is_reached).count();
    (reached * 100).checked_div(rules.len()).unwrap_or(100)
}

/// The share of rules that tests reach, and a line for each that none does.
pub fn coverage_text(rules: &[CoveredRule]) -> String {
    let reached = rules.iter().filter(|rule| rule.is_reached).count();
    let mut text = format!("coverage: {reached} of {} rules ({} %)\n", rules.len(), covered_percent(rules));
    for rule in rules.iter().filter(|rule| !rule.is_reached) {
        line(&mut text, &format!("  not reached: {}:{}  {}", rule.source, rule.line, rule.rule));
    }
    text
}

/// Everything as JSON.
pub fn as_json(reports: &[FileReport]) -> Value {
    let tests = || reports.iter().flat_map(|report| &report.tests);
    let coverage = merged_coverage(reports);
    let rule = |rule: &CoveredRule| json!({ "file": rule.source, "line": rule.line, "rule": rule.rule, "reached": rule.is_reached });
    json!({
        "tests": tests().count(),
        "failed": tests().filter(|test| test.failure.is_some()).count(),
        "requests": tests().map(|test| test.requests).sum::<u64>(),
        "coverage_percent": covered_percent(&coverage),
        "files": reports.iter().map(|report| json!({
            "file": report.file,
            "tests": report.tests.iter().map(test_json).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "rules": coverage.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn test_json(test: &TestReport) -> Value {
    json!({
        "name": test.name,
        "line": test.line,
        "requests": test.requests,
        "seconds": test.took.as_secs_f64(),
        "passed": test.failure.is_none(),
        "failure": test.failure.as_ref().map(failure_json),
    })
}

fn failure_json(failure: &Failure) -> Value {
    let marks = |marks: &[Mark]| marks.iter().map(|mark| mark.symbol()).collect::<String>();
    let entry = |entry: &TimelineEntry| {
        json!({
            "at_secs": entry.at.as_secs_f64(),
            "every_secs": entry.every.as_secs_f64(),
            "step": entry.text,
            "results": marks(&entry.marks),
            "expected": entry.expected.as_deref().map(marks),
        })
    };
    let mismatches = failure.mismatches.iter().map(|mismatch| {
        json!({ "field": mismatch.field, "expected": mismatch.expected, "actual": mismatch.actual })
    });
    json!({
        "line": failure.line,
        "step": failure.step,
        "at_secs": failure.at.as_secs_f64(),
        "request": failure.request,
        "order": failure.order,
        "mismatches": mismatches.collect::<Vec<_>>(),
        "timeline": failure.timeline.iter().map(entry).collect::<Vec<_>>(),
        "explanation": failure.explanation,
    })
}

/// `JUnit` XML, as CI systems read it: a suite for each file. Those of files that could not be run have an error.
pub fn junit(reports: &[FileReport], errors: &RuleErrors) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for report in reports {
        let failed = report.tests.iter().filter(|test| test.failure.is_some()).count();
        let took: Duration = report.tests.iter().map(|test| test.took).sum();
        let file = escaped(&report.file);
        let (count, secs) = (report.tests.len(), took.as_secs_f64());
        let suite = format!(
            "  <testsuite name=\"{file}\" tests=\"{count}\" failures=\"{failed}\" errors=\"0\" time=\"{secs:.6}\">"
        );
        line(&mut xml, &suite);
        for test in &report.tests {
            let head = format!(
                "    <testcase name=\"{}\" classname=\"{file}\" file=\"{file}\" line=\"{}\" time=\"{:.6}\"",
                escaped(&test.name),
                test.line,
                test.took.as_secs_f64()
            );
            let Some(failure) = &test.failure else {
                line(&mut xml, &format!("{head}/>"));
                continue;
            };
            let mut details = String::new();
            failure_text(&mut details, failure);
            let message = failure.mismatches.iter().map(|mismatch| {
                format!("{}: expected {}, got {}", mismatch.field, mismatch.expected, mismatch.actual)
            });
            let message = message.collect::<Vec<_>>().join("; ");
            line(&mut xml, &format!("{head}>"));
            line(
                &mut xml,
                &format!("      <failure message=\"{}\">{}</failure>", escaped(&message), escaped(&details)),
            );
            line(&mut xml, "    </testcase>");
        }
        line(&mut xml, "  </testsuite>");
    }
    xml + &invalid_files(errors) + "</testsuites>\n"
}

/// A suite for each file with errors.
fn invalid_files(errors: &RuleErrors) -> String {
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for error in &errors.reported {
        files.entry(&error.source).or_default().push(error.to_string());
    }
    for file in &errors.omitted_sources {
        files.entry(file).or_default().push(format!("{file}: errors that are not shown"));
    }
    let mut xml = String::new();
    for (file, errors) in files {
        let all = errors.join("\n");
        let first = all.lines().next().unwrap_or_default();
        let (file, first, all) = (escaped(file), escaped(first), escaped(&all));
        line(
            &mut xml,
            &format!("  <testsuite name=\"{file}\" tests=\"1\" failures=\"0\" errors=\"1\" time=\"0\">"),
        );
        line(
            &mut xml,
            &format!("    <testcase name=\"is valid\" classname=\"{file}\" file=\"{file}\" time=\"0\">"),
        );
        line(&mut xml, &format!("      <error message=\"{first}\">{all}</error>"));
        line(&mut xml, "    </testcase>");
        line(&mut xml, "  </testsuite>");
    }
    xml
}

/// `text` in XML. Characters that XML cannot have at all are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => {
                // Writing to a text cannot fail.
                write!(escaped, "&#{};", u32::from(c)).ok();
            }
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(char::REPLACEMENT_CHARACTER)
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_results_are_runs() {
        let marks = [vec![Mark::Allowed; 100], vec![Mark::Denied; 500]].concat();
        assert_eq!(marks_text(&marks), "+ x100, - x500");
        assert_eq!(marks_text(&marks[98..102]), "++--");
    }

    #[test]
    fn xml_has_no_character_of_its_own_from_a_name() {
        assert_eq!(escaped("a<b>&\"c\"\n\u{1b}é"), "a&lt;b&gt;&amp;&quot;c&quot;&#10;\u{fffd}é");
    }

    #[test]
    fn coverage_of_files_that_share_rules_is_joined() {
        let rule = |line, is_reached| CoveredRule {
            source: "a.yaml".to_owned(),
            line,
            rule: format!("shop.{line}"),
            is_reached,
        };
        let report = |coverage| FileReport { coverage, ..FileReport::default() };
        let merged = merged_coverage(&[
            report(vec![rule(1, false), rule(2, true), rule(3, false)]),
            report(vec![rule(1, true), rule(2, false)]),
        ]);
        assert_eq!(merged, [rule(1, true), rule(2, true), rule(3, false)]);
        assert_eq!(covered_percent(&merged), 66);
        assert_eq!(
            coverage_text(&merged),
            "coverage: 2 of 3 rules (66 %)\n  not reached: a.yaml:3  shop.3\n"
        );
    }
}
