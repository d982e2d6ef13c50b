//! The terminal: raw input, size, and a screen of its own that is left as it was found.

use std::io::{self, Stdout, Write as _};
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Begin and end of the alternate screen, without and with the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Top left corner; to the end of the line; to the end of the screen.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    Left,
    Right,
    Enter,
    Escape,
    Backspace,
    /// Any other.
    Other,
}

/// An open terminal. Its settings are restored with this value.
pub(super) struct Terminal {
    keys: mpsc::Receiver<Key>,
    output: Stdout,
    before: Termios,
}

impl Terminal {
    /// # Errors
    /// Error of the operating system.
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        let (sender, keys) = mpsc::channel(16);
        let mut terminal = Self { keys, output: io::stdout(), before };
        // It blocks in `read` until the process ends.
        thread::Builder::new().name("keyboard".to_owned()).spawn(move || read_keys(&sender))?;
        terminal.write(ENTER)?;
        Ok(terminal)
    }

    /// Shows what `render` returns for a width and a height.
    pub(super) fn draw(&mut self, render: &dyn Fn(usize, usize) -> Vec<String>) -> io::Result<()> {
        let size = tcgetwinsize(&self.output)?;
        let lines = render(usize::from(size.ws_col).max(20), usize::from(size.ws_row).max(5));
        // Without line breaks at the end, which would scroll.
        let text = lines.join(&format!("{CLEAR_LINE}\r\n"));
        self.write(&format!("{HOME}{text}{CLEAR_LINE}{CLEAR_REST}"))
    }

    /// Waits for a key; `None` if the terminal is gone. Cancel-safe.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is no terminal left to report an error on.
        drop(self.write(LEAVE));
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.before).ok();
    }
}

/// Sends the keys that are pressed, until the terminal or the receiver is gone.
fn read_keys(sender: &mpsc::Sender<Key>) {
    let mut bytes = [0; 16];
    // Past the buffer of `Stdin`, so that one read is one key.
    while let Ok(read @ 1..) = rustix::io::read(io::stdin(), &mut bytes) {
        if sender.blocking_send(key_of(&bytes[..read])).is_err() {
            return;
        }
    }
}

/// The first key in what a terminal sent.
fn key_of(bytes: &[u8]) -> Key {
    match bytes {
        [0x1b] => Key::Escape,
        [0x1b, b'[' | b'O', b'A', ..] => Key::Up,
        [0x1b, b'[' | b'O', b'B', ..] => Key::Down,
        [0x1b, b'[' | b'O', b'C', ..] => Key::Right,
        [0x1b, b'[' | b'O', b'D', ..] => Key::Left,
        [b'\r' | b'\n', ..] => Key::Enter,
        [0x7f | 0x08, ..] => Key::Backspace,
        // Ctrl-C, which the terminal does not turn into a signal now.
        [0x03, ..] => Key::Char('q'),
        text => match String::from_utf8_lossy(text).chars().next() {
            Some(c) if !c.is_control() && c != char::REPLACEMENT_CHARACTER => Key::Char(c),
            _ => Key::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_what_a_terminal_sends() {
        for (bytes, expected) in [
            (&b"q"[..], Key::Char('q')),
            ("é".as_bytes(), Key::Char('é')),
            (b"\x1b", Key::Escape),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\r", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x03", Key::Char('q')),
            (b"\x00", Key::Other),
            (b"\xff", Key::Other),
            (b"\x1b[15~", Key::Other),
        ] {
            assert_eq!(key_of(bytes), expected, "{bytes:?}");
        }
    }
}
