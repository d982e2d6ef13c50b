//! The terminal: raw input, its size, and the alternate screen. Everything is restored at the end.

use std::io::{self, Stdout, Write as _};
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Opens the alternate screen and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and closes the alternate screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Moves the cursor to the top left corner.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
/// Clears to the end of the screen.
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
    /// The size of the terminal has changed.
    Resized,
}

/// An open terminal. Dropping it restores the screen and the settings.
pub(super) struct Terminal {
    keys: mpsc::Receiver<Key>,
    resizes: Signal,
    output: Stdout,
    before: Termios,
}

impl Terminal {
    /// Switches the terminal to raw mode and to the alternate screen.
    ///
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
        // The thread blocks in `read` until the process ends.
        thread::Builder::new().name("keyboard".to_owned()).spawn(move || read_keys(&sender))?;
        terminal.write(ENTER)?;
        Ok(terminal)
    }

    /// Shows the lines that `render` returns for a width and a height.
    pub(super) fn draw(&mut self, render: &dyn Fn(usize, usize) -> Vec<String>) -> io::Result<()> {
        let size = tcgetwinsize(&self.output)?;
        let lines = render(usize::from(size.ws_col).max(20), usize::from(size.ws_row).max(5));
        // A line break after the last line would scroll.
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
    // Not through the buffer of `Stdin`: an ESC byte at the end of a read is the Escape key, not the start of a
    // sequence.
    while let Ok(read @ 1..) = rustix::io::read(io::stdin(), &mut bytes[len..]) {
        len += read;
        let mut taken = 0;
        while let Some((key, key_len)) = first_key(&bytes[taken..len]) {
            taken += key_len;
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
        // The first bytes of a character whose other bytes have not arrived yet.
        bytes.copy_within(taken..len, 0);
        len -= taken;
    }
}

/// The first key in bytes from the terminal, and its length. Fast typing and pasting send several keys at once.
/// `None` if there are no bytes, or the key is not complete.
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
        // Ctrl-C: in raw mode the terminal does not send SIGINT.
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
        assert_eq!(first_key(b"\xe6\x97"), None, "two of three bytes");
    }
}
