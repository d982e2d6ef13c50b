//! The replay: reads files together in the order of time, and evaluates their requests.

use std::sync::Arc;
use std::time::Duration;

use super::evaluation::Evaluation;
use super::input::{Lines, LogSource, NextLine};
use super::line_counts::LineCounts;
use super::parser::{LineError, LogFormat, Parser};
use super::record::{self, Logged, Record};
use super::reorder::Reorder;
use super::report::{BadLine, Comparison, Differences, Identity, Report, RulesReport, offenders, rfc3339};
use super::timeline::Timeline;
use crate::engine::text::one_line_of_bytes;
use crate::engine::{Modes, Rules, Timestamp};

/// Longest part of a bad line that is shown, in bytes.
const SHOWN_LINE_BYTES: usize = 160;
/// Lines from which on a replay stops before its end because too many are bad.
const MIN_LINES_TO_STOP: u64 = 10_000;
/// Longest time, beside that of `--reorder`, between a line and the next one, unless later lines confirm it.
const MAX_JUMP: Duration = Duration::from_secs(86_400);

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
    let max_jump = options.reorder.saturating_add(MAX_JUMP);
    let mut inputs: Vec<_> = sources.into_iter().map(|source| Input::new(source, log, max_jump)).collect();
    let mut sides = Sides::new(rules, against, options);
    let mut counts = LineCounts::default();
    let mut reorder = Reorder::new(options.reorder);
    let mut read_bytes = 0;
    // Reads the file that is furthest behind.
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
            check(&counts, options)?;
        }
        progress(Progress { bytes: read_bytes, lines: counts.lines, at: seen });
    }
    reorder.finish(|at, request| sides.decide(at, request));
    check(&counts, options)?;
    counts.late = reorder.late();
    Ok(sides.report([Some(rules), against], counts, log, options))
}

fn check(counts: &LineCounts, options: ReplayOptions) -> Result<(), ReplayError> {
    let LineCounts { lines, bad, shown, .. } = counts;
    let (lines, bad, max_percent) = (*lines, *bad, options.max_bad_percent);
    if bad as f64 * 100.0 / lines.max(1) as f64 <= max_percent {
        return Ok(());
    }
    Err(ReplayError::TooManyBad { bad, lines, max_percent, shown: shown.clone() })
}

/// A file that is read.
struct Input {
    lines: Lines,
    parser: Parser,
    /// Latest time in it.
    seen: Timestamp,
    /// Line far ahead of those before it, until the next line shows whether its time is right.
    ahead: Option<LineAhead>,
    max_jump: Duration,
}

/// A line whose time may be wrong.
#[derive(Default)]
struct LineAhead {
    at: Timestamp,
    number: u64,
    /// Its beginning, to be shown.
    text: String,
    requests: Vec<Vec<u8>>,
}

impl Input {
    fn new(source: LogSource, log: &LogFormat, max_jump: Duration) -> Self {
        Self {
            lines: source.into_lines(),
            parser: Parser::new(log),
            seen: Timestamp::default(),
            ahead: None,
            max_jump,
        }
    }

    /// Reads a block of lines; false at the end.
    fn read_block(&mut self, counts: &mut LineCounts, reorder: &mut Reorder) -> Result<bool, ReplayError> {
        let has_more = self.lines.read_block();
        let name = self.lines.name().to_owned();
        for number in self.lines.number() + 1.. {
            let (text, reason) = match self.lines.next_line() {
                NextLine::NeedsBlock => break,
                NextLine::Line(line) if line.trim_ascii().is_empty() => continue,
                NextLine::Line(line) => {
                    let latest = self.seen.after(self.max_jump);
                    let mut held = Vec::new();
                    let outcome = self.parser.read(line, |at, request| {
                        if at > latest {
                            held.push(request.to_vec());
                        } else {
                            reorder.add(at, request);
                        }
                    });
                    match outcome {
                        Ok(None) => continue,
                        Ok(Some(at)) => {
                            counts.lines += 1;
                            if at > latest || self.ahead.is_some() {
                                let text = one_line_of_bytes(line, SHOWN_LINE_BYTES);
                                let line = LineAhead { at, number, text, requests: held };
                                self.settle(line, counts, reorder);
                            } else {
                                self.seen = self.seen.max(at);
                            }
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
        if let Err(error) = &has_more {
            counts.lines += 1;
            let reason = format!("cannot be read beyond this line: {error}");
            counts.bad(&name, self.lines.number().max(1), reason, String::new());
        }
        let has_lines = has_more.unwrap_or(true);
        if !has_lines {
            // No line contradicts the last one.
            if let Some(ahead) = self.ahead.take() {
                self.accept(&ahead, reorder);
            }
            counts.sampled(self.parser.sample());
        }
        Ok(has_lines)
    }

    /// Takes or refuses the line that was far ahead, now that `line` follows it.
    fn settle(&mut self, line: LineAhead, counts: &mut LineCounts, reorder: &mut Reorder) {
        if let Some(ahead) = self.ahead.take() {
            if line.at.after(self.max_jump) >= ahead.at {
                self.accept(&ahead, reorder);
            } else {
                let reason = "has a time far ahead of the lines around it".to_owned();
                counts.bad(self.lines.name(), ahead.number, reason, ahead.text);
            }
        }
        if line.at > self.seen.after(self.max_jump) {
            self.ahead = Some(line);
        } else {
            self.accept(&line, reorder);
        }
    }

    fn accept(&mut self, line: &LineAhead, reorder: &mut Reorder) {
        self.seen = self.seen.max(line.at);
        line.requests.iter().for_each(|request| reorder.add(line.at, request));
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
    /// Verdicts on the requests of the last line: that of the log, and that of the rules.
    line: Option<[bool; 2]>,
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
            line: None,
            first: None,
            last: Timestamp::default(),
        }
    }

    fn decide(&mut self, at: Timestamp, request: &[u8]) {
        let Some(Record { request, logged, is_same_line }) = record::read(request) else { return };
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
        if !is_same_line {
            self.end_line();
        }
        if logged != Logged::Unknown {
            // The log has one verdict for a line: denied, if one of its requests was.
            let [in_log, by_rules] = self.line.unwrap_or_default();
            self.line = Some([in_log || logged == Logged::Denied, by_rules || against.unwrap_or(denied)]);
        }
    }

    fn end_line(&mut self) {
        if let Some([in_log, by_rules]) = self.line.take() {
            self.identity.count(in_log, by_rules);
        }
    }

    fn report(
        mut self,
        names: [Option<&RulesToReplay>; 2],
        counts: LineCounts,
        log: &LogFormat,
        options: ReplayOptions,
    ) -> Report {
        self.end_line();
        let notes =
            log.notes().iter().cloned().chain(counts.notes(self.requests)).chain(hashed_notes(log, names));
        let notes = notes.collect();
        let [name, against_name] =
            names.map(|rules| rules.map(|rules| rules.name.clone()).unwrap_or_default());
        let evicted = self.rules.evicted() + self.against.as_ref().map_or(0, Evaluation::evicted);
        let ReplayOptions { top, denied_percent, .. } = options;
        let rules = RulesReport::of(&mut self.rules, name, top, denied_percent);
        let against = self.against.map(|mut evaluation| {
            let against = RulesReport::of(&mut evaluation, against_name, top, denied_percent);
            let all = [&self.rules, &evaluation].map(|side| offenders(side, usize::MAX));
            let [of_rules, of_against] = all;
            let comparison = Comparison::of((&rules, of_rules), (&against, of_against), top);
            (against, comparison)
        });
        let (against, comparison) = against.unzip();
        Report {
            lines: counts.lines,
            bad: counts.bad,
            late: counts.late,
            requests: self.requests,
            from: self.first.map(rfc3339),
            until: self.first.map(|_| rfc3339(self.last)),
            rules,
            comparison,
            differences: against.is_some().then_some(self.differences),
            against,
            identity: (self.identity.compared > 0).then_some(self.identity),
            bad_lines: counts.shown,
            notes,
            evicted,
            denied_percent,
            timeline: self.timeline,
        }
    }
}

/// Notes on rules that a decision log cannot show to match.
fn hashed_notes(log: &LogFormat, names: [Option<&RulesToReplay>; 2]) -> Vec<String> {
    if !log.is_decision_log() {
        return Vec::new();
    }
    let mut notes = Vec::new();
    for domain in names.iter().flatten().flat_map(|rules| rules.rules.domains()) {
        for key in domain.hashed_keys_with_values() {
            let note = format!(
                "the decision log has hashes in place of the values of '{key}' in domain {}: rules for some of its values do \
                 not match them",
                domain.name()
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}
