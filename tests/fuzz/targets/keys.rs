#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "other targets have the rest")]
mod properties;

use properties::Pairs;

libfuzzer_sys::fuzz_target!(|input: ((&[u8], Pairs<'_>), (&[u8], Pairs<'_>))| properties::keys(input.0, input.1));
