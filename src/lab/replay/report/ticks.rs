//! Ticks of a time axis.

use super::rfc3339;
use crate::engine::Timestamp;

/// Upper bound on the ticks of a chart.
const MAX_TICKS: u64 = 10;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Distances between ticks, in seconds.
const STEPS: [u64; 20] = [
    1,
    2,
    5,
    10,
    15,
    30,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
];

/// Round times from `start` up to `end`, in seconds since the epoch, and their labels in UTC.
pub(super) fn ticks(start: u64, end: u64) -> Vec<(u64, String)> {
    let length = end.saturating_sub(start);
    let fits = |step: &u64| length / step < MAX_TICKS;
    let weeks = || 7 * DAY * (length / (7 * DAY * MAX_TICKS) + 1);
    let step = STEPS.into_iter().find(fits).unwrap_or_else(weeks);
    let times = (start.div_ceil(step)..=end / step).map(|number| number * step);
    times.map(|at| (at, label(at, step, length))).collect()
}

/// Date and time as far as `step` and `length` need them.
fn label(at: u64, step: u64, length: u64) -> String {
    let text = rfc3339(Timestamp::from_secs(at));
    let (date, time) = text.split_once('T').unwrap_or_default();
    let time = time.get(..if step < MINUTE { 8 } else { 5 }).unwrap_or_default();
    match (step >= DAY, length > DAY) {
        (true, _) => date.to_owned(),
        (false, true) => format!("{} {time}", date.get(5..).unwrap_or_default()),
        (false, false) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-16T00:00:00Z
    const MIDNIGHT: u64 = 1_794_787_200;

    fn labels(start: u64, end: u64) -> Vec<String> {
        ticks(start, end).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_at_round_times() {
        assert_eq!(
            labels(MIDNIGHT + 3, MIDNIGHT + 8),
            ["00:00:03", "00:00:04", "00:00:05", "00:00:06", "00:00:07", "00:00:08"]
        );
        assert_eq!(labels(MIDNIGHT + 100, MIDNIGHT + 100 + 20 * MINUTE)[..2], ["00:05", "00:10"]);
        assert_eq!(
            labels(MIDNIGHT, MIDNIGHT + DAY),
            ["00:00", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "00:00"]
        );
        assert_eq!(labels(MIDNIGHT + HOUR, MIDNIGHT + 2 * DAY)[..2], ["11-16 06:00", "11-16 12:00"]);
        assert_eq!(labels(MIDNIGHT - 1, MIDNIGHT + 5 * DAY)[..2], ["2026-11-16", "2026-11-17"]);
        assert_eq!(labels(MIDNIGHT, MIDNIGHT), ["00:00:00"]);
    }

    #[test]
    fn there_are_always_some_and_never_too_many() {
        for length in (0..40).map(|bits| 1_u64 << bits).flat_map(|length| [length, length + length / 3]) {
            for start in [MIDNIGHT, MIDNIGHT + 1, MIDNIGHT + 12_345] {
                let found = ticks(start, start + length);
                assert!(found.len() <= 10, "{length}: {found:?}");
                assert!(length < 4 || found.len() >= 2, "{length}: {found:?}");
                assert!(found.iter().all(|(at, _)| (start..=start + length).contains(at)));
            }
        }
    }
}
