//! Expectations that can never hold: mistakes of a test file.

use super::action::{Action, Ask, AskCall, HeldCall, TicketStep};
use super::expect::{Expect, Fact, Mark, Number, Why, range_of};
use super::reader::{Placed, Reader};

/// Reason that no call about a ticket has a fact.
const OF_REQUESTS: &str = "it is for steps with 'ask', 'reserve' or 'acquire'";

/// Reason that only an extension by an amount has a fact.
const OF_RAISES: &str = "the extension has no 'amount'";

/// Reason that only a settlement has a fact.
const OF_SETTLEMENTS: &str = "it is for steps with 'settle'";

/// Reports expectations that cannot hold.
pub(super) fn check(reader: &mut Reader, expect: &Expect, action: &Action) {
    for Placed { value: fact, span } in &expect.facts {
        if let Some(reason) = misfit(fact, action) {
            reader.error(*span, format!("impossible '{}': {reason}", fact.field()));
        }
    }
    let (times, together) = match action {
        Action::Ask(Ask { call: AskCall::Look, .. }) if expect.results.is_some() => {
            reader.error(expect.span, "impossible 'expect': a look has no result; write a map");
            return;
        }
        Action::Ask(ask) => (ask.times, ask.together),
        Action::Ticket(step) => (step.times, false),
        Action::Reload(_) | Action::Store { .. } | Action::Wait => {
            if expect.results.is_some() {
                reader.error(expect.span, "impossible 'expect': the step sends no request");
            }
            return;
        }
    };
    results(reader, expect, u64::from(times), together);
}

/// Reason that no step with `action` has `fact`; `None` if it may.
fn misfit(fact: &Fact, action: &Action) -> Option<&'static str> {
    let of_all = || matches!(fact, Fact::Results(..) | Fact::FirstDenied(_));
    let of_limits = || {
        matches!(
            fact,
            Fact::Layer(_)
                | Fact::Rule(_)
                | Fact::Limits(_)
                | Fact::Matched { .. }
                | Fact::Counter { .. }
                | Fact::Unmatched(_)
                | Fact::Number(
                    Number::Used | Number::Held | Number::Holds | Number::Limit | Number::Remaining,
                    _
                )
        )
    };
    let of_settled = || matches!(fact, Fact::Late(_) | Fact::Number(Number::Charged | Number::Returned, _));
    let of_raised = || {
        matches!(
            fact,
            Fact::Number(Number::Amount, _) | Fact::Wait(_) | Fact::Why(Why::Limit | Why::Held | Why::Size)
        )
    };
    match action {
        Action::Reload(_) if matches!(fact, Fact::Errors(_)) => None,
        Action::Reload(_) | Action::Store { .. } | Action::Wait => Some("the step sends no request"),
        _ if matches!(fact, Fact::Errors(_)) => Some("it is for steps with 'reload'"),
        Action::Ask(Ask { call, .. }) => match call {
            AskCall::Look if of_limits() => None,
            AskCall::Look => Some("a look counts nothing, and has no result"),
            _ if matches!(fact, Fact::Continue(_)) => {
                Some("it is for steps with 'settle' and 'final: false'")
            }
            // Over Envoy, hits may settle a hold.
            AskCall::Decide => None,
            _ if of_settled() || matches!(fact, Fact::First(_)) => Some(OF_SETTLEMENTS),
            AskCall::Acquire { .. } | AskCall::Reserve(_) => None,
        },
        Action::Ticket(TicketStep { call: HeldCall::Settle(settling), .. }) => match fact {
            Fact::First(_) if !settling.is_final => Some("the request goes on after 'final: false'"),
            Fact::Continue(_) if settling.is_final => Some("the request has ended; write 'final: false'"),
            Fact::First(_) | Fact::Continue(_) => None,
            _ if of_all() || of_limits() || of_settled() => None,
            _ => Some(OF_REQUESTS),
        },
        Action::Ticket(TicketStep { call, .. }) => match fact {
            Fact::ExpiresIn(_) if matches!(call, HeldCall::Extend { .. }) => None,
            _ if of_all() || of_limits() => None,
            _ if of_raised() && call.raises() => None,
            _ if of_raised() && call.name() == "extend" => Some(OF_RAISES),
            Fact::First(_) | Fact::Continue(_) => Some(OF_SETTLEMENTS),
            _ if of_settled() => Some(OF_SETTLEMENTS),
            _ => Some(OF_REQUESTS),
        },
    }
}

/// Checks the numbers of results of `times` requests.
fn results(reader: &mut Reader, expect: &Expect, times: u64, together: bool) {
    if let Some(results) = &expect.results {
        if results.len() as u64 != times {
            let message = format!(
                "impossible 'expect': {} results for {times} {}",
                results.len(),
                if times == 1 { "request" } else { "requests" }
            );
            reader.error(expect.span, message);
        } else if together && results.windows(2).any(|pair| pair[0] != pair[1]) {
            let message = "impossible 'expect': requests that are sent together have no order; write \
                           {allowed: COUNT}";
            reader.error(expect.span, message);
        }
    }
    let mut total = 0..=0;
    for Placed { value: fact, span } in &expect.facts {
        let number = match fact {
            Fact::Results(_, requests) => {
                let range = range_of(requests, times);
                total = total.start() + range.start()..=total.end() + range.end();
                (*range.start() > times).then_some(*range.start())
            }
            Fact::FirstDenied(range) if *range.end() == 0 => {
                reader.error(*span, "impossible 'first_denied': requests count from 1");
                None
            }
            Fact::FirstDenied(range) => (*range.start() > times).then_some(*range.start()),
            _ => None,
        };
        if let Some(number) = number {
            let message = format!("impossible '{}': {number} of {times} requests", fact.field());
            reader.error(*span, message);
        }
    }
    if *total.start() > times {
        reader.error(
            expect.span,
            format!("impossible 'expect': {} results for {times} requests", total.start()),
        );
    }
    contradictions(reader, expect, times);
}

/// Reports facts that cannot hold for this `reason`, beside a fact that `says` otherwise.
fn exclude<'f>(
    reader: &mut Reader,
    facts: impl Iterator<Item = &'f Placed<Fact>>,
    reason: &str,
    (by, says): (&Placed<Fact>, &str),
) {
    for fact in facts {
        let (field, other) = (fact.value.field(), by.value.field());
        reader.error(fact.span, format!("impossible '{field}': {reason}, and '{other}' says that {says}"));
    }
}

/// Reports facts that exclude each other.
fn contradictions(reader: &mut Reader, expect: &Expect, times: u64) {
    let passing = |fact: &Fact| match fact {
        Fact::Results(Mark::Denied, requests) => *range_of(requests, times).end() < times,
        Fact::Results(Mark::Allowed | Mark::Failed, requests) => *range_of(requests, times).start() > 0,
        Fact::Status(200) | Fact::Unmatched(true) => true,
        _ => false,
    };
    let denying = |fact: &Fact| match fact {
        Fact::Results(Mark::Denied, requests) => *range_of(requests, times).start() > 0,
        Fact::Results(Mark::Allowed, requests) => *range_of(requests, times).end() < times,
        Fact::FirstDenied(_) => true,
        _ => false,
    };
    let facts = || expect.facts.iter();
    if let Some(pass) = facts().find(|fact| passing(&fact.value)) {
        let excluded = facts().filter(|fact| fact.value.needs_denial());
        exclude(reader, excluded, "only a denied request has it", (pass, "requests pass"));
    }
    let all_pass = |fact: &Fact| {
        matches!(fact, Fact::Results(Mark::Denied, requests) if *range_of(requests, times).end() == 0)
            || matches!(fact, Fact::Results(Mark::Allowed, requests) if *range_of(requests, times).start() == times)
            || matches!(fact, Fact::Status(200))
    };
    if let Some(pass) = facts().find(|fact| all_pass(&fact.value)) {
        let excluded = facts().filter(|fact| denying(&fact.value));
        exclude(reader, excluded, "it needs a denied request", (pass, "there is none"));
    }
    let all_denied = |fact: &Fact| {
        matches!(fact, Fact::Results(Mark::Denied, requests) if *range_of(requests, times).start() == times)
            || matches!(fact, Fact::Results(Mark::Allowed, requests) if *range_of(requests, times).end() == 0)
    };
    if let Some(denial) = facts().find(|fact| all_denied(&fact.value)) {
        let is_of_hold = |fact: &Fact| matches!(fact, Fact::ExpiresIn(_) | Fact::Number(Number::Amount, _));
        let excluded = facts().filter(|fact| is_of_hold(&fact.value));
        exclude(reader, excluded, "only a request that passes has it", (denial, "none does"));
    }
    let why = facts().find_map(|fact| if let Fact::Why(why) = fact.value { Some(why) } else { None });
    for fact in facts() {
        if let (Fact::Lockout(lockout), Some(why)) = (&fact.value, why)
            && *lockout != (why == Why::Lockout)
        {
            let message = format!("impossible 'lockout': 'why' says {}", why.name());
            reader.error(fact.span, message);
        }
    }
}
