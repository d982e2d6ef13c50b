//! Compilation of penalties: lockouts as written to lockout schedules.

use std::sync::Arc;

use super::diagnostics::{Diagnostics, shortened};
use super::quota::parse_window;
use super::source;
use super::span::Located;
use super::{NamedLimit, Penalty};
use crate::engine::StatsPath;
use crate::engine::lockout::{Block, LockoutSchedule, MAX_STEPS};

/// Default time after a block after which the schedule starts over.
const FORGET_SECS: u32 = 86_400;

/// Compiles `written`, the penalty of the rule at `path` with `limits`. `keys` are those of the levels down to
/// the rule.
///
/// # Errors
/// Every error in it.
pub(super) fn penalty(
    written: &source::Penalty,
    limits: &[NamedLimit],
    has_limits: bool,
    keys: &[&str],
    path: &StatsPath,
) -> Result<Penalty, Diagnostics> {
    let mut errors = Diagnostics::default();
    let longest = limits.iter().map(|limit| limit.limit.window.secs()).max();
    if !has_limits {
        let message = "'penalty' without a limit has no effect: write it beside 'rate_limit'";
        errors.push(written.span, message);
    }
    let mut secs = |field: &str, text: &Option<Located<String>>, default| match text {
        None => default,
        Some(Located { value, span }) => parse_window(value).map_or_else(
            |expected| {
                errors.push(*span, format!("invalid {field} '{}': {expected}", shortened(value)));
                default
            },
            |window| window.secs(),
        ),
    };
    let within_secs = secs("within", &written.within, longest.unwrap_or_default());
    let forget_secs = secs("forget", &written.forget, FORGET_SECS);
    let after = written.after.as_ref().map_or(1, |after| after.value);
    if let (0, Some(written)) = (after, &written.after) {
        let message = "'after' counts denied requests: write at least 1";
        errors.push(written.span, message);
    }
    let steps = steps(written, &mut errors);
    let scope = scope(written, keys, &mut errors);
    if !(errors.is_empty() && written.unreadable.is_empty()) {
        return Err(errors);
    }
    let schedule =
        LockoutSchedule { after, within_secs, steps: steps.into(), forget_secs, extend: written.extend };
    let name = written.name.as_deref();
    let id = name.map_or_else(|| path.to_string().into(), Into::into);
    Ok(Penalty { schedule: Arc::new(schedule), scope, name: name.map(Into::into), id })
}

fn steps(written: &source::Penalty, errors: &mut Diagnostics) -> Vec<Block> {
    if written.block.is_empty() && !written.unreadable.has("block") {
        let message = "a penalty needs 'block': one or several durations such as [1m, 5m, 15m]";
        errors.push(written.span, message);
    }
    if let Some(step) = written.block.get(MAX_STEPS) {
        errors.push(step.span, format!("a schedule has at most {MAX_STEPS} steps"));
    }
    let mut steps: Vec<Block> = Vec::new();
    for Located { value, span } in &written.block {
        let block = match (value.as_str(), parse_window(value)) {
            ("permanent", _) => Block::Permanent,
            (_, Ok(window)) => Block::Secs(window.secs()),
            (_, Err(expected)) => {
                errors.push(*span, format!("invalid block '{}': {expected}, or permanent", shortened(value)));
                continue;
            }
        };
        match steps.last() {
            Some(Block::Permanent) => {
                let message = format!("nothing comes after a permanent block: leave '{value}' out");
                errors.push(*span, message);
            }
            Some(before) if block < *before => {
                let message = format!(
                    "the block '{value}' is shorter than the one before it: write blocks from short to long"
                );
                errors.push(*span, message);
            }
            Some(_) | None => steps.push(block),
        }
    }
    steps
}

fn scope(written: &source::Penalty, keys: &[&str], errors: &mut Diagnostics) -> Box<[usize]> {
    let Some(Located { value, span }) = &written.scope else { return (0..keys.len()).collect() };
    for name in value.iter().filter(|name| !keys.contains(&name.as_str())) {
        let message = format!("'scope' names '{name}', and this rule has only {}", keys.join(", "));
        errors.push(*span, message);
    }
    if value.is_empty() {
        let message = "'scope' is empty: write the keys that identify the client, or leave it out";
        errors.push(*span, message);
    }
    (0..keys.len()).filter(|level| value.iter().any(|name| name == keys[*level])).collect()
}
