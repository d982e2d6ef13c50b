//! Tables that fit a terminal.

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

/// Width to which columns of texts shrink on a narrow terminal.
const MIN_TEXT: usize = 12;
/// Spaces between two columns.
const GAP: usize = 2;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    /// Lower bound on the width.
    min: usize,
    /// Upper bound on the width.
    max: usize,
    /// True for numbers, whose ends are aligned.
    is_number: bool,
}

impl Column {
    /// A column of texts, cut beyond `max`.
    pub(super) const fn text(title: &'static str, max: usize) -> Self {
        Self { title, min: 0, max, is_number: false }
    }

    /// A column of numbers, so wide that its width rarely changes.
    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, min: 8, max: 20, is_number: true }
    }

    fn cell(&self, text: &str, width: usize) -> String {
        let text = cut(text, width);
        let space = " ".repeat(width.saturating_sub(text.width()));
        if self.is_number { space + &text } else { text + &space }
    }
}

/// The head and `rows` as lines of at most `width` columns of the terminal: texts shrink first, then the last columns
/// are cut.
pub(super) fn lines(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let natural = |(index, column): (usize, &Column)| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.width()).max();
        cells.unwrap_or_default().max(column.title.width()).clamp(column.min, column.max)
    };
    let mut widths: Vec<_> = columns.iter().enumerate().map(natural).collect();
    let gaps = GAP * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let texts =
            widths.iter_mut().zip(columns).filter(|(width, column)| !column.is_number && **width > MIN_TEXT);
        let Some((widest, _)) = texts.max_by_key(|(width, _)| **width) else { break };
        *widest -= 1;
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(columns).zip(&widths).map(|((cell, column), width)| column.cell(cell, *width));
        cut(&cells.collect::<Vec<_>>().join(&" ".repeat(GAP)), width)
    };
    let head = line(&mut columns.iter().map(|column| column.title));
    let rows = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    std::iter::once(head).chain(rows).collect()
}

/// The beginning of `text` that takes at most `width` columns of the terminal; a cut is marked.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    // The width of a text may exceed the sum of the widths of its characters.
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let fits = |end: &usize| text.get(..*end).is_some_and(|start| start.width() < width);
    let end = ends.take_while(fits).last().unwrap_or_default();
    let mut cut = text.get(..end).unwrap_or_default().to_owned();
    cut.push('…');
    cut
}

/// Text in a field of a row; empty if it is not text.
pub(super) fn text(row: &Value, field: &str) -> String {
    harmless(row[field].as_str().unwrap_or_default())
}

/// `text` with its control characters replaced, which the terminal would obey.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_whatever_the_script() {
        let columns = [Column::text("KEY", 20), Column::number("HITS"), Column::text("STATE", 10)];
        let rows = [row(&["user=日本語", "7", ""]), row(&["user=ä", "1234567890", "over"])];
        assert_eq!(
            lines(&columns, &rows, 60),
            [
                "KEY                HITS  STATE",
                "user=日本語           7       ",
                "user=ä       1234567890  over "
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_shrinks_the_widest_text_first_and_is_never_exceeded() {
        let columns = [Column::text("KEY", 40), Column::text("RULE", 40), Column::number("HITS")];
        // A heart is narrower alone than with the selector that makes it an emoji.
        let rows = [
            row(&[&"k".repeat(50), &"語".repeat(20), "7"]),
            row(&["❤\u{fe0f}".repeat(20).as_str(), "", "7"]),
        ];
        for width in 1..120 {
            let lines = lines(&columns, &rows, width);
            assert!(lines.iter().all(|line| line.width() <= width), "{width}: {lines:?}");
        }
        assert_eq!(lines(&columns, &rows, 36)[1], "kkkkkkkkkkk…  語語語語語…          7");
    }

    #[test]
    fn a_cut_is_marked() {
        assert_eq!((cut("abcdef", 4), cut("äöüß", 4)), ("abc…".to_owned(), "äöüß".to_owned()));
        assert_eq!((cut("日本語", 5), cut("日本語", 4)), ("日本…".to_owned(), "日…".to_owned()));
    }
}
