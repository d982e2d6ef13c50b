//! Commands that documents show, and what they print, run against a service.

use std::process::Command;

use reqwest::Client;
use tollgate::clock::{Clock as _, SystemClock};

use super::service::Service;

/// The fenced blocks of a document that open with `info`.
pub(crate) fn blocks<'a>(document: &'a str, info: &str) -> Vec<&'a str> {
    let fence = format!("```{info}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("a block")).collect()
}

/// One command of a console block, and what the document says that it prints.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    command: &'a str,
    output: &'a str,
}

/// The commands of a console block.
pub(crate) fn commands(block: &str) -> Vec<Shown<'_>> {
    let body = block.strip_prefix("$ ").expect("a console block begins with a command");
    let split = |text: &'_ str| text.split_once('\n').map(|(command, output)| (command.len(), output.len()));
    body.split("\n$ ")
        .map(|text| match split(text) {
            Some((command, output)) => {
                Shown { command: &text[..command], output: text[text.len() - output..].trim_end() }
            }
            None => Shown { command: text, output: "" },
        })
        .collect()
}

impl Shown<'_> {
    /// The arguments of `tollgate query`, where that is the command.
    fn query(&self) -> Option<&str> {
        let command = self.command.strip_prefix("target/debug/").unwrap_or(self.command);
        command.strip_prefix("tollgate query ")
    }

    /// The path and the body of a POST with curl, where that is the command.
    fn post(&self) -> Option<(&str, &str)> {
        let command = self.command.strip_prefix("curl ")?;
        let command = command.strip_prefix("-s ").unwrap_or(command);
        let (path, body) = command.strip_prefix("http://127.0.0.1:8080")?.split_once(" -d ")?;
        Some((path, body.trim_matches('\'')))
    }

    /// True if a test can run it against a service.
    pub(crate) fn is_request(&self) -> bool {
        self.query().is_some() || self.post().is_some()
    }

    /// Runs the command against `service`, and returns the output beside that of the document, both without
    /// times. Where the document has one line of a longer report, the first lines are compared.
    pub(crate) async fn run(&self, service: &Service) -> (String, String) {
        let printed = match (self.query(), self.post()) {
            (Some(arguments), _) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
                command.args(["query", "--address", &format!("127.0.0.1:{}", service.grpc)]);
                let output = command.args(arguments.split(' ')).output().expect("the program runs");
                String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
            }
            (_, Some((path, body))) => {
                let request = Client::new().post(service.url(path)).body(body.to_owned());
                request.send().await.expect("an answer").text().await.expect("text")
            }
            _ => panic!("no test can run this command: {}", self.command),
        };
        let (printed, output) = (without_times(printed.trim_end()), without_times(self.output));
        let lines = output.lines().count();
        let printed = if lines == 1 { printed.lines().take(1).collect() } else { printed };
        (printed, output)
    }
}

/// A table without its column RESET, JSON without its numbers of seconds and its white space.
fn without_times(text: &str) -> String {
    if let Ok(mut json) = serde_json::from_str::<serde_json::Value>(text) {
        clear_times(&mut json);
        return json.to_string();
    }
    let column = text.lines().find_map(|line| line.find("RESET"));
    let in_table = text.lines().map(|line| match column {
        Some(column) if line.is_char_boundary(column) && line.len() > column => &line[..column],
        _ => line,
    });
    in_table.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn clear_times(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Array(items) => items.iter_mut().for_each(clear_times),
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                if ["resetIn", "retryAfter", "durationUntilReset"].contains(&name.as_str())
                    && !value.is_null()
                {
                    *value = 0.into();
                }
                clear_times(value);
            }
        }
        _ => {}
    }
}

/// Runs the commands, in order, against a service with these rules, and compares what they print. Starts anew
/// where a minute ends meanwhile: the limits are per minute or longer.
pub(crate) async fn check(name: &str, rules: &str, shown: &[Shown<'_>]) {
    let minute = || SystemClock.now().as_secs() / 60;
    loop {
        let before = minute();
        let service = Service::start(&[("rules.yaml", rules)], &[]).await;
        let mut outputs = Vec::new();
        for command in shown {
            let (printed, documented) = command.run(&service).await;
            outputs.push((command.command, printed, documented));
        }
        if minute() == before {
            for (command, printed, documented) in outputs {
                assert_eq!(printed, documented, "{name}: {command}");
            }
            return;
        }
    }
}
