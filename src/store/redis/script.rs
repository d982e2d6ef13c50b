//! `charge.lua`, and the command that runs it.

use bytes::Bytes;
use fred::types::Value;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::batch::ScriptCall;
use super::wire::Command;

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

    /// The command that runs it.
    pub(super) fn command(&self, call: &ScriptCall, by_name: bool) -> Command {
        let (name, script) = match by_name {
            true => ("EVALSHA", self.sha1.clone()),
            false => ("EVAL", Bytes::from_static(self.text.as_bytes())),
        };
        let count = i64::try_from(call.keys.len()).unwrap_or(i64::MAX);
        let now = call.now.map(|now| now.as_micros().to_string()).unwrap_or_default();
        let mut arguments = Vec::with_capacity(call.keys.len() + 4);
        arguments.extend([Value::from(script), Value::from(count)]);
        arguments.extend(call.keys.iter().map(|key| Value::from(key.clone())));
        arguments.extend([Value::from(Bytes::copy_from_slice(&call.requests)), Value::from(now)]);
        Command::new(name, arguments)
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
