//! Rules that a test file names: paths of files, rules in place, or their text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reader::Reader;
use crate::engine::rules::{
    CompileOptions, Documents, RuleError, RuleErrors, RuleSource, Rules, SourceFile, SourceNode, SourceSpan,
    SourceValue, compile,
};

/// Rules that a test file names.
#[derive(Debug)]
pub struct RuleSet {
    /// The compiled rules.
    ///
    /// # Errors
    /// Their mistakes.
    pub rules: Result<Arc<Rules>, RuleErrors>,
}

/// Reads the rule files at a path, relative to the directory of the test file.
pub type ReadRules<'r> = &'r dyn Fn(&Path) -> (Vec<SourceFile>, Vec<RuleError>);

/// Rules that stand in a test file, with their positions there.
struct InPlace<'f> {
    file: &'f SourceFile,
    node: &'f SourceNode,
}

impl RuleSource for InPlace<'_> {
    fn name(&self) -> &str {
        &self.file.name
    }

    fn documents(&self) -> Documents {
        Documents { nodes: vec![self.node.clone()], ..Documents::default() }
    }

    fn text(&self) -> Option<&str> {
        Some(&self.file.text)
    }
}

/// A source of any kind.
enum Source<'f> {
    File(SourceFile),
    InPlace(InPlace<'f>),
}

impl RuleSource for Source<'_> {
    fn name(&self) -> &str {
        match self {
            Self::File(file) => file.name(),
            Self::InPlace(node) => node.name(),
        }
    }

    fn documents(&self) -> Documents {
        match self {
            Self::File(file) => file.documents(),
            Self::InPlace(node) => node.documents(),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::File(file) => RuleSource::text(file),
            Self::InPlace(node) => node.text(),
        }
    }
}

/// Rules of a test file that have been read so far.
pub(super) struct RuleSets<'f> {
    pub(super) file: &'f SourceFile,
    pub(super) read: ReadRules<'f>,
    pub(super) options: CompileOptions,
    pub(super) sets: Vec<RuleSet>,
}

impl<'f> RuleSets<'f> {
    /// Reads and compiles rules; returns their index.
    pub(super) fn rule_set(&mut self, reader: &mut Reader, name: &str, node: &'f SourceNode) -> usize {
        let items = match &node.value {
            SourceValue::List(items) => &items[..],
            _ => std::slice::from_ref(node),
        };
        let (mut sources, mut unread) = (Vec::new(), RuleErrors::default());
        for item in items {
            match &item.value {
                SourceValue::Map(_) => {
                    sources.push(Source::InPlace(InPlace { file: self.file, node: item }));
                }
                SourceValue::Text(text) if text.contains('\n') => {
                    sources.push(Source::File(self.text_in_place(text, item.span)));
                }
                SourceValue::Text(path) => {
                    let (files, errors) = (self.read)(&PathBuf::from(path));
                    if files.is_empty() {
                        let cause = errors.first().map(|error| format!(": {}", error.message));
                        let message = format!("no rule files at {item}{}", cause.unwrap_or_default());
                        reader.error(item.span, message);
                        continue;
                    }
                    sources.extend(files.into_iter().map(Source::File));
                    errors.into_iter().for_each(|error| unread.push(error));
                }
                _ => {
                    let message = format!("'{name}' must be paths or rules, not {item}");
                    reader.error(item.span, message);
                }
            }
        }
        let rules = match compile(&sources, self.options, None) {
            Ok(rules) if unread.is_empty() => Ok(Arc::new(rules)),
            Ok(_) => Err(unread),
            Err(errors) => {
                unread.extend(errors);
                Err(unread)
            }
        };
        self.sets.push(RuleSet { rules });
        self.sets.len() - 1
    }

    /// Rules as a block of text, below as many empty lines as there are before it in the test file: errors then have
    /// the lines of the file.
    fn text_in_place(&self, text: &str, span: SourceSpan) -> SourceFile {
        let first = text.lines().next().unwrap_or_default();
        let line = usize::try_from(span.line).unwrap_or_default();
        let starts_here = self
            .file
            .text
            .lines()
            .nth(line.saturating_sub(1))
            .is_some_and(|line| line.trim() == first.trim());
        let before = if starts_here { line.saturating_sub(1) } else { line };
        SourceFile { name: self.file.name.clone(), text: "\n".repeat(before) + text }
    }
}
