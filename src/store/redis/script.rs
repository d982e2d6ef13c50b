//! Scripts of charges, and the commands that run them.

use bytes::Bytes;
use fred::types::Value;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::batch::{ScriptCall, Shape};
use super::wire::Command;

/// A script, and the name that Redis gives it: the SHA-1 of its text.
#[derive(Debug)]
struct Script {
    text: &'static str,
    sha1: Bytes,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, sha1: sha1(text.as_bytes()) }
    }
}

/// The name of a script: the SHA-1 of its text, in hex.
pub(super) fn sha1(text: &[u8]) -> Bytes {
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, text);
    Bytes::from(sha1.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The scripts, in the order of [`Shape::ALL`].
#[derive(Debug)]
pub(super) struct Scripts([Script; Shape::ALL.len()]);

impl Scripts {
    pub(super) fn new() -> Self {
        Self(Shape::ALL.map(|shape| Script::new(shape.script())))
    }

    /// The command that carries out `call`, by the name of its script or by its text.
    pub(super) fn command(&self, call: &ScriptCall, by_name: bool) -> Command {
        let Self(scripts) = self;
        let script = &scripts[call.shape as usize];
        let (name, script) = match by_name {
            true => ("EVALSHA", script.sha1.clone()),
            false => ("EVAL", Bytes::from_static(script.text.as_bytes())),
        };
        let count = i64::try_from(call.keys.len()).unwrap_or(i64::MAX);
        let mut arguments = Vec::with_capacity(call.keys.len() + 5);
        arguments.extend([Value::from(script), Value::from(count)]);
        arguments.extend(call.keys.iter().map(|key| Value::from(key.clone())));
        arguments.extend(call.arguments().into_iter().map(Value::from));
        Command::new(name, arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_named_by_its_sha1_in_hex() {
        assert_eq!(&sha1(b"return 1")[..], b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
