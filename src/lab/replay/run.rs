//! The replay: reads files together in the order of time, and evaluates their requests.

use std::sync::Arc;
use std::time::Duration;

use super::evaluation::Evaluation;
use super::input::{Lines, LogSource, NextLine};
use super::parser::{LineError, LogFormat, Parser};
use super::record::{self, Logged};
use super::reorder::Reorder;
use super::report::{BadLine, Differences, Identity, Report, RulesReport, rfc3339};
use super::timeline::Timeline;
use crate::engine::text::one_line_of_bytes;
use crate::engine::{Modes, Rules, Timestamp};

/// Bad lines that a report shows.
const SHOWN_BAD_LINES: usize = 5;
/// Longest part of a bad line that is shown, in bytes.
const SHOWN_LINE_BYTES: usize = 160;
/// Lines from which on a replay stops before its end because too many are bad.
const MIN_LINES_TO_STOP: u64 = 10_000;

/// Rules to replay a log with.
#[derive(Clone, Debug)]
pub struct RulesToReplay {
    /// Name in the report.
    pub name: String,
    /// The rules.
    pub rules: Arc<Rules>,
}

/// Options of a replay.
#[derive(Clone, Copy, Debug)]
pub struct ReplayOptions {
    /// Upper bound on how much later than the next request a request may be logged.
    pub reorder: Duration,
    /// Upper bound on bad lines, in percent of all.
    pub max_bad_percent: f64,
    /// Offenders to report.
    pub top: usize,
    /// Share of hits that a suggested limit may deny, in percent.
    pub denied_percent: f64,
    /// Modes that apply to every rule.
    pub modes: Modes,
    /// Upper bound on the memory of the counters of each set of rules, in bytes.
    pub max_counter_bytes: usize,
}

/// Progress of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes read, after decompression.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Time that all files have reached.
    pub at: Timestamp,
}

/// Failure of a replay.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplayError {
    /// More lines are bad than allowed.
    #[error("{bad} of {lines} lines are bad, more than {max_percent} % (--max-bad){}", examples(.shown))]
    TooManyBad {
        /// Bad lines.
        bad: u64,
        /// All lines.
        lines: u64,
        /// The bound.
        max_percent: f64,
        /// The first bad lines.
        shown: Vec<BadLine>,
    },
    /// The requests of a file cannot be made of its fields.
    #[error("{file}: {message}")]
    Format {
        /// Name of the file.
        file: String,
        /// Mistake.
        message: String,
    },
}

fn examples(shown: &[BadLine]) -> String {
    shown.iter().map(|line| format!("\n  {line}")).collect()
}

/// Replays the requests in the files of a log with `rules`, and with the rules that they are compared with. Calls
/// `progress` from time to time.
///
/// # Errors
/// [`ReplayError`]
pub fn replay(
    rules: &RulesToReplay,
    against: Option<&RulesToReplay>,
    (log, sources): (&LogFormat, Vec<LogSource>),
    options: ReplayOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, ReplayError> {
    let mut inputs: Vec<_> = sources.into_iter().map(|source| Input::new(source, log)).collect();
    let mut sides = Sides::new(rules, against, options);
    let mut counts = LineCounts::default();
    let mut reorder = Reorder::new(options.reorder);
    let mut read_bytes = 0;
    // Always on with the file that is furthest behind.
    while let Some(index) = (0..inputs.len()).min_by_key(|index| inputs[*index].seen) {
        let before = inputs[index].lines.bytes();
        if !inputs[index].read_block(&mut counts, &mut reorder)? {
            inputs.swap_remove(index);
            continue;
        }
        read_bytes += inputs[index].lines.bytes() - before;
        let seen = inputs.iter().map(|input| input.seen).min().unwrap_or_default();
        reorder.replay(seen, |at, request| sides.decide(at, request));
        if counts.lines >= MIN_LINES_TO_STOP {
            counts.check(options)?;
        }
        progress(Progress { bytes: read_bytes, lines: counts.lines, at: seen });
    }
    reorder.finish(|at, request| sides.decide(at, request));
    counts.check(options)?;
    counts.late = reorder.late();
    Ok(sides.report([Some(rules), against], counts, log, options))
}

/// A file that is read.
struct Input {
    lines: Lines,
    parser: Parser,
    /// Latest time in it.
    seen: Timestamp,
}

/// Lines of all files.
#[derive(Default)]
struct LineCounts {
    lines: u64,
    bad: u64,
    late: u64,
    shown: Vec<BadLine>,
}

impl LineCounts {
    fn bad(&mut self, file: &str, number: u64, reason: String, text: String) {
        self.bad += 1;
        if self.shown.len() < SHOWN_BAD_LINES {
            self.shown.push(BadLine { file: file.to_owned(), line: number, reason, text });
        }
    }

    fn check(&self, options: ReplayOptions) -> Result<(), ReplayError> {
        let share = self.bad as f64 * 100.0 / self.lines.max(1) as f64;
        if share <= options.max_bad_percent {
            return Ok(());
        }
        let Self { lines, bad, shown, .. } = self;
        let max_percent = options.max_bad_percent;
        Err(ReplayError::TooManyBad { bad: *bad, lines: *lines, max_percent, shown: shown.clone() })
    }
}

impl Input {
    fn new(source: LogSource, log: &LogFormat) -> Self {
        Self { lines: source.into_lines(), parser: Parser::new(log), seen: Timestamp::default() }
    }

    /// Reads a block of lines; false at the end.
    fn read_block(&mut self, counts: &mut LineCounts, reorder: &mut Reorder) -> Result<bool, ReplayError> {
        let has_more = self.lines.read_block();
        let (name, number) = (self.lines.name().to_owned(), self.lines.number());
        let mut has_lines = true;
        match has_more {
            Ok(has_more) => has_lines = has_more,
            Err(error) => {
                counts.lines += 1;
                let reason = format!("cannot be read beyond this line: {error}");
                counts.bad(&name, number + 1, reason, String::new());
            }
        }
        for number in number + 1.. {
            let (text, reason) = match self.lines.next_line() {
                NextLine::NeedsBlock => break,
                NextLine::Line(line) if line.trim_ascii().is_empty() => continue,
                NextLine::Line(line) => {
                    match self.parser.read(line, |at, request| reorder.add(at, request)) {
                        Ok(at) => {
                            counts.lines += u64::from(at.is_some());
                            self.seen = self.seen.max(at.unwrap_or_default());
                            continue;
                        }
                        Err(LineError::Bad(reason)) => (line, reason),
                        Err(LineError::Format(message)) => {
                            return Err(ReplayError::Format { file: name, message });
                        }
                    }
                }
                NextLine::TooLong(line) => (line, "is longer than 1 MiB"),
            };
            counts.lines += 1;
            let shown = one_line_of_bytes(text, SHOWN_LINE_BYTES);
            counts.bad(&name, number, reason.to_owned(), shown);
        }
        Ok(has_lines)
    }
}

/// Both sets of rules, and what is counted of both.
struct Sides {
    rules: Evaluation,
    against: Option<Evaluation>,
    timeline: Timeline,
    requests: u64,
    differences: Differences,
    identity: Identity,
    first: Option<Timestamp>,
    last: Timestamp,
}

impl Sides {
    fn new(rules: &RulesToReplay, against: Option<&RulesToReplay>, options: ReplayOptions) -> Self {
        let side = |side: &RulesToReplay| {
            Evaluation::new(Arc::clone(&side.rules), options.modes, options.max_counter_bytes)
        };
        Self {
            rules: side(rules),
            against: against.map(side),
            timeline: Timeline::default(),
            requests: 0,
            differences: Differences::default(),
            identity: Identity::default(),
            first: None,
            last: Timestamp::default(),
        }
    }

    fn decide(&mut self, at: Timestamp, request: &[u8]) {
        let Some((request, logged)) = record::read(request) else { return };
        self.requests += 1;
        self.first.get_or_insert(at);
        self.last = at;
        let denied = self.rules.decide(&request, at);
        let against = self.against.as_mut().map(|rules| rules.decide(&request, at));
        let interval = self.timeline.at(at);
        interval.requests += 1;
        interval.denied += u64::from(denied);
        interval.denied_against += u64::from(against == Some(true));
        if let Some(against) = against {
            self.differences.count(denied, against);
        }
        if logged != Logged::Unknown {
            self.identity.count(logged == Logged::Denied, against.unwrap_or(denied));
        }
    }

    fn report(
        self,
        names: [Option<&RulesToReplay>; 2],
        counts: LineCounts,
        log: &LogFormat,
        options: ReplayOptions,
    ) -> Report {
        let [name, against_name] =
            names.map(|rules| rules.map(|rules| rules.name.clone()).unwrap_or_default());
        let evicted = self.rules.evicted() + self.against.as_ref().map_or(0, Evaluation::evicted);
        let against = self
            .against
            .map(|against| RulesReport::of(against, against_name, options.top, options.denied_percent));
        Report {
            lines: counts.lines,
            bad: counts.bad,
            late: counts.late,
            requests: self.requests,
            from: self.first.map(rfc3339),
            until: self.first.map(|_| rfc3339(self.last)),
            rules: RulesReport::of(self.rules, name, options.top, options.denied_percent),
            differences: against.is_some().then_some(self.differences),
            against,
            identity: (self.identity.compared > 0).then_some(self.identity),
            bad_lines: counts.shown,
            notes: log.notes().to_vec(),
            evicted,
            denied_percent: options.denied_percent,
            timeline: self.timeline,
        }
    }
}
