//! The terminal: raw input, size, and a screen of its own that is left as it was found.

use std::io::{self, Stdout, Write as _};
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
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
    /// Ctrl-C.
    Interrupt,
    /// Any other.
    Other,
}

/// Input of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A key.
    Key(Key),
    /// Its size has changed.
    Resized,
}

/// An open terminal. Its settings are restored with this value.
pub(super) struct Terminal {
    keys: mpsc::Receiver<Key>,
    resizes: Signal,
    output: Stdout,
    before: Termios,
}

impl Terminal {
    /// # Errors
    /// Error of the operating system.
    pub(super) fn open() -> io::Result<Self> {
        let resizes = signal(SignalKind::window_change())?;
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        let (sender, keys) = mpsc::channel(16);
        let mut terminal = Self { keys, resizes, output: io::stdout(), before };
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

    /// Waits for input; `None` if the terminal is gone. Cancel-safe.
    pub(super) async fn input(&mut self) -> Option<Input> {
        tokio::select! {
            key = self.keys.recv() => key.map(Input::Key),
            Some(()) = self.resizes.recv() => Some(Input::Resized),
        }
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
    let mut bytes = [0; 256];
    let mut len = 0;
    // Past the buffer of `Stdin`: an escape that ends a read is the key of that name.
    while let Ok(read @ 1..) = rustix::io::read(io::stdin(), &mut bytes[len..]) {
        len += read;
        let mut taken = 0;
        while let Some((key, key_len)) = first_key(&bytes[taken..len]) {
            taken += key_len;
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
        // The begin of a character whose rest is still on its way.
        bytes.copy_within(taken..len, 0);
        len -= taken;
    }
}

/// The first key in what a terminal sent, and its length: fast typing and pasting send several at once. `None` if it is
/// empty or not complete.
fn first_key(bytes: &[u8]) -> Option<(Key, usize)> {
    Some(match bytes {
        [] => return None,
        [0x1b] => (Key::Escape, 1),
        [0x1b, b'[' | b'O', rest @ ..] => {
            let len =
                rest.iter().position(|byte| (0x40..=0x7e).contains(byte)).map_or(bytes.len(), |at| at + 3);
            let key = match rest {
                [b'A', ..] => Key::Up,
                [b'B', ..] => Key::Down,
                [b'C', ..] => Key::Right,
                [b'D', ..] => Key::Left,
                _ => Key::Other,
            };
            (key, len)
        }
        // Alt and another key.
        [0x1b, ..] => (Key::Other, 2),
        [b'\r' | b'\n', ..] => (Key::Enter, 1),
        [0x7f | 0x08, ..] => (Key::Backspace, 1),
        // Ctrl-C, which the terminal does not turn into a signal now.
        [0x03, ..] => (Key::Interrupt, 1),
        [b'\t', ..] => (Key::Char('\t'), 1),
        text => match text.utf8_chunks().next()?.valid().chars().next() {
            Some(c) if !c.is_control() => (Key::Char(c), c.len_utf8()),
            Some(c) => (Key::Other, c.len_utf8()),
            None if text.len() < 4
                && str::from_utf8(text).is_err_and(|error| error.error_len().is_none()) =>
            {
                return None;
            }
            None => (Key::Other, 1),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_from_the_bytes_of_a_terminal() {
        for (bytes, expected) in [
            (&b"q"[..], vec![Key::Char('q')]),
            ("aé日\t".as_bytes(), vec![Key::Char('a'), Key::Char('é'), Key::Char('日'), Key::Char('\t')]),
            (b"\x1b", vec![Key::Escape]),
            (b"\x1b[Ax\x1bOB", vec![Key::Up, Key::Char('x'), Key::Down]),
            (b"\x1b[15~\x1b[1;5Cy", vec![Key::Other, Key::Other, Key::Char('y')]),
            (b"\x1bxy", vec![Key::Other, Key::Char('y')]),
            (
                b"ok\r\x7f\x03",
                vec![Key::Char('o'), Key::Char('k'), Key::Enter, Key::Backspace, Key::Interrupt],
            ),
            (b"\x00\xffz", vec![Key::Other, Key::Other, Key::Char('z')]),
            (b"z\xe6\x97", vec![Key::Char('z')]),
        ] {
            let (mut keys, mut taken) = (Vec::new(), 0);
            while let Some((key, len)) = first_key(&bytes[taken..]) {
                keys.push(key);
                taken += len;
            }
            assert_eq!(keys, expected, "{bytes:?}");
        }
        assert_eq!(first_key(b"\xe6\x97"), None, "the rest is still on its way");
    }
}
