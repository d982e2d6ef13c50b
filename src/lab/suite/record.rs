//! Writes actual results into a test file as expectations, where there are none or they do not hold. Everything else
//! in the file stays as it is, comments included.

use super::action::Action;
use super::expect::Mark;
use super::step::Step;
use crate::engine::rules::SourceSpan;

/// More results than this are written as counts.
const MAX_MARKS: usize = 60;

/// Actual results of a step.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    step: SourceSpan,
    first_field: SourceSpan,
    /// Position of the value that is to be replaced.
    expect: Option<SourceSpan>,
    /// Expectation in YAML.
    yaml: String,
}

impl Recorded {
    /// The results of `step`; `single` is what to expect of its only request.
    pub(super) fn of(step: &Step, marks: &[Mark], single: Option<String>) -> Self {
        let yaml = single.filter(|_| marks.len() == 1).unwrap_or_else(|| results(marks, is_ordered(step)));
        Self { step: step.span, first_field: step.first_field, expect: step.expect_value, yaml }
    }
}

/// True if the requests of `step` have an order.
fn is_ordered(step: &Step) -> bool {
    !matches!(&step.action, Action::Ask(ask) if ask.together)
}

fn results(marks: &[Mark], is_ordered: bool) -> String {
    if marks.len() <= MAX_MARKS && is_ordered {
        return format!("\"{}\"", marks.iter().map(|mark| mark.symbol()).collect::<String>());
    }
    let count = |mark: Mark| marks.iter().filter(|other| **other == mark).count();
    let first = marks.iter().position(|mark| *mark == Mark::Denied).filter(|_| is_ordered);
    let first = first.map(|first| format!(", first_denied: {}", first + 1)).unwrap_or_default();
    format!("{{allowed: {}, denied: {}{first}}}", count(Mark::Allowed), count(Mark::Denied))
}

/// `text` of the test file with all of `recorded`.
pub(super) fn write_all(text: &str, recorded: &[Recorded]) -> String {
    let mut recorded = recorded.to_vec();
    // From the end to the beginning, so that positions stay as they are.
    recorded.sort_by_key(|recorded| std::cmp::Reverse(recorded.step));
    recorded.iter().fold(text.to_owned(), |text, recorded| write(&text, recorded))
}

/// Writes one expectation into `text`. Those behind it are there already.
fn write(text: &str, recorded: &Recorded) -> String {
    let Recorded { step, first_field, expect, yaml } = recorded;
    let spliced = |start: usize, end: usize, new: &str| [&text[..start], new, &text[end..]].concat();
    if let Some(start) = expect.and_then(|value| offset(text, value)) {
        return spliced(start, value_end(text, start), yaml);
    }
    let Some((start, first)) = offset(text, *step).zip(offset(text, *first_field)) else {
        return text.to_owned();
    };
    if text[start..].starts_with('{') {
        let close = value_end(text, start).saturating_sub(1).max(first);
        let close = text[..close].trim_end().len();
        return spliced(close, close, &format!(", expect: {yaml}"));
    }
    let indent = usize::try_from(first_field.column).unwrap_or(1).saturating_sub(1);
    let end = block_end(text, first, indent);
    spliced(end, end, &format!("\n{}expect: {yaml}", " ".repeat(indent)))
}

/// Byte offset of a position.
fn offset(text: &str, at: SourceSpan) -> Option<usize> {
    let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(at.column).ok()?.checked_sub(1)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(start..)?;
    let line = rest.split('\n').next()?;
    let within = line.char_indices().nth(column).map_or(line.len(), |(offset, _)| offset);
    Some(start + within)
}

/// End of the value at `start`: of a list or map in brackets, of a quoted text, or of a plain one.
fn value_end(text: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text[start..].char_indices() {
        let end = start + at + c.len_utf8();
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !escaped => {
                quote = None;
                if depth == 0 {
                    return end;
                }
            }
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 || at == 0 => quote = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') if depth > 1 => depth -= 1,
            (None, '}' | ']') if depth == 1 => return end,
            (None, '}' | ']' | ',' | '\n') if depth == 0 => {
                return start + text[start..start + at].trim_end().len();
            }
            (None, '#') if depth == 0 && text[..start + at].ends_with(' ') => {
                return start + text[start..start + at].trim_end().len();
            }
            (None, _) => {}
        }
        escaped = false;
    }
    text.len()
}

/// End of the last line of the block map whose first field, `indent` characters from the left, is at `first`.
fn block_end(text: &str, first: usize, indent: usize) -> usize {
    let mut end = first + text[first..].find('\n').unwrap_or(text.len() - first);
    let mut at = end;
    for line in text[end..].strip_prefix('\n').unwrap_or_default().split_inclusive('\n') {
        let begin = at + 1;
        at += line.len();
        let content = line.trim_end();
        let spaces = content.len() - content.trim_start_matches(' ').len();
        match content.is_empty() {
            true => continue,
            false if spaces < indent => break,
            false => end = begin + content.len(),
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(text: &str, step: &str, first: &str, expect: Option<&str>, yaml: &str) -> String {
        let place = |part: &str| {
            let at = text.find(part).expect("a part of the text");
            let line = text[..at].matches('\n').count() + 1;
            let column = text[..at].rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let number = |number: usize| u32::try_from(number).expect("a short text");
            SourceSpan { line: number(line), column: number(column) }
        };
        let recorded = Recorded {
            step: place(step),
            first_field: place(first),
            expect: expect.map(place),
            yaml: yaml.to_owned(),
        };
        write(text, &recorded)
    }

    #[test]
    fn expectations_are_added_in_the_style_of_their_step() {
        let flow = "steps:\n  - {ask: {user: \"a}\"}, times: 3 }  # three\n  - {wait: 1s}\n";
        assert_eq!(
            recorded(flow, "{ask", "ask", None, "\"++-\""),
            "steps:\n  - {ask: {user: \"a}\"}, times: 3, expect: \"++-\" }  # three\n  - {wait: 1s}\n"
        );
        let block = "steps:\n  - ask:\n      user: ü\n    times: 3   # three\n\n  - wait: 1s\n";
        assert_eq!(
            recorded(block, "ask", "ask", None, "\"++-\""),
            "steps:\n  - ask:\n      user: ü\n    times: 3   # three\n    expect: \"++-\"\n\n  - wait: 1s\n"
        );
        let last = "steps:\n- ask: {user: a}";
        assert_eq!(recorded(last, "ask", "ask", None, "\"+\""), "steps:\n- ask: {user: a}\n  expect: \"+\"");
    }

    #[test]
    fn expectations_that_are_there_are_replaced() {
        for (before, after) in [
            ("- {ask: {a: b}, expect: \"+-\", times: 2}\n", "- {ask: {a: b}, expect: NEW, times: 2}\n"),
            ("- {ask: {a: b}, expect: +-}\n", "- {ask: {a: b}, expect: NEW}\n"),
            (
                "- ask: {a: b}\n  expect: {denied: true, body: 'it''s }'}  # no\n",
                "- ask: {a: b}\n  expect: NEW  # no\n",
            ),
            ("- ask: {a: b}\n  expect: +   # yes\n", "- ask: {a: b}\n  expect: NEW   # yes\n"),
        ] {
            let at = before.find("expect: ").expect("it") + "expect: ".len();
            let part = &before[at..];
            assert_eq!(recorded(before, "ask", "ask", Some(part), "NEW"), after);
        }
    }

    #[test]
    fn many_results_are_counted() {
        let marks = [vec![Mark::Allowed; 50], vec![Mark::Denied; 50]].concat();
        assert_eq!(results(&marks, true), "{allowed: 50, denied: 50, first_denied: 51}");
        assert_eq!(results(&marks[49..51], true), "\"+-\"");
        assert_eq!(results(&marks[49..51], false), "{allowed: 1, denied: 1}");
    }
}
