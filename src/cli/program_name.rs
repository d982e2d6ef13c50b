//! The program in the place of envoyproxy/ratelimit: under its name, `ratelimit`.
//!
//! envoyproxy/ratelimit reads no arguments, and deployments pass some that it does not know. An error would keep them
//! from starting.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::settings;

/// Name of the program of envoyproxy/ratelimit.
const RATELIMIT: &str = "ratelimit";
/// Arguments other than settings, which keep their meaning.
const COMMON: [&str; 4] = ["-h", "--help", "-V", "--version"];

/// True if the program was started as `ratelimit`, through a link or a copy.
pub(super) fn is_ratelimit(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == RATELIMIT)
}

/// The arguments that `serve` takes: the flags of settings, with their values. The others are returned beside them, by
/// name only, as their values may be secrets.
pub(super) fn serve_arguments(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<String>) {
    let (mut known, mut ignored) = (vec![OsString::from("serve")], Vec::new());
    let flags: Vec<_> = settings::table().into_iter().map(|row| row.flag).collect();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let (flag, has_value) = text.split_once('=').map_or((text.as_str(), false), |(flag, _)| (flag, true));
        if COMMON.contains(&flag) {
            return (vec![argument], Vec::new());
        }
        if !flags.iter().any(|known| known == flag) {
            ignored.push(flag.to_owned());
            continue;
        }
        known.push(argument);
        if !has_value {
            known.extend(arguments.next_if(|next| !next.as_encoded_bytes().starts_with(b"-")));
        }
    }
    (known, ignored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> (Vec<String>, Vec<String>) {
        let (known, ignored) = serve_arguments(arguments.iter().map(OsString::from));
        (known.iter().map(|argument| argument.to_string_lossy().into_owned()).collect(), ignored)
    }

    #[test]
    fn the_name_is_the_last_part_of_the_path() {
        for (program, expected) in [
            ("ratelimit", true),
            ("/bin/ratelimit", true),
            ("./ratelimit", true),
            ("/bin/tollgate", false),
            ("/ratelimit/tollgate", false),
            ("ratelimit_config_check", false),
            ("", false),
        ] {
            assert_eq!(is_ratelimit(OsStr::new(program)), expected, "{program}");
        }
    }

    #[test]
    fn settings_are_kept_and_all_else_is_ignored_by_name() {
        for (arguments, known, ignored) in [
            (&[][..], &["serve"][..], &[][..]),
            (&["--quotaRateLimitServiceAddr=a:1"], &["serve"], &["--quotaRateLimitServiceAddr"]),
            (&["--token", "secret"], &["serve"], &["--token", "secret"]),
            (&["--port=1", "x", "--grpc-port", "2"], &["serve", "--port=1", "--grpc-port", "2"], &["x"]),
            (&["--shadow-mode", "--unknown"], &["serve", "--shadow-mode"], &["--unknown"]),
            (&["check", "-v", "--version"], &["--version"], &[]),
        ] {
            let (known, ignored) =
                (known.iter().map(ToString::to_string), ignored.iter().map(ToString::to_string));
            assert_eq!(parsed(arguments), (known.collect(), ignored.collect()), "{arguments:?}");
        }
    }
}
