//! Content of the screen of `top`, and the effect of its keys. No input or output.

use serde_json::Value;

use super::terminal::Key;
use super::{By, Data};

const BOLD: &str = "\x1b[1m";
const REVERSE: &str = "\x1b[7m";
const PLAIN: &str = "\x1b[0m";
const HELP: &str =
    "1-5 or ←→ tab   < > order of keys   / filter   space pause   ↑↓ select   u unlock   q quit";

/// A tab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Now,
    Rules,
    Keys,
    Denials,
    Lockouts,
}

impl Tab {
    pub(super) const ALL: [Self; 5] = [Self::Now, Self::Rules, Self::Keys, Self::Denials, Self::Lockouts];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Now => "Now",
            Self::Rules => "Rules",
            Self::Keys => "Keys",
            Self::Denials => "Denials",
            Self::Lockouts => "Lockouts",
        }
    }

    fn moved(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or_default();
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// Text that is being typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Typing {
    #[default]
    Nothing,
    Filter,
    /// Reason for lifting this lockout.
    Reason {
        id: String,
        client: String,
        text: String,
    },
}

/// Effect of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    None,
    Refresh,
    Quit,
    Unlock { id: String, reason: String },
}

/// State of the screen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) tab: Tab,
    pub(super) by: By,
    pub(super) is_paused: bool,
    /// Last failure.
    pub(super) error: Option<String>,
    filter: String,
    typing: Typing,
    selected: usize,
}

impl Screen {
    /// A screen on `tab`, with keys in the order of `by`.
    pub(super) fn new(tab: Tab, by: By) -> Self {
        Self {
            tab,
            by,
            is_paused: false,
            error: None,
            filter: String::new(),
            typing: Typing::default(),
            selected: 0,
        }
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: Key, data: &Data) -> Command {
        if self.typing != Typing::Nothing {
            return self.type_key(key);
        }
        match key {
            Key::Char('q') => return Command::Quit,
            Key::Char(' ') => self.is_paused = !self.is_paused,
            Key::Char('/') => self.typing = Typing::Filter,
            Key::Char(c @ '1'..='5') => {
                let tab = usize::try_from(u32::from(c) - u32::from('1')).unwrap_or_default();
                (self.tab, self.selected) = (Tab::ALL[tab], 0);
            }
            Key::Right | Key::Char('\t') => (self.tab, self.selected) = (self.tab.moved(1), 0),
            Key::Left => (self.tab, self.selected) = (self.tab.moved(Tab::ALL.len() - 1), 0),
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down => self.selected += 1,
            Key::Char(c @ ('<' | '>')) => {
                let at = By::ALL.iter().position(|by| *by == self.by).unwrap_or_default();
                let step = if c == '>' { 1 } else { By::ALL.len() - 1 };
                self.by = By::ALL[(at + step) % By::ALL.len()];
                return Command::Refresh;
            }
            Key::Char('u') if self.tab == Tab::Lockouts => {
                let rows = self.locked_out(data);
                if let Some((client, row)) = rows.get(self.selected.min(rows.len().saturating_sub(1))) {
                    let (id, client) = (text(row, "id"), client.clone());
                    self.typing = Typing::Reason { id, client, text: String::new() };
                }
            }
            Key::Escape => self.filter.clear(),
            Key::Char(_) | Key::Enter | Key::Backspace | Key::Other => {}
        }
        Command::None
    }

    fn type_key(&mut self, key: Key) -> Command {
        let typed = match &mut self.typing {
            Typing::Reason { text, .. } => text,
            Typing::Filter | Typing::Nothing => &mut self.filter,
        };
        match key {
            Key::Char(c) => typed.push(c),
            Key::Backspace => drop(typed.pop()),
            Key::Escape => self.typing = Typing::Nothing,
            Key::Enter => {
                let typing = std::mem::take(&mut self.typing);
                if let Typing::Reason { id, text, .. } = typing
                    && !text.trim().is_empty()
                {
                    return Command::Unlock { id, reason: text };
                }
            }
            Key::Up | Key::Down | Key::Left | Key::Right | Key::Other => {}
        }
        Command::None
    }

    /// The screen as lines of at most `width` characters, at most `height` of them.
    pub(super) fn render(&self, data: &Data, authority: &str, width: usize, height: usize) -> Vec<String> {
        let tabs = Tab::ALL.iter().enumerate().map(|(at, tab)| {
            let title = format!(" {} {} ", at + 1, tab.title());
            if *tab == self.tab { format!("{REVERSE}{title}{PLAIN}") } else { title }
        });
        let state = if self.is_paused { "paused" } else { "live" };
        let mut lines = vec![cut(&format!("tollgate {authority}  {state}"), width), tabs.collect()];
        let body = self.body(data);
        let mut body = body.iter().map(|line| cut(line, width));
        lines.extend(body.next().map(|head| format!("{BOLD}{head}{PLAIN}")));
        let rows: Vec<_> = body.collect();
        let room = height.saturating_sub(lines.len() + 1);
        let selected = self.selected.min(rows.len().saturating_sub(1));
        let first = selected.saturating_sub(room.saturating_sub(1));
        let can_select = self.tab == Tab::Lockouts;
        lines.extend(rows.into_iter().enumerate().skip(first).take(room).map(|(at, row)| {
            if can_select && at == selected { format!("{REVERSE}{row}{PLAIN}") } else { row }
        }));
        lines.resize(height.saturating_sub(1), String::new());
        let last = match (&self.typing, &self.error) {
            (Typing::Filter, _) => format!("filter: {}_", self.filter),
            (Typing::Reason { client, text, .. }, _) => format!("unlock {client}, reason: {text}_"),
            (Typing::Nothing, Some(error)) => format!("error: {error}"),
            (Typing::Nothing, None) if !self.filter.is_empty() => {
                format!("filter: {}   (Esc clears it)", self.filter)
            }
            (Typing::Nothing, None) => HELP.to_owned(),
        };
        lines.push(cut(&last, width));
        lines
    }

    /// Head and rows of the current tab.
    pub(super) fn body(&self, data: &Data) -> Vec<String> {
        match self.tab {
            Tab::Now => self.now(data),
            Tab::Rules => self.rules(data),
            Tab::Keys => self.keys(&data.keys),
            Tab::Denials => self.denials(data),
            Tab::Lockouts => self.lockouts(data),
        }
    }

    /// Rows whose `field` contains the filter.
    fn wanted<'d>(&self, rows: &'d Value, field: &str) -> Vec<&'d Value> {
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().filter(|row| text(row, field).contains(&self.filter)).collect()
    }

    fn now(&self, data: &Data) -> Vec<String> {
        let summary = &data.summary;
        let config = &summary["config"];
        let errors = config["errors"].as_array().map_or(0, Vec::len);
        let mut lines = vec![format!(
            "{:>10} hits/s   {:>10} over/s   {:>10} shadow/s   {:>10} near/s",
            rate(summary, "hits_per_sec"),
            rate(summary, "over_limit_per_sec"),
            rate(summary, "shadow_per_sec"),
            rate(summary, "near_limit_per_sec"),
        )];
        lines.push(format!(
            "version {}, up {}, {} rules, {errors} errors in rule files",
            text(summary, "version"),
            secs(summary["uptime_secs"].as_u64()),
            config["rules"],
        ));
        lines.push(String::new());
        lines.extend(self.keys(&data.keys));
        lines
    }

    fn rules(&self, data: &Data) -> Vec<String> {
        let row = |row: &&Value| {
            format!(
                "{:<48} {:>10} {:>10} {:>12} {:>12}",
                cut(&text(row, "rule"), 48),
                rate(row, "hits_per_sec"),
                rate(row, "over_limit_per_sec"),
                number(row, "hits"),
                number(row, "over_limit"),
            )
        };
        let head =
            format!("{:<48} {:>10} {:>10} {:>12} {:>12}", "RULE", "HITS/S", "OVER/S", "HITS", "OVER LIMIT");
        std::iter::once(head).chain(self.wanted(&data.rules["items"], "rule").iter().map(row)).collect()
    }

    fn keys(&self, keys: &Value) -> Vec<String> {
        let counted = if self.by == By::Denied { "DENIALS" } else { "HITS" };
        let row = |row: &&Value| {
            let limit = &row["limit"];
            format!(
                "{:<40} {:<28} {:>10} {:>10} {:>10} {:<10} {:>8}",
                cut(&text(row, "key"), 40),
                cut(&text(row, "rule"), 28),
                number(row, "count"),
                number(row, "used"),
                format!("{}/{}", limit["requests"], secs(limit["window_secs"].as_u64())),
                if row["over_limit"] == true { "over limit" } else { "" },
                secs(row["resets_in_secs"].as_u64()),
            )
        };
        let head = format!(
            "{:<40} {:<28} {counted:>10} {:>10} {:>10} {:<10} {:>8}",
            format!("KEY (by {})", self.by.name()),
            "RULE",
            "USED",
            "LIMIT",
            "STATE",
            "RESET"
        );
        std::iter::once(head).chain(self.wanted(&keys["items"], "key").iter().map(row)).collect()
    }

    fn denials(&self, data: &Data) -> Vec<String> {
        let row = |row: &&Value| {
            let at = row["at_ms"].as_u64().unwrap_or_default() / 1_000 % 86_400;
            format!(
                "{:02}:{:02}:{:02} {:<48} {:<28} {:<18} {:>8}",
                at / 3_600,
                at / 60 % 60,
                at % 60,
                cut(&text(row, "descriptors"), 48),
                cut(&text(row, "rule"), 28),
                text(row, "reason"),
                secs(row["wait_secs"].as_u64()),
            )
        };
        let head =
            format!("{:<8} {:<48} {:<28} {:<18} {:>8}", "UTC", "DESCRIPTORS", "RULE", "REASON", "WAIT");
        std::iter::once(head)
            .chain(self.wanted(&data.denials["items"], "descriptors").iter().map(row))
            .collect()
    }

    /// Lockouts whose client contains the filter, each with its client.
    fn locked_out<'d>(&self, data: &'d Data) -> Vec<(String, &'d Value)> {
        let rows = data.lockouts["lockouts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = rows.iter().map(|row| (client(row), row));
        rows.filter(|(client, _)| client.contains(&self.filter)).collect()
    }

    fn lockouts(&self, data: &Data) -> Vec<String> {
        let row = |(client, row): &(String, &Value)| {
            let is_permanent = row["permanent"] == true;
            format!(
                "{:<48} {:<16} {:<20} {:>7} {:>8}",
                cut(client, 48),
                cut(&text(row, "domain"), 16),
                cut(&text(row, "name"), 20),
                number(row, "blocks"),
                if is_permanent { "never".to_owned() } else { secs(row["ends_in_secs"].as_u64()) },
            )
        };
        let head =
            format!("{:<48} {:<16} {:<20} {:>7} {:>8}", "CLIENT", "DOMAIN", "NAME", "BLOCKS", "ENDS IN");
        std::iter::once(head).chain(self.locked_out(data).iter().map(row)).collect()
    }
}

/// Entries of a lockout: `user=alice,path=/login`.
fn client(lockout: &Value) -> String {
    let entries = lockout["entries"].as_object().into_iter().flatten();
    let entries = entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    harmless(&entries.collect::<Vec<_>>().join(","))
}

/// A text of a row.
fn text(row: &Value, field: &str) -> String {
    harmless(row[field].as_str().unwrap_or_default())
}

/// `text` with its control characters, which would steer the terminal, replaced.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn number(row: &Value, field: &str) -> String {
    row[field].as_u64().map(|number| number.to_string()).unwrap_or_default()
}

fn rate(row: &Value, field: &str) -> String {
    format!("{:.1}", row[field].as_f64().unwrap_or_default())
}

/// A duration in its largest unit: `90s`, `15m`, `2h`, `3d`. Empty without one.
fn secs(secs: Option<u64>) -> String {
    match secs {
        None => String::new(),
        Some(secs @ 0..=119) => format!("{secs}s"),
        Some(secs @ 120..=7_199) => format!("{}m", secs / 60),
        Some(secs @ 7_200..=172_799) => format!("{}h", secs / 3_600),
        Some(secs) => format!("{}d", secs / 86_400),
    }
}

/// The first `width` characters of `text`; a cut is marked.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data() -> Data {
        let keys = |key: &str| {
            json!({"key": key, "rule": "shop.user", "count": 7, "used": 9, "over_limit": true, "resets_in_secs": 90,
                   "limit": {"requests": 2, "window_secs": 86_400}})
        };
        Data {
            summary: json!({"version": "1.0", "hits_per_sec": 12.34, "config": {"rules": 2, "errors": []}}),
            keys: json!({"items": [keys("user=greedy"), keys("user=\u{1b}[2Jevil\n")]}),
            lockouts: json!({"lockouts": [{"id": "a", "entries": {"account": "acme"}}, {"id": "b", "entries": {"account": "other"}}]}),
            ..Data::default()
        }
    }

    #[test]
    fn the_screen_fits_and_what_clients_sent_cannot_steer_the_terminal() {
        let screen = Screen::new(Tab::Now, By::Denied);
        let lines = screen.render(&data(), "127.0.0.1:6071", 60, 12);
        assert_eq!(lines.len(), 12);
        assert!(lines.iter().all(|line| !line.contains('\n') && !line.contains("\x1b[2J")), "{lines:#?}");
        let shown = |line: &String| {
            [BOLD, REVERSE, PLAIN].iter().fold(line.clone(), |line, style| line.replace(style, ""))
        };
        assert!(lines.iter().all(|line| shown(line).chars().count() <= 60), "{lines:#?}");
        let all = lines.join("\n");
        assert!(all.contains("12.3 hits/s") && all.contains("user=greedy"), "{all}");
    }

    #[test]
    fn unlocking_asks_for_a_reason() {
        let (mut screen, data) = (Screen::new(Tab::Now, By::Denied), data());
        let mut press = |keys: &[Key]| keys.iter().fold(Command::None, |_, key| screen.press(*key, &data));
        assert_eq!(
            press(&[Key::Char('5'), Key::Down, Key::Char('u'), Key::Enter]),
            Command::None,
            "no reason"
        );
        let reason = [Key::Char('u'), Key::Char('q'), Key::Char('x'), Key::Backspace, Key::Enter];
        let unlock = Command::Unlock { id: "b".to_owned(), reason: "q".to_owned() };
        assert_eq!(press(&reason), unlock);
        assert_eq!(press(&[Key::Char('q')]), Command::Quit);
    }

    #[test]
    fn a_filter_keeps_the_rows_that_contain_it() {
        let (mut screen, data) = (Screen::new(Tab::Lockouts, By::Denied), data());
        for key in [Key::Char('/'), Key::Char('a'), Key::Char('c'), Key::Char('m'), Key::Enter] {
            screen.press(key, &data);
        }
        assert_eq!(screen.body(&data).len(), 2);
        screen.press(Key::Escape, &data);
        assert_eq!(screen.body(&data).len(), 3);
        assert_eq!(screen.press(Key::Char('>'), &data), Command::Refresh);
        assert_eq!(screen.by, By::Hits);
    }

    #[test]
    fn durations_and_texts_are_short() {
        assert_eq!(
            [Some(90), Some(900), Some(7_200), Some(259_200), None].map(secs),
            ["90s", "15m", "2h", "3d", ""]
        );
        assert_eq!((cut("abcdef", 4), cut("äöüß", 4)), ("abc…".to_owned(), "äöüß".to_owned()));
    }
}
