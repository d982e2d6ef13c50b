//! Errors and warnings of one load, collected over all of its sources.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use super::diagnostics::{Diagnostic, Diagnostics, MAX_REPORTED, shortened};
use super::document::RuleSource;
use super::error::{Excerpt, RuleError, RuleErrors};
use super::span::{NodePaths, SourceSpan};

/// Position in one of the sources of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Index of the source.
    pub(super) source: usize,
    pub(super) span: SourceSpan,
}

/// Problems of `source` in the order of its lines, with excerpts of its text.
pub fn located(source: &dyn RuleSource, found: Diagnostics) -> RuleErrors {
    let mut report = Report::new(std::iter::once(source));
    report.errors(0, found);
    report.finish().err().unwrap_or_default()
}

/// Errors and warnings of a load.
pub(super) struct Report<'s> {
    sources: Vec<(&'s dyn RuleSource, OnceCell<LineIndex>)>,
    /// Paths of sources that are not text, by the index of the source.
    paths: Vec<Option<NodePaths>>,
    errors: Located,
    warnings: Located,
}

#[derive(Default)]
struct Located {
    kept: Vec<(Origin, String)>,
    omitted: usize,
    /// Indexes of the sources of those.
    omitted_sources: BTreeSet<usize>,
}

/// Byte offsets at which the lines of a text begin: without it each error would search from the top.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn of(text: &str) -> Self {
        let after_breaks = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        Self(std::iter::once(0).chain(after_breaks).collect())
    }

    fn line<'t>(&self, text: &'t str, number: u32) -> Option<&'t str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let start = *self.0.get(index)?;
        let end = self.0.get(index + 1).map_or(text.len(), |next| next - 1);
        Some(text.get(start..end)?.trim_end_matches('\r'))
    }
}

impl<'s> Report<'s> {
    pub(super) fn new(sources: impl Iterator<Item = &'s dyn RuleSource>) -> Self {
        let sources: Vec<_> = sources.map(|source| (source, OnceCell::new())).collect();
        let paths = vec![None; sources.len()];
        Self { sources, paths, errors: Located::default(), warnings: Located::default() }
    }

    /// Sets the paths of a source that is not text.
    pub(super) fn set_paths(&mut self, source: usize, paths: Option<NodePaths>) {
        if let Some(known) = self.paths.get_mut(source) {
            *known = paths;
        }
    }

    fn path(&self, at: Origin) -> Option<String> {
        let path = self.paths.get(at.source)?.as_ref()?.path(at.span);
        (!path.is_empty()).then_some(path)
    }

    pub(super) fn error(&mut self, origin: Origin, message: impl Into<String>) {
        self.errors.add(origin.source, Diagnostics::of(origin.span, message));
    }

    pub(super) fn warn(&mut self, origin: Origin, message: impl Into<String>) {
        self.warnings.add(origin.source, Diagnostics::of(origin.span, message));
    }

    pub(super) fn errors(&mut self, source: usize, errors: Diagnostics) {
        self.errors.add(source, errors);
    }

    pub(super) fn warnings(&mut self, source: usize, warnings: Diagnostics) {
        self.warnings.add(source, warnings);
    }

    /// Position `at` in a message about `from`: `line 3` in the same source, else `two.yaml:3:5`.
    pub(super) fn refer(&self, from: Origin, at: Origin) -> String {
        let SourceSpan { line, column } = at.span;
        let source = self.sources.get(at.source);
        if let Some(path) = self.path(at) {
            return match source {
                Some((source, _)) if at.source != from.source => {
                    format!("{}: {path}", shortened(source.name()))
                }
                _ => path,
            };
        }
        match source {
            Some((source, _)) if at.source != from.source => {
                format!("{}:{line}:{column}", shortened(source.name()))
            }
            _ if line == from.span.line => format!("column {column}"),
            _ => format!("line {line}"),
        }
    }

    /// Warnings and the paths of each source, or all errors if there is one.
    pub(super) fn finish(mut self) -> Result<(RuleErrors, Vec<Option<NodePaths>>), RuleErrors> {
        let errors = std::mem::take(&mut self.errors);
        let errors = self.render(errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let warnings = std::mem::take(&mut self.warnings);
        Ok((self.render(warnings), self.paths))
    }

    fn render(&self, Located { mut kept, omitted, omitted_sources }: Located) -> RuleErrors {
        // The parser reports before the compiler does; sort by position.
        kept.sort_by_key(|(origin, _)| (origin.source, origin.span));
        let reported = kept.into_iter().map(|(origin, message)| self.located(origin, message));
        let sources = omitted_sources.into_iter().filter_map(|index| self.sources.get(index));
        let omitted_sources = sources.map(|(source, _)| source.name().to_owned()).collect();
        RuleErrors { reported: reported.collect(), omitted, omitted_sources }
    }

    fn located(&self, origin: Origin, message: String) -> RuleError {
        let (path, Origin { source, span }) = (self.path(origin), origin);
        let Some((source, lines)) = self.sources.get(source) else {
            return RuleError::of_source("", message);
        };
        let excerpt = source.text().and_then(|text| {
            let line = lines.get_or_init(|| LineIndex::of(text)).line(text, span.line)?;
            Some(Excerpt::around(line, span.column))
        });
        RuleError { source: source.name().to_owned(), span, path, excerpt, message }
    }
}

impl Located {
    fn add(&mut self, source: usize, found: Diagnostics) {
        if found.omitted() > 0 {
            self.omitted += found.omitted();
            self.omitted_sources.insert(source);
        }
        for Diagnostic { span, message } in found.into_kept() {
            if self.kept.len() < MAX_REPORTED {
                self.kept.push((Origin { source, span }, message));
            } else {
                self.omitted += 1;
                self.omitted_sources.insert(source);
            }
        }
    }
}
