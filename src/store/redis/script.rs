//! `charge.lua`, and how Redis is told to run it.

use bytes::{Bytes, BytesMut};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::batch::Call;
use super::resp;

/// A script, and the name that Redis gives it: the SHA-1 of its text.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    sha1: Bytes,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let hex: String = sha1.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, sha1: Bytes::from(hex) }
    }

    /// Appends the command that runs it.
    pub(super) fn encode(&self, out: &mut BytesMut, call: &Call, by_name: bool) {
        let (name, script): (&[u8], &[u8]) =
            if by_name { (b"EVALSHA", &self.sha1) } else { (b"EVAL", self.text.as_bytes()) };
        resp::begin(out, call.keys.len() + 5);
        resp::push(out, name);
        resp::push(out, script);
        let mut digits = itoa::Buffer::new();
        resp::push(out, digits.format(call.keys.len()).as_bytes());
        for key in &call.keys {
            resp::push(out, key);
        }
        resp::push(out, &call.requests);
        match call.now {
            Some(now) => resp::push(out, digits.format(now.as_micros()).as_bytes()),
            None => resp::push(out, b""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_named_by_its_sha1_in_hex() {
        assert_eq!(&Script::new("return 1").sha1[..], b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
