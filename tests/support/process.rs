//! A process that a test starts, and ends by its own id.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// More than anything here needs, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Interval of polling.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Outputs of a process that are not the file of [`Process::output`].
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Option<Stdio>,
    pub(crate) stderr: Option<Stdio>,
}

/// A running process. Dropping it ends the process, and prints its output if the test failed.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`, and keeps what it prints in `dir`.
    pub(crate) fn start(name: &'static str, command: &mut Command, dir: &Path) -> Self {
        Self::start_to(name, command, dir, Output::default())
    }

    /// The same with other places for what it prints; [`Process::output`] has the rest.
    pub(crate) fn start_to(name: &'static str, command: &mut Command, dir: &Path, to: Output) -> Self {
        let output = dir.join(format!("{name}.out"));
        let file = File::create(&output).expect("a file");
        let same = file.try_clone().expect("the same file");
        let Output { stdout, stderr } = to;
        command.stdin(Stdio::null());
        command.stdout(stdout.unwrap_or(file.into())).stderr(stderr.unwrap_or(same.into()));
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, output }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory in use, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that was in use at any time, in MiB.
    pub(crate) fn peak_mib(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says so");
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kib / 1024
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own process").is_some()
    }

    /// Sends a signal: `TERM`, `HUP`, ...
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh").success(), "{kill}");
    }

    /// The code it ends with, within `patience`; `None` where a signal ended it.
    pub(crate) async fn exit_code(&mut self, patience: Duration) -> Option<i32> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own process") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{} does not end within {patience:?}", self.name);
            sleep(POLL).await;
        }
    }

    /// Its output as soon as `text` is in it: logs are written behind what they report.
    pub(crate) async fn output_with(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.output();
            if output.contains(text) {
                return output;
            }
            assert!(Instant::now() < deadline, "{} does not print {text:?}: {output}", self.name);
            sleep(POLL).await;
        }
    }

    /// Everything that it prints before it ends, which it is asked to do. Only then is a line known not to be repeated.
    pub(crate) async fn whole_output(&mut self) -> String {
        self.signal("TERM");
        assert_eq!(self.exit_code(PATIENCE).await, Some(0), "{}", self.output());
        self.output()
    }

    /// Its output so far.
    pub(crate) fn output(&self) -> String {
        let printed = fs::read(&self.output).expect("the file it prints to");
        String::from_utf8_lossy(&printed).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
            let () = eprintln!("--- {} printed:\n{}---", self.name, self.output());
        }
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
