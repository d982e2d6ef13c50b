//! Fields of a step, and the steps that have them.

use super::reader::Reader;
use crate::engine::rules::SourceNode;

/// Fields that say what a step does. A step has one of them, or only passes time.
pub(super) const ACTIONS: [&str; 11] = [
    "ask",
    "descriptors",
    "reserve",
    "acquire",
    "look",
    "settle",
    "extend",
    "renew",
    "release",
    "reload",
    "store",
];

const REQUESTS: &[&str] = &["ask", "descriptors", "reserve", "acquire"];

/// Fields that only some steps have, and these steps.
const OPTIONS: [(&str, &[&str]); 12] = [
    ("domain", &["ask", "descriptors", "reserve", "acquire", "look", "release"]),
    ("hits", &["ask", "descriptors"]),
    ("id", &["reserve"]),
    ("amount", &["reserve", "settle", "extend"]),
    ("weight", &["acquire"]),
    ("ttl", &["reserve", "acquire", "extend", "renew"]),
    ("as", REQUESTS),
    ("usage", &["settle"]),
    ("final", &["settle"]),
    ("times", &["ask", "descriptors", "reserve", "acquire", "settle", "extend", "renew", "release"]),
    ("every", REQUESTS),
    ("together", REQUESTS),
];

/// Fields of a step.
pub(super) struct Fields<'n>(pub(super) Vec<(&'static str, &'n SourceNode)>);

impl<'n> Fields<'n> {
    /// Value of the field `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'n SourceNode> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, node)| *node)
    }

    /// Reports fields that a step with `action` has no use for.
    pub(super) fn check(&self, reader: &mut Reader, action: Option<&str>) {
        for (name, node) in &self.0 {
            let known = OPTIONS.iter().find(|(option, _)| option == name);
            let Some((_, steps)) = known else { continue };
            if action.is_none_or(|action| !steps.contains(&action)) {
                let steps: Vec<_> = steps.iter().map(|step| format!("'{step}'")).collect();
                let steps = match &steps[..] {
                    [only] => only.clone(),
                    [all @ .., last] => format!("{} or {last}", all.join(", ")),
                    [] => continue,
                };
                reader.error(node.span, format!("'{name}' is for steps with {steps}"));
            }
        }
    }
}
