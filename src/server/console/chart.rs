//! Charts as SVG. The numbers of each are in a table below it.

use maud::{Markup, html};

use crate::server::admin::PointView;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;

/// Hits and denials over time.
pub(super) fn rates(points: &[PointView]) -> Markup {
    let most = points.iter().map(|point| point.hits_per_sec).fold(0.0, f64::max);
    let line = |value: fn(&PointView) -> f64| polyline(points, most, value);
    html! {
        figure {
            figcaption {
                "Hits per second, last 15 minutes. "
                span .key-hits { "hits" } " " span .key-over { "over limit" } " "
                span .key-shadow { "over limit in shadow mode" }
            }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" preserveAspectRatio="none"
                aria-label="Hits, denials and shadow denials per second" {
                polyline .hits points=(line(|point| point.hits_per_sec)) {}
                polyline .over points=(line(|point| point.over_limit_per_sec)) {}
                polyline .shadow points=(line(|point| point.shadow_per_sec)) {}
            }
            details #rates-table {
                summary { "Numbers (highest: " (format!("{most:.1}")) "/s)" }
                table {
                    thead { tr {
                        th scope="col" { "Time (UTC)" } th scope="col" .n { "Hits/s" }
                        th scope="col" .n { "Over/s" } th scope="col" .n { "Shadow/s" }
                    } }
                    tbody {
                        @for point in points.iter().rev() {
                            tr {
                                td { (clock(point.at)) }
                                td .n { (format!("{:.1}", point.hits_per_sec)) }
                                td .n { (format!("{:.1}", point.over_limit_per_sec)) }
                                td .n { (format!("{:.1}", point.shadow_per_sec)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn polyline(points: &[PointView], most: f64, value: impl Fn(&PointView) -> f64) -> String {
    let step = WIDTH / (points.len().max(2) - 1) as f64;
    let scale = if most > 0.0 { (HEIGHT - 4.0) / most } else { 0.0 };
    let place = |(index, point): (usize, &PointView)| {
        format!("{:.1},{:.1}", index as f64 * step, HEIGHT - 2.0 - value(point) * scale)
    };
    points.iter().enumerate().map(place).collect::<Vec<_>>().join(" ")
}

/// Time of day, in UTC.
pub(super) fn clock(secs: u64) -> String {
    let day = secs % 86_400;
    format!("{:02}:{:02}:{:02}", day / 3_600, day / 60 % 60, day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_value_touches_the_top_and_zero_the_bottom() {
        let point =
            |at, hits_per_sec| PointView { at, hits_per_sec, over_limit_per_sec: 0.0, shadow_per_sec: 0.0 };
        let points = [point(0, 0.0), point(10, 50.0), point(20, 100.0)];
        let line = polyline(&points, 100.0, |point| point.hits_per_sec);
        assert_eq!(line, "0.0,118.0 360.0,60.0 720.0,2.0");
        assert_eq!(polyline(&[], 0.0, |point| point.hits_per_sec), "");
        assert_eq!(clock(86_400 + 3_661), "01:01:01");
    }
}
