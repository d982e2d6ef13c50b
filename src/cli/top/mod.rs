//! `tollgate top`: the console in a terminal, or printed once.

mod content;
mod screen;
mod table;
mod terminal;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use self::screen::{Command, Screen, Tab};
use self::terminal::{Input, Terminal};
use super::admin_client::{AdminClient, AdminFlags};
use super::{Exit, print};

/// Rows of each list.
const ROWS: usize = 200;
const PLAIN_WIDTH: usize = 160;

/// Arguments of `top`.
#[derive(Args, Debug)]
pub(super) struct TopArgs {
    #[command(flatten)]
    admin: AdminFlags,
    /// Order of the keys.
    #[arg(long, value_enum, default_value = "denied")]
    by: By,
    /// Time between two updates, in seconds, 1 to 60.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
    /// Print everything once, and exit.
    #[arg(long)]
    once: bool,
    /// Print JSON. Needs --once.
    #[arg(long, requires = "once")]
    json: bool,
}

/// Order of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// Most denials first.
    Denied,
    /// Most hits first.
    Hits,
    /// Largest share of their limit first.
    Use,
}

impl By {
    const ALL: [Self; 3] = [Self::Denied, Self::Hits, Self::Use];

    const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Hits => "hits",
            Self::Use => "use",
        }
    }
}

/// Answers of the service.
#[derive(Debug, Default)]
struct Data {
    summary: Value,
    rules: Value,
    keys: Value,
    denials: Value,
    lockouts: Value,
}

impl Data {
    async fn fetch(client: &AdminClient, by: By) -> anyhow::Result<Self> {
        let top = format!("/top?by={}&limit={ROWS}", by.name());
        let rules = format!("/rules?limit={ROWS}");
        let denials = format!("/denials?limit={ROWS}");
        let lockouts = format!("/lockouts?limit={ROWS}");
        let (summary, rules, keys, denials, lockouts) = tokio::try_join!(
            client.get("/summary"),
            client.get(&rules),
            client.get(&top),
            client.get(&denials),
            client.get(&lockouts),
        )?;
        Ok(Self { summary, rules, keys, denials, lockouts })
    }

    fn json(&self, by: By) -> Value {
        json!({
            "summary": self.summary,
            "rules": self.rules["items"],
            "keys": { "by": by.name(), "from": self.keys["from"], "items": self.keys["items"] },
            "denials": self.denials["items"],
            "lockouts": self.lockouts["lockouts"],
            "lockouts_complete": self.lockouts["complete"] == true && self.lockouts["next_cursor"].is_null(),
        })
    }
}

/// Shows the service until the user quits, or prints it once.
pub(super) fn run(args: &TopArgs) -> anyhow::Result<Exit> {
    let client = args.admin.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.once {
        let data = runtime.block_on(Data::fetch(&client, args.by))?;
        return print(&if args.json { format!("{:#}\n", data.json(args.by)) } else { plain(&data, args.by) });
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; print once with --once, or with --once --json");
    }
    runtime.block_on(watch(&client, args))?;
    Ok(Exit::Done)
}

/// Every tab, one below the other.
fn plain(data: &Data, by: By) -> String {
    let mut text = String::new();
    for tab in Tab::ALL {
        let screen = Screen::new(tab, by);
        text += &format!("{}\n", tab.title().to_uppercase());
        let lines = screen.body(data, PLAIN_WIDTH);
        text.extend(lines.iter().map(|line| format!("{}\n", line.trim_end())));
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// Answer to a call that was made while the screen was in use.
enum Answer {
    /// Data, with keys in this order.
    Data(By, anyhow::Result<Box<Data>>),
    /// Outcome of lifting a lockout.
    Lifted(anyhow::Result<Value>),
}

/// Fetches of the data: one at a time. All that are asked for meanwhile are one more.
#[derive(Debug, Default)]
struct Fetches {
    is_under_way: bool,
    is_wanted: bool,
}

impl Fetches {
    /// True if a fetch is to begin now.
    fn begin(&mut self) -> bool {
        let begins = self.is_wanted && !self.is_under_way;
        if begins {
            (self.is_wanted, self.is_under_way) = (false, true);
        }
        begins
    }
}

async fn watch(client: &AdminClient, args: &TopArgs) -> anyhow::Result<()> {
    let mut screen = Screen::new(Tab::Now, args.by);
    // An error of the first answer is printed on the terminal as it was.
    let mut data = Data::fetch(client, screen.by).await?;
    let mut terminal = Terminal::open()?;
    let interval = Duration::from_secs(args.interval);
    let mut next = Instant::now() + interval;
    // Calls under way, so that keys work while the service is slow.
    let mut calls: FuturesUnordered<LocalBoxFuture<'_, Answer>> = FuturesUnordered::new();
    let mut fetches = Fetches::default();
    let fetch =
        |by| async move { Answer::Data(by, Data::fetch(client, by).await.map(Box::new)) }.boxed_local();
    loop {
        if fetches.begin() {
            next = Instant::now() + interval;
            calls.push(fetch(screen.by));
        }
        terminal.draw(&|width, height| screen.render(&data, client.authority(), width, height))?;
        let command = tokio::select! {
            input = terminal.input() => match input {
                Some(Input::Key(key)) => screen.press(key, &data),
                Some(Input::Resized) => Command::None,
                None => Command::Quit,
            },
            Some(answer) = calls.next(), if !calls.is_empty() => {
                fetches.is_under_way &= !matches!(answer, Answer::Data(..));
                match answer {
                    Answer::Data(by, Ok(new)) if by == screen.by => (data, screen.error) = (*new, None),
                    // The order has changed since.
                    Answer::Data(_, Ok(_)) => {}
                    Answer::Data(_, Err(error)) | Answer::Lifted(Err(error)) => {
                        screen.error = Some(format!("{error:#}"));
                    }
                    Answer::Lifted(Ok(_)) => next = Instant::now(),
                }
                Command::None
            }
            () = sleep_until(next), if !screen.is_paused && !fetches.is_under_way => Command::Refresh,
        };
        match command {
            Command::None => {}
            Command::Quit => return Ok(()),
            Command::Refresh => fetches.is_wanted = true,
            Command::Unlock { id, reason } => {
                let lift = async move {
                    let (path, body) = (format!("/lockouts/{id}"), json!({ "reason": reason }));
                    Answer::Lifted(client.call(Method::DELETE, &path, Some(&body), None).await)
                };
                calls.push(lift.boxed_local());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_that_are_asked_for_while_one_is_under_way_are_one_more() {
        let mut fetches = Fetches::default();
        assert!(!fetches.begin(), "none is wanted");
        let mut begun = 0;
        for _ in 0..50 {
            fetches.is_wanted = true;
            begun += u32::from(fetches.begin());
        }
        assert_eq!(begun, 1);
        fetches.is_under_way = false;
        assert!(fetches.begin() && !fetches.begin());
        fetches.is_under_way = false;
        assert!(!fetches.begin());
    }
}
