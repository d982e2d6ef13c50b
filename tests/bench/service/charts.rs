//! Charts of the tables: bars, as SVG that is readable on light and on dark pages.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::rounds::{Measured, Row, Sample};

const WIDTH: f64 = 720.0;
const MARGIN: f64 = 16.0;
/// Left edge of the bars.
const BARS_X: f64 = 110.0;
/// Length of the longest bar.
const BARS_LEN: f64 = 520.0;
const LINE: f64 = 18.0;
/// Colours of the bars on a white background. They also differ in lightness.
const COLORS: [&str; 4] = ["#0b5cad", "#d9822b", "#2e8b57", "#8a4fbf"];

/// A chart: a bar for each of the series in each group.
pub(crate) struct Chart<'m> {
    /// Name of its file.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Groups, in their order.
    pub(crate) measured: Vec<&'m Measured>,
    /// Figure of a row of a group; `None` if the row has no such figure.
    pub(crate) figure: fn(&Measured, &Row) -> Option<f64>,
    /// Upper bound that the chart marks, such as the ceiling.
    pub(crate) mark: Option<f64>,
}

/// Share of the ceiling that a row reaches.
pub(crate) fn share(group: &Measured, row: &Row) -> Option<f64> {
    let ceiling = group.ceiling()?;
    let ratio = |own: &Sample, ceiling: &Sample| own.per_cpu_second / ceiling.per_cpu_second;
    (!std::ptr::eq(ceiling, row)).then(|| row.against(ceiling, ratio)[1])
}

/// CPU time of Redis for a decision, in microseconds.
pub(crate) fn redis_us(_: &Measured, row: &Row) -> Option<f64> {
    row.is_on_redis().then(|| row.median(|sample| sample.redis_us.unwrap_or_default()))
}

/// CPU time of the program for a decision, in microseconds, if it counts in Redis.
pub(crate) fn program_us(_: &Measured, row: &Row) -> Option<f64> {
    row.is_on_redis().then(|| row.median(|sample| 1e6 / sample.per_cpu_second))
}

/// Median latency in microseconds, if it counts in Redis.
pub(crate) fn p50_us(_: &Measured, row: &Row) -> Option<f64> {
    row.is_on_redis().then(|| row.median(|sample| sample.p50_us))
}

/// Writes the charts that have figures into `folder`. Returns the images in Markdown, for a page beside a folder
/// `charts`.
pub(crate) fn write(folder: &Path, charts: &[Chart<'_>]) -> String {
    fs::create_dir_all(folder).expect("the folder of the charts");
    let mut images = String::new();
    for chart in charts {
        let Some(svg) = chart.svg() else { continue };
        let file = format!("{}.svg", chart.name);
        fs::write(folder.join(&file), svg).expect("a file");
        images += &format!("![{}](charts/{file})\n\n", chart.title);
    }
    images
}

impl Chart<'_> {
    /// The chart; `None` without figures.
    fn svg(&self) -> Option<String> {
        let bars = |group: &Measured| -> Vec<(&'static str, f64)> {
            group.rows.iter().filter_map(|row| Some((row.name, (self.figure)(group, row)?))).collect()
        };
        let groups: Vec<_> = self.measured.iter().map(|group| (&*group.title, bars(group))).collect();
        let groups: Vec<_> = groups.into_iter().filter(|(_, bars)| !bars.is_empty()).collect();
        let all = || groups.iter().flat_map(|(_, bars)| bars);
        let most = all().map(|(_, figure)| *figure).chain(self.mark).fold(0.0, f64::max);
        if groups.is_empty() || most <= 0.0 {
            return None;
        }
        let mut names: Vec<&str> = Vec::new();
        all().for_each(|(name, _)| {
            if !names.contains(name) {
                names.push(name);
            }
        });
        let color =
            |name: &str| COLORS[names.iter().position(|known| *known == name).unwrap_or(0) % COLORS.len()];
        let scale = BARS_LEN / most;
        let mut y = MARGIN + LINE;
        let mut body = text(MARGIN, y, "font-weight=\"bold\"", self.title);
        let top = y + LINE / 2.0;
        for (title, bars) in &groups {
            y += LINE * 1.6;
            body += &text(MARGIN, y, "", title);
            for (name, figure) in bars {
                y += LINE;
                let (bar_y, height, len) = (y - 11.0, LINE - 6.0, figure * scale);
                body += &text(BARS_X - 8.0, y, "text-anchor=\"end\" font-size=\"12\"", name);
                writeln!(
                    body,
                    "<rect x=\"{BARS_X}\" y=\"{bar_y:.1}\" width=\"{len:.1}\" height=\"{height}\" fill=\"{}\"/>",
                    color(name)
                )
                .expect("text");
                body += &text(BARS_X + len + 6.0, y, "font-size=\"12\"", &format!("{figure:.2}"));
            }
        }
        if let Some(mark) = self.mark {
            let x = BARS_X + mark * scale;
            let line = format!(
                "<path d=\"M{x:.1} {top:.1}V{:.1}\" stroke=\"#57606a\" stroke-dasharray=\"3 3\"/>\n",
                y + 4.0
            );
            body += &line;
        }
        Some(card(y + MARGIN, self.title, &body))
    }
}

/// The image with a white background, so that its dark text is readable on any page.
fn card(height: f64, title: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1f2328\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#ffffff\" stroke=\"#d0d7de\"/>\n{body}</svg>\n",
        escaped(title)
    )
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>\n", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('`', "").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
