//! `tollgate bench` as people run it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::Process;

/// Exit code and output of a run.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{}\n{}", self.stdout, self.stderr))
    }
}

fn command(address: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().args(["bench", "--domain", "load", "--address", address, "--threads", "2"]);
    command.args(args);
    command
}

/// Runs it to its end.
pub(crate) async fn bench(address: &str, args: &[&str]) -> Ran {
    let mut command = command(address, args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Starts a run without an end, with progress lines.
pub(crate) fn endless(address: &str, args: &[&str], dir: &Path) -> Process {
    let mut command = command(address, &["free=x", "--duration", "1h", "--progress"]);
    Process::start("bench", command.args(args), dir)
}

/// The report in JSON that comes after whatever else was printed.
pub(crate) fn report_of(load: &Process) -> Value {
    let printed = load.output();
    let json = printed.find("{\n").map(|at| &printed[at..]).expect("a report");
    let mut values = serde_json::Deserializer::from_str(json).into_iter();
    values.next().expect("a report").expect("JSON")
}

/// A field that counts something.
pub(crate) fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"))
}
