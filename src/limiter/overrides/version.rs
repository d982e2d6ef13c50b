//! Versions of the document: a later change has a greater version.

use bytes::Bytes;

use crate::engine::Timestamp;

/// Number of hexadecimal digits of the time at the start of a version.
const TIME_DIGITS: usize = 16;

/// Version of a change of the document `before` at `now`. It is greater than `before`, even if the clock of the store
/// was set back.
pub(super) fn after(before: &Bytes, now: Timestamp) -> Bytes {
    let time = before.get(..TIME_DIGITS).and_then(|digits| str::from_utf8(digits).ok());
    let time = time.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
    let time = now.as_micros().max(time.saturating_add(1));
    // Random, since two documents of the same version would stay different on two replicas.
    Bytes::from(format!("{time:016x}{:016x}", fastrand::u64(..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_a_greater_version_whatever_the_clock() {
        let mut version = Bytes::new();
        for secs in [1_000, 2_000, 2_000, 7, 3_000, 0] {
            let next = after(&version, Timestamp::from_secs(secs));
            assert!(next > version, "{next:?} {version:?}");
            version = next;
        }
    }
}
