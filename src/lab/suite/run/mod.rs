//! Runs the tests of a file: one after the other, each in a world of its own.

mod tickets;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::action::{Action, Ask, AskCall, Pace, Rendered};
use super::check::is_called;
use super::expect::{Expect, Fact, Mark};
use super::facts::{Called, Encode, Mismatch, Observed};
use super::file::{Test, TestFile};
use super::in_flight::InFlight;
use super::numbers::range_text;
use super::order::orders;
use super::outcome::{CoveredRule, Failure, FileReport, TestReport, TimelineEntry};
use super::record::Recorded;
use super::seen::Seen;
use super::step::Step;
use super::world::{Backend, World};
use crate::engine::rules::Rule;
use crate::engine::{Decision, Request, Rules, Ticket};
use crate::lab::explanation::Explanation;

/// Options of a run.
pub struct RunOptions<'o> {
    /// Runs only tests whose name has this text.
    pub filter: Option<&'o str>,
    /// Store of the counters.
    pub backend: &'o Backend,
    /// Encodes answers.
    pub encode: Encode<'o>,
    /// Records unexpected results instead of failing.
    pub record: bool,
}

/// Rules that requests reached, by address: rules live as long as their file.
type Reached = HashSet<*const Rule>;

impl TestFile {
    /// Runs the tests of the file.
    pub async fn run(&self, options: &RunOptions<'_>) -> FileReport {
        let mut reached = Reached::new();
        let mut report = FileReport { file: self.name.clone(), ..FileReport::default() };
        let is_asked_for = |test: &&Test| options.filter.is_none_or(|filter| test.name.contains(filter));
        for test in self.tests.iter().filter(is_asked_for) {
            let began = Instant::now();
            let mut run = Run::new(self, test, options, &mut reached);
            let mut failure = run.steps().await.err();
            let (mut requests, recorded) = (run.requests, std::mem::take(&mut run.recorded));
            for order in orders(test, options.backend) {
                if failure.is_some() || options.record {
                    break;
                }
                let mut run = Run::new(self, test, options, &mut reached);
                run.order = Some(order);
                failure = run.steps().await.err();
                requests += run.requests;
            }
            report.recorded.extend(recorded);
            report.tests.push(TestReport {
                name: test.name.clone(),
                line: test.span.line,
                requests,
                took: began.elapsed(),
                failure: failure.map(|failure| *failure),
            });
        }
        report.coverage = self.coverage(&reached);
        report
    }

    fn coverage(&self, reached: &Reached) -> Vec<CoveredRule> {
        let mut covered = BTreeMap::new();
        for rules in self.rules.iter().filter_map(|set| set.rules.as_ref().ok()) {
            for placed in rules.placed() {
                let place = (placed.source.to_owned(), placed.span.line, placed.rule.path.to_string());
                *covered.entry(place).or_insert(false) |= reached.contains(&std::ptr::from_ref(placed.rule));
            }
        }
        let rules = covered.into_iter();
        rules
            .map(|((source, line, rule), is_reached)| CoveredRule { source, line, rule, is_reached })
            .collect()
    }
}

/// A test on its way.
struct Run<'r> {
    file: &'r TestFile,
    test: &'r Test,
    options: &'r RunOptions<'r>,
    world: World,
    reached: &'r mut Reached,
    timeline: Vec<TimelineEntry>,
    recorded: Vec<Recorded>,
    requests: u64,
    in_flight: InFlight<'r>,
    /// Step whose concurrent requests have another order, and that order.
    order: Option<(usize, Vec<u32>)>,
}

/// Result of one request.
struct Look {
    mark: Mark,
    /// Ticket of what it holds.
    ticket: Option<Ticket>,
    /// Expectations that do not hold.
    mismatches: Vec<Mismatch>,
    reached: Vec<*const Rule>,
    single: Option<String>,
    /// True if a request was decided.
    is_request: bool,
}

impl Look {
    /// Result where no rules are in force.
    fn without_rules() -> Self {
        let mismatch = Mismatch {
            field: "rules",
            expected: "rules in force".to_owned(),
            actual: "none: no request is decided".to_owned(),
        };
        Self {
            mark: Mark::Failed,
            ticket: None,
            mismatches: vec![mismatch],
            reached: Vec::new(),
            single: None,
            is_request: false,
        }
    }
}

type Stepped = Result<(), Box<Failure>>;

impl<'r> Run<'r> {
    fn new(
        file: &'r TestFile,
        test: &'r Test,
        options: &'r RunOptions<'r>,
        reached: &'r mut Reached,
    ) -> Self {
        let number = file.tests.iter().position(|other| std::ptr::eq(other, test)).unwrap_or_default();
        let world = World::new(&file.settings, test.start, options.backend, number);
        if let Some(first) = file.rules.first() {
            world.load(first);
        }
        Self {
            file,
            test,
            options,
            world,
            reached,
            timeline: Vec::new(),
            recorded: Vec::new(),
            requests: 0,
            in_flight: InFlight::default(),
            order: None,
        }
    }

    async fn steps(&mut self) -> Stepped {
        for (index, step) in self.test.steps.iter().enumerate() {
            self.world.set_time(self.test.start.after(step.at));
            match &step.action {
                Action::Wait => {}
                Action::Store { up } => {
                    self.world.set_store(*up);
                    self.note(step, format!("store {}", if *up { "up" } else { "down" }), Duration::ZERO);
                }
                Action::Reload(rules) => self.reload(index, step, *rules)?,
                Action::Ticket(calls) => self.use_tickets(index, step, calls).await?,
                Action::Ask(ask) if ask.together => self.ask_together(index, step, ask).await?,
                Action::Ask(ask) => self.ask(index, step, ask).await?,
            }
        }
        Ok(())
    }

    fn note(&mut self, step: &Step, text: String, every: Duration) {
        let expected = step.expect.as_ref().and_then(|expect| expect.results.clone());
        self.timeline.push(TimelineEntry { at: step.at, every, text, marks: Vec::new(), expected });
    }

    fn reload(&mut self, index: usize, step: &Step, rules: usize) -> Stepped {
        let Some(set) = self.file.rules.get(rules) else { return Ok(()) };
        let errors = self.world.load(set) as u64;
        self.note(step, "reload".to_owned(), Duration::ZERO);
        let facts = step.expect.iter().flat_map(|expect| &expect.facts);
        let mut expected = facts.filter_map(|fact| match &fact.value {
            Fact::Errors(range) => Some(range.clone()),
            _ => None,
        });
        let expected = expected.next().unwrap_or(0..=0);
        if expected.contains(&errors) {
            return Ok(());
        }
        let found = set.rules.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let actual = format!("{errors}\n{found}").trim_end().to_owned();
        let mismatch = Mismatch { field: "errors", expected: range_text(&expected), actual };
        Err(self.failure(index, step, vec![mismatch], (None, None)))
    }

    /// Asks one request after the other. Concurrent ones too, in the order of this run: a store in memory decides
    /// each of them as a whole, so that every interleaving is an order.
    async fn ask(&mut self, index: usize, step: &Step, ask: &'r Ask) -> Stepped {
        self.note(step, ask.text(), ask.every);
        let mut seen = Seen::default();
        let constant = ask.is_constant().then(|| ask.render(1));
        let order = self.order.clone().filter(|(other, _)| *other == index).map(|(_, order)| order);
        for turn in 1..=ask.times {
            let number =
                order.as_ref().and_then(|order| order.get(turn as usize - 1)).map_or(turn, |own| *own);
            let at = step.at.saturating_add(ask.every.saturating_mul(turn - 1));
            self.world.set_time(self.test.start.after(at));
            let own = constant.is_none().then(|| ask.render(number));
            let Some(rendered) = own.as_ref().or(constant.as_ref()) else { continue };
            let request = rendered.request();
            let look = self.look(step, ask, (rendered, &request), seen.marks.len()).await;
            self.in_flight.add(ask, number, rendered, look.ticket);
            self.accept((index, step), (turn, ask.pace()), (&request, look), &mut seen).await?;
        }
        self.finish(index, step, ask.pace(), seen)
    }

    /// Asks all requests at once: of a store that is shared, they are concurrent.
    async fn ask_together(&mut self, index: usize, step: &Step, ask: &'r Ask) -> Stepped {
        if matches!(self.options.backend, Backend::Memory) {
            return self.ask(index, step, ask).await;
        }
        self.note(step, ask.text(), ask.every);
        let rendered: Vec<_> = (1..=ask.times).map(|number| ask.render(number)).collect();
        let requests: Vec<_> = rendered.iter().map(Rendered::request).collect();
        let looks = rendered.iter().zip(&requests).enumerate();
        let looks = join_all(looks.map(|(before, of)| self.look(step, ask, of, before))).await;
        let (mut seen, mut wrong) = (Seen::default(), None);
        for (((turn, request), rendered), look) in (1..).zip(&requests).zip(&rendered).zip(looks) {
            self.in_flight.add(ask, turn, rendered, look.ticket);
            let mismatches = self.take(look, turn, &mut seen);
            if !mismatches.is_empty() && wrong.is_none() {
                wrong = Some((turn, request, mismatches));
            }
        }
        match wrong {
            None => self.finish(index, step, ask.pace(), seen),
            Some((turn, request, mismatches)) => {
                let explanation = self.world.explain(request).await;
                self.mark(&seen);
                Err(self.failure(index, step, mismatches, (Some(turn), explanation)))
            }
        }
    }

    /// Decides a request, which comes after `before` others of its step.
    async fn look(
        &self,
        step: &Step,
        ask: &Ask,
        (rendered, request): (&Rendered<'_>, &Request<'_>),
        before: usize,
    ) -> Look {
        let snapshot = self.world.limiter.snapshot();
        let Some(rules) = snapshot.rules() else { return Look::without_rules() };
        let (called, decision) = match ask.call {
            AskCall::Look => (Called::Looked, snapshot.usage(request).await),
            _ => (Called::Decided, snapshot.acquire(request, rendered.purpose(), None).await),
        };
        let observed = self.observe(rules, request, decision.as_ref().ok(), called);
        self.compare(step, &observed, before, ask.times == 1)
    }

    fn observe<'o, 'q, 'd>(
        &'o self,
        rules: &'o Rules,
        request: &'o Request<'q>,
        decision: Option<&'o Decision<'d>>,
        called: Called,
    ) -> Observed<'o, 'q, 'd> {
        Observed {
            rules,
            request,
            decision,
            keys: &self.world.limiter.keys,
            foreign_prefix: &self.world.prefix,
            is_store_down: self.world.is_store_down(),
            encode: self.options.encode,
            headers: self.file.settings.headers,
            called,
        }
    }

    /// Holds the result of a call against what is expected of it.
    fn compare(&self, step: &Step, observed: &Observed<'_, '_, '_>, before: usize, is_only: bool) -> Look {
        let mut mismatches = self.never(observed);
        mismatches.extend(mismatches_of(step.expect.as_ref(), observed, before));
        let statuses = observed.decision.iter().flat_map(|decision| &decision.statuses);
        Look {
            mark: observed.mark(),
            ticket: observed.decision.and_then(|decision| decision.hold).map(|hold| hold.ticket),
            mismatches,
            reached: statuses.filter_map(|status| status.rule.map(std::ptr::from_ref)).collect(),
            single: if self.options.record && is_only { observed.record() } else { None },
            is_request: observed.called == Called::Decided,
        }
    }

    /// Records a call. Fails if it is not as expected.
    async fn accept(
        &mut self,
        (index, step): (usize, &Step),
        (turn, pace): (u32, Pace),
        (request, look): (&Request<'_>, Look),
        seen: &mut Seen,
    ) -> Stepped {
        let mismatches = self.take(look, turn, seen);
        if !mismatches.is_empty() {
            let explanation = self.world.explain(request).await;
            self.mark(seen);
            return Err(self.failure(index, step, mismatches, (Some(turn), explanation)));
        }
        if seen.is_suspect(step.expect.as_ref(), pace) {
            seen.explained = Some((turn, self.world.explain(request).await));
        }
        Ok(())
    }

    /// Records a request, and returns the mismatches that fail the test.
    fn take(&mut self, look: Look, turn: u32, seen: &mut Seen) -> Vec<Mismatch> {
        self.reached.extend(look.reached);
        self.requests += u64::from(look.is_request);
        seen.add(turn, look.mark);
        seen.single = look.single;
        if self.options.record {
            seen.is_wrong |= !look.mismatches.is_empty();
            return Vec::new();
        }
        look.mismatches
    }

    /// Rules of `never` that the request reached.
    fn never(&self, observed: &Observed<'_, '_, '_>) -> Vec<Mismatch> {
        let rules =
            || observed.decision.iter().flat_map(|decision| &decision.statuses).filter_map(|s| s.rule);
        let reached = self.file.never.iter().filter(|name| rules().any(|rule| is_called(rule, &name.value)));
        let mismatch = |name: &super::reader::Placed<String>| Mismatch {
            field: "never",
            expected: format!("no request reaches {}", name.value),
            actual: "this one does".to_owned(),
        };
        reached.map(mismatch).collect()
    }

    /// Holds the counts of a step against its expectation, and records the result.
    fn finish(&mut self, index: usize, step: &Step, pace: Pace, mut seen: Seen) -> Stepped {
        self.mark(&seen);
        let facts = step.expect.iter().flat_map(|expect| &expect.facts);
        let mismatches: Vec<_> = facts.filter_map(|fact| seen.mismatch(&fact.value, pace)).collect();
        if self.options.record {
            if step.expect.is_none() || seen.is_wrong || !mismatches.is_empty() {
                self.recorded.push(Recorded::of(step, &seen.marks, seen.single.take()));
            }
            return Ok(());
        }
        if mismatches.is_empty() {
            return Ok(());
        }
        let (number, explanation) = seen.explained.take().unzip();
        Err(self.failure(index, step, mismatches, (number, explanation.flatten())))
    }

    fn mark(&mut self, seen: &Seen) {
        if let Some(entry) = self.timeline.last_mut() {
            entry.marks.clone_from(&seen.marks);
        }
    }

    fn failure(
        &mut self,
        index: usize,
        step: &Step,
        mismatches: Vec<Mismatch>,
        (request, explanation): (Option<u32>, Option<Explanation>),
    ) -> Box<Failure> {
        let every = match &step.action {
            Action::Ask(ask) => ask.every,
            Action::Ticket(_) | Action::Reload(_) | Action::Store { .. } | Action::Wait => Duration::ZERO,
        };
        let turns = request.map_or(0, |request| request.saturating_sub(1));
        let order = self.order.as_ref().filter(|(other, _)| *other == index);
        Box::new(Failure {
            line: step.span.line,
            step: index + 1,
            at: step.at.saturating_add(every.saturating_mul(turns)),
            request,
            mismatches,
            timeline: std::mem::take(&mut self.timeline),
            explanation,
            order: order.map(|(_, order)| order.clone()),
        })
    }
}

/// Expectations of each request that `observed`, the one after `before` others, does not meet.
fn mismatches_of(expect: Option<&Expect>, observed: &Observed<'_, '_, '_>, before: usize) -> Vec<Mismatch> {
    let Some(expect) = expect else { return Vec::new() };
    let mark = observed.mark();
    let expected = expect.results.as_ref().and_then(|results| results.get(before)).copied();
    let result = expected.filter(|expected| *expected != mark).map(|expected| Mismatch {
        field: "expect",
        expected: expected.field().to_owned(),
        actual: mark.field().to_owned(),
    });
    let facts = expect.facts.iter().filter_map(|fact| observed.mismatch(&fact.value));
    result.into_iter().chain(facts).collect()
}

#[cfg(test)]
mod tests;
