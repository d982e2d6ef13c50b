//! The report as tables for spreadsheets.

use super::Report;
use super::rfc3339;
use super::rules::RulesReport;
use crate::engine::Timestamp;

/// Files of the report: name and content. Texts that a spreadsheet would take for a formula begin with a quote.
pub fn csv_files(report: &Report) -> Vec<(String, String)> {
    let mut files = vec![("timeline.csv".to_owned(), timeline(report))];
    let sides = [("", Some(&report.rules)), ("against-", report.against.as_ref())];
    for (prefix, side) in sides {
        if let Some(side) = side {
            files.push((format!("{prefix}rules.csv"), rules(side)));
            files.push((format!("{prefix}offenders.csv"), offenders(side)));
        }
    }
    files
}

fn timeline(report: &Report) -> String {
    let mut text = "start,interval_secs,requests,denied,denied_against\n".to_owned();
    let length = report.timeline.interval_secs();
    for (start_secs, interval) in report.timeline.intervals() {
        let start = rfc3339(Timestamp::from_secs(start_secs));
        text += &format!(
            "{start},{length},{},{},{}\n",
            interval.requests, interval.denied, interval.denied_against
        );
    }
    text
}

fn rules(side: &RulesReport) -> String {
    let mut text = "rule,limit_name,requests_per_unit,window_secs,hits,denied,shadowed,keys,denied_keys,denied_by_limit,\
        p50_use_percent,p99_use_percent,max_use_percent,busiest_second,busiest_second_hits,busiest_minute,\
        busiest_minute_hits,suggested\n"
        .to_owned();
    for rule in &side.rules {
        for limit in &rule.limits {
            let busiest = [&limit.busiest_second, &limit.busiest_minute].map(|busiest| {
                let found = busiest.as_ref().map(|busiest| format!("{},{}", busiest.start, busiest.hits));
                found.unwrap_or_else(|| ",".to_owned())
            });
            let [p50, p99, max] = limit.use_percent;
            text += &format!(
                "{},{},{},{},{},{},{},{},{},{},{p50:.1},{p99:.1},{max:.1},{},{},{}\n",
                cell(&rule.rule),
                cell(limit.name.as_deref().unwrap_or_default()),
                limit.requests_per_unit,
                limit.window_secs,
                rule.hits,
                rule.denied,
                rule.shadowed,
                rule.keys,
                rule.denied_keys,
                limit.denied,
                busiest[0],
                busiest[1],
                limit.suggested.map(|limit| limit.to_string()).unwrap_or_default(),
            );
        }
    }
    text
}

fn offenders(side: &RulesReport) -> String {
    let mut text = "rule,key,hits,denied\n".to_owned();
    for offender in &side.offenders {
        text += &format!(
            "{},{},{},{}\n",
            cell(&offender.rule),
            cell(&offender.key),
            offender.hits,
            offender.denied
        );
    }
    text
}

/// A text as a field. Keys come from requests, so that one may be a formula.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if text.contains([',', '"', '\n', '\r']) || !guard.is_empty() {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_requests_are_fields_and_no_formulas() {
        for (text, expected) in [
            ("user=ann", "user=ann"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }
}
