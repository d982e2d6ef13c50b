//! The table of what Criterion has measured.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::table::table_of;

/// Every benchmark whose results lie below `folder`, by name.
pub(crate) fn table(folder: &Path) -> String {
    let mut rows: Vec<_> = results(folder).iter().map(|result| row(result)).collect();
    rows.sort_unstable();
    table_of(["step", "ns", "95 % interval"], rows)
}

/// The folders named `new`, of which each benchmark has one.
fn results(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("Criterion has left results there").flatten() {
        let path = entry.path();
        if path.ends_with("new") && path.join("benchmark.json").exists() {
            found.push(path);
        } else if path.is_dir() {
            found.extend(results(&path));
        }
    }
    found
}

fn row(result: &Path) -> [String; 3] {
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(result.join(name)).expect("Criterion writes both");
        serde_json::from_str(&text).expect("JSON")
    };
    let (benchmark, estimates) = (read("benchmark.json"), read("estimates.json"));
    let parts = ["group_id", "function_id", "value_str"];
    let name = parts.iter().filter_map(|part| benchmark[part].as_str()).collect::<Vec<_>>().join(", ");
    // Nanoseconds. The slope is there where the number of iterations rose from one sample to the next.
    let estimate = estimates.get("slope").filter(|slope| !slope.is_null()).unwrap_or(&estimates["mean"]);
    let bound = |name: &str| in_ns(&estimate["confidence_interval"][name]);
    let interval = format!("{} to {}", bound("lower_bound"), bound("upper_bound"));
    [name, in_ns(&estimate["point_estimate"]), interval]
}

fn in_ns(number: &Value) -> String {
    let number = number.as_f64().expect("a number");
    if number < 10.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}
