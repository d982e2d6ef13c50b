//! Limits in short form, such as `10/minute`, outside of rule files.

use super::NamedLimit;
use super::parse::parse_short_form;
use super::quota::{can_count, parse_window, time_unit};
use crate::engine::{Algorithm, Limit, StoreCapabilities, Window};

/// Parses `text`, such as `10/s`, `60/minute` or `100/15m`, to a limit that replaces `replaced`. If one of `replaced`
/// has the same window, the limit has its calendar and its algorithm; otherwise it has the algorithm of the first
/// one. A token bucket keeps its burst; if the burst was equal to the requests of the window, the new one is too.
///
/// # Errors
/// A text with the expected form, or the reason why the limit cannot be counted.
pub fn parse_limit(text: &str, replaced: &[NamedLimit]) -> Result<Limit, String> {
    let (requests, written) = parse_short_form(text)?;
    // Concurrency limits have no window, so nothing is taken from them.
    let over_time = || replaced.iter().filter(|limit| !limit.limit.is_concurrency());
    let mut window = parse_window(&written)?;
    let unit = time_unit(written.trim().strip_prefix('1').unwrap_or(&written).trim());
    let is_same = |limit: &&NamedLimit| match limit.limit.window.calendar() {
        Some(calendar) => Some(calendar.period.unit()) == unit,
        None => limit.limit.window == window,
    };
    let mut algorithm = over_time().next().map_or(Algorithm::FixedWindow, |first| first.limit.algorithm);
    let like = over_time().find(is_same).or(over_time().next()).map(|like| like.limit);
    if let Some(same) = over_time().find(is_same) {
        (window, algorithm) = (same.limit.window, same.limit.algorithm);
    }
    if let (Algorithm::TokenBucket { .. }, Some(like)) = (algorithm, like) {
        let holds_a_window = requests == 0 || like.capacity() == like.requests_per_unit;
        algorithm = Algorithm::TokenBucket { burst: if holds_a_window { requests } else { like.capacity() } };
    }
    limit_of(requests, window, algorithm)
}

/// The limit of `requests` per `window`, counted by `algorithm`.
///
/// # Errors
/// The reason why it cannot be counted.
pub fn limit_of(requests: u32, window: Window, algorithm: Algorithm) -> Result<Limit, String> {
    let limit = Limit { requests_per_unit: requests, window, algorithm };
    can_count(limit, StoreCapabilities::default())?;
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::calendar::Zone;
    use crate::engine::{Calendar, Period};

    #[test]
    fn a_short_limit_takes_the_algorithm_and_names_its_mistakes() {
        let limit = |requests, window, algorithm| NamedLimit {
            limit: limit_of(requests, window, algorithm).unwrap(),
            name: None,
            lease: None,
        };
        let minute = Window::of_secs(60);
        for (burst, text, expected) in
            [(3, "10/minute", 3), (3, "1/hour", 3), (3, "0/minute", 0), (60, "90/minute", 90)]
        {
            let rule = [limit(60, minute, Algorithm::TokenBucket { burst })];
            assert_eq!(parse_limit(text, &rule).unwrap().capacity(), expected, "{burst}: {text}");
        }
        let sliding = [limit(1, minute, Algorithm::SlidingWindow)];
        let window = parse_limit("100/15m", &sliding).unwrap();
        assert_eq!((window.window.secs(), window.algorithm), (900, Algorithm::SlidingWindow));
        let calendar = Calendar { period: Period::Month, zone: Zone::from_name("Europe/Berlin").unwrap() };
        let month = Window::of_calendar(calendar);
        let several = [sliding[0].clone(), limit(3, month, Algorithm::FixedWindow)];
        for text in ["5/month", "5/1 month"] {
            let same = parse_limit(text, &several).unwrap();
            assert_eq!((same.window, same.algorithm), (month, Algorithm::FixedWindow), "{text}");
        }
        assert_eq!(parse_limit("5/30d", &several).unwrap().window, Window::of_secs(30 * 86_400));
        for (text, expected) in [
            ("10", "write REQUESTS/TIME"),
            ("-1/minute", "write REQUESTS/TIME"),
            ("10/fortnight", "write a time"),
            ("4294967296/s", "at most 4294967295"),
            ("10/0s", "at least a second"),
        ] {
            let error = parse_limit(text, &[]).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let log = [limit(1, minute, Algorithm::SlidingLog)];
        let error = parse_limit("4000000000/year", &log).unwrap_err();
        assert!(error.contains("sliding_log"), "{error}");
    }
}
