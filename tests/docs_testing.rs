//! The guide `docs/testing-rules.md`: its files are written and its commands run, in order, and print the output in
//! the guide.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use tollgate::clock::{Clock as _, SystemClock};

use crate::support::console;
use crate::support::service::Service;

const GUIDE: &str = include_str!("../docs/testing-rules.md");
const REPLAY: &str = include_str!("../docs/replay.md");
const LLM: &str = include_str!("../docs/llm.md");
const CONCURRENCY: &str = include_str!("../docs/concurrency.md");
const README: &str = include_str!("../README.md");
const SAMPLE: &str = include_str!("../config/example.yaml");
const START: &str = "RULES_PATH=rules CANDIDATE_CONFIG=next tollgate";

/// A block of the guide: a file to write, or commands with their output.
enum Block<'g> {
    File(&'g str, &'g str),
    Command(&'g str, String),
}

fn blocks() -> Vec<Block<'static>> {
    let mut found = Vec::new();
    for part in GUIDE.split("\n```").skip(1).step_by(2) {
        let (info, body) = part.split_once('\n').expect("a block has lines");
        match info.split_once(' ') {
            Some(("yaml" | "text", name)) => found.push(Block::File(name, body)),
            _ if info == "console" => {
                for command in body.strip_prefix("$ ").expect("a command").split("\n$ ") {
                    let (command, output) = command.split_once('\n').unwrap_or((command, ""));
                    found.push(Block::Command(command, output.trim_end().to_owned()));
                }
            }
            _ => {}
        }
    }
    found
}

/// Output without times, which pass between two commands. In the first second of a minute, a reset is in `1m`.
fn without_times(text: &str) -> String {
    let seconds =
        regex::Regex::new(r"\b(reset in|denied for|out for) [0-9.hms ]+|\b[0-9]+[ms]$").expect("a regex");
    let lines = text.lines().map(|line| seconds.replace_all(line.trim_end(), "$1 TIME").into_owned());
    lines.collect::<Vec<_>>().join("\n")
}

struct Story {
    dir: TempDir,
    service: Option<Service>,
}

impl Story {
    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        fs::write(path, format!("{text}\n")).expect("it can be written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).expect("text")
    }

    async fn run(&mut self, command: &str) -> String {
        if command == START {
            let rules = self.read("rules/shop.yaml");
            self.write("next/shop.yaml", &rules.replace("3/minute", "2/minute"));
            let next = self.dir.path().join("next").display().to_string();
            let settings = [("CANDIDATE_CONFIG", next.as_str())];
            self.service = Some(Service::start(&[("shop.yaml", &rules)], &settings).await);
            return String::new();
        }
        let (program, arguments) = command.split_once(' ').expect("a command with arguments");
        let admin = self.service.as_ref().map(|service| format!("127.0.0.1:{}", service.admin));
        if program == "curl" {
            let (_, series) = arguments.split_once(" | grep ").expect("a series");
            let url = self.service.as_ref().expect("it runs").debug_url("/metrics");
            let metrics = reqwest::get(url).await.expect("an answer").text().await.expect("text");
            let lines = metrics.lines().filter(|line| line.contains(series));
            return lines.map(|line| format!("{line}\n")).collect();
        }
        assert_eq!(program, "tollgate", "{command}");
        let arguments = arguments.replace("127.0.0.1:6071", admin.as_deref().unwrap_or_default());
        let mut process = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        process.current_dir(self.dir.path()).args(arguments.split(' '));
        if arguments.starts_with("query") {
            process
                .args(["--address", &format!("127.0.0.1:{}", self.service.as_ref().expect("it runs").grpc)]);
        }
        let output = process.output().expect("the program runs");
        String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
    }
}

/// `printed` with the service's own directory of rules called `rules`, as in the guide.
fn with_rules_here(printed: &str) -> String {
    let word = |word: &str| match word.rsplit_once("/rules/") {
        Some((before, file)) => format!("{}rules/{file}", if before.starts_with('(') { "(" } else { "" }),
        None => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    printed.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_commands_of_the_guide_to_testing_print_its_output() {
    let minute = || SystemClock.now().as_secs() / 60;
    loop {
        let before = minute();
        let mut story = Story { dir: tempfile::tempdir().expect("a directory"), service: None };
        let mut outputs = Vec::new();
        for block in blocks() {
            match block {
                Block::File(name, text) => story.write(name, text),
                Block::Command(command, shown) => {
                    let printed = with_rules_here(&story.run(command).await);
                    outputs.push((command, without_times(&printed), without_times(&shown)));
                }
            }
        }
        // The limits are per minute, and the counts of the service those of one minute.
        if minute() == before {
            assert!(outputs.len() >= 8, "{}", outputs.len());
            for (command, printed, shown) in outputs {
                assert_eq!(printed, shown, "{command}");
            }
            return;
        }
    }
}

#[test]
fn the_test_in_the_readme_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    let shown = console::blocks(README, "yaml test");
    fs::write(dir.path().join("example.yaml"), SAMPLE).expect("it can be written");
    fs::write(dir.path().join("readme.test.yaml"), shown[0]).expect("it can be written");
    let mut process = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let output = process.current_dir(dir.path()).args(["test", "."]).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_tests_in_the_guides_to_budgets_and_concurrency_pass() {
    for (guide, rules, name) in [(LLM, 2, "ai.yaml"), (CONCURRENCY, 0, "example.yaml")] {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("it can be written");
        write(name, console::blocks(guide, "yaml rules")[rules]);
        let shown = console::blocks(guide, "yaml test");
        write("guide.test.yaml", shown[0]);
        let mut process = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let output = process.current_dir(dir.path()).args(["test", "."]).output().expect("the program runs");
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        assert!(output.status.success() && printed.contains(" passed, "), "{name}: {printed}");
    }
}

#[test]
fn the_replay_in_its_guide_prints_what_the_guide_shows() {
    let dir = tempfile::tempdir().expect("a directory");
    for part in REPLAY.split("\n```").skip(1).step_by(2) {
        let (info, body) = part.split_once('\n').expect("a block has lines");
        if let Some((_, name)) = info.split_once(' ') {
            fs::write(dir.path().join(name), format!("{body}\n")).expect("it can be written");
        }
    }
    let shown = console::blocks(REPLAY, "console");
    let (command, output) = shown[0].split_once('\n').expect("a command with output");
    let arguments = command.strip_prefix("$ tollgate ").expect("a command").split(' ');
    let mut process = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let printed = process.current_dir(dir.path()).args(arguments).output().expect("the program runs");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim_end(), output.trim_end());
}
