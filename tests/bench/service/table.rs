//! Tables in Markdown.

use crate::rounds::{Measured, Row, Sample};

/// A table of `rows` below `head`.
pub(crate) fn table_of<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.map(str::to_owned));
    // Words to the left, figures to the right.
    text += &line(&std::array::from_fn::<_, N, _>(|at| if at == 0 { "---" } else { "--:" }.to_owned()));
    text.extend(rows.into_iter().map(|row| line(&row)));
    text
}

/// A table with a row for each service of each group, and the notes on it.
fn table_of_services<const N: usize>(
    head: [&str; N],
    measured: &[Measured],
    row: impl Fn(&Measured, &Row) -> [String; N],
) -> String {
    let of_group =
        |group: &Measured| group.rows.iter().map(|service| row(group, service)).collect::<Vec<_>>();
    table_of(head, measured.iter().flat_map(of_group)) + &notes(measured)
}

/// Cost of requests for each service of each group, beside the ceiling if the group has it.
pub(crate) fn costs(measured: &[Measured]) -> String {
    let head = [
        "requests",
        "service",
        "thousands per CPU second",
        "of the ceiling",
        "CPU µs each",
        "Redis CPU µs each",
        "of `INCRBY`",
        "Redis commands each",
        "thousands per second",
        "p50 µs",
        "p99 µs",
    ];
    let row = |group: &Measured, row: &Row| {
        let ratio = |own: &Sample, ceiling: &Sample| own.per_cpu_second / ceiling.per_cpu_second;
        let on_redis = |figure: fn(&Sample) -> f64| match row.is_on_redis() {
            true => format!("{:.2}", row.median(figure)),
            false => String::new(),
        };
        [
            group.title.clone(),
            row.name.to_owned(),
            format!("{:.1}", row.median(|sample| sample.per_cpu_second) / 1e3),
            compared(group, row, ratio).map_or_else(String::new, |[least, ratio, most]| {
                format!("{ratio:.2} ({least:.2} to {most:.2})")
            }),
            format!("{:.1}", row.median(|sample| 1e6 / sample.per_cpu_second)),
            on_redis(|sample| sample.redis_us.unwrap_or_default()),
            on_redis(|sample| {
                sample.redis_us.zip(sample.incrby_us).map_or(0.0, |(redis, incrby)| redis / incrby)
            }),
            on_redis(|sample| sample.redis_commands.unwrap_or_default()),
            format!("{:.1}", row.median(|sample| sample.per_second) / 1e3),
            format!("{:.0}", row.median(|sample| sample.p50_us)),
            format!("{:.0}", row.median(|sample| sample.p99_us)),
        ]
    };
    table_of_services(head, measured, row)
}

/// Latency of each service of each group, beside the ceiling.
pub(crate) fn latencies(measured: &[Measured]) -> String {
    let head = [
        "requests",
        "service",
        "p50 µs",
        "p99 µs",
        "added to the ceiling's p50, µs",
        "added to its p99, µs",
        "thousands per CPU second",
        "Redis CPU µs each",
    ];
    let row = |group: &Measured, row: &Row| {
        let added = |figure: fn(&Sample) -> f64| {
            compared(group, row, |own, ceiling| figure(own) - figure(ceiling))
                .map_or_else(String::new, |[least, added, most]| {
                    format!("{added:.0} ({least:.0} to {most:.0})")
                })
        };
        [
            group.title.clone(),
            row.name.to_owned(),
            format!("{:.0}", row.median(|sample| sample.p50_us)),
            format!("{:.0}", row.median(|sample| sample.p99_us)),
            added(|sample| sample.p50_us),
            added(|sample| sample.p99_us),
            format!("{:.1}", row.median(|sample| sample.per_cpu_second) / 1e3),
            if row.is_on_redis() {
                format!("{:.2}", row.median(|sample| sample.redis_us.unwrap_or_default()))
            } else {
                String::new()
            },
        ]
    };
    table_of_services(head, measured, row)
}

/// Tail latency of each service while something else goes on.
pub(crate) fn tails(measured: &[Measured]) -> String {
    let head = ["meanwhile", "service", "p50 µs", "p99 µs", "p99.9 µs", "p99.9, worst round"];
    let row = |group: &Measured, row: &Row| {
        let worst = row.samples.iter().map(|sample| sample.p999_us).fold(0.0, f64::max);
        [
            group.title.clone(),
            row.name.to_owned(),
            format!("{:.0}", row.median(|sample| sample.p50_us)),
            format!("{:.0}", row.median(|sample| sample.p99_us)),
            format!("{:.0}", row.median(|sample| sample.p999_us)),
            format!("{worst:.0}"),
        ]
    };
    table_of_services(head, measured, row)
}

/// Results of `compare` on a row and the ceiling of its group; `None` for the ceiling, and without one.
fn compared(group: &Measured, row: &Row, compare: impl Fn(&Sample, &Sample) -> f64) -> Option<[f64; 3]> {
    let ceiling = group.ceiling()?;
    (!std::ptr::eq(ceiling, row)).then(|| row.against(ceiling, compare))
}

/// Notes on a table, if there are any.
fn notes(measured: &[Measured]) -> String {
    let mut notes = String::new();
    for group in measured {
        for row in &group.rows {
            let (failed, requests) = row
                .samples
                .iter()
                .fold((0, 0), |(failed, all), sample| (failed + sample.failed, all + sample.requests));
            if failed > 0 {
                let (title, name) = (&group.title, row.name);
                notes += &format!(
                    "\n{title}, {name}: {failed} of {requests} requests were not decided, and are in no figure.\n"
                );
            }
        }
    }
    let samples = || measured.iter().flat_map(|group| &group.rows).flat_map(|row| &row.samples);
    let saturated = samples().filter(|sample| sample.saturated).count();
    if saturated > 0 {
        notes += &format!(
            "\nIn {saturated} of {} measurements the load was slower than the service: rates and latencies are \
             then those of both together. What a request costs the service in CPU time does not depend on that.\n",
            samples().count()
        );
    }
    notes
}
