//! Content of the screen of `top`, and the effect of its keys. No input or output.

use super::table::{cut, text};
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
    /// Text that the rows contain.
    pub(super) filter: String,
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
        if key == Key::Interrupt {
            return Command::Quit;
        }
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
            Key::Char(_) | Key::Enter | Key::Backspace | Key::Interrupt | Key::Other => {}
        }
        Command::None
    }

    fn type_key(&mut self, key: Key) -> Command {
        let typed = match &mut self.typing {
            Typing::Reason { text, .. } => text,
            Typing::Filter | Typing::Nothing => &mut self.filter,
        };
        match key {
            Key::Char('\t') => {}
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
            Key::Up | Key::Down | Key::Left | Key::Right | Key::Interrupt | Key::Other => {}
        }
        Command::None
    }

    /// The screen as lines of at most `width` characters, at most `height` of them.
    pub(super) fn render(&self, data: &Data, authority: &str, width: usize, height: usize) -> Vec<String> {
        let state = if self.is_paused { "paused" } else { "live" };
        let mut lines = vec![cut(&format!("tollgate {authority}  {state}"), width), tabs(self.tab, width)];
        let mut body = self.body(data, width).into_iter();
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

    /// Head and rows of the current tab, in at most `width` columns.
    pub(super) fn body(&self, data: &Data, width: usize) -> Vec<String> {
        match self.tab {
            Tab::Now => self.now(data, width),
            Tab::Rules => self.rules(data, width),
            Tab::Keys => self.keys(&data.keys, width),
            Tab::Denials => self.denials(data, width),
            Tab::Lockouts => self.lockouts(data, width),
        }
    }
}

/// Titles of the tabs that fit in `width`.
fn tabs(current: Tab, width: usize) -> String {
    let mut left = width;
    let title = |(at, tab): (usize, &Tab)| {
        let title = format!(" {} {} ", at + 1, tab.title());
        left = left.checked_sub(title.len())?;
        Some(if *tab == current { format!("{REVERSE}{title}{PLAIN}") } else { title })
    };
    Tab::ALL.iter().enumerate().map_while(title).collect()
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
    fn the_screen_fits_and_texts_of_clients_cannot_control_the_terminal() {
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
        for (width, height) in [(20, 5), (40, 8), (200, 60)] {
            let lines = Screen::new(Tab::Lockouts, By::Use).render(&data(), "127.0.0.1:6071", width, height);
            assert_eq!(lines.len(), height);
            assert!(lines.iter().all(|line| shown(line).chars().count() <= width), "{width}: {lines:#?}");
        }
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
        assert_eq!(screen.body(&data, 100).len(), 2);
        screen.press(Key::Escape, &data);
        assert_eq!(screen.body(&data, 100).len(), 3);
        assert_eq!(screen.press(Key::Char('>'), &data), Command::Refresh);
        assert_eq!(screen.by, By::Hits);
    }
}
