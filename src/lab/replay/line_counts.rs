//! Counts of the lines of all files, and what they say about the figures.

use super::report::BadLine;

/// Bad lines that a report shows.
const SHOWN_BAD_LINES: usize = 5;
/// Share of late requests, in percent, from which on the report has a note.
const MAX_LATE_PERCENT: f64 = 1.0;

/// Lines of all files.
#[derive(Default)]
pub(super) struct LineCounts {
    pub(super) lines: u64,
    pub(super) bad: u64,
    pub(super) late: u64,
    pub(super) shown: Vec<BadLine>,
    /// Share of keys in the decision log, if not all are logged.
    sample: Option<f64>,
}

impl LineCounts {
    pub(super) fn bad(&mut self, file: &str, number: u64, reason: String, text: String) {
        self.bad += 1;
        if self.shown.len() < SHOWN_BAD_LINES {
            self.shown.push(BadLine { file: file.to_owned(), line: number, reason, text });
        }
    }

    pub(super) fn sampled(&mut self, share: f64) {
        if share < 1.0 {
            self.sample = Some(self.sample.map_or(share, |sample| sample.min(share)));
        }
    }

    pub(super) fn notes(&self, requests: u64) -> impl Iterator<Item = String> {
        let late_percent = self.late as f64 * 100.0 / requests.max(1) as f64;
        let late = (late_percent > MAX_LATE_PERCENT).then(|| {
            format!(
                "{late_percent:.1} % of the requests were logged later than --reorder allows, and replayed later than they came"
            )
        });
        let sample = self.sample.map(|share| {
            format!(
                "the decision log is a sample of {:.2} % of the keys, by the first descriptor of each request: counts of \
                 other descriptors are incomplete, and their limits deny less",
                share * 100.0
            )
        });
        late.into_iter().chain(sample)
    }
}
