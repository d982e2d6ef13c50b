//! Labels of the requests of a test: steps that settle, extend or release name their tickets by them.

use std::collections::BTreeMap;

use super::reader::{Reader, quoted};
use super::template::Template;
use crate::engine::rules::SourceNode;
use crate::engine::text::nearest;

/// Upper bound on the labels of a test, and on the calls of a step that names them.
pub(super) const MAX_LABELS: u32 = 10_000;

/// Labels that the steps so far have.
#[derive(Debug, Default)]
pub(super) struct Labels(BTreeMap<String, Labelled>);

/// Request with a label.
#[derive(Clone, Debug)]
pub(super) struct Labelled {
    pub(super) domain: String,
    /// Number of its descriptors.
    pub(super) descriptors: usize,
    /// Line of its step.
    pub(super) line: u32,
}

impl Labels {
    /// Adds the labels of `times` requests. `None` if that is a mistake.
    pub(super) fn add(
        &mut self,
        reader: &mut Reader,
        node: &SourceNode,
        times: u32,
        of: &Labelled,
    ) -> Option<Template> {
        let label = template(reader, "as", node)?;
        if times > 1 && !label.counts() {
            let message = format!(
                "{times} requests have one label: write a place for their number, such as call-{{n}}"
            );
            reader.error(node.span, message);
            return None;
        }
        for number in 1..=times {
            let text = label.render(number);
            if let Some(Labelled { line, .. }) = self.0.get(&text) {
                let message = format!("another request is called '{}', at line {line}", quoted(&text));
                reader.error(node.span, message);
                return None;
            }
            if self.0.len() >= MAX_LABELS as usize {
                reader.error(node.span, format!("a test has at most {MAX_LABELS} labels"));
                return None;
            }
            self.0.insert(text, of.clone());
        }
        Some(label)
    }

    /// Reads the label of `times` requests of steps before, in the field `name`. Returns the first of them.
    pub(super) fn find(
        &self,
        reader: &mut Reader,
        (name, node): (&str, &SourceNode),
        times: u32,
    ) -> Option<(Template, &Labelled)> {
        let label = template(reader, name, node)?;
        let unknown = (1..=times).map(|number| label.render(number)).find(|text| !self.0.contains_key(text));
        if let Some(text) = unknown {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let hint = match nearest(&text, &known) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => "write 'as' in the step of a request before".to_owned(),
            };
            let message = format!("no request before this step is called '{}': {hint}", quoted(&text));
            reader.error(node.span, message);
            return None;
        }
        let first = self.0.get(&label.render(1))?;
        Some((label, first))
    }
}

fn template(reader: &mut Reader, name: &str, node: &SourceNode) -> Option<Template> {
    let Some(text) = node.text().filter(|text| !text.is_empty()) else {
        let message = match name {
            "as" => format!("'as' must be a label such as call, not {node}"),
            _ => format!("'{name}' must be the label of a request, the 'as' of its step, not {node}"),
        };
        reader.error(node.span, message);
        return None;
    };
    Some(Template::new(&text))
}
