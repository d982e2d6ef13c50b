//! Limits in short form, such as `10/minute`, outside of rule files.

use super::parse::parse_short_form;
use super::quota::{can_count, parse_window};
use crate::engine::{Algorithm, Limit, StoreCapabilities, Window};

/// The limit `text`, such as `10/s`, `60/minute` or `100/15m`, counted by `algorithm`. A bucket holds the requests of
/// one window.
///
/// # Errors
/// Expected form, or the reason that it cannot be counted.
pub fn parse_limit(text: &str, algorithm: Algorithm) -> Result<Limit, String> {
    let (requests, window) = parse_short_form(text)?;
    limit_of(requests, parse_window(&window)?, algorithm)
}

/// The limit of `requests` per `window`, counted by `algorithm`. A bucket holds the requests of one window.
///
/// # Errors
/// Reason that it cannot be counted.
pub fn limit_of(requests: u32, window: Window, algorithm: Algorithm) -> Result<Limit, String> {
    let algorithm = match algorithm {
        Algorithm::TokenBucket { .. } => Algorithm::TokenBucket { burst: requests },
        algorithm => algorithm,
    };
    let limit = Limit { requests_per_unit: requests, window, algorithm };
    can_count(limit, StoreCapabilities::default())?;
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_limit_takes_the_algorithm_and_names_its_mistakes() {
        let bucket = parse_limit("10/minute", Algorithm::TokenBucket { burst: 3 }).unwrap();
        assert_eq!((bucket.requests_per_unit, bucket.window.secs(), bucket.capacity()), (10, 60, 10));
        let window = parse_limit("100/15m", Algorithm::SlidingWindow).unwrap();
        assert_eq!((window.window.secs(), window.algorithm), (900, Algorithm::SlidingWindow));
        for (text, expected) in [
            ("10", "write REQUESTS/TIME"),
            ("-1/minute", "write REQUESTS/TIME"),
            ("10/fortnight", "write a time"),
            ("4294967296/s", "at most 4294967295"),
            ("10/0s", "at least a second"),
        ] {
            let error = parse_limit(text, Algorithm::FixedWindow).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = parse_limit("4000000000/year", Algorithm::SlidingLog).unwrap_err();
        assert!(error.contains("sliding_log"), "{error}");
    }
}
