//! Positions of texts in a line.

use memchr::{memchr, memmem};

/// Position of `needle` in `hay`. Needles are short, so the first byte is searched and the rest compared.
pub(super) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    match needle {
        [] => Some(0),
        [byte] => memchr(*byte, hay),
        [first, rest @ ..] if needle.len() <= 4 => {
            let mut from = 0;
            loop {
                let at = from + memchr(*first, hay.get(from..)?)?;
                if hay.get(at + 1..)?.starts_with(rest) {
                    return Some(at);
                }
                from = at + 1;
            }
        }
        _ => memmem::find(hay, needle),
    }
}

/// Position of `needle`, which begins with a quote that no backslash escapes, in `hay`.
pub(super) fn find_unescaped(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + find(hay.get(from..)?, needle)?;
        let backslashes = hay.get(..at)?.iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
        from = at + 1;
    }
}
