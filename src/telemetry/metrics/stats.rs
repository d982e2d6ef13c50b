//! The text of `/stats`: a line for each counter and gauge, under envoyproxy/ratelimit's flat names.

use super::model::{Kind, Value};
use super::snapshot::Snapshot;
use crate::engine::text::one_line;

/// Lines of `name: value`, in the order of their names.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let numbers = snapshot.flat().into_iter().filter(|(_, flat)| flat.kind != Kind::Histogram);
    let lines = numbers.map(|(name, flat)| {
        // A name may contain text from a client, which must not start a line.
        let name = one_line(&name, usize::MAX);
        match flat.value {
            Value::Integer(value) => format!("{name}: {value}\n"),
            value => format!("{name}: {}\n", value.as_f64()),
        }
    });
    lines.collect()
}
