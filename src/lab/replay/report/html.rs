//! The report as one page, without scripts and without anything from elsewhere. Texts of requests are escaped.

use maud::{DOCTYPE, Markup, html as markup};

use super::comparison::{Comparison, change};
use super::rules::{LimitReport, RulesReport};
use super::ticks::ticks;
use super::{Report, grouped, percent, rfc3339};
use crate::engine::Timestamp;

const STYLE: &str = "\
    :root{color-scheme:light dark;--fg:#1c2128;--bg:#fff;--dim:#68707a;--line:#d9dde2;--all:#b8c7da;--denied:#c8382d;\
    --against:#e0a030}\
    @media(prefers-color-scheme:dark){:root{--fg:#e3e7eb;--bg:#15181c;--dim:#98a1ab;--line:#343a42;--all:#3d4f66;\
    --denied:#f0665a;--against:#d9a441}}\
    body{font:14px/1.45 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1080px;margin:2em auto;\
    padding:0 1em}h1{font-size:1.5em}h2{font-size:1.1em;margin:2em 0 .5em}table{border-collapse:collapse;width:100%}\
    th,td{padding:.25em .6em;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}\
    th{color:var(--dim);font-weight:500}.n{text-align:right;font-variant-numeric:tabular-nums}\
    .dim{color:var(--dim)}code{overflow-wrap:anywhere}svg{width:100%;height:auto;display:block}\
    svg text{fill:var(--dim);font-size:11px}.all{fill:var(--all)}.denied{fill:var(--denied)}\
    .against{fill:none;stroke:var(--against);stroke-width:1.5}.axis{stroke:var(--line)}\
    .uses{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:1em}";

/// Sizes of charts, in pixels.
const WIDTH: f64 = 1_040.0;
const HEIGHT: f64 = 220.0;
const USE_WIDTH: f64 = 300.0;
const USE_HEIGHT: f64 = 110.0;
/// Space below a chart for its labels.
const LABELS: f64 = 18.0;
/// Length of a tick, and the space on each side of it for its label.
const TICK: f64 = 4.0;
const LABEL_ROOM: f64 = 36.0;
/// Rules and offenders that have bars.
const MAX_BARS: usize = 20;

/// The report as one HTML file.
pub fn html(report: &Report) -> String {
    let Report { rules, against, .. } = report;
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "Replay of " (rules.name) }
                style { (STYLE) }
            }
            body {
                h1 { "Replay of " (rules.name) @if let Some(against) = against { " against " (against.name) } }
                (summary(report))
                h2 { "Denials over time" }
                (timeline(report))
                @if let Some(comparison) = &report.comparison { (comparison_tables(comparison)) }
                @for side in [Some(rules), against.as_ref()].into_iter().flatten() {
                    @let name = if against.is_some() { format!(": {}", side.name) } else { String::new() };
                    (figures(side, &name, report.denied_percent))
                }
                p.dim { (super::text::CAVEATS) }
            }
        }
    };
    page.into_string()
}

/// Old and new rules in one table each of rules and of keys.
fn comparison_tables(comparison: &Comparison) -> Markup {
    let counts = |old: u64, new: u64| {
        markup! { td.n { (grouped(old)) } td.n { (grouped(new)) } td.n { (change(old, new)) } }
    };
    let head = markup! { th.n { "Denied, old" } th.n { "Denied, new" } th.n { "Change" } };
    markup! {
        h2 { "Old and new rules" }
        table {
            tr { th { "Rule" } th { "Old limit" } th { "New limit" } (head) }
            @for row in &comparison.rules {
                tr {
                    td { code { (row.rule) } }
                    @for limits in [&row.limits_against, &row.limits] { td { @if let Some(limits) = limits { (limits) } } }
                    (counts(row.denied_against, row.denied))
                }
            }
        }
        h2 { "Top offenders of old and new rules" }
        table {
            tr { th { "Key" } th { "Rule" } (head) }
            @for row in &comparison.offenders {
                tr { td { code { (row.key) } } td { code { (row.rule) } } (counts(row.denied_against, row.denied)) }
            }
        }
    }
}

/// Figures of one set of rules, under headings that end in `name`.
fn figures(rules: &RulesReport, name: &str, denied_percent: f64) -> Markup {
    markup! {
        h2 { "By rule" (name) }
        (bars(&rules.rules.iter().map(|rule| (&*rule.rule, rule.denied, rule.hits)).collect::<Vec<_>>()))
        (rule_table(rules, denied_percent))
        h2 { "Top offenders" (name) }
        (bars(&rules.offenders.iter().map(|key| (&*key.key, key.denied, key.hits)).collect::<Vec<_>>()))
        h2 { "Use of each limit" (name) }
        p.dim { "Windows of keys by their demand, in percent of the limit; red is beyond it." }
        div.uses { @for rule in &rules.rules { @for limit in &rule.limits { (uses(&rule.rule, limit)) } } }
        @if !rules.never_hit.is_empty() {
            h2 { "Never hit" (name) }
            ul { @for rule in &rules.never_hit { li { code { (rule) } } } }
        }
    }
}

fn summary(report: &Report) -> Markup {
    let Report { lines, bad, late, requests, rules, against, differences, .. } = report;
    let row = |name: &str, number: u64| markup! { tr { td { (name) } td.n { (grouped(number)) } } };
    markup! {
        table {
            (row("Lines", *lines)) (row("Bad lines", *bad)) (row("Late requests", *late)) (row("Requests", *requests))
            @if let (Some(against), Some(differences)) = (against, differences) {
                (row(&format!("Denied by {} (old)", against.name), against.denied))
                (row(&format!("Denied by {} (new)", rules.name), rules.denied))
                (row("Only by the old rules", differences.only_against))
                (row("Only by the new rules", differences.only_rules))
                (row("By both", differences.both))
            } @else {
                (row(&format!("Denied by {}", rules.name), rules.denied))
            }
        }
        @if let (Some(from), Some(until)) = (&report.from, &report.until) { p.dim { (from) " to " (until) } }
        @for note in &report.notes { p { "Note: " (note) } }
        @for line in &report.bad_lines { p.dim { "Bad: " code { (line) } } }
    }
}

/// Requests and denials as bars, and denials by the other rules as a line.
fn timeline(report: &Report) -> Markup {
    let intervals: Vec<_> = report.timeline.intervals().collect();
    let Some(most) = intervals.iter().map(|(_, interval)| interval.requests).max() else {
        return markup! { p.dim { "No requests." } };
    };
    let step = WIDTH / intervals.len() as f64;
    let height = |count: u64| HEIGHT * count as f64 / most.max(1) as f64;
    let bar = |index: usize, count: u64, class: &str| {
        let (x, y) = (index as f64 * step, HEIGHT - height(count));
        markup! {
            rect class=(class) x=(px(x)) y=(px(y)) width=(px((step * 0.9).max(1.0))) height=(px(height(count))) {}
        }
    };
    let points = intervals.iter().enumerate().map(|(index, (_, interval))| {
        let x = (index as f64 + 0.5) * step;
        format!("{},{}", px(x), px(HEIGHT - height(interval.denied_against)))
    });
    let points = points.collect::<Vec<_>>().join(" ");
    let interval_secs = report.timeline.interval_secs();
    let first = intervals.first().map_or(0, |(secs, _)| *secs);
    let end = first + interval_secs * intervals.len() as u64;
    let place = |secs: u64| (secs - first) as f64 / interval_secs as f64 * step;
    markup! {
        svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + LABELS)) role="img" aria-label="Denials over time" {
            @for (index, (_, interval)) in intervals.iter().enumerate() {
                (bar(index, interval.requests, "all"))
                @if interval.denied > 0 { (bar(index, interval.denied, "denied")) }
            }
            @if report.against.is_some() { polyline.against points=(points) {} }
            line.axis x1="0" y1=(px(HEIGHT)) x2=(px(WIDTH)) y2=(px(HEIGHT)) {}
            @for (secs, label) in ticks(first, end) { (tick(place(secs), &label)) }
            text x="0" y="10" {
                (grouped(most)) " requests in " (interval_secs) " s"
            }
        }
        p.dim {
            "Requests, and in red those denied by " (report.rules.name)
            @if let Some(against) = &report.against { "; the line is those denied by " (against.name) }
            ". Times are in UTC, from " (rfc3339(Timestamp::from_secs(first))) " on."
        }
    }
}

/// A tick of the time axis, and its label within the chart.
fn tick(x: f64, label: &str) -> Markup {
    let anchor = match x {
        x if x < LABEL_ROOM => "start",
        x if x > WIDTH - LABEL_ROOM => "end",
        _ => "middle",
    };
    markup! {
        line.axis x1=(px(x)) y1=(px(HEIGHT)) x2=(px(x)) y2=(px(HEIGHT + TICK)) {}
        text.tick x=(px(x)) y=(px(HEIGHT + LABELS - 2.0)) text-anchor=(anchor) { (label) }
    }
}

/// Denied hits of each name among all of its hits.
fn bars(rows: &[(&str, u64, u64)]) -> Markup {
    let rows = rows.get(..MAX_BARS).unwrap_or(rows);
    let rows: Vec<_> = rows.iter().filter(|(_, denied, _)| *denied > 0).collect();
    let most = rows.iter().map(|(_, denied, _)| *denied).max().unwrap_or(1);
    let (line, start) = (22.0, WIDTH * 0.4);
    markup! {
        @if rows.is_empty() { p.dim { "No denials." } } @else {
            svg viewBox=(format!("0 0 {WIDTH} {}", line * rows.len() as f64)) role="img" {
                @for (index, (name, denied, hits)) in rows.iter().enumerate() {
                    @let y = index as f64 * line;
                    @let width = (WIDTH - start) * 0.72 * *denied as f64 / most as f64;
                    text x=(px(start - 8.0)) y=(px(y + 14.0)) text-anchor="end" { (shortened(name)) title { (name) } }
                    rect.denied x=(px(start)) y=(px(y + 4.0)) width=(px(width.max(1.0))) height="12" {}
                    text x=(px(start + width + 6.0)) y=(px(y + 14.0)) {
                        (grouped(*denied)) " of " (grouped(*hits)) " (" (format!("{:.2}", percent(*denied, *hits))) " %)"
                    }
                }
            }
        }
    }
}

/// A name that fits beside a bar.
fn shortened(name: &str) -> String {
    const MAX: usize = 60;
    if name.chars().count() <= MAX {
        name.to_owned()
    } else {
        name.chars().take(MAX - 1).chain(['…']).collect()
    }
}

fn rule_table(rules: &RulesReport, denied_percent: f64) -> Markup {
    markup! {
        table {
            tr {
                th { "Rule" } th { "Limit" } th.n { "Hits" } th.n { "Denied" } th.n { "Keys" } th.n { "p99 use" }
                th { "Busiest minute" } th.n { "Limit for ≤ " (denied_percent) " % denied" }
            }
            @for rule in &rules.rules {
                @for (index, limit) in rule.limits.iter().enumerate() {
                    tr {
                        td { @if index == 0 { code { (rule.rule) } } }
                        td { (limit.limit) }
                        td.n { (grouped(rule.hits)) }
                        td.n { (grouped(limit.denied)) " (" (format!("{:.2}", percent(limit.denied, rule.hits))) " %)" }
                        td.n { (grouped(rule.keys)) }
                        td.n { (format!("{:.0} %", limit.use_percent[1])) }
                        td { @if let Some(busiest) = &limit.busiest_minute { (busiest.start) " (" (grouped(busiest.hits)) ")" } }
                        td.n { @if let Some(suggested) = limit.suggested { (grouped(suggested)) } }
                    }
                }
            }
        }
    }
}

/// Histogram of the use of a limit.
fn uses(rule: &str, limit: &LimitReport) -> Markup {
    let most = limit.windows_by_use.iter().copied().max().unwrap_or(1).max(1);
    let step = USE_WIDTH / 11.0;
    markup! {
        div {
            div { code { (rule) } " " span.dim { (limit.limit) } }
            svg viewBox=(format!("0 0 {USE_WIDTH} {}", USE_HEIGHT + LABELS)) role="img" aria-label="Use of a limit" {
                @for (class, windows) in limit.windows_by_use.iter().enumerate() {
                    @let height = USE_HEIGHT * *windows as f64 / most as f64;
                    @let colour = if class == 10 { "denied" } else { "all" };
                    rect class=(colour) x=(px(class as f64 * step)) y=(px(USE_HEIGHT - height)) width=(px(step - 2.0))
                        height=(px(height)) { title { (grouped(*windows)) " windows" } }
                }
                line.axis x1="0" y1=(px(USE_HEIGHT)) x2=(px(USE_WIDTH)) y2=(px(USE_HEIGHT)) {}
                text x="0" y=(px(USE_HEIGHT + LABELS - 4.0)) { "0 %" }
                text x=(px(step * 10.0)) y=(px(USE_HEIGHT + LABELS - 4.0)) text-anchor="end" { "100 %" }
            }
        }
    }
}

/// A coordinate, to a tenth of a pixel.
fn px(value: f64) -> String {
    format!("{value:.1}")
}
