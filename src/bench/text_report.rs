//! Report as text. No I/O, no clock.

use super::report::{ErrorsOfCode, Percentiles, Report, as_float, ratio};

/// Table and remarks.
pub(super) fn show(report: &Report) -> String {
    let mut text = heading(report);
    let result = |count: u64| format!("{:.1} %", 100.0 * ratio(count, as_float(report.requests)));
    let mut counts = vec![
        ["requests".to_owned(), report.requests.to_string(), rate(report)],
        ["  admitted".to_owned(), report.admitted.to_string(), result(report.admitted)],
        ["  denied".to_owned(), report.denied.to_string(), result(report.denied)],
        ["  errors".to_owned(), report.errors.to_string(), result(report.errors)],
    ];
    for (code, ErrorsOfCode { count, example }) in &report.errors_by_code {
        counts.push([format!("    {code}"), count.to_string(), example.clone()]);
    }
    if report.kind == "open" {
        counts.push(["not sent".to_owned(), report.unsent.to_string(), String::new()]);
    }
    text += &table(&counts);
    text.push('\n');
    let header = ["", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"].map(str::to_owned);
    let row = |name: &str, percentiles: &Percentiles| {
        let Percentiles { mean, p50, p90, p99, p999, max } = percentiles;
        let [mean, p50, p90, p99, p999, max] = [mean, p50, p90, p99, p999, max].map(|us| time(*us));
        [name.to_owned(), mean, p50, p90, p99, p999, max]
    };
    let mut times = vec![header, row("latency", &report.latency_us)];
    times.extend(report.schedule_lag_us.as_ref().map(|lag| row("sent late by", lag)));
    text += &table(&times);
    for remark in remarks(report) {
        text += &format!("\n{remark}\n");
    }
    text
}

fn heading(report: &Report) -> String {
    let pace = match (report.concurrency, report.rate_per_second) {
        (Some(concurrency), _) => format!("closed loop, {concurrency} requests in flight"),
        (None, rate) => format!("open loop, {} requests per second", rate.unwrap_or_default()),
    };
    format!(
        "{pace}, {} connections, {} threads, {} s at {}\n{} in domain {}, {} keys, {}\n\n",
        report.connections,
        report.threads,
        report.duration_seconds,
        report.address,
        report.descriptors.join(" "),
        report.domain,
        report.keys,
        report.distribution
    )
}

/// Rate of ended requests, and of decided ones if some were not.
fn rate(report: &Report) -> String {
    let Report { requests_per_second, decisions_per_second, .. } = report;
    let mut text = format!("{requests_per_second} per second");
    if decisions_per_second < requests_per_second {
        text += &format!(", {decisions_per_second} of them decided");
    }
    text
}

/// Warnings; empty if nothing went wrong.
fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    if report.stopped_early {
        remarks.push("Stopped early: this is what had been measured by then.".to_owned());
    }
    if let Some(rate) = report.missed_rate() {
        remarks.push(format!(
            "Only {} decisions came each second, where {rate} were asked for. What else was due failed, was not \
             sent, or was decided after the time that was measured.",
            report.decisions_per_second
        ));
    }
    if report.unsent > 0 {
        remarks.push(format!(
            "{} requests were due and not sent: {} were in flight already, no connection was up, or it was too \
             late for them. The latencies are those of the others.",
            report.unsent,
            report.max_in_flight.unwrap_or_default()
        ));
    }
    if let Some(most) = report.connection_bound {
        let so = match report.concurrency {
            Some(concurrency) => format!("there were not always {concurrency}"),
            None => "some were sent late or not at all".to_owned(),
        };
        remarks.push(format!(
            "The service lets {most} requests be in flight on a connection, and others waited for that, so that \
             {so}. More --connections let more be in flight."
        ));
    }
    if report.lost_connections > 0 {
        remarks.push(format!("Connections were lost and set up again: {}.", report.lost_connections));
    }
    if report.generator_saturated {
        let why = if report.kind == "open" {
            "sent requests later than they were due, which the latencies include".to_owned()
        } else {
            format!("had something to do for {:.0} % of the time", 100.0 * report.generator_busy)
        };
        remarks.push(format!(
            "The generator {why}: it may itself be what was measured. Give it dedicated cores, and \
             --threads and --connections to use them."
        ));
    }
    remarks
}

/// Time in a suitable unit, from microseconds.
fn time(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1e3 => format!("{us:.0} µs"),
        Some(us) if us < 1e6 => format!("{:.2} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

/// Rows in aligned columns: numbers to the right, other cells to the left.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:width$}"),
            // The last column of counts is their description.
            2 if N == 3 => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::tests::{report, some_of_everything};
    use super::*;

    #[test]
    fn people_are_shown_counts_and_times() {
        let shown = show(&report(&["user={n}", "ip=x", "--domain", "shop"], some_of_everything));
        let expected = "\
closed loop, 64 requests in flight, 4 connections, 2 threads, 2 s at 127.0.0.1:8081
user={n} ip=x in domain shop, 100000 keys, uniform

requests         12  6 per second, 5 of them decided
  admitted        3  25.0 %
  denied          7  58.3 %
  errors          2  16.7 %
    UNAVAILABLE   2  no store

           MEAN     P50     P90      P99    P99.9      MAX
latency  550 µs  500 µs  900 µs  1.00 ms  1.00 ms  1.00 ms
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_open_loop_shows_late_and_unsent_requests() {
        let shown = report(&["--rate", "6", "--distribution", "zipf:1.1"], |measured| {
            some_of_everything(measured);
            measured.summary.unsent = 5;
            measured.summary.lost_connections = 1;
            measured.summary.record_wait(4);
            measured.stopped_early = true;
            measured.summary.lag.record(Duration::from_secs(3));
        });
        let shown = show(&shown);
        let closed = show(&report(&["--concurrency", "9"], |measured| measured.summary.record_wait(4)));
        assert!(closed.contains("so that there were not always 9. More --connections"), "{closed}");
        for part in [
            "open loop, 6 requests per second, 4 connections",
            "100000 keys, zipf:1.1\n",
            "\nnot sent          5\n",
            "\nsent late by  3.00 s  3.00 s",
            "\nStopped early: ",
            "\nOnly 5 decisions came each second, where 6 were asked for.",
            "\n5 requests were due and not sent: 10000 were in flight already",
            "\nThe service lets 4 requests be in flight on a connection, and others waited for that, so that some",
            "\nConnections were lost and set up again: 1.\n",
            "\nThe generator sent requests later than they were due",
        ] {
            assert!(shown.contains(part), "{part}\nin\n{shown}");
        }
    }
}
